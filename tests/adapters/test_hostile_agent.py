"""Agents that lie, mumble, are late or silent: each costs its own guest an answer, and no more."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from hostagent.adapters.libvirt.agent import LibvirtAgent
from hostagent.core.clock import (
    Abilities,
    Answer,
    ClockReading,
    Learn,
    Method,
    NoAnswer,
    Question,
    Read,
    Refusal,
    Set,
    WasSet,
)
from lab import Guest, GuestSort, GuestSpec, Lab
from lab.host import Host
from lab.processes import wait_until
from lab.scripted_agent import Reply, ScriptedAgent, error, returned

MS = 1_000_000
S = 1_000_000_000
ANSWER_S = 5
BESIDE_S = 1.5
HONEST_NS = 50 * MS
BREAKING = {"NaN", "no JSON", "10 MiB", "neither result nor error", "no object", "no text"}
"""Answers that libvirt's own parser refuses: it gives up the channel."""
DEEP = b'{"return": ' + b"[" * 10_000 + b"]" * 10_000 + b"}\n"
LONG = b'{"return": "' + b"x" * (10 * 1024 * 1024) + b'"}\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A guest whose agent the test plays, and an honest one beside it."""

    script: ScriptedAgent
    guest: Guest
    beside: Guest
    agent: LibvirtAgent
    host: Host


@pytest.fixture
def stage(make_light_lab: Callable[..., Lab]) -> Iterator[Stage]:
    lab = make_light_lab(guests=[GuestSpec(sort=GuestSort.SCRIPTED), GuestSpec()])
    host = lab.hosts[0]
    guest = host.guest("g1")
    with ScriptedAgent(guest) as script:
        yield Stage(
            script=script,
            guest=guest,
            beside=host.guest("g2"),
            agent=LibvirtAgent(host.uri),
            host=host,
        )


def _raw(text: bytes) -> Reply:
    return lambda _request: text


def _silence(_request: dict[str, Any]) -> None:
    return None


def _ask(stage: Stage, question: Question) -> Answer:
    """The answer of the scripted guest, which has to come in time; meanwhile the honest guest
    beside it answers right away."""
    answers: list[Answer] = []
    asking = threading.Thread(
        target=lambda: answers.append(stage.agent.ask(stage.guest.uuid, question)), daemon=True
    )
    asking.start()
    began = time.monotonic()
    beside = stage.agent.ask(stage.beside.uuid, Read())
    assert isinstance(beside, ClockReading), beside
    assert time.monotonic() - began < BESIDE_S
    asking.join(began + ANSWER_S - time.monotonic())
    assert answers, f"no answer within {ANSWER_S} s"
    return answers[0]


@contextmanager
def _told(
    stage: Stage, command: str, reply: Reply, *, drip_s: float = 0, breaks: bool = False
) -> Iterator[None]:
    """The agent lies while this lasts, and is honest again soon afterwards. What `breaks` the
    channel makes libvirt give it up until its port is opened anew or libvirtd is restarted."""
    stage.script.replies[command] = reply
    stage.script.drip_s = drip_s
    yield
    stage.script.replies.clear()
    stage.script.drip_s = 0
    if breaks:
        stage.host.restart_libvirtd()
        wait_until(lambda: _beside_reads(stage), 2 * ANSWER_S, "the agent beside")
    until = time.monotonic() + 2 * ANSWER_S
    while not isinstance(answer := stage.agent.ask(stage.guest.uuid, Read()), ClockReading):
        assert time.monotonic() < until, answer
        time.sleep(0.1)
    _is_honest(answer)


def _beside_reads(stage: Stage) -> bool:
    return isinstance(stage.agent.ask(stage.beside.uuid, Read()), ClockReading)


def _is_honest(answer: Answer, offset_ns: int = 0) -> None:
    assert isinstance(answer, ClockReading), answer
    assert abs(answer.offset_ns - offset_ns) <= answer.uncertainty_ns + HONEST_NS


def _refusal(answer: Answer) -> Refusal:
    assert isinstance(answer, NoAnswer), answer
    assert len(answer.reason) < 300
    return answer.refusal


def test_an_honest_agent_is_believed(stage: Stage) -> None:
    stage.script.offset_ns = -3600 * S
    _is_honest(_ask(stage, Read()), -3600 * S)
    assert isinstance(_ask(stage, Set(method=Method.AGENT, ahead_ns=0)), WasSet)
    assert abs(stage.script.offset_ns) < HONEST_NS
    answer = _ask(stage, Learn())
    assert isinstance(answer, Abilities)
    assert "guest-set-time" in answer.enabled
    assert "guest-exec" not in answer.enabled
    assert _refusal(_ask(stage, Set(method=Method.DATE, ahead_ns=0))) is Refusal.DISABLED
    assert "guest-exec" in stage.script.asked


