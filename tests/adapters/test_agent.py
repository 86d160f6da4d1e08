"""Guests' clocks through real agents; agents that hang, are away or refuse."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from hostagent.adapters.libvirt.agent import LibvirtAgent
from hostagent.adapters.libvirt.agent_pool import LIMITED_NS
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
from lab import Guest
from lab.guests import Hwclock
from lab.host import Host
from lab.processes import wait_until

MS = 1_000_000
S = 1_000_000_000
SLACK_NS = 5 * MS
"""Beside what both readings admit: the guest's clock and the host's run on in between."""
FOR_EVER = -2
"""VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK."""
NO_ANSWER_S = 4.5
"""libvirt's 2 s, and as much again to bring the channel into step."""


@pytest.fixture
def agent(light_host: Host) -> LibvirtAgent:
    return LibvirtAgent(light_host.uri)


@pytest.fixture
def afterwards() -> Iterator[ExitStack]:
    """What puts a guest back, whatever becomes of the test."""
    with ExitStack() as stack:
        yield stack


def _read(agent: LibvirtAgent, guest: Guest) -> ClockReading:
    answer = agent.ask(guest.uuid, Read())
    assert isinstance(answer, ClockReading), answer
    return answer


def _refusal(answer: Answer) -> Refusal:
    assert isinstance(answer, NoAnswer), answer
    return answer.refusal


def _set(method: Method, ahead_ns: int = 0) -> Question:
    return Set(method=method, ahead_ns=ahead_ns)


def _off_ns(guest: Guest) -> int:
    reading = guest.clock()
    return abs(reading.guest_minus_host_ns) - reading.uncertainty_ns


def _put_wrong(guest: Guest, afterwards: ExitStack) -> None:
    """An hour late, and right again (to the second) at the end of the test."""
    afterwards.callback(lambda: guest.shell(f"date -u -s @{round(time.time())}"))
    guest.shell(f"date -u -s @{int(time.time()) - 3600}")
    assert _off_ns(guest) > 3500 * S


@pytest.mark.parametrize("name", ["g1", "g2", "g4"])
def test_a_reading_agrees_with_the_lab(light_host: Host, agent: LibvirtAgent, name: str) -> None:
    guest = light_host.guest(name)
    reading = _read(agent, guest)
    inside = guest.clock()
    apart_ns = abs(reading.offset_ns - inside.guest_minus_host_ns)
    assert apart_ns < reading.uncertainty_ns + inside.uncertainty_ns + SLACK_NS
    shift_ns = time.time_ns() - time.monotonic_ns()
    assert abs(reading.behind_ns + reading.offset_ns + shift_ns) < SLACK_NS


def test_two_readings_tell_how_long_a_guest_stood_still(
    light_host: Host, agent: LibvirtAgent, afterwards: ExitStack
) -> None:
    guest = light_host.guest("g1")
    before = _read(agent, guest)
    afterwards.callback(lambda: agent.ask(guest.uuid, _set(Method.AGENT)))
    guest.suspend()
    time.sleep(1)
    guest.resume()
    after = _read(agent, guest)
    slack_ns = before.uncertainty_ns + after.uncertainty_ns
    assert S - slack_ns <= after.behind_ns - before.behind_ns < 1.2 * S + slack_ns


def test_set_by_the_agent(light_host: Host, agent: LibvirtAgent, afterwards: ExitStack) -> None:
    guest = light_host.guest("g1")
    _put_wrong(guest, afterwards)
    half_ns = _read(agent, guest).uncertainty_ns
    answer = agent.ask(guest.uuid, _set(Method.AGENT, half_ns))
    assert isinstance(answer, WasSet), answer
    assert _off_ns(guest) < SLACK_NS


def test_ahead_is_added(light_host: Host, agent: LibvirtAgent, afterwards: ExitStack) -> None:
    guest = light_host.guest("g1")
    afterwards.callback(lambda: agent.ask(guest.uuid, _set(Method.AGENT)))
    assert isinstance(agent.ask(guest.uuid, _set(Method.AGENT, 100 * S)), WasSet)
    assert abs(guest.clock().guest_minus_host_ns - 100 * S) < 50 * MS


def test_a_guest_without_a_channel_says_so(light_host: Host, agent: LibvirtAgent) -> None:
    uuid = light_host.guest("g3").uuid
    questions: list[Question] = [Read(), Learn(), *map(_set, Method)]
    assert {_refusal(agent.ask(uuid, each)) for each in questions} == {Refusal.NO_AGENT}


