"""`clock sync` as a run: its plan, its two tries, its end and its report, and its forecast."""

from dataclasses import replace
from typing import Any

import pytest

from hostagent.core.clock import ClockDefinition, ClockReading, NoAnswer, Refusal
from hostagent.core.codec import decode
from hostagent.core.errors import RefusedError
from hostagent.core.model import AgentState, Facts, Guest, GuestState
from hostagent.core.plan import Do, Ending, Step, Verb
from hostagent.rules.clock import ClockTask
from hostagent.rules.clock_outcome import HOST_UNSYNCHRONISED, NO_CHANNEL
from hostagent.rules.clock_steps import HOLD_NS, SYNC_LIMIT_NS
from hostagent.rules.clock_sync import (
    NOT_ASKED,
    ClockSyncReport,
    ClockTerms,
    forecast,
    next,
    plan,
    report,
)
from tests.rules.runs import BUSY, HOST, MS, RIGHT, SET, S, Story, facts, guest, tried


def with_agent(name: str, **changes: Any) -> Guest:
    return guest(name, **{"agent": AgentState.CONNECTED, **changes})


A, B = with_agent("a"), with_agent("b")
NO = tried("unsynced", first_ns=-2 * S, reason="disabled")


def story(*guests: Guest, **terms: Any) -> Story:
    made = plan("run-1", (), ClockTerms(**terms), facts(*(guests or (A, B))))
    return Story(made, next=next)


def begun(*guests: Guest, **terms: Any) -> Story:
    told = story(*guests, **terms)
    assert told.go() == ("clocks",)
    return told


def step_of(told: Story) -> Step:
    decision = told.decide()
    assert isinstance(decision, Do), decision
    (step,) = decision.steps
    return step


def told_of(told: Story) -> ClockSyncReport:
    return report(told.state, told.now_ns)


class TestThePlan:
    def test_takes_all_guests_or_those_named(self) -> None:
        made = plan("run-1", (), ClockTerms(), facts(A, B))
        assert (made.kind, [found.name for found in made.chosen]) == ("clock", ["a", "b"])
        made = plan("run-1", ("b",), ClockTerms(), facts(A, B))
        assert [found.name for found in made.guests] == ["b"]

    def test_refuses_a_guest_that_does_not_exist(self) -> None:
        with pytest.raises(RefusedError, match="nobody"):
            plan("run-1", ("a", "nobody"), ClockTerms(), facts(A, B))

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"agent": AgentState.NONE}, NO_CHANNEL),
            ({"state": GuestState.PAUSED}, "it does not run: paused"),
            ({"state": GuestState.SHUT_OFF, "process": None}, "it does not run: shut off"),
        ],
    )
    def test_skips_with_a_reason(self, changes: dict[str, Any], reason: str) -> None:
        made = plan("run-1", (), ClockTerms(), facts(replace(A, **changes), B))
        assert [found.name for found in made.chosen] == ["b"]
        assert made.guests[0].skip == reason

    @pytest.mark.parametrize("state", [AgentState.DISCONNECTED, AgentState.STUCK])
    def test_takes_one_whose_agent_is_away_or_stuck(self, state: AgentState) -> None:
        made = plan("run-1", (), ClockTerms(), facts(replace(A, agent=state)))
        assert len(made.chosen) == 1

    @pytest.mark.parametrize(
        ("synchronised", "warnings"),
        [(True, ()), (None, ()), (False, (HOST_UNSYNCHRONISED,))],
    )
    def test_warns_of_a_host_that_is_not_right_itself(
        self, synchronised: bool | None, warnings: tuple[str, ...]
    ) -> None:
        found = facts(A, host=replace(HOST, clock_synchronised=synchronised))
        assert plan("run-1", (), ClockTerms(), found).warnings == warnings

    def test_carries_its_terms_into_the_tasks(self) -> None:
        absolute = with_agent("a", clock=ClockDefinition(offset="absolute"))
        step = step_of(story(absolute, B, threshold_ns=MS, force=True))
        tasks: Any = step.args["tasks"]
        assert decode(ClockTask, tasks["uuid-a"]) == ClockTask(threshold_ns=MS, trusted=True)
        tasks = step_of(story(absolute, B)).args["tasks"]
        assert decode(ClockTask, tasks["uuid-a"]).only_read
        assert not decode(ClockTask, tasks["uuid-b"]).only_read


