"""From a request to a plan, or to a refusal that changed nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.core.codec import decode
from hostagent.core.errors import RefusedError
from hostagent.core.model import GuestState, Qmp
from hostagent.core.plan import Plan
from hostagent.rules.request import Request, S, Terms, plan, terms_of
from tests.rules.runs import HOST, facts, guest

A, B = guest("a"), guest("b")


def request(**changes: object) -> Request:
    names = ("guests", "ignore_running")
    outer = {name: changes.pop(name) for name in names if name in changes}
    return Request(terms=Terms(command=("update",), **changes), **outer)  # type: ignore[arg-type]


def test_all_that_run_are_chosen_and_the_rest_is_listed() -> None:
    off = guest("off", state=GuestState.SHUT_OFF, process=None)
    made = plan("run-1", request(), facts(A, off))
    assert [found.name for found in made.chosen] == ["a"]
    assert [found.name for found in made.guests] == ["a", "off"]


def test_no_guest_at_all_is_a_plan() -> None:
    assert plan("run-1", request(), facts()).guests == ()


def test_unknown_guest_refuses() -> None:
    with pytest.raises(RefusedError):
        plan("run-1", request(guests=("nobody",)), facts(A))


def test_a_living_command_of_an_earlier_run_refuses_with_its_pid() -> None:
    with pytest.raises(RefusedError, match="pid 4711") as refused:
        plan("run-1", request(), facts(A, running_commands={4711: "apt-get"}))
    assert not refused.value.changed


def test_ignore_running_goes_on_beside_it() -> None:
    plan("run-1", request(ignore_running=True), facts(A, running_commands={4711: "apt-get"}))


def test_a_guest_that_a_guardian_waits_for_refuses_who_chooses_it() -> None:
    held = {A.uuid: "run-0"}
    with pytest.raises(RefusedError, match="run-0"):
        plan("run-1", request(), facts(A, B, held=held))
    made = plan("run-1", request(guests=("b",)), facts(A, B, held=held))
    assert [found.name for found in made.chosen] == ["b"]


def test_a_running_guest_that_cannot_be_paused_safely_refuses() -> None:
    unknown = guest("c", process=None)
    with pytest.raises(RefusedError, match="guest c can't be paused"):
        plan("run-1", request(), facts(A, unknown))
    made = plan("run-1", request(allow_unpaused=True), facts(A, unknown))
    assert [found.name for found in made.chosen] == ["a"]


def test_without_qmp_the_plan_says_so() -> None:
    host = HOST.__class__(
        name="h",
        uri="u",
        uuid="x",
        daemon=None,
        qmp=Qmp(allowed=False, refusal="lockd is configured"),
    )
    (warning,) = plan("run-1", request(), facts(A, host=host)).warnings
    assert "lockd" in warning


@pytest.mark.parametrize(
    ("budget_ns", "reserve_ns"), [(30 * S, 2 * S), (4 * S, 2 * S), (3 * S, 3 * S // 2), (S, S // 2)]
)
def test_reserve(budget_ns: int, reserve_ns: int) -> None:
    assert Terms(command=("c",), budget_ns=budget_ns).reserve_ns == reserve_ns


WORDS = st.lists(st.text(), max_size=3).map(tuple)


@given(
    st.builds(
        Terms,
        command=WORDS,
        prepare=WORDS,
        verify=WORDS,
        rollback=WORDS,
        budget_ns=st.integers(1, 2**60),
        suspend_limit_ns=st.integers(1, 2**60),
        kill_after_ns=st.none() | st.integers(0, 2**60),
        allow_unpaused=st.booleans(),
        all_guests=st.booleans(),
    )
)
def test_terms_go_through_the_plan_unchanged(terms: Terms) -> None:
    made = plan("run-1", Request(terms=terms, ignore_running=True), facts(A))
    assert terms_of(made) == terms


def test_terms_of_a_newer_version_are_read_as_far_as_they_are_known() -> None:
    made = plan("run-1", request(), facts(A))
    newer = Plan(
        run=made.run,
        kind=made.kind,
        host=made.host,
        guests=made.guests,
        args={**made.args, "newer": 1},
    )
    assert terms_of(newer) == terms_of(made)
    assert decode(Terms, {"command": ["x"], "newer": 1}).command == ("x",)
