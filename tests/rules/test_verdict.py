"""The result of a run and of each guest: the worst that happened names the run."""

import itertools

import pytest

from hostagent.core.journal import GuestOutcome, Outcome
from hostagent.core.model import GuestState
from hostagent.core.plan import Ending
from hostagent.rules.progress import Progress
from hostagent.rules.request import S
from hostagent.rules.verdict import SEVERITY, exit_words, guest_result
from tests.rules.runs import Story, a_plan, applied, applying, exit_with, guest, pausing, tidied


def result_of(story: Story, name: str) -> tuple[str, str]:
    (found,) = [planned for planned in story.state.plan.guests if planned.name == name]
    result = guest_result(Progress(story.state), found)
    return result.result, result.reason


def test_severity_is_the_documented_order() -> None:
    documented = "ambiguous resume-failed update-failed interrupted budget-exceeded partly done"
    assert [ending for ending in SEVERITY if ending is not Ending.REFUSED] == documented.split()
    assert set(SEVERITY) == set(Ending) - {Ending.FAILED}  # that is of moves, which have one result


def _troubled(troubles: tuple[Ending, ...]) -> Story:
    """A run in which all of these happened at once."""
    names = {
        Ending.AMBIGUOUS: "hung",
        Ending.RESUME_FAILED: "failed",
        Ending.PARTLY: "gone",
    }
    backs = {names[trouble]: names[trouble] for trouble in troubles if trouble in names}
    story = applying("well", *backs)
    if Ending.BUDGET_EXCEEDED in troubles:
        story.pass_time()
    if Ending.INTERRUPTED in troubles:
        # The command ends by itself before the signal reaches it.
        exit_with(story, 0)
        story.hear("signal", "SIGINT")
    else:
        exit_with(story, 3 if Ending.UPDATE_FAILED in troubles else 0)
    assert "resume" in story.go()
    story.close_guests("resume", {"well": "resumed", **backs}, reason="why")
    while "settle" in story.go() or "settle" in story.state.open:
        story.close_guests("settle", {"hung": "hung"}, reason="why")
    return tidied(story)


_COMBINED = [
    pair
    for pair in itertools.combinations([e for e in SEVERITY if e is not Ending.REFUSED], 2)
    if set(pair) != {Ending.UPDATE_FAILED, Ending.INTERRUPTED}
]


@pytest.mark.parametrize(("worse", "better"), _COMBINED)
def test_the_worse_of_two_names_the_run(worse: Ending, better: Ending) -> None:
    assert _troubled((worse, better)).done().result is worse


def test_interrupted_tells_more_than_the_exit_that_the_signal_caused() -> None:
    story = applying("a")
    story.hear("signal", "SIGINT")
    tidied(story)
    exit_with(story, -2)
    assert tidied(story).done().result is Ending.INTERRUPTED


