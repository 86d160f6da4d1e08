"""Whatever happens to a run, and at whatever moment: guests run in the end, and nobody's else.

The simulated world of tests/work/world with the real decision, the real fence and the real
take-over. hypothesis chooses what goes wrong; `scenario.play` says what must be true.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings

from hostagent.core.plan import Ending
from tests.work.scenario import Scenario, play
from tests.work.simulated_run import Script
from tests.work.strategies import SCENARIOS
from tests.work.world import GuestScript

QUICK = settings(
    max_examples=int(os.environ.get("HOSTAGENT_EXAMPLES", "250")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
AFTERWARDS = 8
"""Rows that an interruption itself adds: they are moments too."""
LONG = settings(QUICK, max_examples=20_000)


def test_a_plain_run_is_done() -> None:
    played = play(Scenario(guests={"a": GuestScript(), "b": GuestScript()}))
    assert [done.result for done, _ in played.ends] == [Ending.DONE]


@QUICK
@given(SCENARIOS)
def test_any_scenario(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.campaign
@LONG
@given(SCENARIOS)
def test_any_scenario_at_length(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("action", ["signal", "crash", "crash-later", "guardian-dies"])
@pytest.mark.parametrize("lost_rows", [0, 3])
@pytest.mark.parametrize("exit_code", [0, 3])
def test_after_every_row(action: str, lost_rows: int, exit_code: int) -> None:
    """The walk: whatever steps a run has, each moment between two rows is tried."""
    terms = {"prepare": ("p",), "verify": ("v",), "rollback": ("r",)}
    guests = {"a": GuestScript(), "b": GuestScript(suspend_ns=300_000_000)}
    plain = play(Scenario(guests=guests, script=Script(exit_code=exit_code), terms=terms))
    rows = len(plain.journal.entries)
    for number in range(2, rows + AFTERWARDS):
        script = Script(events={number: (action,)}, lost_rows=lost_rows, exit_code=exit_code)
        play(Scenario(guests=guests, script=script, terms=terms))
