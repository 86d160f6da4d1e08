"""The light tier's host: a libvirtd of its own, run by an ordinary user, needing no privilege.

Layer: lab. Everything of it is below one directory: configuration, sockets, state and a private
copy of the libvirtd binary (sbin/libvirtd), so that a test may kill, freeze, replace and restart it
as it likes. Invariants: the machine's own libvirt (qemu:///system, /etc/libvirt, /var/lib/libvirt)
is never touched; as root the daemon runs as an ordinary user without capabilities, since a libvirtd
of root would be the system's. Effects: processes and files of that directory.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.capabilities import give, keep
from lab.errors import CannotRun, LabError
from lab.host import Host
from lab.images import Images
from lab.processes import ProcessId, all_processes, command_line, lives_in, read_pid_file
from lab.runtime import make_runtime_directory
from lab.state import HostRecord, LabDirectory
from lab.tools import SYSTEM_PATH
from lab.users import as_ordinary_user, ordinary_user

LIBVIRTD = Path("/usr/sbin/libvirtd")

LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
log_outputs = "2:file:{directory}/libvirtd.log"
"""

QEMU_CONF = """\
# Without virtlogd: one process less that could outlive the host.
stdio_handler = "file"
"""


class LightHost(Host):
    """One libvirtd of an ordinary user, and its guests."""

    def __init__(self, directory: LabDirectory, record: HostRecord, accelerator: str) -> None:
        super().__init__(directory, record, accelerator)
        self._runtime = self.directory / "r"
        self._config = self.directory / "c" / "libvirt"
        self._capabilities = self.directory / "k" / "libvirt" / "qemu" / "cache" / "capabilities"

    @property
    def uri(self) -> str:
        return f"qemu:///session?socket={self.socket}"

    @property
    def socket(self) -> Path:
        return self._runtime / "libvirt" / "libvirt-sock"

    @property
    def move_uri(self) -> str:
        return f"qemu+unix:///session?socket={self.socket}"

    @property
    def pid_file(self) -> Path:
        """libvirtd's pid file, beside its socket."""
        return self._runtime / "libvirt" / "libvirtd.pid"

    @property
    def libvirtd_binary(self) -> Path:
        """This host's own copy of the daemon."""
        return self.directory / "sbin" / "libvirtd"

    @property
    def config_directory(self) -> Path:
        """Where libvirtd.conf and qemu.conf are; changes count after restart_libvirtd."""
        return self._config

    @property
    def env(self) -> dict[str, str]:
        home = str(self.directory)
        return {
            "HOME": home,
            "HALAB_HOST": home,
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self._runtime),
            "XDG_CONFIG_HOME": str(self.directory / "c"),
            "XDG_CACHE_HOME": str(self.directory / "k"),
            "XDG_DATA_HOME": str(self.directory / "d"),
            "LIBVIRT_DEFAULT_URI": self.uri,
        }

    def command(self, arguments: Sequence[str]) -> list[str]:
        return as_ordinary_user(arguments)

    def prepare(self, images: Images) -> None:
        if not LIBVIRTD.exists():
            raise CannotRun(f"{LIBVIRTD} is missing: install libvirt-daemon")
        self.directory.mkdir(parents=True, exist_ok=True)
        make_runtime_directory(self._runtime)
        parts = (self._config, self._capabilities, self.directory / "d")
        shared = (self.guest_directory, self.move_directory)
        for part in (*parts, *shared, self.libvirtd_binary.parent):
            part.mkdir(parents=True, exist_ok=True)
        settings = LIBVIRTD_CONF.format(uuid=self.uuid, directory=self.directory)
        (self._config / "libvirtd.conf").write_text(settings)
        (self._config / "qemu.conf").write_text(QEMU_CONF)
        self.replace_libvirtd_binary()
        self.make_disks(images)
        give(self.libvirtd_binary, self._capabilities)
        self._give_to_ordinary_user()

    def finish(self) -> None:
        keep(self._capabilities)

    def _give_to_ordinary_user(self) -> None:
        uid, gid = ordinary_user()
        self._runtime.chmod(0o700)
        os.chown(self._runtime, uid, gid)
        for top in (self.directory, self.guest_directory, self.move_directory):
            for path in (top, *top.rglob("*")):
                os.chown(path, uid, gid, follow_symlinks=False)

    def replace_libvirtd_binary(self) -> None:
        """Put a fresh copy of the daemon in place of the host's own, as a package update does.

        The running one keeps the old file, now deleted, until it is restarted.
        """
        fresh = self.libvirtd_binary.with_suffix(".new")
        shutil.copy2(LIBVIRTD, fresh)
        fresh.rename(self.libvirtd_binary)

    def libvirtd(self) -> ProcessId | None:
        process = read_pid_file(self.pid_file)
        return process if process is not None and lives_in(process, self.directory) else None

    def start_libvirtd(self) -> None:
        if self.libvirtd() is None:
            command = self.command([str(self.libvirtd_binary), "--daemon"])
            done = subprocess.run(
                command,
                env=self.env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            if done.returncode != 0:
                raise LabError(f"libvirtd of {self.name} did not start: {done.stderr.strip()}")
        process = self.libvirtd()
        if process is not None:
            self.note(process, "libvirtd")
        self.wait_answering()

    def qemu_processes(self) -> list[ProcessId]:
        return [
            process
            for process in all_processes()
            if any(word.startswith("guest=") for word in command_line(process))
            and lives_in(process, self.directory)
        ]

    def qemu_process(self, guest: str) -> ProcessId | None:
        file = self._runtime / "libvirt" / "qemu" / "run" / f"{guest}.pid"
        process = read_pid_file(file)
        return process if process is not None and lives_in(process, self.directory) else None

    def port_directory(self, short_name: str) -> Path:
        return self._config / "qemu" / "channel" / "target" / f"domain-{short_name}"

    def definition_file(self, guest: str) -> Path:
        return self._config / "qemu" / f"{guest}.xml"
