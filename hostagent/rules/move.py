"""Moving guests between hosts: what to do next, for `guest migrate`, `host drain` and `restore`.

Layer: rules. How far each guest is, and which rung of its ladder comes next, is in
rules/move_standing; here it is decided what is begun. A few guests are moved at once. Invariants:
while a move may still be under way nothing else is done with that guest; nothing is begun after a
signal or a crash but what leaves the world in order (abort, find, settle, clocks, uncordon); each
step of a guest is begun once, so attempts are bounded. Times in ns.
"""

from collections.abc import Iterator
from dataclasses import asdict

from hostagent.core.journal import Open, State
from hostagent.core.move import Method
from hostagent.core.plan import Decision, Do, Done, Ending, Json, PlannedGuest, Step, Verb, Wait
from hostagent.rules import clock
from hostagent.rules.clock_outcome import is_worth_a_look, was_set_by_date
from hostagent.rules.move_orders import Operation, operation_of, order_args, parallel_of
from hostagent.rules.move_standing import (
    CLOCKS_AGAIN,
    Standing,
    Where,
    clock_tries,
    clock_turn,
    may_go_on,
    problem,
    settle_problem,
    settle_turn,
    standings,
    turn,
)

S = 1_000_000_000
CORDON = "cordon"
CORDONED = ("cordoned", "was-cordoned")
WAS_CORDONED = "was-cordoned"
CENSUS = "census"
UNCORDON = "uncordon"
CLOCK_LIMIT_NS = 8 * S
AGENT_WAIT_NS = {Method.LIVE: 10 * S, Method.COLD: 60 * S}
"""How long the agent of a guest that arrived is awaited: its channel comes back late, and after a
cold move it boots first."""
SETTLE_LIMIT_NS = 30 * S
OVERDUE_NS = 90 * S
"""How far a step may exceed its own limit before it counts as hanging: a move takes up to a minute
more where its hosts hang (ports.Mover)."""


def next(state: State, now_ns: int) -> Decision:
    """What to do now. Pure, as rules/inplace.next."""
    everybody = standings(state)
    steps = [step for step in _steps(state, everybody) if not state.begun(step.key)]
    if steps:
        return Do(steps=tuple(steps), why=_sentence(everybody))
    waited_for = [each for each in state.open.values() if now_ns < _overdue_ns(each)]
    if waited_for:
        until_ns = min(_overdue_ns(each) for each in waited_for)
        return Wait(why=_sentence(everybody), until_ns=until_ns)
    return _end(state, everybody)


def is_unsettled(state: State) -> bool:
    """Whether it is not known where a guest is, or one that arrived is not in order: the next
    command tries again, a few times."""
    if not may_go_on(state):
        return False
    return any(
        each.busy or each.where is Where.AMBIGUOUS or bool(settle_problem(state, each.guest.uuid))
        for each in standings(state)
    )


def _overdue_ns(opened: Open) -> int:
    limit_ns = opened.step.args.get("limit_ns", 0)
    return opened.since_ns + (limit_ns if isinstance(limit_ns, int) else 0) + OVERDUE_NS


def _is_halted(state: State) -> bool:
    return state.hears("signal") or state.hears("crashed")


def _steps(state: State, everybody: tuple[Standing, ...]) -> Iterator[Step]:
    """All steps that may be begun now, also those that were."""
    operation = operation_of(state.plan.args)
    drains = operation is Operation.DRAIN
    if drains and not _is_halted(state):
        yield Step(key=_cordon_turn(state), verb=Verb.CORDON)
    for each in everybody:
        yield from _after(state, each, operation)
    if state.hears("signal"):  # after a crash alone, what goes on is waited for and adopted
        yield from (_abort(each) for each in everybody if each.key in state.open)
    elif not _is_halted(state) and _may_leave(state):
        yield from _attempts(everybody, parallel_of(state.plan.args))
    if not _is_at_rest(state, everybody):
        return
    if not _is_halted(state):
        yield from _second_looks(state, everybody)
    if drains and not _is_halted(state) and _may_leave(state):
        yield Step(key=CENSUS, verb=Verb.CENSUS)
    if operation is Operation.RESTORE or (_is_halted(state) and _set_the_cordon(state)):
        yield Step(key=_uncordon_turn(state), verb=Verb.UNCORDON)


def _cordon_turn(state: State) -> str:
    return turn(state, CORDON, CORDONED)


def _uncordon_turn(state: State) -> str:
    return turn(state, UNCORDON, ("uncordoned",))


def _set_the_cordon(state: State) -> bool:
    """Whether this run set it, or may have: one that was there before is not ours to take back."""
    key = _cordon_turn(state)
    return state.begun(key) and state.result(key) != WAS_CORDONED


def _may_leave(state: State) -> bool:
    """Whether guests may be moved away: a drain cordons its host first."""
    drains = operation_of(state.plan.args) is Operation.DRAIN
    return not drains or state.result(_cordon_turn(state)) in CORDONED


def _is_at_rest(state: State, everybody: tuple[Standing, ...]) -> bool:
    """Whether nothing more is to be begun or awaited for any guest."""
    waits = not _is_halted(state) and any(each.where is Where.WAITING for each in everybody)
    busy = any(each.busy for each in everybody)
    operation = operation_of(state.plan.args)
    left = any(
        step.key not in state.done for each in everybody for step in _after(state, each, operation)
    )
    return not (waits or busy or left)


