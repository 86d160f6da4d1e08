"""Takes over a run whose process died, and finishes it.

Layer: work. There is no undo code here: what the guardian did is added to the journal, each open
step is looked at ("how far did this get?"), the crash is written down, and the same decision that
drove the run drives it to its end. A run that still leaves a guest that could not be brought back
is not ended: the next command tries again.
"""

from collections.abc import Callable, Iterable

from hostagent.core.journal import Heard, Outcome, State, apply
from hostagent.core.plan import Done
from hostagent.core.ports import Journal
from hostagent.work.runner import Runner, Steps


def take_over(
    state: State, journal: Journal, steps: Steps, guardian_rows: Iterable[Heard]
) -> State:
    """The state from which the run goes on: every open step looked at, the crash heard."""
    rows: list[Heard | Outcome] = list(_unheard(state, guardian_rows))
    rows += [_look(state, key, steps) for key in state.open]
    rows.append(Heard(what="crashed"))
    for row in rows:
        state = apply(state, journal.append(row))
    return state


def finish(
    runner: Runner,
    still_paused: Callable[[State], bool],
    guardian_rows: Callable[[], Iterable[Heard]],
) -> Done:
    """Drive the run to its end, and end it unless a guest is still to be brought back. A guardian
    may have acted meanwhile (we were frozen): what it did is heard before the end is decided."""
    runner.drive()
    runner.hear(_unheard(runner.state, guardian_rows()))
    done = runner.drive()
    if not still_paused(runner.state):
        runner.end(done)
    return done


def _unheard(state: State, rows: Iterable[Heard]) -> list[Heard]:
    """Those rows that the run's own journal does not have yet."""
    known = [(heard.what, heard.value) for heard in state.heard]
    return [row for row in rows if (row.what, row.value) not in known]


def _look(state: State, key: str, steps: Steps) -> Outcome:
    step = state.open[key].step
    try:
        return steps[step.verb].look(step)
    except Exception as error:  # a look that fails leaves the step unknown, which is safe
        return Outcome(key=key, result="unknown", reason=str(error))
