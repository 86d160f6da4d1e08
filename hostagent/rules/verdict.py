"""How a run ended, for each guest and as a whole.

Layer: rules. Several things may have gone wrong at once; the worst one names the run (SEVERITY).
A guest's result is one of

    paused         stood still because of us, and runs
    skipped        was left alone: off, paused by its owner, asleep, crashed
    unpaused       ran (at least partly) while the update was applied
    untouched      the run ended before it was paused
    unsettled      its own QEMU hangs: it may still be paused; the guardian keeps it
    resume-failed  stands still, and could not be resumed
    gone           was shut off, destroyed or crashed by something else in mid-run
    left-paused    stands still for another reason than ours (its owner's, say), and was left so
"""

from collections.abc import Iterator
from dataclasses import dataclass

from hostagent.core.journal import GuestOutcome
from hostagent.core.plan import Done, Ending, PlannedGuest, Verb
from hostagent.rules.clock_outcome import counting, is_unsynced
from hostagent.rules.halt import Halt
from hostagent.rules.progress import MAY_STAND_STILL, Progress

SEVERITY = (
    Ending.AMBIGUOUS,
    Ending.RESUME_FAILED,
    Ending.UPDATE_FAILED,
    Ending.INTERRUPTED,
    Ending.REFUSED,
    Ending.BUDGET_EXCEEDED,
    Ending.PARTLY,
    Ending.DONE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestResult:
    """One guest's result and why."""

    result: str
    reason: str = ""


def verdict(progress: Progress, halt: Halt | None) -> Done:
    """The worst that happened, with its reason."""
    findings = [*_of_guests(progress), *_of_commands(progress), *_of_halt(progress, halt)]
    findings.append(Done(result=Ending.DONE))
    return min(findings, key=lambda finding: SEVERITY.index(finding.result))


def guest_result(progress: Progress, guest: PlannedGuest) -> GuestResult:
    """What became of one guest of the plan."""
    left_out = _left_out(progress, guest)
    if left_out is not None:
        return left_out
    pause, back = progress.paused(guest.uuid), progress.back(guest.uuid)
    if progress.state.rebooted and progress.state.begun(Verb.PAUSE) and back is None:
        return GuestResult(result="gone", reason="the host was started anew in mid-run")
    if guest.uuid in progress.to_resume:
        if back is not None and back.result == "failed":
            return GuestResult(result="resume-failed", reason=back.reason)
        reason = back.reason if back is not None else "nothing is known of its resume"
        return GuestResult(result="unsettled", reason=reason)
    if pause is None and (back is None or back.result != "resumed"):
        return GuestResult(result="untouched", reason="the run ended before it was paused")
    if pause is not None and pause.result == "not-ours":
        return GuestResult(result="skipped", reason=pause.reason)
    if back is not None and (pause is None or pause.result in MAY_STAND_STILL):
        ended = progress.ended(guest.uuid)
        if back.result == "gone" and ended is not None:
            return GuestResult(result="gone", reason=ended.reason)
        return _brought_back(progress, pause.result if pause else "paused", back)
    if back is not None and back.result == "resumed":  # after a crash: seen when it ran again
        return GuestResult(result="paused", reason=back.reason)
    return GuestResult(result="unpaused", reason=pause.reason if pause else "")


def _left_out(progress: Progress, guest: PlannedGuest) -> GuestResult | None:
    """The result of a guest that was not to be paused, by the plan or by a later look."""
    if guest.skip and guest.runs:
        return GuestResult(result="unpaused", reason=guest.skip)
    if guest.skip:
        return GuestResult(result="skipped", reason=guest.skip)
    dropped = progress.dropped(guest.uuid)
    if dropped is None:
        return None
    result = "unpaused" if dropped.result == "busy" else "skipped"
    return GuestResult(result=result, reason=dropped.reason)


_NOT_OURS_ANY_MORE = {"gone": "gone", "not-ours": "left-paused"}
"""By the word of a resume: what became of a guest that somebody else has taken from us."""


def _brought_back(progress: Progress, paused: str, back: GuestOutcome) -> GuestResult:
    if back.result in _NOT_OURS_ANY_MORE:
        return GuestResult(result=_NOT_OURS_ANY_MORE[back.result], reason=back.reason)
    if paused != "paused":
        return GuestResult(result="unpaused", reason="it could not be paused in time")
    if back.result == "running" and not _outlasted_the_command(progress, back):
        why = "somebody else had resumed it before the command ended"
        if progress.crashes:
            why = "it ran when hostagent had died; since when is not known"
        return GuestResult(result="unpaused", reason=back.reason or why)
    return GuestResult(result="paused", reason=back.reason)


def _outlasted_the_command(progress: Progress, back: GuestOutcome) -> bool:
    """Whether a guest that ran already at our resume is known to have stood still until then."""
    applied, resumed_ns = progress.closed(Verb.APPLY), back.figures.get("resumed_ns")
    ended_ns = applied.outcome.figures.get("ended_ns") if applied is not None else None
    return isinstance(resumed_ns, int) and isinstance(ended_ns, int) and resumed_ns >= ended_ns


_ENDING_OF_GUEST = {
    "unsettled": Ending.AMBIGUOUS,
    "resume-failed": Ending.RESUME_FAILED,
    "gone": Ending.PARTLY,
    "left-paused": Ending.PARTLY,
    "unpaused": Ending.PARTLY,
}


def _of_guests(progress: Progress) -> Iterator[Done]:
    for guest in progress.state.plan.guests:
        result = guest_result(progress, guest)
        if result.result in _ENDING_OF_GUEST:
            reason = f"guest {guest.name}: {result.reason}"
            yield Done(result=_ENDING_OF_GUEST[result.result], reason=reason)
    for guest in progress.stood_still:
        tries = progress.clock_syncs(guest.uuid)
        counts = counting(tries)
        if is_unsynced(tries) and counts is not None:
            yield Done(result=Ending.PARTLY, reason=f"guest {guest.name}: {counts.reason}")
    for name in newcomers(progress):
        yield Done(result=Ending.PARTLY, reason=f"guest {name} was started in mid-run")


def newcomers(progress: Progress) -> tuple[str, ...]:
    """Names of guests that were started while the run was under way."""
    closed = progress.closed(Verb.CENSUS)
    names = closed.outcome.figures.get("started") if closed is not None else None
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _of_commands(progress: Progress) -> Iterator[Done]:
    yield from _of_rollback(progress)
    applied = progress.closed(Verb.APPLY)
    stopped = bool(progress.signals)
    code = progress.exit_code(Verb.APPLY)
    if code not in (None, 0) and not stopped:
        why = applied.outcome.reason if applied is not None else ""
        why = why or f"the command ended with {exit_words(code)}"
        yield Done(result=Ending.UPDATE_FAILED, reason=why)
    if applied is not None and applied.outcome.result == "failed":
        reason = f"how the command ended is not known: {applied.outcome.reason}"
        yield Done(result=Ending.UPDATE_FAILED, reason=reason)
    if applied is not None and applied.outcome.result == "lost":
        reason = "how the command ended is not known: look at what it did"
        yield Done(result=Ending.INTERRUPTED, reason=reason)
    if not stopped:
        yield from _of_verify(progress)
    deadline_ns = progress.deadline_ns
    if deadline_ns is not None and _last_back_ns(progress) > deadline_ns:
        yield Done(result=Ending.BUDGET_EXCEEDED, reason="a guest was paused past the budget")


def _of_verify(progress: Progress) -> Iterator[Done]:
    """An update that was to be verified and could not be is not known to be good."""
    closed, code = progress.closed(Verb.VERIFY), progress.exit_code(Verb.VERIFY)
    if closed is None or code == 0 or closed.outcome.result == "lost":
        return
    why = f"verify ended with {exit_words(code)}"
    if code is None:
        why = f"verify could not be run: {closed.outcome.reason}"
    yield Done(result=Ending.UPDATE_FAILED, reason=why)


def _of_rollback(progress: Progress) -> Iterator[Done]:
    """Named first of the failed: a host that is neither updated nor rolled back needs a person."""
    closed, code = progress.closed(Verb.ROLLBACK), progress.exit_code(Verb.ROLLBACK)
    if closed is None or code == 0 or closed.outcome.result == "lost":
        return
    why = exit_words(code) if code is not None else closed.outcome.reason
    yield Done(result=Ending.UPDATE_FAILED, reason=f"the update failed, and its rollback: {why}")


def _last_back_ns(progress: Progress) -> int:
    times = [0]
    for guest in progress.guests:
        back = progress.back(guest.uuid)
        value = back.figures.get("called_ns") if back is not None else None
        if isinstance(value, int):
            times.append(value)
    return max(times)


def _of_halt(progress: Progress, halt: Halt | None) -> Iterator[Done]:
    """A run that was halted is refused only if its update never began."""
    if halt is None:
        return
    refused = halt.result is Ending.REFUSED and progress.update_began
    result = Ending.PARTLY if refused else halt.result
    yield Done(result=result, reason=halt.reason)


def exit_words(code: int | None) -> str:
    """An exit status as a person reads it; negative means a signal, as in subprocess."""
    if code is None:
        return "an unknown status"
    return f"signal {-code}" if code < 0 else f"exit {code}"
