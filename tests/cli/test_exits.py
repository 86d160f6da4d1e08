"""Exit statuses: one for each ending, and a shell's for a signal."""

import pytest

from hostagent.cli.exits import EXIT_CODES, exit_code
from hostagent.core.plan import Ending


def test_every_ending_has_a_status() -> None:
    assert set(EXIT_CODES) == set(Ending)


@pytest.mark.parametrize(("name", "code"), [("SIGHUP", 129), ("SIGINT", 130), ("SIGTERM", 143)])
def test_a_run_that_was_stopped_says_by_which_signal(name: str, code: int) -> None:
    assert exit_code(Ending.INTERRUPTED, name) == code


def test_a_signal_that_came_too_late_to_stop_it_counts_nothing() -> None:
    assert exit_code(Ending.DONE, "SIGTERM") == 0
    assert exit_code(Ending.INTERRUPTED, None) == 130
