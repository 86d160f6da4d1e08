"""The one decision of an in-place run, told as stories: one for each promise of its way."""

import pytest

from hostagent.core.journal import GuestOutcome, Outcome
from hostagent.core.plan import Do, Ending, Step, Verb, Wait
from hostagent.rules import inplace
from hostagent.rules.request import S
from tests.rules.runs import (
    MS,
    Story,
    a_plan,
    applied,
    applying,
    armed,
    exit_with,
    guest,
    launched,
    pausing,
    tidied,
)


def steps_of(story: Story) -> dict[str, Step]:
    decision = story.decide()
    assert isinstance(decision, Do), decision
    return {step.key: step for step in decision.steps}


class TestTheWayForward:
    def test_begins_one_step_at_a_time_in_order(self) -> None:
        story = Story(a_plan("a", "b", agent=True, prepare=("get", "it")))
        seen = []
        for _ in range(6):
            (key,) = story.go()
            seen.append(key)
            assert isinstance(story.decide(), Wait)
            match key:
                case "prepare":
                    exit_with(story, 0, key)
                case "launch":
                    story.close(key, "launched")
                case "arm":
                    story.close(key, "armed", deadline_ns=story.now_ns + 30 * S)
                case "pause":
                    story.close_guests(key, {"a": "paused", "b": "paused"})
                case _:
                    story.close(key, "over")
        assert seen == ["prepare", "clocks-before", "launch", "arm", "pause", "apply"]

    def test_without_guests_only_the_command_runs(self) -> None:
        story = launched()
        assert story.go() == ("apply",)
        exit_with(story, 0)
        assert tidied(story).done().result is Ending.DONE
        assert set(story.state.done) == {"launch", "apply", "census"}

    def test_a_guest_started_while_no_other_ran_is_listed(self) -> None:
        story = launched()
        story.go()
        exit_with(story, 0)
        assert story.go() == ("census",)
        story.close("census", "over", started=["late"])
        assert story.done().result is Ending.PARTLY
        assert "late" in story.done().reason

    def test_jobs_are_waited_for_and_only_free_guests_are_paused(self) -> None:
        busy, plain = guest("a", job="dump"), guest("b")
        story = Story(a_plan(guests=(busy, plain), allow_unpaused=True))
        assert story.go() == ("await-jobs",)
        story.close_guests("await-jobs", {"a": "busy"}, reason="a dump is running on it")
        story.go()
        story.close("launch", "launched")
        assert steps_of(story)["arm"].guests == ("uuid-b",)

    def test_pause_and_apply_carry_the_command_deadline(self) -> None:
        story = armed("a", budget_ns=10 * S)
        deadline_ns = story.state.done["arm"].outcome.figures["deadline_ns"]
        assert steps_of(story)["pause"].args["before_ns"] == deadline_ns - 2 * S
        story.go()
        story.close_guests("pause", {"a": "paused"})
        assert steps_of(story)["apply"].args["before_ns"] == deadline_ns - 2 * S

    def test_a_clock_that_is_never_read_is_passed_over(self) -> None:
        story = Story(a_plan("a", agent=True))
        assert story.go() == ("clocks-before",)
        story.pass_time()
        assert story.go() == ("launch",)

    @pytest.mark.parametrize("verb", ["prepare", "verify"])
    def test_a_command_while_guests_run_has_no_limit(self, verb: str) -> None:
        if verb == "prepare":
            story = Story(a_plan("a", prepare=("p",)))
            story.go()
        else:
            story = applied("a", verify=("v",))
            while "verify" not in story.state.open:
                for key in story.go():
                    if key != "verify":
                        story.close_guests(key, {"a": "resumed"})
        assert story.wait().until_ns is None