WRONG_TIMES = {
    "negative": (_raw(b'{"return": -5000000000}\n'), Refusal.NONSENSE),
    "2**63": (_raw(b'{"return": 9223372036854775808}\n'), Refusal.NONSENSE),
    "2**63 - 1": (_raw(b'{"return": 9223372036854775807}\n'), Refusal.NONSENSE),
    "text": (_raw(b'{"return": "noon"}\n'), Refusal.NONSENSE),
    "null": (_raw(b'{"return": null}\n'), Refusal.NONSENSE),
    "NaN": (_raw(b'{"return": NaN}\n'), None),
    "no JSON": (_raw(b"what?\n"), None),
    "10 MiB": (_raw(LONG), None),
    "deep": (_raw(DEEP), None),
    "an id": (_raw(returned({"id": 1234567})), Refusal.NONSENSE),
    "neither result nor error": (_raw(b'{"id": 7}\n'), Refusal.NONSENSE),
    "no object": (_raw(b"[1]\n"), Refusal.NONSENSE),
    "no text": (_raw(b'{"error": {"desc": "\xff\xfe"}}\n'), Refusal.NONSENSE),
    "error": (_raw(error("GenericError", "it hurts " * 100)), Refusal.FAILED),
    "silence": (_silence, Refusal.NO_ANSWER),
}
"""What the agent says to guest-get-time, and the refusal; None where any will do."""


def test_a_time_that_is_none_is_no_reading(stage: Stage, subtests: pytest.Subtests) -> None:
    for name, (reply, refusal) in WRONG_TIMES.items():
        with subtests.test(name), _told(stage, "guest-get-time", reply, breaks=name in BREAKING):
            said = _refusal(_ask(stage, Read()))
            assert refusal in (None, said), said


def test_a_second_answer_is_not_taken_for_the_next_one(stage: Stage) -> None:
    with _told(stage, "guest-get-time", _raw(returned(1) + returned(2))):
        _ask(stage, Read())


def test_a_byte_a_second_is_no_answer(stage: Stage) -> None:
    with _told(stage, "guest-get-time", _raw(returned(0)), drip_s=1):
        assert _refusal(_ask(stage, Read())) is Refusal.NO_ANSWER
        stage.script.drip_s = 0.001


def test_a_late_answer_is_not_taken_for_the_next_one(stage: Stage) -> None:
    """The first reading is off by a day and comes 3 s late; the second one is honest."""
    late = threading.Event()

    def reply(_request: dict[str, Any]) -> bytes:
        if late.is_set():
            return returned(time.time_ns())
        late.set()
        time.sleep(3)
        return returned(time.time_ns() - 86_400 * S)

    with _told(stage, "guest-get-time", reply):
        assert _refusal(_ask(stage, Read())) is Refusal.NO_ANSWER
        answer = _ask(stage, Read())
        if isinstance(answer, NoAnswer):
            answer = _ask(stage, Read())
        _is_honest(answer)


WRONG_INFOS = {
    "deep": DEEP,
    "deep inside": b'{"return": {"supported_commands": ' + b"[" * 100 + b"]" * 100 + b"}}\n",
    "too long": returned({"supported_commands": [], "version": "x" * (2 * 1024 * 1024)}),
    "too long for libvirt": returned({"version": "x" * (5 * 1024 * 1024)}),
    "NaN": b'{"return": {"supported_commands": [], "version": NaN}}\n',
    "no list": returned({"supported_commands": {"name": "guest-exec"}}),
    "a number": returned(7),
    "empty": returned({}),
}


def test_an_information_that_is_none_is_nonsense(stage: Stage, subtests: pytest.Subtests) -> None:
    for name, reply in WRONG_INFOS.items():
        with subtests.test(name), _told(stage, "guest-info", _raw(reply), breaks=name in BREAKING):
            answer = _ask(stage, Learn())
            assert _refusal(answer) is Refusal.NONSENSE, answer


WRONG_ENDS = {
    "never": (returned({"exited": False}), Refusal.NO_ANSWER),
    "no object": (returned([True]), Refusal.NONSENSE),
    "no status": (returned({"exited": True}), Refusal.FAILED),
    "text": (returned({"exited": True, "exitcode": "0"}), Refusal.FAILED),
    "no base64": (returned({"exited": True, "exitcode": 1, "err-data": {}}), Refusal.FAILED),
    "a cursor": (
        returned({"exited": True, "exitcode": 1, "err-data": "G1syShtbMks="}),
        Refusal.FAILED,
    ),
}
"""What the agent says to guest-exec-status."""


def test_a_program_that_does_not_end_well_sets_nothing(
    stage: Stage, subtests: pytest.Subtests
) -> None:
    for name, (reply, refusal) in WRONG_ENDS.items():
        stage.script.replies["guest-exec"] = _raw(returned({"pid": 2**70}))
        with subtests.test(name), _told(stage, "guest-exec-status", _raw(reply)):
            answer = _ask(stage, Set(method=Method.DATE, ahead_ns=0))
            assert _refusal(answer) is refusal, answer
            assert isinstance(answer, NoAnswer)
            assert answer.reason.isprintable()


def test_commands_that_are_none_are_not_offered(stage: Stage) -> None:
    commands = [7, None, {"name": 7, "enabled": True}, {"name": "guest-exec", "enabled": "yes"}]
    reply = _raw(returned({"supported_commands": commands}))
    with _told(stage, "guest-info", reply):
        assert _ask(stage, Learn()) == Abilities(enabled=frozenset())
