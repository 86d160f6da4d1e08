"""Guests really move between two hosts, and arrive as they left."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import libvirt
import pytest

from hostagent.adapters.libvirt import metadata
from hostagent.core.move import Measure, Method, Stage
from lab import GuestSort, GuestSpec, Lab
from tests.adapters.move_rig import Rig, S
from tests.conftest import Audit


@pytest.fixture
def rig(make_light_lab: Callable[..., Lab]) -> Iterator[Rig]:
    made = Rig(make_light_lab(hosts=2, guests=1))
    yield made
    made.close()


def test_a_live_guest_goes_there_and_back_with_its_memory(rig: Rig) -> None:
    before, pid = rig.guest.counter(), rig.guest.qemu_pid()
    rig.guest.shell("echo kept >/tmp/kept; exec 9</tmp/kept")
    there = rig.move(rig.order())
    assert (there.result, there.reason) == ("moved", "")
    assert rig.is_on(rig.there)
    assert rig.guest.qemu_pid() != pid
    rig.guest.wait_counting()
    after = rig.guest.counter()
    assert before is not None
    assert after is not None
    assert after.uptime_s > before.uptime_s
    assert rig.guest.shell("cat /tmp/kept").strip() == "kept"
    assert there.figures["downtime_source"] == "events"
    events, qemu = there.figures["downtime_events_ns"], there.figures["downtime_qemu_ns"]
    assert isinstance(events, int)
    assert isinstance(qemu, int)
    assert 0 < events < there.figures["total_ns"]  # type: ignore[operator]
    assert abs(events - qemu) < 50_000_000
    assert rig.move(rig.order(back=True)).result == "moved"
    assert rig.is_on(rig.here)
    rig.guest.wait_counting()


def test_settling_brings_autostart_and_the_note_of_its_home_and_may_be_repeated(rig: Rig) -> None:
    order = rig.order(autostart=True, home=rig.here.uuid, home_name="h1")
    assert rig.move(order).result == "moved"
    for _ in range(2):
        assert rig.mover.settle(order).result == "settled"
    domain = libvirt.open(rig.there.uri).lookupByUUIDString(rig.guest.uuid)
    assert domain.autostart() == 1
    home = metadata.read(domain).home
    assert home is not None
    assert (home.host_uuid, home.host_name) == (rig.here.uuid, "h1")
    back = rig.order(back=True, home="")
    assert rig.move(back).result == "moved"
    assert rig.mover.settle(back).result == "settled"
    domain = libvirt.open(rig.here.uri).lookupByUUIDString(rig.guest.uuid)
    assert domain.autostart() == 0
    assert metadata.read(domain).home is None


@pytest.mark.campaign
def test_a_guest_that_its_owner_paused_moves_and_stays_paused(rig: Rig, audit: Audit) -> None:
    rig.guest.suspend()
    audit.expect_paused(rig.guest)
    assert rig.move(rig.order()).result == "moved"
    assert rig.is_on(rig.there)
    assert rig.guest.status() == "paused"
    rig.guest.resume()
    rig.guest.wait_counting()


@pytest.mark.campaign
def test_a_transient_guest_moves_and_stays_transient(rig: Rig) -> None:
    libvirt.open(rig.here.uri).lookupByUUIDString(rig.guest.uuid).undefine()
    outcome = rig.move(rig.order())
    assert (outcome.result, outcome.reason) == ("moved", "")
    where = rig.guest.where()
    assert (where.running, where.active, where.defined) == (("h2",), ("h2",), ())
    assert rig.move(rig.order(back=True)).result == "moved"
    assert rig.guest.where().defined == ()
    rig.guest.define()


@pytest.mark.campaign
def test_a_transient_guest_is_not_shut_down_to_be_moved(rig: Rig) -> None:
    libvirt.open(rig.here.uri).lookupByUUIDString(rig.guest.uuid).undefine()
    outcome = rig.move(rig.order(Method.COLD))
    assert outcome.result == "stayed"
    assert "transient" in outcome.reason
    rig.guest.wait_counting()
    rig.guest.define()


def test_a_cold_move_shuts_down_and_starts_on_the_other_host(rig: Rig) -> None:
    outcome = rig.move(rig.order(Method.COLD))
    assert (outcome.result, outcome.reason) == ("moved", "")
    assert outcome.figures["downtime_source"] == "shutdown-to-start"
    assert rig.is_on(rig.there)
    rig.guest.wait_booted()


@pytest.mark.campaign
def test_a_guest_that_is_off_moves_as_it_is(rig: Rig) -> None:
    rig.guest.destroy()
    outcome = rig.move(rig.order(Method.OFFLINE, runs=False))
    assert (outcome.result, outcome.reason) == ("moved", "")
    where = rig.guest.where()
    assert (where.active, where.defined) == ((), ("h2",))
    assert rig.mover.look(rig.order(Method.OFFLINE, runs=False)).result == "moved"


@pytest.mark.campaign
def test_a_saved_state_is_not_lost_by_a_move(rig: Rig) -> None:
    assert rig.move(rig.order(Method.SAVE)).result == "saved"
    assert rig.mover.look(rig.order(Method.SAVE)).result == "saved"
    outcome = rig.move(rig.order(Method.OFFLINE, runs=False))
    assert outcome.result == "stayed"
    assert "saved state" in outcome.reason
    rig.guest.start(wait=False)
    rig.guest.wait_counting()


@pytest.mark.campaign
def test_a_guest_is_shut_down_where_it_is(rig: Rig) -> None:
    order = rig.order(Method.SHUTDOWN)
    assert rig.move(order).result == "shut-down"
    assert rig.mover.look(order).result == "shut-down"
    assert rig.guest.where().active == ()


def test_a_guest_that_ignores_the_power_button_is_left_running(
    make_light_lab: Callable[..., Lab],
) -> None:
    rig = Rig(make_light_lab(hosts=2, guests=[GuestSpec(sort=GuestSort.PLAIN)]))
    outcome = rig.move(rig.order(Method.COLD, shutdown_ns=3 * S))
    assert outcome.result == "stayed"
    assert "did not shut down within 3 s" in outcome.reason
    assert rig.is_on(rig.here)
    rig.guest.wait_counting()


@pytest.mark.campaign
def test_progress_is_told_about_once_a_second(rig: Rig) -> None:
    assert rig.move(rig.order(bandwidth_mib_s=20)).result == "moved"
    assert len(rig.told) >= 3
    assert all(
        before.sent_b <= after.sent_b for before, after in zip(rig.told, rig.told[1:], strict=False)
    )
    assert any(progress.left_ns for progress in rig.told)


@pytest.mark.campaign
def test_where_qemu_can_do_no_post_copy_it_moves_without(rig: Rig) -> None:
    order = rig.order()
    last = Stage(after_ns=30 * S, measure=Measure.POST_COPY)
    order = replace(order, convergence=(*order.convergence[:-1], last, order.convergence[-1]))
    outcome = rig.move(order)
    assert outcome.result == "moved"
    assert outcome.reason in ("", "without post-copy, which QEMU can't do between these hosts")
    assert rig.is_on(rig.there)
