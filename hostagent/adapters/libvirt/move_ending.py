"""Ending a guest where it is: shut down by its own system, or its memory saved to disk.

Layer: adapters. Shutting down asks the guest's agent first and then presses its power button
(ACPI); a guest that does neither, or that starts again, is left running: nothing here destroys one.
libvirt says nothing of a guest that ignored the call, so the end is what its state says. What was
asked can't be taken back: a guest that goes off although nobody wants that any more (`aborted`) is
started again. Times in ns, monotonic. Results: ports.Mover.
"""

import threading
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
LATE_NS = 10 * S
"""For a guest that is just about to be off when its time is over."""
AGAIN_LIMIT_NS = 40 * S


def end(order: Order, source: Place, aborted: threading.Event) -> GuestOutcome:
    """Shut it down or save it, as the order's method says."""
    here = looked(source, order.uuid, sends=True)
    refusal = may_end(here)
    if refusal or aborted.is_set():
        return GuestOutcome(result="stayed", reason=refusal or "it was aborted")
    if order.method is Method.SAVE:
        return _save(order, source)
    asked_ns = time.monotonic_ns()
    failed = shut_down(order, source, aborted)
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


def shut_down(order: Order, source: Place, aborted: threading.Event) -> GuestOutcome | None:
    """Ask it to shut down and wait until it is off; None when it is, else what is the case."""
    if aborted.is_set():
        return GuestOutcome(result="stayed", reason="it was aborted")
    begun_ns = time.monotonic_ns()
    half_ns = begun_ns + order.shutdown_ns // 2
    until_ns = begun_ns + order.shutdown_ns
    no_agent = _ask(order, source, libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
    here: Seen | None = None
    if not no_agent:
        here = _await_off(order, source, half_ns, aborted)
    if (no_agent or _is_on(here)) and not aborted.is_set():
        refused = _ask(order, source, libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
        if refused and no_agent:
            return GuestOutcome(result="stayed", reason=f"{refused}; its agent: {no_agent}")
    waits = bool(no_agent) or _is_on(here)
    while waits:
        here = _await_off(order, source, min(until_ns, time.monotonic_ns() + AGAIN_NS))
        waits = _is_on(here) and time.monotonic_ns() < until_ns
        if waits and not aborted.is_set():
            _ask(order, source, libvirt.VIR_DOMAIN_SHUTDOWN_DEFAULT)
    if _is_on(here):
        here = _await_off(order, source, time.monotonic_ns() + LATE_NS)
    if here is None:
        reason = "it was asked to shut down, and libvirt at the source does not answer"
        return GuestOutcome(result="ambiguous", reason=reason)
    if here.active:
        way = "power button; no agent answered" if no_agent else "agent and power button"
        reason = f"it did not shut down within {order.shutdown_ns / S:g} s ({way})"
        told_off = "it was aborted; " if aborted.is_set() else ""
        return GuestOutcome(result="stayed", reason=f"{told_off}{reason}; it may still do so")
    ended = _off(here)
    return _again(order, source) if ended is None and aborted.is_set() else ended


def _is_on(here: Seen | None) -> bool:
    return here is not None and here.active


def _again(order: Order, source: Place) -> GuestOutcome:
    """It went off by our doing, and is to run."""
    try:
        source.guest("starting it again", order.uuid, AGAIN_LIMIT_NS, lambda each: each.create())
    except HostagentError as error:
        here = source.look(order.uuid)
        if not _is_on(here):
            reason = f"it was aborted; it is off and could not be started again: {told(error)}"
            return GuestOutcome(result="ambiguous", reason=reason)
    return GuestOutcome(
        result="stayed", reason="it was aborted; it had shut down and was started again"
    )


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


def _await_off(
    order: Order, source: Place, until_ns: int, aborted: threading.Event | None = None
) -> Seen | None:
    """The last look: once it is off, or the time is over, or nobody wants it any more; None if
    libvirt does not answer."""
    silent_since_ns = 0
    while True:
        here = source.look(order.uuid)
        now_ns = time.monotonic_ns()
        if here is None:
            silent_since_ns = silent_since_ns or now_ns
            if now_ns > max(until_ns, silent_since_ns + SILENCE_NS):
                return None
        elif not here.active or now_ns > until_ns:
            return here
        else:
            silent_since_ns = 0
        if aborted is not None and aborted.is_set() and here is not None:
            return here
        time.sleep(POLL_S)


def _off(here: Seen) -> GuestOutcome | None:
    if here.present and here.reason in ("shutdown", "unknown", "daemon"):
        return None
    if not here.present:
        return GuestOutcome(result="ambiguous", reason="its host does not have it any more")
    return GuestOutcome(
        result="stayed", reason=f"it was ended otherwise while it shut down: it is {here}"
    )