class TestAllOrNothing:
    @pytest.mark.parametrize("result", ["failed", "unsettled", "hung", "some new word"])
    def test_a_guest_that_cannot_be_stopped_refuses_the_update(self, result: str) -> None:
        story = pausing("a", "b")
        story.close_guests("pause", {"a": "paused", "b": result}, reason="why")
        assert set(steps_of(story)) == {"resume", "cancel"}
        done = tidied(story).done()
        assert (done.result, "b" in done.reason) == (Ending.REFUSED, True)
        assert "apply" not in story.state.done

    def test_a_guest_of_which_nothing_came_back_refuses_the_update(self) -> None:
        story = pausing("a", "b")
        story.close_guests("pause", {"a": "paused"})
        assert steps_of(story)["resume"].guests == ("uuid-a", "uuid-b")

    def test_a_pause_that_broke_down_refuses_the_update(self) -> None:
        story = pausing("a")
        story.close("pause", "failed", "ValueError()")
        assert set(steps_of(story)) == {"resume", "cancel"}
        assert tidied(story).done().result is Ending.REFUSED

    def test_allow_unpaused_goes_on_and_lists_it(self) -> None:
        story = pausing("a", "b", allow_unpaused=True)
        story.close_guests("pause", {"a": "paused", "b": "failed"}, reason="no")
        assert story.go() == ("apply",)
        exit_with(story, 0)
        assert tidied(story).done().result is Ending.PARTLY

    def test_allow_unpaused_still_brings_a_late_one_back(self) -> None:
        story = pausing("a", "b", allow_unpaused=True)
        story.close_guests("pause", {"a": "paused", "b": "unsettled"})
        story.go()
        exit_with(story, 0)
        assert steps_of(story)["resume"].guests == ("uuid-a", "uuid-b")

    def test_a_guest_that_its_owner_paused_first_is_not_touched(self) -> None:
        story = pausing("a", "b")
        story.close_guests("pause", {"a": "paused", "b": "not-ours"})
        story.go()
        exit_with(story, 0)
        assert steps_of(story)["resume"].guests == ("uuid-a",)
        assert tidied(story).done().result is Ending.DONE

    def test_one_that_still_hangs_makes_it_ambiguous(self) -> None:
        story = pausing("a", "b")
        story.close_guests("pause", {"a": "paused", "b": "unsettled"})
        story.go()
        story.close("cancel", "cancelled")
        story.close_guests("resume", {"a": "resumed", "b": "hung"})
        assert steps_of(story)["settle"].guests == ("uuid-b",)
        story.go()
        story.close_guests("settle", {"b": "hung"})
        assert steps_of(story)["disarm"].guests == ("uuid-b",)
        assert tidied(story).done().result is Ending.AMBIGUOUS


