"""One guest's clock: what it should show, how it gets there, and how sure that is.

Layer: rules. `next()` reads the exchanges with the guest's agent so far and gives the next question
or the verdict; it keeps nothing and waits for nothing (work/steps/clock asks the questions).

How it thinks. Read the clock a few times and take the best reading. If it is off, set it to a time
that makes up for the way there, read it again, and repeat with what the last set taught, until it
is right or four sets have not made it so. A set that reports an error may have worked, so only a
reading judges. Where one method is refused the next is taken (rules/clock_methods).

Invariants: what is set is a time out of a fresh reading, never an amount, so nothing is ever added
twice. A clock is called right only if the newest reading agrees. There are at most 24 questions,
whatever the answers are.
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
from hostagent.rules.clock_methods import Exhausted, methods, set_again
from hostagent.rules.clock_reading import READS, best
from hostagent.rules.clock_talk import MS, Talk

S = 1000 * MS
THRESHOLD_NS = 5 * MS
"""A clock that is off by less is left to the guest's own time daemon."""
TARGET_NS = MS // 2
"""Once guest-set-time sets it at all, a clock is brought this near, or as near as it can be read;
`date` in a guest takes some milliseconds more or less each time."""
AHEAD_NS = MS
"""A clock that a set has left ahead by less than this, but within the threshold, stays so: stepping
back is worse for a guest than a millisecond."""
COARSE_NS = 30 * MS
"""`date` in a guest is a fork and an exec, which take some 10 ms more or less: what it has set
counts as right within this, after four tries to do better."""
UNSURE_NS = 100 * MS
"""A reading that is less certain proves nothing: the agent, or the host, is too slow. One like that
is not repeated: a hanging agent would take 2 s each time."""
SHORT_NS = 50 * MS
"""With less time left one reading has to do."""
HALF_A_DAY_NS = 12 * 3600 * S
"""A clock that is off by so much is off on purpose: no pause and no drift makes that."""
ADJUSTMENT_S = 2
"""libvirt's adjustment of a `variable` clock up to this is no purpose: an RTC has whole seconds,
and a guest's own hwclock moves it by that much."""
MOST_SETS = 4
UNHELD = "something else sets this clock, or it runs unevenly"

