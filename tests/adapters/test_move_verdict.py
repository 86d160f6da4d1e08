"""What has become of a moved guest, for all pairs of answers: nothing is done in doubt."""

import itertools

import pytest

from hostagent.adapters.libvirt.move_places import Seen
from hostagent.adapters.libvirt.move_verdict import Act, judge
from hostagent.core.model import GuestState

ABSENT = Seen()
OFF = Seen(present=True, persistent=True, reason="shutdown")
RUNS = Seen(present=True, persistent=True, domain_id=1, state=GuestState.RUNNING, reason="booted")
CANCELED = Seen(present=True, domain_id=1, state=GuestState.RUNNING, reason="migration canceled")
MIGRATED = Seen(present=True, domain_id=2, state=GuestState.RUNNING, reason="migrated")
USER = Seen(present=True, domain_id=1, state=GuestState.PAUSED, reason="user")
HANDED = Seen(present=True, domain_id=1, state=GuestState.PAUSED, reason="migrating")
MADE = Seen(present=True, domain_id=1, state=GuestState.PAUSED, reason="starting up")
SENDING = Seen(
    present=True, domain_id=1, state=GuestState.RUNNING, reason="booted", job="migration"
)
STARTING = Seen(present=True, domain_id=3, state=GuestState.PAUSED, reason="starting up")
LEFT = Seen(present=True, persistent=True, reason="migrated")
HALF = Seen(present=True, domain_id=1, state=GuestState.PAUSED, reason="post-copy failed")
HALF_THERE = Seen(present=True, domain_id=2, state=GuestState.RUNNING, reason="post-copy failed")

SOURCES = (None, ABSENT, OFF, LEFT, RUNS, CANCELED, USER, HANDED, SENDING, HALF)
DESTINATIONS = (None, ABSENT, OFF, RUNS, MIGRATED, USER, HANDED, MADE, HALF_THERE)
PAIRS = list(itertools.product(SOURCES, DESTINATIONS, (True, False, None)))


@pytest.mark.parametrize(
    ("source", "destination", "act"),
    [
        (ABSENT, MIGRATED, Act.MOVED),
        (ABSENT, USER, Act.MOVED),
        (RUNS, ABSENT, Act.STAYED),
        (USER, ABSENT, Act.STAYED),
        (SENDING, HANDED, Act.UNDER_WAY),
        (HANDED, ABSENT, Act.RESUME_SOURCE),
        (HANDED, MIGRATED, Act.END_SOURCE),
        (HANDED, HANDED, Act.END_DESTINATION),
        (RUNS, HANDED, Act.END_DESTINATION),
        (RUNS, MADE, Act.END_DESTINATION),
        (ABSENT, MADE, Act.AMBIGUOUS),
        (None, MADE, Act.AMBIGUOUS),
        (CANCELED, MIGRATED, Act.END_DESTINATION),
        (RUNS, MIGRATED, Act.AMBIGUOUS),
        (HANDED, None, Act.AMBIGUOUS),
        (None, MIGRATED, Act.AMBIGUOUS),
        (ABSENT, HANDED, Act.AMBIGUOUS),
        (ABSENT, ABSENT, Act.AMBIGUOUS),
        (RUNS, STARTING, Act.END_DESTINATION),
        (ABSENT, STARTING, Act.AMBIGUOUS),
        (OFF, STARTING, Act.AMBIGUOUS),
        (HANDED, STARTING, Act.END_DESTINATION),
        (LEFT, OFF, Act.MOVED),
        (OFF, OFF, Act.STAYED),
        (HALF, HALF_THERE, Act.RECOVER),
        (HALF, None, Act.AMBIGUOUS),
    ],
)
def test_each_pair_has_its_verdict(source: Seen, destination: Seen, act: Act) -> None:
    assert judge(source, destination, switched=None).act is act


def test_nothing_is_resumed_at_the_source_unless_the_destination_said_that_it_has_none() -> None:
    for source, destination, switched in PAIRS:
        if judge(source, destination, switched=switched).act is Act.RESUME_SOURCE:
            assert destination is not None
            assert not destination.active


def test_a_copy_is_ended_only_where_the_other_one_is_known_to_be_the_guest() -> None:
    for source, destination, switched in PAIRS:
        act = judge(source, destination, switched=switched).act
        if act is Act.END_SOURCE:
            assert source is not None
            assert source.handed_over
            assert destination is not None
            assert destination.arrived
        if act is Act.END_DESTINATION:
            assert source is not None
            assert source.active


def test_in_post_copy_no_copy_is_ever_ended() -> None:
    for source, destination, switched in PAIRS:
        if source is HALF or destination is HALF_THERE:
            act = judge(source, destination, switched=switched).act
            assert act in (Act.RECOVER, Act.AMBIGUOUS, Act.UNDER_WAY)


def test_a_silent_destination_is_trusted_only_if_the_source_never_stopped() -> None:
    assert judge(RUNS, None, switched=False).act is Act.STAYED
    assert judge(RUNS, None, switched=True).act is Act.AMBIGUOUS
    assert judge(RUNS, None, switched=None).act is Act.AMBIGUOUS
