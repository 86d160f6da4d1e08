"""One guest's clock, whatever the delays, whatever the agent says, whoever else sets it.

What must always be true: it comes to an end; a reading's uncertainty covers the truth; a clock that
is called right is right as far as that uncertainty says; nothing is ever added twice.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

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
from hostagent.rules.clock import COARSE_NS, HALF_A_DAY_NS, UNSURE_NS, ClockTask, ClockVerdict
from hostagent.rules.clock_methods import MOST_LEARNED_NS
from tests.rules.simulated_guest import (
    ALL,
    MS,
    Delays,
    S,
    SimulatedGuest,
    Way,
    converse,
    given_up,
)

EXAMPLES = settings(max_examples=int(os.environ.get("HOSTAGENT_EXAMPLES", "300")), deadline=None)
DRIFT_PPM = 100
DRIFTED_NS = MS // 2
"""A clock that drifts is further off at the end than when it was read best."""

TASK = ClockTask(trusted=True)
LEGS = st.sampled_from([0, 1000, MS // 10, MS, 3 * MS, 20 * MS, 90 * MS]) | st.integers(0, 30 * MS)
DELAYS = st.lists(
    st.builds(
        Delays,
        there_ns=LEGS,
        inside_ns=LEGS,
        back_ns=LEGS,
        exec_ns=st.integers(MS, 60 * MS),
    ),
    min_size=1,
    max_size=7,
)
QUICK = st.integers(0, MS)
QUICK_DELAYS = st.lists(
    st.builds(Delays, there_ns=QUICK, inside_ns=QUICK, back_ns=QUICK), min_size=1, max_size=7
)
PAUSES = st.integers(-20 * S, 20 * S) | st.sampled_from(
    [-2 * S, -6 * MS, -4 * MS, 0, -13 * 3600 * S]
)
DRIFTS = st.integers(-DRIFT_PPM, DRIFT_PPM)
THRESHOLDS = st.sampled_from([5 * MS, MS, 20 * MS, 100 * MS, 0])


def far(task: ClockTask, verdict: ClockVerdict, reading: ClockReading) -> int:
    """How far off a clock may be read that is called right."""
    coarse = verdict.sets and verdict.method != Method.AGENT
    return max(task.threshold_ns, reading.uncertainty_ns, COARSE_NS if coarse else 0)


def check(task: ClockTask, verdict: ClockVerdict, guest: SimulatedGuest) -> None:
    """What is true of every honest agent."""
    truths = dict(guest.true_offsets_ns)
    for each, true_ns in truths.items():
        assert abs(each.offset_ns - true_ns) <= each.uncertainty_ns
    if verdict.synced is not True:
        return
    reading = verdict.last if verdict.sets else verdict.first
    assert reading is not None
    assert reading.uncertainty_ns <= UNSURE_NS
    far_ns = far(task, verdict, reading)
    assert abs(reading.offset_ns - task.keep_ns) <= far_ns
    off_ns = abs(guest.offset_ns - task.keep_ns)
    assert off_ns <= far_ns + reading.uncertainty_ns + DRIFTED_NS


@EXAMPLES
@given(delays=DELAYS, offset_ns=PAUSES, drift_ppm=DRIFTS, threshold_ns=THRESHOLDS)
def test_what_is_called_right_is_right(
    delays: list[Delays], offset_ns: int, drift_ppm: int, threshold_ns: int
) -> None:
    task = ClockTask(trusted=True, threshold_ns=threshold_ns)
    guest = SimulatedGuest(offset_ns=offset_ns, delays=delays, drift_ppm=drift_ppm)
    verdict, _ = converse(task, guest.ask)
    check(task, verdict, guest)


@EXAMPLES
@given(delays=QUICK_DELAYS, offset_ns=PAUSES, drift_ppm=DRIFTS)
def test_a_quick_agents_clock_is_brought_right(
    delays: list[Delays], offset_ns: int, drift_ppm: int
) -> None:
    guest = SimulatedGuest(offset_ns=offset_ns, delays=delays, drift_ppm=drift_ppm)
    verdict, _ = converse(TASK, guest.ask)
    check(TASK, verdict, guest)
    assert verdict.synced is True
    assert verdict.sets == 0 or abs(guest.offset_ns) <= 3 * MS


WAYS = st.builds(
    Way,
    works=st.booleans(),
    refusal=st.sampled_from(
        [
            None,
            Refusal.FAILED,
            Refusal.FAILED,
            Refusal.DISABLED,
            Refusal.NO_ANSWER,
            Refusal.LIBVIRT,
            Refusal.NONSENSE,
            Refusal.NOT_CONNECTED,
            Refusal.FROZEN,
        ]
    ),
).filter(lambda way: not (way.works and way.refusal in (Refusal.DISABLED, Refusal.FROZEN)))


@EXAMPLES
@given(
    delays=DELAYS,
    offset_ns=PAUSES,
    ways=st.dictionaries(st.sampled_from(Method), WAYS, min_size=1),
    enabled=st.sampled_from([ALL, ALL, ALL - {"guest-exec"}, frozenset()]),
    spare_rtc=st.booleans(),
    keep_ns=st.sampled_from([0, 0, 77 * S, -5 * HALF_A_DAY_NS]),
)
def test_whatever_way_works_or_pretends_to(
    delays: list[Delays],
    offset_ns: int,
    ways: dict[Method, Way],
    enabled: frozenset[str],
    spare_rtc: bool,
    keep_ns: int,
) -> None:
    task = ClockTask(keep_ns=keep_ns, purpose="p", spare_rtc=spare_rtc, trusted=True)
    guest = SimulatedGuest(offset_ns=keep_ns + offset_ns, delays=delays, ways=ways, enabled=enabled)
    verdict, history = converse(task, guest.ask)
    check(task, verdict, guest)
    assert verdict.synced or verdict.reason
    used = [each.question.method for each in history if isinstance(each.question, Set)]
    by_program = [method for method in used if method is not Method.AGENT]
    assert not (spare_rtc and Method.AGENT in used)
    assert not by_program or "guest-exec" in enabled
    assert guest.asked.count(Learn()) <= 1
    for method, way in ways.items():
        assert way.refusal is not Refusal.DISABLED or used.count(method) <= 1


class Corrector:
    """The guest's own time daemon, which steps before these questions: to the right time, or by
    what it had measured before."""

    def __init__(self, moments: set[int], jump_ns: int | None) -> None:
        self.moments = moments
        self.jump_ns = jump_ns

    def __call__(self, guest: SimulatedGuest, number: int) -> None:
        if number in self.moments:
            guest.offset_ns = 0 if self.jump_ns is None else guest.offset_ns + self.jump_ns


@EXAMPLES
@given(
    delays=QUICK_DELAYS,
    pause_ns=st.integers(100 * MS, 60 * S),
    moments=st.sets(st.integers(0, 24), max_size=6),
)
def test_beside_a_second_corrector_nothing_is_doubled(
    delays: list[Delays], pause_ns: int, moments: set[int]
) -> None:
    """Both set the right time: whoever comes first, it ends right, never ahead by a pause."""
    between = Corrector(moments, None)
    guest = SimulatedGuest(offset_ns=-pause_ns, delays=delays, between=between)
    verdict, _ = converse(TASK, guest.ask)
    check(TASK, verdict, guest)
    assert verdict.synced is True
    assert abs(guest.offset_ns) <= 8 * MS


@EXAMPLES
@given(
    delays=QUICK_DELAYS,
    jump_ns=st.integers(-60 * S, 60 * S),
    moments=st.sets(st.integers(0, 24), max_size=6),
)
def test_beside_one_that_spoils_the_clock_nothing_wrong_is_called_right(
    delays: list[Delays], jump_ns: int, moments: set[int]
) -> None:
    """It adds what it measured long ago, and so doubles: that is seen, put right, or said."""
    between = Corrector(moments, jump_ns)
    guest = SimulatedGuest(offset_ns=-abs(jump_ns), delays=delays, between=between)
    verdict, _ = converse(TASK, guest.ask)
    check(TASK, verdict, guest)
    assert verdict.synced or "something else sets this clock" in verdict.reason


@dataclass
class SteppedGuest(SimulatedGuest):
    """Something steps its clock at a moment of its own, in the middle of a question too."""

    step_at_ns: int = 0
    jump_ns: int | None = None

    def pass_ns(self, length_ns: int) -> None:
        left_ns = self.step_at_ns - self.now_ns
        if not 0 <= left_ns < length_ns:
            return SimulatedGuest.pass_ns(self, length_ns)
        SimulatedGuest.pass_ns(self, left_ns)
        self.offset_ns = 0 if self.jump_ns is None else self.offset_ns + self.jump_ns
        return SimulatedGuest.pass_ns(self, length_ns - left_ns)


@EXAMPLES
@given(
    delays=QUICK_DELAYS,
    pause_ns=st.integers(100 * MS, 60 * S),
    after_ns=st.integers(0, 20 * MS),
    adds=st.booleans(),
)
def test_a_step_in_the_middle_of_a_question_is_not_doubled(
    delays: list[Delays], pause_ns: int, after_ns: int, adds: bool
) -> None:
    """One that adds the pause after the last reading began is beyond what can be seen."""
    guest = SteppedGuest(offset_ns=-pause_ns, delays=delays, jump_ns=pause_ns if adds else None)
    guest.step_at_ns = guest.now_ns + after_ns
    verdict, _ = converse(TASK, guest.ask)
    newest, _ = guest.true_offsets_ns[-1]
    if not adds or guest.step_at_ns <= newest.at_ns - newest.uncertainty_ns:
        check(TASK, verdict, guest)
        assert verdict.synced is True
        assert abs(guest.offset_ns) <= 8 * MS


NUMBERS = st.integers(-(2**80), 2**80) | st.sampled_from([0, -2 * S, 2**63, -(2**63), MS])
READINGS = st.builds(
    ClockReading,
    at_ns=st.integers(0, 10 * S),
    offset_ns=NUMBERS,
    behind_ns=NUMBERS,
    uncertainty_ns=st.sampled_from([1, MS, UNSURE_NS, UNSURE_NS + 1]) | st.integers(1, 2**70),
)
REFUSALS = st.builds(NoAnswer, refusal=st.sampled_from(Refusal), reason=st.just("so it says"))
ENABLED = st.sampled_from([ALL, frozenset(), frozenset({"guest-exec"})])
FITTING = {
    Read: READINGS,
    Set: st.builds(WasSet, at_ns=st.integers(0, 10 * S)),
    Learn: st.builds(Abilities, enabled=ENABLED),
}
ANY: st.SearchStrategy[Answer] = st.one_of(*FITTING.values(), REFUSALS)
TASKS = st.builds(
    ClockTask,
    keep_ns=st.sampled_from([0, 77 * S, -3 * HALF_A_DAY_NS]),
    purpose=st.just("p"),
    spare_rtc=st.booleans(),
    only_read=st.booleans(),
    trusted=st.booleans(),
    threshold_ns=THRESHOLDS,
)


def liar(draw: Callable[[st.SearchStrategy[Answer]], Answer]) -> Callable[[Question], Answer]:
    """An agent that mostly answers what was asked, with anything at all."""

    def ask(question: Question) -> Answer:
        fitting = FITTING[type(question)]
        return draw(st.one_of(fitting, fitting, fitting, REFUSALS, ANY))

    return ask


def check_claims(task: ClockTask, verdict: ClockVerdict, history: list[Exchange]) -> None:
    """What must be true of a verdict even if every word of the agent is a lie."""
    sets = [each.question for each in history if isinstance(each.question, Set)]
    assert not (task.only_read and sets)
    assert not (task.spare_rtc and any(each.method is Method.AGENT for each in sets))
    assert verdict.sets <= min(4, len(sets))
    assert all(0 <= each.ahead_ns - task.keep_ns <= MOST_LEARNED_NS for each in sets)
    if verdict.synced is not True:
        assert verdict.reason
        return
    best = verdict.last if verdict.sets else verdict.first
    newest = [each.answer for each in history if isinstance(each.answer, ClockReading)][-1]
    assert best is not None
    for reading in (best, newest):
        margin_ns = best.uncertainty_ns + reading.uncertainty_ns + MS
        far_ns = far(task, verdict, best)
        assert abs(reading.offset_ns - task.keep_ns) <= far_ns + margin_ns
    assert best.uncertainty_ns <= UNSURE_NS


@EXAMPLES
@given(task=TASKS, data=st.data(), left_ns=st.sampled_from([10 * S, S, 100 * MS, 1]))
def test_a_liar_gets_an_end_and_no_credit(
    task: ClockTask, data: st.DataObject, left_ns: int
) -> None:
    verdict, history = converse(task, liar(data.draw), left_ns)
    check_claims(task, verdict, history)


@EXAMPLES
@given(task=TASKS, data=st.data())
def test_given_up_at_any_moment_it_ends_without_a_false_claim(
    task: ClockTask, data: st.DataObject
) -> None:
    _, history = converse(task, liar(data.draw))
    for length in range(len(history) + 1):
        read = [each for each in history[:length] if isinstance(each.answer, ClockReading)]
        verdict = given_up(task, history[:length])
        assert verdict.synced is not True or read


@EXAMPLES
@given(offset_ns=st.integers(-60 * S, 60 * S).filter(lambda ns: abs(ns) > 6 * MS))
def test_a_clock_that_never_moves_is_not_called_right(offset_ns: int) -> None:
    """An agent that says it sets, and tells the same offset ever after: nothing adds up."""
    guest = SimulatedGuest(offset_ns=offset_ns, ways={Method.AGENT: Way(works=False)})
    verdict, history = converse(TASK, guest.ask)
    assert (verdict.synced, verdict.sets) == (False, 4)
    ahead = [each.question.ahead_ns for each in history if isinstance(each.question, Set)]
    assert all(0 <= ahead_ns <= MOST_LEARNED_NS for ahead_ns in ahead)
    if abs(offset_ns) > MOST_LEARNED_NS:
        assert len(set(ahead)) == 1


@EXAMPLES
@given(delays=DELAYS, offset_ns=PAUSES, task=TASKS)
def test_what_is_only_read_stays_as_it_is(
    delays: list[Delays], offset_ns: int, task: ClockTask
) -> None:
    guest = SimulatedGuest(offset_ns=offset_ns, delays=delays)
    only_read = ClockTask(purpose="p", only_read=True, threshold_ns=task.threshold_ns)
    verdict, _ = converse(only_read, guest.ask)
    check(only_read, verdict, guest)
    assert guest.offset_ns == offset_ns
    assert verdict.synced in (None, True)


@EXAMPLES
@given(
    delays=DELAYS,
    beyond_ns=st.integers(S, 400 * 86400 * S),
    ahead=st.booleans(),
    drift_ppm=DRIFTS,
)
def test_half_a_day_off_is_never_set_on_nobodys_word(
    delays: list[Delays], beyond_ns: int, ahead: bool, drift_ppm: int
) -> None:
    offset_ns = (HALF_A_DAY_NS + beyond_ns) * (1 if ahead else -1)
    guest = SimulatedGuest(offset_ns=offset_ns, delays=delays, drift_ppm=drift_ppm)
    verdict, _ = converse(ClockTask(trusted=False), guest.ask)
    assert verdict.synced is None
    assert not any(isinstance(question, Set) for question in guest.asked)


@EXAMPLES
@given(task=TASKS, data=st.data())
def test_when_time_runs_out_it_ends_within_two_more_answers(
    task: ClockTask, data: st.DataObject
) -> None:
    """Whatever those answers are; and nothing is set any more."""
    ask = liar(data.draw)
    _, history = converse(task, ask)
    history = history[: data.draw(st.integers(0, len(history)))]
    for _ in range(3):
        move = clock.next(task, history, 0)
        if isinstance(move, ClockVerdict):
            return
        assert isinstance(move, Read)
        history.append(Exchange(question=move, answer=ask(move)))
    raise AssertionError("it goes on without time")
