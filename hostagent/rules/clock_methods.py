"""Which way to set a guest's clock next, and by how much to make up for the way there.

Layer: rules. guest-set-time is first: it needs no other program and taints nothing. Where it is not
offered, or failed without effect, `date` is run in the guest: with fractions, and where that `date`
refuses them (busybox) at a whole second. A task that must spare the RTC begins with `date`, since
guest-set-time writes the RTC too. What a set left over corrects the next one of the same method.
The first guess is a small one: a clock left behind is set on, one left ahead must be stepped back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hostagent.core.clock import Exchange, Learn, Method, NoAnswer, Refusal, Set
from hostagent.rules.clock_reading import best
from hostagent.rules.clock_talk import MS, Talk

EXEC_NS = 5 * MS
"""A guess of what fork and exec take in a guest, for the first `date`; then it is learned."""
MOST_GUESSED_NS = 10 * MS
"""The most of a round trip that a first set makes up for: a long one was mostly the way back, or a
busy moment, as often as not."""
MOST_LEARNED_NS = 250 * MS
"""A set that left over more than that was not late, but not held or not done: no lesson."""
MOST_LEARNED_OF_AGENT_NS = 20 * MS
"""guest-set-time sets first and runs hwclock then: one that left over more than that met a moment
that does not come again, and its lesson would put the clock ahead by as much."""
UNFINISHED = "a `date` in the guest has not ended: it may still set the clock, too late"
HALVED_NS = 5 * MS
"""Of what a set left over up to this, half is learned: the first set of an agent that slept takes
twice as long as those after it (in the lab 2.4 ms late, then 1.2), so that the whole lesson would
put the clock ahead."""
RTC_REASON = "its RTC must be left alone"
NEEDS = ("guest-exec", "guest-exec-status")
SHORTEST_NS = {Method.AGENT: 50 * MS, Method.DATE: 200 * MS, Method.DATE_SECONDS: 1500 * MS}
"""No set is begun with less time left: it could not be read any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted:
    """No way is left, and why; without a reason it is time that is not left."""

    reason: str = ""


def methods(*, spare_rtc: bool) -> tuple[Method, ...]:
    """All ways there are, the preferred first."""
    return tuple(method for method in Method if method is not Method.AGENT or not spare_rtc)


def set_again(
    talk: Talk, ways: Sequence[Method], *, keep_ns: int, left_ns: int
) -> Set | Learn | Exhausted:
    """The next set, the question that must come before it, or that there is none of these ways."""
    reasons = [] if Method.AGENT in ways else [RTC_REASON]
    for method in ways:
        if method is not Method.AGENT and talk.learned is None:
            return Learn() if left_ns >= SHORTEST_NS[Method.AGENT] else Exhausted()
        reason = _refusal(talk, method, keep_ns)
        if reason is None:
            if left_ns < SHORTEST_NS[method]:
                return Exhausted()
            return Set(method=method, ahead_ns=keep_ns + _compensation_ns(talk, method, keep_ns))
        reasons.append(reason)
    return Exhausted(reason="; ".join(dict.fromkeys(reasons)))


def _refusal(talk: Talk, method: Method, keep_ns: int) -> str | None:
    """Why this method is out; None where it may be tried."""
    learned = talk.learned if method is not Method.AGENT else None
    if isinstance(learned, NoAnswer):
        return f"what else its agent offers can't be learned: {learned.reason}"
    if learned is not None:
        missing = [name for name in NEEDS if name not in learned.enabled]
        if missing:
            return f"{missing[0]} is disabled in the guest"
    for place, exchange in enumerate(talk.history):
        question, answer = exchange.question, exchange.answer
        if not isinstance(question, Set):
            continue
        if method is not Method.AGENT and _is_unfinished(exchange):
            return UNFINISHED
        if question.method is not method:
            continue
        if isinstance(answer, NoAnswer) and not _worked(talk, place, answer, keep_ns):
            return answer.reason
    return None


def _is_unfinished(exchange: Exchange) -> bool:
    """Programs in a guest are not run one after the other, as an agent's commands are: one that
    was given up may set the clock behind the next one."""
    question, answer = exchange.question, exchange.answer
    by_date = isinstance(question, Set) and question.method is not Method.AGENT
    hangs = isinstance(answer, NoAnswer) and answer.refusal is Refusal.NO_ANSWER
    return by_date and hangs


def _worked(talk: Talk, place: int, answer: NoAnswer, keep_ns: int) -> bool:
    """Whether a set that was refused or not answered has set the clock nevertheless, or may do so
    when it is repeated."""
    if answer.refusal is not Refusal.FAILED:
        return answer.refusal is not Refusal.DISABLED
    return _had_effect(talk, place, keep_ns)


def _had_effect(talk: Talk, place: int, keep_ns: int) -> bool:
    """Whether the readings on both sides of a set show that it set the clock: no more is left than
    a late set leaves, and at most half of before."""
    before, after = best(talk.readings_until(place)), best(talk.readings_after(place))
    if before is None or after is None:
        return False
    left_over_ns = abs(after.offset_ns - keep_ns)
    return left_over_ns <= min(MOST_LEARNED_NS, abs(before.offset_ns - keep_ns) // 2)


def _compensation_ns(talk: Talk, method: Method, keep_ns: int) -> int:
    """What is added for the time from our clock to the guest's. A set that was not answered and
    did nothing teaches nothing: what it left over would put the next one ahead."""
    for place, question, exchange in reversed(talk.set_exchanges):
        reading = best(talk.readings_after(place))
        if question.method is not method or reading is None:
            continue
        if isinstance(exchange.answer, NoAnswer) and not _had_effect(talk, place, keep_ns):
            continue
        residual_ns = reading.offset_ns - keep_ns
        most_ns = MOST_LEARNED_OF_AGENT_NS if method is Method.AGENT else MOST_LEARNED_NS
        if abs(residual_ns) <= most_ns:
            lesson_ns = residual_ns // 2 if abs(residual_ns) <= HALVED_NS else residual_ns
            learned_ns = question.ahead_ns - keep_ns - lesson_ns
            return min(max(learned_ns, 0), MOST_LEARNED_NS)
    every = best([*talk.readings_before, *talk.readings])
    half_trip_ns = min(every.uncertainty_ns, MOST_GUESSED_NS) if every is not None else 0
    return half_trip_ns + (0 if method is Method.AGENT else EXEC_NS)
