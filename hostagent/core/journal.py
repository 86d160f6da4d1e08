"""The journal's rows and their fold: the only state that a run has.

Layer: core. The rows are Planned(plan), Intent(step), Outcome(...), Heard(what, value), Ended(...);
the state of a run is `fold(rows)` and nothing else, so a process that takes over after a crash
knows exactly what the one before it knew. An intent without an outcome is *open*: unknown, never
failed. Times are CLOCK_MONOTONIC in ns of the boot named by `boot_id`; `utc` is a label for people.
Deliberately absent: files (adapters/journal_file) and meaning (rules).
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hostagent.core.plan import Ending, Json, Plan, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """When a row was written, and by which process."""

    monotonic_ns: int
    boot_id: str
    utc: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestOutcome:
    """What a step did to one guest: a word, why, and its measured figures."""

    result: str
    reason: str = ""
    figures: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The plan: always the first row."""

    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """Written before the step's effect."""

    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the step with this key ended. `result` is a word of the step, `figures` its facts."""

    key: str
    result: str
    reason: str = ""
    guests: Mapping[str, GuestOutcome] = field(default_factory=dict)
    figures: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Something that came from outside: a signal, an event, a crash found by recovery."""

    what: str
    value: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The run is over and its report was made."""

    result: Ending
    reason: str = ""


Row = Planned | Intent | Outcome | Heard | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row with its stamp: one line of the journal."""

    row: Row
    stamp: Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A step that was begun and has no outcome yet."""

    step: Step
    since_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A step with its outcome and both times."""

    step: Step
    since_ns: int
    at_ns: int
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardAt:
    """Something heard, with its time."""

    what: str
    value: Json
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that is known of one run. Built only by `fold` and `apply`. `rebooted`: rows were added
    in a later boot than the plan's, so no process that the run knew is left."""

    plan: Plan
    boot_id: str
    open: Mapping[str, Open] = field(default_factory=dict)
    done: Mapping[str, Closed] = field(default_factory=dict)
    heard: tuple[HeardAt, ...] = ()
    ended: Ended | None = None
    rebooted: bool = False

    def hears(self, what: str) -> bool:
        """Whether something of this kind was heard."""
        return any(heard.what == what for heard in self.heard)

    def begun(self, key: str) -> bool:
        """Whether the step was begun, whatever became of it."""
        return key in self.open or key in self.done

    def result(self, key: str) -> str:
        """The outcome's word of a finished step, else empty."""
        return self.done[key].outcome.result if key in self.done else ""


class JournalError(Exception):
    """The rows can't be a run's journal: no plan first, a step begun twice, or an outcome without
    its intent."""


def start(entry: Entry) -> State:
    """The state after the first row. Raises JournalError if that is not the plan."""
    if not isinstance(entry.row, Planned):
        raise JournalError("a run's journal begins with its plan")
    return State(plan=entry.row.plan, boot_id=entry.stamp.boot_id)


def apply(state: State, entry: Entry) -> State:
    """The state after one more row. An outcome is taken once; a later one changes nothing."""
    row, at_ns = entry.row, entry.stamp.monotonic_ns
    if entry.stamp.boot_id != state.boot_id:
        state = replace(state, rebooted=True)
    match row:
        case Planned():
            raise JournalError("a run's journal holds one plan")
        case Intent():
            if state.begun(row.step.key):
                raise JournalError(f"step {row.step.key!r} was begun twice")
            opened = Open(step=row.step, since_ns=at_ns)
            return replace(state, open={**state.open, row.step.key: opened})
        case Outcome():
            return _close(state, row, at_ns)
        case Heard():
            heard = HeardAt(what=row.what, value=row.value, at_ns=at_ns)
            return replace(state, heard=(*state.heard, heard))
        case Ended():
            return replace(state, ended=row)


def _close(state: State, outcome: Outcome, at_ns: int) -> State:
    if outcome.key in state.done:
        return state
    if outcome.key not in state.open:
        raise JournalError(f"an outcome of step {outcome.key!r}, which was never begun")
    opened = state.open[outcome.key]
    still_open = {key: value for key, value in state.open.items() if key != outcome.key}
    closed = Closed(step=opened.step, since_ns=opened.since_ns, at_ns=at_ns, outcome=outcome)
    return replace(state, open=still_open, done={**state.done, outcome.key: closed})


def fold(entries: Iterable[Entry]) -> State:
    """The state of a run from its whole journal. Raises JournalError."""
    rows = iter(entries)
    first = next(rows, None)
    if first is None:
        raise JournalError("an empty journal")
    state = start(first)
    for entry in rows:
        state = apply(state, entry)
    return state


def salvage(entries: Iterable[Entry]) -> State:
    """The state that a damaged file still tells: rows that don't fit, since the line of their
    intent is torn, are passed over. Raises JournalError where even the plan is missing."""
    rows = iter(entries)
    first = next(rows, None)
    if first is None:
        raise JournalError("an empty journal")
    state = start(first)
    for entry in rows:
        with suppress(JournalError):
            state = apply(state, entry)
    return state
