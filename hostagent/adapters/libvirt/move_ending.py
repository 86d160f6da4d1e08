"""Ending a guest where it is: shut down by its own system, or its memory saved to disk.

Layer: adapters. Shutting down asks the guest's agent first and then presses its power button
(ACPI); a guest that does neither, or that starts again, is left running: nothing here destroys one.
libvirt says nothing of a guest that ignored the call, so the end is what its state says. Times in
ns, monotonic. Results: ports.Mover.
"""

import time
from collections.abc import Callable

import libvirt

from hostagent.adapters.libvirt.bounded import connect, within
from hostagent.adapters.libvirt.move_places import Place, Seen, looked, told
from hostagent.core.errors import HostagentError
from hostagent.core.journal import GuestOutcome
from hostagent.core.move import Method, Order

S = 1_000_000_000
POLL_S = 0.2
CALL_LIMIT_NS = 4 * S
"""For an agent that hangs too: libvirt itself waits for it as long as its owner configured."""
AGAIN_NS = 5 * S
"""After the button was pressed: a guest that has only just been started does not hear it yet."""
SILENCE_NS = 10 * S
"""How long libvirt may be away (a restart) while a guest shuts down."""


def end(order: Order, source: Place) -> GuestOutcome:
    """Shut it down or save it, as the order's method says."""
    here = looked(source, order.uuid, sends=True)
    refusal = may_end(here)
    if refusal:
        return GuestOutcome(result="stayed", reason=refusal)
    if order.method is Method.SAVE:
        return _save(order, source)
    asked_ns = time.monotonic_ns()
    failed = shut_down(order, source)
    if failed is not None:
        return failed
    return GuestOutcome(result="shut-down", figures={"total_ns": time.monotonic_ns() - asked_ns})


def may_end(here: Seen | None) -> str:
    """Why a guest is not shut down or saved; empty if it may be."""
    if here is None:
        return "libvirt at the source does not answer; nothing was begun"
    if not here.active:
        return f"it does not run: it is {here}"
    if not here.persistent:
        return "it is transient: libvirt would forget it once it is off"
    if here.job:
        return f"it has a job under way: {here.job}"
    return ""


def shut_down(order: Order, source: Place) -> GuestOutcome | None:
    """Ask it to shut down and wait until it is off; None when it is, else what is the case."""
    begun_ns = time.monotonic_ns()
    half_ns = begun_ns + order.shutdown_ns // 2
    until_ns = begun_ns + order.shutdown_ns
    asked = _ask(order, source, libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
    by_agent = asked == ""
    if by_agent:
        outcome = _await_off(order, source, half_ns)
        if outcome is None or outcome.result != "stayed":
            return outcome
    refused = _ask(order, source, libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    if refused and not by_agent:
        return GuestOutcome(result="stayed", reason=f"{refused}; its agent: {asked}")
    outcome = _await_off(order, source, min(until_ns, time.monotonic_ns() + AGAIN_NS))
    while outcome is not None and outcome.result == "stayed" and time.monotonic_ns() < until_ns:
        _ask(order, source, libvirt.VIR_DOMAIN_SHUTDOWN_DEFAULT)
        outcome = _await_off(order, source, min(until_ns, time.monotonic_ns() + AGAIN_NS))
    if outcome is not None and outcome.result == "stayed":
        way = "agent and power button" if by_agent else "power button; no agent answered"
        reason = f"it did not shut down within {order.shutdown_ns / S:g} s ({way})"
        return GuestOutcome(result="stayed", reason=f"{reason}; it may still do so")
    return outcome


def look(order: Order, source: Place, until_ns: int) -> GuestOutcome:
    """What came of it. A guest that was asked may take its time."""
    wait_ns = min(until_ns, time.monotonic_ns() + order.shutdown_ns)
    while True:
        here = looked(source, order.uuid, sends=True)
        now_ns = time.monotonic_ns()
        if here is not None and not here.active:
            return _ended(order, here)
        if here is not None and here.job and now_ns > until_ns:
            return GuestOutcome(result="under-way", reason=f"its job goes on: {here.job}")
        if here is not None and not here.job and (now_ns > wait_ns or order.method is Method.SAVE):
            return GuestOutcome(result="stayed", reason=f"it is {here}")
        if here is None and now_ns > until_ns:
            return GuestOutcome(result="ambiguous", reason="libvirt at the source does not answer")
        time.sleep(POLL_S)


def _ended(order: Order, here: Seen) -> GuestOutcome:
    if not here.present:
        return GuestOutcome(result="ambiguous", reason="its host does not have it any more")
    if order.method is Method.SHUTDOWN:
        return GuestOutcome(result="shut-down")
    if here.saved:
        return GuestOutcome(result="saved")
    return GuestOutcome(result="stayed", reason=f"it is {here}, and nothing of it was saved")


def _save(order: Order, source: Place) -> GuestOutcome:
    """A guest that was paused stays so in its saved state (virDomainManagedSave)."""
    begun_ns = time.monotonic_ns()
    error = ""
    try:
        within(order.limit_ns, lambda: _saving(source.uri, order.uuid))
    except TimeoutError:
        error = f"it did not end within {order.limit_ns / S:g} s"
        _quietly(source, order.uuid, lambda domain: domain.abortJob())
    except libvirt.libvirtError as raised:
        error = told(raised)
    found = look(order, source, time.monotonic_ns() + SILENCE_NS)
    if found.result == "saved":
        return GuestOutcome(result="saved", figures={"total_ns": time.monotonic_ns() - begun_ns})
    reason = "; ".join(part for part in (error, found.reason) if part)
    return GuestOutcome(result=found.result, reason=reason)


def _saving(uri: str, uuid: str) -> int:
    return connect(uri).lookupByUUIDString(uuid).managedSave(0)


def _quietly(place: Place, uuid: str, work: Callable[[libvirt.virDomain], int]) -> None:
    try:
        place.guest("aborting", uuid, CALL_LIMIT_NS, work)
    except HostagentError:
        return


def _ask(order: Order, source: Place, way: int) -> str:
    """Empty if libvirt took it, else why not. One that was given up may have been heard."""
    try:
        source.guest(
            "shutting down", order.uuid, CALL_LIMIT_NS, lambda domain: domain.shutdownFlags(way)
        )
    except HostagentError as error:
        return told(error)
    return ""


def _await_off(order: Order, source: Place, until_ns: int) -> GuestOutcome | None:
    """None once it is off by its own doing."""
    silent_since_ns = 0
    while True:
        here = source.look(order.uuid)
        now_ns = time.monotonic_ns()
        if here is None:
            silent_since_ns = silent_since_ns or now_ns
            if now_ns > max(until_ns, silent_since_ns + SILENCE_NS):
                reason = "it was asked to shut down, and libvirt at the source does not answer"
                return GuestOutcome(result="ambiguous", reason=reason)
        elif not here.active:
            return _off(here)
        elif now_ns > until_ns:
            return GuestOutcome(result="stayed", reason=f"it is {here}")
        time.sleep(POLL_S)


def _off(here: Seen) -> GuestOutcome | None:
    if here.present and here.reason in ("shutdown", "unknown", "daemon"):
        return None
    if not here.present:
        return GuestOutcome(result="ambiguous", reason="its host does not have it any more")
    return GuestOutcome(
        result="stayed", reason=f"it was ended otherwise while it shut down: it is {here}"
    )
