"""Why a guest's agent gave no answer, out of libvirt's errors.

Layer: adapters. libvirt tells many of these apart by its words only (src/qemu/qemu_agent.c,
qemu_domain.c), and QEMU's agent has hardly any error classes (qga/main.c, qga/commands-posix.c), so
this is a table of words, most telling first. What the agent said is told from what libvirt says of
it, so that no agent can pretend to be libvirt; it is cut, and shown as the agent's. Effects: none.
"""

import re

import libvirt

from hostagent.adapters.libvirt import errors
from hostagent.core.clock import NoAnswer, Refusal

LONGEST = 200
"""Characters of what an agent says, and of what we say of it, that are passed on."""

NOT_CONNECTED = NoAnswer(refusal=Refusal.NOT_CONNECTED, reason="its agent is not connected")
NO_ANSWER = NoAnswer(refusal=Refusal.NO_ANSWER, reason="its agent does not answer")
NO_AGENT = NoAnswer(refusal=Refusal.NO_AGENT, reason="it has no agent's channel")
NOT_RUNNING = NoAnswer(refusal=Refusal.NOT_RUNNING, reason="it does not run")
FROZEN = NoAnswer(
    refusal=Refusal.FROZEN, reason="its file systems are frozen: its agent refuses everything else"
)
HELD = NoAnswer(refusal=Refusal.NO_ANSWER, reason="another operation holds its agent")

GIVEN_UP = NoAnswer(
    refusal=Refusal.NO_ANSWER,
    reason="libvirt has given its agent up, because it answered rubbish: restart the agent",
)

_COMMAND_TIMEOUT = 112
"""VIR_ERR_AGENT_COMMAND_TIMEOUT of newer libvirts; the binding does not know it yet."""
_BY_CODE = {
    libvirt.VIR_ERR_AGENT_UNSYNCED: NO_ANSWER,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: NO_AGENT,
    libvirt.VIR_ERR_OPERATION_INVALID: NOT_RUNNING,
    libvirt.VIR_ERR_NO_DOMAIN: NOT_RUNNING,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: HELD,
}
_AWAY = ("not connected", "disappeared", "end of file from agent")
"""The last two: it was there when it was asked, and its channel closed before the answer."""
_DISABLED = ("has been disabled", "has not been found", "not currently supported")
"""The words of QEMU's agent itself; a program that it ran says others."""
_TOO_LONG = "unable to encode message payload"
_NONSENSE = (
    "malformed return value",
    "missing agent reply",
    "no complete agent response",
    "json",
    "error while processing agent io",
    _TOO_LONG,
)
"""libvirt's own words for an answer that it can't use."""
_AGENT_SAID = re.compile(r"unable to execute QEMU agent command '([^']*)'(?:: (.*))?", re.DOTALL)
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
    if code in (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, _COMMAND_TIMEOUT):
        return _unresponsive(words)
    if code in _BY_CODE:
        return _BY_CODE[code]
    by_agent = _AGENT_SAID.search(said)
    if by_agent is not None:
        return _said_by_agent(command=by_agent[1], words=by_agent[2])
    if any(word in words for word in _AWAY):
        return NOT_CONNECTED
    if any(word in words for word in _NONSENSE):
        return nonsense(said.removeprefix("internal error: "))
    return failed(f"its agent could not be asked: {said}")


def _unresponsive(words: str) -> NoAnswer:
    if any(word in words for word in _AWAY):
        return NOT_CONNECTED
    return GIVEN_UP if "due to an error" in words else NO_ANSWER


def _said_by_agent(*, command: str, words: str | None) -> NoAnswer:
    """The agent answered with an error, or (no words) with neither a result nor an error."""
    if words is None:
        return nonsense(f"{command} returned nothing")
    if "frozen" in words.lower():
        return FROZEN
    if any(word in words.lower() for word in _DISABLED):
        reason = _cut(f"its agent refuses {command}: {words}")
        return NoAnswer(refusal=Refusal.DISABLED, reason=reason)
    return failed(f"its agent reports a failure of {command}: {words}")


def nonsense(said: str) -> NoAnswer:
    """The agent answered something that is no answer."""
    reason = _cut(f"its agent's answer makes no sense: {said}")
    return NoAnswer(refusal=Refusal.NONSENSE, reason=reason)


def failed(said: str) -> NoAnswer:
    """The agent, or the program that it ran, reports a failure."""
    return NoAnswer(refusal=Refusal.FAILED, reason=_cut(said))


def is_lost(error: libvirt.libvirtError) -> bool:
    """Whether it is the connection to libvirt that failed, not the agent."""
    if _TOO_LONG in (error.get_error_message() or "").lower():
        return False  # an agent's answer is too long for libvirt's own transport
    return error.get_error_domain() == errors.VIR_FROM_RPC or error.get_error_code() in _LOST


def _cut(text: str) -> str:
    """Short, and printable: a guest's words end up on somebody's terminal."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} ..."
