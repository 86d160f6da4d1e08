"""Two hosts: guests that move between them are found, judged and brought back; virsh moves them."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Guest, GuestSort, GuestSpec, Lab, MoveWitness, Shutdown
from lab.audit import Expected, findings, findings_of_moves
from lab.host import Host
from lab.owner import owned
from lab.processes import wait_until

MoveWitnessOf = Callable[[Guest], MoveWitness]
S = 1_000_000_000
URN = "urn:hostagent:guest:1"


def virsh(host: Host, *words: str) -> str:
    """What virsh says; it has to succeed."""
    command = host.command(["virsh", "-c", host.uri, *words])
    done = subprocess.run(
        command, env=host.env, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def words_of_a_move(guest: Guest, destination: Host, *options: str) -> list[str]:
    """A live move in virsh's words. Both light hosts have the same disks, which libvirt can't know:
    it calls such a move unsafe."""
    how = ["--live", "--p2p", *options]
    if guest.sort is GuestSort.DISK:
        how.append("--unsafe")
    if not guest.spec.transient:
        how += ["--persistent", "--undefinesource"]
    stream = f"unix://{destination.move_directory}/{guest.name}.sock"
    return ["migrate", *how, guest.name, destination.move_uri, stream]


def move(guest: Guest, source: Host, destination: Host) -> None:
    """Move it live."""
    virsh(source, *words_of_a_move(guest, destination))


def start_move(
    guest: Guest, source: Host, destination: Host, mib_s: int
) -> "subprocess.Popen[str]":
    """Begin a move over a slow link; returns when there is a QEMU for the guest to arrive in."""
    words = words_of_a_move(guest, destination, "--bandwidth", str(mib_s))
    process = subprocess.Popen(
        source.command(["virsh", "-c", source.uri, *words]),
        env=source.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: len(guest.qemus()) == 2, 10, "QEMU at the destination")
    return process


def abort(guest: Guest, source: Host, process: "subprocess.Popen[str]") -> None:
    """Abort a move. Its socket stays behind: libvirt 9.0 removes that of a move that ends well."""
    guest.call("abort", lambda domain: owned(domain).abortJob(), on=source)
    assert process.wait(20) != 0
    source.remove_left_sockets()


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["g1", "g2", "g3"])
def test_a_guest_is_asked_where_it_is(two_light_hosts: Lab, name: str) -> None:
    first, second = two_light_hosts.hosts
    guest = two_light_hosts.guest(name)
    memory = guest.remember()
    before = guest.qemu()
    for source, destination in ((first, second), (second, first)):
        move(guest, source, destination)
        assert guest.host is destination
        where = guest.where()
        assert (where.running, where.waiting) == ((destination.name,), ())
        assert (where.active, where.defined) == ((destination.name,), (destination.name,))
        assert guest.hosts_running() == [destination.name]
        assert guest.qemu() not in (None, before)
        assert (guest.status(), guest.state()) == ("running", "running")
        guest.wait_counting()
        guest.wait_agent()
        assert abs(guest.clock().guest_minus_host_ns) < 3 * S
        assert guest.forgotten(memory) == []


def test_a_moves_downtime_is_witnessed(two_light_hosts: Lab, move_witness: MoveWitnessOf) -> None:
    first, second = two_light_hosts.hosts
    guest = two_light_hosts.guest("g1")
    seen = move_witness(guest)
    counted = guest.counter()
    move(guest, first, second)
    wait_until(lambda: any(event.name == "RESUME" for event in seen.on["h2"].events), 5, "resume")
    (pause,) = seen.pauses()
    assert pause.duration_ns is not None
    assert 0 < pause.duration_ns < 2 * S
    assert [host for host, event in seen.events if event.name == "STOP"] == ["h1"]
    guest.wait_counting()
    later = guest.counter()
    assert counted is not None
    assert later is not None
    assert later.number > counted.number
    assert later.uptime_s > counted.uptime_s


def test_memory_that_changed_and_a_boot_are_noticed(two_light_hosts: Lab) -> None:
    guest = two_light_hosts.guest("g2")
    memory = guest.remember(4)
    assert guest.still_remembers(memory)
    guest.shell("printf x | dd of=/tmp/memory bs=1 seek=3000000 conv=notrunc 2>/dev/null")
    assert guest.forgotten(memory) == ["its memory is not what it was"]
    memory = guest.remember(4)
    guest.shell("kill $(cat /run/holder)")
    assert guest.forgotten(memory) == ["its open file is not what it was"]
    memory = guest.remember(4)
    guest.destroy()
    guest.start()
    assert guest.forgotten(memory) == ["it was booted anew"]


@pytest.mark.campaign
def test_two_qemus_of_a_guest_on_its_way(two_light_hosts: Lab) -> None:
    """The one that executes is the guest, and the audit calls the other one a leftover."""
    first, second = two_light_hosts.hosts
    guest = two_light_hosts.guest("g3")
    process = start_move(guest, first, second, 1)
    assert guest.host is first
    assert guest.status() == "running"
    where = guest.where()
    assert (where.running, where.waiting) == (("h1",), ("h2",))
    left = "a QEMU is left on h2 of a move of g3"
    assert left in findings_of_moves(two_light_hosts)
    abort(guest, first, process)
    wait_until(lambda: guest.where().waiting == (), 10, "end of the one on h2")
    assert findings_of_moves(two_light_hosts) == []


@pytest.mark.campaign
def test_the_audit_finds_copies_and_what_moves_leave(
    make_light_lab: Callable[..., Lab],
) -> None:
    spec = GuestSpec(sort=GuestSort.PLAIN)
    lab = make_light_lab(hosts=2, guests=[[spec], []])
    first, second = lab.hosts
    (guest,) = lab.guests
    copy = first.directory / "copy.xml"
    copy.write_text(guest.definition())
    copy.chmod(0o644)
    virsh(second, "define", str(copy))
    assert findings_of_moves(lab) == ["g1 is defined on h1 and h2"]
    virsh(second, "start", guest.name)
    assert "g1 runs on h1 and h2" in findings_of_moves(lab)
    socket = first.move_directory / "left.sock"
    socket.touch()
    assert f"{socket} was left by a move" in findings_of_moves(lab)
    assert findings(second, Expected()) == []
    lab.restore()
    assert findings_of_moves(lab) == []
    first.kill_libvirtd()
    assert guest.hosts_running() == ["h1"]
    assert guest.where().defined == ("h1",)
    first.start_libvirtd()


@pytest.mark.campaign
def test_all_is_brought_back(two_light_hosts: Lab) -> None:
    first, second = two_light_hosts.hosts
    g1, g2, g3, g4 = two_light_hosts.guests
    move(g1, first, second)
    virsh(second, "autostart", "g1")
    text = "<policy owner='somebody'/>"
    virsh(first, "metadata", "g2", URN, "--key", "x", "--set", text, "--live", "--config")
    move(g2, first, second)
    process = start_move(g3, first, second, 1)
    second.freeze()
    g4.freeze()
    two_light_hosts.restore()
    process.wait(30)
    assert [guest.host.name for guest in two_light_hosts.guests] == ["h1", "h1", "h1", "h2"]
    assert [guest.state() for guest in two_light_hosts.guests] == ["running"] * 4
    assert not autostarts(first, "g1")
    for guest in two_light_hosts.guests:
        assert "somebody" not in guest.call("definition", lambda domain: domain.XMLDesc())
    assert findings_of_moves(two_light_hosts) == []
    move(g2, first, second)
    virsh(second, "metadata", "g2", URN, "--key", "x", "--set", text, "--live")
    move(g2, second, first)
    two_light_hosts.restore()
    assert "somebody" not in g2.call("definition", lambda domain: domain.XMLDesc())


@pytest.fixture
def image() -> Iterator[Path]:
    """A medium, where the hosts' user can read it."""
    path = Path(f"/tmp/halab-cd-{os.getpid()}.iso")
    path.write_bytes(bytes(65536))
    path.chmod(0o644)
    yield path
    path.unlink()


