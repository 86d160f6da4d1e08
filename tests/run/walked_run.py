"""One run, or one recovery, whose process signals itself at a given row of its journal.

Layer: tests, a process of its own: `python -m tests.run.walked_run ORDERS`, with ORDERS as JSON.
It stands at the journal port (`wiring.Site(open_journal=...)`) and nowhere else: the product knows
nothing of it. `when` says how a row and the signal meet:

    after   the row is on the disk, then the signal
    lost    the signal comes before the row was given to the journal
    hang    no signal: from this row on the disk never answers a sync

The moment of the signal (CLOCK_MONOTONIC, ns) goes to standard error, the report to standard
output.
"""

import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hostagent.adapters.journal_file import JournalFile
from hostagent.cli.run_report import report_to_json
from hostagent.core.errors import HostagentError
from hostagent.core.journal import Entry, Row
from hostagent.rules.request import Request, Terms
from hostagent.wiring import Site

MARK = "signalled at "


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What to run, and where to signal itself. Row 0 is never reached."""

    uri: str
    state_dir: str
    terms: dict[str, Any] = field(default_factory=dict)
    at: int = 0
    when: str = "after"
    signal: int = 9

    def words(self) -> list[str]:
        """The command line of this process."""
        return [sys.executable, "-m", "tests.run.walked_run", json.dumps(asdict(self))]


class WalkedJournal:
    """The journal of the product, with a signal or a disk's silence at one row."""

    def __init__(self, path: Path, orders: Orders) -> None:
        self._journal = JournalFile(path)
        self._orders = orders
        self._rows = 0

    def append(self, row: Row) -> Entry:
        self._rows += 1
        if self._is_due("lost"):
            self._signal()
        entry = self._journal.append(row)
        if self._is_due("after"):
            self._journal.sync()
            self._signal()
        return entry

    def sync(self) -> None:
        if self._orders.when == "hang" and 0 < self._orders.at <= self._rows:
            threading.Event().wait()
        self._journal.sync()

    def _is_due(self, when: str) -> bool:
        return self._orders.when == when and self._orders.at == self._rows

    def _signal(self) -> None:
        os.write(2, f"{MARK}{time.monotonic_ns()}\n".encode())
        os.kill(os.getpid(), self._orders.signal)


def main() -> int:
    orders = Orders(**json.loads(sys.argv[1]))
    site = Site(
        orders.uri,
        Path(orders.state_dir),
        open_journal=lambda path: WalkedJournal(path, orders),
    )
    try:
        if not orders.terms:
            reports = site.recover(say=lambda _: None)
            print(json.dumps([report_to_json(report) for report in reports]))
            return 0
        terms = Terms(
            **{key: tuple(v) if isinstance(v, list) else v for key, v in orders.terms.items()}
        )
        report = site.run(Request(terms=terms), output=2, say=lambda _: None)
        print(json.dumps(report_to_json(report)))
    except HostagentError as error:
        print(json.dumps({"error": error.code, "message": error.message}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
