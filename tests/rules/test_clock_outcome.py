"""What became of a guest's clock: all tries in one report, and nothing that was not measured."""

import pytest

from hostagent.core.journal import GuestOutcome
from hostagent.rules.clock_outcome import (
    NOT_TRIED,
    REPEATED,
    ClockReport,
    clock_report,
    counting,
    is_unsynced,
    was_set,
)
from tests.rules.runs import BUSY, MS, RIGHT, SET, S, tried

BEFORE = GuestOutcome(
    result="read", figures={"offset_ns": -5 * MS, "behind_ns": 5 * MS, "uncertainty_ns": MS}
)
UNREAD = GuestOutcome(result="unread", reason="its agent does not answer")
NO = tried("unsynced", first_ns=-2 * S, reason="disabled")


def test_one_that_was_never_tried_says_so() -> None:
    assert clock_report((), None) == ClockReport(reason=NOT_TRIED)
    assert clock_report((), BEFORE).offset_before_s == -0.005
    assert clock_report((), BEFORE).synced is None


def test_one_that_was_left_alone_since_it_hung_before_says_that() -> None:
    """A run that was stopped does not ask it once more at its end."""
    assert clock_report((), UNREAD) == ClockReport(reason="its agent does not answer")


def test_one_that_was_set_has_all_its_figures() -> None:
    assert clock_report((SET,), BEFORE) == ClockReport(
        synced=True,
        method="agent",
        offset_before_s=-0.005,
        offset_resumed_s=-2.0,
        offset_after_s=0.0001,
        uncertainty_s=0.00025,
        reason="",
    )


def test_one_that_was_right_has_one_reading_for_both() -> None:
    told = clock_report((RIGHT,), UNREAD)
    assert (told.synced, told.method, told.offset_before_s) == (True, None, None)
    assert told.offset_resumed_s == told.offset_after_s == 0.0001


def test_one_that_was_left_on_purpose_is_neither() -> None:
    left = tried("left", first_ns=-90_000 * S, reason="wrong on purpose")
    told = clock_report((left,), None)
    assert (told.synced, told.offset_after_s, told.reason) == (None, -90_000.0, "wrong on purpose")


def test_one_that_did_not_answer_has_no_figures() -> None:
    told = clock_report((BUSY,), None)
    assert (told.synced, told.offset_resumed_s, told.offset_after_s) == (False, None, None)
    assert told.reason == "its agent does not answer"


def test_one_that_was_set_and_not_read_afterwards_has_no_offset_after() -> None:
    """The reading from before the set is not how it is now."""
    blind = tried("unsynced", first_ns=-2 * S, sets=1, reason="it could not be read afterwards")
    told = clock_report((blind,), None)
    assert (told.offset_resumed_s, told.offset_after_s, told.uncertainty_s) == (-2.0, None, None)
    assert told.method == "agent"


class TestWhichTryCounts:
    def test_the_last_that_could_read(self) -> None:
        assert counting((SET, RIGHT)) is RIGHT
        assert counting((SET, NO)) is NO

    def test_a_busy_agent_undoes_no_proof(self) -> None:
        assert counting((SET, BUSY)) is SET
        assert clock_report((SET, BUSY), None).synced is True

    def test_without_any_reading_the_last(self) -> None:
        later = tried("unsynced", answered=False, reason="not connected")
        assert counting((BUSY, later)) is later

    def test_none(self) -> None:
        assert counting(()) is None


class TestTheSecondLook:
    def test_keeps_the_offset_from_right_after_the_pause(self) -> None:
        told = clock_report((SET, RIGHT), BEFORE)
        assert (told.offset_resumed_s, told.offset_after_s) == (-2.0, 0.0001)

    def test_that_sets_nothing_keeps_method_and_reason_of_the_first(self) -> None:
        complained = tried(
            "synced", first_ns=-2 * S, last_ns=0, sets=1, method="date", reason="hwclock failed"
        )
        told = clock_report((complained, RIGHT), None)
        assert (told.synced, told.method, told.reason) == (True, "date", "hwclock failed")

    def test_that_had_to_set_it_again_says_so(self) -> None:
        told = clock_report((SET, SET), None)
        assert (told.synced, told.reason) == (True, REPEATED)

    def test_that_made_it_right_at_last_has_no_excuse_left(self) -> None:
        told = clock_report((BUSY, SET), None)
        assert (told.synced, told.reason, told.offset_resumed_s) == (True, "", -2.0)


@pytest.mark.parametrize(
    ("tries", "unsynced"),
    [
        ((), False),
        ((SET,), False),
        ((NO,), True),
        ((BUSY,), False),
        ((BUSY, BUSY), False),
        ((BUSY, NO), True),
        ((NO, BUSY), True),
        ((SET, BUSY), False),
        ((SET, NO), True),
        ((tried("unsynced", again=True, reason="frozen"), BUSY), True),
        ((tried("left", first_ns=-90_000 * S),), False),
    ],
)
def test_unsynced_is_only_what_an_agent_that_answered_leaves_wrong(
    tries: tuple[GuestOutcome, ...], unsynced: bool
) -> None:
    assert is_unsynced(tries) is unsynced


def test_set_is_what_may_have_been_set() -> None:
    assert was_set((BUSY, tried("unsynced", sets=1, answered=False)))
    assert not was_set((RIGHT, BUSY, NO))
