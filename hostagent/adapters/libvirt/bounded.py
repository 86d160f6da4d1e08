"""Calls into libvirt with a limit: whoever hangs, the caller goes on.

Layer: adapters. A call that does not return is left behind in its daemon thread (a thread can't be
ended), together with its connection: nothing waits for it, not even our exit. Deliberately absent:
the pause path, which has warm lines of its own (guardian/connect). Times in ns, monotonic.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import libvirt

from hostagent.adapters.libvirt import errors

T = TypeVar("T")
K = TypeVar("K")

RETRY_S = 0.1
"""How often a patient reader knocks again at a libvirt that is just restarting."""


class _Answer(Generic[T]):
    """What a thread brings back: a value, or what was raised."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done = threading.Event()
        self._value: list[T] = []
        self._error: BaseException | None = None

    def fetch(self) -> None:
        try:
            self._value.append(self._work())
        except BaseException as error:  # brought to the caller, whatever it is
            self._error = error
        self._done.set()

    def wait(self, limit_ns: int) -> T:
        """Raises TimeoutError, or what the work raised."""
        if not self._done.wait(max(0, limit_ns) / 1e9):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._value[0]


def within(limit_ns: int, work: Callable[[], T]) -> T:
    """The result of `work`, or TimeoutError; what it raises is raised here."""
    answer = _Answer(work)
    threading.Thread(target=answer.fetch, name="libvirt-call", daemon=True).start()
    return answer.wait(limit_ns)


def spread(keys: Iterable[K], workers: int, limit_ns: int, work: Callable[[K], T]) -> dict[K, T]:
    """`work` for every key, a few at once; those that did not return in time are absent.

    `work` must not raise. Whoever hangs holds one worker; the others go on.
    """
    waiting: queue.SimpleQueue[K] = queue.SimpleQueue()
    arrived: queue.SimpleQueue[tuple[K, T]] = queue.SimpleQueue()
    count = 0
    for key in keys:
        waiting.put(key)
        count += 1

    def serve() -> None:
        while True:
            try:
                key = waiting.get_nowait()
            except queue.Empty:
                return
            arrived.put((key, work(key)))

    for _ in range(min(workers, count)):
        threading.Thread(target=serve, name="libvirt-reader", daemon=True).start()
    return _gather(arrived, count, time.monotonic_ns() + limit_ns)


def _gather(arrived: "queue.SimpleQueue[tuple[K, T]]", count: int, until_ns: int) -> dict[K, T]:
    results: dict[K, T] = {}
    while len(results) < count:
        try:
            key, result = arrived.get(timeout=max(0, until_ns - time.monotonic_ns()) / 1e9)
        except queue.Empty:
            break
        results[key] = result
    return results


def connect(uri: str) -> libvirt.virConnect:
    """Open a connection. Has no limit of its own: call it inside `within`."""
    # libvirt prints every error on stderr unless somebody takes them; ours are raised and told.
    libvirt.registerErrorHandler(_ignore, None)
    return libvirt.open(uri or None)


def _ignore(_context: object, _error: object) -> None:
    """Errors come as exceptions."""


class Reader:
    """One connection for reading, opened when it is needed and again after it broke or hung."""

    def __init__(self, uri: str, place: str) -> None:
        self._uri = uri
        self._place = place
        self._connection: libvirt.virConnect | None = None

    def read(
        self,
        doing: str,
        limit_ns: int,
        work: Callable[[libvirt.virConnect], T],
        *,
        patient: bool = False,
    ) -> T:
        """The result of `work` on the connection.

        A connection that turns out to be broken is opened anew once; a patient reader goes on
        knocking until the limit, for a libvirt that is being restarted. Raises
        LibvirtUnreachableError, or the translated error.
        """
        until_ns = time.monotonic_ns() + limit_ns
        fresh = self._connection is None
        while True:
            try:
                return within(until_ns - time.monotonic_ns(), lambda: work(self._opened()))
            except TimeoutError:
                self._connection = None
                raise errors.no_answer(doing, limit_ns, self._place) from None
            except libvirt.libvirtError as error:
                ours = errors.translate(error, doing, self._place)
                if not errors.is_unreachable(ours):
                    raise ours from error
                self._connection = None
                out_of_time = time.monotonic_ns() + RETRY_S * 1e9 > until_ns
                if (fresh and not patient) or out_of_time:
                    raise ours from error
                if fresh:
                    time.sleep(RETRY_S)
                fresh = True

    def _opened(self) -> libvirt.virConnect:
        if self._connection is None:
            self._connection = connect(self._uri)
        return self._connection
