"""Moves as a run: what is begun, in which order, and how it ends."""

import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.core.codec import entry_from_json, entry_to_json
from hostagent.core.journal import Entry, Heard, Outcome, Planned
from hostagent.core.move import Method
from hostagent.core.plan import Do, Done, Ending, Step, Verb, Wait
from hostagent.rules.move import OVERDUE_NS, is_unsettled
from hostagent.rules.move_orders import Operation
from hostagent.rules.move_report import report
from hostagent.rules.move_standing import MOST_FINDS, MOST_TAKEOVERS
from tests.rules.moves import THERE, MoveStory, a_plan, outcome_of
from tests.rules.runs import S, stamp

ARRIVAL = {"settle:uuid-a:1", "clock:uuid-a:1"}
LADDER = (Method.LIVE, Method.COLD)


def cordoned(*names: str, **terms: Any) -> MoveStory:
    told = MoveStory(a_plan(*names, **terms))
    told.begin(("cordon:1", "cordoned"))
    return told


def _threshold_ns(step: Step) -> int:
    tasks: Any = step.args["tasks"]
    return int(tasks["uuid-a"]["threshold_ns"])


def end(told: MoveStory) -> Done:
    """How it ends; a drain looks around once more before that."""
    if told.go() == ("census",):
        told.row(Outcome(key="census", result="over", figures={"started": []}))
    decision = told.decide()
    assert isinstance(decision, Done), decision
    return decision


def ask(told: MoveStory, word: str, times: int, takeovers: int = 0) -> None:
    """Where guest a is is asked so often, and this is said each time."""
    for number in range(1, times + 1):
        key = f"find-{MOST_FINDS * takeovers + number}:uuid-a:live"
        assert told.go() == (key,)
        told.says(key, word, "it goes on")


def arrive(told: MoveStory, name: str) -> None:
    """Say that all that follows an arrival is done."""
    told.go()
    told.says(f"settle:uuid-{name}:1", "settled")
    told.says(f"clock:uuid-{name}:1", "over")


class TestTheWayForward:
    def test_a_drain_cordons_its_host_first(self) -> None:
        told = MoveStory(a_plan("a"))
        assert told.go() == ("cordon:1",)
        assert told.go() == ()
        told.says("cordon:1", "cordoned")
        assert told.go() == ("live:uuid-a",)

    def test_without_its_cordon_nobody_leaves(self) -> None:
        told = MoveStory(a_plan("a"))
        told.begin(("cordon:1", "failed"))
        assert end(told).result is Ending.REFUSED

    def test_a_cordon_that_hangs_lets_nobody_leave(self) -> None:
        told = MoveStory(a_plan("a"))
        told.go()
        told.now_ns += OVERDUE_NS + S
        assert end(told).result is Ending.REFUSED

    def test_a_few_are_moved_at_once(self) -> None:
        told = cordoned("a", "b", "c", parallel=2)
        assert told.go() == ("live:uuid-a", "live:uuid-b")
        told.says("live:uuid-a", "moved")
        assert set(told.go()) == {*ARRIVAL, "live:uuid-c"}

    def test_a_migration_cordons_nothing(self) -> None:
        told = MoveStory(a_plan("a", operation=Operation.MIGRATE))
        assert told.go() == ("live:uuid-a",)

    def test_all_arrived_is_done(self) -> None:
        told = cordoned("a")
        told.begin(("live:uuid-a", "moved"))
        arrive(told, "a")
        assert end(told) == Done(result=Ending.DONE)

    def test_clocks_hold_up_no_other_guest(self) -> None:
        told = cordoned("a", "b", parallel=1)
        told.begin(("live:uuid-a", "moved"))
        assert "live:uuid-b" in told.go()

    def test_a_guest_without_an_agent_has_no_clock_step(self) -> None:
        told = cordoned("a", channel=False)
        told.begin(("live:uuid-a", "moved"))
        assert told.go() == ("settle:uuid-a:1",)

    def test_one_that_its_owner_stopped_on_the_way_has_none_either(self) -> None:
        told = cordoned("a")
        told.go()
        told.says("live:uuid-a", "moved", state="shut off")
        assert told.go() == ("settle:uuid-a:1",)

    def test_a_second_look_at_clocks_comes_when_all_have_arrived_and_is_nearer(self) -> None:
        told = MoveStory(a_plan("a", operation=Operation.MIGRATE))
        told.begin(("live:uuid-a", "moved"))
        told.go()
        told.says("settle:uuid-a:1", "settled")
        told.says("clock:uuid-a:1", "over", sets=1)
        first = told.state.done["clock:uuid-a:1"].step
        assert told.go() == (f"clocks-again:{THERE}",)
        second = told.state.open[f"clocks-again:{THERE}"].step
        assert _threshold_ns(second) < _threshold_ns(first)

    def test_a_restore_lifts_the_cordon_when_all_is_over(self) -> None:
        told = MoveStory(a_plan("a", operation=Operation.RESTORE))
        told.begin(("live:uuid-a", "moved"))
        assert set(told.go()) == ARRIVAL
        told.says("settle:uuid-a:1", "settled")
        assert told.go() == ()
        told.says("clock:uuid-a:1", "over")
        assert told.go() == ("uncordon:1",)
        told.says("uncordon:1", "uncordoned")
        assert end(told).result is Ending.DONE


