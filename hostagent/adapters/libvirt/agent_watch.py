"""Whether a guest's agent is connected, told by libvirt's events.

Layer: adapters. One connection and one registration for all guests that are waited for, made when
the first one is and kept for the next, in a thread of its own that nobody joins: a libvirt that
hangs keeps no waiting thread beyond its limit. Events can be lost (a libvirtd that is restarted
forgets the registration), so the state is also looked at now and then; that also tells who is
connected already. Source: VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
https://libvirt.org/html/libvirt-libvirt-domain.html.
"""

import logging
import threading
import time

import libvirt

from hostagent.adapters.libvirt.bounded import connect
from hostagent.adapters.libvirt.events import ensure_loop
from hostagent.adapters.libvirt.guests import agent_state
from hostagent.core.model import AgentState

log = logging.getLogger(__name__)

LOOK_S = 0.25
"""How often the state is looked at, beside the events."""


class AgentWatch:
    """Waits for agents of one libvirt's guests."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._changed = threading.Condition()
        self._connected: set[str] = set()
        self._awaited: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._connection: libvirt.virConnect | None = None

    def wait(self, uuid: str, until_ns: int) -> bool:
        """Wait until this guest's agent is connected, at most until then; whether it is."""
        with self._changed:
            self._connected.discard(uuid)
            self._awaited[uuid] = self._awaited.get(uuid, 0) + 1
            self._start()
            while uuid not in self._connected:
                left_ns = until_ns - time.monotonic_ns()
                if left_ns <= 0:
                    break
                self._changed.wait(left_ns / 1e9)
            self._awaited[uuid] -= 1
            if not self._awaited[uuid]:
                del self._awaited[uuid]
            return uuid in self._connected

    def _start(self) -> None:
        """Have this guest looked at now."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="agent-watch", daemon=True)
            self._thread.start()
        else:
            self._changed.notify_all()

    def _work(self) -> None:
        """Look, listen, look again, for as long as anybody waits."""
        while True:
            looked = self._look_at_all()
            with self._changed:
                if not self._awaited:
                    self._thread = None
                    return
                if looked:
                    self._changed.wait(LOOK_S)

    def _look_at_all(self) -> bool:
        """Whether there is nothing to be done for a while; a connection that broke is replaced at
        once, one that can't be had is knocked at slowly."""
        had = self._connection is not None
        try:
            connection = self._connection = self._connection or self._listen()
            for uuid in self._wanted():
                self._look(connection, uuid)
        except libvirt.libvirtError:
            self._connection = None
            return not had
        except Exception:  # whoever waits would never be told: nobody else looks
            log.exception("looking for agents failed")
        return True

    def _listen(self) -> libvirt.virConnect:
        ensure_loop()
        connection = connect(self._uri)
        connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, self._told, None
        )
        return connection

    def _told(
        self, _conn: libvirt.virConnect, domain: libvirt.virDomain, state: int, *_rest: object
    ) -> None:
        if state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED:
            self._arrived(domain.UUIDString())

    def _wanted(self) -> list[str]:
        with self._changed:
            return [uuid for uuid in self._awaited if uuid not in self._connected]

    def _look(self, connection: libvirt.virConnect, uuid: str) -> None:
        try:
            description = connection.lookupByUUIDString(uuid).XMLDesc()
        except libvirt.libvirtError:
            if not connection.isAlive():
                raise
            return
        if agent_state(description) is AgentState.CONNECTED:
            self._arrived(uuid)

    def _arrived(self, uuid: str) -> None:
        with self._changed:
            if uuid in self._awaited:
                self._connected.add(uuid)
                self._changed.notify_all()
