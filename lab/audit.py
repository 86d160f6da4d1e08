"""What must be true of hosts whenever nothing is going on: looked at after each test.

Layer: lab, above hosts. Invariants: it looks without libvirt wherever it can (QEMU's own monitor,
/proc), changes nothing, and returns what it found as sentences; an empty list is a pass. What a
test meant to leave behind is declared beforehand, guest by guest.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lab.errors import LabError
from lab.guests import Guest
from lab.host import Host
from lab.lab import Lab
from lab.processes import (
    POLL_S,
    ProcessId,
    all_processes,
    command_line,
    environment,
    kill_all,
)

SETTLE_S = 1.0
"""A look at a guest may fall into the moment of its resume: the second look counts."""

MARK = "HALAB_TEST"
"""Environment variable by which processes that a test started are known, also orphans of it."""


@dataclass(slots=True, kw_only=True)
class Expected:
    """What a test declares to leave as it is: names of guests and of hosts."""

    paused: set[str] = field(default_factory=set)
    frozen: set[str] = field(default_factory=set)
    libvirtd_dead: set[str] = field(default_factory=set)


def findings(host: Host, expected: Expected) -> list[str]:
    """What is wrong with a host, after giving it a moment to settle."""
    return _settled(lambda: _look(host, expected), SETTLE_S)


def findings_of_moves(lab: Lab) -> list[str]:
    """What is wrong with a lab as a whole, after giving it a moment to settle: each guest has to be
    in one place, with nothing left of a move."""
    return _settled(lambda: _look_for_copies(lab) + _left_sockets(lab), SETTLE_S)


def _look_for_copies(lab: Lab) -> list[str]:
    found = []
    for guest in lab.guests:
        where = guest.where()
        if len(where.running) > 1:
            found.append(f"{guest.name} runs on {' and '.join(where.running)}")
        if where.waiting:
            found.append(
                f"a QEMU is left on {' and '.join(where.waiting)} of a move of {guest.name}"
            )
        if set(where.active) - set(where.running) - set(where.waiting):
            found.append(f"libvirt of {' and '.join(where.active)} calls {guest.name} active")
        if len(where.defined) > 1:
            found.append(f"{guest.name} is defined on {' and '.join(where.defined)}")
        if not where.defined and not guest.spec.transient:
            found.append(f"{guest.name} is defined nowhere")
        if guest.spec.transient and where.defined:
            found.append(f"{guest.name} was transient and is defined on {where.defined[0]}")
        if len(where.defined) == len(where.running) == 1 and where.defined != where.running:
            found.append(
                f"{guest.name} runs on {where.running[0]} and is defined on {where.defined[0]}"
            )
    return found


def _left_sockets(lab: Lab) -> list[str]:
    """Sockets over which guests were moved."""
    places = {host.move_directory for host in lab.hosts}
    left = [path for place in places if place.exists() for path in place.iterdir()]
    return [f"{path} was left by a move" for path in left]


def _settled(look: Callable[[], list[str]], within_s: float) -> list[str]:
    """What a look finds, repeated until it finds nothing or the time is over."""
    deadline = time.monotonic() + within_s
    found = look()
    while found and time.monotonic() < deadline:
        time.sleep(POLL_S)
        found = look()
    return found


def _look(host: Host, expected: Expected) -> list[str]:
    found = [] if host.name in expected.libvirtd_dead else _look_at_libvirtd(host)
    for guest in host.guests:
        found += _look_at_guest(guest, expected)
    found += _copies(host)
    return found


def _look_at_libvirtd(host: Host) -> list[str]:
    if host.libvirtd() is None:
        return [f"libvirtd of {host.name} is dead"]
    if host.frozen():
        return [f"libvirtd of {host.name} is stopped by a signal"]
    return [] if host.answers() else [f"libvirtd of {host.name} does not answer"]


def _look_at_guest(guest: Guest, expected: Expected) -> list[str]:
    """Nobody may be paused, nor its QEMU stopped, unless the test said so."""
    if guest.frozen():
        said = guest.name in expected.frozen
        return [] if said else [f"QEMU of {guest.name} is stopped by a signal"]
    try:
        status = guest.status()
    except LabError as error:
        return [f"{guest.name}: {error}"]
    if status == "paused" and guest.name not in expected.paused:
        return [f"{guest.name} is paused"]
    return []


def _copies(host: Host) -> list[str]:
    """There is no QEMU that is not the one of a guest of the lab."""
    here = [process for guest in host.everyone for process in guest.qemus()]
    owned = {process for place, process in here if place is host}
    stray = [process for process in host.qemu_processes() if process not in owned]
    return [f"QEMU {process.pid} on {host.name} belongs to no guest" for process in stray]


def left_processes(mark: str, directory: Path, within_s: float = 5) -> list[str]:
    """Processes that a test left behind; they are ended, so that the next test is not disturbed.

    Known by the mark in their environment or by the test's directory in their arguments. Some time
    is given, since a guardian looks around once more before it ends.
    """

    def look() -> list[str]:
        return [
            f"process {process.pid} was left behind: {' '.join(command_line(process))[:200]}"
            for process in _marked(mark, directory)
        ]

    found = _settled(look, within_s)
    if found:
        kill_all(_marked(mark, directory))
    return found


def _marked(mark: str, directory: Path) -> list[ProcessId]:
    return [
        process
        for process in all_processes()
        if environment(process).get(MARK) == mark
        or any(str(directory) in word for word in command_line(process))
    ]
