"""The shape of every plan, step and decision.

Layer: core. A decision is a value: it is shown (--dry-run), journalled, tested and then executed
as that same object. Only JSON primitives inside, so that each value goes to the journal and back
unchanged. Deliberately absent: what the steps mean (work/steps) and which comes next (rules).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hostagent.core.clock import ClockDefinition
from hostagent.core.model import Host, Process

Json = str | int | float | bool | None | list[Any] | dict[str, Any]
"""A JSON value. Any: mypy has no finite recursive alias that json.loads would satisfy."""


class Verb(StrEnum):
    """What a step does; work/steps has one worker for each."""

    PREPARE = "prepare"
    AWAIT_JOBS = "await-jobs"
    READ_CLOCKS = "read-clocks"
    SYNC_CLOCKS = "sync-clocks"
    LAUNCH = "launch"
    ARM = "arm"
    PAUSE = "pause"
    APPLY = "apply"
    RESUME = "resume"
    DISARM = "disarm"
    CENSUS = "census"
    CANCEL = "cancel"
    SIGNAL = "signal"
    VERIFY = "verify"
    ROLLBACK = "rollback"
    CORDON = "cordon"
    MOVE = "move"
    FIND = "find"
    ABORT = "abort"
    SETTLE = "settle"
    UNCORDON = "uncordon"


class Ending(StrEnum):
    """How a whole run ended; the words of hostagent.run/1 and hostagent.drain/1."""

    DONE = "done"
    PARTLY = "partly"
    FAILED = "failed"
    UPDATE_FAILED = "update-failed"
    RESUME_FAILED = "resume-failed"
    BUDGET_EXCEEDED = "budget-exceeded"
    INTERRUPTED = "interrupted"
    REFUSED = "refused"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One effect. `safe` ones (resume, disarm, signal, a reading) never wait for the journal's
    disk."""

    key: str
    verb: Verb
    guests: tuple[str, ...] = ()
    args: Mapping[str, Json] = field(default_factory=dict)
    safe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Do:
    """Start these steps now, all at once; `why` is the sentence for log and progress line."""

    steps: tuple[Step, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing to start: come back at an outcome, at something heard, or at `until_ns`."""

    why: str
    until_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The run is over. `reason` is empty where the result says it all."""

    result: Ending
    reason: str = ""


Decision = Do | Wait | Done


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGuest:
    """A guest as the plan saw it. `skip` is why it is left alone, empty for a chosen guest; one
    that `runs` all the same is not paused while the update is applied. `channel`: it has an
    agent's channel; `agent`: and an agent was connected to it."""

    uuid: str
    name: str
    process: Process | None = None
    monitor: str = ""
    agent: bool = False
    channel: bool = False
    clock: ClockDefinition = field(default_factory=ClockDefinition)
    job: str = ""
    runs: bool = False
    skip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one run is going to do: frozen when it is made, the first row of its journal.

    `args` holds what its kind of maintenance needs (rules/inplace documents its own).
    """

    run: str
    kind: str
    host: Host
    guests: tuple[PlannedGuest, ...]
    args: Mapping[str, Json]
    warnings: tuple[str, ...] = ()

    @property
    def chosen(self) -> tuple[PlannedGuest, ...]:
        """The guests that are to be disturbed."""
        return tuple(guest for guest in self.guests if not guest.skip)