class TestTheLadder:
    def test_the_next_rung_follows_only_one_that_left_it_as_it_was(self) -> None:
        told = cordoned("a", rungs=LADDER)
        told.begin(("live:uuid-a", "stayed"))
        assert told.go() == ("cold:uuid-a",)

    @pytest.mark.parametrize("word", ["under-way", "failed", "lost"])
    def test_what_is_not_known_is_found_out_first(self, word: str) -> None:
        told = cordoned("a", rungs=LADDER)
        told.begin(("live:uuid-a", word))
        assert told.go() == ("find-1:uuid-a:live",)
        told.says("find-1:uuid-a:live", "stayed")
        assert told.go() == ("cold:uuid-a",)

    def test_it_is_not_asked_for_ever(self) -> None:
        told = MoveStory(a_plan("a", rungs=LADDER, operation=Operation.MIGRATE))
        told.begin(("live:uuid-a", "under-way"))
        ask(told, "under-way", MOST_FINDS)
        assert end(told) == Done(result=Ending.AMBIGUOUS, reason="guest a: it goes on")

    def test_one_that_is_nowhere_or_twice_needs_a_person(self) -> None:
        told = MoveStory(a_plan("a", rungs=LADDER, operation=Operation.MIGRATE))
        told.begin(("live:uuid-a", "ambiguous"))
        ask(told, "ambiguous", MOST_FINDS)
        assert end(told).result is Ending.AMBIGUOUS

    def test_each_command_asks_again_and_adopts_what_arrived(self) -> None:
        told = MoveStory(a_plan("a", operation=Operation.MIGRATE))
        told.begin(("live:uuid-a", "under-way"))
        ask(told, "under-way", MOST_FINDS)
        assert is_unsettled(told.state)
        told.hear("crashed")
        assert told.go() == (f"find-{MOST_FINDS + 1}:uuid-a:live",)
        told.says(f"find-{MOST_FINDS + 1}:uuid-a:live", "moved")
        assert set(told.go()) == ARRIVAL

    def test_but_not_for_ever(self) -> None:
        told = MoveStory(a_plan("a", operation=Operation.MIGRATE))
        told.begin(("live:uuid-a", "ambiguous"))
        ask(told, "ambiguous", MOST_FINDS)
        for taken_over in range(1, MOST_TAKEOVERS + 1):
            assert is_unsettled(told.state)
            told.hear("crashed")
            ask(told, "ambiguous", MOST_FINDS, taken_over)
        assert not is_unsettled(told.state)

    def test_saved_in_place_is_an_end_and_not_a_move(self) -> None:
        told = cordoned("a", rungs=(Method.SAVE,))
        told.begin(("save:uuid-a", "saved"))
        assert end(told).result is Ending.PARTLY
        (guest,) = report(told.state, told.now_ns).guests
        assert guest.result == "not-moved"
        assert "saved here" in guest.reason


