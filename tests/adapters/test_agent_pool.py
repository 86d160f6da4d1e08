"""Connections for questions to agents: none shared, no more than needed, none left of a libvirt
that is gone."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack

import pytest

from hostagent.adapters.libvirt.agent import LibvirtAgent
from hostagent.adapters.libvirt.agent_pool import MOST, Line, Lines
from hostagent.core.clock import Answer, ClockReading, Method, Read, Set, WasSet
from lab.host import Host

PATIENCE_S = 10


def _at_once(agent: LibvirtAgent, uuids: Sequence[str]) -> list[Answer]:
    """Their answers to a reading that all are asked for at the same moment."""
    answers: list[Answer] = []
    start = threading.Barrier(len(uuids))

    def ask(uuid: str) -> None:
        start.wait(PATIENCE_S)
        answers.append(agent.ask(uuid, Read()))

    threads = [threading.Thread(target=ask, args=(uuid,), daemon=True) for uuid in uuids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return answers


@pytest.fixture
def lines(light_host: Host) -> Lines:
    return Lines(light_host.uri)


def test_no_connection_is_shared(lines: Lines) -> None:
    """A call that hangs holds up those beside it on its connection."""
    with ExitStack() as stack:
        lent = [stack.enter_context(lines.lend()) for _ in range(MOST)]
        assert len(set(map(id, lent))) == MOST


def test_beyond_that_one_waits_for_a_place(lines: Lines) -> None:
    got: list[Line] = []

    def take() -> None:
        with lines.lend() as line:
            got.append(line)

    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(lines.lend())
        waiting = threading.Thread(target=take, daemon=True)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join(PATIENCE_S)
    assert len(got) == 1


def test_one_call_after_the_other_needs_one_connection(lines: Lines) -> None:
    with lines.lend() as first:
        pass
    with lines.lend() as second:
        assert second is first


def test_a_connection_that_broke_takes_those_beside_it_with_it(lines: Lines) -> None:
    with lines.lend() as first, lines.lend() as second:
        assert first is not second
        lines.drop(first)
        with lines.lend() as third:
            assert third not in (first, second)
    with lines.lend() as fourth:
        assert fourth is third


def test_an_old_one_that_breaks_later_takes_no_new_one_with_it(lines: Lines) -> None:
    with lines.lend() as first, lines.lend() as second:
        lines.drop(first)
        with lines.lend() as third:
            pass
        lines.drop(second)
        with lines.lend() as fourth:
            assert fourth is third


def test_who_opens_at_the_same_moment_opens_no_more(light_host: Host) -> None:
    agent = LibvirtAgent(light_host.uri)
    uuids = [light_host.guest(name).uuid for name in ("g1", "g2", "g4")] * 8
    answers = _at_once(agent, uuids)
    assert [type(answer) for answer in answers] == [ClockReading] * len(uuids), answers
    assert len(agent._lines._free) <= MOST


def test_after_a_restart_of_libvirt_no_old_connection_is_left(light_host: Host) -> None:
    """A set is never sent twice, so it must not meet one that is broken."""
    agent = LibvirtAgent(light_host.uri)
    uuids = [light_host.guest(name).uuid for name in ("g1", "g2", "g4")]
    _at_once(agent, uuids * 2)
    assert len(agent._lines._free) > 1
    light_host.restart_libvirtd()
    light_host.guest("g1").wait_agent()
    reading = agent.ask(uuids[0], Read())
    assert isinstance(reading, ClockReading), reading
    for _ in range(MOST):
        answer = agent.ask(uuids[0], Set(method=Method.AGENT, ahead_ns=0))
        assert isinstance(answer, WasSet), answer
