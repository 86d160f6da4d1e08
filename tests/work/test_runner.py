"""The runner with real threads: what hangs is left behind, and what breaks becomes an outcome."""

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hostagent.core.errors import RefusedError
from hostagent.core.journal import Entry, Heard, Outcome, Planned, Row, State, start
from hostagent.core.plan import Decision, Do, Done, Ending, Step, Verb, Wait
from hostagent.rules import inplace
from hostagent.work import runner as runner_module
from hostagent.work.fence import Fence
from hostagent.work.inbox import Inbox
from hostagent.work.runner import Runner
from tests.rules.runs import a_plan, stamp

LIMIT_S = 5.0


class Disk:
    """A journal whose disk can be stopped."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.answers = threading.Event()
        self.answers.set()
        self.asked = threading.Event()
        self.error: OSError | None = None

    def append(self, row: Row) -> Entry:
        self.rows.append(row)
        return Entry(row=row, stamp=stamp(time.monotonic_ns()))

    def sync(self) -> None:
        self.asked.set()
        self.answers.wait()
        if self.error is not None:
            raise self.error


class Work:
    """A step's worker that calls a function."""

    def __init__(self, effect: Callable[[Step], Outcome | None]) -> None:
        self._effect = effect

    def do(self, step: Step) -> Outcome:
        return self._effect(step) or Outcome(key=step.key, result="over")

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result="unknown")


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.answers.set()


def run(
    disk: Disk,
    decide: Callable[[State, int], Decision],
    steps: dict[Verb, Work],
    inbox: Inbox | None = None,
) -> tuple[Done, State]:
    """Drive to the end in a thread of its own: one that hangs fails here."""
    state = start(disk.append(Planned(plan=a_plan("a"))))
    driven = Runner(
        decide=decide,
        state=state,
        journal=disk,
        steps=steps,
        inbox=inbox if inbox is not None else queue.SimpleQueue(),
        clock=time.monotonic_ns,
        say=lambda sentence: None,
    )
    ends: queue.SimpleQueue[Done] = queue.SimpleQueue()
    threading.Thread(target=lambda: ends.put(driven.drive()), daemon=True).start()
    return ends.get(timeout=LIMIT_S), driven.state


def one_step(verb: Verb, *, safe: bool = False) -> Callable[[State, int], Decision]:
    """Begin one step, wait for it, end."""

    def decide(state: State, now_ns: int) -> Decision:
        if not state.begun(verb):
            return Do(steps=(Step(key=verb, verb=verb, safe=safe),), why="")
        return Wait(why="") if verb in state.open else Done(result=Ending.DONE)

    return decide


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (RefusedError("there is no guardian"), "not-begun"),
        (ValueError("a bug"), "failed"),
        (OSError("the pipe is broken"), "failed"),
        (KeyError("apply"), "failed"),
    ],
)
def test_an_error_in_a_step_becomes_its_outcome(disk: Disk, error: Exception, result: str) -> None:
    def effect(step: Step) -> Outcome:
        raise error

    _, state = run(disk, one_step(Verb.PAUSE), {Verb.PAUSE: Work(effect)})
    assert state.result("pause") == result


def test_an_unsafe_step_has_no_effect_before_its_intent_is_on_the_disk(disk: Disk) -> None:
    disk.answers.clear()
    effects: list[str] = []
    steps = {Verb.PAUSE: Work(lambda step: effects.append("paused"))}
    threading.Thread(target=lambda: run(disk, one_step(Verb.PAUSE), steps), daemon=True).start()
    assert disk.asked.wait(LIMIT_S)
    assert effects == []
    disk.answers.set()
    _until(lambda: effects == ["paused"])


def test_a_safe_step_does_not_wait_for_the_disk(disk: Disk) -> None:
    disk.answers.clear()
    _, state = run(disk, one_step(Verb.RESUME, safe=True), {Verb.RESUME: Work(lambda step: None)})
    assert state.result("resume") == "over"


def test_a_disk_that_takes_no_writes_means_not_begun(disk: Disk) -> None:
    disk.error = OSError(28, "No space left on device")
    effects: list[str] = []
    steps = {Verb.PAUSE: Work(lambda step: effects.append("paused"))}
    _, state = run(disk, one_step(Verb.PAUSE), steps)
    assert state.result("pause") == "not-begun"
    assert "No space left" in state.done["pause"].outcome.reason
    assert effects == []


def test_a_disk_that_hangs_means_not_begun(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "SYNC_LIMIT_S", 0.1)
    disk.answers.clear()
    _, state = run(disk, one_step(Verb.PAUSE), {Verb.PAUSE: Work(lambda step: None)})
    assert state.result("pause") == "not-begun"
    assert "has not answered" in state.done["pause"].outcome.reason