class TestTheCommandsFate:
    def test_past_its_deadline_guests_resume_and_it_may_finish(self) -> None:
        story = applying("a")
        story.pass_time()
        assert set(story.go()) == {"resume", "cancel"}
        story.close_guests("resume", {"a": "resumed"})
        story.close("cancel", "released")
        assert tidied(story).wait().until_ns is None
        story.now_ns += 60 * S
        exit_with(story, 0)
        assert story.done().result is Ending.BUDGET_EXCEEDED

    def test_the_reserve_is_half_of_a_small_budget(self) -> None:
        story = applying("a", budget_ns=3 * S)
        deadline_ns = story.state.done["arm"].outcome.figures["deadline_ns"]
        assert story.wait().until_ns == deadline_ns - 3 * S // 2

    def test_kill_after_ends_it_politely_then_for_sure(self) -> None:
        story = applying("a", kill_after_ns=3 * S)
        story.pass_time()
        tidied(story)
        story.pass_time()
        assert steps_of(story)["kill-1"].args["signal"] == "SIGTERM"
        story.go()
        story.pass_time()
        assert steps_of(story)["kill-2"].args["signal"] == "SIGKILL"

    def test_a_signal_resumes_first_and_is_then_passed_on(self) -> None:
        story = applying("a")
        story.hear("signal", "SIGINT")
        assert set(story.go()) == {"resume", "cancel"}
        assert isinstance(story.decide(), Wait)
        story.close_guests("resume", {"a": "resumed"})
        story.close("cancel", "released")
        assert steps_of(story)["signal-apply-1"].args == {"command": "apply", "signal": "SIGINT"}

    def test_a_command_that_ignores_the_signal_is_left_behind(self) -> None:
        story = applying("a", rollback=("undo",))
        story.hear("signal", "SIGTERM")
        tidied(story)
        story.pass_time()
        assert story.done().result is Ending.INTERRUPTED
        assert not story.state.begun(Verb.ROLLBACK)

    def test_rollback_waits_for_the_commands_end(self) -> None:
        story = applying("a", rollback=("undo",))
        story.hear("signal", "SIGTERM")
        tidied(story)
        exit_with(story, -15)
        assert story.go() == ("rollback",)

    def test_a_failed_update_resumes_before_it_is_rolled_back(self) -> None:
        story = applied("a", exit_code=3, rollback=("undo",))
        assert set(steps_of(story)) == {"resume"}
        done = tidied(story).done()
        assert done.result is Ending.UPDATE_FAILED
        assert list(story.state.done).index("resume") < list(story.state.done).index("rollback")

    def test_verify_that_fails_rolls_back(self) -> None:
        story = applied("a", verify=("v",), rollback=("undo",))
        while "verify" not in story.state.open:
            for key in story.go():
                if key != "verify":
                    story.close_guests(key, {"a": "resumed"})
        exit_with(story, 1, "verify")
        assert story.go() == ("rollback",)
        exit_with(story, 0, "rollback")
        assert story.done().result is Ending.UPDATE_FAILED

    def test_a_rollback_that_fails_is_named(self) -> None:
        story = applied("a", exit_code=3, rollback=("undo",))
        while "rollback" not in story.state.open:
            for key in story.go():
                if key != "rollback":
                    story.close_guests(key, {"a": "resumed"})
        exit_with(story, 9, "rollback")
        assert story.done().reason == "the update failed, and its rollback: exit 9"

    def test_verify_that_could_not_be_run_is_no_success(self) -> None:
        story = applied("a", verify=("v",))
        while "verify" not in story.state.open:
            for key in story.go():
                if key != "verify":
                    story.close_guests(key, {"a": "resumed"})
        story.close("verify", "not-begun", "the journal can't be written")
        assert story.done().result is Ending.UPDATE_FAILED
        assert "could not be run" in story.done().reason

    def test_no_verify_and_no_rollback_after_a_crash(self) -> None:
        story = applied("a", exit_code=3, verify=("v",), rollback=("undo",))
        story.hear("crashed")
        tidied(story)
        assert not story.state.begun("verify")
        assert not story.state.begun("rollback")

    def test_an_apply_step_held_up_by_the_disk_is_cancelled_and_ends(self) -> None:
        story = applying("a")
        story.pass_time()
        story.go()
        story.close_guests("resume", {"a": "resumed"})
        story.close("cancel", "cancelled")
        done = tidied(story).done()
        assert done.result is Ending.REFUSED
        assert "before the update could begin" in done.reason

    def test_two_signals_are_both_passed_on(self) -> None:
        story = applying("a")
        story.hear("signal", "SIGINT")
        tidied(story)
        story.hear("signal", "SIGTERM")
        assert steps_of(story)["signal-apply-2"].args["signal"] == "SIGTERM"


