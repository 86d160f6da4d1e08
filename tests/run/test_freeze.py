"""hostagent frozen (SIGSTOP), and a disk that stops answering, while guests stand still.

Neither is dead, so nothing that waits for an end helps: the guardian resumes at the deadline, and
what thaws afterwards must not pause anything again, nor resume what an owner paused meanwhile.
"""

import json
import os
import subprocess
import time
from functools import partial
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest

from lab import Witness
from lab.host import Host
from tests.run import killing
from tests.run.killing import Update
from tests.run.tool import Agent, wait_for
from tests.run.walked_run import MARK, Orders

S = 1_000_000_000
DEADLINE_LIMIT_S = 0.5
"""Within this after the deadline guests run again (docs/reliability.md)."""
BUDGET_S = 1.5
SEED = 20
COMMAND_S = 0.1
RESUME_S = 0.5
AROUND_THE_PAUSE = ("intent pause", "outcome pause", "outcome apply")
EXIT_LIMIT_S = 10.0
"""One step gives up on a silent disk after 5 s, the run's end after 2 s; the rest is the run."""


@pytest.fixture
def update(tmp_path: Path) -> Update:
    return Update(tmp_path)


def _deadline_ns(agent: Agent) -> int:
    """The guardian's deadline, as the run's journal has it."""
    (armed,) = (
        row["is"] for row in agent.rows() if row["row"] == "outcome" and row["is"]["key"] == "arm"
    )
    return int(armed["figures"]["deadline_ns"])


def _assert_back_at(deadline_ns: int, witnesses: dict[str, Witness]) -> None:
    """The guardian brought all back at the deadline, neither before nor much later."""
    for name, witness in witnesses.items():
        late_s = (witness.wait_for("RESUME").seen_ns - deadline_ns) / S
        assert -0.05 <= late_s <= DEADLINE_LIMIT_S, f"{name}: {late_s:.3f} s after the deadline"


def test_frozen_in_mid_pause(
    agent: Agent, witnesses: dict[str, Witness], light_host: Host, update: Update
) -> None:
    words = ("--budget", "2s", "--suspend-limit", "1s")
    process = agent.start("run", *words, "--", *update.until_told())
    killing.wait_paused(witnesses.values())
    wait_for(lambda: update.began() == 1, 5, "the update to begin")
    os.kill(process.pid, SIGSTOP)
    _assert_back_at(_deadline_ns(agent), witnesses)
    owned = light_host.guest("g2")
    # Until it has read the guest's state again it holds the pause, and an owner leaves no trace.
    wait_for(lambda: owned.name in _brought_back(agent), 5, "the guardian's word on it")
    owned.suspend()
    thawed_ns = killing.now_ns()
    os.kill(process.pid, SIGCONT)
    update.tell()
    ended = agent.wait(process)
    assert (ended.code, ended.document["result"]) == (3, "budget-exceeded"), ended
    for name, witness in witnesses.items():
        expected = "paused" if name == "g2" else "running"
        assert witness.status() == expected, name
        assert killing.signals_since(witness, thawed_ns, "RESUME") == 0, name
        assert killing.signals_since(witness, thawed_ns, "STOP") == 0 or name == "g2", name
    owned.resume()
    assert not killing.without_end(agent)


def test_frozen_during_the_suspends(
    agent: Agent, witnesses: dict[str, Witness], update: Update
) -> None:
    """Suspends that were asked for before, and take effect after the thaw, don't last."""
    random = Random(SEED)
    for _ in range(3):
        process = agent.start("run", *_budget(), "--", *update.lasting(0.1))
        before = {name: len(witness.events) for name, witness in witnesses.items()}
        killing.catch(partial(_any_stopped, witnesses, before), "the first guest to stop")
        time.sleep(random.uniform(0, 0.005))
        os.kill(process.pid, SIGSTOP)
        wait_for(lambda: not killing.stands_still(witnesses.values()), 5, "the guardian")
        os.kill(process.pid, SIGCONT)
        ended = agent.wait(process)
        assert ended.code in (0, 3, 4), ended
        assert not killing.stands_still(witnesses.values())
        assert not killing.without_end(agent)


