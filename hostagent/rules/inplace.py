"""In-place maintenance: guests are paused, an update is applied, guests resume.

Layer: rules. `next()` is the one decision that command, daemon, recovery and tests drive: it reads
the folded journal and says what to do now. It keeps nothing and waits for nothing.

How it thinks. The way forward is a list of steps in fixed order (`_forward`). At any moment the way
is open, and the first step that is not finished goes on; or it is *halted* (rules/halt: a signal, a
crash, the deadline, a step that failed), and from then on only the way back is taken:

    1. guests that are paused, or may be, are resumed     always first, never waits for a write
    2. those whose own QEMU hangs are given 10 s more     the others have long been running
    3. the guardian is disarmed, or left with the hung ones; clocks are set; newcomers are listed
    4. the command, if it still lives: left to finish, signalled or killed, as the terms say
    5. the update is verified, or rolled back
    6. clocks get a second look: whether they hold, and those whose agents were busy or away

Each rule returns its decision or None, and the first decision counts: "resume before everything",
"no rollback while the command lives" are the order of one list. Time enters only as `now_ns`.
"""

import builtins
from collections.abc import Iterator
from dataclasses import replace

from hostagent.core.journal import HeardAt, Open, State
from hostagent.core.plan import Decision, Do, Json, Step, Verb, Wait
from hostagent.rules.clock_steps import look_again, look_again_at_ns, sync, under_way
from hostagent.rules.halt import halted, next_turn_ns, overdue_ns
from hostagent.rules.progress import COMMANDS, Progress
from hostagent.rules.request import S
from hostagent.rules.verdict import verdict

RESUME_LIMIT_NS = 3 * S
"""After this a resume reports a guest as hung: 1 s to find libvirt unusable, 1 s for QMP, slack."""
SETTLE_LIMIT_NS = 10 * S
"""How long a guest whose own QEMU hangs is waited for; then the guardian keeps it."""
CLOCK_LIMIT_NS = 2 * S
"""Limit of a guest agent's answer."""
JOB_LIMIT_NS = 60 * S
"""How long a guest's running job is waited for before anything is paused."""
LAUNCH_LIMIT_NS = 5 * S
ARM_LIMIT_NS = 5 * S
"""A guardian that is not ready by then is not trusted with guests."""
CENSUS_LIMIT_NS = 3 * S
SIGNAL_GRACE_NS = 5 * S
"""How long a signalled command may take to end before the run ends without it."""
KILL_GRACE_NS = 5 * S
"""From SIGTERM to SIGKILL with --kill-after."""


def next(state: State, now_ns: int) -> Decision:
    """What to do now. Pure: the same state and time always give the same decision."""
    progress = Progress(state)
    halt = halted(progress, now_ns)
    if halt is None and Verb.APPLY not in state.done:
        return _forward(progress, now_ns)
    decision = (
        _bring_back(progress, now_ns)
        or _tidy_up(progress, now_ns)
        or _await_tidying(progress, now_ns)
        or _command(progress, now_ns)
        or _after_command(progress)
        or _await_setting(progress, now_ns)
        or _await_clocks(progress, now_ns)
        or verdict(progress, halt)
    )
    return _not_past(decision, look_again_at_ns(progress), now_ns)


def _not_past(decision: Decision, at_ns: int | None, now_ns: int) -> Decision:
    """A wait that ends in time for the second look at the clocks, whatever else it is for."""
    if at_ns is None or at_ns <= now_ns or not isinstance(decision, Wait):
        return decision
    until_ns = at_ns if decision.until_ns is None else min(at_ns, decision.until_ns)
    return replace(decision, until_ns=until_ns)


def _forward(progress: Progress, now_ns: int) -> Decision:
    """The first step of the way forward that is not finished. A clock that is not read in time is
    passed over: it is only a figure."""
    for step in _way_forward(progress):
        opened = progress.state.open.get(step.key)
        if not progress.state.begun(step.key):
            return Do(steps=(step,), why=_SENTENCES[step.verb])
        if opened is not None and step.verb is not Verb.APPLY and not _passed_over(opened, now_ns):
            break
    open_verbs = ", ".join(opened.step.verb for opened in progress.state.open.values())
    return Wait(why=f"{open_verbs} under way", until_ns=next_turn_ns(progress, now_ns))


def _passed_over(opened: Open, now_ns: int) -> bool:
    return opened.step.verb is Verb.READ_CLOCKS and now_ns >= overdue_ns(opened)


