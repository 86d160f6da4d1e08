"""What the exchanges with one guest's agent mean for its clock: a read-only view.

Layer: rules. Decides nothing (rules/clock, rules/clock_methods do). A reading counts for the clock
as it is only if nothing was set after it, by us or (it does not agree with the newest reading) by
anybody else. A set counts as such unless the agent refused it outright, because one that failed or
was not answered may have worked. An answer that does not fit its question is nonsense.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from hostagent.core.clock import (
    Abilities,
    Answer,
    ClockReading,
    Exchange,
    Learn,
    NoAnswer,
    Question,
    Read,
    Refusal,
    Set,
    WasSet,
)

MS = 1_000_000

UNKNOWN = frozenset({Refusal.NO_ANSWER, Refusal.LIBVIRT, Refusal.NOT_CONNECTED})
"""Refusals that do not come from the agent: what was asked of it may be done, or be done later.
NOT_CONNECTED is one, since libvirt says so too when a channel closes in the middle of a call."""

MAY_HAVE_WORKED = UNKNOWN | {Refusal.FAILED, Refusal.NONSENSE}
"""Refusals after which only a reading tells whether the clock was set."""

RECENT_NS = 500 * MS
"""A reading that is older than the newest by more says less than its uncertainty: clocks drift, by
500 ppm at most where a kernel steers them (NTP's limit), which makes 0.25 ms of that time."""

DRIFT = 1000
"""Two readings may differ by this part (1/1000) of the time between them, beyond what is uncertain:
twice NTP's limit."""

MOST_NONSENSE = 1
"""So often an agent may answer a question for the time with something that is none."""


@dataclass(frozen=True)
class Talk:
    """The view. Not slotted: its properties are cached."""

    history: tuple[Exchange, ...]

    @cached_property
    def set_exchanges(self) -> tuple[tuple[int, Set, Exchange], ...]:
        """Sets that took effect or may have, with their places in the history."""
        return tuple(
            (place, exchange.question, exchange)
            for place, exchange in enumerate(self.history)
            if isinstance(exchange.question, Set) and _may_have_set(exchange)
        )

    @property
    def sets(self) -> int:
        """How many of them."""
        return len(self.set_exchanges)

    @property
    def method(self) -> str:
        """How the clock was set last, or may have been; empty where it was not."""
        return str(self.set_exchanges[-1][1].method) if self.set_exchanges else ""

    @cached_property
    def readings(self) -> tuple[ClockReading, ...]:
        """Readings since the last set: what the clock shows now."""
        return alike(self._since_set)

    @property
    def reads(self) -> int:
        """How often it was read since the last set, whatever came of it."""
        return len(self._since_set)

    @cached_property
    def readings_before(self) -> tuple[ClockReading, ...]:
        """Readings before the first set."""
        until = self.set_exchanges[0][0] if self.set_exchanges else len(self.history)
        return alike(self._readings(0, until))

    @property
    def refused(self) -> NoAnswer | None:
        """Why the last question has no answer, if it has none."""
        return _refusal(self.history[-1]) if self.history else None

    @property
    def may_go_on(self) -> bool:
        """Whether something else may be asked after the refusal of the last question."""
        last, refused = self.history[-1], self.refused
        if refused is None:
            return True
        if isinstance(last.question, Read):
            nonsense = refused.refusal is Refusal.NONSENSE
            return nonsense and self._nonsense <= MOST_NONSENSE
        if isinstance(last.question, Set):
            return refused.refusal in (*MAY_HAVE_WORKED, Refusal.DISABLED)
        return refused.refusal in (Refusal.DISABLED, Refusal.FAILED, Refusal.NONSENSE)

    @property
    def is_outstanding(self) -> bool:
        """Whether the last set was never answered: it may still take effect."""
        if not self.set_exchanges or self.readings:
            return False
        complaint = self.complaint
        return complaint is not None and complaint.refusal in UNKNOWN

    @property
    def complaint(self) -> NoAnswer | None:
        """How the last set was refused, though it may have worked."""
        return _refusal(self.set_exchanges[-1][2]) if self.set_exchanges else None

    @property
    def learned(self) -> Abilities | NoAnswer | None:
        """Which commands the agent offers, or why that is not known; None if it was not asked."""
        for exchange in self.history:
            if isinstance(exchange.question, Learn):
                answer = exchange.answer
                return answer if isinstance(answer, Abilities) else _refusal(exchange)
        return None

    def readings_after(self, place: int) -> tuple[ClockReading, ...]:
        """Readings between the set at this place and the next."""
        later = [other for other, _, _ in self.set_exchanges if other > place]
        return alike(self._readings(place + 1, min(later, default=len(self.history))))

    def readings_until(self, place: int) -> tuple[ClockReading, ...]:
        """Readings between the set before this place and the one there."""
        earlier = [other for other, _, _ in self.set_exchanges if other < place]
        return alike(self._readings(max(earlier, default=-1) + 1, place))

    @cached_property
    def _since_set(self) -> tuple[ClockReading, ...]:
        since = self.set_exchanges[-1][0] if self.set_exchanges else -1
        return self._readings(since + 1, len(self.history))

    @property
    def _nonsense(self) -> int:
        refusals = [_refusal(each) for each in self.history if isinstance(each.question, Read)]
        return sum(
            refused is not None and refused.refusal is Refusal.NONSENSE for refused in refusals
        )

    def _readings(self, since: int, until: int) -> tuple[ClockReading, ...]:
        return tuple(
            exchange.answer
            for exchange in self.history[since:until]
            if isinstance(exchange.question, Read) and isinstance(exchange.answer, ClockReading)
        )


def alike(readings: Sequence[ClockReading]) -> tuple[ClockReading, ...]:
    """Those that speak of the clock as the newest found it: recent, and not stepped since."""
    return tuple(reading for reading in readings if _agree(reading, readings[-1]))


def _agree(reading: ClockReading, newest: ClockReading) -> bool:
    age_ns = newest.at_ns - reading.at_ns
    apart_ns = abs(newest.offset_ns - reading.offset_ns)
    sure_ns = reading.uncertainty_ns + newest.uncertainty_ns
    return age_ns <= RECENT_NS and apart_ns <= sure_ns + age_ns // DRIFT


def _refusal(exchange: Exchange) -> NoAnswer | None:
    answer = exchange.answer
    if isinstance(answer, NoAnswer) or _fits(exchange.question, answer):
        return answer if isinstance(answer, NoAnswer) else None
    reason = "its agent's answer does not fit the question"
    return NoAnswer(refusal=Refusal.NONSENSE, reason=reason)


def _fits(question: Question, answer: Answer) -> bool:
    match question:
        case Read():
            return isinstance(answer, ClockReading)
        case Set():
            return isinstance(answer, WasSet)
        case Learn():
            return isinstance(answer, Abilities)


def _may_have_set(exchange: Exchange) -> bool:
    refused = _refusal(exchange)
    return refused is None or refused.refusal in MAY_HAVE_WORKED