class TestItsWay:
    def test_a_first_try_and_a_second_look_300_ms_later(self) -> None:
        told = begun()
        step = told.state.open["clocks"].step
        assert (step.verb, step.guests) == (Verb.SYNC_CLOCKS, ("uuid-a", "uuid-b"))
        assert step.args["limit_ns"] == SYNC_LIMIT_NS
        told.close_clocks("clocks", a=SET, b=RIGHT)
        assert told.wait().until_ns == told.now_ns + HOLD_NS
        told.pass_time()
        assert step_of(told).guests == ("uuid-a",)
        assert told.go() == ("clocks-again",)
        told.close_clocks("clocks-again", a=RIGHT)
        assert told.done().result is Ending.DONE

    def test_all_right_needs_no_second_look(self) -> None:
        told = begun()
        told.close_clocks("clocks", a=RIGHT, b=RIGHT)
        assert told.done().result is Ending.DONE

    def test_nobody_to_set_is_done(self) -> None:
        assert story(guest("bare")).done().result is Ending.DONE

    def test_agents_are_awaited_for_as_long_as_was_said_and_not_twice(self) -> None:
        told = begun(wait_ns=60 * S)
        args = told.state.open["clocks"].step.args
        assert args["wait_ns"] == {"uuid-a": 60 * S, "uuid-b": 60 * S}
        assert args["limit_ns"] == SYNC_LIMIT_NS + 60 * S
        told.now_ns += 61 * S
        told.close_clocks("clocks", a=BUSY, b=RIGHT)
        told.pass_time()
        args = step_of(told).args
        assert (args["wait_ns"], args["limit_ns"]) == ({"uuid-a": 0}, SYNC_LIMIT_NS)

    def test_what_is_left_of_the_wait_is_for_the_second_look(self) -> None:
        told = begun(wait_ns=60 * S)
        told.now_ns += 4 * S
        told.close_clocks("clocks", a=BUSY, b=RIGHT)
        told.pass_time()
        waits: Any = step_of(told).args["wait_ns"]
        assert 55 * S < waits["uuid-a"] <= 56 * S

    @pytest.mark.parametrize("what", ["signal", "crashed"])
    @pytest.mark.parametrize("when", ["before", "under way", "between", "after"])
    def test_a_signal_or_a_crash_ends_it_at_once(self, what: str, when: str) -> None:
        told = story() if when == "before" else begun()
        if when in ("between", "after"):
            tries = SET if when == "between" else RIGHT
            told.close_clocks("clocks", a=tries, b=tries)
        told.hear(what, "SIGINT" if what == "signal" else None)
        assert told.done().result is Ending.INTERRUPTED
        assert told_of(told).result is Ending.INTERRUPTED

    def test_a_step_that_hangs_is_left_behind_and_not_called_done(self) -> None:
        told = begun()
        told.pass_time()
        assert (told.done().result, told.done().reason) == (Ending.PARTLY, "setting clocks hangs")


