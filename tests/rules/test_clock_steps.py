"""When a run sets clocks, and whose: right after the last resume, and once more at its end."""

from typing import Any

import pytest

from hostagent.core.clock import Refusal
from hostagent.core.codec import decode
from hostagent.core.journal import GuestOutcome, Outcome
from hostagent.core.model import AgentState
from hostagent.core.plan import Do, Ending, Step, Verb, Wait
from hostagent.rules.clock import ClockTask
from hostagent.rules.clock_steps import HOLD_NS, RECONNECT_NS, SYNC_LIMIT_NS
from hostagent.rules.halt import OVERDUE_NS
from hostagent.rules.request import AGENT_WAIT_NS, S
from tests.rules.runs import (
    BUSY,
    MS,
    RIGHT,
    SET,
    Story,
    a_plan,
    applied,
    applying,
    exit_with,
    guest,
    pausing,
    tidied,
    tried,
)

LIMIT_NS = SYNC_LIMIT_NS + OVERDUE_NS


def steps_of(story: Story) -> dict[str, Step]:
    decision = story.decide()
    assert isinstance(decision, Do), decision
    return {step.key: step for step in decision.steps}


def resumed(**backs: str) -> Story:
    """A run whose guests, all with an agent, were resumed with these results."""
    story = applied(*backs, agent=True)
    story.go()
    story.close_guests("resume", backs)
    return story


def syncing(*names: str) -> Story:
    """A run that sets these guests' clocks; all else is tidied up."""
    return tidied(resumed(**dict.fromkeys(names, "resumed")), "clocks")


def over_with(story: Story, **tries: GuestOutcome) -> Story:
    """The first try is over with this."""
    story.close_clocks("clocks", **tries)
    return tidied(story, "clocks-again")


class TestTheFirstTry:
    def test_begins_with_the_tidying_and_takes_all_that_stood_still(self) -> None:
        step = steps_of(resumed(a="resumed", b="running"))["clocks"]
        assert (step.verb, step.guests) == (Verb.SYNC_CLOCKS, ("uuid-a", "uuid-b"))
        assert step.safe, "it must not wait for a disk while clocks are wrong"

    def test_takes_one_whose_agent_is_away_but_not_one_without_a_channel(self) -> None:
        away = guest("away", agent=AgentState.DISCONNECTED)
        stuck = guest("stuck", agent=AgentState.STUCK)
        story = _resumed_of("bare", guests=(away, stuck))
        assert steps_of(story)["clocks"].guests == ("uuid-away", "uuid-stuck")

    def test_is_not_made_where_nobody_has_a_channel(self) -> None:
        assert "clocks" not in steps_of(_resumed_of("bare"))

    @pytest.mark.parametrize("back", ["gone", "not-ours", "hung", "failed"])
    def test_leaves_alone_who_does_not_run_because_of_us(self, back: str) -> None:
        assert steps_of(resumed(a="resumed", b=back))["clocks"].guests == ("uuid-a",)

    @pytest.mark.parametrize("result", ["failed", "not-ours"])
    def test_leaves_alone_who_never_stood_still(self, result: str) -> None:
        story = pausing("a", "b", agent=True, allow_unpaused=True)
        story.close_guests("pause", {"a": "paused", "b": result})
        story.go()
        exit_with(story, 0)
        story.go()
        story.close_guests("resume", {"a": "resumed"})
        assert steps_of(story)["clocks"].guests == ("uuid-a",)

    def test_leaves_alone_who_was_paused_when_the_guardian_was_armed(self) -> None:
        story = Story(a_plan("a", "b", agent=True))
        story.go()
        story.close("clocks-before", "over")
        story.go()
        story.close("launch", "launched")
        story.go()
        seen = {
            "uuid-a": GuestOutcome(result="guarded"),
            "uuid-b": GuestOutcome(result="left", reason="its owner paused it first"),
        }
        deadline = {"deadline_ns": story.now_ns + 30 * S}
        story.row(Outcome(key="arm", result="armed", guests=seen, figures=deadline))
        story.go()
        story.close_guests("pause", {"a": "paused"})
        story.go()
        exit_with(story, 0)
        story.go()
        story.close_guests("resume", {"a": "resumed"})
        assert steps_of(story)["clocks"].guests == ("uuid-a",)

    def test_is_never_made_before_the_last_resume(self) -> None:
        story = applied("a", "b", agent=True)
        assert set(steps_of(story)) == {"resume"}
        story.go()
        assert isinstance(story.decide(), Wait)

    def test_a_signal_does_not_keep_clocks_wrong(self) -> None:
        story = applying("a", agent=True)
        story.hear("signal", "SIGINT")
        story.go()
        story.close("cancel", "released")
        story.close_guests("resume", {"a": "resumed"})
        assert "clocks" in steps_of(story)

    def test_waits_a_moment_for_agents_that_were_connected(self) -> None:
        away = guest("away", agent=AgentState.DISCONNECTED)
        story = _resumed_of("a", agent=True, guests=(away,))
        step = steps_of(story)["clocks"]
        assert step.args["wait_ns"] == {"uuid-a": RECONNECT_NS}
        assert step.args["limit_ns"] == SYNC_LIMIT_NS

    def test_is_waited_for_within_its_limit_and_then_left_behind(self) -> None:
        story = syncing("a")
        until_ns = story.wait().until_ns
        opened = story.state.open["clocks"]
        assert until_ns == opened.since_ns + SYNC_LIMIT_NS + OVERDUE_NS
        story.pass_time()
        assert story.done().result is Ending.DONE


