"""libvirt calls that can be given up: connections in threads of their own.

Layer: guardian; adapters use it too. Every libvirt call, opening and closing included, can hang for
ever, and a thread that hangs in C can't be ended. So each call runs in a daemon thread that is left
behind when its time is over, and nothing here is ever joined.

`Line` is one connection for calls one after the other; `Lines` is a pool that takes calls for many
guests at once, first in, first out: threads that already wait, connections already open, handles
already looked up. Invariants: a libvirt object never leaves the threads of its connection (the last
reference closes the connection, and closing hangs too), so results must not be libvirt objects;
errors lose their traceback for the same reason. No connection is closed by a call, only by its
last reference: libvirt frees a connection that another thread still waits on. A process that used
this ends with os._exit.
Effects: threads, connections. Errors: `Unreachable`, `CallTimeout`, libvirt.libvirtError.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import libvirt

T = TypeVar("T")

PING_S = 0.5
"""An idle connection is tried this often: a replaced libvirtd is noticed before it matters."""
FIRST_BACKOFF_S = 0.02
LAST_BACKOFF_S = 0.25
STUCK_NS = 50_000_000
"""When all workers are busy for this long and calls wait, others step in for them."""
MAX_WORKERS = 64


class Unreachable(Exception):
    """There is no connection to libvirt, or it broke during the call: its effect is unknown."""


class CallTimeout(Exception):
    """The call was begun and has no answer within its limit: its effect is unknown."""


def silence() -> None:
    """Keep libvirt from printing its errors on stderr: they are raised as well."""
    libvirt.registerErrorHandler(lambda *_: None, None)


class Ticket:
    """A call that was handed to the pool: begun by a worker or cancelled, never both."""

    __slots__ = ("_once",)

    def __init__(self) -> None:
        self._once = threading.Lock()

    def cancel(self) -> bool:
        """Whether it could be cancelled; if not, it was begun (and may be over)."""
        return self._once.acquire(blocking=False)


class _Job(Ticket):
    __slots__ = ("fn", "on_result")

    def __init__(self, fn: Callable[["_Link"], Any], on_result: Callable[[Any], None]) -> None:
        super().__init__()
        self.fn = fn
        self.on_result = on_result


class _Link:
    """One open connection and the domain handles looked up on it."""

    __slots__ = ("conn", "handles", "lost")

    def __init__(self, conn: libvirt.virConnect) -> None:
        self.conn = conn
        self.handles: dict[str, libvirt.virDomain] = {}
        self.lost = False

    def domain(self, uuid: str) -> libvirt.virDomain:
        handle = self.handles.get(uuid)
        if handle is None:
            handle = self.handles[uuid] = self.conn.lookupByUUIDString(uuid)
        return handle

    def check(self) -> None:
        """Note whether the connection broke. Local: isAlive asks no daemon."""
        try:
            self.lost = self.lost or not self.conn.isAlive()
        except libvirt.libvirtError:
            self.lost = True


class _Slot:
    """A place for one connection, opened and kept by a thread of its own."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._link: _Link | None = None
        self._changed = threading.Condition()
        self._look = threading.Event()
        self._closed = False
        threading.Thread(target=self._keep, name="libvirt-keep", daemon=True).start()

    @property
    def up(self) -> bool:
        return self._link is not None and not self._link.lost

    def link(self) -> _Link | None:
        """The open connection, waited for as long as it takes; None once closed."""
        link = self._link
        if link is not None and not link.lost:
            return link
        self._look.set()
        with self._changed:
            while not self._closed and not self.up:
                self._changed.wait()
            return self._link

    def wait_up(self, limit_ns: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.up or self._closed, limit_ns / 1e9)

    def notice(self) -> None:
        """A call failed: let the keeper look at the connection now."""
        self._look.set()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._look.set()

    def _keep(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._closed:
            try:
                link = _Link(libvirt.open(self._uri))
            except libvirt.libvirtError:
                time.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, LAST_BACKOFF_S)
                continue
            backoff_s = FIRST_BACKOFF_S
            with self._changed:
                self._link = link
                self._changed.notify_all()
            self._ping(link)
            with self._changed:
                self._link = None
            del link

    def _ping(self, link: _Link) -> None:
        while not link.lost and not self._closed:
            if not self._look.wait(PING_S):
                with suppress(libvirt.libvirtError):
                    link.conn.getLibVersion()
            self._look.clear()
            link.check()


class _Worker:
    """A thread that takes calls off the queue and makes them on its slot's connection."""

    def __init__(self, slot: _Slot, jobs: "SimpleQueue[_Job | None]") -> None:
        self._slot = slot
        self._jobs = jobs
        self.busy_since_ns = 0
        threading.Thread(target=self._work, name="libvirt-call", daemon=True).start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            self.busy_since_ns = time.monotonic_ns()
            link = self._slot.link()
            if link is None:
                return
            if job.cancel():
                job.on_result(self._call(job, link))
            self.busy_since_ns = 0
            del job, link

    def _call(self, job: _Job, link: _Link) -> Any:  # noqa: ANN401 (whatever the caller's fn gives)
        try:
            return job.fn(link)
        except libvirt.libvirtError as error:
            link.check()
            if not link.lost:
                return _bare(error)
            self._slot.notice()
            return Unreachable(f"the connection to libvirt broke: {error.get_error_message()}")
        except Exception as error:
            return _bare(error)


