"""A few connections for questions to agents, apart from those that pause and resume.

Layer: adapters. One connection serves 5 calls at a time (libvirtd.conf max_client_requests), so
the least loaded one is taken and another opened while there are fewer than the most; beyond that
one waits for a place, so that agents that hang hold no more of libvirt's workers. Opening can hang
as long as libvirt does, so it happens outside of the lock. One connection that broke says that the
daemon is gone, so all are dropped, and the next question opens another. libvirt's response timeout
of a guest's agent is the guest's: other programs see it and may set it, there is no way to read the
old one, and a transient guest loses it with its end (virDomainAgentSetResponseTimeout).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import libvirt

from hostagent.adapters.libvirt.bounded import connect

MOST = 4
CALLS_EACH = 5
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

    def __init__(self, connection: libvirt.virConnect) -> None:
        self.connection = connection
        self.calls = 0
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
        self._changed = threading.Condition()
        self._lines: list[Line] = []
        self._opening = 0

    @contextmanager
    def lend(self) -> Iterator[Line]:
        """The least loaded connection, for one call; waits where all are fully loaded. Raises
        libvirtError where none can be had."""
        line = self._take() or self._open()
        try:
            yield line
        finally:
            with self._changed:
                line.calls -= 1
                self._changed.notify_all()

    def drop(self, line: Line) -> None:
        """This one broke, and those beside it with it. Calls under way end by themselves."""
        with self._changed:
            gone = self._lines if line in self._lines else []
            self._lines = [each for each in self._lines if each not in gone]
            self._changed.notify_all()
        for each in gone:
            _kept.discard(each.connection)

    def _take(self) -> Line | None:
        """One that is free; None where another is to be opened."""
        with self._changed:
            while True:
                line = min(self._lines, key=lambda line: line.calls, default=None)
                full = len(self._lines) + self._opening >= MOST
                if line is not None and (line.calls == 0 or (full and line.calls < CALLS_EACH)):
                    line.calls += 1
                    return line
                if not full:
                    self._opening += 1
                    return None
                self._changed.wait()

    def _open(self) -> Line:
        opened: list[Line] = []
        try:
            line = Line(connect(self._uri))
            line.calls = 1
            opened.append(line)
            _kept.add(line.connection)
            return line
        finally:
            with self._changed:
                self._opening -= 1
                self._lines += opened
                self._changed.notify_all()
