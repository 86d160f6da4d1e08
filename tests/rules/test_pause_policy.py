"""What guests' owners say to a pause, and what a run makes of it."""

import pytest

from hostagent.core.errors import RefusedError
from hostagent.core.plan import Plan
from hostagent.core.policy import GuestNotes, OnPause, Policy
from hostagent.rules.pause_policy import denial
from hostagent.rules.request import Request, S, Terms, plan
from tests.rules.runs import facts, guest

A, B = guest("a"), guest("b")


def noted(**policy: object) -> GuestNotes:
    return GuestNotes(policy=Policy(**policy))  # type: ignore[arg-type]


def made(notes: GuestNotes, *, force: bool = False, **terms: object) -> Plan:
    request = Request(terms=Terms(command=("update",), **terms), force=force)  # type: ignore[arg-type]
    return plan("run-1", request, facts(A, B, notes={A.uuid: notes}))


@pytest.mark.parametrize(
    ("notes", "reason", "hint"),
    [
        (noted(on_pause=OnPause.MIGRATE), "can't stand a pause", "--spare"),
        (noted(on_pause=OnPause.ASK), "wants to be asked", "--force"),
        (noted(max_pause_ns=5 * S), "may take 30s, and its owner allows 5s", "--budget 5s"),
        (GuestNotes(unread="no answer"), "could not be read: no answer", "guest show"),
    ],
)
def test_an_owner_who_does_not_allow_it_refuses_the_run(
    notes: GuestNotes, reason: str, hint: str
) -> None:
    with pytest.raises(RefusedError, match=reason) as refused:
        made(notes)
    assert hint in refused.value.hint
    left = made(notes, allow_unpaused=True)
    assert [found.name for found in left.chosen] == ["b"]
    assert reason.split(",")[0] in left.guests[0].skip
    assert [found.name for found in made(notes, force=True).chosen] == ["a", "b"]


def test_the_longest_pause_counts_with_the_budget() -> None:
    assert denial(noted(max_pause_ns=5 * S), 5 * S) is None
    assert made(noted(max_pause_ns=5 * S), budget_ns=4 * S).chosen == made(noted()).chosen


def test_one_that_is_off_needs_nobodys_leave() -> None:
    off = guest("a", process=None, state="shut off")
    request = Request(terms=Terms(command=("update",)))
    notes = {A.uuid: noted(on_pause=OnPause.ASK)}
    assert plan("run-1", request, facts(off, B, notes=notes)).guests[0].skip == "shut off"
