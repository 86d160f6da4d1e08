"""A host as a place to leave, or to move to: versions, memory, networks, pools, and who is there.

Layer: adapters; reads only. Everything is read in one visit: a connection that is opened, used and
closed inside a thread of its own, since each of the three can hang with a libvirtd that hangs. So
nothing of libvirt leaves `visit` but plain values. Errors: LibvirtUnreachableError, with what to do
about it. A host's clock is told by ssh where that leads there (remote_clock): libvirt tells no
host's time, and a clock that was read through some guest's agent would be the guest's.
"""

import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import libvirt

from hostagent.adapters.libvirt import addresses, errors, metadata, remote_clock, words
from hostagent.adapters.libvirt import uri as uris
from hostagent.adapters.libvirt.bounded import connect, spread, within
from hostagent.adapters.libvirt.disks import LOOK
from hostagent.core.errors import HostagentError, LibvirtUnreachableError
from hostagent.core.model import GuestState
from hostagent.core.move import MoveHost, Resident, Room

T = TypeVar("T")
U = TypeVar("U")
S = 1_000_000_000

WORKERS = 4
"""One connection serves 5 calls at a time (libvirtd.conf: max_client_requests)."""

NOTES_LIMIT_NS = 2 * S
CLOCK_LIMIT_NS = 4 * S

OFF = frozenset({GuestState.SHUT_OFF, GuestState.CRASHED})

Connection = libvirt.virConnect


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome(Generic[T]):
    """What a visit brought. An exception would carry its frames, and with them the connection,
    into the thread that waits with a limit."""

    value: T | None = None
    error: HostagentError | None = None


def visit(uri: str, doing: str, limit_ns: int, work: Callable[[Connection], T]) -> T:
    """The result of `work` on a connection of its own; all of it has this limit.

    Raises LibvirtUnreachableError, or libvirt's error in our words.
    """
    place = uris.wanted(uri) or "its default URI"
    try:
        outcome = within(limit_ns, lambda: _visited(uri, doing, place, work))
    except TimeoutError:
        raise errors.no_answer(doing, limit_ns, place) from None
    if outcome.error is not None:
        raise outcome.error
    return outcome.value  # type: ignore[return-value]  # one of the two is set


def _visited(uri: str, doing: str, place: str, work: Callable[[Connection], T]) -> _Outcome[T]:
    try:
        connection = connect(addresses.quiet(uris.wanted(uri)))
    except libvirt.libvirtError as error:
        ours = errors.translate(error, doing, place)
        hint = addresses.cure(uris.wanted(uri), ours.message) if uris.wanted(uri) else ours.hint
        return _Outcome(error=LibvirtUnreachableError(ours.message, hint=hint))
    try:
        return _Outcome(value=work(connection))
    except libvirt.libvirtError as error:
        return _Outcome(error=errors.translate(error, doing, place))


def read_host(uri: str, limit_ns: int) -> MoveHost:
    """The host behind this URI. A libvirt that has just been installed starts every QEMU once
    before it answers, which takes seconds."""
    until_ns = time.monotonic_ns() + limit_ns
    host = visit(uri, "reading the host", limit_ns, lambda conn: _host(conn, uri, until_ns))
    if addresses.is_local(host.uri):
        return replace(host, clock_ahead_ns=0)
    clock = remote_clock.read(host.uri, min(CLOCK_LIMIT_NS, until_ns - time.monotonic_ns()))
    if clock is None:
        return host
    return replace(host, clock_ahead_ns=clock.ahead_ns, clock_uncertainty_ns=clock.uncertainty_ns)


def _host(conn: Connection, uri: str, until_ns: int) -> MoveHost:
    capabilities = parse(conn.getCapabilities())
    information = conn.getInfo()
    memory_kib, free_kib = _memory(conn, information)
    return MoveHost(
        uri=uris.wanted(uri) if "://" in uris.wanted(uri) else conn.getURI(),
        name=conn.getHostname(),
        uuid=capabilities.findtext("host/uuid", ""),
        arch=capabilities.findtext("host/cpu/arch", "") or str(information[0]),
        cpus=int(information[2]),
        memory_kib=memory_kib,
        free_kib=free_kib,
        qemu=conn.getVersion(),
        libvirt=conn.getLibVersion(),
        networks=_networks(conn),
        pools=_rooms(conn),
        guests=_residents(conn, until_ns),
    )


