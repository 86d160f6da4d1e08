"""One life of hostagent in the simulated world: its steps, and the loop that drives them.

`Life` has the sim's version of each step of work/steps: same words, same fence, same order of
things, in simulated time. `drive` is the synchronous twin of work.runner.Runner.drive and checks
each decision; `tests/work/threaded.py` drives the same lives through the real Runner.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hostagent.core.clock import Refusal
from hostagent.core.journal import (
    Ended,
    GuestOutcome,
    Heard,
    Intent,
    Outcome,
    Planned,
    Row,
    State,
    apply,
    start,
)
from hostagent.core.plan import Decision, Do, Done, Plan, Step, Verb, Wait
from hostagent.rules import inplace
from hostagent.rules.halt import halted, overdue_ns
from hostagent.rules.progress import Progress
from hostagent.rules.request import S
from hostagent.work.fence import Fence
from tests.rules.runs import tried
from tests.work.world import MS, Guardian, SimCommand, SimGuest, SimJournal, World

MOST_DECISIONS = 400
MOST_SIGNALS = 3
SYNC_LIMIT_NS = 5 * S
FORWARD = (
    Verb.PREPARE,
    Verb.AWAIT_JOBS,
    Verb.LAUNCH,
    Verb.ARM,
    Verb.PAUSE,
    Verb.APPLY,
)


class Crashed(Exception):
    """hostagent's process is gone."""


