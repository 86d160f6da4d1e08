"""QEMU's events: with QEMU's own time on the monotonic clock, also after libvirt was replaced."""

import time
from collections.abc import Callable, Iterator

import pytest

from hostagent.adapters.host.clock import shift_ns
from hostagent.adapters.libvirt.events import Events
from hostagent.core.errors import LibvirtUnreachableError
from lab import Guest, Witness
from lab.host import Host

S = 1_000_000_000
AGREE_NS = 100_000


@pytest.fixture
def events(light_host: Host) -> Iterator[Events]:
    made = Events(light_host.uri, str(light_host.socket))
    made.start(5 * S)
    yield made
    made.close()


def test_an_event_has_qemus_time_on_the_monotonic_clock(
    light_host: Host, events: Events, witness: Callable[[Guest], Witness]
) -> None:
    guest = light_host.guest("g1")
    seen = witness(guest)
    called_ns = time.monotonic_ns()
    guest.suspend()
    stop = events.await_name(guest.uuid, "STOP", called_ns, called_ns + 2 * S)
    guest.resume()
    resume = events.await_name(guest.uuid, "RESUME", called_ns, called_ns + 2 * S)
    assert stop is not None
    assert resume is not None
    for event in (stop, resume):
        assert event.at_ns is not None
        told = seen.wait_for(event.name)
        assert told.wall_ns is not None
        assert abs(event.at_ns - (told.wall_ns - shift_ns())) < AGREE_NS
        assert called_ns < event.at_ns < event.received_ns
        assert abs(event.shift_ns - shift_ns()) < AGREE_NS
    assert [event.name for event in events.of(guest.uuid)] == ["STOP", "RESUME"]


def test_events_arrive_again_after_a_restart_of_libvirt(light_host: Host, events: Events) -> None:
    guest = light_host.guest("g1")
    light_host.kill_libvirtd()
    light_host.start_libvirtd()
    assert events.await_listening(5 * S)
    called_ns = time.monotonic_ns()
    guest.suspend()
    guest.resume()
    assert events.await_name(guest.uuid, "RESUME", called_ns, called_ns + 2 * S) is not None


def test_while_libvirt_is_away_nobody_listens(light_host: Host, events: Events) -> None:
    assert events.await_listening(0)
    light_host.kill_libvirtd()
    until = time.monotonic() + 2
    while events.await_listening(0):
        assert time.monotonic() < until
        time.sleep(0.01)
    light_host.start_libvirtd()


def test_a_frozen_libvirt_does_not_hold_up_the_start(light_host: Host) -> None:
    light_host.freeze()
    made = Events(light_host.uri, str(light_host.socket))
    with pytest.raises(LibvirtUnreachableError):
        made.start(S // 5)
    light_host.thaw()
    made.close()
