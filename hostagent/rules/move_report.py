"""What is told of a run of moves: hostagent.migrate/1, hostagent.drain/1, hostagent.restore/1.

Layer: rules. A fold of the journal. A guest's result is one of

    moved      exactly one host runs it (or has it defined, if it was off), and it is the other one
    not-moved  it is where it was, as it was, or was saved or shut down there as its policy allows
    skipped    the run ended before its turn

Units: seconds, from monotonic ns. A figure that was not measured is None.
"""

from dataclasses import dataclass

from hostagent.core.journal import Closed, GuestOutcome, State
from hostagent.core.move import Method
from hostagent.core.plan import Done, Ending, Json, Verb
from hostagent.rules.clock_outcome import ClockReport, clock_report
from hostagent.rules.move import next
from hostagent.rules.move_orders import operation_of
from hostagent.rules.move_standing import (
    Standing,
    Where,
    clock_tries,
    ended_here,
    settle_problem,
    standings,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestMove:
    """One guest. `source` and `destination` are libvirt URIs as seen from here."""

    name: str
    uuid: str
    result: str
    reason: str = ""
    method: str | None = None
    source: str | None = None
    destination: str | None = None
    total_s: float | None = None
    downtime_s: float | None = None
    downtime_source: str | None = None
    clock: ClockReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveReport:
    """The whole run."""

    run: str
    operation: str
    host: str
    host_uuid: str
    result: str
    reason: str
    signal: str | None
    changed: bool
    warnings: tuple[str, ...]
    guests: tuple[GuestMove, ...]


def report(state: State, now_ns: int) -> MoveReport:
    """The report of a run, finished or not."""
    ended = state.ended
    decided = next(state, now_ns)
    done = decided if isinstance(decided, Done) else Done(result=Ending.INTERRUPTED)
    signals = [str(heard.value) for heard in state.heard if heard.what == "signal"]
    found = {each.guest.uuid: each for each in standings(state)}
    return MoveReport(
        run=state.plan.run,
        operation=str(operation_of(state.plan.args)),
        host=state.plan.host.name,
        host_uuid=state.plan.host.uuid,
        result=str(ended.result if ended is not None else done.result),
        reason=ended.reason if ended is not None else done.reason,
        signal=signals[0] if signals else None,
        changed=_changed(state),
        warnings=state.plan.warnings,
        guests=tuple(
            _moved(state, found[guest.uuid])
            if guest.uuid in found
            else GuestMove(name=guest.name, uuid=guest.uuid, result="not-moved", reason=guest.skip)
            for guest in state.plan.guests
        ),
    )


def _changed(state: State) -> bool:
    """Whether anything may have happened to a guest or to this host's notes. A live move that left
    its guest as it was changed nothing."""
    return any(_may_have_changed(closed) for closed in state.done.values()) or any(
        opened.step.verb in _EFFECTS for opened in state.open.values()
    )


_EFFECTS = (Verb.MOVE, Verb.SETTLE, Verb.CORDON, Verb.UNCORDON)
_NOTHING = ("not-begun", "was-cordoned")


def _may_have_changed(closed: Closed) -> bool:
    result = closed.outcome.result
    if closed.step.verb not in _EFFECTS or result in _NOTHING:
        return False
    as_it_was = result == "stayed" and closed.step.args.get("method") == Method.LIVE
    return not as_it_was


_WORDS = {
    Where.WAITING: "skipped",
    Where.ARRIVED: "moved",
}


def _moved(state: State, each: Standing) -> GuestMove:
    figures = each.outcome.figures if each.outcome is not None else {}
    tries = clock_tries(state, each.guest.uuid)
    problem = settle_problem(state, each.guest.uuid)
    return GuestMove(
        name=each.guest.name,
        uuid=each.guest.uuid,
        result=_WORDS.get(each.where, "not-moved"),
        reason=_reason(each, problem),
        method=None if each.where is Where.WAITING else str(each.order.method),
        source=each.order.source,
        destination=each.order.destination,
        total_s=_seconds(figures.get("total_ns")),
        downtime_s=_seconds(figures.get("downtime_ns")),
        downtime_source=_text(figures.get("downtime_source")),
        clock=_clock(tries) if each.where is Where.ARRIVED else None,
    )


def _reason(each: Standing, problem: str) -> str:
    if each.where is Where.ENDED_HERE:
        return ended_here(each)
    if each.where is Where.WAITING:
        return each.outcome.reason if each.outcome else "the run ended before its turn"
    return problem or (each.outcome.reason if each.outcome else "")


def _clock(tries: tuple[GuestOutcome, ...]) -> ClockReport:
    return clock_report(tries, None) if tries else ClockReport()


def _seconds(value: Json) -> float | None:
    return value / 1e9 if isinstance(value, int) else None


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) else None
