"""A guest with a running job is waited for before anybody is paused; then paused, or skipped.

Layer: tests. Jobs are made slow on QEMU's own monitor, so that there is time to look: nobody may be
stopped by us while one runs. Judged by witnesses; a dump, a save and a migration stop their guest
by themselves, which counts for that guest alone.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from lab import Guest, Lab, Witness
from lab.calls import connection
from lab.host import Host
from lab.qmp import Monitor, ask
from tests.run.faults import all_run, wait_row
from tests.run.tool import Agent, wait_for

Witnesses = dict[str, Witness]

BUSY = "g3"
SLOW = 2 * 1024 * 1024
FAST = 1024**3
UNDER_WAY_S = 1
MIGRATABLE = libvirt.VIR_DOMAIN_XML_MIGRATABLE


def limit_speed(guest: Guest, bytes_per_s: int) -> None:
    """Slow down, or let go, what QEMU sends in a migration, a save or a dump."""
    with Monitor(guest.monitor_socket) as monitor:
        monitor.execute("migrate-set-parameters", {"max-bandwidth": bytes_per_s})


class Job:
    """One virsh command that makes a job, slow from its first moment on."""

    def __init__(self, host: Host, guest: Guest, *words: str) -> None:
        self._guest = guest
        self.process = subprocess.Popen(
            host.command(["virsh", "-q", *words]),
            env=host.env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for(self._sending, 10, f"{words[0]} of {guest.name}")
        limit_speed(guest, SLOW)

    def _sending(self) -> bool:
        state = ask(self._guest.monitor_socket, "query-migrate").get("status")
        assert self.process.poll() is None, self.process.communicate()
        return state in ("setup", "active")

    def let_go(self) -> None:
        """From now on as fast as it can."""
        limit_speed(self._guest, FAST)

    def end(self) -> None:
        """Wait for its end."""
        output, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, output


@pytest.fixture
def file(light_host: Host) -> Iterator[Path]:
    """Where a dump or a save goes."""
    path = light_host.guest_directory / "memory"
    yield path
    path.unlink(missing_ok=True)


def stopped_before(witnesses: Witnesses, moment_ns: int) -> list[str]:
    """Who was stopped before a moment, but the guest with the job."""
    return [
        name
        for name, witness in witnesses.items()
        if name != BUSY and any(pause.stop.seen_ns < moment_ns for pause in witness.pauses())
    ]


def run_beside(job: Job, agent: Agent, witnesses: Witnesses) -> "subprocess.Popen[str]":
    """Start a run; the job goes on for a while and nobody is stopped meanwhile."""
    process = agent.start("run", "--", "true")
    wait_row(agent, "intent", "await-jobs")
    time.sleep(UNDER_WAY_S)  # the time in which something wrong could happen
    assert process.poll() is None, process.communicate()
    assert job.process.poll() is None, "the job was too fast"
    let_go_ns = time.monotonic_ns()
    job.let_go()
    assert stopped_before(witnesses, let_go_ns) == []
    return process


def test_a_dump_is_waited_for(
    agent: Agent, light_host: Host, witnesses: Witnesses, file: Path
) -> None:
    """The guest stands still for its dump, by somebody else; afterwards it is paused like all."""
    guest = light_host.guest(BUSY)
    job = Job(light_host, guest, "dump", BUSY, str(file))
    process = run_beside(job, agent, witnesses)
    ended = agent.wait(process)
    job.end()
    assert ended.code == 0, ended.stdout
    assert {each["result"] for each in ended.document["guests"]} == {"paused"}
    assert len(witnesses[BUSY].pauses()) == 2
    assert all_run(witnesses)


def test_a_live_dump_is_waited_for(
    agent: Agent, light_host: Host, witnesses: Witnesses, file: Path
) -> None:
    guest = light_host.guest(BUSY)
    job = Job(light_host, guest, "dump", "--live", BUSY, str(file))
    process = run_beside(job, agent, witnesses)
    ended = agent.wait(process)
    job.end()
    assert ended.code == 0, ended.stdout
    assert {each["result"] for each in ended.document["guests"]} == {"paused"}
    assert all_run(witnesses)


def test_a_saved_guest_is_skipped(
    agent: Agent, light_host: Host, witnesses: Witnesses, file: Path
) -> None:
    guest = light_host.guest(BUSY)
    job = Job(light_host, guest, "save", BUSY, str(file))
    process = run_beside(job, agent, witnesses)
    ended = agent.wait(process)
    job.end()
    assert ended.code == 0, ended.stdout
    saved = ended.guest(BUSY)
    assert saved["result"] == "skipped"
    assert "shut off" in saved["reason"]
    assert guest.state() == "shut off"
    for name in ("g1", "g2", "g4"):
        assert ended.guest(name)["result"] == "paused"


@pytest.mark.campaign
def test_a_job_that_does_not_end_is_no_reason_to_wait_for_ever(
    agent: Agent, light_host: Host, witnesses: Witnesses, file: Path
) -> None:
    """After the limit it counts as a guest that can't be paused: nothing is done."""
    guest = light_host.guest(BUSY)
    job = Job(light_host, guest, "dump", "--live", BUSY, str(file))
    limit_speed(guest, 128 * 1024)
    began_s = time.monotonic()
    ended = agent.wait(agent.start("run", "--", "true"), limit_s=90)
    assert 60 <= time.monotonic() - began_s < 65
    assert ended.code == 4, ended.stdout
    assert BUSY in ended.document["reason"]
    assert stopped_before(witnesses, time.monotonic_ns()) == []
    job.let_go()
    job.end()


def test_a_guest_that_migrates_away(
    make_light_lab: Callable[..., Lab],
    witness: Callable[[Guest], Witness],
    tmp_path: Path,
    marked_env: dict[str, str],
) -> None:
    """It is waited for, and then it is another host's: not stopped there, and no newcomer here."""
    here, there = make_light_lab(hosts=2, guests=1).hosts
    (guest,) = here.guests
    agent = Agent(here, tmp_path / "state", marked_env)
    seen = witness(guest)
    moved = here.directory / "moved.xml"
    description = guest.call("description", lambda domain: domain.XMLDesc(MIGRATABLE))
    moved.write_text(description.replace(str(here.directory), str(there.directory)))
    moved.chmod(0o644)
    words = ["--live", "--p2p", "--persistent", "--undefinesource", "--xml", str(moved)]
    words += ["--bandwidth", "8"]  # or it may be over before anybody sees it
    where = [f"qemu+unix:///session?socket={there.socket}", f"unix://{there.directory}/mig.sock"]
    job = Job(here, guest, "migrate", *words, guest.name, *where)
    process = run_beside(job, agent, {guest.name: seen})
    ended = agent.wait(process)
    job.end()
    assert ended.code == 0, ended.stdout
    assert ended.guest(guest.name)["result"] == "skipped"
    reason = ended.guest(guest.name)["reason"]
    assert "migrated" in reason or "not on this host" in reason
    assert guest.hosts_running() == [there.name]
    assert guest.status() == "running"
    assert [event.name for event in seen.events if event.name == "RESUME"] == []
    with connection(there.uri) as conn:
        conn.lookupByUUIDString(guest.uuid).destroy()
