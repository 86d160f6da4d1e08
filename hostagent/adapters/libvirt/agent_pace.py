"""How fast calls to agents may follow each other, so that hanging ones don't block all of libvirt.

Layer: adapters. libvirtd begins with 5 workers and adds one when a call comes and none is free, up
to 20. But it compares two unsigned numbers for that (src/util/virthreadpool.c, in
virThreadPoolSendJob: free workers less queued jobs). A call that comes before a new worker has
taken the one before it is queued; if that one hangs, no worker is added any more, and all that
comes after it waits too, of every program, until a call that hangs is given up. Seen in the lab: 10
agents that hang, asked together, held everybody up for 1.9 s.

Invariant: while several calls are under way, nothing of ours follows the beginning of a call that
may hang for a moment. One to an agent that has just answered is not taken for one that may hang.
Effects: blocks the calling thread for milliseconds.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SEVERAL = 2
"""With so many under way the next one may find no free worker: others use libvirt too."""
APART_S = 0.004
"""A worker is a thread that starts: 3 ms were enough on a quiet host, below a millisecond was not.
On a busy host it may take longer; then all wait, for 2 s at most."""
TRUSTED_S = 1.0
"""So long an agent that has answered is taken to answer."""


class Pace:
    """Of all calls to one libvirt's agents."""

    def __init__(self, apart_s: float = APART_S) -> None:
        self._apart_s = apart_s
        self._lock = threading.Lock()
        self._under_way = 0
        self._next_at = 0.0
        self._answered_at: dict[str, float] = {}

    @contextmanager
    def call(self, uuid: str) -> Iterator[None]:
        """A call to this guest's agent: wait until it may begin, and count it as under way."""
        self._wait(uuid)
        try:
            yield
            with self._lock:
                self._answered_at[uuid] = time.monotonic()
        finally:
            with self._lock:
                self._under_way -= 1

    def keep_apart(self) -> None:
        """Wait until a call that asks no agent may begin."""
        self._wait(None)

    def _wait(self, uuid: str | None) -> None:
        while (left_s := self._begin(uuid)) > 0:
            time.sleep(left_s)

    def _begin(self, uuid: str | None) -> float:
        """Begin, or how long not to."""
        with self._lock:
            now = time.monotonic()
            if self._under_way >= SEVERAL and now < self._next_at:
                return self._next_at - now
            if uuid is not None:
                self._under_way += 1
                if now - self._answered_at.get(uuid, -TRUSTED_S) >= TRUSTED_S:
                    self._next_at = now + self._apart_s
            return 0.0
