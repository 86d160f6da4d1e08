"""Reads the guests' clocks before the pause, and puts them right after it.

Layer: work. How far a clock fell behind is the third pause figure: the reading before the pause
and the first one after it tell it. What is asked of one guest is decided by rules/clock; here the
questions of all guests are asked (work/conversations). A guest whose agent does not answer has no
figure and a reason, and delays nobody. Effects: `SyncClocks` sets guests' clocks.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hostagent.core.clock import ClockReading, Exchange, NoAnswer, Question, Read
from hostagent.core.codec import decode
from hostagent.core.journal import GuestOutcome, Outcome
from hostagent.core.plan import Json, Step
from hostagent.core.ports import Agent
from hostagent.rules import clock
from hostagent.rules.clock import ClockTask, ClockVerdict
from hostagent.rules.clock_reading import READS, read
from hostagent.work.conversations import Conversations


class ReadClocks:
    """The best of a few readings of each guest of the step."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def do(self, step: Step) -> Outcome:
        talks = Conversations[ClockReading | NoAnswer](self._agent, decide_reading, _limit_ns(step))
        guests = {
            uuid: GuestOutcome(result="unread", reason=end.reason, figures={"refusal": end.refusal})
            if isinstance(end, NoAnswer)
            else GuestOutcome(result="read", figures=_figures(end))
            for uuid, end in talks.hold(step.guests).items()
        }
        return Outcome(key=step.key, result="over", guests=guests)

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result="lost")


class SyncClocks:
    """Sets each clock that is off and proves it by reading it again. `args`: `limit_ns`, `tasks`
    (rules/clock.ClockTask by uuid), `wait_ns` (by uuid: how long an absent agent is awaited) and
    `uri` of the host on which these guests are (absent for this host).

    Nothing is done twice by a crash in mid-step: what is set is an absolute time."""

    def __init__(self, agent_on: Callable[[str], Agent]) -> None:
        """`agent_on` gives the agents of a host by its URI; an empty one means this host."""
        self._agent_on = agent_on

    def do(self, step: Step) -> Outcome:
        agent = self._agent_on(str(step.args.get("uri", "")))
        tasks: Any = step.args["tasks"]
        waits: Any = step.args.get("wait_ns", {})
        wanted = {uuid: decode(ClockTask, task) for uuid, task in tasks.items()}

        def decide(uuid: str, history: Sequence[Exchange], left_ns: int) -> Question | ClockVerdict:
            return clock.next(wanted[uuid], history, left_ns)

        talks = Conversations[ClockVerdict](agent, decide, _limit_ns(step))
        ends = talks.hold(step.guests, waits)
        guests = {uuid: _outcome(verdict) for uuid, verdict in ends.items()}
        return Outcome(key=step.key, result="over", guests=guests)

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result="lost")


def decide_reading(
    _uuid: str, history: Sequence[Exchange], left_ns: int, reads: int = READS
) -> Read | ClockReading | NoAnswer:
    """Reads only, and takes the best."""
    return read(history, reads=reads if left_ns else 1)


def _limit_ns(step: Step) -> int:
    limit_ns = step.args["limit_ns"]
    assert isinstance(limit_ns, int)
    return limit_ns


def _figures(reading: ClockReading, prefix: str = "") -> dict[str, Json]:
    return {
        f"{prefix}offset_ns": reading.offset_ns,
        f"{prefix}behind_ns": reading.behind_ns,
        f"{prefix}uncertainty_ns": reading.uncertainty_ns,
    }


_RESULTS = {True: "synced", False: "unsynced", None: "left"}


def _outcome(verdict: ClockVerdict) -> GuestOutcome:
    """The verdict as the journal keeps it (rules/clock_outcome reads it)."""
    figures: dict[str, Json] = {
        "method": verdict.method,
        "sets": verdict.sets,
        "answered": verdict.answered,
        "again": verdict.again,
    }
    if verdict.first is not None:
        figures |= _figures(verdict.first, "first_")
    if verdict.last is not None:
        figures |= _figures(verdict.last)
        figures["proven_ns"] = verdict.last.at_ns
    return GuestOutcome(result=_RESULTS[verdict.synced], reason=verdict.reason, figures=figures)
