"""Arm and disarm: the guardian stands by from before the first suspend to after the last resume.

Layer: work. An arm step warms the connections for the pause at the same time, so that nothing is
opened or looked up while guests stand still, and looks at the guests once more: one that its owner
stopped since the plan was made must not be in the list of a guardian that resumes what it finds
paused. A step with `deadline_ns` replaces a guardian that died and keeps the first one's deadline.
"""

import time
from collections.abc import Mapping

from hostagent.core.journal import GuestOutcome, Outcome
from hostagent.core.plan import Json, Plan, Step
from hostagent.core.ports import Watch
from hostagent.work.steps.pause import PauseWork

DISARM_LIMIT_NS = 2_000_000_000
"""A guardian that does not confirm by then is left to itself: its guests run, it has nothing to
do, and it ends when our end of its pipe closes."""


class Arm:
    """Starts a guardian for the step's guests."""

    def __init__(self, work: PauseWork, plan: Plan) -> None:
        self._work = work
        self._plan = plan

    def do(self, step: Step) -> Outcome:
        limit_ns = step.args["limit_ns"]
        assert isinstance(limit_ns, int)
        deadline_ns = step.args.get("deadline_ns")
        if deadline_ns is not None:
            assert isinstance(deadline_ns, int)
            return self._guard(step, {}, deadline_ns - time.monotonic_ns(), limit_ns)
        guests = self._work.guests(step.guests)
        self._work.pauser.warm(guests, limit_ns)
        seen = {
            uuid: _guarded(outcome)
            for uuid, outcome in self._work.pauser.look(guests, limit_ns).items()
        }
        budget_ns = step.args["budget_ns"]
        assert isinstance(budget_ns, int)
        return self._guard(step, seen, budget_ns, limit_ns)

    def _guard(
        self, step: Step, seen: Mapping[str, GuestOutcome], budget_ns: int, limit_ns: int
    ) -> Outcome:
        uuids = [uuid for uuid in step.guests if uuid not in seen or seen[uuid].result == "guarded"]
        if not uuids:
            return Outcome(key=step.key, result="nobody", guests=seen)
        guests = self._work.guests(uuids)
        armed_until_ns = self._work.watch.arm(guests, self._plan, budget_ns, limit_ns)
        figures: dict[str, Json] = {"deadline_ns": armed_until_ns}
        return Outcome(key=step.key, result="armed", guests=seen, figures=figures)

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result="lost", reason="hostagent died")


def _guarded(seen: GuestOutcome) -> GuestOutcome:
    if seen.result == "running":
        return GuestOutcome(result="guarded")
    what = "its owner paused it first" if seen.result == "paused" else seen.reason
    return GuestOutcome(result="left", reason=what)


class Disarm:
    """Ends the guardian, or leaves it alone with the guests that still hang."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def do(self, step: Step) -> Outcome:
        confirmed = self._watch.disarm(step.guests, DISARM_LIMIT_NS)
        return Outcome(key=step.key, result="disarmed" if confirmed else "unconfirmed")

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result="unknown")
