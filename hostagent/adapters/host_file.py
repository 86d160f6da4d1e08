"""A host's notes as a file: host.jsonl in the state directory, append-only JSON lines.

Layer: adapters; satisfies ports.HostBook. One state directory may serve several libvirts of a
machine, so each line names its host. A torn line (power cut, full disk) is passed over when the
file is read. Effects: `write` waits until the disk has it, for as long as the disk takes: call it
from a thread that can be left behind. Errors: RefusedError where it can't be read or written.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from hostagent.core.codec import CodecError, decode
from hostagent.core.errors import RefusedError
from hostagent.core.host_notes import (
    CameHome,
    Cordoned,
    HostNotes,
    Note,
    Uncordoned,
    WentAway,
    fold,
)

_KINDS: dict[str, type[Note]] = {
    "cordoned": Cordoned,
    "uncordoned": Uncordoned,
    "went-away": WentAway,
    "came-home": CameHome,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class HostFile:
    """The notes of one host."""

    def __init__(self, state_dir: Path, host_uuid: str) -> None:
        self._path = state_dir / "host.jsonl"
        self._host_uuid = host_uuid

    def read(self) -> HostNotes:
        """What is noted now; nothing where there is no file."""
        try:
            return fold(self._notes())
        except OSError as error:
            raise self._refused("read", error) from error

    def write(self, note: Note) -> None:
        """Add a note and wait until it is on the disk."""
        try:
            self._append(note)
        except OSError as error:
            raise self._refused("written", error) from error

    def _append(self, note: Note) -> None:
        line = {"host": self._host_uuid, "note": _NAMES[type(note)], "is": asdict(note)}
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._path, flags, 0o600)
        try:
            # A line of its own, also after one that was torn.
            os.write(file, b"\n" + data if os.fstat(file).st_size else data)
            os.fsync(file)
        finally:
            os.close(file)

    def _refused(self, doing: str, error: OSError) -> RefusedError:
        return RefusedError(
            f"this host's notes {self._path} can't be {doing}: {error.strerror}",
            hint="make the state directory accessible, or choose another with --state-dir",
        )

    def _notes(self) -> Iterator[Note]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            with suppress(CodecError, ValueError, KeyError, TypeError):
                row = json.loads(line)
                if row["host"] == self._host_uuid:
                    yield decode(_KINDS[row["note"]], row["is"])
