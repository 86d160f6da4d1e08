"""Steps that only look: jobs that are waited for, newcomers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from hostagent.core.errors import LibvirtUnreachableError
from hostagent.core.journal import Outcome
from hostagent.core.model import Facts, Guest, GuestState
from hostagent.core.plan import Step, Verb
from hostagent.rules.request import S
from hostagent.work.steps.guests import AwaitJobs, Census
from tests.rules.runs import MS, a_plan, facts, guest


class FakeGuests:
    """libvirt's list of guests, one state for each look."""

    def __init__(self, *looks: Sequence[Guest]) -> None:
        self._looks = list(looks)
        self.error: LibvirtUnreachableError | None = None

    def facts(self) -> Facts:
        if self.error is not None:
            raise self.error
        return facts(*self._looks[0])

    def look(self, uuids: Sequence[str], limit_ns: int) -> Mapping[str, Guest]:
        now = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        return {found.uuid: found for found in now if found.uuid in uuids}


A, B = guest("a"), guest("b")
BUSY = replace(A, job="dump")


def await_jobs(guests: FakeGuests, limit_ns: int = 5 * S) -> Outcome:
    args = {"limit_ns": limit_ns}
    step = Step(key="await-jobs", verb=Verb.AWAIT_JOBS, guests=(A.uuid,), args=args)
    return AwaitJobs(guests).do(step)


class TestAwaitJobs:
    def test_a_job_that_ends_frees_its_guest(self) -> None:
        assert await_jobs(FakeGuests([BUSY], [A])).guests[A.uuid].result == "free"

    def test_a_job_that_does_not_end_is_named(self) -> None:
        outcome = await_jobs(FakeGuests([BUSY]), limit_ns=100 * MS).guests[A.uuid]
        assert (outcome.result, outcome.reason) == ("busy", "a dump is running on it")

    def test_a_guest_that_its_job_took_away_is_gone(self) -> None:
        assert await_jobs(FakeGuests([BUSY], [])).guests[A.uuid].result == "gone"

    def test_a_guest_that_its_job_left_off_is_gone_with_the_reason(self) -> None:
        off = replace(A, state=GuestState.SHUT_OFF, reason="saved")
        outcome = await_jobs(FakeGuests([BUSY], [off])).guests[A.uuid]
        assert (outcome.result, outcome.reason) == ("gone", "shut off (saved)")


class TestCensus:
    @pytest.mark.parametrize(
        ("now", "started"),
        [
            ([A, B], []),
            ([A, B, guest("c")], ["c"]),
            ([A, B, guest("c", state=GuestState.SHUT_OFF, process=None)], []),
            ([A, replace(B, process=replace(B.process, start_ticks=8))], ["b"]),
            ([A], []),
        ],
        ids=["the same", "a new one", "a new one that is off", "started again", "one less"],
    )
    def test_names_who_runs_now_and_did_not(self, now: list[Guest], started: list[str]) -> None:
        census = Census(FakeGuests(now), a_plan(guests=(A, B)))
        outcome = census.do(Step(key="census", verb=Verb.CENSUS))
        assert outcome.figures["started"] == started

    def test_a_guest_that_was_off_and_runs_now_is_new(self) -> None:
        off = guest("a", state=GuestState.SHUT_OFF, process=None)
        census = Census(FakeGuests([A]), a_plan(guests=(off,)))
        assert census.do(Step(key="census", verb=Verb.CENSUS)).figures["started"] == ["a"]

    @pytest.mark.parametrize(
        ("state", "reason", "again", "words"),
        [
            (GuestState.SHUT_OFF, "saved", False, "something else saved it as it stood still"),
            (GuestState.SHUT_OFF, "destroyed", False, "it is shut off (destroyed)"),
            (GuestState.PAUSED, "user", True, "`virsh resume b` lets it run"),
            (GuestState.RUNNING, "booted", True, "ended it and started it again"),
        ],
    )
    def test_says_what_became_of_one_that_ended(
        self, state: GuestState, reason: str, again: bool, words: str
    ) -> None:
        process = replace(B.process, start_ticks=8) if again else None
        now = replace(B, state=state, reason=reason, process=process)
        outcome = Census(FakeGuests([A, now]), a_plan(guests=(A, B))).do(
            Step(key="census", verb=Verb.CENSUS)
        )
        assert list(outcome.guests) == [B.uuid]
        assert words in outcome.guests[B.uuid].reason

    def test_one_that_cannot_be_taken_says_so(self) -> None:
        guests = FakeGuests([])
        guests.error = LibvirtUnreachableError("no answer")
        outcome = Census(guests, a_plan("a")).do(Step(key="census", verb=Verb.CENSUS))
        assert (outcome.result, outcome.reason) == ("unread", "no answer")
