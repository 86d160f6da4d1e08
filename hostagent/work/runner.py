"""Drives a run: asks what to do, starts it, and comes back at each outcome.

Layer: work. `drive` is the same loop for the command, the daemon, recovery and simulations. Each
step runs in a thread that is never joined: one that hangs (a libvirt call, a disk) keeps neither
the decision nor the end of the run waiting. An unsafe step waits for its intent to be on the disk
before it has its effect, but not for ever: a disk that does not answer means that it has not begun.
A safe one (resume, disarm, signal, a reading) never waits for a disk.

Invariant: only this loop appends to the journal, so rows are in the order in which it saw things.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from hostagent.core.errors import HostagentError, RefusedError
from hostagent.core.journal import Ended, Heard, Intent, Outcome, Row, State, apply
from hostagent.core.plan import Decision, Do, Done, Step, Verb, Wait
from hostagent.core.ports import Clock, Journal
from hostagent.work.inbox import Inbox

log = logging.getLogger(__name__)

Decide = Callable[[State, int], Decision]

SYNC_LIMIT_S = 5.0
"""How long a step waits for its intent to be on the disk; the order of a busy disk's worst second,
and as much as a step may exceed its own limit (rules/halt)."""
SILENT_SYNC_LIMIT_S = 0.1
"""The same once the disk was silent for that long: it holds up the end of a run once, not at each
step."""


class StepWork(Protocol):
    """The worker of one verb."""

    def do(self, step: Step) -> Outcome:
        """Have the effect. May raise HostagentError: the step has not begun."""

    def look(self, step: Step) -> Outcome:
        """After a crash: how far did this get? Has no effect."""


Steps = Mapping[Verb, StepWork]


class Runner:
    """One run under way. `say` gets a sentence a turn and must never wait."""

    def __init__(
        self,
        *,
        decide: Decide,
        state: State,
        journal: Journal,
        steps: Steps,
        inbox: Inbox,
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        self.state = state
        self._decide = decide
        self._journal = journal
        self._steps = steps
        self._inbox = inbox
        self._clock = clock
        self._say = say
        self._sync_limit_s = SYNC_LIMIT_S

    def drive(self) -> Done:
        """Go on until the decision is Done; returns it, and leaves the last state in `state`."""
        while True:
            decision = self._decide(self.state, self._clock())
            match decision:
                case Do():
                    self._say(decision.why)
                    for step in decision.steps:
                        self._begin(step)
                case Wait():
                    self._say(decision.why)
                    self._listen(decision.until_ns)
                case Done():
                    return decision

    def hear(self, rows: Iterable[Heard]) -> None:
        """Take what others have written down."""
        for row in rows:
            self._take(row)

    def end(self, done: Done) -> None:
        """Write the run's end. Only a run that leaves nothing to bring back is ended."""
        self._take(Ended(result=done.result, reason=done.reason))

    def _begin(self, step: Step) -> None:
        if self.state.begun(step.key):
            raise AssertionError(f"step {step.key!r} was decided twice")
        self._take(Intent(step=step))
        worker = threading.Thread(target=self._work, args=(step,), name=step.key, daemon=True)
        worker.start()

    def _work(self, step: Step) -> None:
        """In the step's own thread: its effect, and whatever comes of it, as an outcome."""
        problem = "" if step.safe else self._sync()
        try:
            if problem:
                raise RefusedError(f"the journal can't be written: {problem}")
            outcome = self._steps[step.verb].do(step)
        except HostagentError as error:
            outcome = Outcome(key=step.key, result="not-begun", reason=error.message)
        except Exception as error:
            log.exception("step %s failed", step.key)
            outcome = Outcome(key=step.key, result="failed", reason=repr(error))
        self._inbox.put(outcome)

    def _sync(self) -> str:
        """Why what was appended is not on the disk; empty when it is."""
        problems: queue.SimpleQueue[str] = queue.SimpleQueue()

        def sync() -> None:
            try:
                self._journal.sync()
                problems.put("")
            except OSError as error:
                problems.put(str(error))

        threading.Thread(target=sync, name="sync", daemon=True).start()
        try:
            problem = problems.get(timeout=self._sync_limit_s)
        except queue.Empty:
            self._sync_limit_s = SILENT_SYNC_LIMIT_S
            return f"its disk has not answered for {SYNC_LIMIT_S:g} s"
        self._sync_limit_s = SYNC_LIMIT_S
        return problem

    def _listen(self, until_ns: int | None) -> None:
        """Take what comes in, or come back at `until_ns`."""
        try:
            if until_ns is None:
                self._take(self._inbox.get())
            else:
                seconds = max(until_ns - self._clock(), 0) / 1e9
                self._take(self._inbox.get(timeout=seconds))
            while True:
                self._take(self._inbox.get_nowait())
        except queue.Empty:
            return

    def _take(self, row: Row) -> None:
        self.state = apply(self.state, self._journal.append(row))
