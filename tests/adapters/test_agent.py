"""Guests' clocks through their agents; agents that hang, are away or refuse."""

import time

from hostagent.adapters.libvirt import agent
from hostagent.adapters.libvirt.agent import LibvirtAgent
from hostagent.core.plan import PlannedGuest
from lab.host import Host

S = 1_000_000_000
Planned = dict[str, PlannedGuest]


def test_clocks_are_read_as_the_lab_reads_them(light_host: Host, planned: Planned) -> None:
    readings = LibvirtAgent(light_host.uri).read_clocks(list(planned.values()), 2 * S)
    for name in ("g1", "g2", "g4"):
        reading = readings[planned[name].uuid]
        from_inside = light_host.guest(name).clock()
        assert reading.offset_ns is not None
        assert reading.behind_ns is not None
        assert reading.uncertainty_ns is not None
        off = abs(reading.offset_ns - from_inside.guest_minus_host_ns)
        assert off < reading.uncertainty_ns + from_inside.uncertainty_ns + 20_000_000
        shift = time.time_ns() - time.monotonic_ns()
        assert abs(reading.behind_ns + reading.offset_ns + shift) < 20_000_000
    assert readings[planned["g3"].uuid].reason == agent.NO_AGENT


def test_two_readings_tell_how_long_a_guest_stood_still(light_host: Host, planned: Planned) -> None:
    reader = LibvirtAgent(light_host.uri)
    guest = light_host.guest("g1")
    before = reader.read_clocks([planned["g1"]], 2 * S)[guest.uuid]
    guest.suspend()
    time.sleep(1)
    guest.resume()
    after = reader.read_clocks([planned["g1"]], 2 * S)[guest.uuid]
    assert before.behind_ns is not None
    assert after.behind_ns is not None
    assert 1.0 <= (after.behind_ns - before.behind_ns) / S < 1.2


def test_an_agent_that_hangs_delays_no_other(light_host: Host, planned: Planned) -> None:
    light_host.guest("g1").freeze()
    began = time.monotonic()
    readings = LibvirtAgent(light_host.uri).read_clocks(list(planned.values()), S)
    assert time.monotonic() - began < 1.2
    assert readings[planned["g1"].uuid].reason == agent.NO_ANSWER
    assert readings[planned["g2"].uuid].offset_ns is not None
    assert readings[planned["g4"].uuid].offset_ns is not None
    light_host.guest("g1").thaw()


def test_a_guest_that_stands_still_says_so(light_host: Host, planned: Planned) -> None:
    light_host.guest("g1").suspend()
    readings = LibvirtAgent(light_host.uri).read_clocks([planned["g1"]], S)
    light_host.guest("g1").resume()
    assert readings[planned["g1"].uuid].reason == agent.NOT_RUNNING


def test_frozen_file_systems_are_named(light_host: Host, planned: Planned) -> None:
    guest = light_host.guest("g2")
    guest.call("freeze", lambda domain: domain.fsFreeze())  # type: ignore[attr-defined]
    reading = LibvirtAgent(light_host.uri).read_clocks([planned["g2"]], 2 * S)[guest.uuid]
    guest.call("thaw", lambda domain: domain.fsThaw())  # type: ignore[attr-defined]
    assert reading.reason == agent.FROZEN
    assert reading.offset_ns is None


def test_after_a_restart_of_libvirt_agents_are_waited_for(
    light_host: Host, planned: Planned
) -> None:
    light_host.restart_libvirtd()
    readings = LibvirtAgent(light_host.uri).read_clocks([planned["g1"], planned["g2"]], 2 * S)
    assert all(reading.offset_ns is not None for reading in readings.values())


def test_a_frozen_libvirt_costs_the_limit_and_no_more(light_host: Host, planned: Planned) -> None:
    light_host.freeze()
    began = time.monotonic()
    readings = LibvirtAgent(light_host.uri).read_clocks(list(planned.values()), S // 2)
    assert time.monotonic() - began < 0.8
    assert readings[planned["g1"].uuid].offset_ns is None
    light_host.thaw()
