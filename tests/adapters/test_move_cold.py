"""A cold move, and what its guest's owner, its hosts and the operator do in the middle of it.

Afterwards always: one copy at most, a guest that ran runs, and no host starts at boot what runs on
the other one.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator

import libvirt
import pytest

from hostagent.core.move import Method
from lab import Lab
from lab.errors import LabError
from lab.processes import wait_until
from tests.adapters.move_rig import Rig, S


@pytest.fixture
def rig(make_light_lab: Callable[..., Lab]) -> Iterator[Rig]:
    made = Rig(make_light_lab(hosts=2, guests=1))
    yield made
    made.close()


def owner_starts(rig: Rig) -> Callable[[], object]:
    return lambda: rig.domain(rig.here).create()


def runs_here_alone(rig: Rig) -> bool:
    rig.guest.wait_booted()
    return rig.is_on(rig.here)


@pytest.mark.parametrize(
    ("doing", "after"),
    [("reading its definition", False), ("defining it", True), ("starting it", False)],
    ids=["while it is copied", "after it was defined there", "as it is started there"],
)
def test_whose_owner_starts_it_at_the_source_stays_there(rig: Rig, doing: str, after: bool) -> None:
    rig.meddle(doing, owner_starts(rig), after=after)
    outcome = rig.move(rig.order(Method.COLD))
    assert outcome.result == "stayed"
    assert "started at the source" in outcome.reason
    assert runs_here_alone(rig)


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("doing", "after"),
    [
        ("reading its definition", False),
        ("defining it", True),
        ("removing the source's definition", False),
    ],
)
def test_one_that_is_off_and_is_started_by_its_owner_stays(
    rig: Rig, doing: str, after: bool
) -> None:
    rig.guest.destroy()
    rig.meddle(doing, owner_starts(rig), after=after)
    outcome = rig.move(rig.order(Method.OFFLINE, runs=False))
    assert outcome.result == "stayed"
    assert runs_here_alone(rig)


@pytest.mark.campaign
def test_a_source_that_falls_silent_keeps_its_guest(rig: Rig) -> None:
    rig.meddle("defining it", rig.here.freeze, after=True)
    outcome = rig.move(rig.order(Method.COLD))
    rig.here.thaw()
    assert outcome.result == "ambiguous"
    assert rig.guest.qemu_on(rig.there) is None
    rig.mover.look(rig.order(Method.COLD, limit_s=20, shutdown_ns=0))
    assert runs_here_alone(rig)


def boots(rig: Rig) -> None:
    """The source's libvirtd starts as after a boot of its host: it starts what is to be started."""
    for mark in rig.here.directory.rglob("autostarted"):
        mark.unlink()
    rig.here.start_libvirtd()


@pytest.mark.campaign
def test_no_second_copy_is_started_when_the_source_boots(rig: Rig) -> None:
    rig.domain(rig.here).setAutostart(1)
    order = rig.order(Method.COLD, autostart=True)
    rig.meddle("removing the source's definition", rig.here.kill_libvirtd)
    outcome = rig.move(order)
    assert outcome.result == "moved"
    assert rig.mover.settle(order).result == "unsettled"
    assert not rig.domain(rig.there).autostart()
    boots(rig)
    time.sleep(3)  # a start at boot is no event that could be waited for when it must not happen
    assert rig.guest.where().running == ("h2",)
    settled = rig.mover.settle(order)
    assert (settled.result, settled.reason) == ("settled", "")
    assert rig.domain(rig.there).autostart()
    assert rig.is_on(rig.there)
    rig.domain(rig.there).setAutostart(0)


@pytest.mark.campaign
def test_after_a_live_move_the_source_starts_no_second_copy_when_it_boots(rig: Rig) -> None:
    rig.domain(rig.here).setAutostart(1)
    order = rig.order(autostart=True, bandwidth_mib_s=8)
    moving = rig.begun_copying(order)
    assert not rig.domain(rig.here).autostart()
    rig.mover.abort(order)
    assert moving.outcome().result == "stayed"
    assert rig.domain(rig.here).autostart()
    assert rig.move(rig.order(autostart=True)).result == "moved"
    assert rig.mover.settle(order).result == "settled"
    assert rig.domain(rig.there).autostart()
    rig.domain(rig.there).setAutostart(0)


