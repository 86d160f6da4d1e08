"""Connections for questions to agents, one for each that is under way, apart from all others.

Layer: adapters. One connection serves 5 calls at a time (libvirtd.conf max_client_requests), but
calls that hang hold up the others of theirs long before: beside two or three that hung, good ones
stalled until those were given up (seen with libvirt 9.0 in the lab). So none is shared. One that is
free is taken, else another opened (0.6 ms) while there are fewer than the most; beyond that one
waits for a place, so that agents that hang leave libvirt some of its workers. Opening can hang as
long as libvirt does, so it happens outside of the lock. One connection that broke says that the
daemon is gone, so the free ones are dropped too, and the next question opens another. libvirt's
response timeout of a guest's agent is the guest's: other programs see it and may set it, there is
no way to read the old one, and a transient guest loses it with its end
(virDomainAgentSetResponseTimeout).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import libvirt

from hostagent.adapters.libvirt.bounded import connect

MOST = 18
"""Questions under way at once, whoever hangs: libvirt has 20 workers for everybody."""
_kept: set[libvirt.virConnect] = set()
"""Every connection that is not known to be broken. libvirt closes one that is forgotten, and waits
for its daemon in that; whoever forgot it last would hang with a daemon that hangs."""
RESPONSE_TIMEOUT_S = 2
"""Without it a stopped agent blocks the call, and everybody else's to that agent, for ever."""
LIMITED_NS = 1_000_000_000
"""So long the timeout is trusted to be ours. To set it again takes 0.4 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A guest that was looked up, and when its agent's calls were limited."""

    domain: libvirt.virDomain
    limited_ns: int


class Line:
    """One connection, with the guests that were looked up on it."""

    def __init__(self, connection: libvirt.virConnect, daemon: int) -> None:
        self.connection = connection
        self.daemon = daemon
        self._known: dict[str, _Known] = {}

    def domain(self, uuid: str) -> libvirt.virDomain:
        """This guest, its agent's calls limited. Raises libvirtError."""
        known, now_ns = self._known.get(uuid), time.monotonic_ns()
        if known is not None and now_ns - known.limited_ns < LIMITED_NS:
            return known.domain
        domain = known.domain if known else self.connection.lookupByUUIDString(uuid)
        domain.agentSetResponseTimeout(RESPONSE_TIMEOUT_S)
        self._known[uuid] = _Known(domain=domain, limited_ns=now_ns)
        return domain

    def forget(self, uuid: str) -> None:
        """Look this guest up again the next time: it may have been defined or started anew."""
        self._known.pop(uuid, None)


class Lines:
    """The connections to one libvirt."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._places = threading.Semaphore(MOST)
        self._lock = threading.Lock()
        self._free: list[Line] = []
        self._daemon = 0
        """How many daemons were seen to go."""

    @contextmanager
    def lend(self) -> Iterator[Line]:
        """A connection for one call; waits while the most are lent. Raises libvirtError where none
        can be had."""
        with self._places:
            line = self._take() or self._open()
            try:
                yield line
            finally:
                self._give_back(line)

    def drop(self, line: Line) -> None:
        """This one broke, and those beside it with it. Calls under way end by themselves."""
        gone: list[Line] = []
        with self._lock:
            if line.daemon == self._daemon:
                self._daemon += 1
                gone, self._free = self._free, []
        for each in gone:
            _kept.discard(each.connection)

    def _take(self) -> Line | None:
        with self._lock:
            return self._free.pop() if self._free else None

    def _open(self) -> Line:
        daemon = self._daemon
        line = Line(connect(self._uri), daemon)
        _kept.add(line.connection)
        return line

    def _give_back(self, line: Line) -> None:
        with self._lock:
            if line.daemon == self._daemon:
                self._free.append(line)
                return
        _kept.discard(line.connection)
