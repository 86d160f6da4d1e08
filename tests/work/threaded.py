"""The simulated world under the real Runner, with its real threads.

All of the world happens in the main thread, inside of the inbox that the Runner listens to: time
goes on only while every step's thread has either parked (it asked the world for its effect, or for
the disk) or ended. So threads are real and yet each run is the same every time.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hostagent.core.journal import Entry, Heard, Intent, Outcome, Row, State
from hostagent.core.plan import Decision, Done, Step, Verb
from hostagent.work.runner import Runner
from tests.work.simulated_run import MOST_SIGNALS, Checker, Life
from tests.work.world import SimJournal, World

REAL_LIMIT_S = 20.0

Begin = Callable[[Callable[[Any], None]], None]


@dataclass(kw_only=True)
class _Request:
    """A parked thread: what it wants of the world, and where it gets the answer."""

    begin: Begin
    answered: threading.Event = field(default_factory=threading.Event)
    answer: Any = None


class Bridge:
    """Where step threads and the world meet."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.items: deque[Outcome | Heard] = deque()
        self.active = 0
        self.closed = False
        self._messages: queue.SimpleQueue[_Request | Outcome] = queue.SimpleQueue()
        self._parked: list[_Request] = []

    def ask(self, begin: Begin) -> Any:
        """In a step's thread: park until the world has answered."""
        request = _Request(begin=begin)
        self._messages.put(request)
        request.answered.wait()
        return request.answer

    def ended(self, outcome: Outcome) -> None:
        """In a step's thread, at its end."""
        self._messages.put(outcome)

    def settle(self) -> None:
        """In the main thread: until every thread is parked or has ended."""
        while self.active:
            message = self._messages.get(timeout=REAL_LIMIT_S)
            self.active -= 1
            if isinstance(message, Outcome):
                self.items.append(message)
                continue
            self._parked.append(message)
            message.begin(lambda answer, request=message: self._answer(request, answer))  # type: ignore[misc]

    def _answer(self, request: _Request, answer: Any) -> None:
        if self.closed or request.answered.is_set():
            return
        self._parked.remove(request)
        self.active += 1
        request.answer = answer
        request.answered.set()

    def close(self) -> None:
        """The process is gone, and its threads with it."""
        self.closed = True
        for request in self._parked:
            request.answered.set()


class SimInbox:
    """The Runner's inbox: waiting is what lets the world go on."""

    def __init__(self, bridge: Bridge, on_settled: Callable[[], None]) -> None:
        self._bridge = bridge
        self._on_settled = on_settled
        self._impatience = 0

    def put(self, row: Outcome | Heard) -> None:
        if isinstance(row, Outcome):
            self._bridge.ended(row)
        else:
            self._bridge.items.append(row)

    def get(self, timeout: float | None = None) -> Outcome | Heard:
        bridge, world = self._bridge, self._bridge.world
        until_ns = None if timeout is None else world.now_ns + round(timeout * 1e9) + 1
        while True:
            bridge.settle()
            self._on_settled()
            if bridge.items:
                return bridge.items.popleft()
            when_ns = world.next_event_ns()
            if when_ns is not None and (until_ns is None or when_ns <= until_ns):
                world.step()
            elif until_ns is not None:
                world.now_ns = max(world.now_ns, until_ns)
                raise queue.Empty
            else:
                self._impatience += 1
                assert self._impatience <= MOST_SIGNALS, "waits for ever"
                return Heard(what="signal", value="SIGTERM")

    def get_nowait(self) -> Outcome | Heard:
        if not self._bridge.items:
            raise queue.Empty
        return self._bridge.items.popleft()


class _Disk:
    """The journal as the Runner's threads see it."""

    def __init__(self, life: Life, journal: SimJournal, bridge: Bridge) -> None:
        self._life = life
        self._journal = journal
        self._bridge = bridge
        self._last = Step(key="", verb=Verb.RESUME)

    def append(self, row: Row) -> Entry:
        if isinstance(row, Intent):
            self._last = row.step
        entry = self._journal.append(row)
        if isinstance(row, Intent):
            self._bridge.active += 1  # its thread starts now
        return entry

    def sync(self) -> None:
        step = self._last

        def begin(finish: Callable[[Any], None]) -> None:
            delay_ns, works = self._life.sync_delay_ns(step)

            def answer() -> None:
                if works:
                    self._journal.sync()
                finish(works)

            if delay_ns:
                self._bridge.world.after(delay_ns, answer)
            else:
                answer()

        if self._bridge.ask(begin) is False:
            raise OSError("disk")


class _Work:
    """The worker of every verb: the world does it."""

    def __init__(self, life: Life, bridge: Bridge) -> None:
        self._life = life
        self._bridge = bridge

    def do(self, step: Step) -> Outcome:
        outcome = self._bridge.ask(lambda finish: self._life.begin(step, finish))
        if outcome is None:  # the process is gone, and nobody listens any more
            return Outcome(key=step.key, result="unknown")
        assert isinstance(outcome, Outcome)
        return outcome

    def look(self, step: Step) -> Outcome:
        return self._life.look(step)


class ThreadedLoop:
    """A life driven by the real Runner."""

    def __init__(self, life: Life, state: State, journal: SimJournal) -> None:
        self._life = life
        self._journal = journal
        self._checker = Checker(life)
        self._bridge = Bridge(life.world)
        self._decided: tuple[State, int] | None = None
        inbox = SimInbox(self._bridge, self._settled)
        life.put = inbox.put
        life.on_death = self._bridge.close
        self._runner = Runner(
            decide=self._decide,
            state=state,
            journal=_Disk(life, journal, self._bridge),
            steps=dict.fromkeys(Verb, _Work(life, self._bridge)),
            inbox=inbox,  # type: ignore[arg-type]
            clock=lambda: life.world.now_ns,
            say=lambda sentence: None,
        )

    @property
    def state(self) -> State:
        return self._runner.state

    def drive(self) -> Done:
        return self._runner.drive()

    def hear(self, rows: Iterable[Heard]) -> None:
        self._runner.hear(rows)

    def end(self, done: Done) -> None:
        self._runner.end(done)
        self._journal.sync()

    def _decide(self, state: State, now_ns: int) -> Decision:
        self._decided = state, now_ns
        return self._checker.decide(state, now_ns)

    def _settled(self) -> None:
        if self._decided is not None:
            self._checker.began(*self._decided)
