"""One guest hangs: the others are neither delayed nor forgotten, and it is not left paused either.

Layer: tests. Two sorts of hanging QEMU: stopped by a signal (/proc says so), and one that sleeps in
a write to a pipe that nobody reads, as on a disk that does not answer, with its monitor silent.
Judged by witnesses; the silent one's by QEMU's own events once it goes on.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Guest, Witness
from lab.light import LightHost
from lab.qmp import Monitor
from tests.conftest import Audit
from tests.run.faults import (
    S,
    Update,
    all_run,
    guardians,
    longest_pause_s,
    resumed_after_s,
    wait_no_guardian,
)
from tests.run.tool import Agent, wait_for

Witnesses = dict[str, Witness]

HUNG = "g3"
AGENT_LIMIT_S = 2
"""libvirt gives a silent agent up after that; it is asked before the pause and after it."""
ENDING_S = 3
SLACK_S = 0.5
RUN_ENDS_S = 10 + 3 + 1
"""A hung guest is given 10 s more than the 3 s of a resume; the rest is for ending."""


def others(witnesses: Witnesses) -> list[Witness]:
    """All but the one that hangs."""
    return [witness for name, witness in witnesses.items() if name != HUNG]


def settles(agent: Agent, guest: Guest, witness: Witness) -> None:
    """Awake again it runs within 1 s, and it is not paused later either."""
    wait_for(lambda: witness.status(5) == "running", 1.5, f"{guest.name} running")
    wait_no_guardian(agent)
    assert witness.status() == "running"
    guest.wait_counting()


@pytest.fixture
def frozen(light_host: LightHost) -> Iterator[Guest]:
    """The guest whose QEMU is stopped, from the start of the test to wherever it is thawed."""
    guest = light_host.guest(HUNG)
    guest.freeze()
    yield guest
    if guest.frozen():
        guest.thaw()


def test_frozen_before_the_run(agent: Agent, witnesses: Witnesses, frozen: Guest) -> None:
    ended = agent.run("run", "--", "sleep", "1")
    assert ended.code == 4, ended.stdout
    assert ended.document["update"]["duration_s"] is None
    assert longest_pause_s(others(witnesses)) < SLACK_S
    assert HUNG in ended.document["reason"]
    frozen.thaw()
    settles(agent, frozen, witnesses[HUNG])
    assert not witnesses[HUNG].pauses()
    assert all_run(witnesses)


def test_frozen_before_the_run_and_others_are_paused_nevertheless(
    agent: Agent, witnesses: Witnesses, frozen: Guest, tmp_path: Path
) -> None:
    update = Update(tmp_path, "time.sleep(1)")
    ended = agent.run("run", "--allow-unpaused", "--", *update.words)
    assert ended.code == 3, ended.stdout
    assert ended.guest(HUNG)["result"] == "unpaused"
    assert "stopped" in ended.guest(HUNG)["reason"]
    for witness in others(witnesses):
        assert resumed_after_s(witness, update.ended_ns) < SLACK_S
    frozen.thaw()
    settles(agent, frozen, witnesses[HUNG])
    assert not witnesses[HUNG].pauses()


def freeze_in_mid_pause(guest: Guest, witnesses: Witnesses, update: Update) -> None:
    """Stop its QEMU once all are paused and the update runs."""
    for witness in witnesses.values():
        witness.wait_for("STOP", timeout_s=20)
    wait_for(lambda: update.began, 10, "the update")
    guest.freeze()


@pytest.mark.parametrize("late_s", [1, pytest.param(12, marks=pytest.mark.campaign)])
def test_frozen_in_mid_pause_and_thawed_late(
    agent: Agent, light_host: LightHost, witnesses: Witnesses, tmp_path: Path, late_s: int
) -> None:
    guest, update = light_host.guest(HUNG), Update(tmp_path, "time.sleep(1)")
    process = agent.start("run", "--", *update.words)
    freeze_in_mid_pause(guest, witnesses, update)
    for witness in others(witnesses):
        witness.wait_for("RESUME")
        assert resumed_after_s(witness, update.ended_ns) < SLACK_S
    time.sleep(max(update.ended_ns / S + late_s - time.monotonic(), 0))
    guest.thaw()
    settles(agent, guest, witnesses[HUNG])
    ended = agent.wait(process)
    assert ended.code == 0, ended.stdout
    (pause,) = witnesses[HUNG].pauses()
    assert pause.duration_ns is not None
    assert abs(ended.guest(HUNG)["pause_s"] - pause.duration_ns / S) < 0.002


def test_frozen_in_mid_pause_and_far_past_the_run(
    agent: Agent,
    light_host: LightHost,
    witnesses: Witnesses,
    tmp_path: Path,
    audit: Audit,
) -> None:
    """The run ends, and its guardian stays for that guest alone; other guests can be paused."""
    guest, update = light_host.guest(HUNG), Update(tmp_path, "time.sleep(1)")
    process = agent.start("run", "--", *update.words)
    freeze_in_mid_pause(guest, witnesses, update)
    try:
        ended = agent.wait(process)
        assert time.monotonic_ns() - update.ended_ns < RUN_ENDS_S * S
        assert ended.code == 5, ended.stdout
        assert ended.document["result"] == "ambiguous"
        assert ended.guest(HUNG)["result"] == "unsettled"
        for witness in others(witnesses):
            assert resumed_after_s(witness, update.ended_ns) < SLACK_S
        assert len(guardians(agent)) == 1

        choosing_others = ["--guest", "g1", "--guest", "g2", "--guest", "g4"]
        assert agent.run("run", *choosing_others, "--", "true").code == 0
        refused = agent.run("run", "--", "true")
        assert refused.code == 4
        assert HUNG in refused.document["message"]
        assert [len(witness.pauses()) for witness in others(witnesses)] == [2, 2, 2]
        assert len(guardians(agent)) == 1
    finally:
        guest.thaw()
    settles(agent, guest, witnesses[HUNG])
    again = agent.run("run", "--", "true")
    assert again.code == 0, again.stdout
    assert len(witnesses[HUNG].pauses()) == 2


class Silence:
    """QEMU writes the guest's memory to a pipe: it sleeps in that until somebody reads."""

    def __init__(self, guest: Guest, pipe: Path) -> None:
        self._pipe = pipe
        self._monitor = Monitor(guest.monitor_socket)
        os.mkfifo(pipe)
        pipe.chmod(0o666)
        self._end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        words = {"val": 0, "size": 1024 * 1024, "filename": str(pipe)}
        self._monitor.send("pmemsave", words)
        process = guest.qemu()
        assert process is not None
        wait_for(lambda: len(os.read(self._end, 1)) == 1, 5, "the first byte of memory")
        assert process.state() in "SR"

    def end(self) -> None:
        """Read all of it, so that QEMU goes on."""
        if self._end >= 0:
            os.set_blocking(self._end, True)
            while os.read(self._end, 1024 * 1024):
                pass
            os.close(self._end)
            self._end = -1
            self._monitor.close()