def _attempts(everybody: tuple[Standing, ...], parallel: int) -> Iterator[Step]:
    busy = sum(each.busy for each in everybody)
    waiting = [each for each in everybody if each.where is Where.WAITING]
    for each in waiting[: max(parallel - busy, 0)]:
        yield Step(
            key=each.key,
            verb=Verb.MOVE,
            guests=(each.guest.uuid,),
            args=order_args(each.order),
        )


def _after(state: State, each: Standing, operation: Operation) -> Iterator[Step]:
    """What follows an attempt: asking both hosts, and what an arrived guest still needs."""
    args = order_args(each.order)
    uuids = (each.guest.uuid,)
    if each.where is Where.UNCERTAIN:
        yield Step(key=each.key, verb=Verb.FIND, guests=uuids, args=args)
    if each.where is Where.ARRIVED:
        yield Step(
            key=settle_turn(state, each.guest.uuid),
            verb=Verb.SETTLE,
            guests=uuids,
            args={**args, "limit_ns": SETTLE_LIMIT_NS, "operation": str(operation)},
        )
        if each.guest.channel and _runs_there(each):
            yield _clock_step(state, each)


def _runs_there(each: Standing) -> bool:
    """Whether it has a clock to set; not one that its owner stopped on the way."""
    known = each.outcome.figures.get("state") if each.outcome is not None else None
    return each.order.runs and known in (None, "running")


def _abort(each: Standing) -> Step:
    return Step(
        key=f"abort:{each.key}",
        verb=Verb.ABORT,
        guests=(each.guest.uuid,),
        args=order_args(each.order),
        safe=True,
    )


def _clock_step(state: State, each: Standing) -> Step:
    wait_ns = AGENT_WAIT_NS.get(each.order.method, 0)
    uuid = each.guest.uuid
    return Step(
        key=clock_turn(state, uuid),
        verb=Verb.SYNC_CLOCKS,
        guests=(uuid,),
        args={
            "uri": each.order.destination,
            "limit_ns": CLOCK_LIMIT_NS + wait_ns,
            "tasks": {uuid: asdict(clock.task(each.guest, None))},
            "wait_ns": {uuid: wait_ns},
        },
    )


def _second_looks(state: State, everybody: tuple[Standing, ...]) -> Iterator[Step]:
    """A look at all clocks that were set while other guests were still moving, one step a host: a
    busy host reads and sets them worse."""
    arrived = [each for each in everybody if _wants_a_second_look(state, each)]
    for uri in dict.fromkeys(each.order.destination for each in arrived):
        there = [each.guest for each in arrived if each.order.destination == uri]
        yield Step(
            key=f"{CLOCKS_AGAIN}:{uri}",
            verb=Verb.SYNC_CLOCKS,
            guests=tuple(guest.uuid for guest in there),
            args={
                "uri": uri,
                "limit_ns": CLOCK_LIMIT_NS,
                "tasks": {guest.uuid: _second_task(state, guest) for guest in there},
                "wait_ns": {},
            },
        )


def _second_task(state: State, guest: PlannedGuest) -> dict[str, Json]:
    """Nearer than at first: this clock is ours to set, and its host is not busy with moves now."""
    coarse = was_set_by_date(clock_tries(state, guest.uuid))
    threshold_ns = clock.COARSE_NS if coarse else 2 * clock.TARGET_NS
    return asdict(clock.task(guest, None, threshold_ns=threshold_ns))


def _wants_a_second_look(state: State, each: Standing) -> bool:
    closed = state.done.get(clock_turn(state, each.guest.uuid))
    tried = None if closed is None else closed.outcome.guests.get(each.guest.uuid)
    return tried is not None and is_worth_a_look(tried)


def _sentence(everybody: tuple[Standing, ...]) -> str:
    moving = [each for each in everybody if each.busy]
    waiting = [each for each in everybody if each.where is Where.WAITING]
    over = len(everybody) - len(moving) - len(waiting)
    names = ", ".join(each.guest.name for each in moving) or "the next guests"
    return f"moving {names}; {over} of {len(everybody)} done"


def _end(state: State, everybody: tuple[Standing, ...]) -> Done:
    for each in everybody:
        if each.where is Where.AMBIGUOUS or each.busy:
            reason = f"guest {each.guest.name}: {each.reason}"
            return Done(result=Ending.AMBIGUOUS, reason=reason)
    if _is_halted(state):
        return Done(result=Ending.INTERRUPTED, reason="it was stopped: the same command goes on")
    if not _may_leave(state):
        why = _told(state, _cordon_turn(state))
        return Done(result=Ending.REFUSED, reason=f"the host was not cordoned: {why}")
    why = problem(state) or _newcomers(state) or _still_cordoned(state)
    nobody = everybody and all(each.where is Where.STAYED for each in everybody)
    if nobody and len(everybody) == len(state.plan.guests):
        return Done(result=Ending.FAILED, reason=why)
    return Done(result=Ending.PARTLY if why else Ending.DONE, reason=why)


def _newcomers(state: State) -> str:
    """Who runs on a drained host and was not there when the plan was made."""
    if CENSUS not in state.done:
        return "who runs here now could not be read" if CENSUS in state.open else ""
    known = {guest.name for guest in state.plan.guests}
    started = state.done[CENSUS].outcome.figures.get("started", [])
    new = [str(name) for name in started if name not in known] if isinstance(started, list) else []
    return f"started meanwhile: {', '.join(new)}; the same command moves them too" if new else ""


def _still_cordoned(state: State) -> str:
    key = _uncordon_turn(state)
    if not state.begun(key) or state.result(key) == "uncordoned":
        return ""
    return f"the host is still cordoned: {_told(state, key)}"


def _told(state: State, key: str) -> str:
    return state.done[key].outcome.reason if key in state.done else "no answer from its disk"
