"""A few connections for questions to agents, apart from those that pause and resume.

Layer: adapters. One connection serves 5 calls at a time (libvirtd.conf max_client_requests), so
the least loaded one is taken and another opened while there are fewer than the most. Opening can
hang as long as libvirt does, so it happens outside of the lock: whoever opens waits alone. A
connection that broke is dropped; the next question opens another. libvirt's response timeout of a
guest's agent is set once a connection: it is the guest's, other programs see it, and there is no
way to read the old one (virDomainAgentSetResponseTimeout).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from hostagent.adapters.libvirt.bounded import connect

MOST = 4
CALLS_EACH = 5
_kept: set[libvirt.virConnect] = set()
"""Every connection that is not known to be broken. libvirt closes one that is forgotten, and waits
for its daemon in that; whoever forgot it last would hang with a daemon that hangs."""
RESPONSE_TIMEOUT_S = 2
"""Without it a stopped agent blocks the call, and everybody else's to that agent, for ever."""


class Line:
    """One connection, with the guests that were looked up on it."""

    def __init__(self, connection: libvirt.virConnect) -> None:
        self.connection = connection
        self.calls = 0
        self._domains: dict[str, libvirt.virDomain] = {}

    def domain(self, uuid: str) -> libvirt.virDomain:
        """This guest, its agent's calls limited. Raises libvirtError."""
        if uuid not in self._domains:
            domain = self.connection.lookupByUUIDString(uuid)
            domain.agentSetResponseTimeout(RESPONSE_TIMEOUT_S)
            self._domains[uuid] = domain
        return self._domains[uuid]

    def forget(self, uuid: str) -> None:
        """Look this guest up again the next time: it may have been defined or started anew."""
        self._domains.pop(uuid, None)


class Lines:
    """The connections to one libvirt."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._lines: list[Line] = []
        self._opening = 0

    @contextmanager
    def lend(self) -> Iterator[Line]:
        """The least loaded connection, for one call. Raises libvirtError where none can be had."""
        line = self._take() or self._open()
        try:
            yield line
        finally:
            with self._lock:
                line.calls -= 1

    def drop(self, line: Line) -> None:
        """This one is broken."""
        with self._lock:
            if line in self._lines:
                self._lines.remove(line)
            _kept.discard(line.connection)

    def _take(self) -> Line | None:
        """One that is free; None where another should be opened."""
        with self._lock:
            line = min(self._lines, key=lambda line: line.calls, default=None)
            full = len(self._lines) + self._opening >= MOST
            if line is not None and (line.calls == 0 or (full and line.calls < CALLS_EACH)):
                line.calls += 1
                return line
            self._opening += 1
            return None

    def _open(self) -> Line:
        try:
            line = Line(connect(self._uri))
        finally:
            with self._lock:
                self._opening -= 1
        line.calls = 1
        with self._lock:
            self._lines.append(line)
            _kept.add(line.connection)
        return line
