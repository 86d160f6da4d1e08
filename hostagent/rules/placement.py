"""Which of several hosts each guest moves to, and why not to the others.

Layer: rules; pure. The biggest guests are placed first, each onto the host with the fewest members
of its availability set, and of those the one with the most memory left; where that leaves a guest
without a place, all are placed once more as tightly as possible, which may find one. A host is
looked at as it will be: with the guests on it, those that are on their way to it, and those placed
before in the same plan (`_filled`). So capacity, room for disks and availability sets are each read
in one place only.

Invariants: nobody is placed on a cordoned host, on one with an obstacle, or beyond what it can
spare; each guest has a place or all the reasons against each host; one without a place takes
nothing from the others; the result does not depend on the order of guests or hosts. Deliberately
absent: CPUs. Shared ones make guests slower, not wrong (a warning in rules/move_warnings), and what
the guests there use of theirs is not known.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hostagent.core.move import Destination, Disk, Movable, MoveHost, Resident
from hostagent.rules.move_ladder import Obstacle
from hostagent.rules.move_room import copied, memory_kib, needed_kib, room_of, size, spare_kib

Obstacles = Mapping[tuple[str, str], Sequence[Obstacle]]
"""By the guest's UUID and the destination's URI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a guest wants of the host that it moves to, or has reserved there. `memory_kib` is 0 for
    one that is shut off; `disks` are those that may have to be copied."""

    uuid: str
    name: str
    memory_kib: int = 0
    availability_set: str = ""
    disks: tuple[Disk, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A host to choose. `cordoned` is why it takes no new guests, empty if it does; `reserved` are
    guests that are on their way to it."""

    destination: Destination
    cordoned: str = ""
    reserved: tuple[Demand, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why a guest does not go to this host, as a sentence, and what would help."""

    uri: str
    host: str
    reason: str
    cure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What became of one guest: the host by its URI, or empty. `rejections` are of the hosts that
    could not have it; `beside` names guests of its availability set on the host that it got."""

    guest: Demand
    uri: str = ""
    rejections: tuple[Rejection, ...] = ()
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """All guests, in the order in which they were given."""

    places: tuple[Place, ...] = ()
    placed: Mapping[str, str] = field(default_factory=dict)

    def of(self, uuid: str) -> Place | None:
        """What became of this guest; None for one that was not asked about."""
        return next((place for place in self.places if place.guest.uuid == uuid), None)


def demand(guest: Movable, own_copies: Sequence[str] = ()) -> Demand:
    """What this guest wants. A disk that is written onto a copy of ours (`own_copies`, paths at the
    destination) takes no new room."""
    return Demand(
        uuid=guest.uuid,
        name=guest.name,
        memory_kib=guest.memory_kib if guest.active else 0,
        availability_set=guest.policy.availability_set,
        disks=tuple(disk for disk in guest.disks if disk.source not in own_copies),
    )


def place(
    guests: Sequence[Demand],
    candidates: Sequence[Candidate],
    *,
    obstacles: Obstacles | None = None,
    kept_kib: int | None = None,
    keep_apart: bool = False,
) -> Placement:
    """Where each guest goes.

    `obstacles` are what the checks of each pair found (rules/move_checks). `kept_kib` is the memory
    that each host keeps for itself (None: rules/move_room.reserve_kib). Members of an availability
    set share a host only where there is no other; with `keep_apart` not even then.
    """
    rules = _Rules(obstacles=obstacles or {}, kept_kib=kept_kib, keep_apart=keep_apart)
    ordered = sorted(candidates, key=lambda each: (each.destination.host.uri, each.cordoned))
    attempts = (_attempt(guests, ordered, rules, wish) for wish in (_roomiest, _tightest))
    places = min(attempts, key=lambda found: sum(not place.uri for place in found.values()))
    in_order = tuple(places[guest.uuid] for guest in guests)
    placed = {found.guest.uuid: found.uri for found in in_order if found.uri}
    return Placement(places=in_order, placed=placed)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What counts for all guests alike."""

    obstacles: Obstacles
    kept_kib: int | None
    keep_apart: bool


def _roomiest(spare: int) -> int:
    return -spare


def _tightest(spare: int) -> int:
    return spare


def _attempt(
    guests: Sequence[Demand],
    candidates: Sequence[Candidate],
    rules: _Rules,
    wish: Callable[[int], int],
) -> dict[str, Place]:
    """Where each guest goes if those that fit equally well are chosen by this wish. What a host is
    given counts for all its URIs."""
    given: dict[str, tuple[Demand, ...]] = {}
    for candidate in candidates:
        uuid = candidate.destination.host.uuid
        given[uuid] = (*given.get(uuid, ()), *candidate.reserved)
    places: dict[str, Place] = {}
    for guest in sorted(guests, key=_size):
        rejections: list[Rejection] = []
        possible: list[MoveHost] = []
        for candidate in candidates:
            there = _filled(candidate.destination, given[candidate.destination.host.uuid])
            against = tuple(_against(guest, candidate, there, rules))
            rejections += against
            if not against:
                possible.append(there.host)
        places[guest.uuid] = Place(guest=guest, rejections=tuple(rejections))
        if possible:
            best = min(possible, key=lambda host: _rank(guest, host, rules, wish))
            given[best.uuid] = (*given[best.uuid], guest)
            places[guest.uuid] = replace(
                places[guest.uuid], uri=best.uri, beside=_members(guest, best)
            )
    return places


def _filled(destination: Destination, guests: Sequence[Demand]) -> Destination:
    """The destination as it will be once all these guests are there."""
    for guest in guests:
        destination = replace(destination, host=_with(destination, guest))
    return destination


def _with(destination: Destination, guest: Demand) -> MoveHost:
    """The host once this guest is there. One that is there already, since it is just arriving, may
    not have taken its memory yet."""
    host = destination.host
    for disk in copied(guest, destination):
        room = room_of(disk, host)
        pools = (
            replace(each, free_kib=each.free_kib - needed_kib(disk)) if each == room else each
            for each in host.pools
        )
        host = replace(host, pools=tuple(pools))
    if guest.memory_kib:
        host = replace(host, free_kib=host.free_kib - memory_kib(guest.memory_kib))
    if any(other.uuid == guest.uuid and other.active for other in host.guests):
        return host
    resident = Resident(
        name=guest.name,
        uuid=guest.uuid,
        active=guest.memory_kib > 0,
        memory_kib=guest.memory_kib,
        availability_set=guest.availability_set,
    )
    return replace(host, guests=(*host.guests, resident))


def _size(guest: Demand) -> tuple[int, int, str, str]:
    """The biggest first; names only make it certain which comes first of two alike."""
    return -guest.memory_kib, -sum(map(needed_kib, guest.disks)), guest.name, guest.uuid


def _rank(
    guest: Demand, host: MoveHost, rules: _Rules, wish: Callable[[int], int]
) -> tuple[int, int, str, str]:
    """The lowest is the best."""
    spare = wish(spare_kib(host, rules.kept_kib))
    return len(_members(guest, host)), spare, host.name, host.uri


def _members(guest: Demand, host: MoveHost) -> tuple[str, ...]:
    """The other guests of its availability set on this host."""
    if not guest.availability_set:
        return ()
    return tuple(
        other.name
        for other in host.guests
        if other.availability_set == guest.availability_set and other.uuid != guest.uuid
    )


def _against(
    guest: Demand, candidate: Candidate, there: Destination, rules: _Rules
) -> Iterator[Rejection]:
    """All that speaks against this host, as it will be."""
    host = there.host
    if candidate.cordoned:
        yield Rejection(
            uri=host.uri,
            host=host.name,
            reason=f"{host.name} is cordoned: {candidate.cordoned}",
            cure="uncordon it, if whoever cordoned it agrees",
        )
    in_the_way = rules.obstacles.get((guest.uuid, host.uri), ())
    for obstacle in in_the_way:
        yield Rejection(uri=host.uri, host=host.name, reason=obstacle.reason, cure=obstacle.cure)
    members = _members(guest, host)
    if members and rules.keep_apart:
        yield Rejection(
            uri=host.uri,
            host=host.name,
            reason=f"{host.name} has {', '.join(members)} of its availability set "
            f"{guest.availability_set}, which is to be kept apart",
        )
    if not in_the_way:
        yield from _too_small(guest, candidate, there, rules)


def _too_small(
    guest: Demand, candidate: Candidate, there: Destination, rules: _Rules
) -> Iterator[Rejection]:
    """What is left of this host once all those are there that come before."""
    host, before = there.host, candidate.destination.host
    known = {other.uuid for other in before.guests}
    coming = [other.name for other in host.guests if other.uuid not in known]
    after = f" after {', '.join(coming)}" if coming else ""
    spare, wanted = spare_kib(host, rules.kept_kib), memory_kib(guest.memory_kib)
    if guest.memory_kib and wanted > spare:
        reason = f"{host.name} can spare {size(max(spare, 0))} of memory{after}, and it takes "
        yield Rejection(uri=host.uri, host=host.name, reason=reason + size(wanted))
    for room in host.pools:
        disks = [disk for disk in copied(guest, there) if room_of(disk, host) is room]
        needed = sum(map(needed_kib, disks))
        if needed > room.free_kib:
            reason = f"{room.name or room.path} on {host.name} has {size(max(room.free_kib, 0))} "
            reason += f"left{after}, and its disks take {size(needed)}"
            yield Rejection(uri=host.uri, host=host.name, reason=reason)
