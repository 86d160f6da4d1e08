"""What a lab has made, kept where a later process finds it: the only thing that `down` trusts.

Layer: lab. Each lab has one directory, /tmp/halab-NAME (for an ordinary user
/tmp/halab-UID-NAME), which holds

    lock        held with flock while somebody changes the lab, or owns it for a test session
    state.json  hosts, guests and what else there is to undo; written before a thing is made
    processes   a line "PID START-TICKS ROLE" a process, only ever appended to
    h1, h2 ...  the hosts' own directories

Invariants: state.json is replaced as a whole, so it is never read half written; the directory's
path is short, since a Unix socket's name has at most 107 bytes (unix(7)) and libvirt's own are
long; a directory that somebody else made is never used. Errors: LabError.
"""

import fcntl
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.processes import ProcessId

MOST_GUESTS = 20
"""Twenty guests of 128 MiB are what a machine of two CPUs carries without spoiling timings."""

DEFAULT_NAME = "main"


class Tier(StrEnum):
    """The two sorts of host."""

    LIGHT = "light"
    FULL = "full"


class Phase(StrEnum):
    """How far a lab got: one that is still STARTING without its lock was killed."""

    STARTING = "starting"
    UP = "up"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestRecord:
    """One guest as it is defined; `sort` is a word of lab.guests.GuestSort."""

    name: str
    sort: str
    uuid: str
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """One host and its directory."""

    name: str
    uuid: str
    directory: str
    guests: tuple[GuestRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabState:
    """One lab. `control_groups` are those to be removed with it (full tier).

    `owner` is the process that a lab lives and dies with; None for one that stays until `down`.
    """

    name: str
    tier: Tier
    phase: Phase
    accelerator: str
    hosts: tuple[HostRecord, ...]
    owner: ProcessId | None = None
    control_groups: tuple[str, ...] = ()


class LabDirectory:
    """The directory of one lab, and the lock on it."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,15}", name):
            raise LabError(f"{name!r} is no lab name: use a-z, 0-9 and -, at most 16 characters")
        self.name = name
        owner = "" if os.geteuid() == 0 else f"{os.geteuid()}-"
        self.path = Path("/tmp") / f"halab-{owner}{name}"
        self._lock_fd: int | None = None

    @property
    def locked(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock_fd is not None

    def lock(self) -> bool:
        """Take the lock without waiting; False when somebody else holds it.

        The file may be removed with its directory by the former holder between open and flock, so
        it is compared with what the path names afterwards.
        """
        while True:
            self._make()
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            if _same_file(fd, self.path / "lock"):
                self._lock_fd = fd
                return True
            os.close(fd)

    def unlock(self) -> None:
        """Give the lock back, and the directory too when there is nothing in it to undo."""
        if self._lock_fd is None:
            return
        if not (self.path / "state.json").exists():
            (self.path / "lock").unlink(missing_ok=True)
            self.path.rmdir()
        os.close(self._lock_fd)
        self._lock_fd = None

    def _make(self) -> None:
        """Make the directory; one that somebody else put there is refused."""
        self.path.mkdir(mode=0o755, exist_ok=True)
        info = self.path.lstat()
        if info.st_uid != os.geteuid() or not self.path.is_dir() or self.path.is_symlink():
            raise LabError(f"{self.path} belongs to somebody else; use another --name")

    def read(self) -> LabState | None:
        """The lab's state; None when there is no such lab."""
        try:
            text = (self.path / "state.json").read_text()
        except FileNotFoundError:
            return None
        return _from_json(json.loads(text))

    def write(self, state: LabState) -> None:
        """Replace the lab's state as a whole."""
        assert self.locked, "a lab's state is written under its lock only"
        with tempfile.NamedTemporaryFile("w", dir=self.path, delete=False) as file:
            json.dump(asdict(state), file, indent=1)
        Path(file.name).rename(self.path / "state.json")

    def record(self, process: ProcessId, role: str) -> None:
        """Note a process; a short append needs no lock."""
        with (self.path / "processes").open("a") as file:
            file.write(f"{process.pid} {process.start_ticks} {role}\n")

    def recorded(self) -> list[ProcessId]:
        """Every process that was ever noted, whether it still runs or not."""
        try:
            lines = (self.path / "processes").read_text().splitlines()
        except FileNotFoundError:
            return []
        words = [line.split() for line in lines]
        return [ProcessId(pid=int(w[0]), start_ticks=int(w[1])) for w in words if len(w) == 3]


def _same_file(fd: int, path: Path) -> bool:
    """Whether an open file is still the one that a path names."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _from_json(raw: dict[str, Any]) -> LabState:
    """The state as it was written by `write`."""
    hosts = tuple(
        HostRecord(
            name=host["name"],
            uuid=host["uuid"],
            directory=host["directory"],
            guests=tuple(GuestRecord(**guest) for guest in host["guests"]),
        )
        for host in raw["hosts"]
    )
    return LabState(
        name=raw["name"],
        tier=Tier(raw["tier"]),
        phase=Phase(raw["phase"]),
        accelerator=raw["accelerator"],
        hosts=hosts,
        owner=ProcessId(**raw["owner"]) if raw["owner"] else None,
        control_groups=tuple(raw["control_groups"]),
    )
