"""What an operator should know of a move beforehand, though it stops nothing.

Layer: rules; pure. The other half of rules/move_checks: the table `_WARNINGS` says which counts for
which methods; what is of two hosts, and not of one guest, is told once (`warnings_between`). Each
is a sentence, with what follows from it. Deliberately absent: the doubts about the way itself
(`Destination.doubts`).
"""

from collections.abc import Collection, Iterator

from hostagent.core.durations import written
from hostagent.core.move import Destination, Method, Movable, MoveHost
from hostagent.rules.move_checks import (
    ARRIVES,
    RUNS_THERE,
    Checks,
    Move,
    found_by,
    move_of,
    rooms,
    version,
)
from hostagent.rules.move_ladder import Found
from hostagent.rules.move_room import needed_kib, size

MS = 1_000_000

CLOCKS_APART_NS = 128 * MS
"""ntpd steps a clock that is further off than this (its step threshold). A guest's clock is set to
its new host's after the move, and would be stepped by as much."""


def warnings(
    guest: Movable,
    source: MoveHost,
    destination: Destination,
    method: Method,
    *,
    own_copies: Collection[str] = (),
) -> tuple[str, ...]:
    """What an operator should know beforehand though it stops nothing."""
    if method not in ARRIVES:
        return ()
    move = move_of(guest, source, destination, method, own_copies)
    return tuple(f"{reason}; {advice}" for reason, advice in found_by(_WARNINGS, move))


def warnings_between(source: MoveHost, destination: Destination) -> tuple[str, ...]:
    """What is worth knowing of these two hosts, whoever moves."""
    there = destination.host
    found = (*_clocks(source, there), *_older_libvirt(source, there))
    return tuple(f"{reason}; {advice}" for reason, advice in found)


def _clocks(source: MoveHost, there: MoveHost) -> Iterator[Found]:
    here_ns, there_ns = source.clock_ahead_ns, there.clock_ahead_ns
    if here_ns is None or there_ns is None:
        yield (
            f"how far the clocks of {source.name} and {there.name} differ is not known",
            "look at both hosts' time daemons: guests go on with the time of their new host",
        )
        return
    apart_ns = there_ns - here_ns
    unsure_ns = source.clock_uncertainty_ns + there.clock_uncertainty_ns
    if abs(apart_ns) - unsure_ns > CLOCKS_APART_NS:
        side = "ahead of" if apart_ns > 0 else "behind"
        yield (
            f"the clock of {there.name} is {written(abs(apart_ns))} {side} that of {source.name}",
            "those of guests jump by as much: put the hosts' clocks right first",
        )


def _older_libvirt(source: MoveHost, there: MoveHost) -> Iterator[Found]:
    if there.libvirt < source.libvirt:
        yield (
            f"{there.name} has libvirt {version(there.libvirt)}, which is older than "
            f"{version(source.libvirt)} on {source.name}",
            "it refuses a definition that it does not understand, before the guest is touched",
        )


def _few_cpus(move: Move) -> Iterator[Found]:
    if move.guest.cpus > move.there.cpus:
        yield (
            f"it has {move.guest.cpus} CPUs, and {move.there.name} has {move.there.cpus}",
            "it will be slower there",
        )


def _stays_frozen(move: Move) -> Iterator[Found]:
    if move.guest.frozen:
        yield (
            "its file systems are frozen (a backup?), and stay so",
            f"whoever froze them has to thaw them on {move.there.name}",
        )


def _no_agent(move: Move) -> Iterator[Found]:
    if not move.guest.agent:
        yield (
            "it has no guest agent, so it can only be shut down by its power button",
            "one that ignores it stays here and runs on",
        )


def _unseen(move: Move) -> Iterator[Found]:
    sources = {disk.source for disk in move.written}
    for what in move.fit.unknown:
        if what not in sources:
            yield (
                f"{move.there.name} could not be asked about {what}",
                "where that does not fit libvirt refuses the move, and the guest runs on here",
            )


def _may_grow(move: Move) -> Iterator[Found]:
    for room, disks in rooms(move):
        most = sum(disk.capacity_kib for disk in disks)
        if sum(map(needed_kib, disks)) <= room.free_kib < most:
            yield (
                f"its disks may grow to {size(most)} in {room.name or room.path} on "
                f"{move.there.name}, where {size(room.free_kib)} are left",
                "a guest whose disk can't grow is paused with an I/O error",
            )


_WARNINGS: Checks = (
    (_few_cpus, RUNS_THERE),
    (_stays_frozen, frozenset({Method.LIVE})),
    (_no_agent, frozenset({Method.COLD})),
    (_unseen, frozenset({Method.LIVE})),
    (_may_grow, ARRIVES),
)
