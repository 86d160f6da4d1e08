"""Guests that are to move, read from a real host."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt
import pytest

from hostagent.adapters.libvirt import metadata, words
from hostagent.adapters.libvirt.movable import read_guests
from hostagent.adapters.libvirt.move_host import read_host
from hostagent.core.errors import LibvirtUnreachableError
from hostagent.core.model import GuestState
from hostagent.core.move import Movable
from hostagent.core.policy import Home, OnReboot, Policy
from lab import Guest
from lab.calls import connection
from lab.host import Host
from lab.processes import wait_until

S = 1_000_000_000


def read(host: Host, seconds: float = 10) -> dict[str, Movable]:
    return {guest.name: guest for guest in read_guests(host.uri, None, int(seconds * S))}


@contextmanager
def domain(guest: Guest) -> Iterator[libvirt.virDomain]:
    with connection(guest.host.uri) as conn:
        yield conn.lookupByUUIDString(guest.uuid)


def test_all_that_a_move_depends_on_is_read(light_host: Host) -> None:
    guests = read(light_host)
    assert list(guests) == ["g1", "g2", "g3", "g4"]
    g1, g2, g3 = guests["g1"], guests["g2"], guests["g3"]
    assert g1.uuid == light_host.guest("g1").uuid
    assert (g1.state, g1.job, g1.persistent, g1.autostart) == (GuestState.RUNNING, "", True, False)
    assert (g1.memory_kib, g1.cpus, g1.arch) == (128 * 1024, 1, "x86_64")
    assert g1.machine.startswith("pc-q35-")
    assert g1.emulator.endswith("/qemu-system-x86_64")
    assert g1.kind == light_host.accelerator
    assert g1.cpu.startswith("<cpu ")
    assert (g1.agent, g1.channel, g1.frozen) == (True, True, False)
    assert (g3.agent, g3.channel, g3.frozen) == (False, False, None)
    assert len(g1.files) == 2  # kernel and initramfs
    assert (g1.unmovable, g1.snapshots, g1.networks, g1.problems) == ((), (), (), ())
    assert (g1.policy, g1.home) == (Policy(), "")
    [disk] = g2.disks
    assert (disk.target, disk.source) == ("vda", str(light_host.guest("g2").files.disk))
    assert (disk.kind, disk.format, disk.shared) == ("file", "qcow2", False)
    assert disk.capacity_kib == 64 * 1024
    assert 0 < disk.allocation_kib < disk.capacity_kib
    assert len(disk.backing) == 1


def test_only_those_that_are_asked_for(light_host: Host) -> None:
    wanted = [light_host.guest("g2").uuid, "00000000-0000-4000-8000-000000000000"]
    assert [guest.name for guest in read_guests(light_host.uri, wanted, 10 * S)] == ["g2"]
    assert read_guests(light_host.uri, [], 10 * S) == ()


def test_policy_and_breadcrumb_come_from_the_guest(light_host: Host) -> None:
    policy = Policy(availability_set="db", on_reboot=(OnReboot.LIVE, OnReboot.COLD))
    guest = light_host.guest("g1")
    with domain(guest) as found:
        metadata.write_policy(found, policy)
        metadata.write_home(found, Home(host_uuid=light_host.uuid))
    try:
        seen = read(light_host)["g1"]
        assert (seen.policy, seen.home) == (policy, light_host.uuid)
        sets = {
            each.name: each.availability_set for each in read_host(light_host.uri, 9 * S).guests
        }
        assert sets == {"g1": "db", "g2": "", "g3": "", "g4": ""}
    finally:
        with domain(guest) as found:
            metadata.write_home(found, None)
            metadata.write_policy(found, Policy())


def test_autostart_and_what_is_off(light_host: Host) -> None:
    guest = light_host.guest("g2")
    guest.call("autostart", lambda found: found.setAutostart(1))
    guest.destroy()
    try:
        off = read(light_host)["g2"]
        assert (off.state, off.reason, off.active) == (GuestState.SHUT_OFF, "destroyed", False)
        assert (off.autostart, off.frozen, off.channel) == (True, None, True)
        assert off.disks[0].capacity_kib == 64 * 1024
    finally:
        guest.call("autostart", lambda found: found.setAutostart(0))


def test_a_snapshot_is_named(light_host: Host) -> None:
    guest = light_host.guest("g2")
    guest.destroy()
    snapshot = guest.call(
        "snapshot",
        lambda found: found.snapshotCreateXML("<domainsnapshot><name>s1</name></domainsnapshot>"),
    )
    try:
        assert read(light_host)["g2"].snapshots == ("s1",)
    finally:
        snapshot.delete()


def test_a_saved_guest_is_off_with_its_memory_kept(light_host: Host) -> None:
    guest = light_host.guest("g3")
    guest.call("save", lambda found: found.managedSave(0))
    seen = read(light_host)["g3"]
    assert (seen.state, seen.reason, seen.managed_save) == (GuestState.SHUT_OFF, "saved", True)
    guest.start()
    assert not read(light_host)["g3"].managed_save


def test_a_transient_guest_is_not_persistent(light_host: Host) -> None:
    guest = light_host.guest("g3")
    guest.call("undefine", lambda found: found.undefine())
    try:
        assert not read(light_host)["g3"].persistent
    finally:
        guest.define()
    assert read(light_host)["g3"].persistent


def test_a_guest_paused_by_its_owner_is_not_asked(light_host: Host) -> None:
    guest = light_host.guest("g1")
    guest.suspend()
    seen = read(light_host)["g1"]
    assert (seen.state, seen.reason) == (GuestState.PAUSED, words.USER)
    assert (seen.frozen, seen.job) == (None, "")
    guest.resume()


def test_frozen_file_systems_are_told_without_a_taint(light_host: Host) -> None:
    guest = light_host.guest("g2")
    guest.call("freeze", lambda found: found.fsFreeze())
    try:
        seen = read(light_host)
        assert (seen["g2"].frozen, seen["g1"].frozen) == (True, False)
    finally:
        guest.call("thaw", lambda found: found.fsThaw())
    assert read(light_host)["g2"].frozen is False
    log = light_host.directory / "k" / "libvirt" / "qemu" / "log" / "g2.log"
    assert "custom-argv" in log.read_text()  # the lab's own; so taints would be here
    assert "custom-ga-command" not in log.read_text()


def test_an_agent_that_hangs_holds_nobody_up(light_host: Host) -> None:
    guest = light_host.guest("g1")
    guest.stop_agent()
    began = time.monotonic()
    seen = read(light_host)
    assert time.monotonic() - began < 6
    assert (seen["g1"].frozen, seen["g1"].job) == (None, "")
    assert (seen["g2"].frozen, seen["g4"].frozen) == (False, False)
    guest.continue_agent()


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_guest_that_hangs_spoils_no_other(light_host: Host, asked_before: bool) -> None:
    hung = light_host.guest("g2")
    hung.freeze()
    try:
        if asked_before:  # then somebody's call holds its monitor already
            assert read(light_host)["g2"].job == words.UNANSWERED
        began = time.monotonic()
        seen = read(light_host)
        assert time.monotonic() - began < 6
    finally:
        hung.thaw()
    assert seen["g2"].job == words.UNANSWERED
    assert seen["g2"].machine == seen["g1"].machine
    assert {seen[name].job for name in ("g1", "g3", "g4")} == {""}
    assert {seen[name].frozen for name in ("g1", "g4")} == {False}
    wait_until(lambda: read(light_host)["g2"].job == "", 20, "an answer of the guest's QEMU")


def test_a_libvirtd_that_hangs_is_told_in_time(light_host: Host) -> None:
    light_host.freeze()
    began = time.monotonic()
    try:
        for reading in (
            lambda: read(light_host, 1.5),
            lambda: read_host(light_host.uri, 3 * S // 2),
        ):
            with pytest.raises(LibvirtUnreachableError, match=r"did not answer within 1\.5 s"):
                reading()
    finally:
        took = time.monotonic() - began
        light_host.thaw()
    assert took < 5


def test_a_libvirtd_that_is_dead_is_told_with_a_cure(fresh_light_host: Host) -> None:
    fresh_light_host.kill_libvirtd()
    with pytest.raises(LibvirtUnreachableError) as caught:
        read(fresh_light_host)
    assert "start that libvirt" in caught.value.hint
    with pytest.raises(LibvirtUnreachableError):
        read_host(fresh_light_host.uri, 5 * S)
    fresh_light_host.start_libvirtd()


def test_a_host_is_read(light_host: Host) -> None:
    host = read_host(light_host.uri, 10 * S)
    assert (host.uri, host.uuid, host.arch) == (light_host.uri, light_host.uuid, "x86_64")
    assert (host.qemu, host.libvirt) == (
        light_host.guest("g1").call("version", lambda found: found.connect().getVersion()),
        light_host.guest("g1").call("version", lambda found: found.connect().getLibVersion()),
    )
    assert 0 < host.free_kib < host.memory_kib
    assert [(guest.name, guest.active, guest.memory_kib) for guest in host.guests] == [
        (f"g{number}", True, 128 * 1024) for number in range(1, 5)
    ]
    assert (host.clock_ahead_ns, host.clock_uncertainty_ns) == (0, 0)
    light_host.guest("g4").destroy()
    last = read_host(light_host.uri, 10 * S).guests[-1]
    assert (last.active, last.memory_kib) == (False, 128 * 1024)