def test_a_guest_that_stands_still_says_so(
    light_host: Host, agent: LibvirtAgent, afterwards: ExitStack
) -> None:
    guest = light_host.guest("g1")
    guest.suspend()
    afterwards.callback(lambda: agent.ask(guest.uuid, _set(Method.AGENT)))
    afterwards.callback(guest.resume)
    assert _refusal(agent.ask(guest.uuid, Read())) is Refusal.NOT_RUNNING
    assert _refusal(agent.ask(guest.uuid, _set(Method.AGENT))) is Refusal.NOT_RUNNING


def test_an_unknown_guest_does_not_run(agent: LibvirtAgent) -> None:
    answer = agent.ask("00000000-0000-4000-8000-000000000000", Read())
    assert _refusal(answer) is Refusal.NOT_RUNNING


def test_frozen_file_systems_are_named(
    light_host: Host, agent: LibvirtAgent, afterwards: ExitStack
) -> None:
    guest = light_host.guest("g2")
    afterwards.callback(
        lambda: guest.call("thaw", lambda domain: domain.fsThaw())  # type: ignore[attr-defined]
    )
    guest.call("freeze", lambda domain: domain.fsFreeze())  # type: ignore[attr-defined]
    assert _refusal(agent.ask(guest.uuid, Read())) is Refusal.FROZEN
    assert _refusal(agent.ask(guest.uuid, _set(Method.AGENT))) is Refusal.FROZEN
    assert _refusal(agent.ask(guest.uuid, _set(Method.DATE))) is Refusal.FROZEN


def test_a_guest_without_hwclock_is_set_by_date_at_a_whole_second(
    light_host: Host, agent: LibvirtAgent, afterwards: ExitStack
) -> None:
    guest = light_host.guest("g4")
    guest.hwclock(Hwclock.MISSING)
    _put_wrong(guest, afterwards)
    assert _refusal(agent.ask(guest.uuid, _set(Method.AGENT))) is Refusal.DISABLED
    assert _refusal(agent.ask(guest.uuid, _set(Method.DATE))) is Refusal.FAILED
    half_ns = _read(agent, guest).uncertainty_ns
    answer = agent.ask(guest.uuid, _set(Method.DATE_SECONDS, half_ns))
    assert isinstance(answer, WasSet), answer
    assert _off_ns(guest) < 100 * MS


def test_learn_lists_what_the_agent_offers(light_host: Host, agent: LibvirtAgent) -> None:
    answer = agent.ask(light_host.guest("g1").uuid, Learn())
    assert isinstance(answer, Abilities), answer
    assert {"guest-exec", "guest-set-time", "guest-get-time"} <= answer.enabled


@pytest.mark.parametrize("question", [Read(), _set(Method.AGENT)], ids=["read", "set"])
def test_an_agent_that_is_stopped_does_not_answer(
    light_host: Host, agent: LibvirtAgent, afterwards: ExitStack, question: Question
) -> None:
    guest = light_host.guest("g1")
    afterwards.callback(lambda: guest.shell("kill -CONT $(pidof qemu-ga)"))
    guest.shell("kill -STOP $(pidof qemu-ga)")
    began = time.monotonic()
    assert _refusal(agent.ask(guest.uuid, question)) is Refusal.NO_ANSWER
    assert time.monotonic() - began < NO_ANSWER_S
    began = time.monotonic()
    _read(agent, light_host.guest("g2"))
    assert time.monotonic() - began < 1
    guest.shell("kill -CONT $(pidof qemu-ga)")
    _read(agent, guest)


def test_an_agent_that_is_started_anew_is_waited_for(
    light_host: Host, agent: LibvirtAgent, afterwards: ExitStack
) -> None:
    guest = light_host.guest("g1")
    afterwards.callback(lambda: guest.shell("echo 1 >/run/agent-respawn"))
    guest.shell("echo 1 >/run/agent-respawn; kill $(pidof qemu-ga)")
    _soon(lambda: _is_away(agent.ask(guest.uuid, Read())))
    assert agent.await_connected(guest.uuid, time.monotonic_ns() + 10 * S)
    _read(agent, guest)


def test_an_agent_that_is_connected_is_not_waited_for(
    light_host: Host, agent: LibvirtAgent
) -> None:
    for name in ("g1", "g2", "g4"):
        began = time.monotonic()
        assert agent.await_connected(light_host.guest(name).uuid, time.monotonic_ns() + 5 * S)
        assert time.monotonic() - began < 0.2