class TestTheEnd:
    def test_one_that_stayed_makes_it_partly(self) -> None:
        told = cordoned("a", "b")
        told.begin(("live:uuid-a", "moved"))
        told.says("live:uuid-b", "stayed", "no memory there")
        arrive(told, "a")
        assert end(told) == Done(result=Ending.PARTLY, reason="guest b: no memory there")

    def test_one_that_can_not_be_moved_makes_it_partly(self) -> None:
        told = cordoned("a", left_out=("b",))
        told.begin(("live:uuid-a", "moved"))
        arrive(told, "a")
        assert end(told) == Done(result=Ending.PARTLY, reason="guest b: tied")

    def test_a_guest_that_started_meanwhile_makes_it_partly(self) -> None:
        told = cordoned("a")
        told.begin(("live:uuid-a", "moved"))
        arrive(told, "a")
        assert told.go() == ("census",)
        told.row(Outcome(key="census", result="over", figures={"started": ["a", "new"]}))
        assert end(told).result is Ending.PARTLY
        assert "new" in end(told).reason

    def test_a_cordon_that_was_there_before_stays_after_an_interruption(self) -> None:
        told = MoveStory(a_plan("a"))
        told.begin(("cordon:1", "was-cordoned"))
        told.go()
        told.hear("signal", "SIGINT")
        told.begin(("abort:live:uuid-a", "asked"))
        told.says("live:uuid-a", "stayed")
        assert told.go() == ()
        assert end(told).result is Ending.INTERRUPTED

    def test_nobody_moved_is_failed(self) -> None:
        told = MoveStory(a_plan("a", operation=Operation.MIGRATE))
        told.go()
        told.says("live:uuid-a", "stayed", "the link broke")
        assert end(told) == Done(result=Ending.FAILED, reason="guest a: the link broke")

    def test_an_arrived_guest_that_is_not_in_order_makes_it_partly(self) -> None:
        told = cordoned("a")
        told.begin(("live:uuid-a", "moved"))
        told.go()
        told.says("settle:uuid-a:1", "unsettled", "it is still defined on h1")
        told.says("clock:uuid-a:1", "over")
        assert end(told).reason == "guest a: it is still defined on h1"

    def test_a_move_that_hangs_is_waited_for_and_then_told(self) -> None:
        told = cordoned("a")
        told.go()
        assert isinstance(told.decide(), Wait)
        told.now_ns += 100 * S + OVERDUE_NS + S
        assert end(told).result is Ending.AMBIGUOUS
        assert is_unsettled(told.state)

    def test_the_report_has_the_figures(self) -> None:
        told = cordoned("a")
        told.go()
        told.says(
            "live:uuid-a", "moved", total_ns=3 * S, downtime_ns=S // 5, downtime_source="qemu"
        )
        arrive(told, "a")
        told_of = report(told.state, told.now_ns)
        (guest,) = told_of.guests
        assert (guest.result, guest.total_s, guest.downtime_s) == ("moved", 3.0, 0.2)
        assert (told_of.changed, told_of.operation) == (True, "drain")


class TestStopped:
    def test_a_signal_aborts_what_is_under_way_and_begins_nothing(self) -> None:
        told = cordoned("a", "b", "c")
        told.go()
        told.hear("signal", "SIGTERM")
        assert set(told.go()) == {"abort:live:uuid-a", "abort:live:uuid-b"}
        told.says("live:uuid-a", "stayed")
        told.says("live:uuid-b", "moved")
        assert set(told.go()) == {"settle:uuid-b:1", "clock:uuid-b:1"}

    def test_a_cancelled_drain_leaves_no_cordon(self) -> None:
        told = cordoned("a")
        told.go()
        told.hear("signal", "SIGINT")
        told.begin(("abort:live:uuid-a", "asked"))
        told.says("live:uuid-a", "stayed")
        assert told.go() == ("uncordon:1",)
        told.says("uncordon:1", "uncordoned")
        assert end(told).result is Ending.INTERRUPTED

    def test_after_a_crash_what_arrived_is_adopted(self) -> None:
        told = cordoned("a", "b", parallel=1)
        told.go()
        told.says("live:uuid-a", "moved")
        told.hear("crashed")
        assert set(told.go()) == ARRIVAL

    def test_after_a_crash_a_move_that_goes_on_is_waited_for(self) -> None:
        """libvirt carries it out by itself: it is looked for and adopted, and not aborted."""
        told = MoveStory(a_plan("a", operation=Operation.MIGRATE))
        told.go()
        told.says("live:uuid-a", "lost")
        told.hear("crashed")
        assert told.go() == ("find-1:uuid-a:live",)
        assert told.go() == ()
        told.hear("signal", "SIGINT")
        assert told.go() == ("abort:find-1:uuid-a:live",)

    def test_what_a_crash_cut_short_is_done_again(self) -> None:
        told = cordoned("a")
        told.begin(("live:uuid-a", "moved"))
        told.go()
        told.says("settle:uuid-a:1", "lost")
        told.says("clock:uuid-a:1", "lost")
        told.hear("crashed")
        assert set(told.go()) == {"settle:uuid-a:2", "clock:uuid-a:2"}


