"""libvirtd dies, hangs, or has no worker left while guests are paused: they are back in time.

Layer: tests. Judged by witnesses on monitors of their own. What a run promises where libvirtd is
gone: guests run within 1.5 s of the command's end, and within 0.5 s after the budget at the latest.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Witness
from lab.light import LightHost
from lab.processes import identify
from tests.run.faults import (
    S,
    Update,
    all_run,
    guardians,
    kill_libvirtd,
    longest_pause_s,
    resumed_after_s,
    wait_no_guardian,
    wait_row,
)
from tests.run.tool import Agent, Ended, wait_for

Witnesses = dict[str, Witness]

AFTER_COMMAND_S = 1.5
AFTER_BUDGET_S = 0.5

FAULTS = pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "frozen"])
DEAD = pytest.param(signal.SIGKILL, id="dead", marks=pytest.mark.campaign)
FROZEN_FIRST = pytest.mark.parametrize("number", [pytest.param(signal.SIGSTOP, id="frozen"), DEAD])
"""Where a dead one is the easier case, it is left to the campaign."""


def adopts(host: LightHost) -> None:
    """A libvirtd that is started again has all guests, running, and serves them."""
    host.start_libvirtd()
    for each in host.guests:  # until it has spoken to QEMU it tells what it had saved
        wait_for(lambda each=each: each.state() == "running", 5, f"{each.name} in libvirt")
    guest = host.guest("g3")
    guest.suspend()
    guest.resume()
    assert guest.status() == "running"


def warned(ended: Ended, word: str) -> bool:
    """Whether one of its warnings has this word."""
    return any(word in warning for warning in ended.document["warnings"])


@FAULTS
def test_libvirtd_fails_in_mid_pause(
    agent: Agent, light_host: LightHost, witnesses: Witnesses, tmp_path: Path, number: int
) -> None:
    pid = light_host.libvirtd_pid()
    update = Update(tmp_path, f"{kill_libvirtd(light_host, number)}; time.sleep(2)")
    ended = agent.run("run", "--", *update.words)
    for witness in witnesses.values():
        assert resumed_after_s(witness, update.ended_ns) < AFTER_COMMAND_S
    assert all_run(witnesses)
    assert ended.code == 0, ended.stdout
    assert {guest["resumed_by"] for guest in ended.document["guests"]} == {"qmp"}
    assert warned(ended, "libvirt")
    assert identify(pid) is None, "a hung libvirtd holds the monitors: it has to go"
    assert warned(ended, str(pid)) == (number == signal.SIGSTOP)
    wait_no_guardian(agent)
    adopts(light_host)


@FROZEN_FIRST
def test_libvirtd_fails_and_the_command_runs_past_the_budget(
    agent: Agent, light_host: LightHost, witnesses: Witnesses, tmp_path: Path, number: int
) -> None:
    update = Update(tmp_path, f"{kill_libvirtd(light_host, number)}; time.sleep(6)")
    ended = agent.run("run", "--budget", "4s", "--", *update.words)
    assert longest_pause_s(witnesses.values()) < 4 + AFTER_BUDGET_S
    for witness in witnesses.values():
        assert resumed_after_s(witness, update.ended_ns) < 0, "only after the command"
    assert ended.code == 3, ended.stdout
    assert ended.document["result"] == "budget-exceeded"
    adopts(light_host)


def test_a_process_that_only_may_be_libvirtd_is_not_killed(
    agent: Agent, light_host: LightHost, witnesses: Witnesses, tmp_path: Path
) -> None:
    """The pid file names another process meanwhile, so nothing is killed: guests wait for a thaw,
    and the guardian stays with them."""
    pid, pid_file = light_host.libvirtd_pid(), light_host.pid_file
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    try:
        body = (
            f"{kill_libvirtd(light_host, signal.SIGSTOP)}; "
            f"Path({str(pid_file)!r}).write_text('{stranger.pid}'); time.sleep(1)"
        )
        ended = agent.run("run", "--", *Update(tmp_path, body).words)
        assert stranger.poll() is None
        process = identify(pid)
        assert process is not None
        assert process.state() == "T"
        assert ended.code == 1, ended.stdout
        assert ended.document["result"] == "resume-failed"
        assert "libvirtd was not killed" in ended.document["reason"]
        assert guardians(agent)
        process.send(signal.SIGCONT)
        for witness in witnesses.values():
            witness.wait_for("RESUME", timeout_s=3)
        wait_no_guardian(agent)
        assert all_run(witnesses)
    finally:
        pid_file.write_text(str(pid))
        stranger.kill()
        stranger.wait(10)
        if light_host.frozen():
            light_host.thaw()


@FAULTS
def test_libvirtd_fails_at_the_first_stop(
    agent: Agent, light_host: LightHost, witnesses: Witnesses, number: int
) -> None:
    """Some suspends are answered, some are under way: all or nothing, and everybody is back."""
    struck = threading.Event()
    libvirtd = light_host.libvirtd()
    assert libvirtd is not None

    def strike() -> None:
        wait_for(lambda: any(w.pauses() for w in witnesses.values()), 30, "the first STOP")
        libvirtd.send(number)
        struck.set()

    threading.Thread(target=strike, daemon=True).start()
    ended = agent.run("run", "--", "sleep", "1")
    assert struck.is_set()
    assert longest_pause_s(witnesses.values()) < 2 + AFTER_COMMAND_S
    assert all_run(witnesses)
    assert ended.code in (0, 4, 5), ended.stdout
    wait_no_guardian(agent)
    adopts(light_host)
    assert all_run(witnesses)


@FROZEN_FIRST
def test_libvirtd_fails_between_arming_and_the_suspends(
    agent: Agent, light_host: LightHost, witnesses: Witnesses, number: int
) -> None:
    libvirtd = light_host.libvirtd()
    assert libvirtd is not None
    process = agent.start("run", "--", "sleep", "1")
    wait_for(lambda: any(agent.state_dir.glob("runs/*.guardian.json")), 20, "the guardian's list")
    libvirtd.send(number)
    ended = agent.wait(process)
    assert longest_pause_s(witnesses.values()) < 2 + AFTER_COMMAND_S
    assert ended.code in (0, 4, 5), ended.stdout
    wait_no_guardian(agent)
    assert all_run(witnesses)
    if light_host.frozen():  # nobody was paused, so it was in nobody's way
        light_host.thaw()
    adopts(light_host)
    assert longest_pause_s(witnesses.values()) < 2 + AFTER_COMMAND_S
    assert all_run(witnesses)


@FAULTS
def test_libvirtd_fails_together_with_hostagent(
    agent: Agent, light_host: LightHost, witnesses: Witnesses, tmp_path: Path, number: int
) -> None:
    update = Update(tmp_path, "time.sleep(4)")
    process = agent.start("run", "--", *update.words)
    for witness in witnesses.values():
        witness.wait_for("STOP")
    wait_row(agent, "intent", "apply")
    libvirtd = light_host.libvirtd()
    assert libvirtd is not None
    libvirtd.send(number)
    process.kill()
    killed_ns = time.monotonic_ns()
    delays_s = [resumed_after_s(witness, killed_ns) for witness in witnesses.values()]
    print(f"resumed {min(delays_s):.3f} to {max(delays_s):.3f} s after the kill")
    assert max(delays_s) < AFTER_COMMAND_S
    wait_no_guardian(agent)
    process.communicate(timeout=10)
    adopts(light_host)
    wait_for(lambda: update_ended(update), 10, "the end of the command")


def update_ended(update: Update) -> bool:
    """Whether it came to its end."""
    try:
        return update.ended_ns > 0
    except IndexError:
        return False


STUCK_CALLS = """
import sys, threading, libvirt
libvirt.registerErrorHandler(lambda *_: None, None)
def ask(conn, uuid):
    try:
        conn.lookupByUUIDString(uuid).getTime()
    except libvirt.libvirtError:
        pass
