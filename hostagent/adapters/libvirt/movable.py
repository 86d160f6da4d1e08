"""The guests of a host with all that a move depends on, read at one moment.

Layer: adapters; reads only. Three kinds of reading, each with its limit: what libvirt knows by
itself (definition, snapshots, notes), which a hung QEMU does not hold up; what its QEMU must be
asked (sizes of disks, and whether it answers at all); what its agent must be asked (whether its
file systems are frozen). A guest whose QEMU hangs gets a job in its place, as in guests, and spoils
nobody else's reading. Errors: LibvirtUnreachableError. Deliberately absent: whether another host
has what these guests need (destination).

Frozen file systems are told by the agent's refusal to tell the time: there is no question for it
that would not taint the guest (qemuAgentCommand does), and virDomainGetFSInfo is refused just so.
"""

import time
import xml.etree.ElementTree as ET
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import libvirt

from hostagent.adapters.libvirt import addresses, definition, disks, errors, metadata, words
from hostagent.adapters.libvirt import uri as uris
from hostagent.adapters.libvirt.agent_pace import Pace
from hostagent.adapters.libvirt.agent_pool import Lines
from hostagent.adapters.libvirt.agent_refusals import refusal
from hostagent.adapters.libvirt.bounded import spread, within
from hostagent.adapters.libvirt.definition import HOST_DEFINED, Definition
from hostagent.adapters.libvirt.guests import LibvirtGuests
from hostagent.adapters.libvirt.move_host import (
    OFF,
    WORKERS,
    Connection,
    optional,
    parse,
    room_of,
    visit,
)
from hostagent.core.clock import Refusal
from hostagent.core.errors import HostagentError
from hostagent.core.model import RUNS, AgentState, Guest
from hostagent.core.move import Disk, Movable
from hostagent.core.policy import GuestNotes

S = 1_000_000_000

KNOWN_LIMIT_NS = 10 * S
QEMU_LIMIT_NS = 2 * S
AGENT_LIMIT_NS = 5 * S // 2
"""libvirt gives an agent up after 2 s (agent_pool)."""
ASKERS = 8
"""Questions to QEMUs and agents at once: so many that hang, less one, hold nobody else up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What libvirt knows of a guest by itself."""

    name: str
    definition: Definition | None = None
    persistent: bool = True
    autostart: bool = False
    snapshots: tuple[str, ...] = ()
    managed_save: bool = False
    notes: GuestNotes = field(default_factory=GuestNotes)


class _Questions:
    """Puts questions to QEMUs and agents, on connections that are lent for one call each."""

    def __init__(self, uri: str) -> None:
        self._lines = Lines(addresses.quiet(uri))
        self._pace = Pace()

    def sizes(self, uuid: str, known: _Known, active: bool) -> tuple[Disk, ...]:
        """The guest's disks with their sizes; never raises. One that is active is asked something
        in any case (its limit of downtime), so that one that hangs shows."""
        found = known.definition.disks if known.definition else ()
        with suppress(libvirt.libvirtError), self._lines.lend() as line:
            domain = line.connection.lookupByUUIDString(uuid)
            with self._pace.call(uuid):
                if active:
                    optional(domain.migrateGetMaxDowntime, 0)
                return tuple(_sized(domain, disk) for disk in found)
        return found

    def frozen(self, uuid: str) -> bool | None:
        """Whether its file systems are frozen; None where its agent does not say. Never raises."""
        try:
            with self._lines.lend() as line, self._pace.call(uuid):
                line.domain(uuid).getTime()
                return False
        except libvirt.libvirtError as error:
            return True if refusal(error).refusal is Refusal.FROZEN else None
        except (UnicodeDecodeError, SystemError):  # from the binding, of an agent's rubbish
            return None

    def hang_up(self) -> None:
        """Close what is free. Closing waits for libvirtd, so it has a limit too."""
        with suppress(TimeoutError, libvirt.libvirtError):
            within(S, self._drop)

    def _drop(self) -> None:
        with self._lines.lend() as line:
            self._lines.drop(line)


