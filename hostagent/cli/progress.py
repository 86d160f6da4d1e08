"""One line of progress on a terminal, written by a thread of its own.

Layer: cli. A terminal can stop taking output (Ctrl-S, a dead ssh session); whoever says something
here never waits for it, because guests may be standing still.
"""

import queue
import sys
import threading
import time

from hostagent.cli.tables import plain


class Progress:
    """Says sentences on standard error if it is a terminal and nobody asked for quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._sentences: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._last = ""
        self._began = time.monotonic()
        self._shows = sys.stderr.isatty() and not quiet
        if self._shows:
            threading.Thread(target=self._write_for_ever, name="progress", daemon=True).start()

    def say(self, sentence: str) -> None:
        """Show this sentence, if it is new. Never waits."""
        if self._shows and sentence != self._last:
            self._last = sentence
            self._sentences.put(sentence)

    def _write_for_ever(self) -> None:
        while True:
            sentence = self._sentences.get()
            sys.stderr.write(f"[{time.monotonic() - self._began:6.2f} s] {plain(sentence)}\n")
            sys.stderr.flush()
