"""Moving a guest that is off, or that is shut down for it: definition, snapshots' metadata, disks.

Layer: adapters. The destination gets everything first; the source's definition goes last, once the
destination has the guest (and runs it, if it ran). Whatever fails before that is undone: the
destination's definition goes again and the guest is started where it was. libvirt's own way
(VIR_MIGRATE_OFFLINE) is not used: it hangs with either daemon, refuses snapshots, and drops a saved
state silently. Invariants: the guest is never started on one host while the other one has it
active, or does not answer; a saved state is never lost (such a guest is refused). Times in ns,
monotonic. Results: ports.Mover.
"""

import time
from dataclasses import replace

import libvirt

from hostagent.adapters.libvirt import move_disks, move_ending, move_settle
from hostagent.adapters.libvirt.move_places import Place, Seen, looked, told
from hostagent.core.errors import HostagentError
from hostagent.core.journal import GuestOutcome
from hostagent.core.move import Method, Order

S = 1_000_000_000
CALL_LIMIT_NS = 10 * S
START_LIMIT_NS = 60 * S
"""QEMU's start may take long on a busy host (libvirt waits for its monitor 30 s and more)."""
SETTLE_NS = 10 * S
POLL_S = 0.3

EXPORT = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


def move(order: Order, source: Place, destination: Place) -> GuestOutcome:
    """Shut it down if it runs, carry it over, start it."""
    begun_ns = time.monotonic_ns()
    here, there = looked(source, order.uuid, sends=True), destination.look(order.uuid)
    refusal = _refusal(order, here, there)
    if refusal or here is None:
        return GuestOutcome(result="stayed", reason=refusal)
    order = replace(order, runs=here.active)
    if here.active:
        failed = move_ending.shut_down(order, source)
        if failed is not None:
            return failed
    return _carry(order, source, destination, begun_ns)


def look(order: Order, source: Place, destination: Place, until_ns: int) -> GuestOutcome:
    """What came of an order; one that was cut short is finished, or undone."""
    if order.runs:
        _await_shutdown(order, source, destination, until_ns)
    here = source.await_look(order.uuid, until_ns)
    there = destination.await_look(order.uuid, until_ns)
    if here is None or there is None:
        at = "source" if here is None else "destination"
        reason = f"libvirt at the {at} does not answer (source: {here}, destination: {there})"
        return GuestOutcome(result="ambiguous", reason=reason)
    if here.active and there.active:
        return GuestOutcome(result="ambiguous", reason="it is active on both hosts")
    if here.active:
        return _stayed(order, destination, there, f"it is {here}")
    if there.active or (there.present and not here.present):
        return _arrived(order, source, destination, {})
    if not here.present:
        return GuestOutcome(result="ambiguous", reason="neither host has it")
    if there.present and not order.runs:
        return _arrived(order, source, destination, {})
    return _back(order, source, destination, "the move was cut short")


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


def _carry(order: Order, source: Place, destination: Place, begun_ns: int) -> GuestOutcome:
    """Of a guest that is off."""
    try:
        text = source.guest(
            "reading its definition",
            order.uuid,
            CALL_LIMIT_NS,
            lambda domain: domain.XMLDesc(EXPORT),
        )
        until_ns = begun_ns + order.limit_ns + order.shutdown_ns
        copied_b = move_disks.copy(order, text, source, destination, until_ns)
        destination.call("defining it", CALL_LIMIT_NS, lambda conn: _define(conn, text))
    except (HostagentError, OSError, TimeoutError) as error:
        return _back(order, source, destination, told(error))
    figures: dict[str, int | str] = {"sent_b": copied_b}
    if order.runs:
        try:
            destination.guest("starting it", order.uuid, START_LIMIT_NS, _start)
        except HostagentError as error:
            return _back(order, source, destination, f"at the destination: {told(error)}")
        figures |= {
            "downtime_ns": _since(begun_ns),
            "downtime_source": "shutdown-to-start",
            "downtime_uncertainty_ns": int(move_ending.POLL_S * S),
        }
    return _arrived(order, source, destination, {**figures, "total_ns": _since(begun_ns)})


def _since(begun_ns: int) -> int:
    return time.monotonic_ns() - begun_ns


def _define(conn: libvirt.virConnect, text: str) -> None:
    conn.defineXML(text)


def _start(domain: libvirt.virDomain) -> int:
    return 0 if domain.isActive() else domain.create()


def _undefine(domain: libvirt.virDomain) -> int:
    return domain.undefineFlags(move_settle.UNDEFINE)


def _arrived(
    order: Order, source: Place, destination: Place, figures: dict[str, int | str]
) -> GuestOutcome:
    """The source's definition goes; `settle` tries again if that fails."""
    problems = move_settle.leave(order, source, destination)
    return GuestOutcome(result="moved", reason="; ".join(problems), figures=figures)


def _back(order: Order, source: Place, destination: Place, why: str) -> GuestOutcome:
    """It stays, and runs again if it ran; only once the destination says that it has none."""
    until_ns = time.monotonic_ns() + SETTLE_NS
    there = destination.await_look(order.uuid, until_ns)
    if there is None and not order.runs:
        return GuestOutcome(result="stayed", reason=f"{why}; the destination does not answer")
    if there is None:
        return GuestOutcome(
            result="ambiguous",
            reason=f"{why}; it is off, and it was not started again since the destination does not"
            " answer and may have it: start it here once that host surely does not run it",
        )
    if there.active:
        return _arrived(order, source, destination, {})
    here = source.await_look(order.uuid, until_ns)
    if here is None or not here.present:
        return GuestOutcome(
            result="ambiguous", reason=f"{why}; the source: {here or 'does not answer'}"
        )
    outcome = _stayed(order, destination, there, why)
    if order.runs and not here.active:
        try:
            source.guest("starting it again", order.uuid, START_LIMIT_NS, _start)
        except HostagentError as error:
            reason = f"{outcome.reason}; it is off and could not be started: {told(error)}"
            return GuestOutcome(result="ambiguous", reason=reason)
    return outcome


def _stayed(order: Order, destination: Place, there: Seen, why: str) -> GuestOutcome:
    """The destination's definition goes, which never ran. (One on it is no danger: it is off.)"""
    problem = ""
    if there.present and not there.active:
        try:
            destination.guest("undefining it again", order.uuid, CALL_LIMIT_NS, _undefine)
        except HostagentError as error:
            problem = f"; the destination keeps its definition: {told(error)}"
    return GuestOutcome(result="stayed", reason=f"{why}{problem}")


def _await_shutdown(order: Order, source: Place, destination: Place, until_ns: int) -> None:
    """A guest that was asked to shut down before we were killed may still do so."""
    until_ns = min(until_ns, time.monotonic_ns() + order.shutdown_ns)
    while time.monotonic_ns() < until_ns:
        here, there = source.look(order.uuid), destination.look(order.uuid)
        if (here is not None and not here.active) or (there is not None and there.active):
            return
        time.sleep(POLL_S)