uri, *uuids = sys.argv[1:]
conns = [libvirt.open(uri) for _ in range(6)]
threads = [
    threading.Thread(target=ask, args=(conns[n % 6], uuids[n % len(uuids)])) for n in range(24)
]
[t.start() for t in threads]
print("asked", flush=True)
[t.join() for t in threads]
"""


@pytest.fixture
def stuck_workers(light_host: LightHost) -> object:
    """stuck_workers() occupies every ordinary worker of libvirtd with calls to stopped agents."""
    started: list[subprocess.Popen[str]] = []
    guests = [guest for guest in light_host.guests if guest.has_agent]

    def occupy() -> None:
        words = [sys.executable, "-c", STUCK_CALLS, light_host.uri]
        words += [guest.uuid for guest in guests]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"

    for guest in guests:
        guest.call("timeout", lambda domain: domain.agentSetResponseTimeout(-2))
        guest.shell("kill -STOP $(pidof qemu-ga)")
    yield occupy
    for process in started:
        process.kill()
        process.communicate(timeout=10)
    for guest in guests:
        guest.shell("kill -CONT $(pidof qemu-ga)")
    light_host.start_libvirtd()


def test_libvirtd_without_a_free_worker(
    agent: Agent,
    light_host: LightHost,
    witnesses: Witnesses,
    tmp_path: Path,
    stuck_workers: Callable[[], None],
) -> None:
    """It answers the simplest questions, and no resume."""
    update = Update(tmp_path, "time.sleep(3)")
    process = agent.start("run", "--", *update.words)
    for witness in witnesses.values():
        witness.wait_for("STOP", timeout_s=20)
    stuck_workers()
    ended = agent.wait(process)
    for witness in witnesses.values():
        assert resumed_after_s(witness, update.ended_ns) < 2 * S / 1e9
    assert all_run(witnesses)
    assert ended.code == 0, ended.stdout


@pytest.mark.campaign
def test_libvirtd_without_a_free_worker_from_the_start(
    agent: Agent, light_host: LightHost, witnesses: Witnesses, stuck_workers: Callable[[], None]
) -> None:
    """Nobody can be suspended in time: nothing is applied, and nobody is paused late either."""
    process = agent.start("run", "--", "sleep", "1")
    wait_row(agent, "intent", "clocks-before")
    stuck_workers()
    ended = agent.wait(process)
    assert ended.code in (4, 5), ended.stdout
    assert ended.document["update"]["duration_s"] is None
    assert longest_pause_s(witnesses.values()) < 2 + AFTER_COMMAND_S
    wait_no_guardian(agent, 30)
    assert all_run(witnesses)
