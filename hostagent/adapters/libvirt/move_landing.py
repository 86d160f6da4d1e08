"""Where a guest of a cold move comes to rest: arrived at the destination, or back at its source.

Layer: adapters. Invariants: `moved` is said only after both hosts answered, the source has no QEMU
of the guest, and the destination has one if it ran; it is started at the source again only if no
start was ever asked of the destination, or once the destination has confirmed that the guest is
gone there; no definition starts by itself at boot on the host that does not have the guest. All
together ends LAST_NS after the order's limit, whoever hangs. Times in ns, monotonic. Results:
ports.Mover.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import libvirt

from hostagent.adapters.libvirt import move_settle
from hostagent.adapters.libvirt.move_places import Place, Seen, told
from hostagent.core.errors import HostagentError
from hostagent.core.journal import GuestOutcome
from hostagent.core.move import Order

S = 1_000_000_000
CALL_LIMIT_NS = 10 * S
START_LIMIT_NS = 60 * S
"""QEMU's start may take long on a busy host (libvirt waits for its monitor 30 s and more)."""
SETTLE_NS = 10 * S
"""For a libvirt that is being restarted, and for a QEMU that is being started."""
LAST_NS = 45 * S
POLL_S = 0.3

EXPORT = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """One cold move: its two hosts, its limits, and the wish to end it."""

    order: Order
    source: Place
    destination: Place
    begun_ns: int
    aborted: threading.Event

    @property
    def until_ns(self) -> int:
        """When it is to have arrived."""
        return self.begun_ns + self.order.limit_ns

    def left_ns(self, limit_ns: int) -> int:
        """This limit, or what is left of the time to bring everything in order."""
        return max(min(limit_ns, self.until_ns + LAST_NS - time.monotonic_ns()), S)

    def patient(self, place: Place) -> Seen | None:
        """A look that outlasts a restart of that libvirt."""
        until_ns = time.monotonic_ns() + self.left_ns(SETTLE_NS)
        return place.await_look(self.order.uuid, until_ns)

    def tried(
        self, doing: str, place: Place, limit_ns: int, work: Callable[[libvirt.virDomain], int]
    ) -> str:
        """One call on the guest; why it failed, empty if it did not."""
        try:
            place.guest(doing, self.order.uuid, self.left_ns(limit_ns), work)
        except HostagentError as error:
            return told(error)
        return ""


def start(domain: libvirt.virDomain) -> int:
    """Power it on; one that is on already is none the worse."""
    return 0 if domain.isActive() else domain.create()


def arrived(trip: Trip, figures: dict[str, int | str], *, ours: bool) -> GuestOutcome:
    """The destination has it: the last look at both, then the source's definition goes (`settle`
    tries again if that fails). `ours`: it was started there by this very call."""
    here, there = trip.patient(trip.source), trip.patient(trip.destination)
    if here is None or there is None or not there.present:
        return _ambiguous(
            f"it was carried over (source: {here or 'no answer'}, destination:"
            f" {there or 'no answer'}), and one of them can't be asked: have it answer, then run"
            " this once more; do not start the guest"
        )
    if here.active and there.active:
        return _twice(trip, here, there) if ours else _ambiguous(_both(here, there))
    if here.active:
        return stay(trip, f"it was started at the source: it is {here}")
    if ours and trip.order.runs and not there.arrived:
        return back(trip, f"at the destination it is {there}", asked=True)
    problems = move_settle.leave(trip.order, trip.source, trip.destination)
    here = trip.source.look(trip.order.uuid)
    if here is not None and here.active:
        return _twice(trip, here, there) if there.active else stay(trip, f"it is {here}")
    return GuestOutcome(
        result="moved",
        reason="; ".join(problems),
        figures={**figures, "state": str(there.state)},
    )


