"""The disks of a guest that moves, where its new host does not reach them: room made, copied, kept.

Layer: adapters. A volume is made at the destination before anything is written: for a guest that is
off the file is then copied as it is (a qcow2 file is not converted) through libvirt's streams, for
a live move QEMU copies what is in the disk. Beside each such volume stands a marker, until the
guest has arrived (`keep`) or stays (`discard`): a file with its marker is a copy of ours that was
begun and is nobody's disk. Invariants: nothing is written over or deleted but what has a marker,
or what the order says an earlier move of ours left there (`Order.over`) and no other guest uses; a
volume is made only where no file is. A directory that no pool covers gets a transient one, which
goes again. Errors: HostagentError, TimeoutError. Times in ns, monotonic.
"""

import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from uuid import uuid4
from xml.sax.saxutils import escape

import libvirt

from hostagent.adapters.libvirt.disks import directory_of, marker
from hostagent.adapters.libvirt.move_places import Place, told
from hostagent.adapters.libvirt.move_stream import pump
from hostagent.core.errors import HostagentError, RefusedError
from hostagent.core.move import Order

S = 1_000_000_000
CALL_LIMIT_NS = 15 * S
LET_GO_NS = 10 * S
"""For a libvirtd to notice that a stream into a volume has ended: it deletes none in use."""
AGAIN_S = 0.5
POOL = "hostagent-copy-"
POOL_TRIES = 5
POOL_AGAIN_S = 0.2

