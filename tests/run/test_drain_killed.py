"""hostagent is killed, told to stop or frozen in the middle of a drain, and the same drain again.

The rows of the walk are taken from an undisturbed drain, as in test_kill_walk. After each kill
`recover` and the same drain leave every guest on the other host, moved once and intact; what is
noted of them is true, and a restore brings all home.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import pytest

from hostagent.adapters.host_file import HostFile
from hostagent.core.host_notes import DRAIN
from lab import Guest, GuestSpec, Lab, MoveWitness
from lab.audit import findings_of_moves
from lab.host import Host
from lab.memory import Memory
from tests.conftest import Audit, Tier, _make_lab
from tests.run.killing import Walked, without_end
from tests.run.moving import is_only_on, left_jobs, left_sockets
from tests.run.test_kill_walk import row_name
from tests.run.tool import Agent, Ended, wait_for
from tests.run.walked_drain import DrainOrders
from tests.run.walked_run import MARK

GUESTS = 2
SLOW = ("--bandwidth", "16", "--parallel", "1")
"""MiB a second: a move takes some seconds, and one guest still waits for its turn."""
FROZEN_S = 5


@pytest.fixture(scope="module")
def draining_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with _make_lab(request.config, Tier.LIGHT, 2, [[GuestSpec()] * GUESTS, []]) as lab:
        yield lab


@pytest.fixture
def lab(draining_lab: Lab, audit: Audit) -> Iterator[Lab]:
    draining_lab.restore()
    yield draining_lab
    audit.check_lab(draining_lab)


@pytest.fixture
def agent(lab: Lab, tmp_path: Path, marked_env: Mapping[str, str]) -> Iterator[Agent]:
    made = Agent(lab.hosts[0], tmp_path / "state", marked_env)
    yield made
    made.end()


class Watched:
    """All guests of a lab: what they remember, and how often each arrived at the other host."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._there = lab.hosts[1].name
        self._memories: dict[str, Memory] = {}
        self._witnesses: dict[str, MoveWitness] = {}
        for guest in lab.guests:
            self._memories[guest.name] = guest.remember(4)
            self._witnesses[guest.name] = MoveWitness(guest)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        for witness in self._witnesses.values():
            witness.close()

    def arrivals(self, guest: Guest) -> int:
        """How often it was started on the other host."""
        witness = self._witnesses[guest.name].on[self._there]
        return sum(event.name == "RESUME" for event in witness.events)

    def faults(self, host: Host, arrivals: int | None = None) -> list[str]:
        """What is not right, if all guests are to be on this host and to have arrived at the other
        so often."""
        found = findings_of_moves(self._lab) + left_jobs(self._lab.guests)
        found += left_sockets(self._lab.hosts)
        for guest in self._lab.guests:
            if not is_only_on(guest.where(), host):
                found.append(f"{guest.name} is at {guest.where()}, not on {host.name}")
            if arrivals is not None and self.arrivals(guest) != arrivals:
                found.append(f"{guest.name} arrived {self.arrivals(guest)} times")
            forgotten = guest.forgotten(self._memories[guest.name])
            found += [f"{guest.name}: {text}" for text in forgotten]
        return found


def notes_say(agent: Agent, *, away: set[str], cordoned: bool) -> list[str]:
    """What is not true in what the host remembers."""
    notes = HostFile(agent.state_dir, agent.host.uuid).read()
    found = []
    if {each.name for each in notes.away} != away:
        found.append(f"away are {sorted(away)}, noted is {notes.away}")
    if [each.owner for each in notes.cordons] != [DRAIN] * cordoned:
        found.append(f"cordoned is {cordoned}, noted is {notes.cordons}")
    return found


def drain_words(lab: Lab, *more: str) -> list[str]:
    return ["host", "drain", "--to", lab.hosts[1].uri, "--yes", *more]


