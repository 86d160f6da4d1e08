"""One guest's resume through libvirt: look and resume, then look again.

Layer: guardian. Both halves run in a worker's thread of connect.Lines and may hang there; the
second is queued behind all first halves, so that no guest stands still while another is only read
back. Invariants: the guest is resumed only if it is paused by user, in the process that we know,
and that process is looked at right before; neither a success returned nor a state that libvirtd had
saved before it was restarted is believed. Errors: libvirt.libvirtError, and NotYet for "ask again".
"""

import time
from dataclasses import dataclass

import libvirt

from hostagent.guardian.target import Back, Result, Target, plain

RUNS = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)
PAUSED_REASONS = {
    2: "migration", 3: "save", 4: "dump", 5: "an I/O error", 6: "a watchdog", 7: "a snapshot",
    8: "shutting down", 9: "a snapshot", 10: "a crash", 11: "starting up", 12: "post-copy",
    13: "a failed post-copy", 14: "an API error",
}  # fmt: skip
"""virDomainPausedReason of libvirt-domain.h, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotYet:
    """libvirt answered, and the guest is not back. `busy`: its QEMU owes libvirt an answer."""

    reason: str
    busy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """The resume was called and has returned, which proves nothing; the bounds of that call."""

    called_ns: int
    returned_ns: int


def look_and_resume(domain: libvirt.virDomain, target: Target) -> Back | NotYet | Called:
    """The first half."""
    state, reason = domain.state()
    if state in RUNS:
        # A libvirtd that has just started tells the state it had saved until it has spoken to
        # QEMU; it holds a job in the guest until then.
        if domain.controlInfo()[0] != libvirt.VIR_DOMAIN_CONTROL_OK:
            return NotYet(reason="libvirt waits for its QEMU", busy=True)
        state, reason = domain.state()
    early = _judge(domain, target, state, reason)
    if early is not None:
        return early
    if not target.state():
        return plain(target, Result.GONE, "its QEMU process has ended")
    called_ns = time.monotonic_ns()
    try:
        domain.resume()
    except libvirt.libvirtError as error:
        # Somebody else was faster. Whatever it says, the state read below decides.
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise
        called_ns = 0
    return Called(called_ns=called_ns, returned_ns=time.monotonic_ns())


def look_again(domain: libvirt.virDomain, target: Target, called: Called) -> Back | NotYet:
    """The second half: what the call really did."""
    state, reason = domain.state()
    if state not in RUNS:
        late = _judge(domain, target, state, reason)
        return late or NotYet(reason="it is paused although the resume returned")
    if not called.called_ns:
        return plain(target, Result.RUNNING, "", "libvirt")
    return Back(
        uuid=target.uuid,
        result=Result.RESUMED,
        way="libvirt",
        called_ns=called.called_ns,
        returned_ns=called.returned_ns,
    )


def _judge(
    domain: libvirt.virDomain, target: Target, state: int, reason: int
) -> Back | NotYet | None:
    """What a state says; None when the guest is paused, by user, in the process we know.

    The id stands for one QEMU process as long as the connection lives: it is compared with the
    one looked up on this connection, and the process itself is checked in /proc."""
    if domain.ID() != target.domain_id:
        fresh = domain.connect().lookupByUUIDString(target.uuid)
        if fresh.ID() != target.domain_id:
            return NotYet(reason="libvirt knows it under another id, while its process lives")
    if state in RUNS:
        return plain(target, Result.RUNNING, "", "libvirt")
    if state == libvirt.VIR_DOMAIN_CRASHED:
        return plain(target, Result.GONE, "it crashed")
    if state in (libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTOFF):
        return NotYet(reason="it is shutting down")
    if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        return plain(target, Result.NOT_OURS, "it sleeps")
    if state == libvirt.VIR_DOMAIN_PAUSED and reason != libvirt.VIR_DOMAIN_PAUSED_USER:
        words = PAUSED_REASONS.get(reason, "an unknown reason")
        return plain(target, Result.NOT_OURS, f"it is paused for {words}")
    if state != libvirt.VIR_DOMAIN_PAUSED:
        return NotYet(reason="libvirt does not know its state")
    return None