Moment = int | tuple[str, str]
"""After the row of this number, or when a step of this verb was "begun" or "closed"."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """What goes wrong, and when. `trouble` of a verb: refused, hangs, breaks (after its effect, but
    launch and arm before), slow (before it); `disk` when its intent is to be written: hangs,
    fails, slow (seconds), late (in the middle of the way back, if that has begun)."""

    trouble: dict[Verb, str] = field(default_factory=dict)
    disk: dict[Verb, str] = field(default_factory=dict)
    command_ns: int | None = 2 * S
    exit_code: int = 0
    heeds_signals: bool = True
    side_exit_code: int = 0
    side_ns: int | None = S
    events: dict[Moment, tuple[str, ...]] = field(default_factory=dict)
    """Then: signal, signal-later, guardian-dies, owners-pause, crash, crash-later."""
    delay_ns: int = MS
    lost_rows: int = 0


Finish = Callable[[Outcome], None]


class Life:
    """One process that holds the run, from its start or from a take-over to its end."""

    def __init__(self, world: World, script: Script, plan: Plan, command: SimCommand) -> None:
        self.world = world
        self.script = script
        self.plan = plan
        self.command = command
        self.fence = Fence()
        self.outstanding: set[str] = set()
        self.recovered = False
        self.alive = True
        self.released = False
        self.halted = False
        self.put: Callable[[Outcome | Heard], None] = lambda row: None
        self.on_death: Callable[[], None] = lambda: None
        self.verbs: dict[str, str] = {}
        self._told: list[tuple[str, str]] = []

    def begin(self, step: Step, finish: Finish) -> None:
        """Have the step's effect, in simulated time, and then call `finish`."""

        def finish_alive(outcome: Outcome) -> None:
            if self.alive:
                finish(outcome)

        def broken(outcome: Outcome) -> None:
            finish_alive(Outcome(key=outcome.key, result="failed", reason="ValueError()"))

        effect = getattr(self, "_" + step.verb.replace("-", "_"))
        match self.script.trouble.get(step.verb, "") if not self.recovered else "":
            case "hangs":
                self._turn(step)
            case "refused":
                self._turn(step)
                self._later(finish_alive, step, "not-begun")
            case "breaks" if step.verb in (Verb.LAUNCH, Verb.ARM):
                self._later(finish_alive, step, "failed")
            case "breaks":
                effect(step, broken)
            case "slow":
                self.world.after(7 * S, lambda: self.alive and effect(step, finish_alive))
            case _:
                effect(step, finish_alive)

    def sync_delay_ns(self, step: Step) -> tuple[int, bool]:
        """How long the step waits for the disk, and whether that works out."""
        match self.script.disk.get(step.verb, "") if not self.recovered else "":
            case "hangs":
                return SYNC_LIMIT_NS, False
            case "fails":
                return MS, False
            case "slow":
                return 4 * S, True
            case "late":
                return 3 * MS // 2, True
            case _:
                return 0, True

    def _turn(self, step: Step) -> None:
        if step.verb in (Verb.RESUME, Verb.CANCEL):
            self.fence.turn()

    def _later(self, finish: Finish, step: Step, result: str, **figures: Any) -> None:
        outcome = Outcome(key=step.key, result=result, figures=figures)
        self.world.after(MS, lambda: finish(outcome))

    # the steps

    def _side_command(self, step: Step, finish: Finish) -> None:
        if step.verb is Verb.ROLLBACK and self.command.lives:
            self.world.faults.append("rollback began while the command lived")
        if self.script.side_ns is not None:
            outcome = Outcome(
                key=step.key, result="exited", figures={"exit_code": self.script.side_exit_code}
            )
            self.world.after(self.script.side_ns, lambda: finish(outcome))

    _prepare = _verify = _rollback = _side_command

    def _read_clocks(self, step: Step, finish: Finish) -> None:
        """Agents that hang say so; the figures of the others are no matter of a decision."""
        figures = {"refusal": str(Refusal.NO_ANSWER)}
        guests = {
            uuid: GuestOutcome(result="unread", reason="it does not answer", figures=figures)
            for uuid in step.guests
            if self.world.guests[uuid].script.agent == "hung"
        }
        outcome = Outcome(key=step.key, result="over", guests=guests)
        self.world.after(MS, lambda: finish(outcome))

    def _sync_clocks(self, step: Step, finish: Finish) -> None:
        """Each guest's agent does as its script says; the step is over with the last of them."""
        world = self.world
        results: dict[str, GuestOutcome] = {}

        def end(guest: SimGuest) -> None:
            guest.talking = False
            if self.alive:
                results[guest.uuid] = self._sync_one(guest)
            if len(results) == len(step.guests):
                finish(Outcome(key=step.key, result="over", guests=results))

        waits: Any = step.args["wait_ns"]
        for uuid in step.guests:
            guest = world.guests[uuid]
            if guest.talking:
                world.faults.append(f"{uuid} was asked for its clock twice at once")
            if guest.in_flight and not self.recovered and not self.plan.args["allow_unpaused"]:
                world.faults.append(f"{uuid} was asked for its clock before it was resumed")
            guest.talking = True
            durations = {"hung": 4 * S, "away": waits.get(uuid, 0)}
            delay_ns = durations.get(guest.script.agent, 30 * MS)
            world.after(delay_ns, lambda guest=guest: end(guest))  # type: ignore[misc]

    def _sync_one(self, guest: SimGuest) -> GuestOutcome:
        """What the agent makes of it."""
        script, late_ns, first = guest.script.agent, guest.behind_ns, not guest.tried
        guest.tried += 1
        if guest.gone or guest.stopped_by or script in ("hung", "away"):
            return tried("unsynced", answered=False, again=True)
        if script == "busy" and first:
            return tried("unsynced", answered=False, again=True)
        if script == "refuses":
            return tried("unsynced", first_ns=-late_ns)
        if not late_ns:
            return tried("synced", first_ns=0)
        guest.behind_ns = 0
        if script == "restless" and first:
            self.world.after(200 * MS, lambda: setattr(guest, "behind_ns", S))
        return tried("synced", first_ns=-late_ns, last_ns=0, sets=1)

    def _census(self, step: Step, finish: Finish) -> None:
        self._later(finish, step, "over", started=[])

    def _launch(self, step: Step, finish: Finish) -> None:
        self.command.waiting = True
        self._later(finish, step, "launched", pid=77, start_ticks=8)

    def _arm(self, step: Step, finish: Finish) -> None:
        world = self.world
        deadline_ns = step.args.get("deadline_ns")
        seen = {}
        if deadline_ns is None:
            world.owners_pause_before()
            deadline_ns = world.now_ns + int(str(step.args["budget_ns"]))
            seen = {uuid: self._seen_at_arm(uuid) for uuid in step.guests}
        assert isinstance(deadline_ns, int)
        held = [u for u in step.guests if u not in seen or seen[u].result == "guarded"]
        if held:
            world.deadline_ns = deadline_ns
            world.guardian = Guardian(world, held, deadline_ns)
            for what, uuid in self._told:
                getattr(world.guardian, what)(uuid)
        outcome = Outcome(
            key=step.key,
            result="armed" if held else "nobody",
            guests=seen,
            figures={"deadline_ns": deadline_ns} if held else {},
        )
        world.after(MS, lambda: finish(outcome))

    def _seen_at_arm(self, uuid: str) -> GuestOutcome:
        stopped = self.world.guests[uuid].stopped_by
        return GuestOutcome(result="left" if stopped else "guarded", reason=stopped)

    def _tell(self, what: str, uuid: str) -> None:
        if not self.alive:
            return
        self._told.append((what, uuid))
        if self.world.guardian is not None and self.world.guardian.alive:
            getattr(self.world.guardian, what)(uuid)

    def _pause(self, step: Step, finish: Finish) -> None:
        world, before_ns = self.world, step.args["before_ns"]
        late = isinstance(before_ns, int) and world.now_ns >= before_ns
        if late or not self.fence.enter(lambda: self.outstanding.update(step.guests)):
            self._later(finish, step, "not-begun")
            return
        if self.halted:
            world.faults.append("guests were suspended after the halt")
        if world.guardian is None:
            world.faults.append("guests were suspended without a guardian")
        world.begin_scripts()
        results: dict[str, GuestOutcome] = {}
        called_ns = world.now_ns

        def returned(uuid: str, result: str) -> None:
            self.outstanding.discard(uuid)
            self._tell("settled", uuid)
            figures = {"called_ns": called_ns, "returned_ns": world.now_ns}
            results.setdefault(uuid, GuestOutcome(result=result, figures=figures))
            if len(results) == len(step.guests):
                end()

        def end() -> None:
            for uuid in step.guests:
                late = GuestOutcome(result="unsettled", reason="no answer")
                if results.setdefault(uuid, late).result in ("not-ours", "failed"):
                    self._tell("let_go", uuid)
            finish(Outcome(key=step.key, result="over", guests=dict(results)))

        for uuid in step.guests:
            self._suspend(world.guests[uuid], returned)
        world.after(
            int(str(step.args["limit_ns"])), lambda: len(results) < len(step.guests) and end()
        )

    def _suspend(self, guest: SimGuest, returned: Callable[[str, str], None]) -> None:
        world = self.world
        if guest.gone or guest.stopped_by:
            world.after(MS, lambda: returned(guest.uuid, "not-ours"))
        elif guest.script.refuses:
            world.after(MS, lambda: returned(guest.uuid, "failed"))
        else:
            world.suspend(
                guest, lambda: returned(guest.uuid, "not-ours" if guest.gone else "paused")
            )

    def _apply(self, step: Step, finish: Finish) -> None:
        world, command, before_ns = self.world, self.command, step.args["before_ns"]
        late = isinstance(before_ns, int) and world.now_ns >= before_ns

        def release() -> None:
            if self.halted:
                world.faults.append("the command was released after the halt")
            self.released = True
            self._check_all_stand_still()
            command.release(world)

        if late or not command.waiting or not self.fence.enter(release):
            self._later(finish, step, "not-begun")
            return

        def ended() -> None:
            figures = {"exit_code": command.code, "ended_ns": command.ended_ns}
            self.world.after(
                1, lambda: finish(Outcome(key=step.key, result="exited", figures=figures))
            )

        command.on_end = ended

    def _check_all_stand_still(self) -> None:
        """All or nothing: the update begins now."""
        if self.plan.args["allow_unpaused"]:
            return
        for guest in self.world.guests.values():
            tried = not guest.gone and not guest.owner_was_first
            if tried and (guest.script.refuses or guest.uuid in self.outstanding):
                self.world.faults.append(f"the update began although {guest.uuid} was not paused")

    def _resume(self, step: Step, finish: Finish) -> None:
        self.fence.turn()
        world, until_ns = self.world, self.world.now_ns + int(str(step.args["limit_ns"]))
        results: dict[str, GuestOutcome] = {}

        def attempt(uuid: str) -> None:
            if not self.alive:
                return
            result = "hung" if uuid in self.outstanding else self._resume_one(world.guests[uuid])
            if result == "hung" and world.now_ns < until_ns:
                world.after(50 * MS, lambda: attempt(uuid))
                return
            if result in ("resumed", "running", "gone", "not-ours"):
                self._tell("let_go", uuid)
            figures = {"called_ns": world.now_ns, "returned_ns": world.now_ns}
            reason = "" if result in ("resumed", "running") else result
            results[uuid] = GuestOutcome(result=result, reason=reason, figures=figures)
            if len(results) == len(step.guests):
                finish(Outcome(key=step.key, result="over", guests=results))

        for uuid in step.guests:
            world.after(MS, lambda uuid=uuid: attempt(uuid))  # type: ignore[misc]

    def _resume_one(self, guest: SimGuest) -> str:
        if guest.owner_was_first and not self.recovered:
            return "not-ours"
        if guest.resume_failures and not self.recovered and not self.world.frozen(guest):
            guest.resume_failures -= 1
            return "failed"
        return self.world.resume(guest, "hostagent")

    def _disarm(self, step: Step, finish: Finish) -> None:
        if self.world.guardian is not None and self.world.guardian.alive:
            self.world.guardian.disarm(step.guests)
        self._later(finish, step, "disarmed")

    def _cancel(self, step: Step, finish: Finish) -> None:
        self.fence.turn()
        if not self.released:
            self.command.waiting = False
        self._later(finish, step, "released" if self.released else "cancelled")

    def _signal(self, step: Step, finish: Finish) -> None:
        sent = "gone"
        if step.args["command"] == "apply":
            sent = self.command.signal(self.world, str(step.args["signal"]))
        self._later(finish, step, sent)

    # what recovery sees

    def look(self, step: Step) -> Outcome:
        if step.verb is not Verb.PAUSE:
            words = {Verb.LAUNCH: "not-begun", Verb.RESUME: "unknown", Verb.CANCEL: "unknown"}
            return Outcome(key=step.key, result=words.get(step.verb, "lost"))
        seen = {uuid: GuestOutcome(result=self._looks(uuid)) for uuid in step.guests}
        return Outcome(key=step.key, result="over", guests=seen)

    def _looks(self, uuid: str) -> str:
        guest = self.world.guests[uuid]
        if guest.gone:
            return "gone"
        return "paused" if guest.stopped_by else "running"

    def dies(self) -> None:
        """Its threads stop, its gate closes, the guardian sees its end."""
        self.alive = False
        for guest in self.world.guests.values():
            guest.talking = False
        self.on_death()
        self.command.waiting = False
        self.command.on_end = None
        if self.world.guardian is not None and self.world.guardian.alive:
            self.world.guardian.owner_dies()


