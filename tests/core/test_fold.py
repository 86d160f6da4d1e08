"""The fold of a journal: its rows in order are a run's only state."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.core.journal import (
    Ended,
    Entry,
    Heard,
    Intent,
    JournalError,
    Outcome,
    Planned,
    Row,
    Stamp,
    State,
    apply,
    fold,
    salvage,
    start,
)
from hostagent.core.model import Host, Qmp
from hostagent.core.plan import Ending, Plan, Step, Verb

HOST = Host(name="h", uri="u", uuid="x", daemon=None, qmp=Qmp(allowed=True))
PLAN = Plan(run="run-1", kind="inplace", host=HOST, guests=(), args={})


def entry(row: Row, at_ns: int = 0) -> Entry:
    return Entry(row=row, stamp=Stamp(monotonic_ns=at_ns, boot_id="boot-1", utc="", pid=1))


def intent(key: str) -> Intent:
    return Intent(step=Step(key=key, verb=Verb.PAUSE))


BEGUN = fold([entry(Planned(plan=PLAN)), entry(intent("pause"), 10)])


def test_an_intent_without_an_outcome_is_open() -> None:
    assert BEGUN.open["pause"].since_ns == 10
    assert BEGUN.begun("pause")
    assert BEGUN.result("pause") == ""


def test_an_outcome_closes_its_step_with_both_times() -> None:
    state = apply(BEGUN, entry(Outcome(key="pause", result="over"), 25))
    assert (state.done["pause"].since_ns, state.done["pause"].at_ns) == (10, 25)
    assert not state.open
    assert state.begun("pause")
    assert state.result("pause") == "over"


def test_an_outcome_counts_once() -> None:
    state = apply(BEGUN, entry(Outcome(key="pause", result="over"), 25))
    assert apply(state, entry(Outcome(key="pause", result="failed"), 30)) == state


def test_what_is_heard_is_kept_in_order() -> None:
    state = apply(BEGUN, entry(Heard(what="signal", value="SIGINT"), 11))
    state = apply(state, entry(Heard(what="crashed"), 12))
    assert [(heard.what, heard.value, heard.at_ns) for heard in state.heard] == [
        ("signal", "SIGINT", 11),
        ("crashed", None, 12),
    ]
    assert state.hears("crashed")
    assert not state.hears("guardian-died")


def test_the_end_is_kept() -> None:
    ended = Ended(result=Ending.DONE)
    assert apply(BEGUN, entry(ended)).ended == ended


@pytest.mark.parametrize(
    "row",
    [Planned(plan=PLAN), Outcome(key="resume", result="over"), intent("pause")],
    ids=["a second plan", "an outcome without its intent", "a step begun twice"],
)
def test_an_illegal_row_raises_and_changes_nothing(row: Row) -> None:
    before = repr(BEGUN)
    with pytest.raises(JournalError):
        apply(BEGUN, entry(row))
    assert repr(BEGUN) == before


def test_a_finished_step_is_not_begun_again() -> None:
    state = apply(BEGUN, entry(Outcome(key="pause", result="over")))
    with pytest.raises(JournalError):
        apply(state, entry(intent("pause")))


@pytest.mark.parametrize("row", [intent("pause"), Heard(what="signal"), Ended(result=Ending.DONE)])
def test_a_journal_begins_with_its_plan(row: Row) -> None:
    with pytest.raises(JournalError):
        start(entry(row))


def test_an_empty_journal_is_none() -> None:
    with pytest.raises(JournalError):
        fold([])


def test_what_a_damaged_file_still_tells() -> None:
    rows = [
        entry(Planned(plan=PLAN)),
        entry(Outcome(key="lost", result="over")),
        entry(intent("a")),
    ]
    state = salvage(rows)
    assert state.begun("a")
    assert not state.begun("lost")


@pytest.mark.parametrize("rows", [[], [entry(intent("a"))]], ids=["empty", "without a plan"])
def test_nothing_is_salvaged_without_a_plan(rows: list[Entry]) -> None:
    with pytest.raises(JournalError):
        salvage(rows)


def test_rows_of_a_later_boot_are_told_apart() -> None:
    later = Entry(
        row=Heard(what="crashed"), stamp=replace(entry(Heard(what="")).stamp, boot_id="2")
    )
    assert not BEGUN.rebooted
    assert apply(BEGUN, later).rebooted


KEYS = st.sampled_from(["a", "b", "c"])
ANY_ROW = (
    st.builds(intent, KEYS)
    | st.builds(Outcome, key=KEYS, result=st.sampled_from(["over", "failed"]))
    | st.builds(Heard, what=st.just("signal"))
    | st.just(Planned(plan=PLAN))
)


@given(st.lists(ANY_ROW, max_size=12))
def test_any_rows_give_one_state_or_are_refused(rows: list[Row]) -> None:
    state = start(entry(Planned(plan=PLAN)))
    taken: list[Row] = []
    for number, row in enumerate(rows):
        before: State = state
        try:
            state = apply(state, entry(row, number))
        except JournalError:
            assert state == before
        else:
            taken.append(row)
        assert not state.open.keys() & state.done.keys()
    begun = {row.step.key for row in taken if isinstance(row, Intent)}
    assert begun == state.open.keys() | state.done.keys()


def test_every_prefix_of_a_journal_is_a_state() -> None:
    rows: list[Row] = [
        Planned(plan=PLAN),
        intent("a"),
        Heard(what="signal"),
        Outcome(key="a", result="over"),
        Ended(result=Ending.DONE),
    ]
    states = [fold([entry(row) for row in rows[:length]]) for length in range(1, len(rows) + 1)]
    assert all(one != other for one, other in itertools.pairwise(states))
