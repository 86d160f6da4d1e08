"""What a move, a drain or a restore would do: a plan, or a refusal.

Layer: rules; pure. Guests are placed by the gentlest rung of their ladder first, so that nobody is
shut down for a host to which it could have gone live. A guest that can't leave stays, with all its
reasons; the others go (unless all or nothing was asked for).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hostagent.core.errors import RefusedError
from hostagent.core.model import RUNS, Host
from hostagent.core.move import Destination, Method, Movable, MoveHost, Order
from hostagent.core.plan import Plan, PlannedGuest
from hostagent.rules import move_checks, placement
from hostagent.rules.move_ladder import ladder, obstacles_here, stays_because
from hostagent.rules.move_order import order
from hostagent.rules.move_orders import KIND, Moves, Operation, to_args
from hostagent.rules.move_request import MoveRequest
from hostagent.rules.move_warnings import warnings, warnings_between
from hostagent.rules.placement import Candidate, Demand, Rejection

ARRIVING = (Method.OFFLINE, Method.LIVE, Method.COLD)
"""The methods that end on another host, the gentlest first."""
MOST_AT_ONCE = 4
"""libvirt serves 5 calls of a connection at a time, and each move takes a stream of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """A host to leave, the guests that are to leave it, and where they may go."""

    source: MoveHost
    guests: tuple[Movable, ...]
    destinations: tuple[Destination, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveFacts:
    """All that a plan of moves is decided on. `host` is the one whose lock and journal this is;
    `idle_cpus` are those of it that have nothing to do; `lost` names guests that were to be found
    on another host and were not, with the reason. `own_copies` are paths of disks that an earlier
    move left here; `cordoned` is why this host takes no guests, by its operator's word."""

    host: Host
    legs: tuple[Leg, ...]
    idle_cpus: float
    lost: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    own_copies: tuple[str, ...] = ()
    cordoned: str = ""


def plan(run: str, request: MoveRequest, facts: MoveFacts) -> Plan:
    """What would be done; guests that can't leave are in it with all reasons against them."""
    orders: dict[str, tuple[Order, ...]] = {}
    guests: list[PlannedGuest] = []
    found: list[str] = list(facts.warnings)
    reserved: dict[str, list[Demand]] = {}
    for leg in facts.legs:
        places = _place(leg, request, facts, reserved)
        for guest in leg.guests:
            placed = places.get(guest.uuid, _Placed(there=None))
            rungs = _orders(leg, guest, placed, request, facts)
            if rungs:
                orders[guest.uuid] = rungs
                found += _warnings(leg, guest, rungs[0], facts)
            skip = "" if rungs else _why_not(guest, placed, request)
            guests.append(_planned(guest, skip))
    for uuid, (name, reason) in facts.lost.items():
        guests.append(PlannedGuest(uuid=uuid, name=name, skip=reason))
    moves = Moves(
        operation=request.operation,
        parallel=request.parallel or at_once(facts.idle_cpus, len(orders)),
        orders=orders,
    )
    return Plan(
        run=run,
        kind=KIND,
        host=facts.host,
        guests=tuple(guests),
        args=to_args(moves),
        warnings=tuple(dict.fromkeys(found)),
    )


def at_once(idle_cpus: float, guests: int) -> int:
    """How many guests to move at the same time: one more than there are idle CPUs, since a stream
    waits for the link at times, and never more than libvirt serves well."""
    return max(1, min(round(idle_cpus) + 1, MOST_AT_ONCE, guests))


def _planned(guest: Movable, skip: str) -> PlannedGuest:
    return PlannedGuest(
        uuid=guest.uuid,
        name=guest.name,
        agent=guest.agent,
        channel=guest.channel,
        clock=guest.clock,
        runs=guest.state in RUNS,
        job=guest.job,
        skip=skip,
    )


def _rungs(guest: Movable, request: MoveRequest) -> tuple[Method, ...]:
    rungs = ladder(guest)
    if request.operation is not Operation.DRAIN:  # only that may end a guest where it is
        rungs = tuple(method for method in rungs if method in ARRIVING)
    if request.method is None:
        return rungs
    return tuple(method for method in rungs if method is request.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """Where a guest goes, and the rejections of those rungs for which there was no place."""

    there: Destination | None
    rejections: tuple[Rejection, ...] = ()


def _place(
    leg: Leg, request: MoveRequest, facts: MoveFacts, reserved: dict[str, list[Demand]]
) -> Mapping[str, _Placed]:
    """Where each guest goes, by the gentlest rung for which there is a place. What it takes there
    is `reserved` (by the host's UUID), for the guests of this leg and of those after it."""
    placed: dict[str, _Placed] = {}
    by_uri = {destination.host.uri: destination for destination in leg.destinations}
    for method in ARRIVING:
        asked = [
            guest
            for guest in leg.guests
            if method in _rungs(guest, request) and not _has_place(placed, guest)
        ]
        candidates = [
            Candidate(
                destination=there,
                cordoned=facts.cordoned if there.host.uuid == facts.host.uuid else "",
                reserved=tuple(reserved.get(there.host.uuid, ())),
            )
            for there in by_uri.values()
        ]
        found = placement.place(
            [placement.demand(guest, facts.own_copies) for guest in asked],
            candidates,
            obstacles=_obstacles(leg, asked, method, facts),
        )
        for place in found.places:
            there = by_uri.get(place.uri)
            known = placed.get(place.guest.uuid, _Placed(there=None))
            rejections = (*known.rejections, *place.rejections)
            placed[place.guest.uuid] = _Placed(there=there, rejections=rejections)
            if there is not None:
                reserved.setdefault(there.host.uuid, []).append(place.guest)
    return placed


def _has_place(placed: Mapping[str, _Placed], guest: Movable) -> bool:
    return guest.uuid in placed and placed[guest.uuid].there is not None


def _obstacles(
    leg: Leg, guests: Sequence[Movable], method: Method, facts: MoveFacts
) -> placement.Obstacles:
    return {
        (guest.uuid, there.host.uri): move_checks.obstacles(
            guest, leg.source, there, method, own_copies=facts.own_copies
        )
        for guest in guests
        for there in leg.destinations
    }


def _orders(
    leg: Leg, guest: Movable, placed: _Placed, request: MoveRequest, facts: MoveFacts
) -> tuple[Order, ...]:
    """The ladder of one guest: all rungs on which it can arrive where it was placed, and those that
    end it here."""
    orders = []
    for method in _rungs(guest, request):
        if method in ARRIVING:
            there = placed.there
            if there is None or move_checks.obstacles(
                guest, leg.source, there, method, own_copies=facts.own_copies
            ):
                continue
            orders.append(
                order(guest, leg.source, there, method, request, facts.host, facts.own_copies)
            )
        elif not obstacles_here(guest, method):
            orders.append(order(guest, leg.source, None, method, request, facts.host))
    return tuple(orders)


def _why_not(guest: Movable, placed: _Placed, request: MoveRequest) -> str:
    """All reasons against this guest's move, each with its cure."""
    stays = stays_because(guest)
    if stays is not None:
        return f"{stays.reason} ({stays.cure})"
    if not _rungs(guest, request):
        words = ", ".join(ladder(guest))
        return f"its state and policy allow only {words}, not {request.method}"
    told = [
        f"{each.reason} ({each.cure})" if each.cure else each.reason for each in placed.rejections
    ]
    for method in _rungs(guest, request):
        if method not in ARRIVING:
            told += [f"{each.reason} ({each.cure})" for each in obstacles_here(guest, method)]
    return "; ".join(dict.fromkeys(told)) or "there is no host to move it to"


def _warnings(leg: Leg, guest: Movable, first: Order, facts: MoveFacts) -> tuple[str, ...]:
    problems = tuple(f"guest {guest.name}: {problem}" for problem in guest.problems)
    there = next((each for each in leg.destinations if each.host.uri == first.destination), None)
    if there is None:
        return problems
    found = warnings(guest, leg.source, there, first.method, own_copies=facts.own_copies)
    between = (*there.doubts, *warnings_between(leg.source, there))
    return (*problems, *between, *(f"guest {guest.name}: {each}" for each in found))


def refuse(plan: Plan, *, all_or_nothing: bool) -> None:
    """Raises RefusedError where nobody can be moved, or not all and all were wanted."""
    staying = [guest for guest in plan.guests if guest.skip]
    if not staying or (plan.chosen and not all_or_nothing):
        return
    reasons = "; ".join(f"guest {guest.name}: {guest.skip}" for guest in staying)
    raise RefusedError(
        reasons,
        hint="`--dry-run` shows every guest"
        if not all_or_nothing
        else "without --all-or-nothing the others would be moved",
    )
