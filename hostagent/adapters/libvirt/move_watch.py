"""Looking at a host again and again while a move goes on, without ever waiting for it.

Layer: adapters. A `Pulse` asks the same question on a connection and in a thread of its own; what
it tells is the last answer and how long the present question has been without one. A `Hand` makes
single calls that may hang, one after the other, with nobody waiting. Invariants: at most one thread
hangs for each of them, however long that lasts; nothing here is joined. Times in ns, monotonic.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import libvirt

from hostagent.adapters.libvirt.bounded import connect

T = TypeVar("T")


class Pulse(Generic[T]):
    """One question, put every `every_s`; until stopped."""

    def __init__(self, uri: str, every_s: float, ask: Callable[[libvirt.virConnect], T]) -> None:
        self._uri = uri
        self._every_s = every_s
        self._ask = ask
        self._stopped = threading.Event()
        self._asked_ns = 0
        self.answer: T | None = None
        self.answered_ns = 0
        self.lost = False
        threading.Thread(target=self._beat, name="libvirt-pulse", daemon=True).start()

    @property
    def silent_ns(self) -> int:
        """For how long a question has been out; 0 while there is none."""
        asked_ns = self._asked_ns
        return time.monotonic_ns() - asked_ns if asked_ns else 0

    def stop(self) -> None:
        """Ask no more. Never waits."""
        self._stopped.set()

    def _beat(self) -> None:
        connection: libvirt.virConnect | None = None
        while not self._stopped.is_set():
            self._asked_ns = time.monotonic_ns()
            try:
                connection = connection or connect(self._uri)
                self.answer = self._ask(connection)
                self.answered_ns = time.monotonic_ns()
                self.lost = False
            except libvirt.libvirtError:
                self.lost = connection is None or not _alive(connection)
                connection = None if self.lost else connection
            self._asked_ns = 0
            self._stopped.wait(self._every_s)


def _alive(connection: libvirt.virConnect) -> bool:
    """Asks no daemon."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


class Hand:
    """Calls that nobody waits for. The next one is taken when the one before is over."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._busy = False

    def busy(self) -> bool:
        """Whether a call is out."""
        return self._busy

    def do(self, work: Callable[[libvirt.virConnect], None]) -> bool:
        """Begin a call; False, and nothing, while another is out."""
        with self._lock:
            if self._busy:
                return False
            self._busy = True
        threading.Thread(target=self._work, args=(work,), name="libvirt-hand", daemon=True).start()
        return True

    def _work(self, work: Callable[[libvirt.virConnect], None]) -> None:
        try:
            work(connect(self._uri))
        except libvirt.libvirtError:
            pass  # whoever cares looks at the guest
        finally:
            self._busy = False