def test_a_step_that_hangs_does_not_keep_the_run_from_ending(disk: Disk) -> None:
    hangs = threading.Event()

    def decide(state: State, now_ns: int) -> Decision:
        if not state.begun("census"):
            return Do(steps=(Step(key="census", verb=Verb.CENSUS, safe=True),), why="")
        until_ns = state.open["census"].since_ns + 50_000_000
        return Wait(why="", until_ns=until_ns) if now_ns < until_ns else Done(result=Ending.DONE)

    done, state = run(disk, decide, {Verb.CENSUS: Work(lambda step: hangs.wait() and None)})
    assert done.result is Ending.DONE
    assert "census" in state.open
    hangs.set()


def test_what_was_held_up_by_the_disk_has_no_effect_after_the_way_back_began(disk: Disk) -> None:
    """The whole decision over real threads: the disk stops before the pause, a signal comes, the
    guests are resumed, and then the disk answers again."""
    fence, effects, inbox = Fence(), [], queue.SimpleQueue()

    def pause(step: Step) -> Outcome:
        if not fence.enter(lambda: None):
            raise RefusedError("the run was stopped")
        effects.append("paused")
        return Outcome(key=step.key, result="over")

    def resume(step: Step) -> Outcome:
        fence.turn()
        effects.append("resumed")
        return Outcome(key=step.key, result="over")

    def arm(step: Step) -> Outcome:
        disk.answers.clear()
        disk.asked.clear()
        inbox_later = threading.Thread(target=signal_when_asked, daemon=True)
        inbox_later.start()
        return Outcome(key=step.key, result="armed", figures={"deadline_ns": 2**62})

    def signal_when_asked() -> None:
        disk.asked.wait()
        inbox.put(Heard(what="signal", value="SIGTERM"))

    def launch(step: Step) -> Outcome:
        return Outcome(key=step.key, result="launched")

    steps = {verb: Work(lambda step: None) for verb in Verb}
    steps |= {Verb.PAUSE: Work(pause), Verb.RESUME: Work(resume), Verb.ARM: Work(arm)}
    steps[Verb.LAUNCH] = Work(launch)
    done, _ = run(disk, inplace.next, steps, inbox)
    assert done.result is Ending.AMBIGUOUS  # this world says of no guest that it is back
    assert effects == ["resumed"]
    before = threading.active_count()
    disk.answers.set()
    _until(lambda: threading.active_count() < before)
    assert effects == ["resumed"]


def test_a_signal_is_heard_whichever_thread_it_reaches(disk: Disk) -> None:
    """The system may give it to any; Python handles it in the main one, where the run is driven."""
    inbox = Inbox()
    waits = threading.Event()
    until_ns = time.monotonic_ns() + round(LIMIT_S * 1e9)

    def decide(state: State, now_ns: int) -> Decision:
        if state.hears("signal") or now_ns >= until_ns:
            return Done(result=Ending.INTERRUPTED)
        waits.set()
        return Wait(why="", until_ns=until_ns)

    def signal_this_thread() -> None:
        waits.wait()
        time.sleep(0.05)  # the main thread is in its wait by then, or the test tells nothing
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    driven = Runner(
        decide=decide,
        state=start(disk.append(Planned(plan=a_plan("a")))),
        journal=disk,
        steps={},
        inbox=inbox,
        clock=time.monotonic_ns,
        say=lambda sentence: None,
    )
    before = signal.signal(signal.SIGUSR1, lambda *_: inbox.put(Heard(what="signal")))
    try:
        threading.Thread(target=signal_this_thread, daemon=True).start()
        driven.drive()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic_ns() < until_ns


def test_rows_are_in_the_order_in_which_they_were_seen(disk: Disk) -> None:
    run(disk, one_step(Verb.PAUSE), {Verb.PAUSE: Work(lambda step: None)})
    assert [type(row).__name__ for row in disk.rows] == ["Planned", "Intent", "Outcome"]


def test_a_step_decided_twice_is_a_bug(disk: Disk) -> None:
    step = Step(key="pause", verb=Verb.PAUSE, safe=True)
    driven = Runner(
        decide=lambda state, now_ns: Do(steps=(step,), why=""),
        state=start(disk.append(Planned(plan=a_plan("a")))),
        journal=disk,
        steps={Verb.PAUSE: Work(lambda step: None)},
        inbox=queue.SimpleQueue(),
        clock=time.monotonic_ns,
        say=lambda sentence: None,
    )
    with pytest.raises(AssertionError):
        driven.drive()


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)
