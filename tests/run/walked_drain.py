"""One drain whose process signals itself at a given row of its journal.

Layer: tests, a process of its own, as walked_run: `python -m tests.run.walked_drain ORDERS`. It
stands at the journal port (`wiring.moves.MoveSite(open_journal=...)`) and nowhere else. Guests
leave one after the other, so that the rows come in the same order each time.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from hostagent.cli.exits import exit_code
from hostagent.cli.move_report import report_to_json
from hostagent.core.errors import HostagentError
from hostagent.rules.move_orders import Operation
from hostagent.rules.move_request import MoveRequest
from hostagent.wiring.moves import MoveSite
from tests.run.walked_run import Orders, WalkedJournal


@dataclass(frozen=True, kw_only=True)
class DrainOrders(Orders):
    """Where to drain to, and where to signal itself. Row 0 is never reached."""

    to: str
    bandwidth_mib_s: int = 0

    def words(self) -> list[str]:
        return [sys.executable, "-m", "tests.run.walked_drain", json.dumps(asdict(self))]


def main() -> int:
    orders = DrainOrders(**json.loads(sys.argv[1]))
    site = MoveSite(
        orders.uri,
        Path(orders.state_dir),
        open_journal=lambda path: WalkedJournal(path, orders),
    )
    request = MoveRequest(
        operation=Operation.DRAIN, parallel=1, bandwidth_mib_s=orders.bandwidth_mib_s
    )
    try:
        report = site.drain(request, [orders.to], consent=None, say=lambda _: None)
    except HostagentError as error:
        print(json.dumps({"error": error.code, "message": error.message}))
        return error.exit_code
    print(json.dumps(report_to_json(report)))
    return exit_code(report.result, report.signal)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
