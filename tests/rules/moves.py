"""Runs of moves as values: plans with ladders, and what is told of each attempt."""

from collections.abc import Sequence
from typing import Any

from hostagent.core.journal import GuestOutcome, Outcome
from hostagent.core.move import Method, Order
from hostagent.core.plan import Plan, PlannedGuest, Step
from hostagent.rules import move
from hostagent.rules.move_orders import KIND, Moves, Operation, to_args
from tests.rules.runs import HOST, S, Story

HERE, THERE = "qemu:///system", "qemu+ssh://h2/system"


def order(name: str, method: Method = Method.LIVE, **changes: Any) -> Order:
    made: dict[str, Any] = {
        "uuid": f"uuid-{name}",
        "name": name,
        "method": method,
        "source": HERE,
        "destination": THERE,
        "via": THERE,
        "limit_ns": 100 * S,
    }
    return Order(**{**made, **changes})


def a_plan(
    *names: str,
    operation: Operation = Operation.DRAIN,
    parallel: int = 2,
    rungs: Sequence[Method] = (Method.LIVE,),
    left_out: tuple[str, ...] = (),
    channel: bool = True,
) -> Plan:
    """A plan to move these guests; those `left_out` can't be moved."""
    orders = {f"uuid-{name}": tuple(order(name, rung) for rung in rungs) for name in names}
    chosen = [PlannedGuest(uuid=f"uuid-{name}", name=name, channel=channel) for name in names]
    rest = [PlannedGuest(uuid=f"uuid-{name}", name=name, skip="tied") for name in left_out]
    moves = Moves(operation=operation, parallel=parallel, orders=orders)
    return Plan(run="run-1", kind=KIND, host=HOST, guests=(*chosen, *rest), args=to_args(moves))


class MoveStory(Story):
    """One run of moves, told row by row."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, next=move.next)

    def says(self, key: str, result: str, reason: str = "", **figures: Any) -> None:
        """A step is over, with this word on its guest."""
        step = self.state.open[key].step
        self.row(outcome_of(step, result, reason, **figures))

    def begin(self, *steps: tuple[str, str]) -> None:
        """Go on, and answer these of the steps that were begun."""
        self.go()
        for key, result in steps:
            self.says(key, result)


def outcome_of(step: Step, result: str, reason: str = "", **figures: Any) -> Outcome:
    found = GuestOutcome(result=result, reason=reason, figures=figures)
    guests = dict.fromkeys(step.guests, found)
    return Outcome(key=step.key, result=result, reason=reason, guests=guests)
