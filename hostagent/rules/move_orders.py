"""What a plan of moves keeps: the operation, how many guests at once, and each guest's ladder.

Layer: rules. To the JSON primitives of a plan's `args` and of a step's, and back.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from hostagent.core.codec import decode
from hostagent.core.move import Order
from hostagent.core.plan import Json

KIND = "move"
"""Of the plan."""


class Operation(StrEnum):
    """What the moves are for. `spare` and `return` are a drain and a restore of single guests that
    make way for a pause of the others; they leave cordons alone."""

    MIGRATE = "migrate"
    DRAIN = "drain"
    RESTORE = "restore"
    SPARE = "spare"
    RETURN = "return"

    @property
    def leaves_home(self) -> bool:
        """Whether guests are to come home again."""
        return self in (Operation.DRAIN, Operation.SPARE)

    @property
    def comes_home(self) -> bool:
        """Whether guests are home again afterwards."""
        return self in (Operation.RESTORE, Operation.RETURN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What the plan keeps in its `args`: `orders` by the guest's UUID, one a rung."""

    operation: Operation
    parallel: int
    orders: Mapping[str, tuple[Order, ...]]


def to_args(moves: Moves) -> dict[str, Json]:
    """JSON primitives, so that a plan read back from a journal equals the one written."""
    return {
        "operation": str(moves.operation),
        "parallel": moves.parallel,
        "orders": {
            uuid: [order_args(order) for order in rungs] for uuid, rungs in moves.orders.items()
        },
    }


def order_args(order: Order) -> dict[str, Json]:
    """The arguments of a step that carries this order out."""
    args: dict[str, Json] = asdict(order)
    args["method"] = str(order.method)
    args["copy"] = list(order.copy)
    args["left"] = list(order.left)
    args["over"] = list(order.over)
    args["convergence"] = [
        {**asdict(stage), "measure": str(stage.measure)} for stage in order.convergence
    ]
    return args


def operation_of(args: Mapping[str, Json]) -> Operation:
    """What the moves of this plan are for."""
    return Operation(str(args["operation"]))


def parallel_of(args: Mapping[str, Json]) -> int:
    """How many guests are moved at once."""
    parallel = args["parallel"]
    assert isinstance(parallel, int)
    return parallel


def moves_of(args: Mapping[str, Json]) -> Moves:
    """The inverse of `to_args`."""
    orders: Any = args["orders"]
    return Moves(
        operation=operation_of(args),
        parallel=parallel_of(args),
        orders={
            uuid: tuple(decode(Order, each) for each in rungs) for uuid, rungs in orders.items()
        },
    )
