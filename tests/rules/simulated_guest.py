"""A guest with a clock and an agent, simulated: nothing real can be made to answer so unevenly.

The host's wall clock and its monotonic clock are one number here (`now_ns`). The guest's clock is
that number plus `offset_ns`, and drifts. Each question takes three delays: the way there, the work
inside, the way back; what the host makes of an answer is computed as adapters/libvirt/agent does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from hostagent.core.clock import (
    Abilities,
    Answer,
    ClockReading,
    Exchange,
    Learn,
    Method,
    NoAnswer,
    Question,
    Read,
    Refusal,
    Set,
    WasSet,
)
from hostagent.rules import clock
from hostagent.rules.clock import ClockTask, ClockVerdict

MS = 1_000_000
S = 1000 * MS
MOST_QUESTIONS = 24
UNANSWERED = NoAnswer(refusal=Refusal.NO_ANSWER, reason="its agent does not answer in time")
ALL = frozenset({"guest-get-time", "guest-set-time", "guest-exec", "guest-exec-status"})


@dataclass(frozen=True)
class Delays:
    """What one question takes: there, inside, back, and running a program."""

    there_ns: int = MS // 4
    inside_ns: int = MS // 4
    back_ns: int = MS // 4
    exec_ns: int = 5 * MS


@dataclass(frozen=True)
class Way:
    """What comes of setting by one method: whether it takes effect, and the refusal, if any."""

    works: bool = True
    refusal: Refusal | None = None


@dataclass
class SimulatedGuest:
    """`delays` repeat. `between` is called before each question: something else in the guest."""

    offset_ns: int = -2 * S
    delays: Sequence[Delays] = (Delays(),)
    drift_ppm: int = 0
    ways: Mapping[Method, Way] = field(default_factory=dict)
    enabled: frozenset[str] = ALL
    between: Callable[["SimulatedGuest", int], None] = lambda _guest, _number: None
    now_ns: int = 1_700_000_000 * S
    asked: list[Question] = field(default_factory=list)
    true_offsets_ns: list[tuple[ClockReading, int]] = field(default_factory=list)

    def pass_ns(self, length_ns: int) -> None:
        self.now_ns += length_ns
        self.offset_ns += length_ns * self.drift_ppm // 1_000_000

    def ask(self, question: Question) -> Answer:
        number = len(self.asked)
        self.between(self, number)
        delays = self.delays[number % len(self.delays)]
        self.asked.append(question)
        match question:
            case Read():
                return self._read(delays)
            case Set():
                return self._set(question, delays)
            case Learn():
                self.pass_ns(delays.there_ns + delays.back_ns)
                return Abilities(enabled=self.enabled)

    def _read(self, delays: Delays) -> ClockReading:
        called_ns = self.now_ns
        self.pass_ns(delays.there_ns)
        guest_ns, true_ns = self.now_ns + self.offset_ns, self.offset_ns
        self.pass_ns(delays.inside_ns + delays.back_ns)
        trip_ns = self.now_ns - called_ns
        half_ns = trip_ns // 2
        reading = ClockReading(
            at_ns=called_ns + half_ns,
            offset_ns=guest_ns - (called_ns + half_ns),
            behind_ns=called_ns + half_ns - guest_ns,
            uncertainty_ns=trip_ns - half_ns + 1,
        )
        self.true_offsets_ns.append((reading, true_ns))
        return reading

    def _set(self, question: Set, delays: Delays) -> WasSet | NoAnswer:
        way = self.ways.get(question.method, Way())
        if question.method is Method.DATE_SECONDS:
            self.pass_ns(-(self.now_ns + question.ahead_ns) % S)
        wanted_ns = self.now_ns + question.ahead_ns
        if question.method is not Method.AGENT:
            self.pass_ns(delays.exec_ns)
        self.pass_ns(delays.there_ns)
        if way.works:
            self.offset_ns = wanted_ns - self.now_ns
        self.pass_ns(delays.inside_ns + delays.back_ns)
        if way.refusal is None:
            return WasSet(at_ns=self.now_ns)
        return NoAnswer(refusal=way.refusal, reason=f"{question.method}: {way.refusal}")


def converse(
    task: ClockTask, ask: Callable[[Question], Answer], left_ns: int = 10 * S
) -> tuple[ClockVerdict, list[Exchange]]:
    """The whole conversation; it must come to an end."""
    history: list[Exchange] = []
    for number in count():
        move = clock.next(task, history, left_ns)
        if isinstance(move, ClockVerdict):
            return move, history
        assert number < MOST_QUESTIONS, f"no end after {number} questions"
        history.append(Exchange(question=move, answer=ask(move)))


def given_up(task: ClockTask, history: Sequence[Exchange]) -> ClockVerdict:
    """The end without time: what would be asked next has no answer (work/conversations)."""
    asked = list(history)
    for _ in range(3):
        move = clock.next(task, asked, 0)
        if isinstance(move, ClockVerdict):
            return move
        asked.append(Exchange(question=move, answer=UNANSWERED))
    raise AssertionError("it goes on without time")
