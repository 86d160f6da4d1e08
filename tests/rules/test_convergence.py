"""The schedule of a live move: it is as gentle as the guest allows, and it has an end."""

import os
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.core.move import Measure, Stage
from hostagent.rules.convergence import (
    GENTLE_MS,
    MOST_MS,
    MOST_NS,
    SETUP_NS,
    downtimes_ms,
    due,
    schedule,
    time_limit_ns,
)

EXAMPLES = settings(max_examples=int(os.environ.get("HOSTAGENT_EXAMPLES", "300")), deadline=None)
MS = 1_000_000
S = 1000 * MS
MIB = 1024
GIB = 1024 * MIB

SIZES = st.integers(0, 4 * 1024 * GIB)
RATES = st.sampled_from([0, 1, 16, 52, 112, 1200]) | st.integers(0, 100_000)
PAUSES = st.none() | st.integers(0, 24 * 3600 * S) | st.sampled_from([30 * MS, 500 * MS, 30 * S])
LIMITS = st.integers(0, MOST_NS) | st.sampled_from([0, 1, 38 * S])
SCHEDULES = st.builds(
    schedule,
    memory_kib=SIZES,
    limit_ns=LIMITS,
    copied_kib=SIZES,
    bandwidth_mib_s=RATES,
    max_pause_ns=PAUSES,
    post_copy=st.booleans(),
)


def times_s(stages: tuple[Stage, ...], measure: Measure) -> list[float]:
    return [stage.after_ns / S for stage in stages if stage.measure is measure]


class TestDowntimes:
    @pytest.mark.parametrize(
        ("max_pause_ns", "steps"),
        [
            (None, GENTLE_MS),
            (500 * MS, GENTLE_MS),
            (250 * MS, (100, 150, 200, 250)),
            (30 * MS, (30,)),
            (0, (1,)),
            (30 * S, (*GENTLE_MS, 2000, 8000, 30_000)),
        ],
    )
    def test_rise_to_what_the_owner_accepts(
        self, max_pause_ns: int | None, steps: tuple[int, ...]
    ) -> None:
        assert downtimes_ms(max_pause_ns) == steps

    @EXAMPLES
    @given(PAUSES)
    def test_rise_and_are_never_longer_than_that(self, max_pause_ns: int | None) -> None:
        steps = downtimes_ms(max_pause_ns)
        longest_ms = GENTLE_MS[-1] if max_pause_ns is None else max_pause_ns // MS
        assert all(earlier < later for earlier, later in pairwise(steps))
        assert 1 <= steps[0] <= steps[-1] <= min(max(longest_ms, 1), MOST_MS)
        assert len(steps) <= 12


class TestTimeLimit:
    @pytest.mark.parametrize(
        ("size_kib", "bandwidth_mib_s", "limit_s"),
        [
            (0, 0, 30),
            (128 * MIB, 0, 38),
            (GIB, 0, 94),
            (GIB, 1200, 94),
            (GIB, 8, 30 + 4 * 128),
            (1024 * GIB, 0, 6 * 3600),
        ],
    )
    def test_grows_with_the_size_within_bounds(
        self, size_kib: int, bandwidth_mib_s: int, limit_s: int
    ) -> None:
        assert time_limit_ns(size_kib, bandwidth_mib_s=bandwidth_mib_s) == limit_s * S

    def test_follows_the_slowest_rate_that_is_acceptable(self) -> None:
        assert time_limit_ns(GIB, slowest_kib_s=GIB) == 31 * S

    @EXAMPLES
    @given(SIZES, RATES, st.integers(0, GIB))
    def test_is_never_nothing_and_never_for_ever(
        self, size_kib: int, bandwidth_mib_s: int, slowest_kib_s: int
    ) -> None:
        limit_ns = time_limit_ns(
            size_kib, bandwidth_mib_s=bandwidth_mib_s, slowest_kib_s=slowest_kib_s
        )
        assert SETUP_NS <= limit_ns <= MOST_NS


