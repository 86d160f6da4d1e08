"""One guest's clock, by examples: what is wanted, what is asked, and what is said in the end."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest

from hostagent.core.clock import (
    Abilities,
    Answer,
    ClockDefinition,
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
from hostagent.core.codec import decode
from hostagent.core.plan import PlannedGuest
from hostagent.rules import clock
from hostagent.rules.clock import AHEAD_NS, HALF_A_DAY_NS, ClockTask, ClockVerdict
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

TASK = ClockTask(trusted=True)
PLENTY_NS = 10 * S
US = 1000


def guest(offset: str = "utc", adjustment_s: int = 0) -> PlannedGuest:
    definition = ClockDefinition(offset=offset, adjustment_s=adjustment_s)
    return PlannedGuest(uuid="u", name="g", clock=definition)


def read(
    offset_ns: int, uncertainty_ns: int = MS // 2, at_ns: int = 0, times: int = 1
) -> list[Exchange]:
    reading = ClockReading(
        at_ns=at_ns, offset_ns=offset_ns, behind_ns=0, uncertainty_ns=uncertainty_ns
    )
    return [Exchange(question=Read(), answer=reading)] * times


def refused(refusal: Refusal, question: Question | None = None) -> list[Exchange]:
    answer = NoAnswer(refusal=refusal, reason=f"reason: {refusal}")
    return [Exchange(question=question or Read(), answer=answer)]


def was_set(ahead_ns: int = MS // 2, method: Method = Method.AGENT) -> list[Exchange]:
    return [Exchange(question=a_set(ahead_ns, method), answer=WasSet(at_ns=0))]


def a_set(ahead_ns: int = MS // 2, method: Method = Method.AGENT) -> Set:
    return Set(method=method, ahead_ns=ahead_ns)


def learned(*enabled: str) -> list[Exchange]:
    return [Exchange(question=Learn(), answer=Abilities(enabled=frozenset(enabled)))]


def verdict(
    history: Sequence[Exchange], task: ClockTask = TASK, left_ns: int = PLENTY_NS
) -> ClockVerdict:
    found = clock.next(task, history, left_ns)
    assert isinstance(found, ClockVerdict), found
    return found


def question(
    history: Sequence[Exchange], task: ClockTask = TASK, left_ns: int = PLENTY_NS
) -> Question:
    found = clock.next(task, history, left_ns)
    assert not isinstance(found, ClockVerdict), found
    return found


OFF = read(-2 * S, times=3)


class TestWhatIsWanted:
    @pytest.mark.parametrize(
        "ordinary",
        [
            guest("utc"),
            guest("localtime"),
            guest("timezone"),
            guest("variable", 0),
            guest("variable", 2),
            guest("variable", -2),
        ],
    )
    def test_an_ordinary_clock_shall_show_the_hosts_time(self, ordinary: PlannedGuest) -> None:
        assert clock.task(ordinary, -400 * MS) == ClockTask(trusted=True)
        assert clock.task(ordinary, None) == ClockTask(trusted=False)

    @pytest.mark.parametrize(
        ("on_purpose", "spare_rtc"),
        [(guest("absolute"), False), (guest("variable", 3), True), (guest("variable", -3), True)],
    )
    def test_one_that_libvirt_sets_off_keeps_its_offset(
        self, on_purpose: PlannedGuest, spare_rtc: bool
    ) -> None:
        task = clock.task(on_purpose, 77 * S)
        assert (task.keep_ns, task.spare_rtc, task.only_read) == (77 * S, spare_rtc, False)
        assert on_purpose.clock.offset in task.purpose
        unknown = clock.task(on_purpose, None)
        assert (unknown.keep_ns, unknown.only_read) == (0, True)

    @pytest.mark.parametrize("before_ns", [HALF_A_DAY_NS, -HALF_A_DAY_NS, 400 * 86400 * S])
    def test_half_a_day_is_on_purpose_too(self, before_ns: int) -> None:
        task = clock.task(guest(), before_ns)
        assert (task.keep_ns, task.spare_rtc) == (before_ns, False)
        assert task.purpose
        assert clock.task(guest("variable"), before_ns).spare_rtc
        assert not clock.task(guest(), before_ns // abs(before_ns) * (HALF_A_DAY_NS - 1)).purpose

    @pytest.mark.parametrize("before_ns", [None, 0, 2 * HALF_A_DAY_NS])
    def test_force_wants_the_hosts_time_of_any(self, before_ns: int | None) -> None:
        for each in (guest(), guest("absolute"), guest("variable", 86400)):
            task = clock.task(each, before_ns, threshold_ns=MS, force=True)
            assert task == ClockTask(trusted=True, threshold_ns=MS)

    def test_a_task_travels_in_a_steps_arguments(self) -> None:
        task = clock.task(guest("variable", 9), 3 * S)
        assert decode(ClockTask, json.loads(json.dumps(asdict(task)))) == task


class TestReading:
    def test_three_times(self) -> None:
        for times in range(3):
            assert question(read(0, times=times)) == Read()
        assert verdict(read(0, times=3)) == ClockVerdict(
            synced=True, first=read(0)[0].answer, answered=True
        )

    @pytest.mark.parametrize("offset_ns", [5 * MS, -5 * MS, 0])
    def test_within_the_threshold_nothing_is_set(self, offset_ns: int) -> None:
        found = verdict(read(offset_ns, times=3))
        assert (found.synced, found.sets, found.method, found.reason) == (True, 0, "", "")

    @pytest.mark.parametrize("offset_ns", [5 * MS + 1, -5 * MS - 1])
    def test_beyond_it_it_is_set(self, offset_ns: int) -> None:
        assert isinstance(question(read(offset_ns, times=3)), Set)

    def test_the_shortest_round_trip_counts(self) -> None:
        history = [*read(-5 * MS, 9 * MS), *read(-MS, MS), *read(-6 * MS, 8 * MS)]
        assert verdict(history).first == history[1].answer

    def test_what_cannot_be_told_from_right_is_right(self) -> None:
        assert verdict(read(-40 * MS, 60 * MS, times=3)).synced is True

    def test_a_slow_agent_is_read_once_and_proves_nothing(self) -> None:
        found = verdict(read(-MS, 101 * MS))
        assert (found.synced, found.again) == (False, True)
        assert found.reason == (
            "its agent is too slow to be sure: its clock can only be read to 0.101 s"
        )
        assert verdict([*OFF, *was_set(), *read(0, 101 * MS)]).synced is False

    def test_a_step_between_two_readings_leaves_only_the_later(self) -> None:
        stepped = [*read(0, MS // 4, 0), *read(2 * S, MS, MS), *read(2 * S, MS, 2 * MS)]
        assert isinstance(question(stepped), Set)
        back = [*read(2 * S, MS // 4, 0), *read(0, MS, MS), *read(0, MS, 2 * MS)]
        assert verdict(back).synced is True

    def test_an_old_reading_does_not_count(self) -> None:
        """The first one comes from the roll call, and the guest may have waited for its turn."""
        history = [*read(0, MS // 4, 0), *read(0, MS, 4 * S), *read(0, MS, 4 * S + MS)]
        assert verdict(history).first == history[2].answer

    def test_one_that_disagrees_each_time_is_not_read_without_end(self) -> None:
        history = [*read(S, at_ns=0), *read(2 * S, at_ns=MS), *read(3 * S, at_ns=2 * MS)]
        assert isinstance(question(history), Set)


class TestSetting:
    def test_makes_up_for_half_a_round_trip(self) -> None:
        history = [*read(-2 * S, 3 * MS), *read(-2 * S, MS), *read(-2 * S, 2 * MS)]
        assert question(history) == a_set(MS)

    def test_guesses_little_of_a_long_one(self) -> None:
        assert question(read(-2 * S, 90 * MS, times=3)) == a_set(10 * MS)

    def test_is_proven_by_three_readings(self) -> None:
        history = [*OFF, *was_set()]
        for times in range(3):
            assert question([*history, *read(0, times=times)]) == Read()
        found = verdict([*history, *read(-300 * US, times=3)])
        assert (found.synced, found.method, found.sets) == (True, "agent", 1)
        assert found.first == OFF[0].answer
        assert found.last == read(-300 * US)[0].answer

    def test_half_of_the_little_that_is_left_over_teaches_the_next(self) -> None:
        """The first set of an agent that slept is slower than those after it."""
        history = [*OFF, *was_set(MS), *read(-3 * MS, times=3)]
        assert question(history) == a_set(MS + 3 * MS // 2)

    def test_what_was_far_too_late_teaches_the_next_in_full(self) -> None:
        history = [*OFF, *was_set(MS), *read(-15 * MS, times=3)]
        assert question(history) == a_set(16 * MS)

    def test_what_was_not_held_teaches_nothing(self) -> None:
        history = [*OFF, *was_set(MS // 2), *read(-2 * S, times=3)]
        assert question(history) == a_set(MS // 2)

    @pytest.mark.parametrize("uncertainty_ns", [100 * US, MS])
    def test_a_little_ahead_stays(self, uncertainty_ns: int) -> None:
        """A step back harms a guest more than a millisecond."""
        ahead_ns = AHEAD_NS + uncertainty_ns
        history = [*OFF, *was_set()]
        assert verdict([*history, *read(ahead_ns, uncertainty_ns, times=3)]).synced is True
        again = question([*history, *read(ahead_ns + 1, uncertainty_ns, times=3)])
        assert isinstance(again, Set)

    def test_a_little_ahead_is_too_much_where_less_is_wanted(self) -> None:
        task = ClockTask(trusted=True, threshold_ns=MS)
        history = [*OFF, *was_set()]
        assert isinstance(question([*history, *read(1900 * US, 100 * US, times=3)], task), Set)
        assert verdict([*history, *read(900 * US, 100 * US, times=3)], task).synced is True

    def test_a_smaller_threshold_is_a_smaller_target(self) -> None:
        task = ClockTask(trusted=True, threshold_ns=100 * US)
        history = [*OFF, *was_set(), *read(-300 * US, 50 * US, times=3)]
        assert isinstance(question(history, task), Set)
        assert verdict(history).synced is True

    def test_not_more_than_four_times(self) -> None:
        history = list(OFF)
        for _ in range(4):
            assert isinstance(question(history), Set)
            history += [*was_set(), *read(-S, times=3)]
        found = verdict(history)
        assert (found.synced, found.sets, found.again) == (False, 4, False)
        assert found.reason == (
            "set 4 times, it is off by -1.000 s all the same: "
            "something else sets this clock, or it runs unevenly"
        )

    def test_the_fourth_within_the_threshold_will_do(self) -> None:
        history = [*OFF, *(was_set() + read(-3 * MS, times=3)) * 4]
        assert (verdict(history).synced, verdict(history).sets) == (True, 4)

    def test_date_is_not_refined_within_the_threshold(self) -> None:
        history = [*OFF, *was_set(method=Method.DATE), *read(-4 * MS, times=3)]
        assert verdict(history).synced is True

    @pytest.mark.parametrize("method", [Method.DATE, Method.DATE_SECONDS])
    def test_date_that_does_no_better_counts_as_right_and_says_so(self, method: Method) -> None:
        def tried(off_ns: int) -> list[Exchange]:
            once = [*was_set(method=method), *read(off_ns, times=3)]
            return [*OFF, *learned(*ALL), *once * 4]

        found = verdict(tried(-30 * MS))
        assert (found.synced, found.method) == (True, str(method))
        assert found.reason == "it is off by -0.030 s: `date` in the guest does no better"
        assert verdict(tried(-31 * MS)).synced is False
        agent = [*OFF, *(was_set() + read(-30 * MS, times=3)) * 4]
        assert verdict(agent).synced is False

    def test_date_that_was_refused_is_no_excuse(self) -> None:
        off = read(-20 * MS, times=3)
        failed = [
            *refused(Refusal.DISABLED, a_set()),
            *learned(*ALL),
            *refused(Refusal.FAILED, a_set(0, Method.DATE)),
            *off,
            *refused(Refusal.FAILED, a_set(0, Method.DATE_SECONDS)),
            *off,
        ]
        assert verdict([*off, *failed]).synced is False


MAYBE = [
    Refusal.FAILED,
    Refusal.NO_ANSWER,
    Refusal.LIBVIRT,
    Refusal.NONSENSE,
    Refusal.NOT_CONNECTED,
]


class TestASetThatWasRefused:
    @pytest.mark.parametrize("refusal", MAYBE)
    def test_may_have_worked(self, refusal: Refusal) -> None:
        history = [*OFF, *refused(refusal, a_set())]
        assert question(history) == Read()
        found = verdict([*history, *read(0, times=3)])
        assert (found.synced, found.sets, found.method) == (True, 1, "agent")
        assert found.reason.startswith(f"reason: {refusal}; the clock is set all the same")

    def test_a_failed_hwclock_may_leave_the_rtc_off(self) -> None:
        found = verdict([*OFF, *refused(Refusal.FAILED, a_set()), *read(0, times=3)])
        assert found.reason == ("reason: failed; the clock is set all the same, its RTC may be off")

    @pytest.mark.parametrize("refusal", [Refusal.NO_ANSWER, Refusal.LIBVIRT, Refusal.NOT_CONNECTED])
    def test_without_effect_for_want_of_an_answer_is_repeated(self, refusal: Refusal) -> None:
        once = [*refused(refusal, a_set()), *read(-2 * S, times=3)]
        assert question([*OFF, *once]) == a_set()
        found = verdict([*OFF, *once * 4])
        assert found.reason == f"set 4 times, it is off by -2.000 s all the same: reason: {refusal}"

    def test_without_effect_teaches_nothing(self) -> None:
        """What it left over, added to the next one, would put that one ahead."""
        off = read(-200 * MS, times=3)
        assert question([*off, *refused(Refusal.NO_ANSWER, a_set()), *off]) == a_set()

    @pytest.mark.parametrize("off_ns", [-2 * S, -10 * MS])
    def test_that_failed_without_effect_leads_to_date(self, off_ns: int) -> None:
        history = [
            *read(off_ns, times=3),
            *refused(Refusal.FAILED, a_set()),
            *read(off_ns, times=3),
        ]
        assert question(history) == Learn()

    def test_that_failed_but_works_is_refined_the_same_way(self) -> None:
        history = [*OFF, *refused(Refusal.FAILED, a_set()), *read(-3 * MS, times=3)]
        assert question(history) == a_set(MS // 2 + 3 * MS // 2)

    def test_that_failed_but_works_late_is_refined_the_same_way(self) -> None:
        history = [*OFF, *refused(Refusal.FAILED, a_set()), *read(-15 * MS, times=3)]
        assert question(history) == a_set(MS // 2 + 15 * MS)

    def test_that_was_late_by_a_moment_of_its_own_is_no_lesson(self) -> None:
        history = [*OFF, *was_set(), *read(-200 * MS, times=3)]
        assert question(history) == a_set()

    def test_within_the_threshold_no_other_way_is_tried(self) -> None:
        """guest-exec taints the guest: not for a millisecond."""
        history = [
            *OFF,
            *was_set(),
            *read(-2 * MS, times=3),
            *refused(Refusal.FAILED, a_set()),
            *read(-2 * MS, times=3),
        ]
        assert verdict(history).synced is True

    @pytest.mark.parametrize("refusal", [Refusal.NO_ANSWER, Refusal.LIBVIRT, Refusal.NOT_CONNECTED])
    def test_is_outstanding_until_it_is_read(self, refusal: Refusal) -> None:
        found = verdict([*OFF, *refused(refusal, a_set()), *refused(Refusal.NO_ANSWER)])
        assert (found.synced, found.again, found.sets, found.last) == (False, True, 1, None)
        assert found.reason == (
            "reason: no-answer; a set is outstanding and may still take effect, too late"
        )

    @pytest.mark.parametrize("refusal", [Refusal.FROZEN, Refusal.NO_AGENT, Refusal.NOT_RUNNING])
    def test_outright_was_none(self, refusal: Refusal) -> None:
        found = verdict([*OFF, *refused(refusal, a_set())])
        assert (found.synced, found.sets, found.method) == (False, 0, "")
        assert found.reason == f"reason: {refusal}"

    def test_outright_does_not_undo_what_was_proven(self) -> None:
        history = [*OFF, *was_set(), *read(-MS, times=3), *refused(Refusal.FROZEN, a_set())]
        found = verdict(history)
        assert (found.synced, found.again) == (True, True)
        assert found.reason == "right when last read, then: reason: frozen"


class TestAReadingThatWasRefused:
    @pytest.mark.parametrize(
        ("refusal", "answered", "again"),
        [
            (Refusal.NO_AGENT, False, False),
            (Refusal.NOT_RUNNING, False, False),
            (Refusal.NOT_CONNECTED, False, True),
            (Refusal.NO_ANSWER, False, True),
            (Refusal.LIBVIRT, False, True),
            (Refusal.FROZEN, True, True),
            (Refusal.FAILED, True, True),
            (Refusal.DISABLED, True, False),
        ],
    )
    def test_ends_it(self, refusal: Refusal, answered: bool, again: bool) -> None:
        assert verdict(refused(refusal)) == ClockVerdict(
            synced=False, reason=f"reason: {refusal}", answered=answered, again=again
        )
        late = verdict([*read(-2 * S), *refused(refusal)])
        assert (late.synced, late.answered) == (False, True)

    def test_nonsense_is_asked_for_once_more(self) -> None:
        once = refused(Refusal.NONSENSE)
        assert question(once) == Read()
        assert question([*once, *read(0)]) == Read()
        assert verdict([*once, *read(0, times=3)]).synced is True
        assert verdict([*once, *once]) == ClockVerdict(
            synced=False, reason="reason: nonsense", answered=True
        )

    def test_after_a_right_one_it_stays_right(self) -> None:
        found = verdict([*read(0), *refused(Refusal.NO_ANSWER)])
        assert (found.synced, found.again) == (True, True)
        assert found.reason == "right when last read, then: reason: no-answer"

    @pytest.mark.parametrize("refusal", [Refusal.NOT_RUNNING, Refusal.NO_AGENT])
    def test_a_guest_that_is_gone_has_no_right_clock(self, refusal: Refusal) -> None:
        assert verdict([*read(0), *refused(refusal)]).synced is False

    def test_after_a_set_says_so(self) -> None:
        found = verdict([*OFF, *was_set(), *refused(Refusal.FROZEN)])
        assert (found.synced, found.sets, found.again) == (False, 1, True)
        assert found.reason == "it was set, but could not be read afterwards: reason: frozen"

    @pytest.mark.parametrize("answer", [WasSet(at_ns=0), Abilities(enabled=ALL)])
    def test_an_answer_to_something_else_is_nonsense(self, answer: Answer) -> None:
        wrong = [Exchange(question=Read(), answer=answer)]
        assert question(wrong) == Read()
        assert verdict(wrong * 2).synced is False


class TestOtherWays:
    DISABLED = refused(Refusal.DISABLED, a_set())

    def date_failed(self) -> list[Exchange]:
        return [
            *refused(Refusal.FAILED, a_set(6 * MS, Method.DATE)),
            *read(-2 * S, times=3),
        ]

    def test_what_is_offered_is_asked_first(self) -> None:
        history = [*OFF, *self.DISABLED]
        assert question(history) == Learn()
        date = question([*history, *learned(*ALL)])
        assert date == a_set(5 * MS + MS // 2, Method.DATE)

    def test_date_learns_for_itself(self) -> None:
        history = [
            *OFF,
            *refused(Refusal.FAILED, a_set(MS)),
            *read(-2 * S, times=3),
            *learned(*ALL),
            *was_set(6 * MS, Method.DATE),
            *read(-20 * MS, times=3),
        ]
        assert question(history) == a_set(26 * MS, Method.DATE)

    def test_where_date_refuses_fractions_it_is_a_whole_second(self) -> None:
        history = [*OFF, *self.DISABLED, *learned(*ALL), *self.date_failed()]
        found = question(history)
        assert isinstance(found, Set)
        assert found.method is Method.DATE_SECONDS

    @pytest.mark.parametrize("missing", ["guest-exec", "guest-exec-status"])
    def test_both_reasons_are_named(self, missing: str) -> None:
        found = verdict([*OFF, *self.DISABLED, *learned(*ALL - {missing})])
        assert (found.synced, found.answered, found.again) == (False, True, False)
        assert found.reason == (
            f"it is off by -2.000 s: reason: disabled; {missing} is disabled in the guest"
        )

    def test_what_cannot_be_learned_is_said(self) -> None:
        history = [*OFF, *self.DISABLED, *refused(Refusal.DISABLED, Learn())]
        assert verdict(history).reason == (
            "it is off by -2.000 s: reason: disabled; "
            "what else its agent offers can't be learned: reason: disabled"
        )

    def test_one_that_is_silent_then_ends_it(self) -> None:
        found = verdict([*OFF, *self.DISABLED, *refused(Refusal.NO_ANSWER, Learn())])
        assert (found.synced, found.reason, found.again) == (False, "reason: no-answer", True)

    def test_a_spared_rtc_begins_with_date(self) -> None:
        task = ClockTask(keep_ns=S, purpose="p", spare_rtc=True, trusted=True)
        assert question(OFF, task) == Learn()
        date = question([*OFF, *learned(*ALL)], task)
        assert date == a_set(S + 5 * MS + MS // 2, Method.DATE)
        assert verdict([*OFF, *learned()], task).reason == (
            "it is off by -3.000 s: its RTC must be left alone; guest-exec is disabled in the guest"
        )


class TestWrongOnPurpose:
    def test_keeps_its_offset(self) -> None:
        task = clock.task(guest("absolute"), 77 * S)
        simulated = SimulatedGuest(offset_ns=75 * S)
        found, _ = converse(task, simulated.ask)
        assert abs(simulated.offset_ns - 77 * S) < MS
        assert found.synced is True
        assert found.reason == (
            "wrong on purpose (libvirt's clock offset is 'absolute'): "
            "its offset of +77.000 s is kept"
        )

    def test_of_unknown_offset_is_left_alone(self) -> None:
        found = verdict(read(-S, times=3), clock.task(guest("absolute"), None))
        assert (found.synced, found.sets, found.answered) == (None, 0, True)
        assert found.reason == (
            "wrong on purpose (libvirt's clock offset is 'absolute'): left alone; "
            "--force sets it to the host's time"
        )

    def test_of_unknown_offset_but_right_is_right(self) -> None:
        """A guest whose RTC is in local time has a stored adjustment and a right clock."""
        task = clock.task(guest("variable", 7200), None)
        found = verdict(read(MS, times=3), task)
        assert (found.synced, found.reason) == (True, "")
        assert verdict(read(0, 200 * MS), task).synced is None

    @pytest.mark.parametrize("offset_ns", [HALF_A_DAY_NS, -HALF_A_DAY_NS])
    def test_half_a_day_off_is_left_alone(self, offset_ns: int) -> None:
        found = verdict(read(offset_ns, times=3), clock.task(guest(), None))
        assert (found.synced, found.sets) == (None, 0)
        assert found.reason == (
            f"wrong on purpose (it is off by {offset_ns // S:+} s): left alone; "
            "--force sets it to the host's time"
        )
        assert (
            verdict(
                [*read(offset_ns), *refused(Refusal.NO_ANSWER)], clock.task(guest(), None)
            ).synced
            is None
        )

    def test_less_than_that_is_set(self) -> None:
        history = read(HALF_A_DAY_NS - 1, times=3)
        assert isinstance(question(history, clock.task(guest(), None)), Set)

    @pytest.mark.parametrize(
        "task", [clock.task(guest(), -400 * MS), clock.task(guest(), None, force=True)]
    )
    def test_one_that_was_right_or_is_forced_is_set(self, task: ClockTask) -> None:
        """A guest that stood still for 13 hours because everything had died."""
        simulated = SimulatedGuest(offset_ns=-13 * 3600 * S)
        found, _ = converse(task, simulated.ask)
        assert found.synced is True
        assert abs(simulated.offset_ns) < MS


class TestTime:
    def test_with_little_left_one_reading_has_to_do(self) -> None:
        assert verdict(read(0), left_ns=49 * MS).synced is True

    def test_without_it_nothing_is_set(self) -> None:
        found = verdict(OFF, left_ns=49 * MS)
        assert (found.synced, found.sets, found.again) == (False, 0, True)
        assert found.reason == "it is off by -2.000 s, and there was no time to set it"

    def test_after_a_set_nothing_else_is_blamed(self) -> None:
        found = verdict([*OFF, *was_set(), *read(-90 * MS, times=3)], left_ns=0)
        assert (found.synced, found.sets, found.again) == (False, 1, True)
        assert found.reason == "it is off by -0.090 s, and there was no time to set it again"

    def test_a_whole_second_takes_longer(self) -> None:
        history = [
            *OFF,
            *refused(Refusal.DISABLED, a_set()),
            *learned(*ALL),
            *refused(Refusal.FAILED, a_set(6 * MS, Method.DATE)),
            *read(-2 * S, times=3),
        ]
        assert isinstance(question(history, left_ns=1500 * MS), Set)
        assert "no time" in verdict(history, left_ns=1499 * MS).reason

    @pytest.mark.parametrize(
        "history", [[], OFF, [*OFF, *was_set()], [*OFF, *refused(Refusal.NO_ANSWER, a_set())]]
    )
    def test_given_up_at_any_moment_it_is_not_called_right(self, history: list[Exchange]) -> None:
        assert given_up(TASK, history).synced is False


def simulated(**changes: Any) -> tuple[ClockVerdict, SimulatedGuest]:
    made = SimulatedGuest(**changes)
    found, _ = converse(TASK, made.ask)
    return found, made


class TestWholeConversations:
    def test_by_the_agent(self) -> None:
        found, made = simulated(delays=[Delays(back_ns=2 * MS)])
        assert (found.synced, found.method) == (True, "agent")
        assert abs(made.offset_ns) <= 2 * MS
        assert Learn() not in made.asked

    def test_by_busyboxs_date(self) -> None:
        ways = {
            Method.AGENT: Way(works=False, refusal=Refusal.DISABLED),
            Method.DATE: Way(works=False, refusal=Refusal.FAILED),
        }
        found, made = simulated(ways=ways, delays=[Delays(exec_ns=40 * MS)])
        assert (found.synced, found.method) == (True, "date-seconds")
        assert abs(made.offset_ns) <= 5 * MS
        assert made.asked.count(Learn()) == 1
