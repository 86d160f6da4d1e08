"""When a run sets its guests' clocks, and of which guests.

Layer: rules. Twice: right after the last resume, for all that stood still; and once more at the
end, for those whose agents were busy, hung or away, those that came back late, and to see whether
what was set still holds, since a guest's own time daemon may step at the same moment. A run that
was told to stop does not stay for the second look.
"""

from collections.abc import Iterator
from dataclasses import asdict

from hostagent.core.journal import Closed, GuestOutcome
from hostagent.core.plan import Json, PlannedGuest, Step, Verb
from hostagent.rules import clock
from hostagent.rules.progress import Progress
from hostagent.rules.request import S

SYNC_LIMIT_NS = 10 * S
"""Enough for the slowest way (whole seconds by `date`, four times); others take 30 ms a guest."""
HOLD_NS = S * 3 // 10
"""From setting a clock to the second look: a guest's own corrector steps within that."""
RECONNECT_NS = S
"""An agent that was connected before the pause may lose its channel when libvirt is restarted."""


def sync(progress: Progress) -> Iterator[Step]:
    """The first time, of all that stood still and run again."""
    if progress.state.begun(progress.key_clocks):
        return
    guests = _with_agents(progress)
    waits = {guest.uuid: RECONNECT_NS for guest in guests if guest.agent}
    if guests:
        yield _step(progress, progress.key_clocks, guests, waits)


def look_again(progress: Progress, now_ns: int) -> Iterator[Step]:
    """The second look, once it is due."""
    first, at_ns = progress.closed(progress.key_clocks), look_again_at_ns(progress)
    if first is None or at_ns is None or now_ns < at_ns:
        return
    if progress.state.begun(progress.key_clocks_again):
        return
    guests = _to_look_at_again(progress, first)
    wait_ns = progress.terms.agent_wait_ns
    waits = {guest.uuid: wait_ns for guest in guests if not _is_right(progress, guest)}
    yield _step(progress, progress.key_clocks_again, guests, waits)


def look_again_at_ns(progress: Progress) -> int | None:
    """When the second look is due; None where there is nothing to look at, yet or at all. It never
    runs beside the first: one guest has one conversation at a time."""
    first = progress.closed(progress.key_clocks)
    if first is None or progress.key_settle in progress.state.open or progress.signals:
        return None
    return first.at_ns + HOLD_NS if _to_look_at_again(progress, first) else None


def _to_look_at_again(progress: Progress, first: Closed) -> list[PlannedGuest]:
    """Those that were set, those worth one more try, and those that came back late."""
    tried = first.outcome.guests
    return [
        guest
        for guest in _with_agents(progress)
        if guest.uuid not in tried or _deserves(tried[guest.uuid])
    ]


def _deserves(outcome: GuestOutcome) -> bool:
    return bool(outcome.figures.get("again") or outcome.figures.get("sets"))


def _is_right(progress: Progress, guest: PlannedGuest) -> bool:
    return any(outcome.result == "synced" for outcome in progress.clock_syncs(guest.uuid))


def _with_agents(progress: Progress) -> list[PlannedGuest]:
    return [guest for guest in progress.stood_still if guest.channel or guest.agent]


def _step(progress: Progress, key: str, guests: list[PlannedGuest], waits: dict[str, int]) -> Step:
    """Safe: it must not wait for a disk while clocks are wrong, and what it sets is absolute."""
    tasks = {guest.uuid: asdict(_task(progress, guest)) for guest in guests}
    limit_ns = max([SYNC_LIMIT_NS, *(wait_ns + SYNC_LIMIT_NS // 2 for wait_ns in waits.values())])
    args: dict[str, Json] = {"limit_ns": limit_ns, "tasks": tasks, "wait_ns": dict(waits)}
    uuids = tuple(guest.uuid for guest in guests)
    return Step(key=key, verb=Verb.SYNC_CLOCKS, guests=uuids, args=args, safe=True)


def _task(progress: Progress, guest: PlannedGuest) -> clock.ClockTask:
    before = progress.clock_before(guest.uuid)
    offset_ns = before.figures.get("offset_ns") if before is not None else None
    return clock.task(guest, offset_ns if isinstance(offset_ns, int) else None)
