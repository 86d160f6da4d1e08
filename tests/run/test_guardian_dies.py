"""The guardian is killed or frozen while guests stand still, alone or together with hostagent."""

import os
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest

from lab import Witness
from tests.run import killing
from tests.run.killing import Update
from tests.run.tool import Agent, wait_for

DISARM_LIMIT_S = 4.0
"""A guardian that does not answer is waited for 2 s; the rest is a run's end on a busy host."""


@pytest.fixture
def update(tmp_path: Path) -> Update:
    return Update(tmp_path)


def _replaced(agent: Agent, pid: int) -> int:
    """Kill a guardian; the pid of the one in its place."""
    os.kill(pid, SIGKILL)
    wait_for(lambda: killing.guardian_pid(agent) not in (0, pid), 5, "another guardian")
    return killing.guardian_pid(agent)


def test_another_takes_its_place(
    agent: Agent, witnesses: dict[str, Witness], update: Update
) -> None:
    process = agent.start("run", "--", *update.until_told())
    killing.wait_paused(witnesses.values())
    _replaced(agent, killing.guardian_pid(agent))
    assert len(killing.stands_still(witnesses.values())) == len(witnesses)
    update.tell()
    ended = agent.wait(process)
    assert (ended.code, ended.document["result"]) == (0, "done"), ended
    assert all(len(witness.pauses()) == 1 for witness in witnesses.values())


def test_the_one_in_its_place_resumes_too(
    agent: Agent, witnesses: dict[str, Witness], update: Update
) -> None:
    process = agent.start("run", "--", *update.until_told())
    killing.wait_paused(witnesses.values())
    second = _replaced(agent, killing.guardian_pid(agent))
    wait_for(lambda: "outcome" in _rows_of(agent, "arm-again-1"), 5, "the second to be ready")
    killed_ns = killing.now_ns()
    process.kill()
    assert killing.last_resume_s(witnesses.values(), killed_ns) <= killing.BACK_LIMIT_S
    wait_for(lambda: killing.is_gone(second), 10, "the end of the second")
    update.tell()
    assert agent.run("recover").code == 0
    assert not killing.without_end(agent)


def test_killed_three_times(agent: Agent, witnesses: dict[str, Witness], update: Update) -> None:
    """Then guests are not left unguarded: they are resumed, and the command is left to finish."""
    process = agent.start("run", "--", *update.until_told())
    killing.wait_paused(witnesses.values())
    pid = killing.guardian_pid(agent)
    for number in (1, 2):
        pid = _replaced(agent, pid)
        wait_for(lambda n=number: "outcome" in _rows_of(agent, f"arm-again-{n}"), 5, "it is ready")
    killed_ns = killing.now_ns()
    os.kill(pid, SIGKILL)
    assert killing.last_resume_s(witnesses.values(), killed_ns) <= killing.BACK_LIMIT_S
    update.tell()
    ended = agent.wait(process)
    assert (ended.code, ended.document["result"]) == (3, "partly"), ended
    assert "guardian" in ended.document["reason"]
    assert update.ended() == 1


def test_frozen(agent: Agent, witnesses: dict[str, Witness], update: Update) -> None:
    """The run ends without it. Thawed, it finds nothing to do and ends."""
    process = agent.start("run", "--", *update.until_told())
    killing.wait_paused(witnesses.values())
    guardian = killing.guardian_pid(agent)
    os.kill(guardian, SIGSTOP)
    try:
        told_ns = killing.now_ns()
        update.tell()
        assert killing.last_resume_s(witnesses.values(), told_ns) <= killing.BACK_LIMIT_S
        ended = agent.wait(process)
        took_s = (killing.now_ns() - told_ns) / 1e9
        assert (ended.code, ended.document["result"]) == (0, "done"), ended
        assert took_s <= DISARM_LIMIT_S
        thawed_ns = killing.now_ns()
    finally:
        os.kill(guardian, SIGCONT)
    wait_for(lambda: killing.is_gone(guardian), 10, "the end of the guardian")
    for witness in witnesses.values():
        assert killing.signals_since(witness, thawed_ns, "STOP") == 0
        assert killing.signals_since(witness, thawed_ns, "RESUME") == 0
    assert agent.run("run", "--", "true").code == 0


@pytest.mark.parametrize("then", ["recover", "run"])
def test_both_killed_at_once(
    agent: Agent, witnesses: dict[str, Witness], update: Update, then: str
) -> None:
    """Without systemd nobody is left to resume: the next command does it, before all else."""
    killing.orphan(agent, witnesses.values(), update)
    assert len(killing.stands_still(witnesses.values())) == len(witnesses)
    next_ = agent.run("recover") if then == "recover" else agent.run("run", "--", "true")
    assert next_.code == 0, next_
    assert not killing.stands_still(witnesses.values())
    assert not killing.without_end(agent)
    expected = 1 if then == "recover" else 2
    assert all(len(witness.pauses()) == expected for witness in witnesses.values())


def _rows_of(agent: Agent, key: str) -> list[str]:
    """The kinds of rows that the newest journal has of a step."""
    try:
        rows = agent.rows()
    except ValueError:  # the last line is just being written
        return []
    return [row["row"] for row in rows if row["is"].get("step", row["is"]).get("key") == key]
