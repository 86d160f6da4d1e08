"""hostagent is killed right after each row of a run's journal, and right before each.

The test finds the rows out by itself, from an undisturbed run: a new step is walked over without
anyone writing a test. After each kill all guests run within a second, the update's command is left
alone, `recover` ends the run, and the next run works: it is the one that is killed next.
"""

from signal import SIGINT, SIGTERM
from typing import Any

import pytest

from hostagent.core.plan import Verb
from lab import Witness
from tests.run import killing
from tests.run.killing import BACK_LIMIT_S, Update, walk
from tests.run.tool import Agent, wait_for

COMMAND_S = 0.1
S = 1_000_000_000
SELDOM = {Verb.AWAIT_JOBS, Verb.SIGNAL, Verb.CANCEL}
"""Verbs of runs with a busy guest, a signal or an early halt: the signal walks have the latter."""
OF_MOVES = {Verb.CORDON, Verb.MOVE, Verb.FIND, Verb.ABORT, Verb.SETTLE, Verb.UNCORDON}
"""Walked in test_drain_killed."""


class Walk:
    """One scenario, walked row by row. `faults` says what was wrong at which row."""

    def __init__(self, agent: Agent, witnesses: dict[str, Witness], **terms: Any) -> None:
        self.agent = agent
        self.witnesses = list(witnesses.values())
        self.update = Update(agent.state_dir.parent / "update")
        code = terms.pop("code", 0)
        self.terms = {
            "command": self.update.lasting(COMMAND_S, code),
            "prepare": ["true"],
            "budget_ns": 20 * S,
            **terms,
        }
        assert walk(agent, self.terms).code == 0
        self.rows = [row_name(row) for row in agent.rows()]
        self.verbs = {
            Verb(row["is"]["step"]["verb"]) for row in agent.rows() if row["row"] == "intent"
        }
        self.faults: list[str] = []

    def kill(self, at: int, when: str) -> None:
        """SIGKILL at this row, and everything that has to be right afterwards."""
        self.update.forget()
        ended = walk(self.agent, self.terms, at=at, when=when)
        where = f"row {at} ({self.rows[at - 1]}), {when}"
        if not ended.signalled_ns:
            self.faults.append(f"{where}: the row never came: {ended}")
            return
        back_s = killing.last_resume_s(self.witnesses, ended.signalled_ns)
        self._check(where, back_s <= BACK_LIMIT_S, f"the last guest ran after {back_s:.3f} s")
        self._recover(where)
        wait_for(lambda: self.update.began() == self.update.ended(), 5, f"{where}: the command")
        if at < self._applies_at() or (at == self._applies_at() and when == "lost"):
            self._check(where, not self.update.began(), "the update ran before its intent")

    def signal(self, at: int, number: int) -> None:
        """A signal at this row: the run ends by itself, with guests running and an end written."""
        self.update.forget()
        ended = walk(self.agent, self.terms, at=at, signal=number)
        where = f"row {at} ({self.rows[at - 1]}), signal {number}"
        self._check(where, bool(ended.signalled_ns), f"the row never came: {ended}")
        self._check(where, not killing.stands_still(self.witnesses), "a guest does not run")
        self._check(where, not killing.without_end(self.agent), f"no end: {ended}")
        late = at == len(self.rows)  # the end is written: nothing is left to be interrupted
        result = ended.document["result"] if ended.stdout else f"nothing: {ended}"
        right = {"interrupted"}
        if "intent rollback" in self.rows[:at]:  # a rollback that was stopped is the worse news
            right.add("update-failed")
        self._check(where, late or result in right, f"reported {result}")
        self._recover(where)

    def _recover(self, where: str) -> None:
        recovered = self.agent.run("recover")
        self._check(where, recovered.code == 0, f"recover: {recovered}")
        self._check(where, not killing.without_end(self.agent), "recover left no end")
        self._check(where, not killing.stands_still(self.witnesses), "paused after recover")
        again = walk(self.agent, {})
        self._check(where, again.stdout.strip() == "[]", f"a second recover: {again}")

    def _check(self, where: str, right: bool, what: str) -> None:
        if not right:
            self.faults.append(f"{where}: {what}")

    def _applies_at(self) -> int:
        return self.rows.index("intent apply") + 1

    def passed(self) -> None:
        """Fails with every fault of the walk."""
        assert walk(self.agent, self.terms).code == 0
        assert not self.faults, "\n".join(self.faults)


def row_name(row: dict[str, Any]) -> str:
    what = row["is"]
    return f"{row['row']} {what.get('key') or what.get('step', {}).get('key', '')}".strip()


def test_killed_after_each_row(agent: Agent, witnesses: dict[str, Witness]) -> None:
    """The whole of a run that succeeds; and of one that fails, what differs from it."""
    good = Walk(agent, witnesses, verify=["true"])
    for at in range(1, len(good.rows) + 1):
        good.kill(at, "after")
    bad = Walk(agent, witnesses, code=3, rollback=["true"])
    for at in range(bad.rows.index("outcome apply") + 1, len(bad.rows) + 1):
        if bad.rows[at - 1] not in good.rows:
            bad.kill(at, "after")
    assert good.verbs | bad.verbs | SELDOM | OF_MOVES == set(Verb)
    good.passed()
    bad.passed()


def test_killed_before_an_outcome_is_written(agent: Agent, witnesses: dict[str, Witness]) -> None:
    """The step was done, and nobody wrote down how it went."""
    steps = Walk(agent, witnesses, verify=["true"])
    for at, name in enumerate(steps.rows, start=1):
        if name.startswith("outcome"):
            steps.kill(at, "lost")
    steps.passed()


def test_told_to_stop_after_each_row(agent: Agent, witnesses: dict[str, Witness]) -> None:
    """SIGTERM and SIGINT by turns."""
    steps = Walk(agent, witnesses, verify=["true"])
    for at in range(1, len(steps.rows) + 1):
        steps.signal(at, SIGTERM if at % 2 else SIGINT)
    steps.passed()


@pytest.mark.campaign
@pytest.mark.parametrize("when", ["after", "lost"])
def test_killed_at_each_row_of_a_rolled_back_run(
    agent: Agent, witnesses: dict[str, Witness], when: str
) -> None:
    steps = Walk(agent, witnesses, code=3, rollback=["true"])
    for at in range(1, len(steps.rows) + 1):
        steps.kill(at, when)
    steps.passed()


@pytest.mark.campaign
@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_each_signal_at_each_row_of_a_failing_run(
    agent: Agent, witnesses: dict[str, Witness], number: int
) -> None:
    steps = Walk(agent, witnesses, code=3, rollback=["true"])
    for at in range(1, len(steps.rows) + 1):
        steps.signal(at, number)
    steps.passed()
