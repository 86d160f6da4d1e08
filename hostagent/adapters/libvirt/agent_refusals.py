"""Why a guest's agent gave no answer, out of libvirt's errors.

Layer: adapters. libvirt tells many of these apart by its words only (src/qemu/qemu_agent.c,
qemu_domain.c), and QEMU's agent has hardly any error classes (qga/main.c, qga/commands-posix.c), so
this is a table of words, most telling first. Words that came from the guest are cut and shown as
what the agent said. Effects: none.
"""

import libvirt

from hostagent.adapters.libvirt import errors
from hostagent.core.clock import NoAnswer, Refusal

LONGEST = 200
"""Characters of what an agent says that are passed on."""

NOT_CONNECTED = NoAnswer(refusal=Refusal.NOT_CONNECTED, reason="its agent is not connected")
NO_ANSWER = NoAnswer(refusal=Refusal.NO_ANSWER, reason="its agent does not answer")
NO_AGENT = NoAnswer(refusal=Refusal.NO_AGENT, reason="it has no agent's channel")
NOT_RUNNING = NoAnswer(refusal=Refusal.NOT_RUNNING, reason="it does not run")
FROZEN = NoAnswer(
    refusal=Refusal.FROZEN, reason="its file systems are frozen: its agent refuses everything else"
)
HELD = NoAnswer(refusal=Refusal.NO_ANSWER, reason="another operation holds its agent")

_BY_CODE = {
    libvirt.VIR_ERR_AGENT_UNSYNCED: NO_ANSWER,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: NO_AGENT,
    libvirt.VIR_ERR_OPERATION_INVALID: NOT_RUNNING,
    libvirt.VIR_ERR_NO_DOMAIN: NOT_RUNNING,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: HELD,
}
_AWAY = ("not connected", "disappeared")
"""The second one: it was there when it was asked, and its channel closed before the answer."""
_DISABLED = (
    "has been disabled",
    "has not been found",
    "not currently supported",
)
"""The words of QEMU's agent itself; a program that it ran says others."""
_NONSENSE = (
    "malformed return value",
    "missing",
    "agent response",
    "cannot parse",
    "failed to convert",
    "unable to parse",
    "not in proper format",
    "invalid json",
)
_LOST = frozenset(
    {
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_NO_SERVER,
    }
)


def refusal(error: libvirt.libvirtError) -> NoAnswer:
    """What this error means for the question that was asked."""
    said = " ".join((error.get_error_message() or "").split())
    words, code = said.lower(), error.get_error_code()
    if is_lost(error):
        return NoAnswer(refusal=Refusal.LIBVIRT, reason=errors.translate(error).message)
    if code == libvirt.VIR_ERR_AGENT_UNRESPONSIVE:
        return NOT_CONNECTED if any(word in words for word in _AWAY) else NO_ANSWER
    if code in _BY_CODE:
        return _BY_CODE[code]
    if "frozen" in words:
        return FROZEN
    if any(word in words for word in _DISABLED):
        return NoAnswer(refusal=Refusal.DISABLED, reason=f"its agent refuses: {_cut(said)}")
    if any(word in words for word in _NONSENSE):
        return nonsense(said)
    return NoAnswer(refusal=Refusal.FAILED, reason=f"its agent reports a failure: {_cut(said)}")


def nonsense(said: str) -> NoAnswer:
    """The agent answered something that is no answer."""
    return NoAnswer(
        refusal=Refusal.NONSENSE, reason=f"its agent's answer makes no sense: {_cut(said)}"
    )


def failed(said: str) -> NoAnswer:
    """The agent, or the program that it ran, reports a failure."""
    return NoAnswer(refusal=Refusal.FAILED, reason=_cut(said))


def is_lost(error: libvirt.libvirtError) -> bool:
    """Whether it is the connection to libvirt that failed, not the agent."""
    return error.get_error_domain() == errors.VIR_FROM_RPC or error.get_error_code() in _LOST


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
