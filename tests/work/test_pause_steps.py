"""Pause, resume, arm and disarm over a pauser and a guardian that the test plays."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import pytest

from hostagent.core.errors import LibvirtUnreachableError, RefusedError
from hostagent.core.journal import GuestOutcome, Outcome
from hostagent.core.plan import Plan, PlannedGuest, Step, Verb
from hostagent.rules.request import S
from hostagent.work.fence import Fence
from hostagent.work.steps.pause import Pause, PauseWork, Resume
from hostagent.work.steps.watch import Arm, Disarm
from tests.rules.runs import a_plan

LIMIT_S = 5.0
PLAN = a_plan("a", "b", "c")


class FakePauser:
    """libvirt, as the test wants it. A suspend of a guest in `silent` never returns by itself."""

    def __init__(self) -> None:
        self.results: dict[str, str] = {}
        self.silent: set[str] = set()
        self.slow_to_resume: dict[str, float] = {}
        self.resumed: list[str] = []
        self.seen: dict[str, str] = {}
        self.error: Exception | None = None
        self.returned: Callable[[str], None] = lambda uuid: None

    def warm(self, guests: Sequence[PlannedGuest], limit_ns: int) -> None:
        return

    def pause(
        self, guests: Sequence[PlannedGuest], limit_ns: int, on_returned: Callable[[str], None]
    ) -> Mapping[str, GuestOutcome]:
        self.returned = on_returned
        if self.error is not None:
            raise self.error
        outcomes = {}
        for guest in guests:
            if guest.uuid in self.silent:
                outcomes[guest.uuid] = GuestOutcome(result="unsettled")
            else:
                on_returned(guest.uuid)
                result = self.results.get(guest.uuid, "paused")
                outcomes[guest.uuid] = GuestOutcome(result=result)
        return outcomes

    def resume(
        self, guests: Sequence[PlannedGuest], limit_ns: int, on_back: Callable[[str], None]
    ) -> Mapping[str, GuestOutcome]:
        for guest in guests:
            time.sleep(self.slow_to_resume.get(guest.uuid, 0))
            self.resumed.append(guest.uuid)
            on_back(guest.uuid)
        return {guest.uuid: GuestOutcome(result="resumed") for guest in guests}

    def look(self, guests: Sequence[PlannedGuest], limit_ns: int) -> Mapping[str, GuestOutcome]:
        return {
            guest.uuid: GuestOutcome(result=self.seen.get(guest.uuid, "running"))
            for guest in guests
        }


class FakeWatch:
    """A guardian that remembers what it was told."""

    def __init__(self) -> None:
        self.armed: list[list[str]] = []
        self.budgets_ns: list[int] = []
        self.told_settled: set[str] = set()
        self.told_let_go: set[str] = set()
        self.kept: list[str] | None = None

    def arm(self, guests: Sequence[PlannedGuest], plan: Plan, budget_ns: int, limit_ns: int) -> int:
        self.armed.append([guest.uuid for guest in guests])
        self.budgets_ns.append(budget_ns)
        return time.monotonic_ns() + budget_ns

    def settled(self, uuid: str) -> None:
        self.told_settled.add(uuid)

    def let_go(self, uuid: str) -> None:
        self.told_let_go.add(uuid)

    def disarm(self, keep: Sequence[str], limit_ns: int) -> bool:
        self.kept = list(keep)
        return not keep


class Bench:
    """The steps of one run with their two ports."""

    def __init__(self) -> None:
        self.pauser, self.watch, self.fence = FakePauser(), FakeWatch(), Fence()
        work = PauseWork(self.pauser, self.watch, PLAN.guests, self.fence)
        self.work = work
        self._workers = {
            Verb.PAUSE: Pause(work),
            Verb.RESUME: Resume(work),
            Verb.ARM: Arm(work, PLAN),
            Verb.DISARM: Disarm(self.watch),
        }

    def do(self, verb: Verb, *names: str, **args: int | None) -> Outcome:
        return self._workers[verb].do(self.step(verb, *names, **args))

    def look(self, verb: Verb, *names: str) -> Outcome:
        return self._workers[verb].look(self.step(verb, *names))

    def step(self, verb: Verb, *names: str, **args: int | None) -> Step:
        guests = tuple(f"uuid-{name}" for name in names)
        return Step(key=verb, verb=verb, guests=guests, args={"limit_ns": S, **args})

    def pause(self, *names: str, before_ns: int | None = None) -> Outcome:
        return self.do(Verb.PAUSE, *names, before_ns=before_ns)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def results(outcome: Outcome) -> dict[str, str]:
    return {
        uuid.removeprefix("uuid-"): found.result for uuid, found in sorted(outcome.guests.items())
    }


class TestPause:
    def test_all_are_paused_and_the_guardian_knows_that_nothing_is_outstanding(
        self, bench: Bench
    ) -> None:
        assert results(bench.pause("a", "b")) == {"a": "paused", "b": "paused"}
        assert bench.watch.told_settled == {"uuid-a", "uuid-b"}
        assert bench.watch.told_let_go == set()

    def test_nothing_is_paused_once_the_fence_is_turned(self, bench: Bench) -> None:
        bench.fence.turn()
        with pytest.raises(RefusedError):
            bench.pause("a")
        assert bench.work.outstanding.among(["uuid-a"]) == set()

    def test_nothing_is_paused_after_the_budget(self, bench: Bench) -> None:
        """hostagent may have been frozen for minutes right here."""
        with pytest.raises(RefusedError):
            bench.pause("a", before_ns=time.monotonic_ns())
        assert not bench.watch.told_settled

    def test_what_is_not_ours_or_runs_leaves_the_guardians_list(self, bench: Bench) -> None:
        bench.pauser.results = {"uuid-a": "not-ours", "uuid-b": "failed"}
        bench.pause("a", "b", "c")
        assert bench.watch.told_let_go == {"uuid-a", "uuid-b"}

    def test_an_error_in_mid_pause_is_never_not_begun(self, bench: Bench) -> None:
        bench.pauser.error = LibvirtUnreachableError("gone")
        assert bench.pause("a").result == "failed"

    def test_recovery_looks_and_does_nothing(self, bench: Bench) -> None:
        bench.pauser.seen = {"uuid-a": "paused"}
        assert results(bench.look(Verb.PAUSE, "a", "b")) == {"a": "paused", "b": "running"}


class TestResume:
    def test_turns_the_fence_and_brings_all_back(self, bench: Bench) -> None:
        bench.pause("a", "b")
        assert results(bench.do(Verb.RESUME, "a", "b")) == {"a": "resumed", "b": "resumed"}
        assert not bench.fence.enter(lambda: None)
        assert bench.watch.told_let_go == {"uuid-a", "uuid-b"}

    def test_one_with_a_suspend_outstanding_is_hung_and_stays_with_the_guardian(
        self, bench: Bench
    ) -> None:
        bench.pauser.silent = {"uuid-b"}
        bench.pause("a", "b")
        outcome = bench.do(Verb.RESUME, "a", "b", limit_ns=S // 5)
        assert results(outcome) == {"a": "resumed", "b": "hung"}
        assert bench.watch.told_let_go == {"uuid-a"}

    def test_one_whose_suspend_returns_late_is_brought_back_then(self, bench: Bench) -> None:
        bench.pauser.silent = {"uuid-b"}
        bench.pause("a", "b")
        late = threading.Timer(0.1, lambda: bench.pauser.returned("uuid-b"))
        late.start()
        assert results(bench.do(Verb.RESUME, "a", "b")) == {"a": "resumed", "b": "resumed"}
        assert bench.watch.told_let_go == {"uuid-a", "uuid-b"}

    def test_a_hung_guest_delays_no_other(self, bench: Bench) -> None:
        """a is slow to resume, the suspend of b returns at once, that of c never."""
        bench.pauser.silent = {"uuid-b", "uuid-c"}
        bench.pauser.slow_to_resume = {"uuid-a": 0.5}
        bench.pause("a", "b", "c")
        threading.Timer(0.05, lambda: bench.pauser.returned("uuid-b")).start()
        limit = {"limit_ns": 30 * S}
        threading.Thread(
            target=lambda: bench.do(Verb.RESUME, "a", "b", "c", **limit), daemon=True
        ).start()
        _until(lambda: "uuid-b" in bench.watch.told_let_go)
        _until(lambda: "uuid-a" in bench.watch.told_let_go)
        assert "uuid-c" not in bench.watch.told_let_go
        bench.pauser.returned("uuid-c")
        _until(lambda: "uuid-c" in bench.watch.told_let_go)

    def test_after_a_crash_nothing_is_taken_for_granted(self, bench: Bench) -> None:
        assert bench.look(Verb.RESUME, "a").result == "unknown"


class TestArm:
    def test_the_guardian_gets_the_guests_that_still_run(self, bench: Bench) -> None:
        bench.pauser.seen = {"uuid-a": "paused", "uuid-b": "gone"}
        outcome = bench.do(Verb.ARM, "a", "b", "c", budget_ns=30 * S)
        assert bench.watch.armed == [["uuid-c"]]
        assert results(outcome) == {"a": "left", "b": "left", "c": "guarded"}
        assert outcome.guests["uuid-a"].reason == "its owner paused it first"

    def test_without_a_guest_left_no_guardian_is_started(self, bench: Bench) -> None:
        bench.pauser.seen = {"uuid-a": "paused"}
        outcome = bench.do(Verb.ARM, "a", budget_ns=30 * S)
        assert (outcome.result, dict(outcome.figures), bench.watch.armed) == ("nobody", {}, [])

    def test_a_second_guardian_keeps_the_first_ones_deadline(self, bench: Bench) -> None:
        deadline_ns = time.monotonic_ns() + 7 * S
        bench.do(Verb.ARM, "a", deadline_ns=deadline_ns)
        assert 6 * S < bench.watch.budgets_ns[0] <= 7 * S


@pytest.mark.parametrize(("keep", "result"), [((), "disarmed"), (("a",), "unconfirmed")])
def test_disarm_says_whether_it_was_confirmed(
    bench: Bench, keep: tuple[str, ...], result: str
) -> None:
    assert bench.do(Verb.DISARM, *keep).result == result
    assert bench.watch.kept == [f"uuid-{name}" for name in keep]


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)
