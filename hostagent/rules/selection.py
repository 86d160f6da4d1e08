"""Which guests a run disturbs, which it leaves alone, and why.

Layer: rules. A guest may be named by name, UUID or ID, as in virsh. All or nothing: a guest that
was named but does not exist refuses the whole request; one that is off, paused by its owner,
asleep or crashed is skipped with its reason, because pausing it would change nothing.
"""

from collections.abc import Iterable, Sequence

from hostagent.core.errors import RefusedError
from hostagent.core.model import AgentState, Facts, Guest, GuestState
from hostagent.core.plan import PlannedGuest

UUID_LENGTH = 36


def select(facts: Facts, selectors: Sequence[str]) -> tuple[Guest, ...]:
    """The guests that these names, UUIDs or IDs mean; all guests for no selector at all.

    Raises RefusedError for one that means no guest, or more than one.
    """
    if not selectors:
        return facts.guests
    found = [_find(facts.guests, selector) for selector in selectors]
    return tuple(dict.fromkeys(found))


def _find(guests: Iterable[Guest], selector: str) -> Guest:
    matches = [guest for guest in guests if not _handles(guest).isdisjoint(_spellings(selector))]
    if not matches:
        raise RefusedError(
            f"there is no guest {selector!r} on this host",
            hint="`hostagent status` lists the guests with their names",
        )
    if len(matches) > 1:
        names = ", ".join(f"{guest.name} ({guest.uuid})" for guest in matches)
        raise RefusedError(
            f"{selector!r} means more than one guest: {names}", hint="name it by its UUID"
        )
    return matches[0]


def _handles(guest: Guest) -> set[str]:
    handles = {guest.name, guest.uuid}
    if guest.process is not None:
        handles.add(str(guest.process.domain_id))
    return handles


def _spellings(selector: str) -> set[str]:
    """As it is, and as libvirt writes a UUID: in small letters."""
    return {selector, selector.lower()} if len(selector) == UUID_LENGTH else {selector}


def planned(guest: Guest, held_by: str) -> PlannedGuest:
    """This guest as the plan keeps it; `held_by` is the earlier run that still waits for it."""
    return PlannedGuest(
        uuid=guest.uuid,
        name=guest.name,
        process=guest.process,
        monitor=guest.monitor,
        agent=guest.agent is AgentState.CONNECTED,
        channel=guest.agent is not AgentState.NONE,
        clock=guest.clock,
        job=guest.job,
        runs=guest.runs,
        skip=skip_reason(guest, held_by),
    )


def skip_reason(guest: Guest, held_by: str) -> str:
    """Why this guest is left alone; empty for one that is to be paused."""
    if held_by:
        return f"the guardian of run {held_by} still waits for it"
    if guest.runs and guest.process is None:
        return "its QEMU process can't be told, so it could not be resumed safely"
    if guest.runs or (guest.state is GuestState.PAUSED and guest.job):
        return ""
    return f"{guest.state} ({guest.reason})" if guest.reason else str(guest.state)