@pytest.fixture
def silence(light_host: LightHost) -> Iterator[Callable[[], Silence]]:
    """silence() makes the guest's monitor silent, until the test's end at the latest."""
    made: list[Silence] = []

    def make() -> Silence:
        made.append(Silence(light_host.guest(HUNG), light_host.guest_directory / "silent"))
        return made[-1]

    yield make
    for each in made:
        each.end()
    (light_host.guest_directory / "silent").unlink(missing_ok=True)


def test_silent_before_the_run(
    agent: Agent,
    light_host: LightHost,
    witnesses: Witnesses,
    silence: Callable[[], Silence],
    tmp_path: Path,
) -> None:
    """Its suspend is called and not answered: nothing is applied, the others go on after the
    limit, and when the suspend takes effect at last the guardian brings the guest back."""
    guest, silent, pid = light_host.guest(HUNG), silence(), light_host.libvirtd_pid()
    update = Update(tmp_path, "pass")
    began_s = time.monotonic()
    ended = agent.run("run", "--", *update.words)
    took_s = time.monotonic() - began_s
    assert ended.code == 5, ended.stdout
    assert ended.guest(HUNG)["result"] == "unsettled"
    assert not update.began
    assert longest_pause_s(others(witnesses)) < 2 + SLACK_S
    assert took_s < 2 + 2 + RUN_ENDS_S
    assert len(guardians(agent)) == 1
    assert light_host.libvirtd_pid() == pid, "nothing is killed for a guest that hangs"
    silent.end()
    settles(agent, guest, witnesses[HUNG])
    assert longest_pause_s([witnesses[HUNG]]) < 1
    assert light_host.libvirtd_pid() == pid
    assert all_run(witnesses)


