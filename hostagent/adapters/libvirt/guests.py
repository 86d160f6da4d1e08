"""Guests as libvirt knows them: state, reason, job, process, monitor and agent, all in one reading.

Layer: adapters; satisfies ports.Guests. Reads only; asks no guest and no agent anything.
Invariants: no call waits on a hung QEMU longer than its limit (a guest that does not let itself be
read in time gets a job in its place, since it could not be paused either); nobody remote. Errors:
LibvirtUnreachableError, RefusedError. Deliberately absent: what earlier runs left (Facts.held,
Facts.running_commands), which the journal knows.
"""

import os
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import libvirt

from hostagent.adapters.libvirt import daemon, uri, words
from hostagent.adapters.libvirt.bounded import Reader, spread
from hostagent.adapters.libvirt.processes import Processes
from hostagent.core.clock import ClockDefinition
from hostagent.core.model import AgentState, Facts, Guest, GuestState, Host

S = 1_000_000_000

FIRST_LIMIT_NS = 3 * S
"""The first call on a connection: libvirt hangs or it does not."""

HOST_LIMIT_NS = 20 * S
"""Capabilities of a libvirt that has just been installed: it starts every QEMU binary once."""

DETAIL_LIMIT_NS = 3 * S // 2
"""Reading single guests, all together."""

WORKERS = 4
"""One connection serves 5 calls at a time (libvirtd.conf: max_client_requests)."""

OCCUPIED_WAITS_S = (0.02, 0.08)
"""A monitor that is held after these is held by a QEMU that hangs, not by a passing question."""

AGENT_CHANNEL = "org.qemu.guest_agent.0"

_ENDED_JOBS = frozenset(
    (
        libvirt.VIR_DOMAIN_JOB_NONE,
        libvirt.VIR_DOMAIN_JOB_COMPLETED,
        libvirt.VIR_DOMAIN_JOB_FAILED,
        libvirt.VIR_DOMAIN_JOB_CANCELLED,
    )
)