class Checker:
    """Looks at every decision of a life."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._decisions = 0

    def decide(self, state: State, now_ns: int) -> Decision:
        """rules.inplace.next, twice, with everything that must hold for it."""
        decision = inplace.next(state, now_ns)
        faults = self._life.world.faults
        if inplace.next(state, now_ns) != decision:
            faults.append("next() gave two answers")
        self._decisions += 1
        if self._decisions > MOST_DECISIONS:
            raise AssertionError("the run does not end")
        self._check_shape(decision, state, now_ns)
        self._check_resume_comes_first(decision, state, now_ns)
        if halted(Progress(state), now_ns) is not None:
            self._check_way_back(decision)
        return decision

    def _check_shape(self, decision: Decision, state: State, now_ns: int) -> None:
        faults = self._life.world.faults
        match decision:
            case Do():
                if not decision.steps:
                    faults.append("Do without a step")
                faults += [
                    f"{step.key} was decided twice"
                    for step in decision.steps
                    if state.begun(step.key)
                ]
            case Wait() if decision.until_ns is not None and decision.until_ns <= now_ns:
                faults.append("Wait until a time that has passed")

    def _check_way_back(self, decision: Decision) -> None:
        if isinstance(decision, Do):
            self._life.world.faults += [
                f"{step.verb} was begun after the halt"
                for step in decision.steps
                if step.verb in FORWARD
            ]

    def _check_resume_comes_first(self, decision: Decision, state: State, now_ns: int) -> None:
        progress = Progress(state)
        over = halted(progress, now_ns) is not None or Verb.APPLY in state.done
        key = progress.key(Verb.RESUME)
        verbs = {step.verb for step in decision.steps} if isinstance(decision, Do) else set()
        if over and progress.to_resume and not state.begun(key) and Verb.RESUME not in verbs:
            self._life.world.faults.append("the way back did not begin with the resume")
        opened = state.open.get(key)
        resuming = opened is not None and now_ns < overdue_ns(opened)
        if Verb.SIGNAL in verbs and state.begun(Verb.PAUSE) and resuming:
            self._life.world.faults.append("the command was signalled before guests were resumed")

    def began(self, state: State, now_ns: int) -> None:
        """The steps of a decision were begun: from a halt on, nothing goes forward."""
        if halted(Progress(state), now_ns) is not None:
            self._life.halted = True


class Loop:
    """The synchronous twin of work.runner.Runner, in simulated time."""

    def __init__(self, life: Life, state: State, journal: SimJournal) -> None:
        self._life = life
        self._journal = journal
        self._inbox: deque[Outcome | Heard] = deque()
        self.state = state
        life.put = self._inbox.append

    def hear(self, rows: Iterable[Heard]) -> None:
        for row in rows:
            self._take(row)

    def end(self, done: Done) -> None:
        self._take(Ended(result=done.result, reason=done.reason))
        self._journal.sync()

    def drive(self) -> Done:
        """Go on until the decision is Done. Raises Crashed."""
        world, checker, impatience = self._life.world, Checker(self._life), 0
        while True:
            now_ns = world.now_ns
            decision = checker.decide(self.state, now_ns)
            if isinstance(decision, Done):
                return decision
            if isinstance(decision, Do):
                for step in decision.steps:
                    self._begin(step)
                checker.began(self.state, now_ns)
                continue
            if not self._listen(decision.until_ns):
                # A person loses patience with a command that never ends, and with its rollback.
                impatience += 1
                assert impatience <= MOST_SIGNALS, f"waits for ever: {decision.why}"
                self._inbox.append(Heard(what="signal", value="SIGTERM"))
            while self._inbox:
                self._take(self._inbox.popleft())

    def _take(self, row: Row) -> None:
        self.state = apply(self.state, self._journal.append(row))

    def _begin(self, step: Step) -> None:
        self._take(Intent(step=step))
        delay_ns, works = (0, True) if step.safe else self._life.sync_delay_ns(step)

        def synced() -> None:
            if not self._life.alive:
                return
            if not works:
                self._inbox.append(Outcome(key=step.key, result="not-begun", reason="disk"))
                return
            if not step.safe:
                self._journal.sync()
            self._life.begin(step, self._inbox.append)

        if delay_ns:
            self._life.world.after(delay_ns, synced)
        else:
            synced()

    def _listen(self, until_ns: int | None) -> bool:
        """Let time go on until something comes in or the time is there; False: nothing will."""
        world = self._life.world
        while not self._inbox:
            when_ns = world.next_event_ns()
            if when_ns is None or (until_ns is not None and when_ns > until_ns):
                world.now_ns = max(world.now_ns, until_ns or 0)
                return until_ns is not None
            world.step()
        return True


def first_state(plan: Plan, journal: SimJournal) -> State:
    state = start(journal.append(Planned(plan=plan)))
    journal.sync()
    return state
