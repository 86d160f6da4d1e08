"""The light tier: hosts and guests do what tests ask of them, and the witness tells the truth."""

import signal
import time
from collections.abc import Callable

import pytest

from lab import Guest, Lab, Witness
from lab.audit import Expected, findings
from lab.host import Host
from lab.processes import wait_until

WitnessOf = Callable[[Guest], Witness]


def test_witness_tells_a_pause_as_long_as_it_was(light_host: Host, witness: WitnessOf) -> None:
    guest = light_host.guest("g1")
    seen = witness(guest)
    asked_ns = time.monotonic_ns()
    guest.suspend()
    suspended_ns = time.monotonic_ns()
    assert seen.status() == "paused"
    resume_ns = time.monotonic_ns()
    guest.resume()
    resumed_ns = time.monotonic_ns()
    seen.wait_for("RESUME")
    (pause,) = seen.pauses()
    assert pause.duration_ns is not None
    assert resume_ns - suspended_ns <= pause.duration_ns <= resumed_ns - asked_ns
    assert seen.status() == "running"


def test_witness_works_while_libvirtd_is_dead_or_frozen(
    light_host: Host, witness: WitnessOf
) -> None:
    guest = light_host.guest("g3")
    light_host.freeze()
    seen = witness(guest)
    assert seen.status() == "running"
    light_host.thaw()
    light_host.kill_libvirtd()
    assert seen.status() == "running"
    guest.wait_counting()
    light_host.start_libvirtd()


def test_witness_follows_a_guest_to_its_next_qemu(light_host: Host, witness: WitnessOf) -> None:
    guest = light_host.guest("g3")
    seen = witness(guest)
    guest.destroy()
    seen.wait_for("GONE")
    guest.start()
    guest.suspend()
    seen.wait_for("STOP")
    guest.resume()
    seen.wait_for("RESUME")
    assert [pause.resume is not None for pause in seen.pauses()] == [True]


@pytest.mark.parametrize("name", ["g1", "g2", "g3", "g4"])
def test_every_sort_counts_and_takes_commands(light_host: Host, name: str) -> None:
    guest = light_host.guest(name)
    guest.wait_counting()
    assert guest.shell("echo $((6 * 7))") == "42\n"
    hwclock = guest.shell("[ -e /sbin/hwclock ] && echo yes || echo no").strip()
    assert hwclock == "yes"
    mounted = guest.shell("grep -c /mnt /proc/mounts || true").strip()
    assert mounted == ("1" if name == "g2" else "0")


def test_a_guest_can_crash_and_sleep_and_is_brought_back(light_host: Host) -> None:
    crashed, asleep = light_host.guest("g3"), light_host.guest("g1")
    crashed.crash()
    asleep.sleep()
    light_host.restore()
    assert [guest.state() for guest in light_host.guests] == ["running"] * 4


def test_libvirtd_is_replaced_by_a_fresh_copy_while_guests_run(light_host: Host) -> None:
    before, qemu = light_host.libvirtd_pid(), light_host.guest("g1").qemu()
    light_host.replace_libvirtd_binary()
    light_host.restart_libvirtd()
    assert light_host.libvirtd_pid() != before
    assert light_host.guest("g1").qemu() == qemu
    assert light_host.guest("g1").state() == "running"


def test_the_audit_finds_what_was_left(fresh_light_host: Host) -> None:
    guest = fresh_light_host.guest("g1")
    nothing = Expected()
    assert findings(fresh_light_host, nothing) == []
    guest.suspend()
    assert findings(fresh_light_host, nothing) == ["g1 is paused"]
    assert findings(fresh_light_host, Expected(paused={"g1"})) == []
    guest.resume()
    guest.freeze()
    assert findings(fresh_light_host, nothing) == ["QEMU of g1 is stopped by a signal"]
    guest.thaw()
    fresh_light_host.kill_libvirtd(signal.SIGKILL)
    assert findings(fresh_light_host, nothing) == ["libvirtd of h1 is dead"]
    fresh_light_host.start_libvirtd()


def test_two_hosts_have_identities_of_their_own(make_light_lab: Callable[..., Lab]) -> None:
    lab = make_light_lab(hosts=2, guests=1)
    first, second = lab.hosts
    assert first.uuid != second.uuid
    assert first.libvirtd_pid() != second.libvirtd_pid()
    assert [guest.name for guest in lab.guests] == ["g1", "g2"]
    wait_until(lambda: second.guest("g2").state() == "running", 5, "second host's guest")
