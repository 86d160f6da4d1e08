"""Real updates of a host: packages, libvirt-guests, a reboot; each around paused guests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Witness
from lab.processes import wait_until
from lab.update_packages import prepare
from tests.conftest import Audit
from tests.full.inside import Inside
from tests.run import killing
from tests.run.tool import Ended, wait_for

AGREE_S = 0.002
BOOT_S = 90


def agree(ended: Ended, witnesses: dict[str, Witness]) -> None:
    """The report's pauses are those that the witnesses saw."""
    for name, witness in witnesses.items():
        (pause,) = witness.pauses()
        assert pause.duration_ns is not None
        guest = ended.guest(name)
        assert guest["result"] == "paused"
        assert abs(guest["pause_s"] - pause.duration_ns / 1e9) <= AGREE_S


def test_packages_of_libvirt(inside: Inside, witnesses: dict[str, Witness]) -> None:
    """Its maintainer scripts restart libvirtd while guests stand still."""
    update = prepare(inside.inner, qemu=False)
    before = inside.inner.libvirtd_pid()
    ended = inside.run("run", "--budget", "60s", "--", *update)
    assert (ended.code, ended.document["result"]) == (0, "done"), ended
    assert "Setting up libvirt-daemon-system" in ended.stderr
    assert inside.inner.libvirtd_pid() != before
    agree(ended, witnesses)
    assert inside.unfinished() == []
    inside.wait_tidy()


@pytest.mark.campaign
def test_packages_of_qemu_and_libvirt(inside: Inside, witnesses: dict[str, Witness]) -> None:
    """From one of Debian's builds of QEMU to the other; guests go on with the one they have."""
    update = prepare(inside.inner)
    before = [guest.qemu_pid() for guest in inside.inner.guests]
    ended = inside.run("run", "--budget", "120s", "--", *update)
    assert (ended.code, ended.document["result"]) == (0, "done"), ended
    assert [guest.qemu_pid() for guest in inside.inner.guests] == before
    agree(ended, witnesses)
    inside.wait_tidy()


@pytest.fixture
def libvirt_guests(inside: Inside) -> Iterator[Path]:
    """The settings of libvirt-guests on this host, for this test to change."""
    path = inside.inner.root / "etc/default/libvirt-guests"
    before = path.read_text()
    yield path
    path.write_text(before)


RESTART = ("run", "--budget", "60s", "--", "systemctl", "restart", "libvirt-guests")


@pytest.mark.usefixtures("witnesses")
def test_libvirt_guests_saves_what_stands_still(inside: Inside, libvirt_guests: Path) -> None:
    """Reported as saved by something else; nothing starts what hostagent did not stop."""
    libvirt_guests.write_text("ON_SHUTDOWN=suspend\nON_BOOT=ignore\n")
    ended = inside.run(*RESTART)
    assert (ended.code, ended.document["result"]) == (3, "partly"), ended
    for guest in ended.document["guests"]:
        assert (guest["result"], guest["pause_s"]) == ("gone", None)
        assert "something else saved it" in guest["reason"]
    assert inside.run("recover").document["runs"] == []
    assert [guest.state() for guest in inside.inner.guests] == ["shut off", "shut off"]
    inside.wait_tidy()


@pytest.mark.usefixtures("witnesses")
def test_libvirt_guests_saves_and_starts_what_stands_still(
    inside: Inside, libvirt_guests: Path, audit: Audit
) -> None:
    """A guest that was saved as it stood still does so again when it is started. That is another
    process, which hostagent never paused: it is not touched, but a person is told what to do."""
    for guest in inside.inner.guests:
        audit.expect_paused(guest)
    libvirt_guests.write_text("ON_SHUTDOWN=suspend\nON_BOOT=start\n")
    ended = inside.run(*RESTART)
    assert (ended.code, ended.document["result"]) == (3, "partly"), ended
    for guest in ended.document["guests"]:
        assert guest["result"] == "gone"
        assert f"`virsh resume {guest['name']}`" in guest["reason"]
    assert inside.run("recover").document["runs"] == []
    assert [guest.state() for guest in inside.inner.guests] == ["paused", "paused"]
    inside.wait_tidy()


def test_libvirt_guests_shuts_down_what_stands_still(
    inside: Inside, witnesses: dict[str, Witness], libvirt_guests: Path
) -> None:
    """A guest that stands still can't hear of it, and runs afterwards."""
    libvirt_guests.write_text("ON_SHUTDOWN=shutdown\nSHUTDOWN_TIMEOUT=3\nON_BOOT=ignore\n")
    ended = inside.run(*RESTART)
    assert (ended.code, ended.document["result"]) == (0, "done"), ended
    agree(ended, witnesses)
    assert [guest.state() for guest in inside.inner.guests] == ["running", "running"]


@pytest.mark.usefixtures("witnesses")
def test_the_host_is_reset(inside: Inside) -> None:
    """As by its power switch: nobody had the time to end anything."""
    before = inside.inner.leader()
    assert before is not None
    reset = "systemctl reboot --force --force; exec sleep 60"
    inside.start_unit("run", "--", "sh", "-c", reset)
    wait_until(lambda: not before.alive(), BOOT_S, "the host going down")
    inside.inner.wait_booted()
    (run,) = inside.unfinished()
    assert killing.without_end(inside) == [run]
    (recovered,) = inside.run("recover").document["runs"]
    assert (recovered["run"], recovered["result"]) == (run, "interrupted")
    for guest in recovered["guests"]:
        assert guest["result"] == "gone"
        assert "started anew" in guest["reason"]
    assert inside.unfinished() == []
    assert [guest.status() for guest in inside.inner.guests] == ["off", "off"]
    inside.inner.start_libvirtd()


@pytest.mark.campaign
def test_the_host_is_rebooted(inside: Inside, witnesses: dict[str, Witness]) -> None:
    """As by its administrator: hostagent is told to end first, and guests run until they are shut
    down."""
    process = inside.start_unit("run", "--", *inside.update.until_told())
    killing.wait_paused(witnesses.values())
    wait_for(lambda: inside.update.began() == 1, 10, "the update to begin")
    inside.inner.reboot()
    process.wait(10)
    for witness in witnesses.values():
        assert "RESUME" in [event.name for event in witness.events]
    assert inside.unfinished() == []
    assert inside.run("recover").code == 0
