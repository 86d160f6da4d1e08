"""Who the libvirt daemon behind a socket is, and whether QEMU may be driven without it.

Layer: adapters; reads /proc and files, changes nothing. Everything here is read while the daemon
is healthy, for the moment when it is not: its pid is that of the pid file beside its socket
(never the socket's peer: under socket activation that is systemd), and its configuration is found
through its own environment, since a URI does not name it. Errors: none; what can't be read makes
the answer "unknown" or "not allowed, because".
"""

import errno
import os
import pwd
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from hostagent.adapters.host.processes import identify
from hostagent.core.model import LibvirtDaemon, Qmp
from hostagent.guardian.process import program

NAMES = ("libvirtd", "virtqemud")
SYSTEM_CONFIGURATION = Path("/etc/libvirt/qemu.conf")
FREE_MANAGERS = frozenset({"", "nop"})
"""Values of lock_manager that take no lease on disks (qemu.conf's own comments)."""

_SETTING = re.compile(r"^\s*lock_manager\s*=\s*(?P<value>.*?)\s*(#.*)?$")
_QUOTED = re.compile(r"""^(?P<quote>["'])(?P<text>[^"']*)(?P=quote)$""")


def find(socket: Path) -> LibvirtDaemon | None:
    """The daemon that serves this socket, or None if it can't be told for sure."""
    for file, name in _pid_files(socket):
        daemon = _read(file, name)
        if daemon is not None:
            return daemon
    return None


def _pid_files(socket: Path) -> Iterator[tuple[Path, str]]:
    """Beside the socket (a user's own) or one level up (the system's, /run/libvirtd.pid)."""
    names = NAMES if not socket.name.startswith("virtqemud") else NAMES[::-1]
    for name in names:
        for directory in (socket.parent, socket.parent.parent):
            yield directory / f"{name}.pid", name


def _read(file: Path, name: str) -> LibvirtDaemon | None:
    """The process of a pid file, if it lives and is the program that the file is named after."""
    try:
        pid = int(file.read_text())
    except (OSError, ValueError):
        return None
    process = identify(pid)
    if process is None or program(pid) != name:
        return None
    return LibvirtDaemon(
        pid_file=str(file), exe=name, pid=process.pid, start_ticks=process.start_ticks
    )


def qmp(daemon: LibvirtDaemon | None, socket: Path) -> Qmp:
    """Whether a guest may be resumed behind this daemon's back.

    With a lock manager a guest resumed on its monitor would run without the lease on its disks,
    and the same disks could be opened elsewhere: then never, also when it can't be ruled out.
    """
    if daemon is None:
        return _no(f"the process of the libvirt daemon at {socket} could not be identified")
    try:
        file = configuration(daemon)
        text = _text(file)
    except OSError as error:
        may = ": run hostagent as the user of that libvirt, or with CAP_SYS_PTRACE"
        told = f"{error.filename}: {error.strerror}{may if error.errno == errno.EACCES else ''}"
        return _no(f"libvirt's qemu.conf could not be read: {told}")
    process = identify(daemon.pid)
    if process is None or process.start_ticks != daemon.start_ticks:
        return _no(f"the libvirt daemon at {socket} went away while its configuration was read")
    if text and _changed_since(file, daemon):
        return _no(f"{file} was changed after {daemon.exe} had read it: restart {daemon.exe}")
    return _judge(text, file)


def _text(file: Path) -> str:
    """The file's text; libvirt takes a missing one for an empty one."""
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _changed_since(file: Path, daemon: LibvirtDaemon) -> bool:
    """Whether the file is younger than the process, which read it when it started.

    A second of tolerance: ticks and file times are rounded differently.
    """
    started_s = daemon.start_ticks / os.sysconf("SC_CLK_TCK")
    daemon_age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    return time.time() - file.stat().st_mtime < daemon_age_s - 1


def _no(refusal: str) -> Qmp:
    return Qmp(allowed=False, refusal=refusal)


def _judge(text: str, file: Path) -> Qmp:
    for value in lock_managers(text):
        if value is None:
            return _no(f"lock_manager in {file} could not be understood")
        if value not in FREE_MANAGERS:
            return _no(f'lock_manager = "{value}" in {file}: guests hold leases on their disks')
    return Qmp(allowed=True)


def lock_managers(text: str) -> Iterator[str | None]:
    """Each setting of lock_manager in a qemu.conf; None for a value of no known form."""
    for line in text.splitlines():
        setting = _SETTING.match(line)
        if setting is None:
            continue
        quoted = _QUOTED.match(setting["value"])
        yield quoted["text"] if quoted else None


def configuration(daemon: LibvirtDaemon) -> Path:
    """The qemu.conf that this daemon reads, seen in its own root directory. Raises OSError.

    A daemon of root reads the system's; another user's looks where XDG_CONFIG_HOME or HOME of its
    own environment says (virGetUserConfigDirectory).
    """
    process = Path(f"/proc/{daemon.pid}")
    uid, gid = _effective(process, "Uid:"), _effective(process, "Gid:")
    if uid == 0:
        return _as_seen_by(process, SYSTEM_CONFIGURATION, uid, gid)
    environ = _environ(process, uid, gid)
    if home := environ.get("XDG_CONFIG_HOME"):
        directory = Path(home)
    else:
        directory = Path(environ.get("HOME") or _home(uid)) / ".config"
    return _as_seen_by(process, directory / "libvirt" / "qemu.conf", uid, gid)


def _effective(process: Path, what: str) -> int:
    """Second figure of this line (proc(5)); /proc's own owner is root's for some."""
    for line in (process / "status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[2])
    raise OSError(errno.EINVAL, f"no {what}", str(process / "status"))


def _as_seen_by(process: Path, path: Path, uid: int, gid: int) -> Path:
    """The plain path where the process has our own root directory, as on most hosts."""
    root, ours = process / "root", Path("/").stat()
    try:
        seen = root.stat()
        same = (seen.st_dev, seen.st_ino) == (ours.st_dev, ours.st_ino)
    except PermissionError as error:
        told = _as_user(uid, gid, error, "/usr/bin/stat", "-L", "-c", "%d:%i", f"{root}/.")
        same = told.split() == [f"{ours.st_dev}:{ours.st_ino}".encode()]
    return path if same else root / path.relative_to("/")


def _as_user(uid: int, gid: int, refused: PermissionError, *argv: str) -> bytes:
    """What a program run as this user prints. Root without CAP_SYS_PTRACE (in an ordinary
    container) may not look into another user's processes, but it may become that user. Raises
    what was refused before where it may not."""
    import subprocess  # only where it is needed: `status` must feel instant

    try:
        return subprocess.run(
            argv, user=uid, group=gid, extra_groups=(), capture_output=True, timeout=2, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        raise refused from None


def _environ(process: Path, uid: int, gid: int) -> Mapping[str, str]:
    file = process / "environ"
    try:
        raw = file.read_bytes()
    except PermissionError as error:
        raw = _as_user(uid, gid, error, "/usr/bin/cat", str(file))
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def _home(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        raise OSError(errno.ENOENT, "no home directory", f"user {uid}") from None