@pytest.mark.campaign
def test_a_guest_that_came_back_starts_at_boot_as_before(rig: Rig) -> None:
    rig.domain(rig.here).setAutostart(1)
    rig.meddle("starting it", rig.there.kill_libvirtd)
    threading.Timer(3, rig.there.start_libvirtd).start()
    outcome = rig.move(rig.order(Method.COLD, autostart=True))
    assert outcome.result == "stayed"
    assert rig.domain(rig.here).autostart()
    assert runs_here_alone(rig)
    rig.domain(rig.here).setAutostart(0)


@pytest.mark.campaign
@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_destination_that_fails_before_any_start_costs_no_guest(rig: Rig, fault: str) -> None:
    rig.meddle("defining it", rig.there.kill_libvirtd if fault == "killed" else rig.there.freeze)
    began = time.monotonic()
    outcome = rig.move(rig.order(Method.COLD, limit_s=25, shutdown_ns=5 * S))
    took_s = time.monotonic() - began
    rig.there.put_right()
    assert outcome.result == "stayed"
    assert took_s < 25 + 60
    rig.guest.wait_booted()
    assert rig.guest.where().running == ("h1",)
    assert rig.mover.look(rig.order(Method.COLD, limit_s=5, shutdown_ns=0)).result == "stayed"
    assert rig.is_on(rig.here)


def test_an_abort_before_the_start_brings_it_back(rig: Rig) -> None:
    order = rig.order(Method.COLD)
    rig.meddle("reading its definition", lambda: rig.mover.abort(order))
    outcome = rig.move(order)
    assert outcome.result == "stayed"
    assert "aborted" in outcome.reason
    assert runs_here_alone(rig)


@pytest.mark.campaign
@pytest.mark.parametrize("method", [Method.COLD, Method.SHUTDOWN])
def test_an_abort_while_it_shuts_down_brings_it_back(rig: Rig, method: Method) -> None:
    order = rig.order(method)
    rig.meddle("shutting down", lambda: rig.mover.abort(order), after=True)
    outcome = rig.move(order)
    assert outcome.result == "stayed"
    assert "aborted" in outcome.reason
    assert runs_here_alone(rig)


@pytest.mark.campaign
def test_a_guest_that_goes_off_right_after_its_time_moves_all_the_same(rig: Rig) -> None:
    outcome = rig.move(rig.order(Method.COLD, shutdown_ns=S // 10))
    assert outcome.result == "moved"
    assert rig.is_on(rig.there)
    rig.guest.wait_booted()


@pytest.mark.campaign
def test_a_start_without_an_answer_is_not_answered_by_one_at_the_source(rig: Rig) -> None:
    rig.meddle("starting it", rig.there.freeze)
    began = time.monotonic()
    order = rig.order(Method.COLD, limit_s=15, shutdown_ns=8 * S)
    outcome = rig.move(order)
    assert time.monotonic() - began < 15 + 60
    assert outcome.result == "ambiguous"
    assert rig.guest.where().running == ()
    rig.there.thaw()
    wait_until(lambda: rig.guest.where().running == ("h2",), 20, "the late start")
    assert rig.mover.look(order).result == "moved"
    assert rig.is_on(rig.there)


@pytest.mark.campaign
def test_a_qemu_that_hangs_in_its_start_has_not_arrived(rig: Rig) -> None:
    def freeze_it() -> None:
        rig.copy_on(rig.there).send(signal.SIGSTOP)

    rig.meddle("starting it", threading.Thread(target=freeze_it, daemon=True).start)
    began = time.monotonic()
    outcome = rig.move(rig.order(Method.COLD, limit_s=15, shutdown_ns=8 * S))
    assert time.monotonic() - began < 15 + 60
    assert outcome.result == "stayed"
    assert runs_here_alone(rig)


@pytest.mark.campaign
def test_a_guest_that_ends_as_soon_as_it_is_there_runs_where_it_was(rig: Rig) -> None:
    def kill_it() -> None:
        rig.copy_on(rig.there).send(signal.SIGKILL)
        wait_until(lambda: not _active_there(rig), 10, "libvirt's knowing of it")

    rig.meddle("starting it", kill_it, after=True)
    outcome = rig.move(rig.order(Method.COLD))
    assert outcome.result == "stayed"
    assert runs_here_alone(rig)


def _active_there(rig: Rig) -> bool:
    try:
        return bool(rig.domain(rig.there).isActive())
    except (libvirt.libvirtError, LabError):
        return False
