"""A few at once: who converses with a guest now, and who waits for his turn.

Layer: work. Measuring a clock wants a quiet machine, so only a few conversations run at the same
time, in the order in which they asked for it. Invariant: whoever is silent for longer than the
patience keeps its turn but not its place, so that a guest that hangs holds up no other; `most`
bounds how many may hang like that. Effects: blocks the calling thread.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

AT_ONCE = 2
"""Measured on two CPUs: 19 clocks by 2 at once were right in 245 ms, the worst 2.9 ms off; by 8 at
once in 335 ms, the worst 7.3 ms off."""
MOST = 12
PATIENCE_S = 0.1
"""An ordinary question is answered in 1 to 30 ms."""


class Turn:
    """The right to converse, as long as it is held."""

    def __init__(self) -> None:
        self.heard_at = time.monotonic()

    def heard(self) -> None:
        """A sign of life: the other side has answered."""
        self.heard_at = time.monotonic()


class Turns:
    """Gives turns out."""

    def __init__(
        self, at_once: int = AT_ONCE, most: int = MOST, patience_s: float = PATIENCE_S
    ) -> None:
        self._at_once = at_once
        self._most = most
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._waiting: deque[Turn] = deque()
        self._held: set[Turn] = set()

    @contextmanager
    def take(self) -> Iterator[Turn]:
        """Wait for a turn, first come, first served, and hold it for the block."""
        turn = Turn()
        with self._changed:
            self._waiting.append(turn)
            while self._waiting[0] is not turn or not self._has_place():
                self._changed.wait(self._patience_s / 4)
            self._waiting.popleft()
            turn.heard()
            self._held.add(turn)
            self._changed.notify_all()
        try:
            yield turn
        finally:
            with self._changed:
                self._held.discard(turn)
                self._changed.notify_all()

    def _has_place(self) -> bool:
        silent_since = time.monotonic() - self._patience_s
        lively = sum(turn.heard_at >= silent_since for turn in self._held)
        return lively < self._at_once and len(self._held) < self._most
