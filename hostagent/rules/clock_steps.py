"""When a run sets its guests' clocks, and of which guests.

Layer: rules. Twice: right after the last resume, for all that stood still (one that comes back
later has its first try then); and once more at the end, for those whose agents were busy, hung or
away, and to see whether what was set still holds, since a guest's own time daemon may step at the
same moment. A run that was told to stop does not stay for the second look.
"""

from collections.abc import Iterator
from dataclasses import asdict

from hostagent.core.clock import Refusal
from hostagent.core.plan import Json, PlannedGuest, Step, Verb
from hostagent.rules import clock
from hostagent.rules.clock_outcome import is_worth_a_look, was_set_by_date
from hostagent.rules.progress import Progress
from hostagent.rules.request import S

SYNC_LIMIT_NS = 10 * S
"""Enough for the slowest way (whole seconds by `date`, four times); others take 30 ms a guest."""
HOLD_NS = S * 3 // 10
"""From setting a clock to the second look: a guest's own corrector steps within that."""
RECONNECT_NS = S
"""An agent that was connected before the pause may lose its channel when libvirt is restarted."""


def sync(progress: Progress) -> Iterator[Step]:
    """The first time, of all that stood still and run again; of those that come back later, as soon
    as they do."""
    guests = _untried(progress)
    if not guests:
        return
    key = progress.key_clocks
    if progress.state.begun(key):
        number = sum(not _is_second(step.key) for step in _steps(progress))
        key = key.replace("clocks", f"clocks-late-{number}", 1)
    waits = {guest.uuid: RECONNECT_NS for guest in guests if guest.agent}
    yield _step(progress, key, guests, waits)


def under_way(progress: Progress, *, again: bool = False) -> tuple[str, ...]:
    """The keys of first tries, or of second looks, that are not over."""
    return tuple(
        key
        for key, opened in progress.state.open.items()
        if opened.step.verb is Verb.SYNC_CLOCKS and _is_second(key) is again
    )


def look_again(progress: Progress, now_ns: int) -> Iterator[Step]:
    """The second look, once it is due; another one for those that came back late."""
    at_ns = look_again_at_ns(progress)
    if at_ns is None or now_ns < at_ns:
        return
    due = _to_look_at_again(progress)
    guests = [guest for guest in _with_agents(progress) if guest.uuid in due]
    key = progress.key_clocks_again
    number = sum(_is_second(step.key) for step in _steps(progress))
    if number:
        key = key.replace("again", f"again-{number}", 1)
    wait_ns = progress.terms.agent_wait_ns
    waits = {guest.uuid: wait_ns for guest in guests if not _is_right(progress, guest)}
    yield _step(progress, key, guests, waits)


def look_again_at_ns(progress: Progress) -> int | None:
    """When the second look is due; None where there is nothing to look at, yet or any more."""
    if progress.signals:
        return None
    tried_ns = _to_look_at_again(progress).values()
    return max(tried_ns) + HOLD_NS if tried_ns else None


def _untried(progress: Progress) -> list[PlannedGuest]:
    """Those that run again, and whose first try was not begun."""
    tried = {uuid for step in _steps(progress) for uuid in step.guests}
    return [
        guest
        for guest in _with_agents(progress)
        if guest.uuid not in tried and not _hung_before(progress, guest)
    ]


def _hung_before(progress: Progress, guest: PlannedGuest) -> bool:
    """An agent that did not answer before the pause is left alone, and asked once at the end."""
    before = progress.clock_before(guest.uuid)
    return before is not None and before.figures.get("refusal") == Refusal.NO_ANSWER


def _to_look_at_again(progress: Progress) -> dict[str, int]:
    """Those that were set, those worth one more try, those of whose try nothing came back, and
    those that were left alone, with the end of their first try: each once, and never while that
    try is still under way."""
    seen = {uuid for step in _steps(progress) if _is_second(step.key) for uuid in step.guests}
    running = {guest.uuid for guest in _with_agents(progress)} - seen
    tried = {
        uuid: closed.at_ns
        for closed in progress.state.done.values()
        if _is_ours(progress, closed.step)
        for uuid in closed.step.guests
        if uuid in running and is_worth_a_look(closed.outcome.guests.get(uuid))
    }
    if under_way(progress) or _untried(progress):
        return tried  # those that were left alone come in when nobody else is being tried
    left_alone = {
        guest.uuid: 0
        for guest in _with_agents(progress)
        if guest.uuid in running and _hung_before(progress, guest)
    }
    return {**left_alone, **tried}


def _steps(progress: Progress) -> list[Step]:
    """The steps that set clocks which the present holder of the run has begun."""
    opened = [each.step for each in progress.state.open.values()]
    steps = [*opened, *(each.step for each in progress.state.done.values())]
    return [step for step in steps if _is_ours(progress, step)]


def _is_second(key: str) -> bool:
    return key.startswith("clocks-again")


def _is_ours(progress: Progress, step: Step) -> bool:
    """A run that was taken over sets clocks anew: what its dead holder did is not known."""
    holder = step.key.partition("@")[2] or "0"
    return step.verb is Verb.SYNC_CLOCKS and holder == str(progress.crashes)


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
    coarse = was_set_by_date(progress.clock_syncs(guest.uuid))
    return clock.task(
        guest,
        offset_ns if isinstance(offset_ns, int) else None,
        threshold_ns=clock.COARSE_NS if coarse else clock.THRESHOLD_NS,
    )
