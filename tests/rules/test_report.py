"""The report: the names that others rely on, and nothing that was not measured."""

from dataclasses import asdict, fields, replace

import pytest

from hostagent.core.journal import Closed, Ended, GuestOutcome, Outcome
from hostagent.core.plan import Ending
from hostagent.rules.clock_outcome import NO_CHANNEL, ClockReport
from hostagent.rules.report import (
    GuestReport,
    RunReport,
    UpdateReport,
    report,
)
from hostagent.rules.request import S
from tests.rules.runs import (
    MS,
    RIGHT,
    SET,
    Story,
    a_plan,
    applied,
    applying,
    armed,
    pausing,
    tidied,
)


def test_names_are_those_of_run_1() -> None:
    documented = {
        RunReport: "changed warnings host result budget_s update guests",
        UpdateReport: "command exit_code duration_s",
        GuestReport: "name uuid result reason pause_s pause_source pause_uncertainty_s pause_api_s"
        " pause_guest_clock_s clock",
        ClockReport: "synced method offset_before_s offset_after_s uncertainty_s reason",
    }
    for kind, names in documented.items():
        assert set(names.split()) <= {field.name for field in fields(kind)}


def test_a_good_run() -> None:
    story = tidied(applied("a"))
    told = report(story.state, story.now_ns)
    assert (told.result, told.changed, told.budget_s, told.host) == ("done", True, 30.0, "h1")
    assert (told.update.command, told.update.exit_code, told.update.pid) == (("update",), 0, 77)
    (guest,) = told.guests
    assert (guest.result, guest.pause_source) == ("paused", "api")
    assert guest.pause_s == pytest.approx(2, abs=0.1)
    assert asdict(guest)["clock"] == {
        "synced": False,
        "method": None,
        "offset_before_s": None,
        "offset_resumed_s": None,
        "offset_after_s": None,
        "uncertainty_s": None,
        "reason": NO_CHANNEL,
    }


def test_the_end_that_was_written_down_is_told_for_good() -> None:
    story = applied("a")
    story.row(Ended(result=Ending.PARTLY, reason="why"))
    told = report(story.state, story.now_ns + 1000 * S)
    assert (told.result, told.reason) == ("partly", "why")


@pytest.mark.parametrize("make", [armed, pausing, applying])
def test_a_run_under_way_can_be_told(make: type[Story]) -> None:
    story = make("a")
    assert report(story.state, story.now_ns).guests[0].name == "a"


class TestChanged:
    def test_not_before_a_guest_was_touched(self) -> None:
        story = armed("a")
        assert not report(story.state, story.now_ns).changed

    def test_by_prepare_and_by_the_pause(self) -> None:
        story = Story(a_plan("a", prepare=("get",)))
        story.go()
        assert report(story.state, story.now_ns).changed
        story = pausing("a")
        assert report(story.state, story.now_ns).changed

    def test_not_by_a_pause_that_could_not_begin(self) -> None:
        story = pausing("a")
        story.close("pause", "not-begun", "the disk is full")
        assert not report(story.state, story.now_ns).changed


class TestPauseFigures:
    def test_events_are_taken_where_both_were_seen(self) -> None:
        story = _with_events(resumed_after_ns=2 * S)
        (guest,) = report(story.state, story.now_ns).guests
        assert (guest.pause_source, guest.pause_s) == ("events", 2.0)

    def test_one_that_somebody_else_resumed_has_no_figure_of_our_calls(self) -> None:
        story = applied("a")
        story.go()
        story.close_guests("resume", {"a": "running"})
        (guest,) = report(story.state, story.now_ns).guests
        assert (guest.pause_s, guest.pause_source) == (None, None)

    def test_a_disagreement_is_a_warning_with_the_guests_name(self) -> None:
        story = _with_events(resumed_after_ns=92 * S)
        told = report(story.state, story.now_ns)
        assert told.guests[0].pause_source == "api"
        assert any("guest a:" in warning and "stepped" in warning for warning in told.warnings)

    def test_the_guests_clock_is_the_third_figure(self) -> None:
        story = Story(a_plan("a", agent=True))
        story.go()
        _read(story, "clocks-before", behind_ns=5 * S, offset_ns=-5 * S)
        story.go()
        story.close("launch", "launched")
        story.go()
        story.close("arm", "armed", deadline_ns=story.now_ns + 30 * S)
        story.go()
        story.close_guests("pause", {"a": "paused"})
        story.go()
        story.now_ns += 2 * S
        story.close("apply", "exited", exit_code=0, ended_ns=story.now_ns)
        story.go()
        story.close_guests("resume", {"a": "resumed"})
        story.go()
        figures = {"first_behind_ns": 7 * S, "first_offset_ns": -7 * S, "first_uncertainty_ns": MS}
        figures |= {"offset_ns": MS, "uncertainty_ns": MS, "sets": 1, "method": "agent"}
        tried = GuestOutcome(result="synced", figures=figures)
        story.row(Outcome(key="clocks", result="over", guests={"uuid-a": tried}))
        (guest,) = report(story.state, story.now_ns).guests
        assert guest.pause_guest_clock_s == 2.0
        assert (guest.clock.synced, guest.clock.method) == (True, "agent")
        assert (guest.clock.offset_before_s, guest.clock.offset_resumed_s) == (-5.0, -7.0)
        assert (guest.clock.offset_after_s, guest.clock.uncertainty_s) == (0.001, 0.001)


