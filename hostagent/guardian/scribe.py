"""The guardian's two files: its journal, and the list of what remains to be resumed.

Layer: guardian. One thread writes, all others only queue: a disk that hangs delays no resume. The
list is replaced as a whole by a rename, so a reader (`recover`, the restarted unit) sees an old or
a new one, never a half; it is removed when nothing remains. The journal's lines have the form of
the run's own journal ("row", "is", "at"), so both are folded together. Errors: an OSError is kept
(`error`) and the work goes on: resuming matters more than recording.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from hostagent.guardian.process import boot_id


class Scribe:
    """Writes in the order of the calls; `flush` waits for the disk, with a limit."""

    def __init__(self, *, list_path: str, journal_path: str) -> None:
        self._list = Path(list_path)
        self._journal = Path(journal_path)
        self._journal_fd = -1
        self._boot_id = boot_id()
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.error: OSError | None = None
        threading.Thread(target=self._write, name="scribe", daemon=True).start()

    def note(self, what: str, value: Mapping[str, Any]) -> None:
        """Add a line to the journal, stamped with the time of this call. Never waits."""
        line = {
            "row": "heard",
            "is": {"what": f"guardian-{what}", "value": dict(value)},
            "at": {
                "monotonic_ns": time.monotonic_ns(),
                "boot_id": self._boot_id,
                "utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "pid": os.getpid(),
            },
        }
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        self._work.put(lambda: self._append(data))

    def keep(self, remaining: Mapping[str, Any] | None) -> None:
        """Replace the list; None removes it. Never waits."""
        data = None if remaining is None else json.dumps(remaining, indent=1).encode() + b"\n"
        self._work.put(lambda: self._replace(data))

    def flush(self, limit_ns: int) -> bool:
        """Wait until all that was queued is on the disk; whether it is, and without an error."""
        done = threading.Event()
        self._work.put(done.set)
        return done.wait(limit_ns / 1e9) and self.error is None

    def _write(self) -> None:
        while True:
            work = self._work.get()
            try:
                work()
            except OSError as error:
                self.error = error

    def _append(self, data: bytes) -> None:
        if self._journal_fd < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._journal_fd = os.open(self._journal, flags, 0o600)
        os.write(self._journal_fd, data)
        os.fdatasync(self._journal_fd)

    def _replace(self, data: bytes | None) -> None:
        if data is None:
            with suppress(FileNotFoundError):
                self._list.unlink()
            return
        fresh = self._list.with_name(self._list.name + ".new")
        flags = os.O_WRONLY | os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(fresh, flags, 0o600)
        try:
            os.write(fd, data)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        fresh.replace(self._list)