@pytest.mark.campaign
def test_silent_before_the_run_and_others_are_paused_nevertheless(
    agent: Agent,
    light_host: LightHost,
    witnesses: Witnesses,
    silence: Callable[[], Silence],
    tmp_path: Path,
) -> None:
    """The update is applied; that guest's suspend may take effect at any time, so it is watched."""
    guest, silent, update = light_host.guest(HUNG), silence(), Update(tmp_path, "time.sleep(1)")
    ended = agent.run("run", "--allow-unpaused", "--", *update.words)
    assert ended.code == 5, ended.stdout
    assert ended.document["update"]["exit_code"] == 0
    assert ended.guest(HUNG)["result"] == "unsettled"
    for witness in others(witnesses):
        assert resumed_after_s(witness, update.ended_ns) < SLACK_S
    assert len(guardians(agent)) == 1
    silent.end()
    settles(agent, guest, witnesses[HUNG])
    assert longest_pause_s([witnesses[HUNG]]) < 1


@pytest.mark.campaign
def test_silent_in_mid_pause(
    agent: Agent,
    light_host: LightHost,
    witnesses: Witnesses,
    silence: Callable[[], Silence],
    tmp_path: Path,
) -> None:
    guest, pid = light_host.guest(HUNG), light_host.libvirtd_pid()
    update = Update(tmp_path, "time.sleep(1)")
    process = agent.start("run", "--", *update.words)
    for witness in witnesses.values():
        witness.wait_for("STOP", timeout_s=20)
    wait_for(lambda: update.began, 10, "the update")
    silent = silence()
    for witness in others(witnesses):
        witness.wait_for("RESUME")
        assert resumed_after_s(witness, update.ended_ns) < SLACK_S
    time.sleep(max(update.ended_ns / S + 5 - time.monotonic(), 0))
    silent.end()
    settles(agent, guest, witnesses[HUNG])
    ended = agent.wait(process)
    assert ended.code == 0, ended.stdout
    assert light_host.libvirtd_pid() == pid


def test_stopped_agent_delays_nobody(
    agent: Agent, light_host: LightHost, witnesses: Witnesses, tmp_path: Path
) -> None:
    """Its clock is not known; all else is as ever."""
    guest = light_host.guest("g1")
    guest.shell("kill -STOP $(pidof qemu-ga)")
    update = Update(tmp_path, "time.sleep(1)")
    try:
        began_s = time.monotonic()
        ended = agent.run("run", "--", *update.words)
        took_s = time.monotonic() - began_s
        status = agent.run("status")
    finally:
        guest.shell("kill -CONT $(pidof qemu-ga)")
    assert ended.code == 0, ended.stdout
    for witness in witnesses.values():
        assert resumed_after_s(witness, update.ended_ns) < SLACK_S
    assert took_s < 1 + 4 * AGENT_LIMIT_S + ENDING_S
    assert ended.guest("g1")["pause_guest_clock_s"] is None
    assert ended.guest("g1")["pause_s"] is not None
    assert any("g1" in each and "does not answer" in each for each in ended.document["warnings"])
    assert ended.guest("g4")["pause_guest_clock_s"] is not None
    assert status.guest("g1")["agent"] == "stuck"
    assert status.guest("g4")["agent"] == "yes"


def test_agent_that_is_gone(agent: Agent, light_host: LightHost, witnesses: Witnesses) -> None:
    """A channel that nobody serves has its reason, and costs no time if none is allowed for it."""
    guest = light_host.guest("g1")
    guest.shell("echo 6 >/run/agent-respawn; kill $(pidof qemu-ga)")
    try:
        wait_for(
            lambda: agent.run("status").guest("g1")["agent"] == "not connected",
            5,
            "the end of the agent",
        )
        began_s = time.monotonic()
        ended = agent.run("run", "--agent-wait", "0", "--", "true")
        took_s = time.monotonic() - began_s
    finally:
        guest.shell("echo 1 >/run/agent-respawn")
    assert took_s < 4
    assert ended.code == 0, ended.stdout
    assert ended.guest("g1")["result"] == "paused"
    assert ended.guest("g1")["pause_guest_clock_s"] is None
    assert longest_pause_s(witnesses.values()) < SLACK_S