class TestSchedule:
    def test_of_a_link_that_is_not_known(self) -> None:
        stages = schedule(memory_kib=GIB, limit_ns=96 * S, post_copy=True)
        assert times_s(stages, Measure.AUTO_CONVERGE) == [0]
        assert times_s(stages, Measure.MAX_DOWNTIME) == [0, 8, 16, 24, 32, 40]
        assert times_s(stages, Measure.POST_COPY) == [48]
        assert times_s(stages, Measure.ABORT) == [96]

    def test_goes_on_each_time_that_the_link_has_carried_the_memory(self) -> None:
        stages = schedule(memory_kib=GIB, limit_ns=96 * S, bandwidth_mib_s=512)
        assert times_s(stages, Measure.MAX_DOWNTIME) == [0, 2, 4, 6, 8, 10]
        assert times_s(stages, Measure.POST_COPY) == []

    def test_does_not_rush_through_a_small_guest(self) -> None:
        stages = schedule(memory_kib=128 * MIB, limit_ns=38 * S, bandwidth_mib_s=1024)
        assert times_s(stages, Measure.MAX_DOWNTIME) == [0, 1, 2, 3, 4, 5]

    def test_waits_for_the_disks(self) -> None:
        known = schedule(memory_kib=GIB, copied_kib=8 * GIB, limit_ns=600 * S, bandwidth_mib_s=1024)
        assert times_s(known, Measure.MAX_DOWNTIME) == [0, 9, 10, 11, 12, 13]
        unknown = schedule(memory_kib=GIB, copied_kib=GIB, limit_ns=240 * S)
        assert times_s(unknown, Measure.MAX_DOWNTIME) == [0, 70, 80, 90, 100, 110]

    @EXAMPLES
    @given(SCHEDULES)
    def test_always_ends_with_an_abort(self, stages: tuple[Stage, ...]) -> None:
        assert stages[-1].measure is Measure.ABORT
        assert sum(stage.measure is Measure.ABORT for stage in stages) == 1
        assert sum(stage.measure is Measure.POST_COPY for stage in stages) <= 1

    @EXAMPLES
    @given(SCHEDULES)
    def test_never_goes_back(self, stages: tuple[Stage, ...]) -> None:
        assert stages[0].after_ns == 0
        assert all(earlier.after_ns <= later.after_ns for earlier, later in pairwise(stages))
        steps = [stage.downtime_ms for stage in stages if stage.measure is Measure.MAX_DOWNTIME]
        assert steps == sorted(set(steps))

    @EXAMPLES
    @given(SIZES, LIMITS, RATES, PAUSES, st.booleans())
    def test_leaves_half_of_the_limit_to_the_last_step(
        self,
        memory_kib: int,
        limit_ns: int,
        bandwidth_mib_s: int,
        max_pause_ns: int | None,
        post_copy: bool,
    ) -> None:
        stages = schedule(
            memory_kib=memory_kib,
            limit_ns=limit_ns,
            bandwidth_mib_s=bandwidth_mib_s,
            max_pause_ns=max_pause_ns,
            post_copy=post_copy,
        )
        assert stages[-1].after_ns == limit_ns
        assert all(stage.after_ns <= limit_ns // 2 for stage in stages[:-1])
        assert any(stage.measure is Measure.POST_COPY for stage in stages) is post_copy


class TestDue:
    STAGES = schedule(memory_kib=GIB, limit_ns=96 * S, post_copy=True)

    def test_each_stage_at_its_time(self) -> None:
        assert due(self.STAGES, 0, 0) == self.STAGES[0]
        assert due(self.STAGES, 0, 1) == self.STAGES[1]
        assert due(self.STAGES, 8 * S - 1, 2) is None
        assert due(self.STAGES, 8 * S, 2) == self.STAGES[2]
        assert due(self.STAGES, 96 * S, len(self.STAGES)) is None

    def test_what_was_missed_comes_in_order_until_it_is_too_late(self) -> None:
        assert due(self.STAGES, 95 * S, 2) == self.STAGES[2]
        assert due(self.STAGES, 96 * S, 2) == self.STAGES[-1]

    def test_nothing_of_no_schedule(self) -> None:
        assert due((), 0, 0) is None

    @EXAMPLES
    @given(SCHEDULES, st.lists(st.integers(0, 60 * S), max_size=300))
    def test_whoever_asks_again_and_again_comes_to_the_end(
        self, stages: tuple[Stage, ...], gaps_ns: list[int]
    ) -> None:
        now_ns, done = 0, []
        for gap_ns in (*gaps_ns, *(MOST_NS for _ in stages)):
            now_ns += gap_ns
            stage = due(stages, now_ns, len(done))
            if stage is None:
                continue
            done.append(stage)
            assert stage.after_ns <= now_ns
            if stage.measure is Measure.ABORT:
                return
            assert now_ns < stages[-1].after_ns
        pytest.fail("it never came to the abort")