Connection = libvirt.virConnect


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A disk that is copied: its name in the guest, its file, and what is in that."""

    target: str
    path: str
    format: str


def paths(description: str, targets: Sequence[str]) -> list[str]:
    """The files of these disks, by their names in the guest."""
    return [disk.path for disk in _disks(description, targets)]


def _disks(description: str, targets: Sequence[str]) -> Iterator[Copied]:
    domain = ET.fromstring(description)  # noqa: S314 (written by libvirt)
    for disk in domain.iterfind("devices/disk"):
        target, source, driver = (disk.find(name) for name in ("target", "source", "driver"))
        if target is None or source is None or target.get("dev") not in targets:
            continue
        path = source.get("file") or source.get("dev")
        kind = "raw" if driver is None else driver.get("type", "raw")
        if path:
            yield Copied(target=target.get("dev", ""), path=path, format=kind)


def make(order: Order, source: Place, destination: Place) -> None:
    """Empty disks for a live move, as large as those of the guest."""
    if not order.copy:
        return
    text = source.guest(
        "reading its definition", order.uuid, CALL_LIMIT_NS, lambda domain: domain.XMLDesc()
    )
    for disk in _disks(text, order.copy):
        size_b = source.guest(
            "reading a disk's size", order.uuid, CALL_LIMIT_NS, partial(_capacity, disk.target)
        )
        with _pool_for(destination, disk.path):
            _claim(order, source, destination, disk.path, disk.format, size_b)


def copy(
    order: Order,
    description: str,
    source: Place,
    destination: Place,
    until_ns: int,
    aborted: threading.Event,
) -> int:
    """Copy what the order says, of a guest that is off; how many bytes went over."""
    sent_b = 0
    for path in paths(description, order.copy):
        with _pool_for(source, path), _pool_for(destination, path):
            size_b = source.call("reading a disk's size", CALL_LIMIT_NS, partial(_size, path))
            _claim(order, source, destination, path, "raw", size_b)
            pump(path, size_b, source.uri, destination.uri, until_ns, aborted)
        sent_b += size_b
    return sent_b


def keep(order: Order, destination: Place) -> list[str]:
    """The guest has arrived: its disks are no copies any more. Problems in words."""
    return _each(order, destination, "removing a copy's marker", _unmark)


def discard(order: Order, destination: Place) -> list[str]:
    """The guest stays: what was begun of its copies is deleted. Problems in words."""
    if not order.copy:
        return []
    there = destination.look(order.uuid)
    if there is None or there.present:
        said = "does not answer" if there is None else "has it defined"
        return [f"copies of its disks may be left: the destination {said}"]
    return _each(order, destination, "removing a copy", _discard)


def delete(place: Place, files: Sequence[str]) -> list[str]:
    """Delete these files of a host; what could not be, in words."""
    problems = []
    for path in files:
        try:
            with _pool_for(place, path):
                place.call("deleting a disk", CALL_LIMIT_NS, partial(_delete, path))
        except HostagentError as error:
            problems.append(told(error))
    return problems


def _each(
    order: Order, place: Place, doing: str, work: Callable[[str, str, Connection], None]
) -> list[str]:
    """Do this to each path to which something is copied, patient with a volume still in use."""
    problems = []
    until_ns = time.monotonic_ns() + LET_GO_NS
    for path in order.left if order.copy else ():
        while True:
            try:
                with _pool_for(place, path):
                    place.call(doing, CALL_LIMIT_NS, partial(work, order.uuid, path))
                break
            except HostagentError as error:
                if time.monotonic_ns() > until_ns:
                    problems.append(f"{path} there: {told(error)}")
                    break
            time.sleep(AGAIN_S)
    return problems


# the volume at the destination


def _claim(
    order: Order, source: Place, destination: Place, path: str, kind: str, size_b: int
) -> None:
    """Make a volume of ours at this path, where nothing is but what may be written over."""
    standing = destination.call(
        "looking for a disk", CALL_LIMIT_NS, lambda conn: _standing(conn, order, path)
    )
    if standing:
        if _same_storage(source, destination, path):
            raise RefusedError(f"{path} is the same file on both hosts; it is not to be copied")
        destination.call("removing an old copy", CALL_LIMIT_NS, partial(_discard, order.uuid, path))
        destination.call("removing an old copy", CALL_LIMIT_NS, partial(_delete, path))
    destination.call(
        "making a disk",
        CALL_LIMIT_NS,
        lambda conn: _make(conn, path, kind, size_b, marker(path, order.uuid)),
    )


def _standing(conn: Connection, order: Order, path: str) -> bool:
    """Whether something stands at this path, and may go. Raises RefusedError if it may not."""
    pool = _pool(conn, directory_of(path))
    if not _has(pool, path):
        return False
    if path not in order.over and not _has(pool, marker(path, order.uuid)):
        raise RefusedError(
            f"the destination already has something at {path}, which was left as it is",
            hint="find out whose it is, then move it away",
        )
    user = next((each.name() for each in conn.listAllDomains() if _uses(each, path)), "")
    if user:
        raise RefusedError(f"guest {user} of the destination uses {path}, which was left as it is")
    return True


def _uses(domain: libvirt.virDomain, path: str) -> bool:
    """One that is just going away uses nothing."""
    with suppress(libvirt.libvirtError):
        tree = ET.fromstring(domain.XMLDesc())  # noqa: S314 (written by libvirt)
        return any(path in each.attrib.values() for each in tree.iterfind("devices/disk//source"))
    return False


def _same_storage(source: Place, destination: Place, path: str) -> bool:
    """Whether what is made beside the file on one host is seen on the other: then writing there
    would write over the very disk that is read."""
    mark = str(PurePosixPath(directory_of(path)) / f".hostagent-{uuid4().hex}")
    destination.call(
        "trying the storage", CALL_LIMIT_NS, lambda conn: _create(conn, mark, "raw", 1)
    )
    try:
        with _pool_for(source, path):
            return source.call("trying the storage", CALL_LIMIT_NS, partial(_there, mark))
    finally:
        with suppress(HostagentError):
            destination.call("trying the storage", CALL_LIMIT_NS, partial(_delete, mark))


def _make(conn: Connection, path: str, kind: str, size_b: int, mark: str) -> None:
    """The volume first: a marker without a file says nothing of a file that comes later, and
    libvirt makes no volume where a file is."""
    if _there(mark, conn):
        _delete(mark, conn)
    _create(conn, path, kind, size_b)
    try:
        _create(conn, mark, "raw", 1)
    except libvirt.libvirtError:
        _delete(path, conn)
        raise


def _create(conn: Connection, path: str, kind: str, size_b: int) -> None:
    """Without blocks. libvirt would make a qcow2 file of 2010's version (formatstorage)."""
    version = "<compat>1.1</compat>" if kind == "qcow2" else ""
    _pool(conn, directory_of(path)).createXML(
        f"<volume><name>{escape(PurePosixPath(path).name)}</name>"
        f"<capacity unit='bytes'>{size_b}</capacity><allocation>0</allocation>"
        f"<target><format type='{escape(kind)}'/>{version}</target></volume>"
    )


