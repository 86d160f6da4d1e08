"""One guest's clock: what it should show, how it gets there, and how sure that is.

Layer: rules. `next()` reads the exchanges with the guest's agent so far and gives the next question
or the verdict; it keeps nothing and waits for nothing (work/steps/clock asks the questions).

How it thinks. Read the clock a few times and take the best reading. If it is off, set it to a time
that makes up for the way there, read it again, and repeat with what the last set taught, until it
is right or four sets have not made it so. A set that reports an error may have worked, so only a
reading judges. Where one method is refused the next is taken (rules/clock_methods). Invariant: what
is set is a time out of a fresh reading, never an amount, so nothing is ever added twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hostagent.core.clock import (
    ANSWERED,
    ClockReading,
    Exchange,
    Method,
    NoAnswer,
    Question,
    Read,
    Refusal,
)
from hostagent.core.plan import PlannedGuest
from hostagent.rules.clock_methods import Exhausted, set_again
from hostagent.rules.clock_reading import READS, best
from hostagent.rules.clock_talk import MS, Talk

S = 1000 * MS
THRESHOLD_NS = 5 * MS
"""A clock that is off by less is left to the guest's own time daemon."""
TARGET_NS = MS // 2
"""Once guest-set-time sets it at all, a clock is brought this near, or as near as it can be read;
`date` in a guest takes some milliseconds more or less each time."""
AHEAD_NS = 2 * MS
"""A clock that a set has left ahead by less than this stays so: stepping back is worse for a guest
than two milliseconds."""
COARSE_NS = 30 * MS
"""`date` in a guest is a fork and an exec, which take some 10 ms more or less: what it has set
counts as right within this, after four tries to do better."""
UNSURE_NS = 100 * MS
"""A reading that is less certain proves nothing: the agent, or the host, is too slow."""
HALF_A_DAY_NS = 12 * 3600 * S
"""A clock that is off by so much is off on purpose: no pause and no drift makes that."""
ADJUSTMENT_S = 2
"""libvirt's adjustment of a `variable` clock up to this is no purpose: an RTC has whole seconds,
and a guest's own hwclock moves it by that much."""
MOST_SETS = 4

