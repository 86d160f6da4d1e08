"""Pause and resume: one step each over a set of guests, with an outcome for each.

Layer: work. A suspend that had no answer in time is *outstanding*: it may still take effect, so the
guest stays ours. A resume first turns the fence (no suspend may begin any more), brings back all
guests with nothing outstanding at once, and each of the others as often as it is found paused until
its suspend has returned: one that hangs delays no other.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from hostagent.core.errors import HostagentError, RefusedError
from hostagent.core.journal import GuestOutcome, Outcome
from hostagent.core.plan import PlannedGuest, Step
from hostagent.core.ports import Pauser, Watch
from hostagent.work.fence import Fence

LOOK_LIMIT_NS = 3_000_000_000
"""How long recovery waits for libvirt's word on the guests before it resumes without it."""

LATE_SLACK_NS = 500_000_000
"""The least time that a guest gets whose suspend returned at the very end of a resume's limit."""

LOOK_NS = 200_000_000
"""How often a guest is looked at while its suspend is outstanding."""


class Outstanding:
    """Guests whose suspend was called and has not returned."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._uuids: set[str] = set()

    def add(self, uuids: Iterable[str]) -> None:
        """These are about to be suspended."""
        with self._changed:
            self._uuids.update(uuids)

    def returned(self, uuid: str) -> None:
        """Nothing is outstanding for this guest any more."""
        with self._changed:
            self._uuids.discard(uuid)
            self._changed.notify_all()

    def among(self, uuids: Iterable[str]) -> set[str]:
        """Those of these guests for which something is outstanding."""
        with self._changed:
            return self._uuids.intersection(uuids)

    def wait_for(self, uuid: str, until_ns: int) -> bool:
        """Whether its suspend has returned; waits for that, or until the time is over."""
        with self._changed:
            while uuid in self._uuids and time.monotonic_ns() < until_ns:
                self._changed.wait(max(until_ns - time.monotonic_ns(), 0) / 1e9)
            return uuid not in self._uuids


class PauseWork:
    """What pause and resume of one run share."""

    def __init__(
        self, pauser: Pauser, watch: Watch, guests: Sequence[PlannedGuest], fence: Fence
    ) -> None:
        self.pauser = pauser
        self.watch = watch
        self.fence = fence
        self.outstanding = Outstanding()
        self._guests = {guest.uuid: guest for guest in guests}

    def guests(self, uuids: Iterable[str]) -> list[PlannedGuest]:
        """These guests as the plan knows them."""
        return [self._guests[uuid] for uuid in uuids]


class Pause:
    """Suspends all guests of the step in parallel."""

    def __init__(self, work: PauseWork) -> None:
        self._work = work

    def do(self, step: Step) -> Outcome:
        work, before_ns = self._work, step.args["before_ns"]
        if isinstance(before_ns, int) and time.monotonic_ns() >= before_ns:
            raise RefusedError("the budget was over before a guest was paused")
        if not work.fence.enter(lambda: work.outstanding.add(step.guests)):
            raise RefusedError("the run was stopped before a guest was paused")
        limit_ns = step.args["limit_ns"]
        assert isinstance(limit_ns, int)
        try:
            results = work.pauser.pause(work.guests(step.guests), limit_ns, self._returned)
        except HostagentError as error:  # guests may stand still: it must not say "not begun"
            return Outcome(key=step.key, result="failed", reason=error.message)
        for uuid, outcome in results.items():
            if outcome.result in ("not-ours", "failed"):
                work.watch.let_go(uuid)
        return Outcome(key=step.key, result="over", guests=results)

    def look(self, step: Step) -> Outcome:
        guests = self._work.guests(step.guests)
        results = self._work.pauser.look(guests, LOOK_LIMIT_NS)
        return Outcome(key=step.key, result="over", guests=results)

    def _returned(self, uuid: str) -> None:
        self._work.outstanding.returned(uuid)
        self._work.watch.settled(uuid)


class Resume:
    """Brings guests back, each by itself."""

    def __init__(self, work: PauseWork) -> None:
        self._work = work

    def do(self, step: Step) -> Outcome:
        work = self._work
        work.fence.turn()
        limit_ns = step.args["limit_ns"]
        assert isinstance(limit_ns, int)
        until_ns = time.monotonic_ns() + limit_ns
        waiting = work.outstanding.among(step.guests)
        late: SimpleQueue[Mapping[str, GuestOutcome]] = SimpleQueue()
        for uuid in waiting:
            arguments = (uuid, until_ns, late)
            threading.Thread(target=self._resume_late, args=arguments, daemon=True).start()
        settled = [uuid for uuid in step.guests if uuid not in waiting]
        results = dict(self._resume(settled, limit_ns, work.watch.let_go))
        for _ in waiting:
            left_ns = max(until_ns + LATE_SLACK_NS - time.monotonic_ns(), 0)
            with suppress(Empty):
                results.update(late.get(timeout=left_ns / 1e9))
        for uuid in waiting - results.keys():
            results[uuid] = GuestOutcome(result="hung", reason="its suspend has not returned yet")
        return Outcome(key=step.key, result="over", guests=results)

    def look(self, step: Step) -> Outcome:
        """Nothing is taken for granted: the next resume asks libvirt about each guest itself."""
        return Outcome(key=step.key, result="unknown")

    def _resume_late(
        self, uuid: str, until_ns: int, late: SimpleQueue[Mapping[str, GuestOutcome]]
    ) -> None:
        """In a thread of its own: bring a guest back as often as it is found paused, and once more
        after its suspend has returned. A libvirtd that hangs may have stopped it and never say."""
        outstanding, resumed = self._work.outstanding, None
        while True:
            # Asked before the attempt: only one that began afterwards can be the last.
            final = not outstanding.among([uuid])
            left_ns = until_ns - time.monotonic_ns()
            if not final and left_ns <= 0:
                late.put({})
                return
            on_back = self._work.watch.let_go if final else _tell_nobody
            back = self._resume([uuid], max(left_ns, LATE_SLACK_NS), on_back)[uuid]
            if final or back.result == "gone":
                late.put({uuid: resumed if resumed and back.result == "running" else back})
                return
            resumed = back if back.result == "resumed" else resumed
            outstanding.wait_for(uuid, min(until_ns, time.monotonic_ns() + LOOK_NS))

    def _resume(
        self, uuids: Iterable[str], limit_ns: int, on_back: Callable[[str], None]
    ) -> Mapping[str, GuestOutcome]:
        guests = self._work.guests(uuids)
        return self._work.pauser.resume(guests, limit_ns, on_back) if guests else {}


def _tell_nobody(_uuid: str) -> None:
    """The guardian keeps a guest that a suspend may still stop."""
