"""The lab: real libvirt hosts and real guests on one machine, for tests, the demo and benchmarks.

It is used by the project and never shipped with it: hostagent imports nothing of it. The words
are those of docs/how-to/use-the-lab.md. `from lab import Lab` is the whole entrance.
"""

from lab.errors import CannotRun, LabBusy, LabError
from lab.guests import Guest, GuestSort, GuestSpec, Memory, Shutdown, Where
from lab.lab import Lab
from lab.move_witness import MoveWitness
from lab.state import MOST_GUESTS, Tier
from lab.witness import Witness

__all__ = [
    "MOST_GUESTS",
    "CannotRun",
    "Guest",
    "GuestSort",
    "GuestSpec",
    "Lab",
    "LabBusy",
    "LabError",
    "Memory",
    "MoveWitness",
    "Shutdown",
    "Tier",
    "Where",
    "Witness",
]
