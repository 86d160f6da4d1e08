"""Moving a guest that is off, or that is shut down for it: definition, snapshots' metadata, disks.

Layer: adapters. The destination gets everything first; the source's definition goes last, once the
destination has the guest (and runs it, if it ran). Whatever fails before that is undone
(move_landing). libvirt's own way (VIR_MIGRATE_OFFLINE) is not used: it hangs with either daemon,
refuses snapshots, and drops a saved state silently. Invariants: right before the guest is defined
there, and right before it is started there, the source has said that it is still off, and that it
will not start it at boot; a saved state is never lost (such a guest is refused). Times in ns,
monotonic. Results: ports.Mover.
"""

import threading
import time
from dataclasses import replace

import libvirt

from hostagent.adapters.libvirt import move_disks, move_ending, move_landing, move_settle
from hostagent.adapters.libvirt.move_landing import CALL_LIMIT_NS, EXPORT, START_LIMIT_NS, Trip
from hostagent.adapters.libvirt.move_places import Place, Seen, looked, told
from hostagent.core.errors import HostagentError, RefusedError
from hostagent.core.journal import GuestOutcome
from hostagent.core.move import Method, Order

S = 1_000_000_000
SHORTEST_START_NS = 15 * S
"""For the start at the destination, also where the copying took all the time."""
POLL_S = 0.3
RAN = ("shutdown", "destroyed", "crashed")
"""Why a guest is off that ran before (virDomainShutoffReason)."""


def move(order: Order, source: Place, destination: Place, aborted: threading.Event) -> GuestOutcome:
    """Shut it down if it runs, carry it over, start it."""
    begun_ns = time.monotonic_ns()
    here, there = looked(source, order.uuid, sends=True), destination.look(order.uuid)
    refusal = _refusal(order, here, there)
    if refusal or here is None:
        return GuestOutcome(result="stayed", reason=refusal)
    order = replace(order, runs=here.active, autostart=order.autostart or here.autostart)
    if here.active:
        failed = move_ending.shut_down(order, source, aborted)
        if failed is not None:
            return failed
    return _carry(
        Trip(
            order=order,
            source=source,
            destination=destination,
            begun_ns=begun_ns,
            aborted=aborted,
        )
    )


def look(order: Order, source: Place, destination: Place, until_ns: int) -> GuestOutcome:
    """What came of an order; one that was cut short is finished, or undone."""
    trip = Trip(
        order=order,
        source=source,
        destination=destination,
        begun_ns=until_ns - order.limit_ns,
        aborted=threading.Event(),
    )
    if order.runs:
        _await_shutdown(trip)
    here = source.await_look(order.uuid, until_ns)
    there = destination.await_look(order.uuid, until_ns)
    if here is None or there is None:
        at = "source" if here is None else "destination"
        return _ambiguous(
            f"libvirt at the {at} does not answer (source: {here}, destination: {there})"
        )
    if not here.present and not there.present:
        return _ambiguous("neither host has it")
    if there.arrived or not here.present:
        return move_landing.arrived(trip, {}, ours=False)
    if here.active:
        return move_landing.stay(trip, f"it is {here}")
    if there.present and order.copy and there.reason in RAN:
        return _ambiguous(
            f"at the destination it ran, and it is {there} now; it is off at the source too, whose"
            " disks are older: undefine it where it is not to be"
        )
    if there.present and not there.active and not order.runs and not order.copy:
        return move_landing.arrived(trip, {}, ours=False)
    return move_landing.back(trip, "the move was cut short", asked=order.runs)


def _refusal(order: Order, here: Seen | None, there: Seen | None) -> str:
    if here is None or there is None:
        at = "source" if here is None else "destination"
        return f"libvirt at the {at} does not answer; nothing was begun"
    if not here.present:
        return "its host does not have it"
    if there.active:
        return f"the destination has it already: it is {there}"
    if here.saved:
        return "its saved state is a file of this host's libvirt, which would be lost: start it"
    if not here.active:
        return ""
    if order.method is Method.OFFLINE:
        return f"it is not off: it is {here}"
    if not here.runs:
        return f"it can't shut itself down: it is {here}"
    return move_ending.may_end(here)


def _carry(trip: Trip) -> GuestOutcome:
    """Of a guest that is off."""
    order, source, destination = trip.order, trip.source, trip.destination
    try:
        text = source.guest(
            "reading its definition",
            order.uuid,
            CALL_LIMIT_NS,
            lambda domain: domain.XMLDesc(EXPORT),
        )
        copied_b = move_disks.copy(order, text, source, destination, trip.until_ns, trip.aborted)
        _must_be_off(trip)
        destination.call("defining it", CALL_LIMIT_NS, lambda conn: _define(conn, text))
        _start_nowhere_at_boot(trip)
        _must_be_off(trip)
    except (HostagentError, OSError, TimeoutError) as error:
        return move_landing.back(trip, told(error), asked=False)
    figures: dict[str, int | str] = {"sent_b": copied_b}
    if order.runs:
        limit_ns = max(min(START_LIMIT_NS, trip.until_ns - time.monotonic_ns()), SHORTEST_START_NS)
        problem = trip.tried("starting it", destination, limit_ns, move_landing.start)
        if problem:
            return move_landing.back(trip, f"at the destination: {problem}", asked=True)
        figures |= {
            "downtime_ns": _since(trip.begun_ns),
            "downtime_source": "shutdown-to-start",
            "downtime_uncertainty_ns": int(move_ending.POLL_S * S),
        }
    figures["total_ns"] = _since(trip.begun_ns)
    return move_landing.arrived(trip, figures, ours=True)


def _must_be_off(trip: Trip) -> None:
    """The last look before the next thing is done there. Raises RefusedError."""
    if trip.aborted.is_set():
        raise RefusedError("it was aborted")
    here = trip.source.look(trip.order.uuid)
    if here is None:
        raise RefusedError("libvirt at the source does not answer any more")
    if here.active:
        raise RefusedError(f"it was started at the source meanwhile: it is {here}")
    if not here.present or here.saved:
        state = "saved" if here.present else "not there"
        raise RefusedError(f"its owner was faster: it is {state} at the source now")


def _start_nowhere_at_boot(trip: Trip) -> None:
    """Until one definition of it is gone, a host that boots must not start it: it may run on the
    other one. What was set at the source, `settle` sets at the destination. Raises RefusedError."""
    for place in (trip.source, trip.destination):
        found = place.look(trip.order.uuid)
        problems = move_settle.autostart(trip.order, place, found, wanted=False)
        if problems:
            raise RefusedError("; ".join(problems))


def _since(begun_ns: int) -> int:
    return time.monotonic_ns() - begun_ns


def _define(conn: libvirt.virConnect, text: str) -> None:
    conn.defineXML(text)


def _ambiguous(reason: str) -> GuestOutcome:
    return GuestOutcome(result="ambiguous", reason=reason)


def _await_shutdown(trip: Trip) -> None:
    """A guest that was asked to shut down before we were killed may still do so."""
    uuid = trip.order.uuid
    until_ns = min(trip.until_ns, time.monotonic_ns() + trip.order.shutdown_ns)
    while time.monotonic_ns() < until_ns:
        here, there = trip.source.look(uuid), trip.destination.look(uuid)
        if (here is not None and not here.active) or (there is not None and there.active):
            return
        time.sleep(POLL_S)