_RETRYABLE = frozenset(
    {Refusal.NOT_CONNECTED, Refusal.NO_ANSWER, Refusal.LIBVIRT, Refusal.FROZEN, Refusal.FAILED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockTask:
    """What is wanted of one guest's clock; JSON primitives only, it travels in a step's args.

    `keep_ns` is the offset that it should have: 0, or for a clock that is wrong on purpose
    (`purpose` says why) the one from before the pause. `spare_rtc`: libvirt stores what is written
    to this guest's RTC, so only methods that leave the RTC alone may set the clock. `only_read`:
    wrong on purpose, and what offset to keep is not known: measured, never set. `trusted`: a clock
    that is half a day off is nevertheless to be set: it was not before, or somebody says so.
    """

    keep_ns: int = 0
    purpose: str = ""
    spare_rtc: bool = False
    only_read: bool = False
    trusted: bool = False
    threshold_ns: int = THRESHOLD_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockVerdict:
    """How it ended. `synced` is None where nothing was to be set. `first` and `last` are the best
    readings before the first and after the last set. `answered`: the agent said anything at all.
    `again`: worth one more try at the end (it was busy, away or hung)."""

    synced: bool | None
    reason: str = ""
    method: str = ""
    first: ClockReading | None = None
    last: ClockReading | None = None
    sets: int = 0
    answered: bool = False
    again: bool = False


def task(
    guest: PlannedGuest,
    before_ns: int | None,
    *,
    threshold_ns: int = THRESHOLD_NS,
    force: bool = False,
) -> ClockTask:
    """What is wanted of this guest's clock; `before_ns` is its offset from before the pause."""
    if force:
        return ClockTask(threshold_ns=threshold_ns, trusted=True)
    purpose = _purpose(guest, before_ns)
    return ClockTask(
        keep_ns=before_ns if purpose and before_ns is not None else 0,
        purpose=purpose,
        spare_rtc=bool(purpose) and guest.clock.offset == "variable",
        only_read=bool(purpose) and before_ns is None,
        trusted=before_ns is not None,
        threshold_ns=threshold_ns,
    )


def _purpose(guest: PlannedGuest, before_ns: int | None) -> str:
    if guest.clock.offset == "absolute":
        return "libvirt's clock offset is 'absolute'"
    if guest.clock.offset == "variable" and abs(guest.clock.adjustment_s) > ADJUSTMENT_S:
        return f"libvirt's clock offset is 'variable', adjusted by {guest.clock.adjustment_s} s"
    if before_ns is not None and abs(before_ns) >= HALF_A_DAY_NS:
        return f"it was off by {before_ns / 1e9:+.0f} s before"
    return ""


def next(task: ClockTask, history: Sequence[Exchange], left_ns: int) -> Question | ClockVerdict:
    """The next question for the guest's agent, or the verdict. `left_ns`: time that is left."""
    talk = Talk(history=tuple(history))
    refused = talk.refused
    if refused is not None and not talk.may_go_on:
        return _unread(task, talk, refused)
    reading = best(talk.readings)
    if reading is None or (left_ns and _wants_another(talk)):
        return Read()
    return _judge(task, talk, reading, left_ns)


def _wants_another(talk: Talk) -> bool:
    """A slow agent is not asked three times; one that has just said nonsense is asked anew."""
    slow = any(reading.uncertainty_ns > UNSURE_NS for reading in talk.readings)
    return len(talk.readings) < READS and not slow


def _judge(
    task: ClockTask, talk: Talk, reading: ClockReading, left_ns: int
) -> Question | ClockVerdict:
    residual_ns = reading.offset_ns - task.keep_ns
    left_alone = _left_alone(task, talk, residual_ns)
    if left_alone:
        return _verdict(talk, None, left_alone)
    if _is_near(task, talk, reading, residual_ns):
        return _sure(task, talk, reading)
    if talk.sets >= MOST_SETS:
        return _did_not_hold(task, talk, reading)
    move = set_again(talk, keep_ns=task.keep_ns, spare_rtc=task.spare_rtc, left_ns=left_ns)
    if not isinstance(move, Exhausted):
        return move
    if _within(task, reading, residual_ns):
        return _sure(task, talk, reading)
    if talk.sets and not move.reason:
        return _did_not_hold(task, talk, reading)
    reason = move.reason or f"it is off by {_s(residual_ns)}, and there was no time to set it"
    return _verdict(talk, False, reason, again=not move.reason)


def _left_alone(task: ClockTask, talk: Talk, residual_ns: int) -> str:
    """Why a clock that is wrong on purpose is only read; empty where it is to be set."""
    if task.only_read:
        return f"wrong on purpose ({task.purpose}): left alone; --force sets it to the host's time"
    if not task.trusted and not talk.sets and abs(residual_ns) >= HALF_A_DAY_NS:
        off = f"it is off by {residual_ns / 1e9:+.0f} s"
        return f"wrong on purpose ({off}): left alone; --force sets it to the host's time"
    return ""


def _is_near(task: ClockTask, talk: Talk, reading: ClockReading, residual_ns: int) -> bool:
    """Near enough to leave it: before any set by the threshold, after one by the target."""
    if not talk.sets:
        return _within(task, reading, residual_ns)
    if 0 < residual_ns - reading.uncertainty_ns <= AHEAD_NS:
        return True
    precise = talk.method == Method.AGENT
    target_ns = TARGET_NS if precise else task.threshold_ns
    return abs(residual_ns) <= max(target_ns, reading.uncertainty_ns)


def _within(task: ClockTask, reading: ClockReading, residual_ns: int) -> bool:
    return abs(residual_ns) <= max(task.threshold_ns, reading.uncertainty_ns)


def _sure(task: ClockTask, talk: Talk, reading: ClockReading) -> ClockVerdict:
    """It is right, as far as that reading can tell."""
    if reading.uncertainty_ns > UNSURE_NS:
        reason = (
            f"its agent is too slow to be sure: it can only be read to {_s(reading.uncertainty_ns)}"
        )
        return _verdict(talk, False, reason, again=True)
    reasons = [talk.complaint]
    if task.purpose:
        reasons.append(f"wrong on purpose ({task.purpose}): its offset is kept")
    return _verdict(talk, True, "; ".join(reason for reason in reasons if reason))


def _did_not_hold(task: ClockTask, talk: Talk, reading: ClockReading) -> ClockVerdict:
    residual_ns = reading.offset_ns - task.keep_ns
    coarse = talk.method in (Method.DATE, Method.DATE_SECONDS) and abs(residual_ns) <= COARSE_NS
    if coarse or _within(task, reading, residual_ns):
        return _sure(task, talk, reading)
    reason = (
        f"set {talk.sets} times, it is off by {_s(residual_ns)} all the same: "
        "something else sets this clock, or it runs unevenly"
    )
    return _verdict(talk, False, reason)


def _unread(task: ClockTask, talk: Talk, refused: NoAnswer) -> ClockVerdict:
    """The agent gave no answer to go on with: what was read before decides, if it can."""
    reading = best(talk.readings)
    if reading is not None and isinstance(talk.history[-1].question, Read):
        residual_ns = reading.offset_ns - task.keep_ns
        if not _left_alone(task, talk, residual_ns) and _within(task, reading, residual_ns):
            return _sure(task, talk, reading)
    reason = refused.reason
    if talk.sets:
        reason = f"it was set, but could not be read afterwards: {refused.reason}"
    if talk.is_outstanding:
        reason = f"{refused.reason}; a set is outstanding and may still take effect, too late"
    return _verdict(talk, False, reason, again=refused.refusal in _RETRYABLE)


def _verdict(talk: Talk, synced: bool | None, reason: str, *, again: bool = False) -> ClockVerdict:
    return ClockVerdict(
        synced=synced,
        reason=reason,
        method=talk.method,
        first=best(talk.readings_before),
        last=best(talk.readings) if talk.sets else None,
        sets=talk.sets,
        answered=any(_came_from_agent(exchange) for exchange in talk.history),
        again=again,
    )


def _came_from_agent(exchange: Exchange) -> bool:
    answer = exchange.answer
    return not isinstance(answer, NoAnswer) or answer.refusal in ANSWERED


def _s(value_ns: int) -> str:
    return f"{value_ns / 1e9:.3f} s"
