"""Whoever fails or hangs in a move: exactly one copy runs afterwards, with its memory."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import libvirt
import pytest

from hostagent.adapters.libvirt.events import Events
from hostagent.adapters.libvirt.move_live import flags_of, parameters_of
from hostagent.core.move import Method
from lab import Lab
from lab.processes import wait_until
from tests.adapters.move_rig import Rig, S

SLOW = 8
"""MiB a second: the copying takes some ten seconds."""


@pytest.fixture
def rig(make_light_lab: Callable[..., Lab]) -> Iterator[Rig]:
    made = Rig(make_light_lab(hosts=2, guests=1))
    yield made
    made.close()


def goes_on_here(rig: Rig) -> bool:
    """It runs at the source, and only there, and goes on where it was."""
    count = rig.guest.counter()
    rig.guest.wait_counting(since=count)
    after = rig.guest.counter()
    assert count is not None
    assert after is not None
    return rig.is_on(rig.here) and 0 < after.number - count.number < 10


def at_hand_over(rig: Rig, act: Callable[[], None]) -> None:
    """Act as soon as the source stops for the hand-over."""
    events = Events(rig.here.uri, "the source")
    events.start(5 * S)
    since_ns = time.monotonic_ns()

    def wait() -> None:
        if events.await_name(rig.guest.uuid, "STOP", since_ns, since_ns + 60 * S):
            act()

    threading.Thread(target=wait, daemon=True).start()


def test_an_abort_leaves_it_where_it_is(rig: Rig) -> None:
    order = rig.order(bandwidth_mib_s=SLOW)
    moving = rig.begun_copying(order)
    rig.mover.abort(order)
    outcome = moving.outcome()
    assert outcome.result == "stayed"
    assert "aborted" in outcome.reason
    assert goes_on_here(rig)


@pytest.mark.campaign
@pytest.mark.parametrize("method", [Method.LIVE, Method.COLD, Method.SHUTDOWN, Method.SAVE])
def test_an_abort_that_overtakes_its_move_counts(rig: Rig, method: Method) -> None:
    order = rig.order(method)
    rig.mover.abort(order)
    outcome = rig.move(order)
    assert (outcome.result, outcome.reason) == ("stayed", "it was aborted")
    assert goes_on_here(rig)


def test_a_move_that_takes_too_long_ends_within_its_limit(rig: Rig) -> None:
    began = time.monotonic()
    outcome = rig.move(rig.order(bandwidth_mib_s=1, limit_s=4))
    assert outcome.result == "stayed"
    assert "within 4 s" in outcome.reason
    assert time.monotonic() - began < 15
    assert goes_on_here(rig)


@pytest.mark.campaign
def test_destination_libvirt_killed_while_copying(rig: Rig) -> None:
    moving = rig.begun_copying(rig.order(bandwidth_mib_s=SLOW))
    rig.there.kill_libvirtd()
    outcome = moving.outcome()
    assert outcome.result == "stayed"
    rig.there.start_libvirtd()
    assert goes_on_here(rig)


@pytest.mark.campaign
def test_destination_libvirt_frozen_while_copying_never_comes_to_the_hand_over(rig: Rig) -> None:
    moving = rig.begun_copying(rig.order(bandwidth_mib_s=SLOW))
    rig.there.freeze()
    outcome = moving.outcome()
    assert outcome.result == "stayed"
    assert "did not answer" in outcome.reason
    rig.there.thaw()
    wait_until(lambda: rig.is_on(rig.here), 20, "the end of the copy at the destination")
    assert goes_on_here(rig)


@pytest.mark.campaign
def test_destination_libvirt_frozen_before_it_begins(rig: Rig) -> None:
    rig.there.freeze()
    outcome = rig.move(rig.order())
    assert outcome.result == "stayed"
    rig.there.thaw()
    assert goes_on_here(rig)


@pytest.mark.campaign
def test_destination_libvirt_killed_in_the_hand_over(rig: Rig) -> None:
    at_hand_over(rig, lambda: rig.there.kill_libvirtd())
    outcome = rig.move(rig.order())
    rig.there.start_libvirtd()
    order = rig.order(limit_s=20)
    if outcome.result != "moved":
        outcome = rig.mover.look(order)
    assert outcome.result in ("stayed", "moved")
    wait_until(lambda: rig.is_on(rig.here) or rig.is_on(rig.there), 20, "one copy of the guest")
    rig.guest.wait_counting()


@pytest.mark.campaign
def test_destination_libvirt_frozen_in_the_hand_over_starts_no_second_copy(rig: Rig) -> None:
    pid = rig.there.libvirtd_pid()
    at_hand_over(rig, lambda: os.kill(pid, signal.SIGSTOP))
    outcome = rig.move(rig.order())
    assert outcome.result == "ambiguous"
    assert "end this guest's QEMU on the destination" in outcome.reason
    rig.there.thaw()
    assert rig.mover.look(rig.order(limit_s=30)).result == "stayed"
    wait_until(lambda: rig.is_on(rig.here), 20, "the end of the copy at the destination")
    assert goes_on_here(rig)


@pytest.mark.campaign
def test_a_definition_that_a_failed_move_left_at_the_destination_is_taken_back(rig: Rig) -> None:
    order = rig.order(bandwidth_mib_s=SLOW)
    moving = rig.begun_copying(order)
    libvirt.open(rig.there.uri).defineXML(rig.guest.definition())
    rig.mover.abort(order)
    assert moving.outcome().result == "stayed"
    assert goes_on_here(rig)


@pytest.mark.campaign
def begun_by_another(rig: Rig) -> threading.Thread:
    """A move whose hostagent is dead: libvirt carries it out, and nobody drives it."""
    order = rig.order(bandwidth_mib_s=SLOW)
    domain = libvirt.open(rig.here.uri).lookupByUUIDString(rig.guest.uuid)

    def call() -> None:
        with suppress(libvirt.libvirtError):
            domain.migrateToURI3(order.via, parameters_of(order), flags_of(order))

    thread = threading.Thread(target=call)
    thread.start()
    rig.copy_on(rig.there)
    return thread


def test_a_move_that_outlives_its_caller_is_found_and_waited_for(rig: Rig) -> None:
    call = begun_by_another(rig)
    assert rig.mover.look(rig.order(limit_s=60)).result == "moved"
    call.join(10)
    assert rig.is_on(rig.there)
    rig.guest.wait_counting()


def test_a_move_that_outlives_its_caller_is_ended_at_its_limit(rig: Rig) -> None:
    call = begun_by_another(rig)
    outcome = rig.mover.look(rig.order(limit_s=2))
    call.join(10)
    assert outcome.result == "stayed"
    assert "within 2 s" in outcome.reason
    wait_until(lambda: rig.is_on(rig.here), 20, "the end of the copy at the destination")
    assert goes_on_here(rig)


def test_destination_qemu_killed_while_copying(rig: Rig) -> None:
    moving = rig.begun_copying(rig.order(bandwidth_mib_s=SLOW))
    rig.copy_on(rig.there).send(signal.SIGKILL)
    assert moving.outcome().result == "stayed"
    assert goes_on_here(rig)


@pytest.mark.campaign
def test_destination_qemu_frozen_while_copying_ends_within_the_limit(rig: Rig) -> None:
    moving = rig.begun_copying(rig.order(bandwidth_mib_s=SLOW, limit_s=6))
    rig.copy_on(rig.there).send(signal.SIGSTOP)
    outcome = moving.outcome(40)
    assert outcome.result == "stayed"
    assert goes_on_here(rig)


@pytest.mark.campaign
def test_destination_qemu_frozen_as_it_appears_ends_within_the_limit(rig: Rig) -> None:
    moving = rig.begin(rig.order(limit_s=6))
    copy = rig.copy_on(rig.there)
    copy.send(signal.SIGSTOP)
    outcome = moving.outcome(40)
    assert outcome.result == "stayed"
    assert "within 6 s" in outcome.reason
    assert goes_on_here(rig)


@pytest.mark.campaign
def test_destination_qemu_frozen_in_the_hand_over_gives_the_guest_back(rig: Rig) -> None:
    at_hand_over(rig, lambda: rig.copy_on(rig.there).send(signal.SIGSTOP) or None)
    outcome = rig.move(rig.order())
    assert outcome.result == "stayed"
    assert goes_on_here(rig)


@pytest.mark.campaign
def test_source_libvirt_killed_while_copying_and_started_again(rig: Rig) -> None:
    moving = rig.begun_copying(rig.order(bandwidth_mib_s=SLOW))
    rig.here.kill_libvirtd()
    rig.here.start_libvirtd()
    assert moving.outcome().result == "stayed"
    assert goes_on_here(rig)


@pytest.mark.campaign
def test_source_libvirt_that_stays_away_is_waited_for_and_then_said(rig: Rig) -> None:
    moving = rig.begun_copying(rig.order(bandwidth_mib_s=SLOW))
    rig.here.kill_libvirtd()
    outcome = moving.outcome()
    assert outcome.result == "ambiguous"
    assert "start it again" in outcome.reason
    rig.here.start_libvirtd()
    assert rig.mover.look(rig.order(limit_s=20)).result == "stayed"
    assert goes_on_here(rig)


@pytest.mark.campaign
def test_source_libvirt_killed_after_the_guest_arrived_leaves_no_second_copy(rig: Rig) -> None:
    pid = rig.here.libvirtd_pid()
    events = Events(rig.there.uri, "the destination")
    events.start(5 * S)
    since_ns = time.monotonic_ns()
    moving = rig.begin(rig.order())
    assert events.await_name(rig.guest.uuid, "RESUME", since_ns, since_ns + 60 * S)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: rig.here.libvirtd() is None, 5, "end of libvirtd")
    rig.here.start_libvirtd()
    assert moving.outcome().result == "moved"
    assert rig.mover.settle(rig.order()).result == "settled"
    assert rig.is_on(rig.there)
    rig.guest.wait_counting()


@pytest.mark.campaign
def test_source_qemu_frozen_is_said_to_be_under_way_or_stays(rig: Rig) -> None:
    moving = rig.begun_copying(rig.order(bandwidth_mib_s=SLOW, limit_s=3))
    process = rig.copy_on(rig.here)
    process.send(signal.SIGSTOP)
    try:
        outcome = moving.outcome(90)
    finally:
        process.send(signal.SIGCONT)
    assert outcome.result in ("under-way", "ambiguous")
    assert rig.mover.look(rig.order(limit_s=20)).result == "stayed"
    assert rig.is_on(rig.here)
    assert rig.guest.status() == "running"
    # Its CPUs execute at once; its clock source (hpet, 32 bits of 10 ns, once round in 42.9 s) may
    # not: where it seems to have gone back, by up to half a round, the kernel lets time stand until
    # it is past again (clocksource_delta). Seen: frozen 62.5 s, counting at once; frozen 72.6 s and
    # 82.7 s, counting 86.3 s after the freeze began, twice round.
    rig.guest.wait_counting(25)


@pytest.mark.campaign
def test_a_guest_destroyed_in_mid_move_is_on_no_host(rig: Rig) -> None:
    moving = rig.begun_copying(rig.order(bandwidth_mib_s=SLOW))
    rig.copy_on(rig.here).send(signal.SIGKILL)
    outcome = moving.outcome()
    assert outcome.result == "stayed"
    assert "ended in mid-move" in outcome.reason
    assert rig.guest.where().active == ()


@pytest.mark.campaign
def test_a_guest_destroyed_before_it_was_sent_has_not_moved(rig: Rig) -> None:
    """The destination's QEMU is only being made then."""
    moving = rig.begin(rig.order(bandwidth_mib_s=SLOW))
    rig.copy_on(rig.there)
    rig.domain(rig.here).destroy()
    assert moving.outcome().result == "stayed"
    assert rig.guest.where().active == ()


def test_one_that_arrived_and_is_off_is_said_to_be_off(rig: Rig) -> None:
    outcome = rig.move(rig.order())
    assert (outcome.result, outcome.figures["state"]) == ("moved", "running")
    rig.guest.destroy()
    outcome = rig.mover.look(rig.order())
    assert (outcome.result, outcome.figures["state"]) == ("moved", "shut off")


def test_a_start_that_fails_on_the_other_host_brings_a_cold_guest_back(rig: Rig) -> None:
    rig.there.kill_libvirtd()
    rig.there.start_libvirtd()
    blocked = rig.there.port_directory("x").parent
    mode = blocked.stat().st_mode
    blocked.chmod(0)
    try:
        outcome = rig.move(rig.order(Method.COLD))
    finally:
        blocked.chmod(mode)
    assert outcome.result == "stayed"
    assert rig.is_on(rig.here)
    rig.guest.wait_booted()
