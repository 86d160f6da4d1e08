"""A witness of a guest's moves: what its QEMUs say on all hosts of its lab.

Layer: lab, above witness. One witness listens on each host, from the QEMU's beginning there, so the
STOP of the source and the RESUME of the destination are both heard, by nobody but QEMU itself.
Invariant: as of a witness; it never changes a guest. Units: ns, as of a witness. The downtime of a
move is a pause that begins on one host and ends on another.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lab.guests import Guest
from lab.placed import Home
from lab.witness import GONE, Event, Pause, Witness, pair


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A guest on one host, be it there or not."""

    guest: Guest
    host: Home

    @property
    def name(self) -> str:
        return f"{self.guest.name} on {self.host.name}"

    @property
    def witness_socket(self) -> Path:
        return self.guest.ports_on(self.host).witness


class MoveWitness:
    """Listens to one guest on all hosts of its lab, until `close`."""

    def __init__(self, guest: Guest) -> None:
        places = [_Place(guest=guest, host=host) for host in guest.fleet]
        self.on = {place.host.name: Witness(place, waits=True) for place in places}
        """The witnesses by the names of their hosts."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        for witness in self.on.values():
            witness.close()

    @property
    def events(self) -> tuple[tuple[str, Event], ...]:
        """All events until now with the names of their hosts, oldest first as they arrived here."""
        found = [(host, event) for host, witness in self.on.items() for event in witness.events]
        return tuple(sorted(found, key=lambda pair: pair[1].seen_ns))

    def pauses(self) -> tuple[Pause, ...]:
        """All pauses until now, those of a move among them; one that lasts has no resume.

        That a QEMU ended is no end of a pause here: the guest may run in the other one.
        """
        return tuple(pair(tuple(event for _, event in self.events if event.name != GONE)))
