"""Reads the guests' clocks before and after the pause: how far they fell behind is the third pause
figure.

Layer: work. Only reads; a guest whose agent does not answer has no figure and a reason, and delays
nobody beyond the limit of one call.
"""

from collections.abc import Sequence

from hostagent.core.journal import GuestOutcome, Outcome
from hostagent.core.plan import PlannedGuest, Step
from hostagent.core.ports import Agent, ClockReading


class ReadClocks:
    """One reading of each guest of the step."""

    def __init__(self, agent: Agent, guests: Sequence[PlannedGuest]) -> None:
        self._agent = agent
        self._guests = {guest.uuid: guest for guest in guests}

    def do(self, step: Step) -> Outcome:
        limit_ns = step.args["limit_ns"]
        assert isinstance(limit_ns, int)
        guests = [self._guests[uuid] for uuid in step.guests]
        readings = self._agent.read_clocks(guests, limit_ns)
        outcomes = {uuid: _outcome(reading) for uuid, reading in readings.items()}
        return Outcome(key=step.key, result="over", guests=outcomes)

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result="lost")


def _outcome(reading: ClockReading) -> GuestOutcome:
    if reading.offset_ns is None:
        return GuestOutcome(result="unread", reason=reading.reason)
    figures = {
        "offset_ns": reading.offset_ns,
        "behind_ns": reading.behind_ns,
        "uncertainty_ns": reading.uncertainty_ns,
    }
    return GuestOutcome(result="read", figures=figures)