class TestAfterACrashInTheMiddleOfTheClocks:
    def told(self, *, first: GuestOutcome | None) -> RunReport:
        story = applied("a", agent=True)
        story.state = replace(
            story.state, done={**story.state.done, "clocks-before": _before(story)}
        )
        story = tidied(story, "clocks")
        if first is not None:
            story.close_clocks("clocks", a=first)
            story.pass_time()
            assert story.go() == ("clocks-again",)
        story.close("clocks" if first is None else "clocks-again", "lost")
        story.hear("crashed")
        assert story.go() == ("clocks@1",)
        story.close_clocks("clocks@1", a=RIGHT)
        return report(story.state, story.now_ns)

    def test_what_was_read_after_it_may_be_of_a_clock_that_was_set(self) -> None:
        told = self.told(first=None)
        assert told.guests[0].clock.synced is True
        assert told.guests[0].clock.offset_resumed_s is None
        assert told.guests[0].pause_guest_clock_s is None
        assert not any("unevenly" in warning for warning in told.warnings)

    def test_what_was_read_before_it_counts(self) -> None:
        told = self.told(first=SET)
        assert told.guests[0].clock.offset_resumed_s == -2.0
        assert told.guests[0].pause_guest_clock_s == 2.0


def _before(story: Story) -> Closed:
    figures = {"offset_ns": 0, "behind_ns": 0, "uncertainty_ns": MS}
    read = {"uuid-a": GuestOutcome(result="read", figures=figures)}
    closed = story.state.done["clocks-before"]
    return replace(closed, outcome=replace(closed.outcome, guests=read))


def test_newcomers_are_listed_as_unpaused() -> None:
    story = applied("a")
    story.go()
    story.close_guests("resume", {"a": "resumed"})
    story.go()
    story.close("census", "over", started=["late"])
    told = report(story.state, story.now_ns)
    assert [(guest.name, guest.result) for guest in told.guests] == [
        ("a", "paused"),
        ("late", "unpaused"),
    ]


def test_guardians_that_died_are_told() -> None:
    story = applied("a")
    story.hear("guardian-died")
    assert "1 guardians died" in report(story.state, story.now_ns).warnings[-1]


def _with_events(resumed_after_ns: int) -> Story:
    story = pausing("a")
    stopped_ns = story.now_ns
    figures = {
        "called_ns": stopped_ns - MS,
        "returned_ns": stopped_ns + MS,
        "stopped_ns": stopped_ns,
    }
    paused = GuestOutcome(result="paused", figures=figures)
    story.row(Outcome(key="pause", result="over", guests={"uuid-a": paused}))
    story.go()
    story.now_ns = stopped_ns + 2 * S
    story.close("apply", "exited", exit_code=0, ended_ns=story.now_ns)
    story.go()
    figures = {
        "called_ns": stopped_ns + 2 * S - MS,
        "returned_ns": stopped_ns + 2 * S + MS,
        "resumed_ns": stopped_ns + resumed_after_ns,
    }
    back = GuestOutcome(result="resumed", figures=figures)
    story.row(Outcome(key="resume", result="over", guests={"uuid-a": back}))
    return story


def _read(story: Story, key: str, **figures: int) -> None:
    reading = GuestOutcome(result="read", figures={**figures, "uncertainty_ns": MS})
    story.row(Outcome(key=key, result="over", guests={"uuid-a": reading}))