def back(trip: Trip, why: str, *, asked: bool) -> GuestOutcome:
    """It stays, and runs again if it ran. `asked`: a start was asked of the destination, or may
    have been: then only once that has confirmed that the guest is gone there. Without, what is
    defined there runs nothing, and the source does not wait for its answer."""
    there = _at_rest(trip, asked=asked)
    if there is not None and there.awaits:
        trip.tried("ending a start that hangs", trip.destination, CALL_LIMIT_NS, _destroy)
        there = trip.destination.look(trip.order.uuid)
    if there is not None and there.arrived:
        return arrived(trip, {}, ours=False)
    if not asked:
        return stay(trip, why)
    problem = "it does not answer"
    if there is not None and there.present:
        problem = _undefine(trip)
        there = trip.destination.look(trip.order.uuid)
    if there is None or there.present:
        return _ambiguous(
            f"{why}; it is off, and it was not started again since the destination may still start"
            f" it ({problem}): start it here once that host surely does not have it"
        )
    return stay(trip, why)


def stay(trip: Trip, why: str) -> GuestOutcome:
    """At the source as it was; then the destination's definition goes, which is off."""
    here = trip.patient(trip.source)
    if here is None or not here.present:
        return _ambiguous(f"{why}; the source: {here or 'does not answer'}")
    notes = [why]
    if trip.order.runs and not here.active and here.saved:
        notes.append("its owner saved it meanwhile")
    elif trip.order.runs and not here.active:
        problem = trip.tried("starting it again", trip.source, START_LIMIT_NS, start)
        here = trip.patient(trip.source) or here
        if problem and not here.active:
            return _ambiguous(f"{why}; it is off and could not be started: {problem}")
    notes += _defined_again(trip, here)
    notes += move_settle.autostart(trip.order, trip.source, here, wanted=trip.order.autostart)
    there = trip.patient(trip.destination)
    problem = "it does not answer" if there is None else ""
    if there is not None and there.present and not there.active:
        problem = _undefine(trip)
    if problem:
        notes.append(f"the destination keeps its definition: {problem}")
    return GuestOutcome(result="stayed", reason="; ".join(notes))


def _defined_again(trip: Trip, here: Seen) -> list[str]:
    """It was started in the moment in which its definition went: libvirt calls it transient then,
    and the definition is only in its QEMU."""
    if here.persistent or not trip.order.persistent:
        return []
    problem = trip.tried("defining it again", trip.source, CALL_LIMIT_NS, _define_again)
    return [f"its definition could not be kept: {problem}"] if problem else []


def _define_again(domain: libvirt.virDomain) -> int:
    domain.connect().defineXML(domain.XMLDesc(EXPORT))
    return 0


def _at_rest(trip: Trip, *, asked: bool) -> Seen | None:
    """The destination's word, once nothing changes there by itself any more."""
    until_ns = time.monotonic_ns() + trip.left_ns(SETTLE_NS)
    while True:
        there = trip.destination.look(trip.order.uuid)
        changes = asked if there is None else there.awaits
        if not changes or time.monotonic_ns() > until_ns:
            return there
        time.sleep(POLL_S)


def _twice(trip: Trip, here: Seen, there: Seen) -> GuestOutcome:
    """Its owner started it in the moment of our start: ours, which is the younger, is ended."""
    problem = trip.tried("ending the second copy", trip.destination, CALL_LIMIT_NS, _destroy)
    left = trip.destination.look(trip.order.uuid)
    if left is None or left.active:
        return _ambiguous(f"{_both(here, there)}; ours could not be ended: {problem}")
    return stay(
        trip,
        "it was started at the source while it was started at the destination; that copy was ended"
        " at once, but both ran for moments: look at its disks",
    )


def _both(here: Seen, there: Seen) -> str:
    return f"it is active on both hosts: {here} at the source, {there} at the destination"


def _undefine(trip: Trip) -> str:
    return trip.tried(
        "undefining it again",
        trip.destination,
        CALL_LIMIT_NS,
        lambda domain: domain.undefineFlags(move_settle.UNDEFINE),
    )


def _destroy(domain: libvirt.virDomain) -> int:
    return domain.destroy()


def _ambiguous(reason: str) -> GuestOutcome:
    return GuestOutcome(result="ambiguous", reason=reason)