def walk_drain(agent: Agent, lab: Lab, **orders: Any) -> Walked:
    """A drain under these orders, to its end."""
    words = DrainOrders(
        uri=agent.host.uri, state_dir=str(agent.state_dir), to=lab.hosts[1].uri, **orders
    ).words()
    process = subprocess.run(words, env=agent.env, capture_output=True, text=True, timeout=180)
    marks = [line for line in process.stderr.splitlines() if line.startswith(MARK)]
    moment = int(marks[0].removeprefix(MARK)) if marks else 0
    return Walked(process.returncode, process.stdout, process.stderr, moment)


class DrainWalk:
    """The same drain, disturbed at one row after the other. `faults` says what was wrong."""

    def __init__(self, agent: Agent, lab: Lab) -> None:
        self.agent = agent
        self.lab = lab
        self.faults: list[str] = []
        with Watched(lab) as watched:
            ended = walk_drain(agent, lab)
            assert ended.code == 0, ended
            assert watched.faults(lab.hosts[1], arrivals=1) == []
        self.rows = [row_name(row) for row in agent.rows()]
        self._home("undisturbed")
        assert self.faults == []

    def kill(self, at: int, when: str) -> None:
        """SIGKILL at this row, and everything that has to be right afterwards."""
        where = f"row {at} ({self.rows[at - 1]}), {when}"
        with Watched(self.lab) as watched:
            ended = walk_drain(self.agent, self.lab, at=at, when=when)
            self._check(where, bool(ended.signalled_ns), f"the row never came: {ended}")
            recovered = self.agent.run("recover")
            self._check(where, recovered.code == 0, f"recover: {recovered}")
            self._check(where, not without_end(self.agent), "recover left no end")
            again = json.loads(self.agent.run("recover").stdout)
            self._check(where, again["runs"] == [], f"a second recover: {again}")
            self._again(where, watched)
        self._home(where)

    def signal(self, at: int, number: int) -> None:
        """A signal at this row: the drain ends by itself, in order, and is done by another."""
        where = f"row {at} ({self.rows[at - 1]}), signal {number}"
        with Watched(self.lab) as watched:
            ended = walk_drain(self.agent, self.lab, at=at, signal=number)
            self._check(where, not without_end(self.agent), f"no end: {ended}")
            late = at == len(self.rows)  # the end is written: nothing is left to be interrupted
            right = ended.code == (0 if late else 128 + number)
            self._check(where, right, f"exit {ended.code}: {ended}")
            left = findings_of_moves(self.lab) + left_jobs(self.lab.guests)
            left += left_sockets(self.lab.hosts)
            self._check(where, not left, f"left: {left}")
            moved = {guest.name for guest in self.lab.guests if watched.arrivals(guest)}
            wrong = notes_say(self.agent, away=moved, cordoned=late)
            self._check(where, not wrong, f"{wrong}")
            self._again(where, watched)
        self._home(where)

    def _again(self, where: str, watched: Watched) -> None:
        """The same drain has every guest on the other host, moved once."""
        again = self.agent.run(*drain_words(self.lab))
        self._check(where, again.code == 0, f"the same drain: {again}")
        faults = watched.faults(self.lab.hosts[1], arrivals=1)
        everybody = {guest.name for guest in self.lab.guests}
        faults += notes_say(self.agent, away=everybody, cordoned=True)
        self._check(where, not faults, f"{faults}")

    def _home(self, where: str) -> None:
        restored = self.agent.run("host", "restore")
        self._check(where, restored.code == 0, f"restore: {restored}")
        faults = notes_say(self.agent, away=set(), cordoned=False)
        for guest in self.lab.guests:
            if not is_only_on(guest.where(), self.lab.hosts[0]):
                faults.append(f"{guest.name} is not home: {guest.where()}")
        self._check(where, not faults, f"after the restore: {faults}")

    def _check(self, where: str, right: bool, what: str) -> None:
        if not right:
            self.faults.append(f"{where}: {what}")


