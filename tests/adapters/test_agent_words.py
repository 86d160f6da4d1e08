"""What agents and libvirt say, as values: literal words and bytes, seen on libvirt 9.0 and QEMU 7.2
where nothing else is said."""

import json
import time

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.adapters.libvirt.agent_commands import DEEPEST, LARGEST, Nonsense, parse
from hostagent.adapters.libvirt.agent_refusals import LONGEST, failed, is_lost, nonsense, refusal
from hostagent.core.clock import Refusal

INTERNAL = libvirt.VIR_ERR_INTERNAL_ERROR
UNRESPONSIVE = libvirt.VIR_ERR_AGENT_UNRESPONSIVE
SYSTEM = libvirt.VIR_ERR_SYSTEM_ERROR
NEWER_TIMEOUT, NEWER_FAILED = 112, 113
"""VIR_ERR_AGENT_COMMAND_TIMEOUT and _FAILED; not in libvirt 9.0."""
AGENT_SAID = "internal error: unable to execute QEMU agent command 'guest-set-time': "
AWAY = "Guest agent is not responding: "


def _error(code: int, words: str, domain: int = libvirt.VIR_FROM_QEMU) -> libvirt.libvirtError:
    error = libvirt.libvirtError("a call failed")
    error.err = (code, domain, words, 2, None, None, None, 0, 0)  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        (UNRESPONSIVE, AWAY + "QEMU guest agent is not connected", Refusal.NOT_CONNECTED),
        (
            UNRESPONSIVE,
            AWAY + "Guest agent disappeared while executing command",
            Refusal.NOT_CONNECTED,
        ),
        (
            NEWER_TIMEOUT,
            "guest agent command timed out: Guest agent disappeared while executing command",
            Refusal.NOT_CONNECTED,
        ),
        (INTERNAL, "internal error: End of file from agent socket", Refusal.NOT_CONNECTED),
        (UNRESPONSIVE, AWAY + "Guest agent not available for now", Refusal.NO_ANSWER),
        (NEWER_TIMEOUT, "guest agent command timed out: not within 2 s", Refusal.NO_ANSWER),
        (
            UNRESPONSIVE,
            AWAY + "QEMU guest agent is not available due to an error",
            Refusal.NO_ANSWER,
        ),
        (libvirt.VIR_ERR_AGENT_UNSYNCED, "guest agent replied with wrong id", Refusal.NO_ANSWER),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, "cannot acquire state change lock", Refusal.NO_ANSWER),
        (
            libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
            "argument unsupported: QEMU guest agent is not configured",
            Refusal.NO_AGENT,
        ),
        (libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running", Refusal.NOT_RUNNING),
        (libvirt.VIR_ERR_NO_DOMAIN, "Domain not found", Refusal.NOT_RUNNING),
        (
            INTERNAL,
            AGENT_SAID + "Command guest-set-time has been disabled: the agent is in frozen state",
            Refusal.FROZEN,
        ),
        (
            NEWER_FAILED,
            "guest agent command failed: unable to execute QEMU agent command 'guest-set-time': "
            "Command guest-set-time has been disabled: the agent is in frozen state",
            Refusal.FROZEN,
        ),
        (INTERNAL, AGENT_SAID + "Command guest-set-time has been disabled", Refusal.DISABLED),
        (INTERNAL, AGENT_SAID + "The command has not been found", Refusal.DISABLED),
        (
            INTERNAL,
            AGENT_SAID + "this feature or command is not currently supported",
            Refusal.DISABLED,
        ),
        (INTERNAL, AGENT_SAID + "hwclock failed to set hardware clock", Refusal.FAILED),
        (INTERNAL, AGENT_SAID + "missing /dev/rtc: cannot parse json", Refusal.FAILED),
        (INTERNAL, AGENT_SAID + "QEMU guest agent is not connected", Refusal.FAILED),
        (INTERNAL, AGENT_SAID.removesuffix(": "), Refusal.NONSENSE),
        (INTERNAL, "internal error: malformed return value", Refusal.NONSENSE),
        (INTERNAL, "internal error: Missing agent reply object", Refusal.NONSENSE),
        (INTERNAL, "internal error: Unknown JSON reply '{}'", Refusal.NONSENSE),
        (INTERNAL, "internal error: Parsed JSON reply '[1]' isn't an object", Refusal.NONSENSE),
        (INTERNAL, "internal error: cannot parse json what?: lexical error", Refusal.NONSENSE),
        (SYSTEM, "No complete agent response found in 10485760 bytes", Refusal.NONSENSE),
        (INTERNAL, "internal error: something else", Refusal.FAILED),
    ],
)
def test_an_error_is_known_by_its_words(code: int, words: str, expected: Refusal) -> None:
    answer = refusal(_error(code, words))
    assert answer.refusal is expected
    assert "internal error" not in answer.reason or expected is Refusal.FAILED
    assert not is_lost(_error(code, words))


def test_an_agent_that_libvirt_gave_up_is_to_be_restarted() -> None:
    words = AWAY + "QEMU guest agent is not available due to an error"
    assert "restart the agent" in refusal(_error(UNRESPONSIVE, words)).reason


def test_a_broken_connection_is_no_word_of_the_agent() -> None:
    broken = _error(INTERNAL, "internal error: client socket is closed", libvirt.VIR_FROM_RPC)
    assert is_lost(broken)
    assert refusal(broken).refusal is Refusal.LIBVIRT


def test_an_answer_too_long_for_libvirt_is_no_broken_connection() -> None:
    words = "Unable to encode message payload"
    too_long = _error(libvirt.VIR_ERR_RPC, words, libvirt.VIR_FROM_RPC)
    assert not is_lost(too_long)
    assert refusal(too_long).refusal is Refusal.NONSENSE


@given(st.text())
def test_what_an_agent_says_is_passed_on_short_and_printable(text: str) -> None:
    for answer in (refusal(_error(INTERNAL, AGENT_SAID + text)), nonsense(text), failed(text)):
        assert len(answer.reason) <= LONGEST + len(" ...")
        assert answer.reason.isprintable()


def test_a_reply_is_an_object() -> None:
    assert parse('{"return": {"pid": 7}}') == {"return": {"pid": 7}}


NESTED = "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "what?",
        "7",
        "[]",
        '{"return": NaN}',
        '{"return": -Infinity}',
        '{"return": ' + "9" * 5000 + "}",
        '{"return": ' + NESTED + "}",
        '{"return": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "[" * 500_000,
        '{"return": {"a":' * 50_000,
        '{"hidden": "' + "]" * 1000 + '", "return": ' + NESTED + "}",
        '{"return": ' + '["]",' * (DEEPEST + 1) + "0" + "]" * (DEEPEST + 1) + "}",
        '{"return": "' + "x" * LARGEST + '"}',
        '{"return": "never ended',
        '{"return": "never ended\\',
    ],
    ids=lambda reply: reply[:24],
)
def test_anything_else_is_nonsense(reply: str) -> None:
    with pytest.raises(Nonsense):
        parse(reply)


def test_brackets_inside_of_a_string_are_no_nesting() -> None:
    text = '\\"[{' * 1000
    assert parse(json.dumps({"return": text})) == {"return": text}


@pytest.mark.parametrize("piece", ['\\"', '"', '"\\', "[]", '"",', "\\"])
def test_no_reply_takes_long_to_look_at(piece: str) -> None:
    """A long one is looked at once: about 0.2 s, where twice for each letter would be minutes."""
    reply = '{"return": "' + piece * (LARGEST // len(piece) - 20)
    began = time.process_time()
    with pytest.raises(Nonsense):
        parse(reply)
    assert time.process_time() - began < 3