class TestGuests:
    def test_paused(self) -> None:
        assert result_of(tidied(applied("a")), "a") == ("paused", "")

    def test_skipped(self) -> None:
        off = guest("b", state=GuestState.SHUT_OFF, reason="shutdown", process=None)
        assert result_of(Story(a_plan("a", guests=(off,))), "b") == (
            "skipped",
            "shut off (shutdown)",
        )

    def test_skipped_because_its_owner_was_first(self) -> None:
        story = pausing("a", "b")
        story.close_guests("pause", {"a": "paused", "b": "not-ours"}, reason="its owner")
        assert result_of(story, "b") == ("skipped", "its owner")

    def test_skipped_because_it_stood_still_when_the_guardian_was_armed(self) -> None:
        story = Story(a_plan("a", "b"))
        story.go()
        story.close("launch", "launched")
        story.go()
        guests = {
            "uuid-a": GuestOutcome(result="guarded"),
            "uuid-b": GuestOutcome(result="left", reason="its owner paused it first"),
        }
        deadline = {"deadline_ns": story.now_ns + 30 * S}
        story.row(Outcome(key="arm", result="armed", guests=guests, figures=deadline))
        assert story.go() == ("pause",)
        assert story.state.open["pause"].step.guests == ("uuid-a",)
        assert result_of(story, "b") == ("skipped", "its owner paused it first")

    def test_untouched(self) -> None:
        story = Story(a_plan("a"))
        story.hear("signal", "SIGINT")
        assert result_of(story, "a")[0] == "untouched"

    def test_unpaused_because_it_refused(self) -> None:
        story = pausing("a", allow_unpaused=True)
        story.close_guests("pause", {"a": "failed"}, reason="no")
        assert result_of(story, "a") == ("unpaused", "no")

    def test_unpaused_because_it_stopped_too_late(self) -> None:
        story = pausing("a", allow_unpaused=True)
        story.close_guests("pause", {"a": "unsettled"})
        story.go()
        exit_with(story, 0)
        assert result_of(tidied(story), "a")[0] == "unpaused"

    def test_unpaused_because_somebody_resumed_it(self) -> None:
        story = applied("a")
        story.go()
        story.close_guests("resume", {"a": "running"})
        assert result_of(story, "a")[0] == "unpaused"
        assert tidied(story).done().result is Ending.PARTLY

    def test_paused_although_somebody_resumed_it_after_the_command(self) -> None:
        story = applied("a")
        story.go()
        back = GuestOutcome(result="running", figures={"resumed_ns": story.now_ns})
        story.row(Outcome(key="resume", result="over", guests={"uuid-a": back}))
        assert result_of(story, "a")[0] == "paused"

    def test_unpaused_because_its_job_never_ended(self) -> None:
        story = Story(a_plan(guests=(guest("a", job="dump"),), allow_unpaused=True))
        story.go()
        story.close_guests("await-jobs", {"a": "busy"}, reason="a dump is running on it")
        assert result_of(story, "a") == ("unpaused", "a dump is running on it")

    def test_unpaused_because_it_could_not_be_paused_safely(self) -> None:
        story = Story(a_plan(guests=(guest("a", process=None),), allow_unpaused=True))
        assert result_of(story, "a")[0] == "unpaused"

    def test_gone(self) -> None:
        story = applied("a")
        story.go()
        story.close_guests("resume", {"a": "gone"}, reason="it was shut off")
        assert result_of(story, "a") == ("gone", "it was shut off")

    def test_unsettled(self) -> None:
        story = applied("a")
        story.go()
        story.close_guests("resume", {"a": "hung"}, reason="its QEMU is stopped")
        assert result_of(story, "a") == ("unsettled", "its QEMU is stopped")

    def test_resume_failed(self) -> None:
        story = applied("a")
        story.go()
        story.close_guests("resume", {"a": "failed"}, reason="no")
        assert result_of(story, "a") == ("resume-failed", "no")

    def test_paused_although_the_crash_came_before_its_pause_was_known(self) -> None:
        story = pausing("a")
        value = {"uuid": "uuid-a", "result": "resumed", "reason": "", "figures": {}}
        story.hear("guardian-back", value)
        running = {"uuid-a": GuestOutcome(result="running")}
        story.row(Outcome(key="pause", result="over", guests=running))
        story.hear("crashed")
        assert result_of(story, "a")[0] == "paused"


class TestReasons:
    def test_how_a_command_ended(self) -> None:
        assert [exit_words(code) for code in (3, -9, None)] == [
            "exit 3",
            "signal 9",
            "an unknown status",
        ]

    def test_a_lost_command_is_said_to_be_lost(self) -> None:
        story = applying("a")
        story.close("apply", "lost")
        story.hear("crashed")
        done = tidied(story).done()
        assert done.result is Ending.INTERRUPTED
        assert "not known" in done.reason

    def test_a_step_that_broke_down_in_the_update_is_a_failed_update(self) -> None:
        story = applying("a")
        story.close("apply", "failed", "ValueError()")
        assert tidied(story).done().result is Ending.UPDATE_FAILED

    def test_a_guest_paused_past_the_budget_exceeds_it(self) -> None:
        story = applied("a")
        story.go()
        late = {"called_ns": story.now_ns + 60 * S, "returned_ns": story.now_ns + 60 * S}
        back = {"uuid-a": GuestOutcome(result="resumed", figures=late)}
        story.row(Outcome(key="resume", result="over", guests=back))
        assert tidied(story).done().result is Ending.BUDGET_EXCEEDED
