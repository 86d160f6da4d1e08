"""Where a guest is: on which host of its lab, and in which QEMU.

Layer: lab; part of Guest. A guest is made on one host, its home, and may be moved to another; what
is asked of it is then asked there. Invariant: its place is found without libvirt and without
hostagent, in /proc and in the files of libvirt, so it can be judged while any libvirtd is dead or
frozen. On its way a guest has two QEMUs; the one that executes counts, by QEMU's own word.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import libvirt

from lab.calls import connection, within
from lab.definition import Ports
from lab.errors import LabError
from lab.processes import ProcessId, command_line
from lab.qmp import ask

ARRIVING, GONE_ON = "inmigrate", "postmigrate"
"""QEMU's words for one that waits for a guest to arrive, and for one that a guest has left."""

_ASK_S = 0.5


class Home(Protocol):
    """What a guest needs of a host."""

    name: str
    accelerator: str

    @property
    def uri(self) -> str:
        """The libvirt URI, usable from the machine itself."""

    @property
    def guest_directory(self) -> Path:
        """Where files of guests are; the same for all hosts of a lab."""

    def port_directory(self, short_name: str) -> Path:
        """Where libvirt puts the sockets of a guest that it calls this (ID-NAME) while it runs."""

    def qemu_process(self, guest: str) -> ProcessId | None:
        """The QEMU of a guest, found without libvirt."""

    def definition_file(self, guest: str) -> Path:
        """Where libvirt keeps the definition of a guest of that name."""

    def note(self, process: ProcessId, role: str) -> None:
        """Put a process on the lab's record."""


class _Known(Protocol):
    """Calls that the project's libvirt types leave out."""

    def isActive(self) -> int: ...

    def isPersistent(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Names of hosts. `running`: its QEMU is there and has the guest, paused or not. `waiting`: a
    QEMU is there into which it was to be moved, or out of which it has been. `active` and `defined`
    are libvirt's word (of a libvirtd that does not answer: by its files, `active` by QEMU)."""

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    active: tuple[str, ...]
    defined: tuple[str, ...]


class Placed(ABC):
    """The place of a guest among its lab's hosts."""

    home: Home
    uuid: str
    fleet: Sequence[Home]

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in libvirt."""

    @property
    def host(self) -> Home:
        """The host that it is on now: where it runs, else where it is defined, else its home."""
        found = self._foremost()
        if found is not None:
            return found[0]
        hosts = [self.home, *(host for host in self.fleet if host is not self.home)]
        return next((host for host in hosts if self.has_definition_on(host)), self.home)

    @property
    def ports(self) -> Ports:
        """Its sockets where it runs; paths to nothing while it is off."""
        found = self._foremost()
        if found is None:
            return Ports(directory=self.home.port_directory(f"off-{self.name}"))
        return _ports(*found)

    def ports_on(self, host: Home) -> Ports:
        """Its sockets on that host; paths to nothing while it has no QEMU there."""
        process = self.qemu_on(host)
        if process is None:
            return Ports(directory=host.port_directory(f"off-{self.name}"))
        return _ports(host, process)

    def qemu(self) -> ProcessId | None:
        """Its QEMU, or None when it is off."""
        found = self._foremost()
        return None if found is None else found[1]

    def qemu_on(self, host: Home) -> ProcessId | None:
        """Its QEMU on that host, be it that the guest is in it, was in it, or is to arrive."""
        process = host.qemu_process(self.name)
        words = () if process is None else command_line(process)
        return process if not words or self.uuid in words else None

    def qemus(self) -> list[tuple[Home, ProcessId]]:
        """All its QEMUs, each with its host."""
        found = [(host, self.qemu_on(host)) for host in self.fleet]
        return [(host, process) for host, process in found if process is not None]

    def has_definition_on(self, host: Home) -> bool:
        """Whether libvirt's files of that host have it defined."""
        with suppress(OSError):
            return f"<uuid>{self.uuid}</uuid>" in host.definition_file(self.name).read_text()
        return False

    def hosts_running(self) -> list[str]:
        """Names of the hosts on which it runs, paused or not: never more than one, if all is well.

        A QEMU that only waits for it to arrive does not count, nor one that it has left.
        """
        return list(self.where().running)

    def where(self) -> Where:
        """Where it runs and where it is defined, over all hosts of its lab."""
        words = {host.name: _status(host, process) for host, process in self.qemus()}
        waiting = tuple(name for name, word in words.items() if word in (ARRIVING, GONE_ON))
        known = {host.name: self._libvirts_word(host) for host in self.fleet}
        return Where(
            running=tuple(name for name in words if name not in waiting),
            waiting=waiting,
            active=tuple(name for name, (active, _) in known.items() if active),
            defined=tuple(name for name, (_, defined) in known.items() if defined),
        )

    def _libvirts_word(self, host: Home) -> tuple[bool, bool]:
        """Whether it is active, and defined, on that host."""
        try:
            with connection(host.uri, timeout_s=2) as conn:
                return within(2, f"look-up of {self.name}", partial(_known, conn, self.uuid))
        except LabError as error:
            if "Domain not found" in str(error):
                return False, False
            return self.qemu_on(host) is not None, self.has_definition_on(host)

    def _foremost(self) -> tuple[Home, ProcessId] | None:
        """The QEMU that is the guest, where there are two: the one that executes, else the one
        that it has not left and is not only to arrive in."""
        found = self.qemus()
        if len(found) < 2:
            return found[0] if found else None
        return min(found, key=lambda place: _rank(_status(*place)))


def _known(conn: libvirt.virConnect, uuid: str) -> tuple[bool, bool]:
    """Whether it is active, and defined. libvirtError when it is unknown, be it by the last look: a
    guest that is being taken away may be gone between two."""
    domain = cast(_Known, conn.lookupByUUIDString(uuid))
    return domain.isActive() == 1, domain.isPersistent() == 1


def _ports(host: Home, process: ProcessId) -> Ports:
    """The sockets of a QEMU: libvirt's short name of its guest stands in its own arguments."""
    for word in command_line(process):
        _, found, rest = word.partition("/domain-")
        if found and "/master-key" in rest:
            return Ports(directory=host.port_directory(rest.partition("/")[0]))
    return Ports(directory=host.port_directory("unknown"))


def _status(host: Home, process: ProcessId) -> str:
    """QEMU's own word for its state; empty where it does not answer."""
    try:
        return str(ask(_ports(host, process).monitor, "query-status", _ASK_S)["status"])
    except (OSError, EOFError, LabError):
        return ""


def _rank(status: str) -> int:
    return {"running": 0, GONE_ON: 2, ARRIVING: 3}.get(status, 1)
