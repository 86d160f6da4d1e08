"""The full tier: a host with its own systemd, whose guests the witness sees from outside."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Guest, Lab, Tier, Witness
from lab.full import FullHost
from lab.host import Host
from lab.processes import all_processes, command_line
from lab.state import LabDirectory

LAB = Path(__file__).parent.parent.parent / "lab" / "lab"

WitnessOf = Callable[[Guest], Witness]


def as_full(host: Host) -> FullHost:
    """The host with what only this tier can do."""
    assert isinstance(host, FullHost)
    return host


def test_systemd_is_up_and_commands_run_in_scopes_of_it(full_host: Host) -> None:
    host = as_full(full_host)
    assert host.run("systemctl", "is-system-running") == "running\n"
    assert host.run("hostname") == "h1\n"
    assert ".scope" in host.run("cat", "/proc/self/cgroup").splitlines()[-1]
    unit = host.run("systemd-run", "--pipe", "--wait", "--quiet", "cat", "/proc/self/cgroup")
    assert ".service" in unit


def test_witness_sees_a_guest_from_outside(full_host: Host, witness: WitnessOf) -> None:
    host = as_full(full_host)
    guest = host.guest("g1")
    guest.wait_counting()
    seen = witness(guest)
    host.run("virsh", "suspend", "g1")
    assert seen.status() == "paused"
    host.run("virsh", "resume", "g1")
    seen.wait_for("RESUME")
    (pause,) = seen.pauses()
    assert pause.duration_ns is not None
    assert pause.duration_ns > 0


def test_libvirtd_is_frozen_killed_and_comes_back(full_host: Host, witness: WitnessOf) -> None:
    seen = witness(full_host.guest("g2"))
    full_host.freeze()
    assert seen.status() == "running"
    full_host.thaw()
    killed = full_host.libvirtd_pid()
    full_host.kill_libvirtd()
    full_host.start_libvirtd()
    assert full_host.libvirtd_pid() != killed
    assert full_host.guest("g2").state() == "running"


def test_a_reboot_gives_a_new_boot_id_and_ends_guests(full_host: Host) -> None:
    host = as_full(full_host)
    host.run("sh", "-c", "echo kept >/var/tmp/kept; echo gone >/run/gone")
    before = host.boot_id()
    host.reboot()
    assert host.boot_id() != before
    assert host.run("cat", "/var/tmp/kept") == "kept\n"
    assert not (host.inside / "run/gone").exists()
    assert [guest.status() for guest in host.guests] == ["off", "off"]


def test_root_can_log_in_by_ssh(full_host: Host) -> None:
    host = as_full(full_host)
    options = ("-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes")
    assert host.run("ssh", *options, "root@h1", "hostname") == "h1\n"


def test_a_package_is_installed_by_dpkg(full_host: Host) -> None:
    host = as_full(full_host)
    (package,) = host.provide_packages("libvirt-clients")
    assert "Setting up libvirt-clients" in host.run("dpkg", "-i", package)


def test_hostagent_runs_inside(full_host: Host) -> None:
    assert "hostagent" in as_full(full_host).run("hostagent", "--help")


def test_hosts_reach_each_other_and_nothing_else(make_full_lab: Callable[..., Lab]) -> None:
    lab = make_full_lab(hosts=2, guests=0)
    first, second = (as_full(host) for host in lab.hosts)
    options = ("-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes")
    assert first.run("ssh", *options, "root@h2", "hostname") == "h2\n"
    assert second.run("ip", "-4", "route", "show", "default") == ""
    assert first.boot_id() != second.boot_id()


def left_on_the_machine() -> set[str]:
    """Mounts, interfaces and control groups of the machine, and processes of labs named gone."""
    mounts = set(Path("/proc/self/mounts").read_text().splitlines())
    links = {path.name for path in Path("/sys/class/net").iterdir()}
    groups = {str(path) for path in Path("/sys/fs/cgroup").glob("**/halab-gone-*")}
    words = {word for process in all_processes() for word in command_line(process)}
    return mounts | links | groups | {word for word in words if "halab-gone" in word}


@pytest.mark.usefixtures("full_host")
def test_down_leaves_no_mount_interface_or_control_group() -> None:
    before = left_on_the_machine()
    lab = Lab.up("gone", Tier.FULL, guests=1)
    assert left_on_the_machine() > before
    lab.down()
    assert left_on_the_machine() == before
    assert not LabDirectory("gone").path.exists()


@pytest.mark.usefixtures("full_host")
@pytest.mark.parametrize("after_s", [1.0, 2.5, 5.0])
def test_down_after_a_killed_up_leaves_nothing(after_s: float) -> None:
    before = left_on_the_machine()
    up = subprocess.Popen(
        [LAB, "up", "--name", "gone", "--tier", "full", "--guests", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        up.wait(timeout=after_s)
    up.kill()
    up.wait()
    Lab.remove("gone")
    assert left_on_the_machine() == before
    assert not LabDirectory("gone").path.exists()
