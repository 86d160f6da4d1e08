"""Whose STOP it was: times of events against the call, with wall clocks that were set meanwhile.

Pure: a machine's clock is never set for a test.
"""

import pytest

from hostagent.adapters.libvirt.events import Event
from hostagent.adapters.libvirt.suspension import Ours

MS = 1_000_000
S = 1_000 * MS
CALLED = 100 * S
SHIFT = 5_000 * S
OURS = Ours(called_ns=CALLED, returned_ns=CALLED + 3 * MS, shift_ns=SHIFT)


def stop(at_ns: int | None, received_ns: int, shift_ns: int = SHIFT) -> Event:
    return Event(uuid="u", name="STOP", at_ns=at_ns, received_ns=received_ns, shift_ns=shift_ns)


def test_our_own_stop_comes_after_our_call() -> None:
    assert not OURS.precedes(stop(CALLED + MS, CALLED + 2 * MS))


def test_an_owners_stop_is_told_by_qemus_time_though_it_arrives_later() -> None:
    assert OURS.precedes(stop(CALLED - 2 * MS, CALLED + MS))
    assert OURS.precedes(stop(CALLED - 2 * MS, CALLED - MS))


@pytest.mark.parametrize("step_ns", [90 * S, -90 * S, S // 2, -S // 2])
def test_a_clock_that_was_set_makes_our_stop_nobody_elses(step_ns: int) -> None:
    """Set after the event and before its receipt: the converted time is off by the step."""
    event = stop(CALLED + MS - step_ns, CALLED + 2 * MS, SHIFT + step_ns)
    assert not OURS.precedes(event)


@pytest.mark.parametrize("off_ns", [90 * S, -90 * S])
def test_a_qemu_with_a_clock_of_its_own_is_judged_by_receipt(off_ns: int) -> None:
    assert not OURS.precedes(stop(CALLED + MS + off_ns, CALLED + 2 * MS))
    assert OURS.precedes(stop(CALLED - 2 * MS + off_ns, CALLED - MS))


def test_a_qemu_that_cannot_read_its_clock_is_judged_by_receipt() -> None:
    assert not OURS.precedes(stop(None, CALLED + 2 * MS))
    assert OURS.precedes(stop(None, CALLED - MS))


def test_what_comes_after_our_stop_is_anothers_doing() -> None:
    own = stop(CALLED + MS, CALLED + 2 * MS)
    ours = Ours(called_ns=CALLED, returned_ns=CALLED + 3 * MS, shift_ns=SHIFT, stop=own)
    assert not ours.is_after(own)
    assert ours.is_after(stop(CALLED + S, CALLED + S + MS))


def test_without_an_answer_only_what_follows_the_call_counts() -> None:
    late = Ours(called_ns=CALLED, returned_ns=0, shift_ns=SHIFT)
    assert not late.is_after(stop(CALLED - S, CALLED - S))
