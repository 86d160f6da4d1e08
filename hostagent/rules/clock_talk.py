"""What the exchanges with one guest's agent mean for its clock: a read-only view.

Layer: rules. Decides nothing (rules/clock, rules/clock_methods do). A reading counts for the clock
as it is only if nothing was set after it; a set counts as such unless the agent refused it
outright, because one that failed or was not answered may have worked.
"""

from dataclasses import dataclass
from functools import cached_property

from hostagent.core.clock import ClockReading, Exchange, NoAnswer, Read, Refusal, Set

MS = 1_000_000

MAY_HAVE_WORKED = frozenset({Refusal.FAILED, Refusal.NO_ANSWER, Refusal.LIBVIRT, Refusal.NONSENSE})
"""Refusals after which only a reading tells whether the clock was set."""

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
        """How the clock was set last; empty where it was not."""
        return str(self.set_exchanges[-1][1].method) if self.set_exchanges else ""

    @cached_property
    def readings(self) -> tuple[ClockReading, ...]:
        """Readings since the last set: what the clock shows now."""
        since = self.set_exchanges[-1][0] if self.set_exchanges else -1
        return self._readings(since + 1, len(self.history))

    @cached_property
    def readings_before(self) -> tuple[ClockReading, ...]:
        """Readings before the first set."""
        until = self.set_exchanges[0][0] if self.set_exchanges else len(self.history)
        return self._readings(0, until)

    @property
    def refused(self) -> NoAnswer | None:
        """Why the last question has no answer, if it has none."""
        answer = self.history[-1].answer if self.history else None
        return answer if isinstance(answer, NoAnswer) else None

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
        answer = self.set_exchanges[-1][2].answer
        return isinstance(answer, NoAnswer) and answer.refusal in (
            Refusal.NO_ANSWER,
            Refusal.LIBVIRT,
        )

    @property
    def complaint(self) -> str:
        """What the agent had to say of the last set, though it worked."""
        answer = self.set_exchanges[-1][2].answer if self.set_exchanges else None
        return answer.reason if isinstance(answer, NoAnswer) else ""

    def readings_after(self, place: int) -> tuple[ClockReading, ...]:
        """Readings between the set at this place and the next."""
        later = [other for other, _, _ in self.set_exchanges if other > place]
        return self._readings(place + 1, min(later, default=len(self.history)))

    def readings_until(self, place: int) -> tuple[ClockReading, ...]:
        """Readings between the set before this place and the one there."""
        earlier = [other for other, _, _ in self.set_exchanges if other < place]
        return self._readings(max(earlier, default=-1) + 1, place)

    @property
    def _nonsense(self) -> int:
        return sum(
            isinstance(exchange.question, Read)
            and isinstance(exchange.answer, NoAnswer)
            and exchange.answer.refusal is Refusal.NONSENSE
            for exchange in self.history
        )

    def _readings(self, since: int, until: int) -> tuple[ClockReading, ...]:
        answers = (exchange.answer for exchange in self.history[since:until])
        return tuple(answer for answer in answers if isinstance(answer, ClockReading))


def _may_have_set(exchange: Exchange) -> bool:
    answer = exchange.answer
    return not isinstance(answer, NoAnswer) or answer.refusal in MAY_HAVE_WORKED
