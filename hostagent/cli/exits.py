"""The exit status of a run by how it ended (docs/architecture.md).

Layer: cli.
"""

import signal

from hostagent.core.plan import Ending

EXIT_CODES = {
    Ending.DONE: 0,
    Ending.PARTLY: 3,
    Ending.FAILED: 1,
    Ending.BUDGET_EXCEEDED: 3,
    Ending.UPDATE_FAILED: 1,
    Ending.RESUME_FAILED: 1,
    Ending.REFUSED: 4,
    Ending.AMBIGUOUS: 5,
    Ending.INTERRUPTED: 130,
}


def exit_code(result: str, signal_name: str | None) -> int:
    """The status; a run that was stopped by a signal says by which, as a shell does."""
    if result != Ending.INTERRUPTED or signal_name is None:
        return EXIT_CODES[Ending(result)]
    return 128 + signal.Signals[signal_name]
