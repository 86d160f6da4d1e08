"""What both sorts of host have in common: names, guests, libvirtd's process, and how it is treated.

Layer: lab. Invariant: a host is reached through this interface only, so a test or a benchmark runs
on either tier. Effects: on the host's own libvirtd and guests, never on the machine's.
"""

import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from lab.calls import connection, within
from lab.definition import GuestSort, GuestSpec
from lab.errors import LabError
from lab.guests import Guest
from lab.images import Images
from lab.processes import ProcessId, wait_until
from lab.state import HostRecord, LabDirectory
from lab.tools import run


class Host(ABC):
    """One host of a lab."""

    def __init__(self, directory: LabDirectory, record: HostRecord, accelerator: str) -> None:
        self._lab = directory
        self.name = record.name
        self.uuid = record.uuid
        self.accelerator = accelerator
        self.directory = Path(record.directory)
        self.guests: list[Guest] = []
        self.everyone: list[Guest] = self.guests
        """The guests of all hosts of the lab: any of them may come here."""
        self.move_directory = directory.path / "m"
        """Where guests on their way between light hosts have their sockets; all may write there."""

    def __repr__(self) -> str:
        return f"<host {self.name} at {self.directory}>"

    @property
    def guest_directory(self) -> Path:
        """Where files of guests are: one directory for all hosts, so that a guest finds its disk
        at the same path wherever it runs."""
        return self._lab.path / "g"

    @property
    @abstractmethod
    def uri(self) -> str:
        """The libvirt URI, usable from the machine itself."""

    @property
    @abstractmethod
    def socket(self) -> Path:
        """libvirtd's socket, as a path on the machine itself."""

    @property
    @abstractmethod
    def env(self) -> dict[str, str]:
        """The environment for a program that is to work on this host."""

    @abstractmethod
    def prepare(self, images: Images) -> None:
        """Make the host's files, before anything of it runs."""

    def finish(self) -> None:  # noqa: B027 most hosts have nothing to do
        """Called once all guests have booted."""

    @abstractmethod
    def command(self, arguments: Sequence[str]) -> list[str]:
        """The words that run a command on this host, in `env`."""

    @abstractmethod
    def qemu_process(self, guest: str) -> ProcessId | None:
        """The QEMU of a guest, found without libvirt."""

    @abstractmethod
    def port_directory(self, short_name: str) -> Path:
        """Where libvirt puts the sockets of a guest that it calls this (ID-NAME) while it runs."""

    @abstractmethod
    def definition_file(self, guest: str) -> Path:
        """Where libvirt keeps the definition of a guest of that name, as a path on the machine."""

    @property
    @abstractmethod
    def move_uri(self) -> str:
        """The libvirt URI by which another host of the lab reaches this one."""

    @abstractmethod
    def qemu_processes(self) -> list[ProcessId]:
        """Every QEMU of this host, whether it belongs to one of its guests or not."""

    @abstractmethod
    def libvirtd(self) -> ProcessId | None:
        """The host's libvirtd, or None when it is dead; found without asking it."""

    @abstractmethod
    def start_libvirtd(self) -> None:
        """Start libvirtd and wait until it answers; nothing when it runs."""

    def make_disks(self, images: Images) -> None:
        """Give each guest that has a disk its own overlay over the image in the cache."""
        for guest in self.guests:
            if guest.sort is GuestSort.DISK:
                disk = self.disk_path(guest.spec)
                disk.parent.mkdir(parents=True, exist_ok=True)
                base = ("-b", images.disk, "-F", "qcow2")
                run("qemu-img", "create", "-q", "-f", "qcow2", *base, disk, home=self.directory)

    def disk_path(self, spec: GuestSpec) -> Path:
        """A guest's disk, as a path on the machine itself."""
        if spec.local_disk:
            raise LabError(f"{spec.name}: light hosts share all files, no disk is of one alone")
        return self.guest_directory / f"{spec.name}.qcow2"

    @property
    @abstractmethod
    def libvirtd_binary(self) -> Path:
        """The file that this host's libvirtd is started from, as a path on the machine itself."""

    @abstractmethod
    def replace_libvirtd_binary(self) -> None:
        """Put a fresh copy of libvirtd in place of the one that runs; it counts from a restart."""

    def note(self, process: ProcessId, role: str) -> None:
        """Put a process on the lab's record."""
        self._lab.record(process, f"{self.name}-{role}")

    def guest(self, name: str) -> Guest:
        """A guest by name."""
        for guest in self.guests:
            if guest.name == name:
                return guest
        raise LabError(f"{self.name} has no guest {name}")

    def libvirtd_pid(self) -> int:
        """The pid of libvirtd; LabError when it is dead."""
        process = self.libvirtd()
        if process is None:
            raise LabError(f"libvirtd of {self.name} is dead")
        return process.pid

    def kill_libvirtd(self, number: int = signal.SIGKILL) -> None:
        """Send libvirtd a signal that ends it, and wait until it is gone; guests go on."""
        process = self.libvirtd()
        if process is None:
            return
        process.send(number)
        wait_until(lambda: not process.alive(), 20, f"end of libvirtd of {self.name}")

    def freeze(self) -> None:
        """SIGSTOP to libvirtd: one that hangs."""
        self._signal_libvirtd(signal.SIGSTOP)
        wait_until(self.frozen, 5, f"stop of libvirtd of {self.name}")

    def thaw(self) -> None:
        """SIGCONT to libvirtd."""
        self._signal_libvirtd(signal.SIGCONT)
        wait_until(lambda: not self.frozen(), 5, f"thaw of libvirtd of {self.name}")

    def frozen(self) -> bool:
        """Whether libvirtd is stopped by a signal."""
        process = self.libvirtd()
        return process is not None and process.state() == "T"

    def _signal_libvirtd(self, number: int) -> None:
        process = self.libvirtd()
        if process is None or not process.send(number):
            raise LabError(f"libvirtd of {self.name} is dead")

    def restart_libvirtd(self) -> None:
        """Stop libvirtd in an orderly way and start it again."""
        self.kill_libvirtd(signal.SIGTERM)
        self.start_libvirtd()

    def answers(self, timeout_s: float = 5) -> bool:
        """Whether libvirtd answers a call."""
        try:
            with connection(self.uri, timeout_s) as conn:
                return within(timeout_s, "asking libvirtd", conn.getLibVersion) > 0
        except LabError:
            return False

    def wait_answering(self, timeout_s: float = 30) -> None:
        """Wait until libvirtd answers."""
        wait_until(lambda: self.answers(1), timeout_s, f"libvirtd of {self.name}")

    def restore(self) -> None:
        """Bring host and guests back to how they were handed out, whatever a test did to them."""
        restore_all([self], self.guests)

    def put_right(self) -> None:
        """Its libvirtd runs and answers."""
        if self.frozen():
            self.thaw()
        self.start_libvirtd()

    def remove_left_sockets(self) -> None:
        """Take away what moves left; libvirt leaves the socket of every move that failed."""
        if self.move_directory.exists():
            for path in self.move_directory.iterdir():
                path.unlink(missing_ok=True)


def restore_all(hosts: Sequence[Host], guests: Sequence[Guest]) -> None:
    """Bring hosts and guests back to how they were handed out, whatever a test did to them."""
    for host in hosts:
        host.put_right()
    for guest in guests:
        guest.restore()
    counted = [(guest, guest.counter()) for guest in guests if not guest.spec.off]
    for guest, count in counted:
        guest.wait_counting(since=count)
    for host in hosts:
        host.remove_left_sockets()
