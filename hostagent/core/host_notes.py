"""What a host remembers beyond single runs: its cordons, and which of its guests are away.

Layer: core. The rows of host.jsonl and their fold. A cordon has an owner (an operator, or the drain
that set it); nobody undoes another's by accident. A guest is away from the moment when a drain has
moved it until a restore has brought it home, or until an operator forgets it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

OPERATOR = "operator"
DRAIN = "drain"
"""Owners of cordons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cordoned:
    """This host takes no new guests: said by this owner, for this reason."""

    owner: str
    reason: str
    utc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncordoned:
    """That owner's cordon is over."""

    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WentAway:
    """A guest of this host now lives on another. `uri` is how that host is reached from here,
    `left` are the paths here of its disks that were copied: a restore writes back onto them, unless
    they were changed after `utc`, when it had gone."""

    uuid: str
    name: str
    uri: str
    run: str
    left: tuple[str, ...] = ()
    utc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameHome:
    """It is back, or is not awaited any more."""

    uuid: str


Note = Cordoned | Uncordoned | WentAway | CameHome


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNotes:
    """The present state of one host's notes."""

    cordons: tuple[Cordoned, ...] = ()
    away: tuple[WentAway, ...] = ()

    @property
    def cordoned(self) -> bool:
        """Whether the host is to take no new guests."""
        return bool(self.cordons)


def fold(notes: Iterable[Note]) -> HostNotes:
    """The state after all these notes. A later note on the same subject takes an earlier one's
    place."""
    state = HostNotes()
    for note in notes:
        state = _apply(state, note)
    return state


def _apply(state: HostNotes, note: Note) -> HostNotes:
    match note:
        case Cordoned():
            return replace(state, cordons=(*_others(state, note.owner), note))
        case Uncordoned():
            return replace(state, cordons=_others(state, note.owner))
        case WentAway():
            return replace(state, away=(*_still_away(state, note.uuid), note))
        case CameHome():
            return replace(state, away=_still_away(state, note.uuid))


def _others(state: HostNotes, owner: str) -> tuple[Cordoned, ...]:
    return tuple(cordon for cordon in state.cordons if cordon.owner != owner)


def _still_away(state: HostNotes, uuid: str) -> tuple[WentAway, ...]:
    return tuple(guest for guest in state.away if guest.uuid != uuid)
