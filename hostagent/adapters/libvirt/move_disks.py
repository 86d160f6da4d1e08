"""Copying the disks of a guest that is off, from one host's libvirt to the other's.

Layer: adapters. A disk is read and written through libvirt's streams, as a volume of the pool that
covers its directory; where there is none, a transient pool stands in for it and goes again. The
bytes go through this process. Invariants: the whole file is copied as it is (a qcow2 file is not
converted); a file that was begun and not finished is deleted; each block moves the time limit's
check, so that a stream that hangs ends with it. Errors: HostagentError, TimeoutError.
"""

import queue
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import PurePosixPath
from typing import TypeVar
from uuid import uuid4
from xml.sax.saxutils import escape

import libvirt

from hostagent.adapters.libvirt.bounded import connect
from hostagent.adapters.libvirt.move_places import Place, told
from hostagent.core.errors import HostagentError, RefusedError
from hostagent.core.move import Order

T = TypeVar("T")
S = 1_000_000_000
BLOCK_B = 256 * 1024
CALL_LIMIT_NS = 15 * S
STALL_NS = 30 * S
"""Neither side may leave one block longer than this."""


def paths(description: str, targets: Sequence[str]) -> list[str]:
    """The files of these disks, by their names in the guest."""
    domain = ET.fromstring(description)  # noqa: S314 (written by libvirt)
    found = []
    for disk in domain.iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        if target is None or source is None or target.get("dev") not in targets:
            continue
        path = source.get("file") or source.get("dev")
        if path:
            found.append(path)
    return found


def copy(order: Order, description: str, source: Place, destination: Place, until_ns: int) -> int:
    """Copy what the order says; how many bytes went over."""
    sent_b = 0
    for path in paths(description, order.copy):
        if order.source == order.destination:
            raise RefusedError("source and destination are the same host")
        sent_b += _copy_file(path, source, destination, until_ns)
    return sent_b


def delete(place: Place, files: Sequence[str]) -> list[str]:
    """Delete these files of a host; what could not be, in words."""
    problems = []
    for path in files:
        try:
            with _pooled(place, path):
                place.call("deleting a disk", CALL_LIMIT_NS, partial(_delete, path=path))
        except HostagentError as error:
            problems.append(told(error))
    return problems


def _copy_file(path: str, source: Place, destination: Place, until_ns: int) -> int:
    with _pooled(source, path), _pooled(destination, path) as pool:
        size_b = source.call("reading a disk's size", CALL_LIMIT_NS, lambda conn: _size(conn, path))
        if _same_storage(source, destination, path, pool):
            raise RefusedError(f"{path} is the same file on both hosts; it is not to be copied")
        destination.call(
            "making a disk", CALL_LIMIT_NS, lambda conn: _create(conn, pool, path, size_b)
        )
        try:
            _pump(path, size_b, source.uri, destination.uri, until_ns)
        except BaseException:
            with suppress(HostagentError):
                destination.call("removing a disk", CALL_LIMIT_NS, lambda conn: _delete(conn, path))
            raise
    return size_b


def _same_storage(source: Place, destination: Place, path: str, pool: str) -> bool:
    """Whether what is made beside the file on one host is seen on the other: then writing there
    would write over the very disk that is read."""
    directory = PurePosixPath(path).parent
    mark = str(directory / f".hostagent-{uuid4().hex}")
    destination.call("trying the storage", CALL_LIMIT_NS, lambda conn: _create(conn, pool, mark, 1))
    try:
        return source.call("trying the storage", CALL_LIMIT_NS, lambda conn: _there(conn, mark))
    finally:
        with suppress(HostagentError):
            destination.call("trying the storage", CALL_LIMIT_NS, lambda conn: _delete(conn, mark))


def _there(conn: libvirt.virConnect, path: str) -> bool:
    conn.storagePoolLookupByTargetPath(str(PurePosixPath(path).parent)).refresh()
    try:
        conn.storageVolLookupByPath(path)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
            return False
        raise
    return True


@contextmanager
def _pooled(place: Place, path: str) -> Iterator[str]:
    """A pool that covers this file's directory: its name."""
    directory = str(PurePosixPath(path).parent)
    name, ours = place.call("finding a pool", CALL_LIMIT_NS, lambda conn: _pool(conn, directory))
    try:
        yield name
    finally:
        if ours:
            with suppress(HostagentError):
                place.call(
                    "letting the pool go",
                    CALL_LIMIT_NS,
                    lambda conn: conn.storagePoolLookupByName(name).destroy(),
                )


def _pool(conn: libvirt.virConnect, directory: str) -> tuple[str, bool]:
    """The pool, and whether it was made for this."""
    try:
        pool = conn.storagePoolLookupByTargetPath(directory)
        if pool.isActive():
            pool.refresh()
            return pool.name(), False
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
            raise
    name = f"hostagent-{uuid4().hex[:12]}"
    conn.storagePoolCreateXML(
        f"<pool type='dir'><name>{name}</name>"
        f"<target><path>{escape(directory)}</path></target></pool>"
    )
    return name, True


def _size(conn: libvirt.virConnect, path: str) -> int:
    """Bytes of the file itself, not of the disk in it."""
    return int(conn.storageVolLookupByPath(path).infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])


def _create(conn: libvirt.virConnect, pool: str, path: str, size_b: int) -> None:
    """A file that is there already is what this guest left here once: it is written over."""
    name = PurePosixPath(path).name
    found = conn.storagePoolLookupByName(pool)
    with suppress(libvirt.libvirtError):
        found.storageVolLookupByName(name).delete()
    found.createXML(
        f"<volume><name>{escape(name)}</name><capacity unit='bytes'>{size_b}</capacity>"
        "<allocation>0</allocation><target><format type='raw'/></target></volume>"
    )


def _delete(conn: libvirt.virConnect, path: str) -> None:
    conn.storageVolLookupByPath(path).delete()


def _pump(path: str, size_b: int, source: str, destination: str, until_ns: int) -> None:
    """Read and write in a thread that is left behind if a stream hangs."""
    beats: queue.SimpleQueue[BaseException | bool] = queue.SimpleQueue()

    def work() -> None:
        try:
            _stream(path, size_b, source, destination, lambda: beats.put(False))
            beats.put(True)
        except BaseException as error:
            beats.put(error)

    threading.Thread(target=work, name="libvirt-copy", daemon=True).start()
    while True:
        left_ns = min(until_ns - time.monotonic_ns(), STALL_NS)
        try:
            beat = beats.get(timeout=max(left_ns, 0) / S)
        except queue.Empty:
            raise TimeoutError(f"copying {path} did not get on within its limit") from None
        if isinstance(beat, libvirt.libvirtError):
            raise RefusedError(f"copying {path}: {told(beat)}") from beat
        if isinstance(beat, BaseException):
            raise beat
        if beat:
            return


def _stream(
    path: str, size_b: int, source: str, destination: str, beat: Callable[[], None]
) -> None:
    reads, writes = connect(source), connect(destination)
    reader, writer = reads.newStream(0), writes.newStream(0)
    reads.storageVolLookupByPath(path).download(reader, 0, 0, 0)
    writes.storageVolLookupByPath(path).upload(writer, 0, size_b, 0)
    while True:
        block = reader.recv(BLOCK_B)
        if not block:
            break
        view = memoryview(block)
        while view:
            view = view[writer.send(bytes(view)) :]
        beat()
    reader.finish()
    writer.finish()