def _bare(error: Exception) -> Exception:
    """The error without the frames, which hold libvirt objects."""
    error.__context__ = None
    return error.with_traceback(None)


class Lines:
    """A pool of connections; a guest that hangs keeps a worker, not the others."""

    def __init__(self, uri: str, *, count: int = 4, workers: int = 2) -> None:
        self._uri = uri
        self._each = workers
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._slots: list[_Slot] = []
        self._workers: list[_Worker] = []
        self._closed = threading.Event()
        for _ in range(count):
            self._add_slot()
        threading.Thread(target=self._stand_in, name="libvirt-steward", daemon=True).start()

    def submit(
        self,
        uuid: str,
        fn: Callable[[libvirt.virDomain], T],
        on_result: Callable[[T | Exception], None],
    ) -> Ticket:
        """Make this call for a guest as soon as a worker is free. Never waits.

        `on_result` gets what fn returned or the error, in the worker's thread: it must not wait.
        """
        job = _Job(lambda link: fn(link.domain(uuid)), on_result)
        self._jobs.put(job)
        return job

    def call(self, fn: Callable[[libvirt.virConnect], T], limit_ns: int) -> T:
        """Make one call and wait for it, at most this long. Raises Unreachable, CallTimeout and
        what fn raises."""
        box: SimpleQueue[Any] = SimpleQueue()
        job = _Job(lambda link: fn(link.conn), box.put)
        self._jobs.put(job)
        try:
            answer = box.get(timeout=limit_ns / 1e9)
        except Empty:
            if job.cancel() and not self.reachable():
                raise Unreachable(f"no connection to {self._uri}") from None
            raise CallTimeout(f"no answer within {limit_ns / 1e9:g} s") from None
        if isinstance(answer, Exception):
            raise answer
        result: T = answer
        return result

    def warm(self, uuids: Sequence[str], limit_ns: int) -> bool:
        """Open every connection and look these guests up on each; whether all was ready in time.
        A guest that libvirt does not know is left for the call itself to find out."""
        deadline_ns = time.monotonic_ns() + limit_ns
        box: SimpleQueue[None] = SimpleQueue()
        slots = list(self._slots)
        for slot in slots:
            threading.Thread(target=_warm, args=(slot, tuple(uuids), box), daemon=True).start()
        for _ in slots:
            try:
                box.get(timeout=max(deadline_ns - time.monotonic_ns(), 0) / 1e9)
            except Empty:
                return False
        return True

    def reachable(self) -> bool:
        """Whether any connection is open (which a frozen libvirtd keeps them)."""
        return any(slot.up for slot in self._slots)

    def backlog(self) -> int:
        """How many calls wait for a worker."""
        return self._jobs.qsize()

    def close(self) -> None:
        """Close every connection, each in its own thread. Never waits."""
        self._closed.set()
        for slot in self._slots:
            slot.close()
        for _ in self._workers:
            self._jobs.put(None)

    def _add_slot(self) -> None:
        slot = _Slot(self._uri)
        self._slots.append(slot)
        self._workers += [_Worker(slot, self._jobs) for _ in range(self._each)]

    def _stand_in(self) -> None:
        """While calls wait and every worker hangs in one, add connections with fresh workers.

        Only while every connection is open: with libvirtd frozen or gone more would not help.
        """
        while not self._closed.wait(STUCK_NS / 2e9):
            if self._jobs.empty() or not all(slot.up for slot in self._slots):
                continue
            before_ns = time.monotonic_ns() - STUCK_NS
            stuck = all(0 < worker.busy_since_ns < before_ns for worker in self._workers)
            if stuck and len(self._workers) + self._each <= MAX_WORKERS:
                self._add_slot()


def _warm(slot: _Slot, uuids: tuple[str, ...], box: "SimpleQueue[None]") -> None:
    link = slot.link()
    if link is None:
        return
    for uuid in uuids:
        with suppress(libvirt.libvirtError):
            link.domain(uuid)
    box.put(None)


class Line:
    """One connection for calls one after the other; one that hangs is left behind with its
    connection, and a fresh one takes its place."""

    def __init__(self, uri: str) -> None:
        self._lines = Lines(uri, count=1, workers=1)

    def call(self, fn: Callable[[libvirt.virConnect], T], limit_ns: int) -> T:
        """As `Lines.call`."""
        return self._lines.call(fn, limit_ns)

    def reachable(self) -> bool:
        """As `Lines.reachable`."""
        return self._lines.reachable()

    def close(self) -> None:
        """As `Lines.close`."""
        self._lines.close()
