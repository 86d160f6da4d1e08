"""Why the way forward of an in-place run is closed: from here on only the way back is taken.

Layer: rules. A halt is for good: each reason is a fact in the journal, or a time that has passed.
The first reason in `_REASONS` that holds is the one that is reported.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hostagent.core.journal import Closed, Open
from hostagent.core.plan import Ending, Verb
from hostagent.rules.progress import Progress
from hostagent.rules.request import S

OVERDUE_NS = 5 * S
"""How far a step may exceed its own limit before it counts as hanging."""
MOST_GUARDIANS = 3
"""A guardian that dies is replaced; when this many have died the guests are resumed instead."""

_BOUNDED = (Verb.AWAIT_JOBS, Verb.LAUNCH, Verb.ARM, Verb.PAUSE)
"""Steps forward that keep a limit of their own, which hanging ones break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """How the run will end if nothing worse happens on the way back, and why."""

    result: Ending
    reason: str


def halted(progress: Progress, now_ns: int) -> Halt | None:
    """Why no further step forward may begin; None while the way is open."""
    for reason in _REASONS:
        halt = reason(progress)
        if halt is not None:
            return halt
    return _hanging(progress, now_ns) or _deadline(progress, now_ns)


def overdue_ns(step: Open) -> int:
    """When this open step counts as hanging."""
    limit_ns = step.step.args.get("limit_ns", 0)
    return step.since_ns + (limit_ns if isinstance(limit_ns, int) else 0) + OVERDUE_NS


def next_turn_ns(progress: Progress, now_ns: int) -> int | None:
    """The next moment at which time alone may halt the run, or pass over a clock not read."""
    bounded = (*_BOUNDED, Verb.READ_CLOCKS)
    times = [
        overdue_ns(opened)
        for opened in progress.state.open.values()
        if opened.step.verb in bounded and overdue_ns(opened) > now_ns
    ]
    if progress.command_deadline_ns is not None:
        times.append(progress.command_deadline_ns)
    return min(times, default=None)


def _crashed(progress: Progress) -> Halt | None:
    if progress.crashes:
        return Halt(result=Ending.INTERRUPTED, reason="hostagent died in mid-run")
    return None


def _signalled(progress: Progress) -> Halt | None:
    if progress.signals:
        return Halt(result=Ending.INTERRUPTED, reason=f"stopped by {progress.signals[0].value}")
    return None


def _unprepared(progress: Progress) -> Halt | None:
    closed, code = progress.closed(Verb.PREPARE), progress.exit_code(Verb.PREPARE)
    if closed is None or code == 0:
        return None
    why = closed.outcome.reason if code is None else f"exit {code}"
    return Halt(result=Ending.REFUSED, reason=f"the prepare command failed: {why}")


def _busy(progress: Progress) -> Halt | None:
    closed = progress.closed(Verb.AWAIT_JOBS)
    if closed is None or progress.terms.allow_unpaused:
        return None
    for guest in progress.state.plan.chosen:
        outcome = closed.outcome.guests.get(guest.uuid)
        if outcome is not None and outcome.result == "busy":
            return Halt(result=Ending.REFUSED, reason=f"guest {guest.name}: {outcome.reason}")
    return None


def _not_begun(progress: Progress) -> Halt | None:
    """A step that could not begin: no command, no guardian, a journal that takes no writes. One
    that broke down halts too: what it was to provide may be missing."""
    for closed in progress.state.done.values():
        if closed.step.verb not in (*_BOUNDED, Verb.APPLY):
            continue
        if closed.outcome.result == "not-begun":
            return Halt(result=Ending.REFUSED, reason=closed.outcome.reason)
        if closed.outcome.result == "failed":
            reason = f"{closed.step.verb} failed: {closed.outcome.reason}"
            return Halt(result=Ending.REFUSED, reason=reason)
    return None


def _not_all(progress: Progress) -> Halt | None:
    closed = progress.closed(Verb.PAUSE)
    if closed is None or progress.terms.allow_unpaused:
        return None
    for guest in progress.guests:
        outcome = closed.outcome.guests.get(guest.uuid)
        if outcome is None or outcome.result not in ("paused", "not-ours", "gone"):
            why = outcome.reason if outcome is not None else "nothing is known of it"
            reason = f"guest {guest.name} could not be paused: {why}"
            return Halt(result=Ending.REFUSED, reason=reason)
    return None


def _unguarded(progress: Progress) -> Halt | None:
    if progress.guardians_died < MOST_GUARDIANS:
        return None
    ending = Ending.PARTLY if progress.update_began else Ending.REFUSED
    return Halt(result=ending, reason=f"{progress.guardians_died} guardians died")


def _hanging(progress: Progress, now_ns: int) -> Halt | None:
    for opened in progress.state.open.values():
        if opened.step.verb in _BOUNDED and now_ns >= overdue_ns(opened):
            return Halt(result=Ending.REFUSED, reason=f"{opened.step.verb} hangs")
    for closed in progress.state.done.values():
        if closed.step.verb in _BOUNDED and _was_late(closed):
            return Halt(result=Ending.REFUSED, reason=f"{closed.step.verb} took too long")
    return None


def _was_late(closed: Closed) -> bool:
    return closed.at_ns >= overdue_ns(Open(step=closed.step, since_ns=closed.since_ns))


def _deadline(progress: Progress, now_ns: int) -> Halt | None:
    """The command's deadline: over before its end, or before it could even begin."""
    closed, deadline_ns = progress.closed(Verb.APPLY), progress.command_deadline_ns
    at_ns = now_ns if closed is None else _ended_ns(closed)
    if deadline_ns is None or at_ns < deadline_ns:
        return None
    if progress.update_began:
        return Halt(result=Ending.BUDGET_EXCEEDED, reason="the command ran past the budget")
    return Halt(result=Ending.REFUSED, reason="the budget was over before the update could begin")


def _ended_ns(applied: Closed) -> int:
    """When the command ended; where that was not seen, when its step was closed."""
    ended_ns = applied.outcome.figures.get("ended_ns")
    return ended_ns if isinstance(ended_ns, int) else applied.at_ns


_REASONS: tuple[Callable[[Progress], Halt | None], ...] = (
    _crashed,
    _signalled,
    _unprepared,
    _busy,
    _not_begun,
    _not_all,
    _unguarded,
)
