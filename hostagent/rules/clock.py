"""One guest's clock: what it should show, how it gets there, and how sure that is.

Layer: rules. `next()` reads the exchanges with the guest's agent so far and gives the next question
or the verdict; it keeps nothing and waits for nothing (work/steps/clock asks the questions).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hostagent.core.clock import ClockReading, Exchange, Question
from hostagent.core.plan import PlannedGuest

MS = 1_000_000
THRESHOLD_NS = 5 * MS
"""A clock that is off by less is left to the guest's own time daemon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockTask:
    """What is wanted of one guest's clock; JSON primitives only, it travels in a step's args.

    `keep_ns` is the offset that it should have: 0, or for a clock that is wrong on purpose
    (`purpose` says why) the one from before the pause. `spare_rtc`: libvirt stores what is written
    to this guest's RTC, so only methods that leave the RTC alone may set the clock. `only_read`:
    wrong on purpose, and what offset to keep is not known: measured, never set.
    """

    keep_ns: int = 0
    purpose: str = ""
    spare_rtc: bool = False
    only_read: bool = False
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
    raise NotImplementedError


def next(task: ClockTask, history: Sequence[Exchange], left_ns: int) -> Question | ClockVerdict:
    """The next question for the guest's agent, or the verdict. `left_ns`: time that is left."""
    raise NotImplementedError