def _brought_back(agent: Agent) -> set[str]:
    """The guests that the guardian has read back after their resume, by its own journal."""
    (path,) = agent.state_dir.glob("runs/*.guardian.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["is"]["value"]["name"] for row in rows if row["is"]["what"] == "guardian-back"}


def _budget() -> tuple[str, ...]:
    return ("--budget", f"{BUDGET_S}s", "--suspend-limit", "1s")


def _any_stopped(witnesses: dict[str, Witness], before: dict[str, int]) -> bool:
    return any(
        event.name == "STOP"
        for name, witness in witnesses.items()
        for event in witness.events[before[name] :]
    )


class Walk:
    """A run that is frozen, or loses its disk, at a row of its journal."""

    def __init__(self, agent: Agent, witnesses: dict[str, Witness], update: Update) -> None:
        self.agent = agent
        self.witnesses = list(witnesses.values())
        self.terms: dict[str, Any] = {
            "command": update.lasting(COMMAND_S),
            "prepare": ["true"],
            "verify": ["true"],
            "budget_ns": int(BUDGET_S * S),
            "suspend_limit_ns": S,
        }
        assert killing.walk(agent, self.terms).code == 0
        self.rows = [_name(row) for row in agent.rows()]

    def at(self, name: str) -> int:
        """The number of a row."""
        return self.rows.index(name) + 1

    def orders(self, **orders: Any) -> list[str]:
        """The words of a run with these orders."""
        uri, state_dir = self.agent.host.uri, str(self.agent.state_dir)
        return Orders(uri=uri, state_dir=state_dir, terms=self.terms, **orders).words()

    def freeze(self, at: int) -> None:
        """Frozen at this row until long after the deadline, then thawed."""
        process = subprocess.Popen(
            self.orders(at=at, signal=SIGSTOP),
            env=self.agent.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.agent.started.append(process)
        assert process.stderr is not None
        assert process.stderr.readline().startswith(MARK)
        wait_for(lambda: not killing.stands_still(self.witnesses), BUDGET_S + 1, "the guardian")
        time.sleep(BUDGET_S)  # the deadline is over, whatever the row
        os.kill(process.pid, SIGCONT)
        ended = self.agent.wait(process)
        where = f"frozen at row {at} ({self.rows[at - 1]})"
        assert ended.code in (0, 4), f"{where}: {ended}"
        assert not killing.stands_still(self.witnesses), where
        assert not killing.without_end(self.agent), f"{where}: {ended}"
        assert max(self._pauses_s()) <= BUDGET_S + DEADLINE_LIMIT_S, where

    def lose_disk(self, at: int) -> None:
        """From this row on no sync returns: guests come back in time, and the run ends."""
        began_ns = killing.now_ns()
        ended = killing.walk(self.agent, self.terms, at=at, when="hang")
        took_s = (killing.now_ns() - began_ns) / 1e9
        where = f"no disk from row {at} ({self.rows[at - 1]})"
        assert not killing.stands_still(self.witnesses), where
        longest_s = COMMAND_S + RESUME_S if at >= self.at("outcome apply") else BUDGET_S
        assert max(self._pauses_s()) <= longest_s, f"{where}: {self._pauses_s()}"
        assert took_s <= EXIT_LIMIT_S, f"{where}: {took_s:.1f} s, {ended}"

    def _pauses_s(self) -> list[float]:
        """The last pause of each guest."""
        last = [witness.pauses()[-1].seen_duration_ns for witness in self.witnesses]
        return [duration_ns / 1e9 for duration_ns in last if duration_ns is not None]


def _name(row: dict[str, Any]) -> str:
    what = row["is"]
    return f"{row['row']} {what.get('key') or what.get('step', {}).get('key', '')}".strip()


def test_frozen_at_the_rows_of_the_pause(
    agent: Agent, witnesses: dict[str, Witness], update: Update
) -> None:
    walk = Walk(agent, witnesses, update)
    for name in AROUND_THE_PAUSE:
        walk.freeze(walk.at(name))


def test_disk_stops_answering_in_mid_pause(
    agent: Agent, witnesses: dict[str, Witness], update: Update
) -> None:
    walk = Walk(agent, witnesses, update)
    for name in ("outcome pause", "outcome apply"):
        walk.lose_disk(walk.at(name))


@pytest.mark.campaign
def test_frozen_at_every_row(agent: Agent, witnesses: dict[str, Witness], update: Update) -> None:
    walk = Walk(agent, witnesses, update)
    for at in range(1, len(walk.rows) + 1):
        walk.freeze(at)


@pytest.mark.campaign
def test_disk_stops_answering_at_every_row(
    agent: Agent, witnesses: dict[str, Witness], update: Update
) -> None:
    walk = Walk(agent, witnesses, update)
    for at in range(2, len(walk.rows) + 1):  # without the first nothing is begun
        walk.lose_disk(at)
