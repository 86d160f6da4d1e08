"""What is asked for when guests are to be moved.

Layer: rules. Made by the command line; Times in ns.
"""

from dataclasses import dataclass

from hostagent.core.move import Method
from hostagent.rules.move_orders import Operation

S = 1_000_000_000
SHUTDOWN_NS = 90 * S
"""How long a guest may take to shut down: its services stop within that, by default (systemd's
DefaultTimeoutStopSec is 90 s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveRequest:
    """What was asked for. `method` restricts the ladder to one rung; `parallel` is how many guests
    are moved at once, None to choose."""

    operation: Operation
    method: Method | None = None
    parallel: int | None = None
    all_or_nothing: bool = False
    delete_source_disks: bool = False
    bandwidth_mib_s: int = 0
    shutdown_ns: int = SHUTDOWN_NS