class TestItsEnd:
    def test_an_agent_that_answered_and_leaves_its_clock_wrong_makes_it_partly(self) -> None:
        told = begun()
        told.close_clocks("clocks", a=RIGHT, b=NO)
        assert (told.done().result, told.done().reason) == (Ending.PARTLY, "guest b: disabled")

    def test_one_that_never_answered_only_has_its_reason(self) -> None:
        told = begun()
        told.close_clocks("clocks", a=RIGHT, b=replace(BUSY, figures={"answered": False}))
        assert told.done().result is Ending.DONE
        assert told_of(told).guests[1].clock.reason == "its agent does not answer"

    def test_a_second_look_that_finds_it_busy_undoes_no_proof(self) -> None:
        told = begun()
        told.close_clocks("clocks", a=SET, b=RIGHT)
        told.pass_time()
        told.go()
        told.close_clocks("clocks-again", a=BUSY)
        assert told.done().result is Ending.DONE
        assert told_of(told).guests[0].clock.synced is True

    def test_one_that_could_not_begin_is_refused_and_changed_nothing(self) -> None:
        told = begun()
        told.close("clocks", "not-begun", "the journal can't be written")
        assert told.done().result is Ending.REFUSED
        assert not told_of(told).changed

    def test_one_that_broke_down_is_not_refused_as_it_may_have_set_clocks(self) -> None:
        told = begun()
        told.close("clocks", "failed", "ValueError()")
        assert told.done().result is Ending.PARTLY
        assert told_of(told).changed

    def test_a_second_look_that_could_not_begin_does_not_take_back_what_was_done(self) -> None:
        told = begun()
        told.close_clocks("clocks", a=SET, b=RIGHT)
        told.pass_time()
        told.go()
        told.close("clocks-again", "not-begun", "the journal can't be written")
        assert told.done().result is Ending.PARTLY
        assert told_of(told).changed


class TestItsReport:
    def test_of_a_clock_that_was_set(self) -> None:
        told = begun(A, guest("bare"))
        told.close_clocks("clocks", a=SET)
        told.pass_time()
        told.go()
        told.close_clocks("clocks-again", a=RIGHT)
        made = told_of(told)
        assert (made.run, made.host, made.host_uuid) == ("run-1", "h1", "host-1")
        assert (made.result, made.changed) == (Ending.DONE, True)
        set_, bare = (found.clock for found in made.guests)
        assert (set_.synced, set_.method) == (True, "agent")
        assert (set_.offset_before_s, set_.offset_after_s) == (-2.0, 0.0001)
        assert set_.offset_resumed_s is None, "there was no pause"
        assert (bare.synced, bare.reason) == (False, NO_CHANNEL)

    def test_reading_alone_changes_nothing(self) -> None:
        told = begun()
        told.close_clocks("clocks", a=RIGHT, b=NO)
        assert not told_of(told).changed

    def test_of_one_that_was_stopped_in_the_middle_says_what_is_not_known(self) -> None:
        told = begun()
        told.hear("signal", "SIGINT")
        made = told_of(told)
        assert made.signal == "SIGINT"
        assert made.changed, "a set may be under way"
        assert {found.clock.reason for found in made.guests} == {NOT_ASKED}

    def test_of_one_that_died_in_the_middle_too(self) -> None:
        told = begun()
        told.close("clocks", "lost")
        told.hear("crashed")
        assert told_of(told).changed


class TestTheForecast:
    def made(self, **terms: Any) -> dict[str, tuple[str, str]]:
        found: Facts = facts(
            A,
            B,
            with_agent("c", clock=ClockDefinition(offset="absolute")),
            with_agent("hung"),
            with_agent("unasked"),
            guest("bare"),
        )
        answers = {
            "uuid-a": reading(-2 * S),
            "uuid-b": reading(MS),
            "uuid-c": reading(-500 * S),
            "uuid-hung": NoAnswer(refusal=Refusal.NO_ANSWER, reason="its agent does not answer"),
        }
        made = forecast(plan("run-1", (), ClockTerms(**terms), found), answers)
        return {each.guest.name: (each.do, each.why) for each in made}

    def test_says_what_a_sync_would_do(self) -> None:
        made = self.made()
        assert made["a"] == ("set", "")
        assert made["b"][0] == "right"
        assert made["c"][0] == "leave"
        assert "--force" in made["c"][1]
        assert made["hung"] == ("-", "its agent does not answer")
        assert made["unasked"] == ("-", "")
        assert made["bare"] == ("-", NO_CHANNEL)

    def test_with_force_and_with_a_threshold(self) -> None:
        assert self.made(force=True)["c"] == ("set", "")
        assert self.made(threshold_ns=MS // 2)["b"] == ("set", "")
        assert self.made(threshold_ns=3 * S)["a"][0] == "right"


def reading(offset_ns: int) -> ClockReading:
    return ClockReading(at_ns=1, offset_ns=offset_ns, behind_ns=0, uncertainty_ns=MS // 4)
