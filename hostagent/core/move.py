"""What is known and wanted of a guest's move from one host to another: plain values.

Layer: core. Adapters fill in what was seen (`Movable`, `MoveHost`, `Fit`), rules decide on it
(rules/move_checks, rules/placement, rules/move), and an `Order` is what one attempt is told. Sizes
in KiB are libvirt's own (virDomainInfo, virNodeInfo). Deliberately absent: how it is done.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from hostagent.core.clock import ClockDefinition
from hostagent.core.model import GuestState
from hostagent.core.policy import Policy


class Method(StrEnum):
    """A way to leave a host. `live`, `cold` and `offline` end on the other host; `save` and
    `shutdown` only end a guest where it is."""

    LIVE = "live"
    COLD = "cold"
    OFFLINE = "offline"
    SAVE = "save"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One disk or medium. `target` is its name in the guest (vda), `source` a path, or what names
    it on a network. `shared`: both hosts reach the same storage, so nothing is copied; None where
    that can't be told. `pool`: of a volume that is named by its pool. `backing`: the files that it
    is an overlay over, as far as they are known."""

    target: str
    source: str
    kind: str = "file"
    format: str = "raw"
    medium: bool = False
    readonly: bool = False
    shared: bool | None = None
    capacity_kib: int = 0
    allocation_kib: int = 0
    pool: str = ""
    backing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Movable:
    """A guest of the source host with all that a move depends on, as seen at one moment.

    `networks` are libvirt's networks that it is plugged into, `bridges` interfaces of the host by
    name; `files` are those that it needs beside its disks (kernel, initrd, firmware); `nvram` is
    the file of its UEFI variables, `nvram_shared` as of a disk. `unmovable` names devices that tie
    it to this host (a PCI device that is passed through, a host's own USB device ...). `snapshots`
    are the names of snapshots that libvirt has metadata of. `home` is the breadcrumb: the UUID of
    the host that it was moved away from, or empty. `channel`: it has an agent's channel; `agent`:
    and an agent is connected to it. `frozen`: its file systems are frozen (None:
    not known). `problems` are those of its policy, as somebody else wrote it; `unread` is
    why its policy could not be read, empty where it was.
    """

    name: str
    uuid: str
    state: GuestState
    reason: str = ""
    job: str = ""
    persistent: bool = True
    autostart: bool = False
    memory_kib: int
    cpus: int
    kind: str
    machine: str
    arch: str
    emulator: str = ""
    cpu: str = ""
    networks: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    disks: tuple[Disk, ...] = ()
    files: tuple[str, ...] = ()
    unmovable: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    managed_save: bool = False
    nvram: str = ""
    nvram_shared: bool | None = None
    tpm: bool = False
    on_poweroff: str = "destroy"
    agent: bool = False
    channel: bool = False
    clock: ClockDefinition = field(default_factory=ClockDefinition)
    frozen: bool | None = None
    home: str = ""
    policy: Policy = field(default_factory=Policy)
    problems: tuple[str, ...] = ()
    unread: str = ""

    @property
    def active(self) -> bool:
        """Whether it has a QEMU."""
        return self.state not in (GuestState.SHUT_OFF, GuestState.CRASHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A guest on a destination, as far as it matters to those that come."""

    name: str
    uuid: str
    active: bool
    memory_kib: int
    availability_set: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A storage pool of a host: `path` where it is a directory, and what is free there. `origin`
    names the network storage behind it: equal on two hosts, both reach the same. A room without a
    name is a directory that is no pool's, and was looked at since a disk would go there."""

    name: str
    active: bool
    path: str = ""
    free_kib: int = 0
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveHost:
    """A host as a place to leave, or to move to. `uri` is how it is reached from here, `qemu` and
    `libvirt` are versions as numbers (9000000 for 9.0.0; virConnectGetVersion). `networks` are
    those that are active. `clock_ahead_ns` is how far its clock is ahead of this host's, with
    `clock_uncertainty_ns`; None where that can't be told. `same_machine`: it shares storage with
    the source since it runs on the same machine."""

    uri: str
    name: str
    uuid: str
    arch: str
    cpus: int
    memory_kib: int
    free_kib: int
    qemu: int
    libvirt: int
    networks: tuple[str, ...] = ()
    pools: tuple[Room, ...] = ()
    guests: tuple[Resident, ...] = ()
    same_machine: bool = False
    clock_ahead_ns: int | None = None
    clock_uncertainty_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a destination says of one guest. `cpu` and `machine` are empty where libvirt would run
    it there, else libvirt's reason. `missing` are media and shared disks that are not there;
    `in_the_way` are paths to which a disk would have to be copied and where something is already,
    `nowhere` directories that such a copy needs and that are not there. `shared` are the targets of
    disks that both hosts reach. `unknown` names what could not be looked at."""

    guest: str
    cpu: str = ""
    machine: str = ""
    missing: tuple[str, ...] = ()
    in_the_way: tuple[str, ...] = ()
    nowhere: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A destination that answered, the way there, and how each guest fits. `via` is its URI as the
    source's libvirt connects to it (peer to peer); `stream` is where the source's QEMU sends the
    guest (virDomainMigrateToURI3: VIR_MIGRATE_PARAM_URI), empty where libvirt is to choose;
    `unreachable` is why there is no way, empty where one was tried and works; `doubts` are what
    could not be tried of it. A stream of unix:// is one guest's at a time: each move takes its own
    (adapters/libvirt/way.stream_of)."""

    host: MoveHost
    via: str
    stream: str = ""
    unreachable: str = ""
    doubts: tuple[str, ...] = ()
    fits: tuple[Fit, ...] = ()

    def fit(self, uuid: str) -> Fit:
        """How this guest fits; one that was not asked about fits as far as is known."""
        return next((fit for fit in self.fits if fit.guest == uuid), Fit(guest=uuid))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One attempt at one guest. JSON primitives only: it is a step's arguments.

    `home` is the breadcrumb to be left in the guest (UUID of the host that it leaves;
    `home_name` is that host's name), empty to remove it, None to leave what is there. `copy` are
    the targets of disks that are copied, `left` the paths at which those stay behind, `over` those
    paths at the destination at which an earlier move of ours left a copy that may be written over.
    `limit_ns` bounds the attempt, `shutdown_ns` a cold move's wait for the guest to shut down.
    `convergence` is the schedule of a live move (rules/convergence): stages by the time since its
    beginning.
    """

    uuid: str
    name: str
    method: Method
    source: str
    destination: str
    via: str
    stream: str = ""
    persistent: bool = True
    autostart: bool = False
    runs: bool = True
    home: str | None = None
    home_name: str = ""
    copy: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    delete_source_disks: bool = False
    bandwidth_mib_s: int = 0
    limit_ns: int
    shutdown_ns: int = 0
    convergence: "tuple[Stage, ...]" = ()


class Measure(StrEnum):
    """What is done for a live move that does not come to an end by itself."""

    MAX_DOWNTIME = "max-downtime"
    AUTO_CONVERGE = "auto-converge"
    POST_COPY = "post-copy"
    ABORT = "abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """From `after_ns` on since the move began: this measure. `downtime_ms` is its new limit, for
    MAX_DOWNTIME."""

    after_ns: int
    measure: Measure
    downtime_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a live move is (virDomainGetJobStats). `rate_b_s` is measured, not what libvirt
    says; `left_ns` is the expected time to the end, None where nobody can tell."""

    uuid: str
    sent_b: int = 0
    left_b: int = 0
    total_b: int = 0
    rate_b_s: int = 0
    dirty_b_s: int = 0
    left_ns: int | None = None


class Whereabouts(StrEnum):
    """Where a guest is, by the word of both hosts."""

    SOURCE = "source"
    DESTINATION = "destination"
    UNDER_WAY = "under-way"
    BOTH = "both"
    NEITHER = "neither"
    UNKNOWN = "unknown"