_NOT_HERE = (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, libvirt.VIR_ERR_OPERATION_INVALID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What runs on this host; `qemu` is that of new guests, a running one may be older."""

    libvirt: str
    qemu: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One row of libvirt's list of guests."""

    domain: libvirt.virDomain
    name: str
    uuid: str
    domain_id: int
    state: GuestState
    reason: str

    @property
    def active(self) -> bool:
        return self.domain_id >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Detail:
    """What must be asked of each guest by itself."""

    job: str = ""
    agent: AgentState = AgentState.NONE
    clock: ClockDefinition = field(default_factory=ClockDefinition)


class LibvirtGuests:
    """The guests of one libvirt, by its URI; an empty one lets libvirt choose, as virsh does."""

    def __init__(self, uri_given: str = "") -> None:
        self._given = uri_given
        self._wanted = uri.wanted(uri_given)
        self._reader = Reader(uri_given, self._place())

    def _place(self) -> str:
        """For messages, before any connection: the socket, or libvirt's default."""
        return f"socket {uri.socket_of(self._wanted)}" if self._wanted else "its default URI"

    def facts(self) -> Facts:
        """The host and all its guests, by name."""
        uri.refuse_remote(self._wanted)
        real = self._reader.read("reading the host", FIRST_LIMIT_NS, lambda conn: conn.getURI())
        uri.refuse_remote(real)
        socket = uri.socket_of(real)
        seen = self._reader.read("listing the guests", FIRST_LIMIT_NS, _list)
        host = self._host(real, socket)
        return Facts(host=host, guests=self._guests(seen, socket))

    def look(self, uuids: Sequence[str], limit_ns: int) -> Mapping[str, Guest]:
        """These guests as they are now; patient with a libvirt that is just restarting."""
        asked = frozenset(uuids)
        real, seen = self._reader.read(
            "looking at guests", limit_ns, lambda conn: (conn.getURI(), _list(conn)), patient=True
        )
        chosen = [guest for guest in seen if guest.uuid in asked]
        return {guest.uuid: guest for guest in self._guests(chosen, uri.socket_of(real))}

    def versions(self) -> Versions:
        """The versions of libvirt's daemon and of QEMU."""
        libvirt_version, qemu = self._reader.read(
            "reading the versions",
            HOST_LIMIT_NS,
            lambda conn: (conn.getLibVersion(), conn.getVersion()),
        )
        return Versions(libvirt=_dotted(libvirt_version), qemu=_dotted(qemu))

    def _host(self, real: str, socket: Path) -> Host:
        capabilities = self._reader.read(
            "reading the host's UUID", HOST_LIMIT_NS, lambda conn: conn.getCapabilities()
        )
        found = daemon.find(socket)
        return Host(
            name=os.uname().nodename,
            uri=real,
            uuid=_parse(capabilities).findtext("host/uuid", ""),
            daemon=found,
            qmp=daemon.qmp(found, socket),
        )

    def _guests(self, seen: Sequence[_Seen], socket: Path) -> tuple[Guest, ...]:
        by_uuid = {guest.uuid: guest for guest in seen}
        active = [guest.uuid for guest in seen if guest.active]
        details = spread(active, WORKERS, DETAIL_LIMIT_NS, lambda uuid: _detail(by_uuid[uuid]))
        processes = Processes(socket.parent)
        return tuple(
            _inactive(guest)
            if not guest.active
            else _active(guest, details.get(guest.uuid, _Detail(job=words.UNANSWERED)), processes)
            for guest in seen
        )


def _dotted(version: int) -> str:
    """libvirt writes 9.1.2 as 9001002 (virConnectGetVersion)."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"


def _list(conn: libvirt.virConnect) -> list[_Seen]:
    """All guests with their states, in one call that asks no QEMU."""
    rows = conn.getAllDomainStats(
        libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    )
    seen = [_seen(domain, stats["state.state"], stats["state.reason"]) for domain, stats in rows]
    return sorted(seen, key=lambda guest: guest.name)


def _seen(domain: libvirt.virDomain, state: int, reason: int) -> _Seen:
    word = words.state(state)
    return _Seen(
        domain=domain,
        name=domain.name(),
        uuid=domain.UUIDString(),
        domain_id=domain.ID(),
        state=word,
        reason=words.reason(word, reason),
    )


def _inactive(seen: _Seen) -> Guest:
    return Guest(name=seen.name, uuid=seen.uuid, state=seen.state, reason=seen.reason)


def _active(seen: _Seen, detail: _Detail, processes: Processes) -> Guest:
    process = processes.of(seen.name, seen.uuid, seen.domain_id)
    return Guest(
        name=seen.name,
        uuid=seen.uuid,
        state=seen.state,
        reason=seen.reason,
        job=detail.job,
        process=process,
        monitor=processes.monitor(seen.name, process) if process else "",
        agent=detail.agent,
        clock=detail.clock,
    )


def _detail(seen: _Seen) -> _Detail:
    """Never raises: a guest that ended meanwhile has neither job nor agent."""
    try:
        description = seen.domain.XMLDesc()
        return _Detail(
            job=_job(seen),
            agent=agent_state(description),
            clock=clock_definition(description),
        )
    except libvirt.libvirtError:
        return _Detail()


def _job(seen: _Seen) -> str:
    """The running job. Asks who holds the monitor first: a job's figures come from QEMU itself."""
    if _occupied(seen.domain):
        return words.UNANSWERED
    try:
        stats = seen.domain.jobStats()
    except libvirt.libvirtError as error:
        # libvirt has figures of a migration on the sending side only, and says so with these codes
        arriving = (
            error.get_error_code() in _NOT_HERE
            and seen.state is GuestState.PAUSED
            and seen.reason == "migrating"
        )
        return "incoming migration" if arriving else ""
    if stats["type"] in _ENDED_JOBS:
        return words.PASSING.get(seen.reason, "") if seen.state is GuestState.PAUSED else ""
    return words.job(stats.get("operation", 0))


def _occupied(domain: libvirt.virDomain) -> bool:
    for wait_s in (*OCCUPIED_WAITS_S, None):
        if domain.controlInfo()[0] != libvirt.VIR_DOMAIN_CONTROL_OCCUPIED:
            return False
        if wait_s is not None:
            time.sleep(wait_s)
    return True


def agent_state(description: str) -> AgentState:
    """Whether a guest's live description has the agent's channel, and whether it is connected."""
    for target in _parse(description).iterfind("devices/channel/target"):
        if target.get("name") == AGENT_CHANNEL:
            connected = target.get("state") == "connected"
            return AgentState.CONNECTED if connected else AgentState.DISCONNECTED
    return AgentState.NONE


def clock_definition(description: str) -> ClockDefinition:
    """libvirt's <clock> in a guest's live description; `reset` has no adjustment yet."""
    clock = _parse(description).find("clock")
    if clock is None:
        return ClockDefinition()
    adjustment = clock.get("adjustment", "0")
    number = int(adjustment) if adjustment.removeprefix("-").isdecimal() else 0
    return ClockDefinition(offset=clock.get("offset", "utc"), adjustment_s=number)


def _parse(description: str) -> ET.Element:
    return ET.fromstring(description)  # noqa: S314 (written by libvirt, which resolved everything)