def _way_forward(progress: Progress) -> Iterator[Step]:
    terms, uuids = progress.terms, tuple(guest.uuid for guest in progress.guests)
    if terms.prepare:
        yield _step(Verb.PREPARE, argv=list(terms.prepare))
    busy = tuple(guest.uuid for guest in progress.state.plan.chosen if guest.job)
    if busy:
        yield _step(Verb.AWAIT_JOBS, busy, limit_ns=JOB_LIMIT_NS)
    yield from _read_clocks(progress)
    yield _step(Verb.LAUNCH, argv=list(terms.command), limit_ns=LAUNCH_LIMIT_NS)
    if uuids:
        yield _step(Verb.ARM, uuids, budget_ns=terms.budget_ns, limit_ns=ARM_LIMIT_NS)
        yield from _arm_again(progress, uuids)
        before_ns = progress.command_deadline_ns
        yield _step(Verb.PAUSE, uuids, limit_ns=terms.suspend_limit_ns, before_ns=before_ns)
    yield _step(Verb.APPLY, before_ns=progress.command_deadline_ns)


def _arm_again(progress: Progress, uuids: tuple[str, ...]) -> Iterator[Step]:
    """A new guardian for each that died while a guest was left to guard, with the first one's
    deadline. Safe: guests may stand still already, so it must not wait for a disk."""
    still = progress.to_resume if progress.state.begun(Verb.PAUSE) else uuids
    for number in range(progress.guardians_died if still else 0):
        args: dict[str, Json] = {"deadline_ns": progress.deadline_ns, "limit_ns": ARM_LIMIT_NS}
        key = f"{Verb.ARM}-again-{number + 1}"
        yield Step(key=key, verb=Verb.ARM, guests=still, args=args, safe=True)


def _read_clocks(progress: Progress) -> Iterator[Step]:
    uuids = tuple(guest.uuid for guest in progress.guests if guest.agent)
    if uuids:
        args: dict[str, Json] = {"limit_ns": CLOCK_LIMIT_NS}
        key = "clocks-before"
        yield Step(key=key, verb=Verb.READ_CLOCKS, guests=uuids, args=args, safe=True)


def _bring_back(progress: Progress, now_ns: int) -> Decision | None:
    """Resume what stands still, and drop a command that still waits behind its gate."""
    key = progress.key(Verb.RESUME)
    steps = []
    if progress.to_resume and not progress.state.begun(key):
        args: dict[str, Json] = {"limit_ns": RESUME_LIMIT_NS}
        steps.append(
            Step(key=key, verb=Verb.RESUME, guests=progress.to_resume, args=args, safe=True)
        )
    if _may_wait_behind_gate(progress) and not progress.state.begun(Verb.CANCEL):
        steps.append(Step(key=Verb.CANCEL, verb=Verb.CANCEL, safe=True))
    if steps:
        return Do(steps=tuple(steps), why="resuming the guests")
    return _wait_for(progress, now_ns, (key,), "resuming the guests")


def _may_wait_behind_gate(progress: Progress) -> bool:
    """An apply step that is open has opened the gate, or still waits for a disk: cancel finds out
    which, and keeps it shut. After a crash the gate is gone, with the process that waited there."""
    launched = progress.state.result(Verb.LAUNCH) == "launched"
    return launched and progress.state.result(Verb.APPLY) != "exited" and not progress.crashes


def _tidy_up(progress: Progress, now_ns: int) -> Decision | None:
    """All that may begin once the guests that answer run again; begun together."""
    steps = [*_settle(progress), *_disarm(progress), *_signal(progress), *_census(progress)]
    steps += [*sync(progress), *look_again(progress, now_ns)]
    steps = [step for step in steps if not progress.state.begun(step.key)]
    return Do(steps=tuple(steps), why="guests run; tidying up") if steps else None


def _settle(progress: Progress) -> Iterator[Step]:
    if progress.hung:
        args: dict[str, Json] = {"limit_ns": SETTLE_LIMIT_NS}
        key = progress.key_settle
        yield Step(key=key, verb=Verb.RESUME, guests=progress.hung, args=args, safe=True)


def _disarm(progress: Progress) -> Iterator[Step]:
    if progress.state.result(Verb.ARM) != "armed" or progress.crashes:
        return
    if progress.hung and progress.key_settle not in progress.state.done:
        return
    yield Step(key=Verb.DISARM, verb=Verb.DISARM, guests=progress.to_resume, safe=True)


def _census(progress: Progress) -> Iterator[Step]:
    if progress.terms.all_guests and progress.update_began and not progress.crashes:
        census_args: dict[str, Json] = {"limit_ns": CENSUS_LIMIT_NS}
        yield Step(key=Verb.CENSUS, verb=Verb.CENSUS, args=census_args, safe=True)


def _signal(progress: Progress) -> Iterator[Step]:
    """Each signal that we got goes on to the command that runs, once the guests run."""
    verb = _living(progress)
    if verb is not None:
        for number, heard in enumerate(_signals_to(progress, verb), start=1):
            yield _signal_step(verb, f"signal-{verb}-{number}", str(heard.value))


def _living(progress: Progress) -> Verb | None:
    """The command that runs now, as far as this process can know."""
    if progress.crashes:
        return None
    cancelled = progress.state.result(Verb.CANCEL) == "cancelled"
    living = (
        verb
        for verb in COMMANDS
        if verb in progress.state.open and not (verb is Verb.APPLY and cancelled)
    )
    return builtins.next(living, None)


