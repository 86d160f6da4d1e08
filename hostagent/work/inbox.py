"""What a run's loop is told: outcomes of its steps, signals, events.

Layer: work. Fit for signal handlers: `put` never waits and may come in the midst of itself.
"""

import queue
import time

from hostagent.core.journal import Heard, Outcome

SLICE_S = 0.1
"""The longest wait in one piece. A signal may reach any thread of the process (signal(7)); Python
handles it in the main one, which a wait keeps from noticing."""


class Inbox(queue.SimpleQueue[Outcome | Heard]):
    """A queue at which the main thread waits without being deaf to signals."""

    def get(self, block: bool = True, timeout: float | None = None) -> Outcome | Heard:
        """The next one, as of a SimpleQueue. Raises queue.Empty."""
        until_s = None if timeout is None else time.monotonic() + timeout
        while block:
            left_s = SLICE_S if until_s is None else until_s - time.monotonic()
            try:
                return super().get(timeout=max(min(left_s, SLICE_S), 0))
            except queue.Empty:
                if left_s <= SLICE_S and until_s is not None:
                    raise
        return super().get(block=False)