def autostarts(host: Host, name: str) -> bool:
    return "enable" in virsh(host, "dominfo", name).partition("Autostart:")[2].split("\n")[0]


@pytest.mark.campaign
def test_guests_of_every_kind(make_light_lab: Callable[..., Lab], image: Path) -> None:
    kinds = [
        GuestSpec(sort=GuestSort.PLAIN, transient=True),
        GuestSpec(sort=GuestSort.DISK, autostart=True, snapshot="first", cdrom=str(image)),
        GuestSpec(sort=GuestSort.AGENT, off=True, network="user"),
    ]
    lab = make_light_lab(hosts=2, guests=[kinds, []])
    first, second = lab.hosts
    transient, _, off = lab.guests

    def all_as_made() -> None:
        assert transient.where().running == ("h1",)
        assert transient.where().defined == ()
        assert virsh(first, "snapshot-list", "g2", "--name").split() == ["first"]
        assert autostarts(first, "g2")
        assert str(image) in virsh(first, "dumpxml", "g2")
        assert off.where().running == ()
        assert off.where().defined == ("h1",)
        assert "type='user'" in virsh(first, "dumpxml", "g3")

    all_as_made()
    virsh(first, "destroy", "g1")
    virsh(first, "snapshot-delete", "g2", "--metadata", "first")
    virsh(first, "autostart", "--disable", "g2")
    virsh(first, "start", "g3")
    lab.restore()
    all_as_made()
    move(transient, first, second)
    assert transient.where().running == ("h2",)
    lab.restore()
    all_as_made()


