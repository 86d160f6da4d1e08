"""Taking over a run whose process died."""

import queue
import time
from typing import Any

from hostagent.core.errors import LibvirtUnreachableError
from hostagent.core.journal import (
    Ended,
    Entry,
    GuestOutcome,
    Heard,
    Outcome,
    Row,
    State,
)
from hostagent.core.plan import Done, Ending, Step, Verb
from hostagent.rules.progress import Progress
from hostagent.work.recovery import finish, take_over
from hostagent.work.runner import Runner
from tests.rules.runs import Story, applying, pausing, stamp


class Memory:
    """A journal that only remembers."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def append(self, row: Row) -> Entry:
        self.rows.append(row)
        return Entry(row=row, stamp=stamp(200 + len(self.rows)))

    def sync(self) -> None:
        raise AssertionError("recovery waits for no disk")


class Looks:
    """A worker that says this when it is looked at."""

    def __init__(self, said: Outcome | Exception) -> None:
        self._said = said

    def do(self, step: Step) -> Outcome:
        raise AssertionError("nothing is done while looking")

    def look(self, step: Step) -> Outcome:
        if isinstance(self._said, Exception):
            raise self._said
        return self._said


def taken_over(story: Story, said: Any, rows: tuple[Heard, ...] = ()) -> tuple[State, Memory]:
    memory = Memory()
    state = take_over(story.state, memory, dict.fromkeys(Verb, Looks(said)), rows)
    return state, memory


def test_every_open_step_is_looked_at_and_the_crash_is_the_last_row() -> None:
    back = Heard(what="guardian-back", value={"uuid": "x"})
    seen = Outcome(key="apply", result="lost")
    state, memory = taken_over(applying("a"), seen, (back,))
    assert memory.rows == [back, seen, Heard(what="crashed")]
    assert not state.open


def test_a_look_that_fails_leaves_the_step_unknown_and_the_guests_ours() -> None:
    state, _ = taken_over(pausing("a"), LibvirtUnreachableError("no answer"))
    assert state.result("pause") == "unknown"
    assert Progress(state).to_resume == ("uuid-a",)


def test_guests_that_are_seen_to_run_are_not_resumed() -> None:
    seen = Outcome(key="pause", result="over", guests={"uuid-a": GuestOutcome(result="running")})
    state, _ = taken_over(pausing("a"), seen)
    assert Progress(state).to_resume == ()


def _finished(still_paused: bool, rows: tuple[Heard, ...] = ()) -> list[Row]:
    memory, story = Memory(), applying("a")
    runner = Runner(
        decide=lambda state, now_ns: Done(result=Ending.INTERRUPTED, reason="why"),
        state=story.state,
        journal=memory,
        steps={},
        inbox=queue.SimpleQueue(),
        clock=time.monotonic_ns,
        say=lambda sentence: None,
    )
    finish(runner, lambda state: still_paused, lambda: rows)
    return memory.rows


def test_a_run_that_left_nothing_is_ended() -> None:
    assert _finished(still_paused=False) == [Ended(result=Ending.INTERRUPTED, reason="why")]


def test_a_run_that_left_a_guest_is_not_ended() -> None:
    assert _finished(still_paused=True) == []


def test_what_the_guardian_did_meanwhile_is_heard_before_the_end_and_once() -> None:
    back = Heard(what="guardian-back", value={"uuid": "x"})
    ended = Ended(result=Ending.INTERRUPTED, reason="why")
    assert _finished(still_paused=False, rows=(back,)) == [back, ended]
    state, memory = taken_over(applying("a"), Outcome(key="apply", result="lost"), (back,))
    again = Memory()
    take_over(state, again, {}, (back,))
    assert back in memory.rows
    assert back not in again.rows
