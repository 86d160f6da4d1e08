"""The guests' agents: what their clocks say, and whether they answer at all.

Layer: adapters; satisfies ports.Agent. Calls go over connections of their own, few at once, so that
stuck agents take none of libvirt's workers from the pause. virDomainGetTime does not taint a guest.
Without a limit of libvirt's own a stopped agent blocks the call, and everybody else's, for ever: so
libvirt's response timeout of each asked guest is set to 2 s (virDomainAgentSetResponseTimeout;
other programs see it too, and there is no way to read the old one). Invariants: a guest that was
not connected when the plan was made is not asked; one that does not answer gets a reason and delays
no other. Deliberately absent: setting clocks. Units: ns. Errors: none is raised; every guest gets a
reading.
"""

import queue
import threading
import time
from collections.abc import Mapping, Sequence

import libvirt

from hostagent.adapters.libvirt import errors
from hostagent.adapters.libvirt.bounded import connect
from hostagent.core.plan import PlannedGuest
from hostagent.core.ports import ClockReading

CONNECTIONS = 4
RESPONSE_TIMEOUT_S = 2
READS = 3
"""The best of so many: the shortest round trip says most."""

AGAIN_S = 0.05
"""After a restart of libvirt the agents' channels take some 100 ms to connect again."""

NO_ANSWER = "its agent does not answer"
NOT_CONNECTED = "its agent is not connected"
NO_AGENT = "it has no agent that is connected"
NOT_RUNNING = "it does not run"
FROZEN = "its file systems are frozen: its agent refuses everything else"
REFUSES = "its agent does not offer its time"


class LibvirtAgent:
    """The agents of one libvirt's guests."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def read_clocks(
        self, guests: Sequence[PlannedGuest], limit_ns: int, *, reads: int = READS
    ) -> Mapping[str, ClockReading]:
        """Read each guest's clock; all that did not answer within the limit say so."""
        asked = [guest for guest in guests if guest.agent]
        round_ = _Round(self._uri, asked, time.monotonic_ns() + limit_ns, reads)
        return {
            guest.uuid: ClockReading(reason=NO_ANSWER if guest.agent else NO_AGENT)
            for guest in guests
        } | round_.run()


class _Round:
    """One reading of some clocks by a few workers, each with a connection of its own."""

    def __init__(self, uri: str, guests: Sequence[PlannedGuest], until_ns: int, reads: int) -> None:
        self._uri = uri
        self._until_ns = until_ns
        self._reads = reads
        self._count = len(guests)
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._arrived: queue.SimpleQueue[tuple[str, ClockReading]] = queue.SimpleQueue()
        for guest in guests:
            self._waiting.put(guest.uuid)

    def run(self) -> dict[str, ClockReading]:
        """The readings that arrived in time."""
        for _ in range(min(CONNECTIONS, self._count)):
            threading.Thread(target=self._work, name="libvirt-agent", daemon=True).start()
        readings: dict[str, ClockReading] = {}
        while len(readings) < self._count:
            left_ns = max(self._until_ns - time.monotonic_ns(), 0)
            try:
                uuid, reading = self._arrived.get(timeout=left_ns / 1e9)
            except queue.Empty:
                break
            readings[uuid] = reading
        return readings

    def _work(self) -> None:
        """A worker: one connection, one guest after the other. Left behind where it hangs."""
        connection: libvirt.virConnect | None = None
        while time.monotonic_ns() < self._until_ns:
            try:
                uuid = self._waiting.get_nowait()
            except queue.Empty:
                return
            try:
                connection = connection or connect(self._uri)
                reading = self._ask(connection.lookupByUUIDString(uuid))
            except libvirt.libvirtError as error:
                reading = ClockReading(reason=_reason(error))
                connection = connection if connection and connection.isAlive() else None
            self._arrived.put((uuid, reading))

    def _ask(self, domain: libvirt.virDomain) -> ClockReading:
        """The best of a few readings. An agent that is just connecting again is waited for."""
        domain.agentSetResponseTimeout(RESPONSE_TIMEOUT_S)
        best = self._patiently(domain)
        for _ in range(self._reads - 1):
            reading = read_once(domain)
            if (reading.uncertainty_ns or 0) < (best.uncertainty_ns or 0):
                best = reading
        return best

    def _patiently(self, domain: libvirt.virDomain) -> ClockReading:
        while True:
            try:
                return read_once(domain)
            except libvirt.libvirtError as error:
                out_of_time = time.monotonic_ns() + AGAIN_S * 1e9 > self._until_ns
                if _reason(error) != NOT_CONNECTED or out_of_time:
                    raise
            time.sleep(AGAIN_S)


def read_once(domain: libvirt.virDomain) -> ClockReading:
    """One reading of a guest's clock: its time belongs to the middle of the round trip."""
    called_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    answer = domain.getTime()
    round_trip_ns = time.monotonic_ns() - called_ns
    if answer is None:
        return ClockReading(reason=NO_ANSWER)
    guest_ns = answer["seconds"] * 1_000_000_000 + answer["nseconds"]
    half_ns = round_trip_ns // 2
    return ClockReading(
        offset_ns=guest_ns - (wall_ns + half_ns),
        behind_ns=called_ns + half_ns - guest_ns,
        uncertainty_ns=round_trip_ns - half_ns,
    )


def _reason(error: libvirt.libvirtError) -> str:
    """Why there is no reading. libvirt tells some of these apart by its words only
    (src/qemu/qemu_domain.c, qemu_agent.c; QEMU's qga/main.c)."""
    told = (error.get_error_message() or "").lower()
    if error.get_error_code() == libvirt.VIR_ERR_AGENT_UNRESPONSIVE:
        return NOT_CONNECTED if "not connected" in told else NO_ANSWER
    if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
        return NOT_RUNNING
    if "frozen" in told:
        return FROZEN
    if "has been disabled" in told or "not found" in told:
        return REFUSES
    return errors.translate(error).message