class TestTasks:
    def test_carry_the_offset_from_before_and_travel_as_json(self) -> None:
        story = Story(a_plan("a", agent=True))
        story.go()
        figures = {"offset_ns": -90_000 * S, "behind_ns": 0, "uncertainty_ns": MS}
        read = GuestOutcome(result="read", figures=figures)
        story.row(Outcome(key="clocks-before", result="over", guests={"uuid-a": read}))
        step = steps_of(_to_its_resume(story, "a"))["clocks"]
        tasks: Any = step.args["tasks"]
        task = decode(ClockTask, tasks["uuid-a"])
        assert (task.keep_ns, bool(task.purpose), task.trusted) == (-90_000 * S, True, True)

    def test_without_a_reading_from_before_nothing_is_trusted(self) -> None:
        tasks: Any = steps_of(resumed(a="resumed"))["clocks"].args["tasks"]
        assert decode(ClockTask, tasks["uuid-a"]) == ClockTask()


class TestTheSecondLook:
    def test_comes_300_ms_after_the_first_and_takes_who_was_set(self) -> None:
        story = over_with(syncing("a", "b"), a=SET, b=RIGHT)
        at_ns = story.state.done["clocks"].at_ns + HOLD_NS
        assert (story.wait().until_ns, HOLD_NS) == (at_ns, 300 * MS)
        story.pass_time()
        step = steps_of(story)["clocks-again"]
        assert (step.verb, step.guests, step.safe) == (Verb.SYNC_CLOCKS, ("uuid-a",), True)

    def test_is_not_made_where_all_were_right(self) -> None:
        assert over_with(syncing("a"), a=RIGHT).done().result is Ending.DONE

    def test_asks_a_busy_one_once_more_and_no_more(self) -> None:
        story = over_with(syncing("a"), a=BUSY)
        story.pass_time()
        assert story.go() == ("clocks-again",)
        story.close_clocks("clocks-again", a=BUSY)
        assert story.done().result is Ending.DONE

    def test_does_not_ask_one_that_said_no_for_good(self) -> None:
        story = over_with(syncing("a"), a=tried("unsynced", reason="disabled"))
        assert story.done().result is Ending.PARTLY

    def test_waits_for_agents_of_clocks_that_are_not_right_yet(self) -> None:
        story = over_with(syncing("a", "b"), a=SET, b=BUSY)
        story.pass_time()
        step = steps_of(story)["clocks-again"]
        assert step.args["wait_ns"] == {"uuid-b": AGENT_WAIT_NS}
        assert step.args["limit_ns"] == max(SYNC_LIMIT_NS, AGENT_WAIT_NS + SYNC_LIMIT_NS // 2)

    def test_a_first_try_of_which_nothing_came_back_is_made_up_for(self) -> None:
        story = syncing("a", "b")
        story.close("clocks", "failed", "ValueError()")
        story.pass_time()
        assert steps_of(story)["clocks-again"].guests == ("uuid-a", "uuid-b")

    def test_a_signal_does_without_it(self) -> None:
        story = over_with(syncing("a"), a=SET)
        story.hear("signal", "SIGINT")
        assert story.done().result is Ending.INTERRUPTED

    def test_a_signal_ends_one_that_is_under_way(self) -> None:
        """It may be waiting for an agent for seconds."""
        story = over_with(syncing("a"), a=SET)
        story.pass_time()
        assert story.go() == ("clocks-again",)
        assert isinstance(story.decide(), Wait)
        story.hear("signal", "SIGINT")
        assert story.done().result is Ending.INTERRUPTED

    def test_comes_in_time_while_the_command_is_left_to_finish(self) -> None:
        story = applying("a", agent=True)
        story.pass_time()
        story = tidied(story, "clocks")
        over_with(story, a=SET)
        at_ns = story.state.done["clocks"].at_ns + HOLD_NS
        assert story.wait().until_ns == at_ns
        story.pass_time()
        assert story.go() == ("clocks-again",)
        assert story.wait().until_ns is None, "the command may take as long as it likes"

    def test_comes_in_time_while_verify_runs(self) -> None:
        story = applied("a", agent=True, verify=("v",))
        story.go()
        story.close_guests("resume", {"a": "resumed"})
        story.go()
        for key in ("disarm", "census"):
            story.close(key, "over")
        story.close_clocks("clocks", a=SET)
        assert story.go() == ("verify",)
        story.pass_time()
        assert story.go() == ("clocks-again",)


class TestOneThatHungBeforeThePause:
    def story(self, *names: str) -> Story:
        """Up to the tidying; the agent of a did not answer before the pause."""
        story = Story(a_plan(*names, agent=True))
        story.go()
        hung = GuestOutcome(
            result="unread", reason="no answer", figures={"refusal": str(Refusal.NO_ANSWER)}
        )
        story.row(Outcome(key="clocks-before", result="over", guests={"uuid-a": hung}))
        return _to_its_resume(story, *names)

    def test_is_asked_at_the_end_only_and_once(self) -> None:
        story = self.story("a", "b")
        assert steps_of(story)["clocks"].guests == ("uuid-b",)
        tidied(story, "clocks")
        assert not story.state.begun("clocks-again")
        story.close_clocks("clocks", b=SET)
        assert story.wait().until_ns == story.now_ns + HOLD_NS
        story.pass_time()
        assert steps_of(story)["clocks-again"].guests == ("uuid-a", "uuid-b")
        story.go()
        story.close_clocks("clocks-again", a=BUSY, b=RIGHT)
        assert story.done().result is Ending.DONE

    def test_is_asked_once_where_it_is_the_only_one(self) -> None:
        story = self.story("a")
        assert steps_of(story)["clocks-again"].guests == ("uuid-a",)
        assert tidied(story).done().result is Ending.DONE


class TestLateOnes:
    def test_one_that_comes_back_by_settle_has_its_own_first_try_at_once(self) -> None:
        """It does not wait for others, whose agents may hang."""
        story = _hanging(a="resumed", b="hung")
        story.close_guests("settle", {"b": "resumed"})
        assert story.state.open["clocks"].step.guests == ("uuid-a",)
        step = steps_of(story)["clocks-late-1"]
        assert (step.guests, step.safe) == (("uuid-b",), True)

    def test_each_has_its_own_second_look_after_its_own_first_try(self) -> None:
        """A guest has one conversation at a time, and waits for nobody else's."""
        story = tidied(_hanging(a="resumed", b="hung"), "clocks", "settle")
        story.close_clocks("clocks", a=BUSY)
        story.close_guests("settle", {"b": "resumed"})
        assert "clocks-late-1" in story.go()
        story.close("disarm", "disarmed")
        assert story.wait().until_ns == story.state.done["clocks"].at_ns + HOLD_NS
        story.pass_time()
        assert steps_of(story)["clocks-again"].guests == ("uuid-a",)
        story.go()
        story.close_clocks("clocks-late-1", b=SET)
        assert story.wait().until_ns == story.now_ns + HOLD_NS
        story.pass_time()
        assert steps_of(story)["clocks-again-1"].guests == ("uuid-b",)

    def test_one_that_the_guardian_brings_back_after_all_has_its_first_try(self) -> None:
        story = over_with(tidied(resumed(a="resumed", b="failed"), "clocks"), a=SET)
        story.pass_time()
        story.go()
        story.close_clocks("clocks-again", a=RIGHT)
        assert story.done().result is Ending.RESUME_FAILED
        value = {"uuid": "uuid-b", "result": "resumed", "reason": "", "figures": {}}
        story.hear("guardian-back", value)
        assert story.go() == ("clocks-late-1",)
        story.close_clocks("clocks-late-1", b=SET)
        story.pass_time()
        assert steps_of(story)["clocks-again-1"].guests == ("uuid-b",)
        story.go()
        story.close_clocks("clocks-again-1", b=SET)
        assert story.done().result is Ending.DONE

    def test_a_signal_does_not_keep_its_clock_wrong(self) -> None:
        story = _hanging(a="resumed", b="hung")
        story.hear("signal", "SIGINT")
        story.close_guests("settle", {"b": "resumed"})
        assert "clocks-late-1" in story.go()

    def test_where_all_hung_the_first_try_comes_after_the_settle(self) -> None:
        story = _hanging(a="hung")
        assert not story.state.begun("clocks")
        story.close_guests("settle", {"a": "resumed"})
        keys = set(story.go())
        assert "clocks" in keys
        assert "clocks-again" not in keys

    def test_one_that_hangs_for_good_is_never_asked(self) -> None:
        story = _hanging(a="hung")
        story.close_guests("settle", {"a": "hung"})
        assert tidied(story).done().result is Ending.AMBIGUOUS
        assert not story.state.begun("clocks")


class TestAfterACrash:
    def test_clocks_are_set_anew(self) -> None:
        story = syncing("a")
        story.close("clocks", "lost")
        story.hear("crashed")
        assert steps_of(story)["clocks@1"].guests == ("uuid-a",)
        story.go()
        story.close_clocks("clocks@1", a=SET)
        story.pass_time()
        assert story.go() == ("clocks-again@1",)
        story.close_clocks("clocks-again@1", a=RIGHT)
        assert story.done().result is Ending.INTERRUPTED

    def test_what_the_guardian_brought_back_is_set(self) -> None:
        story = applying("a", "b", agent=True)
        value = {"uuid": "uuid-a", "result": "resumed", "reason": "", "figures": {}}
        story.hear("guardian-back", value)
        story.close("apply", "lost")
        story.hear("crashed")
        assert story.go() == ("resume@1",)
        story.close_guests("resume@1", {"b": "resumed"})
        assert steps_of(story)["clocks@1"].guests == ("uuid-a", "uuid-b")

    def test_a_host_that_was_started_anew_has_none_to_set(self) -> None:
        story = applying("a", agent=True)
        story.close("apply", "lost")
        story.boot_id = "boot-2"
        story.hear("crashed")
        assert "clocks@1" not in tidied(story).state.done


class TestTheVerdict:
    WRONG = tried("unsynced", first_ns=-2 * S, reason="set-time is disabled")

    def test_an_agent_that_answered_and_leaves_its_clock_wrong_makes_it_partly(self) -> None:
        done = over_with(syncing("a", "b"), a=RIGHT, b=self.WRONG).done()
        assert (done.result, done.reason) == (Ending.PARTLY, "guest b: set-time is disabled")

    @pytest.mark.parametrize("reason", ["its agent does not answer", "not connected"])
    def test_one_that_never_answered_only_has_its_reason(self, reason: str) -> None:
        silent = tried("unsynced", answered=False, reason=reason)
        assert over_with(syncing("a"), a=silent).done().result is Ending.DONE

    def test_one_that_was_left_on_purpose_is_fine(self) -> None:
        left = tried("left", first_ns=-90_000 * S, reason="wrong on purpose")
        assert over_with(syncing("a"), a=left).done().result is Ending.DONE

    def test_a_second_look_that_finds_it_busy_undoes_no_proof(self) -> None:
        story = over_with(syncing("a"), a=SET)
        story.pass_time()
        story.go()
        story.close_clocks("clocks-again", a=BUSY)
        assert story.done().result is Ending.DONE

    def test_a_second_look_that_finds_it_wrong_does(self) -> None:
        story = over_with(syncing("a"), a=SET)
        story.pass_time()
        story.go()
        story.close_clocks("clocks-again", a=self.WRONG)
        assert story.done().result is Ending.PARTLY

    def test_one_that_said_no_at_first_and_was_silent_then_is_unsynced(self) -> None:
        story = over_with(syncing("a"), a=tried("unsynced", again=True, reason="frozen"))
        story.pass_time()
        story.go()
        story.close_clocks("clocks-again", a=BUSY)
        assert story.done().result is Ending.PARTLY


def _resumed_of(*names: str, **plan: Any) -> Story:
    story = Story(a_plan(*names, **plan))
    if plan.get("agent"):
        story.go()
        story.close("clocks-before", "over")
    return _to_its_resume(story, *(found.name for found in story.state.plan.guests))


def _to_its_resume(story: Story, *names: str) -> Story:
    """From the launch to guests that were all resumed."""
    story.go()
    story.close("launch", "launched")
    story.go()
    story.close("arm", "armed", deadline_ns=story.now_ns + 30 * S)
    story.go()
    story.close_guests("pause", dict.fromkeys(names, "paused"))
    story.go()
    exit_with(story, 0)
    story.go()
    story.close_guests("resume", dict.fromkeys(names, "resumed"))
    return story


def _hanging(**backs: str) -> Story:
    """A run in which the second resume of hung guests is under way."""
    story = resumed(**backs)
    assert "settle" in story.go()
    story.close("census", "over", started=[])
    return story
