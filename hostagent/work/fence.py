"""The fence between the way forward and the way back.

Layer: work. A step forward may be late: it waited for the journal's disk, or its thread was not
scheduled. Once the way back has begun it must not have its effect any more, or guests would be
paused, or the update applied, behind a resume that is already done. So each step forward enters
through the fence, in one piece with saying what it is about to touch, and each step back turns the
fence first.
"""

import threading
from collections.abc import Callable


class Fence:
    """Open until turned; then closed for good."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turned = False

    def enter(self, declare: Callable[[], None]) -> bool:
        """Run `declare` (short, never waiting) and allow the step, or refuse it."""
        with self._lock:
            if self._turned:
                return False
            declare()
            return True

    def turn(self) -> None:
        """From now on nothing enters; what entered before has declared itself."""
        with self._lock:
            self._turned = True
