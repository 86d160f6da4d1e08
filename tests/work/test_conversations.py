"""Conversations with many agents: who goes first, who waits for nobody, and when it is over."""

import threading
from collections.abc import Iterator, Sequence

import pytest

from hostagent.core.clock import Exchange, Question, Set
from hostagent.rules import clock
from hostagent.rules.clock import ClockTask, ClockVerdict
from hostagent.work.conversations import Conversations
from tests.work.scripted_agents import ScriptedAgent, ScriptedAgents

S = 1_000_000_000
LONG_S = 10


def decide(_uuid: str, history: Sequence[Exchange], left_ns: int) -> Question | ClockVerdict:
    return clock.next(ClockTask(trusted=True), history, left_ns)


def sync(
    agents: ScriptedAgents, limit_s: float = 20, wait_ns: dict[str, int] | None = None
) -> dict[str, ClockVerdict]:
    talks = Conversations[ClockVerdict](agents, decide, int(limit_s * S))
    return talks.hold(list(agents.agents), wait_ns)


@pytest.fixture
def agents(request: pytest.FixtureRequest) -> Iterator[ScriptedAgents]:
    """Nineteen guests, all 3 s late; whoever hangs is let go at the end."""
    made = ScriptedAgents({f"g{number}": ScriptedAgent() for number in range(1, 20)})
    yield made
    made.release.set()