_RETRYABLE = frozenset(
    {Refusal.NOT_CONNECTED, Refusal.NO_ANSWER, Refusal.LIBVIRT, Refusal.FROZEN, Refusal.FAILED}
)
"""Worth one more try at the end."""
_GONE = frozenset({Refusal.NOT_RUNNING, Refusal.NO_AGENT})
"""What was read before is not true of this guest any more."""


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
    readings before the first and after the last set; `sets` and `method` count those that may have
    worked. `answered`: the agent said anything at all. `again`: worth one more try at the end (it
    was busy, away or hung)."""

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
        return f"it was off by {before_ns / 1e9:+.0f} s before the pause"
    return ""


def next(task: ClockTask, history: Sequence[Exchange], left_ns: int) -> Question | ClockVerdict:
    """The next question for the guest's agent, or the verdict. `left_ns`: time that is left. With
    none left it ends as soon as the last question counts as unanswered."""
    talk = Talk(history=tuple(history))
    reading = best(talk.readings)
    refused = talk.refused
    if refused is not None and not talk.may_go_on:
        return _cut_short(task, talk, reading, refused)
    if reading is None or (left_ns >= SHORT_NS and _wants_another(talk)):
        return Read()
    return _judge(task, talk, reading, left_ns)


def _wants_another(talk: Talk) -> bool:
    slow = any(reading.uncertainty_ns > UNSURE_NS for reading in talk.readings)
    return talk.reads < READS and not slow


def _judge(
    task: ClockTask, talk: Talk, reading: ClockReading, left_ns: int
) -> Question | ClockVerdict:
    left_alone = _left_alone(task, talk, reading)
    if left_alone:
        return _verdict(talk, None, left_alone)
    if _is_near(task, talk, reading):
        return _right(task, talk, reading)
    move = _set_again(task, talk, reading, left_ns)
    if not isinstance(move, Exhausted):
        return move
    if _within(task, reading):
        return _right(task, talk, reading)
    if _is_coarse(task, talk, reading):
        but = f"it is off by {_off(task, reading)}: `date` in the guest does no better"
        return _right(task, talk, reading, but=but)
    return _wrong(task, talk, reading, move)


def _set_again(
    task: ClockTask, talk: Talk, reading: ClockReading, left_ns: int
) -> Question | Exhausted:
    """Within the threshold a set is only refined: that is not worth another way to set it."""
    if talk.sets >= MOST_SETS:
        return Exhausted(reason=talk.complaint.reason if talk.complaint else UNHELD)
    ways = methods(spare_rtc=task.spare_rtc)
    if _within(task, reading):
        ways = (Method(talk.method),)
    return set_again(talk, ways, keep_ns=task.keep_ns, left_ns=left_ns)


def _left_alone(task: ClockTask, talk: Talk, reading: ClockReading) -> str:
    """Why a clock that is wrong on purpose is only read; empty where it is to be set, or is right
    all the same."""
    residual_ns = reading.offset_ns - task.keep_ns
    if task.only_read and not (_within(task, reading) and reading.uncertainty_ns <= UNSURE_NS):
        return f"wrong on purpose ({task.purpose}): left alone; --force sets it to the host's time"
    if not task.trusted and not talk.sets and abs(residual_ns) >= HALF_A_DAY_NS:
        off = f"it is off by {residual_ns / 1e9:+.0f} s"
        return f"wrong on purpose ({off}): left alone; --force sets it to the host's time"
    return ""


def _is_near(task: ClockTask, talk: Talk, reading: ClockReading) -> bool:
    """Near enough to leave it: before any set by the threshold, after one by the target."""
    if not talk.sets:
        return _within(task, reading)
    ahead_ns = reading.offset_ns - task.keep_ns
    if 0 < ahead_ns - reading.uncertainty_ns <= AHEAD_NS and _within(task, reading):
        return True
    precise = talk.method == Method.AGENT
    target_ns = min(TARGET_NS, task.threshold_ns) if precise else task.threshold_ns
    return abs(ahead_ns) <= max(target_ns, reading.uncertainty_ns)


def _within(task: ClockTask, reading: ClockReading) -> bool:
    off_ns = abs(reading.offset_ns - task.keep_ns)
    return off_ns <= max(task.threshold_ns, reading.uncertainty_ns)


def _is_coarse(task: ClockTask, talk: Talk, reading: ClockReading) -> bool:
    """Near enough for `date`, which did set it; one that was refused may have left it as it was."""
    by_date = talk.method in (Method.DATE, Method.DATE_SECONDS) and talk.complaint is None
    return by_date and abs(reading.offset_ns - task.keep_ns) <= COARSE_NS


def _right(
    task: ClockTask, talk: Talk, reading: ClockReading, *, but: str = "", again: bool = False
) -> ClockVerdict:
    """It shows what it should, as far as that reading can tell."""
    if reading.uncertainty_ns > UNSURE_NS:
        sure = _s(reading.uncertainty_ns, sign="")
        reason = f"its agent is too slow to be sure: its clock can only be read to {sure}"
        return _verdict(talk, False, reason, again=True)
    kept = f"wrong on purpose ({task.purpose}): its offset of {_s(task.keep_ns)} is kept"
    remarks = (_remark(talk), but, kept if task.purpose and not task.only_read else "")
    return _verdict(talk, True, "; ".join(filter(None, remarks)), again=again)


def _remark(talk: Talk) -> str:
    """What there is to say of a last set that worked although it was refused or not answered."""
    complaint = talk.complaint
    if complaint is None:
        return ""
    if complaint.refusal is Refusal.FAILED and talk.method == Method.AGENT:
        return f"{complaint.reason}; the clock is set all the same, its RTC may be off"
    return f"{complaint.reason}; the clock is set all the same"


def _wrong(task: ClockTask, talk: Talk, reading: ClockReading, why: Exhausted) -> ClockVerdict:
    """It was read, is off, and nothing more can be done."""
    off = f"it is off by {_off(task, reading)}"
    if not why.reason:
        again = " again" if talk.sets else ""
        return _verdict(talk, False, f"{off}, and there was no time to set it{again}", again=True)
    if talk.sets >= MOST_SETS:
        off = f"set {talk.sets} times, {off} all the same"
    return _verdict(talk, False, f"{off}: {why.reason}")


def _cut_short(
    task: ClockTask, talk: Talk, reading: ClockReading | None, refused: NoAnswer
) -> ClockVerdict:
    """The agent gave no answer to go on with: what was read before decides, if it can."""
    again = refused.refusal in _RETRYABLE
    if reading is not None and refused.refusal not in _GONE:
        left_alone = _left_alone(task, talk, reading)
        if left_alone:
            return _verdict(talk, None, left_alone)
        if _within(task, reading):
            but = f"right when last read, then: {refused.reason}"
            return _right(task, talk, reading, but=but, again=again)
    reason = refused.reason
    if talk.is_outstanding:
        reason = f"{refused.reason}; a set is outstanding and may still take effect, too late"
    elif talk.sets and reading is None:
        reason = f"it was set, but could not be read afterwards: {refused.reason}"
    return _verdict(talk, False, reason, again=again)


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


def _off(task: ClockTask, reading: ClockReading) -> str:
    return _s(reading.offset_ns - task.keep_ns)


def _s(value_ns: int, *, sign: str = "+") -> str:
    return f"{value_ns / 1e9:{sign}.3f} s"
