"""Agents and clocks broken from inside, and put back."""

import time
from collections.abc import Callable

import pytest

from lab import Guest, GuestSort, GuestSpec, Lab, LabError
from lab.host import Host
from lab.inside import Hwclock
from lab.processes import wait_until

S = 1_000_000_000


def off_s(guest: Guest) -> float:
    return guest.clock().guest_minus_host_ns / S


def set_time(guest: Guest, ahead_s: int = 0) -> float:
    """By the agent; how long it took."""
    began = time.monotonic()
    wanted = {"seconds": int(time.time()) + ahead_s, "nseconds": 0}
    guest.call("setTime", lambda domain: domain.setTime(wanted))
    return time.monotonic() - began


def test_hwclock_is_what_the_test_wants(light_host: Host) -> None:
    guest = light_host.guest("g1")
    set_time(guest)
    guest.hwclock(Hwclock.FAILS)
    with pytest.raises(LabError, match="hwclock failed to set hardware clock"):
        set_time(guest, 100)
    assert 98 < off_s(guest) < 101
    guest.hwclock("slow", 1.5)
    assert 1.4 < set_time(guest) < 10
    guest.hwclock("missing")
    with pytest.raises(LabError, match="not currently supported"):
        set_time(guest)
    guest.restore()
    assert set_time(guest) < 1


def test_a_guest_made_without_hwclock_is_without_it_again(
    make_light_lab: Callable[..., Lab],
) -> None:
    other = make_light_lab(guests=[GuestSpec(sort=GuestSort.NO_HWCLOCK)]).hosts[0].guest("g1")
    other.hwclock("works")
    set_time(other)
    other.restore()
    with pytest.raises(LabError, match="not currently supported"):
        set_time(other)


def test_commands_are_blocked_until_they_are_not(light_host: Host) -> None:
    guest = light_host.guest("g1")
    guest.block_agent("guest-set-time", "guest-get-time")
    with pytest.raises(LabError, match="Command guest-set-time has been disabled"):
        set_time(guest)
    guest.block_agent()
    set_time(guest)
    guest.block_agent("guest-set-time")
    guest.restore()
    set_time(guest)


def test_an_agent_dies_hangs_and_is_brought_back(light_host: Host) -> None:
    guest = light_host.guest("g1")
    guest.kill_agent(respawn_s=1000)
    wait_until(lambda: not guest.agent_connected(), 5, "libvirt's view of it")
    guest.restore()
    guest.kill_agent(respawn_s=1)
    wait_until(lambda: not guest.agent_connected(), 5, "libvirt's view of it")
    guest.wait_agent(5)
    guest.stop_agent()
    with pytest.raises(LabError):
        guest.call("getTime", lambda domain: domain.getTime(), timeout_s=0.5)
    guest.continue_agent()
    guest.wait_agent(5)
    guest.stop_agent()
    guest.restore()
    assert abs(off_s(guest)) < 3


@pytest.mark.parametrize("seconds", [-3600.0, 0.25, 86_400.5])
def test_a_clock_steps_to_where_it_is_told_and_back(light_host: Host, seconds: float) -> None:
    guest = light_host.guest("g3")
    guest.step_clock(seconds)
    assert off_s(guest) == pytest.approx(seconds, abs=0.15)
    guest.restore()
    assert abs(off_s(guest)) < 3


def test_a_corrector_fights_until_it_is_stopped(light_host: Host) -> None:
    guest = light_host.guest("g3")
    guest.step_clock(0)
    guest.start_corrector()
    guest.step_clock(-50)
    wait_until(lambda: abs(off_s(guest)) < 3, 5, "correction")
    guest.restore()
    guest.step_clock(-50)
    time.sleep(0.5)  # nothing is to happen
    assert off_s(guest) < -49
