"""What hostagent knows of a host and its guests: plain values, read once, never changed.

Layer: core. Invariant: nothing here reads the world; adapters fill these values in, rules decide
on them. State and reason words are those of `virsh domstate --reason`, so that an operator finds
them in libvirt's own documentation (virDomainState and its reasons,
https://libvirt.org/html/libvirt-libvirt-domain.html).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hostagent.core.clock import ClockDefinition
from hostagent.core.policy import GuestNotes


class GuestState(StrEnum):
    """The state of a guest in virsh's words."""

    RUNNING = "running"
    IDLE = "idle"
    PAUSED = "paused"
    IN_SHUTDOWN = "in shutdown"
    SHUT_OFF = "shut off"
    CRASHED = "crashed"
    ASLEEP = "pmsuspended"
    NO_STATE = "no state"


RUNS = frozenset({GuestState.RUNNING, GuestState.IDLE, GuestState.NO_STATE})
"""States in which the guest's CPUs are executing ("idle" and "no state" are old Xen words)."""


class AgentState(StrEnum):
    """What is known of a guest's QEMU guest agent without asking the guest anything."""

    NONE = "no"
    CONNECTED = "yes"
    DISCONNECTED = "not connected"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One incarnation of a guest: it is the same guest only while all three stay equal.

    `start_ticks` is field 22 of /proc/PID/stat (proc(5)), in clock ticks since boot; with it a
    reused pid is told apart.
    """

    domain_id: int
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """One guest as it was seen at one moment.

    `job` names a running job (migration, save, dump, backup ...) or is empty. `process` and
    `monitor` (path of its QEMU monitor socket) are absent for a guest that has no process. `clock`
    is what libvirt was told of its clock.
    """

    name: str
    uuid: str
    state: GuestState
    reason: str = ""
    job: str = ""
    process: Process | None = None
    monitor: str = ""
    agent: AgentState = AgentState.NONE
    clock: ClockDefinition = field(default_factory=ClockDefinition)

    @property
    def runs(self) -> bool:
        """Whether its CPUs are executing."""
        return self.state in RUNS


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtDaemon:
    """The daemon behind a connection, identified while it is healthy.

    Only a process that still has this pid in its pid file, this executable name and this start
    time may ever be killed.
    """

    pid_file: str
    exe: str
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Qmp:
    """Whether a guest may be resumed on its own monitor when libvirt is unusable, or why not."""

    allowed: bool
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The libvirt host that a run works on. `clock_synchronised`: whether a time daemon keeps its
    own clock right; None where that can't be read."""

    name: str
    uri: str
    uuid: str
    daemon: LibvirtDaemon | None
    qmp: Qmp
    clock_synchronised: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a plan is decided on: the host, every guest on it, and what earlier runs left.

    `held` maps the uuid of a guest for which an earlier run's guardian is still waiting to that
    run's id; `running_commands` maps the pid of an earlier run's update command that still lives
    to its command line. `notes` are what is noted in the guests' own metadata, by UUID; absent
    where nobody asked for them.
    """

    host: Host
    guests: tuple[Guest, ...]
    held: dict[str, str] = field(default_factory=dict)
    running_commands: dict[int, str] = field(default_factory=dict)
    notes: Mapping[str, GuestNotes] = field(default_factory=dict)
