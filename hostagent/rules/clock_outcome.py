"""What became of a guest's clock: all tries of a run in one report.

Layer: rules. A fold of what the journal has of the tries (work/steps/clock). The last try that
could read the clock counts; one that only found the agent busy does not undo an earlier proof.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hostagent.core.clock import Method
from hostagent.core.journal import GuestOutcome

NOT_TRIED = "it did not stand still, or does not run"
NO_CHANNEL = "it has no agent that is connected"
HOST_UNSYNCHRONISED = (
    "this host's own clock is not synchronised: guests get a time that no time daemon corrects"
)
REPEATED = "something else had set it meanwhile; it was set again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReport:
    """A guest's clock; offsets are guest minus host. `offset_before_s` is from before the pause (or
    the command), `offset_resumed_s` from after the pause, before anything was set."""

    synced: bool | None = None
    method: str | None = None
    offset_before_s: float | None = None
    offset_resumed_s: float | None = None
    offset_after_s: float | None = None
    uncertainty_s: float | None = None
    reason: str = NOT_TRIED


def clock_report(tries: Sequence[GuestOutcome], before: GuestOutcome | None) -> ClockReport:
    """The report of one guest from its tries, in order, and its reading from before."""
    offset_before_s = _s(before, "offset_ns")
    counts = counting(tries)
    if counts is None:
        reason = before.reason if before is not None and before.reason else NOT_TRIED
        return ClockReport(offset_before_s=offset_before_s, reason=reason)
    first = next((each for each in tries if "first_offset_ns" in each.figures), None)
    # What was set and could not be read afterwards has no offset that is known.
    prefix = "" if "offset_ns" in counts.figures or counts.figures.get("sets") else "first_"
    return ClockReport(
        synced=SYNCED.get(counts.result),
        method=_method(tries),
        offset_before_s=offset_before_s,
        offset_resumed_s=_s(first, "first_offset_ns"),
        offset_after_s=_s(counts, f"{prefix}offset_ns"),
        uncertainty_s=_s(counts, f"{prefix}uncertainty_ns"),
        reason=_reason(tries, counts),
    )


SYNCED = {"synced": True, "unsynced": False}
"""By the word of a try; a clock that was left on purpose is neither."""


def counting(tries: Sequence[GuestOutcome]) -> GuestOutcome | None:
    """The try that counts: the last with a reading, else the last."""
    with_reading = [each for each in tries if "first_offset_ns" in each.figures]
    tried = with_reading or list(tries)
    return tried[-1] if tried else None


def was_set(tries: Sequence[GuestOutcome]) -> bool:
    """Whether this guest's clock was set, or may have been."""
    return any(each.figures.get("sets") for each in tries)


def is_unsynced(tries: Sequence[GuestOutcome]) -> bool:
    """Whether an agent that answered leaves its clock wrong: that makes a run `partly` done."""
    counts = counting(tries)
    answered = any(each.figures.get("answered") for each in tries)
    return counts is not None and counts.result == "unsynced" and answered


def is_worth_a_look(outcome: GuestOutcome | None) -> bool:
    """Whether a try asks for a second look: it set the clock, was not answered, or told nothing."""
    return outcome is None or bool(outcome.figures.get("again") or outcome.figures.get("sets"))


def was_set_by_date(tries: Sequence[GuestOutcome]) -> bool:
    """Whether `date` in the guest was tried: what that sets is exact to some 10 ms (COARSE_NS of
    rules/clock), and a second look does not do it again."""
    by_date = (Method.DATE, Method.DATE_SECONDS)
    return any(each.figures.get("method") in by_date for each in tries)


def _method(tries: Sequence[GuestOutcome]) -> str | None:
    """The method of the last try that set anything: a second look sets nothing that holds."""
    methods = [str(each.figures["method"]) for each in tries if each.figures.get("sets")]
    return methods[-1] if methods else None


def _reason(tries: Sequence[GuestOutcome], counts: GuestOutcome) -> str:
    synced = [each for each in tries if each.result == "synced"]
    if counts.result == "synced" and len(synced) > 1 and synced[0].figures.get("sets"):
        again = bool(counts.figures.get("sets"))
        return REPEATED if again else synced[0].reason
    return counts.reason


def _s(outcome: GuestOutcome | None, name: str) -> float | None:
    value = outcome.figures.get(name) if outcome is not None else None
    return value / 1e9 if isinstance(value, int) else None
