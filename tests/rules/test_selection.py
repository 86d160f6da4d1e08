"""Which guests a request means, and why some are left alone."""

import pytest

from hostagent.core.errors import RefusedError
from hostagent.core.model import AgentState, GuestState
from hostagent.rules.selection import planned, select, skip_reason
from tests.rules.runs import facts, guest

UUID = "0A1B2C3D-1111-2222-3333-444455556666"
A, B = guest("a", uuid=UUID.lower()), guest("b")
OFF = guest("off", state=GuestState.SHUT_OFF, process=None)


def test_no_name_means_all() -> None:
    assert select(facts(A, B), ()) == (A, B)


@pytest.mark.parametrize("selector", ["a", UUID, UUID.lower(), str(sum(b"a"))])
def test_by_name_uuid_and_id(selector: str) -> None:
    assert select(facts(A, B), (selector,)) == (A,)


def test_a_name_is_told_from_another_in_capitals() -> None:
    with pytest.raises(RefusedError):
        select(facts(A), ("A",))


def test_named_twice_is_chosen_once() -> None:
    assert select(facts(A, B), ("a", A.uuid, "b")) == (A, B)


def test_unknown_refuses_all() -> None:
    with pytest.raises(RefusedError, match="no guest 'nobody'") as refused:
        select(facts(A, B), ("a", "nobody"))
    assert refused.value.exit_code == 4
    assert refused.value.hint


def test_a_guest_that_is_off_has_no_id() -> None:
    with pytest.raises(RefusedError):
        select(facts(OFF), ("None",))
    assert select(facts(OFF), ("off",)) == (OFF,)


def test_a_name_that_is_anothers_id_is_ambiguous() -> None:
    twin = guest(str(sum(b"a")))
    with pytest.raises(RefusedError, match="more than one guest"):
        select(facts(A, twin), (twin.name,))


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        (GuestState.SHUT_OFF, "shutdown", "shut off (shutdown)"),
        (GuestState.PAUSED, "user", "paused (user)"),
        (GuestState.ASLEEP, "", "pmsuspended"),
        (GuestState.CRASHED, "panicked", "crashed (panicked)"),
        (GuestState.IN_SHUTDOWN, "user", "in shutdown (user)"),
        (GuestState.RUNNING, "booted", ""),
        (GuestState.IDLE, "", ""),
        (GuestState.NO_STATE, "", ""),
    ],
)
def test_skip_reasons(state: GuestState, reason: str, said: str) -> None:
    assert skip_reason(guest("a", state=state, reason=reason), "") == said


def test_one_that_its_job_paused_is_waited_for() -> None:
    paused = guest("a", state=GuestState.PAUSED, reason="migrating", job="migration")
    assert skip_reason(paused, "") == ""


def test_one_that_a_guardian_waits_for_is_left_alone() -> None:
    assert "run-0" in skip_reason(A, "run-0")


def test_one_without_a_process_cannot_be_resumed_safely() -> None:
    assert "process" in skip_reason(guest("a", process=None), "")


@pytest.mark.parametrize(
    ("agent", "asked"), [(state, state is AgentState.CONNECTED) for state in AgentState]
)
def test_only_a_connected_agent_is_asked(agent: AgentState, asked: bool) -> None:
    assert planned(guest("a", agent=agent), "").agent is asked
