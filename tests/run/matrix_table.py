"""The table of the failure matrix in docs/reliability.md, from what its tests left behind.

Layer: tests, a program of its own: `python -m tests.run.matrix_table` after
`pytest --campaign tests/run/test_move_matrix.py`. Each case has left a row in build/move-matrix/;
between the two marker lines the document is written anew, and nowhere else. A phase is a block of
rows; a case without a row is missing in the table, and the program says so and fails.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.run.move_faults import CASES
from tests.run.moving import Phase

TREE = Path(__file__).parents[2]
ROWS = TREE / "build" / "move-matrix"
DOCUMENT = TREE / "docs" / "reliability.md"
BEGIN = "<!-- move-matrix: written by tests/run/matrix_table.py -->"
END = "<!-- move-matrix: end -->"
HEAD = ("phase", "what fails", "the guest runs at the", "exit", "seconds", "then", "ran on both")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case as it went. `seconds` from the fault to the command's end; `both_ms` is how long the
    guest ran on both hosts, which must be 0."""

    phase: str
    fault: str
    guest: str
    exit: int
    seconds: float
    after: str
    both_ms: float = 0


def record(row: Row) -> None:
    """Keep a row for the table."""
    ROWS.mkdir(parents=True, exist_ok=True)
    words = f"{row.phase} {row.fault}".replace("'", "").replace(",", "").split()
    (ROWS / f"{'-'.join(words)}.json").write_text(json.dumps(asdict(row)))


def rows() -> list[Row]:
    """What the cases left."""
    return [Row(**json.loads(path.read_text())) for path in ROWS.glob("*.json")]


def table(found: Iterable[Row]) -> str:
    """In the order of the cases; only those that there are."""
    by_case = {(Phase(row.phase), row.fault): row for row in found}
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    lines += [_line(_cells(by_case[case])) for case in CASES if case in by_case]
    return "\n".join(lines)


def missing(found: Iterable[Row]) -> list[str]:
    """Cases that left no row."""
    known = {(row.phase, row.fault) for row in found}
    return [f"{phase}: {fault}" for phase, fault in CASES if (phase, fault) not in known]


def written(text: str, content: str) -> str:
    """The document with this between its marker lines."""
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"no {BEGIN} with {END} after it")
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"


def in_document() -> set[tuple[str, str]]:
    """The cases (phase, fault) that the document tells of."""
    _, _, rest = DOCUMENT.read_text().partition(BEGIN)
    lines = rest.partition(END)[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(phase, fault) for phase, fault, *_ in cells}


def _cells(row: Row) -> Sequence[str]:
    code = "killed" if row.exit < 0 else str(row.exit)
    seconds = "" if row.exit < 0 else f"{row.seconds:g}"
    both = f"{row.both_ms / 1000:.1f} s" if row.both_ms else "never"
    return row.phase, row.fault, row.guest, code, seconds, row.after, both


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    found = rows()
    DOCUMENT.write_text(written(DOCUMENT.read_text(), table(found)))
    for case in missing(found):
        print(f"no row of {case}", file=sys.stderr)
    return 1 if missing(found) else 0


if __name__ == "__main__":
    sys.exit(main())