def _signals_to(progress: Progress, verb: Verb) -> tuple[HeardAt, ...]:
    """The signals heard since this command began: an earlier one was not meant for it."""
    since_ns = progress.state.open[verb].since_ns
    return tuple(heard for heard in progress.signals if heard.at_ns >= since_ns)


def _await_tidying(progress: Progress, now_ns: int) -> Decision | None:
    keys = (progress.key_settle, Verb.DISARM, Verb.CENSUS, Verb.CANCEL)
    return _wait_for(progress, now_ns, keys, "guests run; tidying up")


def _await_setting(progress: Progress, now_ns: int) -> Decision | None:
    """The first try at the clocks: an agent that drags it out keeps no command waiting."""
    return _wait_for(progress, now_ns, under_way(progress), "guests run; setting their clocks")


def _await_clocks(progress: Progress, now_ns: int) -> Decision | None:
    """The second look, which is the last thing of a run. One that was told to stop does not stay
    for it, also where it is under way."""
    if progress.signals:
        return None
    at_ns, why = look_again_at_ns(progress), "guests run; a second look at their clocks"
    if at_ns is not None and now_ns < at_ns:
        return Wait(why=why, until_ns=at_ns)
    return _wait_for(progress, now_ns, under_way(progress, again=True), why)


def _command(progress: Progress, now_ns: int) -> Decision | None:
    """A command that still lives: left to finish, ended by --kill-after, or signalled by us."""
    verb = _living(progress)
    if verb is None:
        return None
    signals = _signals_to(progress, verb)
    if signals:
        until_ns = signals[-1].at_ns + SIGNAL_GRACE_NS
        waiting = Wait(why=f"guests run; waiting for {verb} to end", until_ns=until_ns)
        return waiting if now_ns < until_ns else None
    return _left_alone(progress, now_ns) if verb is Verb.APPLY else Wait(why=f"{verb} under way")


def _left_alone(progress: Progress, now_ns: int) -> Decision:
    """Its deadline is over and the guests run: it may finish, unless --kill-after says when not."""
    waiting = "guests run; the command is left to finish"
    if progress.terms.kill_after_ns is None or progress.command_deadline_ns is None:
        return Wait(why=waiting)
    at_ns = progress.command_deadline_ns + progress.terms.kill_after_ns
    for key, name in (("kill-1", "SIGTERM"), ("kill-2", "SIGKILL")):
        if now_ns < at_ns:
            return Wait(why=waiting, until_ns=at_ns)
        if not progress.state.begun(key):
            return Do(steps=(_signal_step(Verb.APPLY, key, name),), why=f"{name} to the command")
        at_ns += KILL_GRACE_NS
    return Wait(why="the command was killed; waiting for its end")


def _after_command(progress: Progress) -> Decision | None:
    """Verify a finished update; roll back a failed one, never while its command may live."""
    applied = progress.state.result(Verb.APPLY) == "exited"
    if not applied or progress.crashes or _living(progress) is not None:
        return None
    terms, stopped = progress.terms, bool(progress.signals)
    succeeded = progress.exit_code(Verb.APPLY) == 0
    if succeeded and terms.verify and not stopped and not progress.state.begun(Verb.VERIFY):
        return Do(steps=(_step(Verb.VERIFY, argv=list(terms.verify)),), why="verifying the update")
    refuted = not stopped and progress.exit_code(Verb.VERIFY) not in (None, 0)
    if terms.rollback and (refuted or not succeeded) and not progress.state.begun(Verb.ROLLBACK):
        step = _step(Verb.ROLLBACK, argv=list(terms.rollback))
        return Do(steps=(step,), why="the update failed; rolling it back")
    return None


def _wait_for(progress: Progress, now_ns: int, keys: tuple[str, ...], why: str) -> Wait | None:
    """Wait for these steps as long as they keep to their limits; one that hangs is left behind."""
    ends = [overdue_ns(progress.state.open[key]) for key in keys if key in progress.state.open]
    ends = [end_ns for end_ns in ends if now_ns < end_ns]
    return Wait(why=why, until_ns=min(ends)) if ends else None


def _step(verb: Verb, guests: tuple[str, ...] = (), **args: Json) -> Step:
    return Step(key=verb, verb=verb, guests=guests, args=args)


def _signal_step(verb: Verb, key: str, name: str) -> Step:
    args: dict[str, Json] = {"command": str(verb), "signal": name}
    return Step(key=key, verb=Verb.SIGNAL, args=args, safe=True)


_SENTENCES = {
    Verb.PREPARE: "preparing; guests run",
    Verb.AWAIT_JOBS: "waiting for jobs on guests to end",
    Verb.READ_CLOCKS: "reading the guests' clocks",
    Verb.LAUNCH: "getting the command ready",
    Verb.ARM: "arming the guardian",
    Verb.PAUSE: "pausing the guests",
    Verb.APPLY: "guests are paused; the update runs",
}