def uptime_s(guest: Guest) -> float:
    count = guest.counter()
    assert count is not None
    return count.uptime_s


@pytest.mark.campaign
def test_shutdown_is_heard_ignored_or_hangs(make_light_lab: Callable[..., Lab]) -> None:
    kinds = [
        GuestSpec(sort=GuestSort.AGENT),
        GuestSpec(sort=GuestSort.PLAIN),
        GuestSpec(sort=GuestSort.AGENT, shutdown=Shutdown.HANGS),
        GuestSpec(sort=GuestSort.AGENT, on_poweroff="restart"),
    ]
    lab = make_light_lab(guests=kinds)
    (host,) = lab.hosts
    works, plain, hangs, restarts = lab.guests
    for mode in ("agent", "acpi"):
        virsh(host, "shutdown", "g1", "--mode", mode)
        wait_until(lambda: works.qemu() is None, 10, f"end of g1 by {mode}")
        works.start()
    virsh(host, "shutdown", "g3", "--mode", "acpi")
    # libvirt waits a minute for a guest whose agent was told, and holds its job for the agent.
    command = host.command(["virsh", "-c", host.uri, "shutdown", "g3", "--mode", "agent"])
    waits = subprocess.Popen(command, env=host.env)
    boot, before, uptime = restarts.boot_id(), restarts.qemu(), uptime_s(restarts)
    virsh(host, "shutdown", "g2", "--mode", "acpi")
    virsh(host, "shutdown", "g4", "--mode", "acpi")
    time.sleep(2)  # the time in which something wrong could happen
    assert (plain.status(), hangs.status()) == ("running", "running")
    plain.wait_counting()
    hangs.wait_counting()
    assert waits.poll() is None
    waits.kill()
    waits.wait()
    wait_until(lambda: uptime_s(restarts) < uptime, 30, "boot of g4")
    assert restarts.boot_id() != boot
    assert restarts.qemu() == before


@pytest.mark.campaign
def test_a_guest_that_writes_faster_than_the_link(make_light_lab: Callable[..., Lab]) -> None:
    spec = GuestSpec(sort=GuestSort.PLAIN, writes_mib_s=24)
    lab = make_light_lab(hosts=2, guests=[[spec], []])
    first, second = lab.hosts
    (guest,) = lab.guests
    wait_until(lambda: guest.shell("ls /tmp").count("written") == 1, 10, "its first round")
    process = start_move(guest, first, second, 8)
    stats: dict[str, int] = {}

    def passes() -> bool:
        stats.update(guest.call("job", lambda domain: domain.jobStats(), on=first))
        return stats.get("memory_iteration", 0) >= 6

    wait_until(passes, 60, "six passes")
    assert process.poll() is None
    assert stats["memory_remaining"] > 0
    abort(guest, first, process)
    assert guest.hosts_running() == ["h1"]
