"""`clock sync` as a run: which clocks it sets, what it does next, and its report.

Layer: rules. The same two tries as after a pause (rules/clock_steps), without any pause. Nothing
has to be undone after a crash: what is set is an absolute time, so a run that died just ends.
"""

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from hostagent.core.clock import ClockReading, Exchange, NoAnswer, Read
from hostagent.core.journal import GuestOutcome, State
from hostagent.core.model import AgentState, Facts, Guest
from hostagent.core.plan import (
    Decision,
    Do,
    Done,
    Ending,
    Json,
    Plan,
    PlannedGuest,
    Step,
    Verb,
    Wait,
)
from hostagent.rules import clock
from hostagent.rules.clock import ClockVerdict
from hostagent.rules.clock_outcome import (
    HOST_UNSYNCHRONISED,
    NO_CHANNEL,
    ClockReport,
    clock_report,
    counting,
    is_unsynced,
    is_worth_a_look,
    was_set,
    was_set_by_date,
)
from hostagent.rules.clock_reading import READS
from hostagent.rules.clock_steps import HOLD_NS, SYNC_LIMIT_NS
from hostagent.rules.halt import overdue_ns
from hostagent.rules.selection import planned, select

KIND = "clock"
FIRST, AGAIN = "clocks", "clocks-again"
NOT_ASKED = "the sync ended before anything was known of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockTerms:
    """How clocks are to be set. `wait_ns`: how long an agent that is not connected is awaited."""

    threshold_ns: int = clock.THRESHOLD_NS
    wait_ns: int = 0
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestClock:
    """One guest of a report."""

    name: str
    uuid: str
    clock: ClockReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSyncReport:
    """What `clock sync` did. `signal` names the one that stopped it, if any did."""

    run: str
    host: str
    host_uuid: str
    signal: str | None
    result: Ending
    reason: str
    changed: bool
    warnings: tuple[str, ...]
    guests: tuple[GuestClock, ...]


def plan(run: str, selectors: Sequence[str], terms: ClockTerms, facts: Facts) -> Plan:
    """The plan: the guests named, else all. Raises RefusedError for one that does not exist."""
    guests = tuple(
        replace(planned(guest, held_by=""), skip=_skip(guest)) for guest in select(facts, selectors)
    )
    args: dict[str, Json] = asdict(terms)
    wrong = facts.host.clock_synchronised is False
    warnings = (HOST_UNSYNCHRONISED,) if wrong else ()
    return Plan(run=run, kind=KIND, host=facts.host, guests=guests, args=args, warnings=warnings)


def _skip(guest: Guest) -> str:
    """Why a guest's clock is not looked at; a paused one would only not answer."""
    if not guest.runs:
        return f"it does not run: {guest.state}"
    return NO_CHANNEL if guest.agent is AgentState.NONE else ""


def next(state: State, now_ns: int) -> Decision:
    """What to do now. Pure, as rules/inplace.next."""
    if state.hears("crashed") or state.hears("signal"):
        return Done(result=Ending.INTERRUPTED, reason="it was stopped: `clock sync` again is safe")
    if not state.begun(FIRST) and state.plan.chosen:
        return Do(steps=(_step(state, FIRST, state.plan.chosen),), why="setting clocks")
    again = _again(state)
    if again and not state.begun(AGAIN):
        at_ns = state.done[FIRST].at_ns + HOLD_NS
        if now_ns < at_ns:
            return Wait(why="a second look follows", until_ns=at_ns)
        return Do(steps=(_step(state, AGAIN, again),), why="a second look at the clocks")
    for opened in state.open.values():
        if now_ns < overdue_ns(opened):
            return Wait(why="setting clocks", until_ns=overdue_ns(opened))
    return _verdict(state)


def report(state: State, now_ns: int) -> ClockSyncReport:
    """The report of a run, finished or not."""
    ended = state.ended
    decided = next(state, now_ns)
    done = decided if isinstance(decided, Done) else Done(result=Ending.INTERRUPTED)
    signals = (str(heard.value) for heard in state.heard if heard.what == "signal")
    return ClockSyncReport(
        run=state.plan.run,
        host=state.plan.host.name,
        host_uuid=state.plan.host.uuid,
        signal=builtins.next(signals, None),
        result=ended.result if ended is not None else done.result,
        reason=ended.reason if ended is not None else done.reason,
        changed=_changed(state),
        warnings=state.plan.warnings,
        guests=tuple(
            GuestClock(name=guest.name, uuid=guest.uuid, clock=_clock(state, guest))
            for guest in state.plan.guests
        ),
    )


def _changed(state: State) -> bool:
    """Whether a clock was set, or may have been by a step of which nothing came back."""
    untold = any(state.result(key) not in ("", "over", "not-begun") for key in state.done)
    known = any(was_set(tries_of(state, guest.uuid)) for guest in state.plan.guests)
    return known or untold or bool(state.open)


