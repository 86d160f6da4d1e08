"""Calls that may hang begin apart; those that surely don't are not held up by each other."""

import itertools
import time
from contextlib import ExitStack

import pytest

from hostagent.adapters.libvirt.agent_pace import SEVERAL, Pace

APART_S = 0.2


@pytest.fixture
def pace() -> Pace:
    return Pace(APART_S)


def _begun_s(pace: Pace, stack: ExitStack, *uuids: str) -> list[float]:
    """When each of these calls, which all hang, began."""
    begun = []
    for uuid in uuids:
        stack.enter_context(pace.call(uuid))
        begun.append(time.monotonic())
    return begun


def test_calls_that_may_hang_begin_apart_once_several_are_under_way(pace: Pace) -> None:
    with ExitStack() as stack:
        begun = _begun_s(pace, stack, "a", "b", "c", "d")
    gaps = [after - before for before, after in itertools.pairwise(begun)]
    assert min(gaps[SEVERAL - 1 :]) >= APART_S * 0.99


def test_what_asks_no_agent_keeps_apart_from_them_too(pace: Pace) -> None:
    with ExitStack() as stack:
        begun = _begun_s(pace, stack, "a", "b")
        pace.keep_apart()
        assert time.monotonic() - begun[-1] >= APART_S * 0.99


def test_nothing_waits_after_an_agent_that_has_just_answered(pace: Pace) -> None:
    with pace.call("honest"):
        pass
    with ExitStack() as stack:
        _begun_s(pace, stack, "a", "b")
        pace.keep_apart()
        stack.enter_context(pace.call("honest"))
        began = time.monotonic()
        pace.keep_apart()
        assert time.monotonic() - began < APART_S / 2


def test_one_that_failed_is_not_taken_to_answer(pace: Pace) -> None:
    with pytest.raises(TimeoutError), pace.call("a"):
        raise TimeoutError
    with ExitStack() as stack:
        begun = _begun_s(pace, stack, "b", "c", "a")
        pace.keep_apart()
        assert time.monotonic() - begun[-1] >= APART_S * 0.99