def test_the_plan_goes_to_the_journal_and_back() -> None:
    entry = Entry(row=Planned(plan=a_plan("a", rungs=LADDER)), stamp=stamp(1))
    assert entry_from_json(json.loads(json.dumps(entry_to_json(entry)))) == entry


WORDS = {
    Verb.CORDON: ("cordoned", "failed", "lost"),
    Verb.MOVE: ("moved", "stayed", "under-way", "failed", "ambiguous", "not-begun", "lost"),
    Verb.FIND: ("moved", "stayed", "under-way", "failed", "ambiguous", "lost"),
    Verb.SETTLE: ("settled", "unsettled", "failed", "lost"),
    Verb.SYNC_CLOCKS: ("over", "failed", "lost"),
    Verb.ABORT: ("asked", "failed", "lost"),
    Verb.CENSUS: ("over", "unread", "lost"),
    Verb.UNCORDON: ("uncordoned", "failed", "lost"),
}


class Watched(MoveStory):
    """A run that is judged at each step that it begins."""

    def judge(self, steps: tuple[Step, ...], parallel: int) -> None:
        halted = self.state.hears("crashed") or self.state.hears("signal")
        for step in steps:
            if step.verb is Verb.MOVE:
                assert not halted, "begun after a halt"
                self._judge_attempt(step)
        busy = [
            step
            for step in (*steps, *(opened.step for opened in self.state.open.values()))
            if step.verb in (Verb.MOVE, Verb.FIND)
        ]
        assert len(busy) <= parallel or halted, "too many at once"
        guests = [step.guests for step in busy]
        assert len(set(guests)) == len(guests), "two attempts at one guest"

    def _judge_attempt(self, step: Step) -> None:
        words = [
            closed.outcome.result
            for closed in self.state.done.values()
            if closed.step.guests == step.guests and closed.step.verb in (Verb.MOVE, Verb.FIND)
        ]
        assert not words or words[-1] in ("stayed", "not-begun"), words
        assert "moved" not in words, words


@settings(max_examples=int(os.environ.get("HOSTAGENT_EXAMPLES", "150")), deadline=None)
@given(data=st.data())
def test_whatever_comes_of_each_step(data: st.DataObject) -> None:
    parallel = data.draw(st.integers(1, 3))
    rungs = data.draw(st.sampled_from([(Method.LIVE,), LADDER, (*LADDER, Method.SAVE)]))
    operation = data.draw(st.sampled_from(Operation))
    told = Watched(a_plan("a", "b", "c", parallel=parallel, rungs=rungs, operation=operation))
    for _ in range(400):
        decision = told.decide()
        if isinstance(decision, Done):
            break
        if isinstance(decision, Do):
            told.judge(decision.steps, parallel)
            told.go()
            continue
        what = data.draw(st.sampled_from(["outcome"] * 8 + ["signal", "crashed", "time"]))
        if what == "outcome":
            key = data.draw(st.sampled_from(sorted(told.state.open)))
            step = told.state.open[key].step
            told.row(outcome_of(step, data.draw(st.sampled_from(WORDS[step.verb]))))
        elif what == "time":
            assert decision.until_ns is not None
            told.now_ns = decision.until_ns
        else:
            told.row(Heard(what=what, value="SIGTERM"))
    else:
        raise AssertionError("it does not end")
    report(told.state, told.now_ns)
