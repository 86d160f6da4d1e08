"""A run's journal as a file: append-only JSON lines, each on the disk before its effect.

Layer: adapters; satisfies core.ports.Journal. One thread owns the file: `append` only queues, so a
disk that stops answering holds up nobody who does not ask for `sync`. A torn line (power cut, full
disk) is passed over when the file is read: the step it spoke of is then open, that is, unknown.
"""

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from hostagent.core.codec import CodecError, entry_from_json, entry_to_json
from hostagent.core.journal import Entry, Row, Stamp

ROOM_BYTES = 256 * 1024
"""What a run of a hundred guests writes (measured: 3 KiB, and 2 KiB a guest)."""


class MemoryJournal:
    """A journal that is kept nowhere: guests are brought back even where nothing can be written."""

    def append(self, row: Row) -> Entry:
        """Stamp the row."""
        return Entry(row=row, stamp=stamp())

    def sync(self) -> None:
        """Nothing to wait for."""


class JournalFile:
    """The journal of one run, open for appending. Raises OSError where it can't be opened, or its
    disk has no room for a whole run: found now, before a guest stands still for it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _look_for_room(path.parent)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o600)
        _sync_directory(path.parent)
        self.path = path
        self._changed = threading.Condition()
        self._queued: list[bytes] = []
        self._appended = 0
        self._written = 0
        self._error: OSError | None = None
        self._torn = _is_torn(self._file)
        threading.Thread(target=self._write_for_ever, name="journal", daemon=True).start()

    def append(self, row: Row) -> Entry:
        """Stamp the row and queue it. Never waits."""
        entry = Entry(row=row, stamp=stamp())
        line = json.dumps(entry_to_json(entry), separators=(",", ":")).encode() + b"\n"
        with self._changed:
            self._queued.append(line)
            self._appended += 1
            self._changed.notify_all()
        return entry

    def sync(self) -> None:
        """Wait until all that was appended so far is on the disk; no limit of its own."""
        with self._changed:
            wanted = self._appended
            while self._written < wanted and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error

    def _write_for_ever(self) -> None:
        while True:
            with self._changed:
                while not self._queued:
                    self._changed.wait()
                lines, self._queued = self._queued, []
            error = self._write(b"".join(lines))
            with self._changed:
                self._written += len(lines)
                self._error = error or self._error
                self._changed.notify_all()

    def _write(self, data: bytes) -> OSError | None:
        if self._torn:  # a line of its own, or it would be lost with the torn one
            data = b"\n" + data
        self._torn = True
        try:
            written = os.write(self._file, data)
            if written < len(data):
                # A full disk takes a part: the rest says so as an error of its own.
                os.write(self._file, data[written:])
            self._torn = False
            os.fdatasync(self._file)
        except OSError as error:
            return error
        return None


def stamp() -> Stamp:
    """Now, as this process sees it."""
    return Stamp(
        monotonic_ns=time.monotonic_ns(),
        boot_id=boot_id(),
        utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
        pid=os.getpid(),
    )


@cache
def boot_id() -> str:
    """The kernel's id of this boot: monotonic times of another one can't be compared."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_journal(path: Path) -> Iterator[Entry]:
    """All entries of a journal file; torn lines are passed over. Raises OSError."""
    for line in path.read_bytes().splitlines():
        try:
            yield entry_from_json(json.loads(line))
        except (CodecError, ValueError):
            continue


def _look_for_room(directory: Path) -> None:
    """Raises OSError where a quota, a limit or the disk leaves too little. Looked for by a file
    without a name, which is gone with this call whatever happens."""
    try:
        file = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR):  # a file system without such files
            return
        raise
    try:
        os.posix_fallocate(file, 0, ROOM_BYTES)
    finally:
        os.close(file)


def _is_torn(file: int) -> bool:
    """Whether the last line has no end: whoever wrote it died, or its disk was full."""
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def _sync_directory(directory: Path) -> None:
    """A new file's name is on the disk only when its directory is."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
