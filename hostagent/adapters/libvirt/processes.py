"""The QEMU process of a guest and the socket of its monitor, found without asking libvirt.

Layer: adapters; reads /proc and libvirt's run directory, changes nothing. libvirt has no call for
either; both are needed when it is dead or hangs. The pid is that of the pid file that libvirt
wrote (RUN/qemu/NAME.pid, a user's own: RUN/qemu/run/NAME.pid), believed only if that process was
started with this guest's UUID. The monitor's path is not on QEMU's command line (libvirt passes an
open socket): it is the listening socket /domain-ID-NAME/monitor.sock among the process's own, or,
where those may not be seen (another user's, without CAP_SYS_PTRACE), what libvirt's record says.
Errors: none; what can't be found is absent.
"""

import os
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

from hostagent.adapters.host.processes import identify
from hostagent.core.model import Process

_LISTENING = 0x00010000
"""SO_ACCEPTCON, the flag of a listening socket in /proc/net/unix (proc(5))."""

_FD = re.compile(r"socket:\[(\d+)\]")


class Processes:
    """Looks processes up for one reading of a host; sockets are read once a network namespace."""

    def __init__(self, run: Path) -> None:
        self._directories = (run / "qemu" / "run", run / "qemu")
        self._sockets: dict[int, list[tuple[int, str]]] = {}

    def of(self, name: str, uuid: str, domain_id: int) -> Process | None:
        """The process of this guest in its present incarnation."""
        for directory in self._directories:
            pid = _pid(directory / f"{name}.pid")
            if pid is None or not _is_of(pid, uuid):
                continue
            found = identify(pid)
            if found is not None:
                return Process(domain_id=domain_id, pid=pid, start_ticks=found.start_ticks)
        return None

    def monitor(self, name: str, process: Process) -> str:
        """The path of libvirt's monitor of this process; empty if it can't be found."""
        try:
            return self._held_monitor(process)
        except PermissionError:
            told = (_told_monitor(place / f"{name}.xml", process) for place in self._directories)
            return next(filter(None, told), "")
        except OSError:
            return ""

    def _held_monitor(self, process: Process) -> str:
        marker = f"/domain-{process.domain_id}-"
        candidates = {
            inode: path
            for inode, path in self._listening(process.pid)
            if path.endswith("/monitor.sock") and marker in path
        }
        held = _inodes(process.pid) if candidates else set()
        return next((path for inode, path in candidates.items() if inode in held), "")

    def _listening(self, pid: int) -> list[tuple[int, str]]:
        namespace = Path(f"/proc/{pid}/ns/net").stat().st_ino
        if namespace not in self._sockets:
            table = Path(f"/proc/{pid}/net/unix").read_text(errors="surrogateescape")
            self._sockets[namespace] = _parse(table)
        return self._sockets[namespace]


def _parse(table: str) -> list[tuple[int, str]]:
    """Inode and path of each listening socket that has a path."""
    found = []
    for line in table.splitlines()[1:]:
        # Num: RefCount Protocol Flags Type St Inode Path; the path may hold blanks
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & _LISTENING:
            found.append((int(fields[6]), fields[7]))
    return found


def _told_monitor(status: Path, process: Process) -> str:
    """The monitor in libvirt's own record of a running guest (<domstatus pid=...>, then <monitor
    path=...>), if it is of this process."""
    try:
        with status.open("rb") as file:
            for _, element in ET.iterparse(file, events=("start",)):  # noqa: S314 (libvirt's own)
                if element.tag == "domstatus" and element.get("pid") != str(process.pid):
                    return ""
                if element.tag == "monitor":
                    return str(element.get("path", ""))
    except (OSError, ET.ParseError):
        return ""
    return ""


def _pid(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _is_of(pid: int, uuid: str) -> bool:
    """Whether this process was started as that guest."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return (b"-uuid", uuid.encode()) in pairwise(words)


def _inodes(pid: int) -> set[int]:
    """The inodes of the sockets that this process holds."""
    directory = f"/proc/{pid}/fd"
    inodes = set()
    for name in os.listdir(directory):  # noqa: PTH208 (Path objects cost more than the reading)
        try:
            socket = _FD.fullmatch(os.readlink(f"{directory}/{name}"))  # noqa: PTH115 (as above)
        except OSError:
            continue
        if socket:
            inodes.add(int(socket[1]))
    return inodes