class TestTheWayBack:
    def test_resume_in_mid_pause_takes_every_guest(self) -> None:
        story = pausing("a", "b")
        story.hear("signal", "SIGTERM")
        assert steps_of(story)["resume"].guests == ("uuid-a", "uuid-b")
        assert steps_of(story)["resume"].safe

    def test_a_resume_that_hangs_does_not_hold_up_the_rest(self) -> None:
        story = applied("a", "b")
        story.go()
        story.pass_time()
        assert steps_of(story)["disarm"].guests == ("uuid-a", "uuid-b")
        assert tidied(story, "resume").done().result is Ending.AMBIGUOUS

    def test_a_guest_that_could_not_be_resumed_stays_with_the_guardian(self) -> None:
        story = applied("a", "b")
        story.go()
        story.close_guests("resume", {"a": "resumed", "b": "failed"}, reason="no disk lease")
        assert steps_of(story)["disarm"].guests == ("uuid-b",)
        done = tidied(story).done()
        assert done.result is Ending.RESUME_FAILED
        assert "no disk lease" in done.reason

    def test_the_guardian_is_kept_until_hung_guests_had_their_time(self) -> None:
        story = applied("a", "b")
        story.go()
        story.close_guests("resume", {"a": "resumed", "b": "hung"})
        keys = set(story.go())
        assert "settle" in keys
        assert "disarm" not in keys
        story.close_guests("settle", {"b": "resumed"})
        assert steps_of(story)["disarm"].guests == ()
        assert tidied(story).done().result is Ending.DONE

    def test_each_crash_begins_the_way_back_anew(self) -> None:
        story = applying("a")
        story.close("apply", "lost")
        story.hear("crashed")
        assert story.go() == ("resume@1",)
        story.close("resume@1", "unknown")
        story.hear("crashed")
        assert story.go() == ("resume@2",)
        story.close_guests("resume@2", {"a": "resumed"})
        assert story.done().result is Ending.INTERRUPTED

    def test_after_a_crash_nobody_waits_behind_the_gate(self) -> None:
        story = armed("a")
        story.hear("crashed")
        assert story.done().result is Ending.INTERRUPTED

    def test_what_the_guardian_resumed_is_not_resumed_again(self) -> None:
        story = applying("a", "b")
        value = {"uuid": "uuid-a", "result": "resumed", "reason": "", "figures": {}}
        story.hear("guardian-back", value)
        story.close("apply", "lost")
        story.hear("crashed")
        assert steps_of(story)["resume@1"].guests == ("uuid-b",)

    def test_seen_running_while_the_suspend_was_outstanding_proves_nothing(self) -> None:
        story = pausing("a")
        value = {"uuid": "uuid-a", "result": "running", "reason": "", "figures": {}}
        story.hear("guardian-back", value)
        story.row(
            Outcome(key="pause", result="over", guests={"uuid-a": GuestOutcome(result="paused")})
        )
        story.hear("crashed")
        assert steps_of(story)["resume@1"].guests == ("uuid-a",)

    def test_a_pause_that_never_began_leaves_nothing_to_resume(self) -> None:
        story = pausing("a")
        story.close("pause", "not-begun", "the disk is full")
        assert set(steps_of(story)) == {"cancel"}
        assert tidied(story).done().result is Ending.REFUSED

    def test_an_unknown_pause_resumes_every_guest(self) -> None:
        story = pausing("a")
        story.close("pause", "unknown", "libvirt is gone")
        story.hear("crashed")
        assert steps_of(story)["resume@1"].guests == ("uuid-a",)

    def test_clocks_and_newcomers_are_looked_at_after_the_resume(self) -> None:
        story = Story(a_plan("a", agent=True))
        story.go()
        story.close("clocks-before", "over")
        story.go()
        story.close("launch", "launched")
        story.go()
        story.close("arm", "armed", deadline_ns=story.now_ns + 30 * S)
        story.go()
        story.close_guests("pause", {"a": "paused"})
        story.go()
        exit_with(story, 0)
        assert story.go() == ("resume",)
        story.close_guests("resume", {"a": "resumed"})
        assert set(story.go()) == {"disarm", "clocks", "census"}

    def test_a_hanging_census_does_not_keep_the_run_from_ending(self) -> None:
        story = applied("a")
        story.go()
        story.close_guests("resume", {"a": "resumed"})
        story.go()
        story.close("disarm", "disarmed")
        story.pass_time()
        assert story.done().result is Ending.DONE


class TestGuardians:
    def test_one_that_dies_is_replaced_at_once_with_the_first_deadline(self) -> None:
        story = applying("a", "b")
        story.hear("guardian-died")
        step = steps_of(story)["arm-again-1"]
        assert step.safe
        assert step.args["deadline_ns"] == story.state.done["arm"].outcome.figures["deadline_ns"]
        assert step.guests == ("uuid-a", "uuid-b")

    def test_a_new_one_that_hangs_is_noticed_and_guests_resume(self) -> None:
        story = applying("a")
        story.hear("guardian-died")
        story.go()
        until_ns = story.wait().until_ns
        assert until_ns is not None
        assert until_ns < story.now_ns + 15 * S
        story.pass_time()
        assert "resume" in steps_of(story)

    def test_a_new_one_that_cannot_start_brings_guests_back(self) -> None:
        story = applying("a")
        story.hear("guardian-died")
        story.go()
        story.close("arm-again-1", "not-begun", "no guardian: no fork")
        assert "resume" in steps_of(story)

    def test_nobody_left_to_guard_needs_no_new_one(self) -> None:
        story = pausing("a", allow_unpaused=True)
        story.close_guests("pause", {"a": "failed"})
        story.go()
        story.hear("guardian-died")
        assert isinstance(story.decide(), Wait)


def test_the_same_state_and_time_give_the_same_decision() -> None:
    story = applying("a")
    assert inplace.next(story.state, story.now_ns) == inplace.next(story.state, story.now_ns)


def test_a_command_that_ends_within_its_deadline_but_is_heard_late_is_in_time() -> None:
    story = applying("a")
    until_ns = story.wait().until_ns
    assert until_ns is not None
    story.now_ns = until_ns + 5 * MS
    story.close("apply", "exited", exit_code=0, ended_ns=until_ns - MS)
    assert tidied(story).done().result is Ending.DONE