def _discard(uuid: str, path: str, conn: Connection) -> None:
    """The file, if a marker says that it was begun by us; then the marker."""
    mark = marker(path, uuid)
    if not _there(mark, conn):
        return
    if _there(path, conn):
        _delete(path, conn)
    _delete(mark, conn)


def _unmark(uuid: str, path: str, conn: Connection) -> None:
    mark = marker(path, uuid)
    if _there(mark, conn):
        _delete(mark, conn)


def _delete(path: str, conn: Connection) -> None:
    """Nothing where nothing is."""
    pool = _pool(conn, directory_of(path))
    if _has(pool, path):
        pool.storageVolLookupByName(PurePosixPath(path).name).delete()


def _there(path: str, conn: Connection) -> bool:
    return _has(_pool(conn, directory_of(path)), path)


def _has(pool: libvirt.virStoragePool, path: str) -> bool:
    try:
        pool.storageVolLookupByName(PurePosixPath(path).name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
            return False
        raise
    return True


def _capacity(target: str, domain: libvirt.virDomain) -> int:
    """Bytes that the guest sees."""
    return int(domain.blockInfo(target)[0])


def _size(path: str, conn: Connection) -> int:
    """Bytes of the file itself, not of the disk in it."""
    pool = _pool(conn, directory_of(path))
    volume = pool.storageVolLookupByName(PurePosixPath(path).name)
    return int(volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])


# pools


_users: Counter[tuple[str, str]] = Counter()
_users_lock = threading.Lock()


@contextmanager
def _pool_for(place: Place, path: str) -> Iterator[None]:
    """As long as one of our moves needs it, this directory may have a transient pool of ours."""
    key = (place.uri, directory_of(path))
    with _users_lock:
        _users[key] += 1
    try:
        yield
    finally:
        with _users_lock:
            _users[key] -= 1
            last = not _users[key]
        if last:
            with suppress(HostagentError):
                place.call("letting the pool go", CALL_LIMIT_NS, partial(_let_go, key[1]))


def _let_go(directory: str, conn: Connection) -> None:
    """Also one that a killed hostagent left behind."""
    with suppress(libvirt.libvirtError):
        pool = conn.storagePoolLookupByTargetPath(directory)
        if pool.name().startswith(POOL):
            pool.destroy()


def _pool(conn: Connection, directory: str) -> libvirt.virStoragePool:
    """The pool that covers this directory, as it is now. Others look at the same directory through
    pools that come and go, between one call and the next."""
    left = POOL_TRIES
    while True:
        left -= 1
        try:
            return _found(conn, directory)
        except libvirt.libvirtError as error:
            if not left or error.get_error_domain() != libvirt.VIR_FROM_STORAGE:
                raise
        time.sleep(POOL_AGAIN_S)


def _found(conn: Connection, directory: str) -> libvirt.virStoragePool:
    try:
        pool = conn.storagePoolLookupByTargetPath(directory)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
            raise
        return conn.storagePoolCreateXML(
            f"<pool type='dir'><name>{POOL}{uuid4().hex[:12]}</name>"
            f"<target><path>{escape(directory)}</path></target></pool>"
        )
    if not pool.isActive():
        raise RefusedError(
            f"the storage pool {pool.name()}, whose directory {directory} is, is not active",
            hint=f"`virsh pool-start {pool.name()}` there",
        )
    # One that is busy (a volume is being made) can't be refreshed; what it knows is recent then.
    with suppress(libvirt.libvirtError):
        pool.refresh()
    return pool
