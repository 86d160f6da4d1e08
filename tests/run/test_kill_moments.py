"""hostagent is killed at random moments inside the suspends and the resumes.

The walk kills between rows; this kills between calls. The campaign's figures are printed, and kept
in docs/reliability.md: from the kill to the last guest running.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from signal import SIGINT, SIGTERM

import pytest

from lab import Witness
from tests.run import killing
from tests.run.killing import BACK_LIMIT_S, Update
from tests.run.tool import Agent, wait_for

SUSPENDS_S = 0.015
RESUMES_S = 0.025
"""How long the suspends (from the first STOP on) and the resumes (from the command's end on) of
four guests take: kills fall into that time, and somewhat past it."""
KILLS_EACH = 10
CAMPAIGN_KILLS = 100
PAUSE_S = 0.5
SEED = 3


class Moments:
    """Runs that are killed at a moment, and how long the guests then took to run again."""

    def __init__(self, agent: Agent, witnesses: dict[str, Witness], update: Update) -> None:
        self.agent = agent
        self.witnesses = list(witnesses.values())
        self.update = update
        self.random = Random(SEED)
        self.backs_s: list[float] = []

    def in_suspends(self) -> None:
        """After the first guest's STOP."""
        self._kill(self._first_stop, self.random.uniform(0, SUSPENDS_S))

    def in_pause(self) -> None:
        """Anywhere while guests stand still for the command, or just afterwards."""
        self._kill(self._first_stop, self.random.uniform(0, PAUSE_S + RESUMES_S))

    def in_resumes(self) -> None:
        """After the command's end."""
        self._kill(self._command_ended, self.random.uniform(0, RESUMES_S))

    def _kill(self, reach: Callable[[], None], delay_s: float) -> None:
        self.update.forget()
        self._seen = [len(witness.events) for witness in self.witnesses]
        process = self.agent.start("run", "--", *self.update.lasting(PAUSE_S))
        reach()
        time.sleep(delay_s)
        killed_ns = killing.now_ns()
        process.kill()
        process.wait(10)
        self.backs_s.append(killing.last_resume_s(self.witnesses, killed_ns))
        recovered = self.agent.run("recover")
        assert recovered.code == 0, recovered
        assert not killing.stands_still(self.witnesses)
        assert not killing.without_end(self.agent)
        wait_for(lambda: self.update.began() == self.update.ended(), 5, "the command's end")

    def _first_stop(self) -> None:
        killing.catch(self._any_stopped, "the first guest to stop")

    def _any_stopped(self) -> bool:
        return any(
            event.name == "STOP"
            for witness, seen in zip(self.witnesses, self._seen, strict=True)
            for event in witness.events[seen:]
        )

    def _command_ended(self) -> None:
        killing.catch(lambda: self.update.ended() == 1, "the command's end")


@pytest.fixture
def moments(agent: Agent, witnesses: dict[str, Witness], tmp_path: Path) -> Moments:
    return Moments(agent, witnesses, Update(tmp_path / "update"))


def test_killed_inside_suspends_and_resumes(moments: Moments) -> None:
    for _ in range(KILLS_EACH):
        moments.in_suspends()
        moments.in_resumes()
    assert max(moments.backs_s) <= BACK_LIMIT_S, moments.backs_s


@pytest.mark.parametrize(("number", "code"), [(SIGINT, 130), (SIGTERM, 143)])
def test_told_to_stop_in_mid_pause(
    agent: Agent, witnesses: dict[str, Witness], tmp_path: Path, number: int, code: int
) -> None:
    """Guests first; then the command gets the signal, and the run ends with the shell's status."""
    update = Update(tmp_path / "update")
    process = agent.start("run", "--", *update.lasting(20))
    killing.wait_paused(witnesses.values())
    wait_for(lambda: update.began() == 1, 5, "the command to begin")
    told_ns = killing.now_ns()
    os.kill(process.pid, number)
    assert killing.last_resume_s(witnesses.values(), told_ns) <= BACK_LIMIT_S
    ended = agent.wait(process)
    assert (ended.code, ended.document["result"]) == (code, "interrupted"), ended
    assert update.ended() == 0
    assert not killing.without_end(agent)


def test_next_run_is_refused_while_the_command_lives(
    agent: Agent, witnesses: dict[str, Witness], tmp_path: Path
) -> None:
    update = Update(tmp_path / "update")
    process = agent.start("run", "--", *update.until_told())
    killing.wait_paused(witnesses.values())
    wait_for(lambda: update.began() == 1, 5, "the command to begin")
    process.kill()
    killed_ns = killing.now_ns()
    assert killing.last_resume_s(witnesses.values(), killed_ns) <= BACK_LIMIT_S
    refused = agent.run("run", "--", "true")
    assert refused.code == 4, refused
    launched = [row["is"] for row in agent.rows() if row["is"].get("key") == "launch"]
    assert f"pid {launched[0]['figures']['pid']}" in refused.document["message"]
    assert not killing.without_end(agent)
    assert agent.run("run", "--ignore-running", "--", "true").code == 0
    update.tell()
    wait_for(lambda: update.ended() == 1, 5, "the command's end")
    assert agent.run("run", "--", "true").code == 0


@pytest.mark.campaign
def test_a_hundred_kills(moments: Moments) -> None:
    """A third each inside the suspends, the pause and the resumes."""
    kills = (moments.in_suspends, moments.in_pause, moments.in_resumes)
    load = os.getloadavg()[0]
    for number in range(CAMPAIGN_KILLS):
        kills[number % len(kills)]()
    stood_still = sorted(back_s for back_s in moments.backs_s if back_s)
    print(
        f"\n{CAMPAIGN_KILLS} kills, load {load:.2f} before and {os.getloadavg()[0]:.2f} after;"
        f" guests stood still at {len(stood_still)} of them, until the last one ran again:"
        f" median {_quantile(stood_still, 0.5):.3f} s, p99 {_quantile(stood_still, 0.99):.3f} s,"
        f" worst {stood_still[-1]:.3f} s"
    )
    assert stood_still[-1] <= BACK_LIMIT_S


def _quantile(values: list[float], share: float) -> float:
    """The least value that is not exceeded by this share of them (nearest rank)."""
    return values[max(math.ceil(share * len(values)), 1) - 1]