def _memory(conn: Connection, information: Sequence[object]) -> tuple[int, int]:
    """All and free, in KiB. What the kernel can give back counts as free; libvirt does not tell
    apart what of its cache is shared memory, which it can't. The node's own figure (in MiB) is of
    its NUMA cells, and seen to miss memory that was plugged in."""
    figures = conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    free = sum(figures.get(name, 0) for name in ("free", "buffers", "cached"))
    return figures.get("total") or int(str(information[1])) * 1024, free


def _networks(conn: Connection) -> tuple[str, ...]:
    found = optional(lambda: conn.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE), ())
    return tuple(sorted(network.name() for network in found))


def _rooms(conn: Connection) -> tuple[Room, ...]:
    pools = optional(lambda: conn.listAllStoragePools(), ())
    rooms = (room for pool in pools if (room := _room(pool)) and not room.name.startswith(LOOK))
    return tuple(sorted(rooms, key=lambda room: room.name))


def _room(pool: libvirt.virStoragePool) -> Room | None:
    return optional(lambda: room_of(pool), None)


def room_of(pool: libvirt.virStoragePool) -> Room:
    """A pool as it was at its last refresh."""
    active = pool.isActive() == 1
    description = parse(pool.XMLDesc())
    return Room(
        name=pool.name(),
        active=active,
        path=description.findtext("target/path", ""),
        free_kib=pool.info()[3] // 1024 if active else 0,
        origin=_origin(description),
    )


def _origin(pool: ET.Element) -> str:
    """What is behind a pool on a network, the same text on every host that has it."""
    source = pool.find("source")
    if source is None or source.find("host") is None:
        return ""
    hosts = sorted(host.get("name", "") for host in source.iterfind("host"))
    directory, device = source.find("dir"), source.find("device")
    parts = (
        directory.get("path", "") if directory is not None else "",
        device.get("path", "") if device is not None else "",
        source.findtext("name", ""),
    )
    return f"{pool.get('type')}:{','.join(hosts)}:{':'.join(filter(None, parts))}"


def _residents(conn: Connection, until_ns: int) -> tuple[Resident, ...]:
    """Everybody there, in a call that asks no QEMU; their sets as far as they can be read."""
    rows = conn.getAllDomainStats(
        libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BALLOON,
        libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
    )
    domains = {domain.UUIDString(): domain for domain, _ in rows}
    limit_ns = min(NOTES_LIMIT_NS, (until_ns - time.monotonic_ns()) * 3 // 4)
    sets = spread(domains, WORKERS, limit_ns, lambda uuid: _set_of(domains[uuid]))
    residents = [_resident(domain, stats, sets) for domain, stats in rows]
    return tuple(sorted(residents, key=lambda guest: guest.name))


def _resident(
    domain: libvirt.virDomain, stats: Mapping[str, Any], sets: Mapping[str, str]
) -> Resident:
    uuid = domain.UUIDString()
    return Resident(
        name=domain.name(),
        uuid=uuid,
        active=words.state(stats["state.state"]) not in OFF,
        memory_kib=stats.get("balloon.maximum") or optional(lambda: domain.info()[1], 0),
        availability_set=sets.get(uuid, ""),
    )


def _set_of(domain: libvirt.virDomain) -> str:
    try:
        return metadata.read(domain).policy.availability_set
    except HostagentError:
        return ""


def optional(work: Callable[[], T], otherwise: U) -> T | U:
    """Of a driver that may not be installed, or an object that is just going away. A connection
    that broke is no such case."""
    try:
        return work()
    except libvirt.libvirtError as error:
        if error.get_error_domain() == errors.VIR_FROM_RPC:
            raise
        return otherwise


def parse(description: str) -> ET.Element:
    """libvirt's XML."""
    return ET.fromstring(description)  # noqa: S314 (written by libvirt, which resolved everything)