def read_guests(uri: str, uuids: Collection[str] | None, limit_ns: int) -> tuple[Movable, ...]:
    """These guests (None: all), by name; one that is not there is absent."""
    until_ns = time.monotonic_ns() + limit_ns
    asked = None if uuids is None else frozenset(uuids)
    known = visit(uri, "reading the guests", limit_ns, lambda conn: _all(conn, asked, until_ns))
    states = _states(uri, tuple(known), until_ns)
    questions = _Questions(uris.wanted(uri))
    asking = [guest for guest in states.values() if guest.job != words.UNANSWERED]
    disks_of = _sizes(questions, known, asking, until_ns)
    frozen = _frozen(questions, [guest for guest in asking if guest.uuid in disks_of], until_ns)
    questions.hang_up()
    local = addresses.is_local(uris.wanted(uri))
    movables = (
        _movable(guest, known[guest.uuid], disks_of.get(guest.uuid), frozen.get(guest.uuid), local)
        for guest in states.values()
    )
    return tuple(sorted(movables, key=lambda guest: guest.name))


def _left(until_ns: int, most_ns: int) -> int:
    return max(0, min(most_ns, until_ns - time.monotonic_ns()))


def _all(conn: Connection, asked: Collection[str] | None, until_ns: int) -> Mapping[str, _Known]:
    """By uuid. One whose definition is not told in time is there without it."""
    rows = conn.getAllDomainStats(
        libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    )
    domains = {domain.UUIDString(): domain for domain, _ in rows}
    chosen = [uuid for uuid in domains if asked is None or uuid in asked]
    cpu = parse(conn.getCapabilities()).find("host/cpu")
    host_cpu = "" if cpu is None else ET.tostring(cpu, encoding="unicode").strip()
    limit_ns = _left(until_ns, KNOWN_LIMIT_NS) * 3 // 4
    found = spread(chosen, WORKERS, limit_ns, lambda uuid: _known(conn, domains[uuid], host_cpu))
    return {uuid: found.get(uuid, _Known(name=domains[uuid].name())) for uuid in chosen}


def _known(conn: Connection, domain: libvirt.virDomain, host_cpu: str) -> _Known:
    """Never raises: one that went away meanwhile has no definition."""
    name = domain.name()
    try:
        return _Known(
            name=name,
            definition=_definition(conn, domain, host_cpu),
            persistent=domain.isPersistent() == 1,
            autostart=optional(domain.autostart, 0) == 1,
            snapshots=tuple(sorted(optional(domain.snapshotListNames, ()))),
            managed_save=optional(domain.hasManagedSaveImage, 0) == 1,
            notes=_notes(domain),
        )
    except libvirt.libvirtError:
        return _Known(name=name)


def _notes(domain: libvirt.virDomain) -> GuestNotes:
    try:
        return metadata.read(domain)
    except HostagentError as error:
        return GuestNotes(unread=error.message)


def _definition(conn: Connection, domain: libvirt.virDomain, host_cpu: str) -> Definition:
    """As it runs, or as it is stored. A CPU that names no model is the host's own while it runs,
    and is chosen anew when it starts."""
    active = domain.ID() >= 0
    stored = libvirt.VIR_DOMAIN_XML_INACTIVE
    sent = libvirt.VIR_DOMAIN_XML_MIGRATABLE | (0 if active else stored)
    found = definition.read(domain.XMLDesc(0 if active else stored), domain.XMLDesc(sent))
    if active and found.cpu_mode in HOST_DEFINED:
        found = replace(found, cpu=host_cpu)
    return replace(found, disks=tuple(_placed(conn, disk) for disk in found.disks))


def _placed(conn: Connection, disk: Disk) -> Disk:
    """A disk that is named by its pool, with its path, and shared if the pool is on a network."""
    if disk.kind != "volume":
        return disk
    try:
        pool = conn.storagePoolLookupByName(disk.pool)
        volume = pool.storageVolLookupByName(disk.source)
        origin = room_of(pool).origin
        return replace(disk, source=volume.path(), shared=True if origin else disk.shared)
    except libvirt.libvirtError:
        return disk


