"""Guests with what is noted in them: for `guest list`, `guest show` and `guest set`.

Reading locks nothing and changes nothing. Setting a policy disturbs no guest, so it takes no lock
either and has no journal: libvirt keeps it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hostagent.adapters.libvirt.guests import LibvirtGuests
from hostagent.adapters.libvirt.metadata import LibvirtNotes
from hostagent.core.errors import RefusedError
from hostagent.core.model import Guest, Host
from hostagent.core.policy import GuestNotes
from hostagent.rules import policy as policies
from hostagent.rules.selection import select


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedGuest:
    """A guest, and what is noted in it."""

    guest: Guest
    notes: GuestNotes


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What setting a policy did, or would do."""

    before: NotedGuest
    after: NotedGuest
    keys: tuple[str, ...]
    changed: bool


def read_guests(uri: str, selectors: Sequence[str]) -> tuple[Host, tuple[NotedGuest, ...]]:
    """These guests, or all. Raises RefusedError for one that there is not."""
    facts = LibvirtGuests(uri).facts()
    chosen = select(facts, selectors)
    notes = LibvirtNotes(facts.host.uri).read([guest.uuid for guest in chosen])
    return facts.host, tuple(NotedGuest(guest=each, notes=notes[each.uuid]) for each in chosen)


def set_policy(uri: str, selector: str, assignments: Sequence[str], *, dry_run: bool) -> Setting:
    """Change one guest's policy by `KEY=VALUE ...`. Raises UsageError before anything is asked,
    RefusedError for a guest that there is not or that something else holds."""
    keys = policies.keys_of(assignments)
    policies.changed(policies.DEFAULT, assignments)
    host, (before,) = read_guests(uri, [selector])
    _refuse_held(before.guest, dry_run=dry_run)
    wanted = policies.changed(before.notes.policy, assignments)
    changed = LibvirtNotes(host.uri).write_policy(before.guest.uuid, wanted, keys, dry_run=dry_run)
    after = replace(before, notes=replace(before.notes, policy=wanted))
    if changed and not dry_run:
        _, (after,) = read_guests(uri, [before.guest.uuid])
    return Setting(before=before, after=after, keys=keys, changed=changed and not dry_run)


def _refuse_held(guest: Guest, *, dry_run: bool) -> None:
    """libvirt would wait half a minute, and then refuse."""
    if guest.job and not dry_run:
        raise RefusedError(
            f"{guest.name} is held by {guest.job}",
            hint="see `virsh domjobinfo GUEST`; set its policy after that has ended",
        )
