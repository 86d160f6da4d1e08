"""The bytes of one file, from one host's libvirt to the other's, through this process.

Layer: adapters. The file is there at the destination already. Invariants:
each block moves the time limit's check, so that a stream that hangs ends with it; a stream that is
not finished is aborted, so that neither libvirtd holds its volume in use. Errors: RefusedError,
TimeoutError. Times in ns, monotonic.
"""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import libvirt

from hostagent.adapters.libvirt.bounded import connect
from hostagent.adapters.libvirt.move_places import told
from hostagent.core.errors import RefusedError

S = 1_000_000_000
BLOCK_B = 256 * 1024
STALL_NS = 30 * S
"""Neither side may leave one block longer than this."""
ABORT_S = 2.0
LOOK_S = 0.25
"""How often a copy that does not get on is asked whether it is still wanted."""

Beat = Callable[[], None]


def pump(
    path: str,
    size_b: int,
    source: str,
    destination: str,
    until_ns: int,
    aborted: threading.Event,
) -> None:
    """Read and write in a thread that is left behind if a stream hangs, or when `aborted`."""
    beats: queue.SimpleQueue[BaseException | bool] = queue.SimpleQueue()
    copying = _Copying(path, size_b, lambda: beats.put(False))

    def work() -> None:
        try:
            copying.run(source, destination)
            beats.put(True)
        except BaseException as error:
            beats.put(error)

    threading.Thread(target=work, name="libvirt-copy", daemon=True).start()
    try:
        _await(path, beats, until_ns, aborted)
    except BaseException:
        ending = threading.Thread(target=copying.abort, name="libvirt-copy-abort", daemon=True)
        ending.start()
        ending.join(ABORT_S)
        raise


def _await(
    path: str,
    beats: "queue.SimpleQueue[BaseException | bool]",
    until_ns: int,
    aborted: threading.Event,
) -> None:
    beat_ns = time.monotonic_ns()
    while True:
        if aborted.is_set():
            raise RefusedError("it was aborted")
        try:
            beat = beats.get(timeout=LOOK_S)
        except queue.Empty:
            if time.monotonic_ns() > min(until_ns, beat_ns + STALL_NS):
                raise TimeoutError(f"copying {path} did not get on within its limit") from None
            continue
        beat_ns = time.monotonic_ns()
        if isinstance(beat, libvirt.libvirtError):
            raise RefusedError(f"copying {path}: {told(beat)}")
        if isinstance(beat, BaseException):
            raise beat
        if beat:
            return
        if beat_ns > until_ns:
            raise TimeoutError(f"copying {path} did not end within its limit")


class _Copying:
    """One copy, with the streams that it has open."""

    def __init__(self, path: str, size_b: int, beat: Beat) -> None:
        self._path = path
        self._size_b = size_b
        self._beat = beat
        self._streams: list[libvirt.virStream] = []

    def run(self, source: str, destination: str) -> None:
        reads, writes = connect(source), connect(destination)
        reader, writer = reads.newStream(0), writes.newStream(0)
        reads.storageVolLookupByPath(self._path).download(reader, 0, 0, 0)
        self._streams.append(reader)
        writes.storageVolLookupByPath(self._path).upload(writer, 0, self._size_b, 0)
        self._streams.append(writer)
        while block := reader.recv(BLOCK_B):
            view = memoryview(block)
            while view:
                view = view[writer.send(bytes(view)) :]
            self._beat()
        reader.finish()
        self._streams.remove(reader)
        writer.finish()
        self._streams.remove(writer)

    def abort(self) -> None:
        """May hang with the libvirtd that hangs."""
        for stream in tuple(self._streams):
            with suppress(libvirt.libvirtError):
                stream.abort()
