"""Whatever happens to a run, and at whatever moment: guests run in the end, and nobody's else.

The simulated world of tests/work/world with the real decision, the real fence and the real
take-over. hypothesis chooses what goes wrong; `scenario.play` says what must be true.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings

from hostagent.core.plan import Ending, Verb
from hostagent.rules.request import S
from tests.work.scenario import Scenario, play
from tests.work.simulated_run import Script
from tests.work.strategies import SCENARIOS
from tests.work.threaded import ThreadedLoop
from tests.work.world import MS, GuestScript

QUICK = settings(
    max_examples=int(os.environ.get("HOSTAGENT_EXAMPLES", "250")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
BOTH = "guardian-dies crash"
"""hostagent and its guardian killed at once."""
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


@pytest.mark.parametrize("action", ["signal", "crash", "crash-later", "guardian-dies", BOTH])
@pytest.mark.parametrize("lost_rows", [0, 3])
@pytest.mark.parametrize("exit_code", [0, 3])
def test_after_every_row(action: str, lost_rows: int, exit_code: int) -> None:
    """The walk: whatever steps a run has, each moment between two rows is tried."""
    terms = {"prepare": ("p",), "verify": ("v",), "rollback": ("r",)}
    guests = {
        "a": GuestScript(agent="good"),
        "b": GuestScript(suspend_ns=300_000_000, agent="busy"),
        "c": GuestScript(),
    }
    plain = play(Scenario(guests=guests, script=Script(exit_code=exit_code), terms=terms))
    rows = len(plain.journal.entries)
    for number in range(2, rows + AFTERWARDS):
        script = Script(
            events={number: tuple(action.split())}, lost_rows=lost_rows, exit_code=exit_code
        )
        play(Scenario(guests=guests, script=script, terms=terms))


PLAIN = {"a": GuestScript(), "b": GuestScript()}
AGENTS = {
    name: GuestScript(agent=name)
    for name in ("good", "busy", "hung", "away", "refuses", "restless")
}
BACK_AGAIN = {"a": GuestScript(owner_pauses_after=True), "b": GuestScript()}
EXAMPLES = {
    "the disk holds the pause up, a signal comes, the disk answers": Scenario(
        guests=PLAIN,
        script=Script(disk={Verb.PAUSE: "late"}, events={("pause", "begun"): ("signal",)}),
    ),
    "the disk holds the update up, a signal comes, the disk answers": Scenario(
        guests=PLAIN,
        script=Script(disk={Verb.APPLY: "late"}, events={("apply", "begun"): ("signal",)}),
    ),
    "the disk holds the update up past the deadline": Scenario(
        guests=PLAIN, script=Script(disk={Verb.APPLY: "hangs"}), terms={"budget_ns": 3 * S}
    ),
    "killed with its guardian in the middle of the resume": Scenario(
        guests=PLAIN, script=Script(events={("resume", "begun"): ("guardian-dies", "crash")})
    ),
    "killed with its guardian in the middle of the pause": Scenario(
        guests={"a": GuestScript(), "b": GuestScript(suspend_ns=S)},
        script=Script(events={("pause", "begun"): ("guardian-dies", "crash-later")}),
    ),
    "killed again in the middle of the recovery": Scenario(
        guests=PLAIN,
        script=Script(
            events={("apply", "begun"): ("guardian-dies", "crash"), ("resume", "begun"): ("crash",)}
        ),
    ),
    "the guardian brought a guest back, and its owner paused it before the recovery": Scenario(
        guests=BACK_AGAIN, script=Script(events={("apply", "begun"): ("crash",)})
    ),
    "an owner paused a guest between the plan and the pause, and hostagent is killed": Scenario(
        guests={"a": GuestScript(owner_pauses_before=True), "b": GuestScript()},
        script=Script(events={("arm", "closed"): ("crash",)}),
    ),
    "a guest that refuses to be paused": Scenario(
        guests={"a": GuestScript(refuses=True), "b": GuestScript()}
    ),
    "a pause that breaks down after its effect": Scenario(
        guests=PLAIN, script=Script(trouble={Verb.PAUSE: "breaks"})
    ),
    "a launch that breaks down": Scenario(
        guests=PLAIN, script=Script(trouble={Verb.LAUNCH: "breaks"})
    ),
    "a guardian that breaks down as it is armed": Scenario(
        guests=PLAIN, script=Script(trouble={Verb.ARM: "breaks"})
    ),
    "a resume that hangs as a whole": Scenario(
        guests=PLAIN, script=Script(trouble={Verb.RESUME: "hangs"})
    ),
    "a resume that fails while verify takes its time": Scenario(
        guests={"a": GuestScript(resume_failures=3), "b": GuestScript()},
        script=Script(side_ns=90 * S),
        terms={"verify": ("v",)},
    ),
    "a QEMU that hangs in the pause and never comes back": Scenario(
        guests={"a": GuestScript(frozen_ns=100 * MS), "b": GuestScript()}
    ),
    "a QEMU that hangs before its suspend and thaws long after the run": Scenario(
        guests={"a": GuestScript(frozen_ns=0, thawed_after_ns=60 * S), "b": GuestScript()}
    ),
    "a suspend that takes effect after all was resumed": Scenario(
        guests={"a": GuestScript(suspend_ns=40 * S), "b": GuestScript()}
    ),
    "a guest that its owner resumes while the command runs": Scenario(
        guests={"a": GuestScript(owner_resumes_ns=100 * MS), "b": GuestScript()}
    ),
    "a guest that goes in mid-pause": Scenario(
        guests={"a": GuestScript(gone_ns=100 * MS), "b": GuestScript()}
    ),
    "a command that never ends and ignores signals, with a rollback": Scenario(
        guests=PLAIN,
        script=Script(command_ns=None, heeds_signals=False),
        terms={"rollback": ("undo",)},
    ),
    "a command that ends past its deadline": Scenario(
        guests=PLAIN, script=Script(command_ns=29 * S)
    ),
    "three guardians in a row die": Scenario(
        guests=PLAIN,
        script=Script(
            command_ns=20 * S,
            events={
                ("apply", "begun"): ("guardian-dies",),
                ("arm", "closed"): ("guardian-dies",),
                14: ("guardian-dies",),
                16: ("guardian-dies",),
            },
        ),
    ),
    "agents of every kind": Scenario(guests=AGENTS),
    "agents of every kind, and killed as the clocks are set": Scenario(
        guests=AGENTS, script=Script(events={("sync-clocks", "begun"): ("crash",)})
    ),
    "agents of every kind, and stopped between the two looks at the clocks": Scenario(
        guests=AGENTS, script=Script(events={("sync-clocks", "closed"): ("signal",)})
    ),
    "setting clocks hangs, and a guest comes back late": Scenario(
        guests={
            "a": GuestScript(agent="good", frozen_ns=100 * MS, thawed_after_ns=6 * S),
            "b": GuestScript(agent="good"),
        },
        script=Script(trouble={Verb.SYNC_CLOCKS: "hangs"}),
    ),
    "a hung agent, and a guest that comes back while it is waited for": Scenario(
        guests={
            "a": GuestScript(agent="good", frozen_ns=100 * MS, thawed_after_ns=6 * S),
            "b": GuestScript(agent="hung"),
        }
    ),
    "the only guest with an agent comes back late": Scenario(
        guests={
            "a": GuestScript(agent="good", frozen_ns=100 * MS, thawed_after_ns=6 * S),
            "b": GuestScript(),
        }
    ),
    "no guest at all, and the disk fails at the update": Scenario(
        guests={}, script=Script(disk={Verb.APPLY: "hangs"})
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str) -> None:
    play(EXAMPLES[name])


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_under_the_real_runner(name: str) -> None:
    by_hand, driven = play(EXAMPLES[name]), play(EXAMPLES[name], ThreadedLoop)
    assert [done.result for done, _ in driven.ends] == [done.result for done, _ in by_hand.ends]


@settings(QUICK, max_examples=40)
@given(SCENARIOS)
def test_any_scenario_under_the_real_runner(scenario: Scenario) -> None:
    play(scenario, ThreadedLoop)


@pytest.mark.campaign
@settings(QUICK, max_examples=2_000)
@given(SCENARIOS)
def test_any_scenario_under_the_real_runner_at_length(scenario: Scenario) -> None:
    play(scenario, ThreadedLoop)