def tries_of(state: State, uuid: str) -> tuple[GuestOutcome, ...]:
    """What came of each try at this guest's clock, in order."""
    return tuple(
        state.done[key].outcome.guests[uuid]
        for key in (FIRST, AGAIN)
        if key in state.done and uuid in state.done[key].outcome.guests
    )


def _again(state: State) -> tuple[PlannedGuest, ...]:
    first = state.done.get(FIRST)
    if first is None:
        return ()
    tried = first.outcome.guests
    return tuple(
        guest
        for guest in state.plan.chosen
        if guest.uuid in tried and is_worth_a_look(tried[guest.uuid])
    )


def _step(state: State, key: str, guests: Sequence[PlannedGuest]) -> Step:
    terms = ClockTerms(**state.plan.args)  # type: ignore[arg-type]
    tasks = {
        guest.uuid: asdict(
            clock.task(
                guest,
                None,
                threshold_ns=_threshold_ns(state, guest, terms),
                force=terms.force,
            )
        )
        for guest in guests
    }
    wait_ns = max(terms.wait_ns - _waited_ns(state), 0)
    waits = {guest.uuid: wait_ns for guest in guests}
    args: dict[str, Json] = {
        "limit_ns": SYNC_LIMIT_NS + wait_ns,
        "tasks": tasks,
        "wait_ns": waits,
    }
    uuids = tuple(guest.uuid for guest in guests)
    return Step(key=key, verb=Verb.SYNC_CLOCKS, guests=uuids, args=args)


def _threshold_ns(state: State, guest: PlannedGuest, terms: ClockTerms) -> int:
    coarse = was_set_by_date(tries_of(state, guest.uuid))
    return max(terms.threshold_ns, clock.COARSE_NS) if coarse else terms.threshold_ns


def _waited_ns(state: State) -> int:
    """What the first try took of the time for which absent agents are awaited."""
    first = state.done.get(FIRST)
    return first.at_ns - first.since_ns if first is not None else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a sync would do with one guest: `do` is "set", "leave" (wrong on purpose), "right", or
    "-" where nothing is known."""

    guest: PlannedGuest
    do: str
    why: str
    reading: ClockReading | None


def forecast(plan: Plan, answers: Mapping[str, ClockReading | NoAnswer]) -> tuple[Forecast, ...]:
    """What a sync of this plan would do, from one answer of each guest's agent."""
    terms = ClockTerms(**plan.args)  # type: ignore[arg-type]
    return tuple(_forecast(guest, answers.get(guest.uuid), terms) for guest in plan.guests)


def _forecast(
    guest: PlannedGuest, answer: ClockReading | NoAnswer | None, terms: ClockTerms
) -> Forecast:
    if guest.skip or answer is None:
        return Forecast(guest=guest, do="-", why=guest.skip, reading=None)
    if isinstance(answer, NoAnswer):
        return Forecast(guest=guest, do="-", why=answer.reason, reading=None)
    task = clock.task(guest, None, threshold_ns=terms.threshold_ns, force=terms.force)
    asked = (Exchange(question=Read(), answer=answer),) * READS
    move = clock.next(task, asked, SYNC_LIMIT_NS)
    if isinstance(move, ClockVerdict):
        do = "right" if move.synced else "leave"
        return Forecast(guest=guest, do=do, why=move.reason, reading=answer)
    return Forecast(guest=guest, do="set", why="", reading=answer)


def _verdict(state: State) -> Done:
    for guest in state.plan.guests:
        tries = tries_of(state, guest.uuid)
        counts = counting(tries)
        if is_unsynced(tries) and counts is not None:
            return Done(result=Ending.PARTLY, reason=f"guest {guest.name}: {counts.reason}")
    for key, closed in state.done.items():
        if closed.outcome.result != "over":
            nothing = key == FIRST and closed.outcome.result == "not-begun"
            ending = Ending.REFUSED if nothing else Ending.PARTLY
            return Done(result=ending, reason=closed.outcome.reason)
    if state.open:
        return Done(result=Ending.PARTLY, reason="setting clocks hangs")
    return Done(result=Ending.DONE)


def _clock(state: State, guest: PlannedGuest) -> ClockReport:
    if guest.skip:
        return ClockReport(synced=False if guest.runs else None, reason=guest.skip)
    tries = tries_of(state, guest.uuid)
    if not tries:
        return ClockReport(reason=NOT_ASKED)
    found = clock_report(tries, None)
    first = found.offset_resumed_s
    return ClockReport(
        synced=found.synced,
        method=found.method,
        offset_before_s=first,
        offset_after_s=found.offset_after_s,
        uncertainty_s=found.uncertainty_s,
        reason=found.reason,
    )