def begun(agent: Agent, lab: Lab, watched_for: Callable[[], bool]) -> "subprocess.Popen[str]":
    """A slow drain, up to this moment."""
    process = agent.start(*drain_words(lab, *SLOW))
    wait_for(watched_for, 30, "the drain to come so far")
    return process


def is_moving(guest: Guest, host: Host) -> Callable[[], bool]:
    """Its QEMU has appeared there."""
    return lambda: guest.qemu_on(host) is not None


@pytest.mark.light
def test_interrupted_in_mid_drain(lab: Lab, agent: Agent) -> None:
    """The first guest goes on its way, the second has not begun: nothing of either is left."""
    first, there = lab.guests[0], lab.hosts[1]
    with Watched(lab) as watched:
        process = begun(agent, lab, is_moving(first, there))
        process.send_signal(SIGINT)
        ended = agent.wait(process)
        assert (ended.code, ended.document["result"]) == (130, "interrupted"), ended
        assert {each["result"] for each in ended.document["guests"]} == {"not-moved", "skipped"}
        assert watched.faults(lab.hosts[0], arrivals=0) == []
        assert notes_say(agent, away=set(), cordoned=False) == []
        for guest in lab.guests:
            assert "urn:hostagent" not in guest.call("definition", lambda domain: domain.XMLDesc())


@pytest.mark.light
def test_frozen_in_mid_drain_and_a_second_one_meanwhile(lab: Lab, agent: Agent) -> None:
    first, there = lab.guests[0], lab.hosts[1]
    with Watched(lab) as watched:
        process = begun(agent, lab, is_moving(first, there))
        os.kill(process.pid, SIGSTOP)
        frozen_at = time.monotonic()
        second = agent.run(*drain_words(lab))
        _assert_refused(second, process.pid)
        time.sleep(max(frozen_at + FROZEN_S - time.monotonic(), 0))  # it stands still for so long
        os.kill(process.pid, SIGCONT)
        ended = agent.wait(process)
        assert (ended.code, ended.document["result"]) == (0, "done"), ended
        assert watched.faults(there, arrivals=1) == []
        assert notes_say(agent, away={g.name for g in lab.guests}, cordoned=True) == []


def _assert_refused(second: Ended, pid: int) -> None:
    assert second.code == 4, second
    assert not second.document["changed"]
    assert str(pid) in second.document["message"], second


@pytest.mark.light
def test_killed_when_the_first_guest_has_arrived(lab: Lab, agent: Agent) -> None:
    """It is adopted, not moved again; the other one follows."""
    first, there = lab.guests[0], lab.hosts[1]
    with Watched(lab) as watched:
        process = begun(agent, lab, lambda: watched.arrivals(first) == 1)
        process.send_signal(SIGKILL)
        process.wait(10)
        again = agent.run(*drain_words(lab))
        assert again.code == 0, again
        assert watched.faults(there, arrivals=1) == []
        assert notes_say(agent, away={g.name for g in lab.guests}, cordoned=True) == []


@pytest.mark.light
@pytest.mark.campaign
@pytest.mark.parametrize("when", ["after", "lost"])
def test_killed_at_each_row(lab: Lab, agent: Agent, when: str) -> None:
    """After each row is on the disk; and before an outcome is, as if it were lost."""
    steps = DrainWalk(agent, lab)
    for at, name in enumerate(steps.rows, start=1):
        if when == "after" or name.startswith("outcome"):
            steps.kill(at, when)
    assert not steps.faults, "\n".join(steps.faults)


@pytest.mark.light
@pytest.mark.campaign
def test_told_to_stop_at_each_row(lab: Lab, agent: Agent) -> None:
    """SIGTERM and SIGINT by turns."""
    steps = DrainWalk(agent, lab)
    for at in range(1, len(steps.rows) + 1):
        steps.signal(at, SIGTERM if at % 2 else SIGINT)
    assert not steps.faults, "\n".join(steps.faults)
