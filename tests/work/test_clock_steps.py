"""The steps that read and set clocks, as the journal keeps what they did."""

from dataclasses import asdict

from hostagent.core.clock import Set
from hostagent.core.plan import Step, Verb
from hostagent.rules.clock import ClockTask
from hostagent.work.steps.clock import ReadClocks, SyncClocks
from tests.work.scripted_agents import ScriptedAgent, ScriptedAgents

S = 1_000_000_000
MS = 1_000_000


def two() -> ScriptedAgents:
    agents = ScriptedAgents({"uuid-a": ScriptedAgent(), "uuid-b": ScriptedAgent()})
    agents.agents["uuid-b"].connected.clear()
    return agents


def test_clocks_that_were_read_have_figures_and_the_others_a_reason() -> None:
    step = Step(
        key="clocks-before",
        verb=Verb.READ_CLOCKS,
        guests=("uuid-a", "uuid-b"),
        args={"limit_ns": S},
    )
    outcome = ReadClocks(two()).do(step)
    assert dict(outcome.guests["uuid-a"].figures) == {
        "offset_ns": -3 * S,
        "behind_ns": 0,
        "uncertainty_ns": MS // 4,
    }
    assert outcome.guests["uuid-b"].reason == "its agent is not connected"
    assert dict(outcome.guests["uuid-b"].figures) == {"refusal": "not-connected"}


def test_a_clock_that_was_set_has_its_offsets_from_before_and_after() -> None:
    agents = two()
    tasks = {uuid: asdict(ClockTask(trusted=True)) for uuid in agents.agents}
    step = Step(
        key="clocks",
        verb=Verb.SYNC_CLOCKS,
        guests=("uuid-a", "uuid-b"),
        args={"limit_ns": 5 * S, "tasks": tasks, "wait_ns": {}},
    )
    outcome = SyncClocks(lambda _uri: agents).do(step)
    synced, away = outcome.guests["uuid-a"], outcome.guests["uuid-b"]
    assert synced.result == "synced"
    assert synced.figures["first_offset_ns"] == -3 * S
    assert synced.figures["offset_ns"] == 0
    assert (synced.figures["method"], synced.figures["sets"]) == ("agent", 1)
    assert (away.result, away.figures["answered"], away.figures["again"]) == (
        "unsynced",
        False,
        True,
    )


def test_a_task_travels_through_the_journal() -> None:
    agents = ScriptedAgents({"uuid-a": ScriptedAgent(offset_ns=90_000 * S)})
    task = ClockTask(keep_ns=90_003 * S, purpose="a test", trusted=True)
    args = {"limit_ns": 5 * S, "tasks": {"uuid-a": asdict(task)}, "wait_ns": {}}
    step = Step(key="clocks", verb=Verb.SYNC_CLOCKS, guests=("uuid-a",), args=args)
    outcome = SyncClocks(lambda _uri: agents).do(step)
    (question,) = [each for _, each in agents.log if isinstance(each, Set)]
    assert question.ahead_ns == 90_003 * S + MS // 4
    assert "purpose" in outcome.guests["uuid-a"].reason