def test_every_clock_is_put_right(agents: ScriptedAgents) -> None:
    verdicts = sync(agents)
    assert all(verdict.synced for verdict in verdicts.values())
    assert all(abs(agent.offset_ns) < S // 1000 for agent in agents.agents.values())


def test_ten_of_nineteen_that_hang_hold_up_nobody(agents: ScriptedAgents) -> None:
    hanging = [f"g{number}" for number in range(1, 20, 2)]
    for uuid in hanging:
        agents.agents[uuid].before = agents.hang
    verdicts = sync(agents, limit_s=2)
    assert not agents.release.is_set()
    for uuid, verdict in verdicts.items():
        assert verdict.synced is (uuid not in hanging), (uuid, verdict)
    assert all(verdicts[uuid].again and not verdicts[uuid].answered for uuid in hanging)


def test_those_that_hang_in_the_middle_give_their_places_up(agents: ScriptedAgents) -> None:
    """They answer for the time and hang when they are set: both places would be taken for good."""
    hanging = ["g1", "g2", "g3"]

    def hang_at_set(question: Question) -> None:
        if isinstance(question, Set):
            agents.hang(question)

    for uuid in hanging:
        agents.agents[uuid].before = hang_at_set
    verdicts = sync(agents, limit_s=3)
    for uuid, verdict in verdicts.items():
        assert verdict.synced is (uuid not in hanging), (uuid, verdict)
    assert all("outstanding" in verdicts[uuid].reason for uuid in hanging)


def test_who_answers_first_is_set_first() -> None:
    agents = ScriptedAgents({"slow": ScriptedAgent(), "quick": ScriptedAgent()})
    set_quick = threading.Event()

    def wait_for_quick(_question: Question) -> None:
        assert set_quick.wait(10)

    def tell(question: Question) -> None:
        if isinstance(question, Set):
            set_quick.set()

    agents.agents["slow"].before = wait_for_quick
    agents.agents["quick"].before = tell
    sync(agents)
    sets = [uuid for uuid, question in agents.log if isinstance(question, Set)]
    assert sets == ["quick", "slow"]


def test_at_most_two_are_set_at_once(agents: ScriptedAgents) -> None:
    lock = threading.Lock()
    under_way: set[int] = set()
    most = 0

    def count(question: Question) -> None:
        nonlocal most
        if isinstance(question, Set):
            with lock:
                under_way.add(threading.get_ident())
                most = max(most, len(under_way))
            threading.Event().wait(0.005)
            with lock:
                under_way.discard(threading.get_ident())

    for agent in agents.agents.values():
        agent.before = count
    sync(agents)
    assert most == 2


def test_a_libvirt_that_hangs_costs_the_limit_and_every_guest_has_a_verdict(
    agents: ScriptedAgents,
) -> None:
    for agent in agents.agents.values():
        agent.before = agents.hang
    verdicts = sync(agents, limit_s=0.5)
    assert {verdict.synced for verdict in verdicts.values()} == {False}
    assert all(verdict.again for verdict in verdicts.values())


def test_the_good_ones_have_ended_before_any_hung_call_returns(agents: ScriptedAgents) -> None:
    """Ten of nineteen hang, some at the roll call, some in the middle of their conversation."""
    hanging = {f"g{number}" for number in range(1, 20, 2)}
    good, ended = set(agents.agents) - hanging, set()
    all_good = threading.Event()

    def hang(question: Question) -> None:
        """Until every good one has ended; then the call returns, and the test can fail no more."""
        assert all_good.wait(LONG_S)

    def hang_at_set(question: Question) -> None:
        if isinstance(question, Set):
            hang(question)

    def note(uuid: str, history: Sequence[Exchange], left_ns: int) -> Question | ClockVerdict:
        move = decide(uuid, history, left_ns)
        if isinstance(move, ClockVerdict) and uuid in good:
            ended.add(uuid)
            if ended == good:
                all_good.set()
        return move

    for number, uuid in enumerate(sorted(hanging)):
        agents.agents[uuid].before = hang_at_set if number % 2 else hang
    verdicts = Conversations[ClockVerdict](agents, note, 20 * S).hold(list(agents.agents))
    assert all_good.is_set()
    assert all(verdict.synced for verdict in verdicts.values())


def test_one_that_was_given_up_is_asked_nothing_more() -> None:
    """Somebody else may be talking with it by then: a second look."""
    agents = ScriptedAgents({"hung": ScriptedAgent()})
    returned = threading.Event()

    def hang(question: Question) -> None:
        agents.hang(question)
        returned.set()

    agents.agents["hung"].before = hang
    decided = threading.Event()

    def note(uuid: str, history: Sequence[Exchange], left_ns: int) -> Question | ClockVerdict:
        if returned.is_set():
            decided.set()
        return clock.next(ClockTask(trusted=True), history, max(left_ns, 10 * S))

    (verdict,) = Conversations[ClockVerdict](agents, note, S // 5).hold(["hung"]).values()
    assert verdict.synced is False
    agents.release.set()
    assert decided.wait(LONG_S), "its thread goes on to its next decision"
    _join("agent-talk")
    assert len(agents.log) == 1


def _join(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(LONG_S)
            assert not thread.is_alive()


class TestAwaited:
    def test_one_that_comes_up_late_is_measured_after_that(self) -> None:
        late = ScriptedAgent()
        agents = ScriptedAgents({"late": late, "good": ScriptedAgent()})
        late.connected.clear()

        def arrive(question: Question) -> None:
            if isinstance(question, Set):
                late.offset_ns = -7 * S
                late.connected.set()

        agents.agents["good"].before = arrive
        verdicts = sync(agents, wait_ns={"late": 10 * S, "good": 10 * S})
        assert verdicts["late"].synced
        assert verdicts["late"].first is not None
        assert verdicts["late"].first.offset_ns == -7 * S

    def test_one_that_does_not_come_has_its_reason(self) -> None:
        agents = ScriptedAgents({"gone": ScriptedAgent()})
        agents.agents["gone"].connected.clear()
        (verdict,) = sync(agents, wait_ns={"gone": S // 10}).values()
        assert (verdict.synced, verdict.answered, verdict.again) == (False, False, True)
        assert "not connected" in verdict.reason

    def test_one_that_nobody_waits_for_is_asked_once(self) -> None:
        agents = ScriptedAgents({"gone": ScriptedAgent()})
        agents.agents["gone"].connected.clear()
        sync(agents)
        assert len(agents.log) == 1
