"""Does libvirt answer at all? Asked all the time, so that it is known before a resume.

Layer: guardian. A connection of its own asks every 0.5 s a question that needs no guest; without
an answer in 1 s libvirt is unusable, until it answers again. A refused or missing socket is no
answer; an error that the daemon itself sends is one. Invariant: only time in which this process
was awake counts (`Awake`), so a process that was frozen and thaws does not take a healthy libvirtd
for a dead one. Effects: two daemon threads, one connection. Nothing here waits for libvirt but
the thread that asks.
"""

import threading
import time
from collections.abc import Callable

import libvirt

EVERY_NS = 500_000_000
LIMIT_NS = 1_000_000_000
SLICE_S = 0.05
RETRY_S = 0.05


class Awake:
    """A stopwatch of the time in which this process ran.

    A step between two looks that is larger than a slice (SIGSTOP, a suspended machine) counts as
    one slice. Look often: at least every half slice.
    """

    __slots__ = ("_last_ns", "_slice_ns", "_sum_ns")

    def __init__(self, slice_ns: int = 100_000_000) -> None:
        self._slice_ns = slice_ns
        self._sum_ns = 0
        self._last_ns = time.monotonic_ns()

    def passed_ns(self) -> int:
        """The time passed so far."""
        now_ns = time.monotonic_ns()
        self._sum_ns += min(now_ns - self._last_ns, self._slice_ns)
        self._last_ns = now_ns
        return self._sum_ns


def ask_daemon(conn: libvirt.virConnect) -> None:
    """A round trip to the daemon that needs no guest and is served even by one whose workers are
    all busy (priority high in libvirt's remote_protocol.x): is it alive?"""
    conn.getHostname()


def ask_worker(conn: libvirt.virConnect) -> None:
    """A round trip that needs no guest but one of the daemon's ordinary workers, as a resume does
    (no priority in remote_protocol.x). Its answer is an error, which is an answer."""
    conn.baselineCPU([], 0)


class Probe:
    """Whether libvirt answers. Starts at once, believes the best until proven otherwise."""

    def __init__(
        self,
        uri: str,
        *,
        question: Callable[[libvirt.virConnect], None] = ask_daemon,
        on_change: Callable[[bool], None] | None = None,
    ) -> None:
        self._uri = uri
        self._question = question
        self._on_change = on_change
        self._usable = True
        self._since_ns = time.monotonic_ns()
        self._pending = True
        self._closed = False
        self._connections = 0
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._ever_answered = threading.Event()
        self._ask_now = threading.Event()
        self._on_reconnect: list[Callable[[], None]] = []
        threading.Thread(target=self._ask, name="probe-ask", daemon=True).start()
        threading.Thread(target=self._watch, name="probe-watch", daemon=True).start()

    def usable(self) -> bool:
        """Whether the last question was answered, or may still be within 1 s."""
        return self._usable

    @property
    def since_ns(self) -> int:
        """Since when `usable()` says what it says (CLOCK_MONOTONIC)."""
        return self._since_ns

    def ask_now(self) -> None:
        """Ask without waiting for the next turn: somebody has just lost a connection."""
        self._ask_now.set()

    def wait_first_answer(self, limit_ns: int) -> bool:
        """Wait until libvirt has answered once."""
        return self._ever_answered.wait(limit_ns / 1e9)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call this after each answer on a new connection but the first: libvirtd was replaced.
        Called in the probe's thread; it must not raise or wait."""
        self._on_reconnect.append(callback)

    def close(self) -> None:
        """Stop asking. Never waits."""
        self._closed = True
        self._ask_now.set()
        self._asked.set()

    def _watch(self) -> None:
        while not self._closed:
            awake = Awake()
            self._answered.clear()
            self._pending = True
            self._asked.set()
            while self._pending and not self._closed:
                self._answered.wait(SLICE_S)
                if self._pending and awake.passed_ns() >= LIMIT_NS:
                    self._turn(usable=False)
            if not self._closed:
                self._turn(usable=True)
            self._ask_now.wait(EVERY_NS / 1e9)
            self._ask_now.clear()

    def _turn(self, *, usable: bool) -> None:
        if usable == self._usable:
            return
        self._usable = usable
        self._since_ns = time.monotonic_ns()
        if self._on_change is not None:
            self._on_change(usable)

    def _ask(self) -> None:
        conn: libvirt.virConnect | None = None
        while not self._closed:
            self._asked.wait()
            self._asked.clear()
            while self._pending and not self._closed:
                conn = self._ask_once(conn)
        # The last reference to the connection dies in this thread, which may hang at that.

    def _ask_once(self, conn: libvirt.virConnect | None) -> libvirt.virConnect | None:
        fresh = conn is None
        try:
            if conn is None:
                conn = libvirt.open(self._uri)
            self._question(conn)
        except libvirt.libvirtError:
            if conn is None or not conn.isAlive():
                time.sleep(RETRY_S)
                return None
        self._pending = False
        self._answered.set()
        self._ever_answered.set()
        if fresh:
            self._connections += 1
            if self._connections > 1:
                for callback in self._on_reconnect:
                    callback()
        return conn