def _states(uri: str, uuids: Sequence[str], until_ns: int) -> Mapping[str, Guest]:
    """State, job and agent, in a thread of its own as everything that opens a connection."""
    limit_ns = _left(until_ns, until_ns)
    given = addresses.quiet(uris.wanted(uri))
    try:
        return within(limit_ns, lambda: LibvirtGuests(given).look(uuids, limit_ns))
    except TimeoutError:
        raise errors.no_answer("looking at guests", limit_ns, given) from None


def _sizes(
    questions: _Questions, known: Mapping[str, _Known], guests: Sequence[Guest], until_ns: int
) -> Mapping[str, tuple[Disk, ...]]:
    """The disks of all that answered."""
    by_uuid = {guest.uuid: guest for guest in guests}
    return spread(
        by_uuid,
        ASKERS,
        _left(until_ns, QEMU_LIMIT_NS),
        lambda uuid: questions.sizes(uuid, known[uuid], _active(by_uuid[uuid])),
    )


def _sized(domain: libvirt.virDomain, disk: Disk) -> Disk:
    try:
        capacity, allocation, _ = domain.blockInfo(disk.target)
    except libvirt.libvirtError:
        return disk
    return replace(disk, capacity_kib=capacity // 1024, allocation_kib=allocation // 1024)


def _frozen(
    questions: _Questions, guests: Sequence[Guest], until_ns: int
) -> Mapping[str, bool | None]:
    """Of those whose agent is there to be asked."""
    asked = [g.uuid for g in guests if g.state in RUNS and g.agent is AgentState.CONNECTED]
    return spread(asked, ASKERS, _left(until_ns, AGENT_LIMIT_NS), questions.frozen)


def _active(guest: Guest) -> bool:
    return guest.state not in OFF


def _movable(
    guest: Guest,
    known: _Known,
    found: tuple[Disk, ...] | None,
    frozen: bool | None,
    local: bool,
) -> Movable:
    silent = known.definition is None or (found is None and _active(guest))
    base = Movable(
        name=guest.name,
        uuid=guest.uuid,
        state=guest.state,
        reason=guest.reason,
        job=guest.job or (words.UNANSWERED if silent else ""),
        persistent=known.persistent,
        autostart=known.autostart,
        memory_kib=0,
        cpus=0,
        kind="",
        machine="",
        arch="",
        snapshots=known.snapshots,
        managed_save=known.managed_save,
        agent=guest.agent is AgentState.CONNECTED,
        frozen=frozen,
        home=known.notes.home.host_uuid if known.notes.home else "",
        policy=known.notes.policy,
        problems=known.notes.problems,
        unread=known.notes.unread,
    )
    return base if known.definition is None else _defined(base, known.definition, found, local)


def _defined(
    guest: Movable, defined: Definition, found: tuple[Disk, ...] | None, local: bool
) -> Movable:
    """The same guest with what its definition says."""
    shared = disks.on_network(defined.nvram) if local and defined.nvram else None
    return replace(
        guest,
        job=guest.job or defined.job,
        memory_kib=defined.memory_kib,
        cpus=defined.cpus,
        kind=defined.kind,
        machine=defined.machine,
        arch=defined.arch,
        emulator=defined.emulator,
        cpu=defined.cpu,
        networks=defined.networks,
        bridges=defined.bridges,
        disks=tuple(_shared(disk, local) for disk in found or defined.disks),
        files=defined.files,
        unmovable=defined.unmovable,
        nvram=defined.nvram,
        nvram_shared=shared,
        tpm=defined.tpm,
        on_poweroff=defined.on_poweroff,
        channel=defined.channel,
        clock=defined.clock,
    )


def _shared(disk: Disk, local: bool) -> Disk:
    """Whether other hosts may reach it, by its file system. Of a host elsewhere that can't be seen:
    then it is taken for the host's own, and the destination (which sees the same file, or sees
    that it has none) has the last word. Of a device nobody can tell."""
    if disk.shared is not None or not disk.source.startswith("/") or disk.kind == "block":
        return disk
    if disk.source.startswith("/dev/"):
        return disk
    return replace(disk, shared=local and disks.on_network(disk.source))