def test_many_agents_are_waited_for_at_once(
    light_host: Host, agent: LibvirtAgent, afterwards: ExitStack
) -> None:
    """They come back one after the other, g3 never does; libvirt is restarted in between."""
    arrivals: dict[str, bool] = {}

    def wait(guest: Guest, until_ns: int) -> None:
        arrivals[guest.name] = agent.await_connected(guest.uuid, until_ns)

    for name, later_s in (("g1", 1), ("g2", 2), ("g4", 3)):
        guest = light_host.guest(name)
        afterwards.callback(guest.shell, "echo 1 >/run/agent-respawn")
        guest.shell(f"echo {later_s} >/run/agent-respawn; kill $(pidof qemu-ga)")
        _soon(lambda guest=guest: _is_away(agent.ask(guest.uuid, Read())))
    threads = [
        threading.Thread(target=wait, args=(guest, time.monotonic_ns() + 6 * S), daemon=True)
        for guest in light_host.guests
    ]
    for thread in threads:
        thread.start()
    light_host.restart_libvirtd()
    for thread in threads:
        thread.join(8)
    assert arrivals == {"g1": True, "g2": True, "g3": False, "g4": True}
    for name in ("g1", "g2", "g4"):
        _read(agent, light_host.guest(name))


def test_an_agent_that_ends_in_mid_call_is_away(
    light_host: Host, agent: LibvirtAgent, afterwards: ExitStack
) -> None:
    guest = light_host.guest("g1")
    afterwards.callback(guest.shell, "kill -CONT $(pidof qemu-ga) || true")
    guest.shell("kill -STOP $(pidof qemu-ga)")
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(agent.ask(guest.uuid, Read())))
    asking.start()
    asking.join(0.3)
    guest.shell("kill -KILL $(pidof qemu-ga)")
    asking.join(NO_ANSWER_S)
    assert _refusal(answers[0]) is Refusal.NOT_CONNECTED, answers
    assert agent.await_connected(guest.uuid, time.monotonic_ns() + 10 * S)
    _read(agent, guest)


def test_a_limit_that_somebody_else_took_away_is_set_again(
    light_host: Host, agent: LibvirtAgent, afterwards: ExitStack
) -> None:
    """It is the guest's, not ours: without it the second question would have no end."""
    guest = light_host.guest("g1")
    _read(agent, guest)
    guest.call("timeout", lambda domain: domain.agentSetResponseTimeout(FOR_EVER))
    time.sleep(LIMITED_NS / S)
    afterwards.callback(guest.shell, "kill -CONT $(pidof qemu-ga)")
    guest.shell("kill -STOP $(pidof qemu-ga)")
    answers: list[Answer] = []
    asking = threading.Thread(
        target=lambda: answers.append(agent.ask(guest.uuid, Read())), daemon=True
    )
    asking.start()
    asking.join(NO_ANSWER_S)
    assert answers, "the question has no limit"
    assert _refusal(answers[0]) is Refusal.NO_ANSWER


def test_an_agent_that_stays_away_is_waited_for_until_the_limit(
    light_host: Host, agent: LibvirtAgent
) -> None:
    began = time.monotonic()
    uuid = light_host.guest("g3").uuid
    assert not agent.await_connected(uuid, time.monotonic_ns() + S // 2)
    assert 0.5 <= time.monotonic() - began < 0.8


def test_a_restart_of_libvirt_costs_no_reading(light_host: Host, agent: LibvirtAgent) -> None:
    guest = light_host.guest("g1")
    _read(agent, guest)
    light_host.restart_libvirtd()
    assert agent.await_connected(guest.uuid, time.monotonic_ns() + 10 * S)
    wait_until(lambda: is_read(agent, guest), 5, "a reading")  # libvirt says so a moment early


def is_read(agent: LibvirtAgent, guest: Guest) -> bool:
    return isinstance(agent.ask(guest.uuid, Read()), ClockReading)


def test_a_frozen_libvirt_holds_only_the_thread_that_asks(
    light_host: Host, agent: LibvirtAgent, afterwards: ExitStack
) -> None:
    guest = light_host.guest("g1")
    _read(agent, guest)
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(agent.ask(guest.uuid, Read())))
    light_host.freeze()
    afterwards.callback(light_host.thaw)
    asking.start()
    asking.join(1)
    assert asking.is_alive()
    began = time.monotonic()
    assert not agent.await_connected(guest.uuid, time.monotonic_ns() + S // 2)
    assert time.monotonic() - began < 0.8
    light_host.thaw()
    asking.join(10)
    assert isinstance(answers[0], ClockReading), answers


def _is_away(answer: Answer) -> bool:
    return isinstance(answer, NoAnswer) and answer.refusal is Refusal.NOT_CONNECTED


def _soon(happens: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not happens():
        assert time.monotonic() < until
