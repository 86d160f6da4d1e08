"""What a host has at given paths, asked of its libvirt only: so it works for hosts elsewhere too.

Layer: adapters. libvirt sees files in storage pools. A path in none of them is looked at through a
transient pool of its directory (hostagent-look-...), which is made, listed and taken away again;
that builds nothing and touches no file, and a directory that is not there is refused. One that was
left behind (hostagent was killed, or the link cut) is taken over by the next look at its directory,
and taken away by `sweep` once it is old.
Deliberately absent: devices (a pool of /dev would list everything). Errors: none; what could not be
looked at says why. Sources: https://libvirt.org/formatstorage.html, src/storage/storage_util.c.
"""

import errno
import re
import secrets
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

import libvirt

from hostagent.adapters.libvirt import errors

LOOK = "hostagent-look-"
OLD_S = 600
"""No look takes so long. By wall clocks, which may differ between those who look: one who loses a
pool too early to that knows it, and what it looked for is unknown."""

LATE_S = 2.0
"""libvirt gives a disk back to its owner as its guest leaves."""

NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.ceph", "fuse.glusterfs", "gfs2", "ocfs2"}
    | {"lustre", "gpfs", "beegfs", "afs", "9p", "virtiofs", "fuse.sshfs"}
)
"""Types that more than one host may have mounted; libvirt's own list is shorter (virfile.c,
virFileIsSharedFSType)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory of a host. `there`: None where that could not be seen, `problem` says why then.
    `stamps` are of the asked files that are there (see `_stamp`), by path."""

    there: bool | None
    problem: str = ""
    free_kib: int = 0
    stamps: dict[str, str] = field(default_factory=dict)


def directory_of(path: str) -> str:
    """The directory that a file is in."""
    return str(PurePosixPath(path).parent)


def marker(path: str, uuid: str) -> str:
    """What stands beside a disk of this guest as long as it is a copy of ours that was begun."""
    return f"{path}.hostagent-copy-{uuid.replace('-', '')[:12]}"


def untouched(path: str, utc: str) -> bool:
    """Whether nobody has put another file at this path of this machine since then, or changed the
    one that is there. By the time of its inode's last change, which no copy takes along."""
    try:
        changed_s = Path(path).stat().st_ctime
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return bool(utc) and changed_s <= datetime.fromisoformat(utc).timestamp() + LATE_S


def on_network(path: str) -> bool:
    """Whether this path of this machine is on a file system that other hosts may have too."""
    best, kind = "", ""
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            place = before.split()[4].encode().decode("unicode_escape")
            below = path == place or path.startswith(place.rstrip("/") + "/")
            if below and len(place) >= len(best):
                best, kind = place, after.split()[0]
    return kind in NETWORK_FILESYSTEMS


def look(conn: libvirt.virConnect, directory: str, paths: Sequence[str]) -> Directory:
    """What is at these paths of one directory. Never raises but for a broken connection."""
    known = {path: stamp for path in paths if (stamp := _known(conn, path)) is not None}
    if directory == "/dev" or directory.startswith("/dev/"):
        problem = "" if len(known) == len(paths) else "no storage pool there has this device"
        return Directory(there=None if problem else True, problem=problem, stamps=known)
    try:
        pool, passing = _pool(conn, directory)
    except libvirt.libvirtError as error:
        _raise_if_lost(error)
        if len(known) == len(paths) and known:
            return Directory(there=True, stamps=known)
        absent = error.get_int1() in (errno.ENOENT, errno.ENOTDIR)
        return Directory(there=False) if absent else Directory(there=None, problem=_said(error))
    try:
        return _listed(conn, pool, paths)
    finally:
        if passing:
            with suppress(libvirt.libvirtError):
                pool.destroy()


def sweep(conn: libvirt.virConnect) -> None:
    """Take away what earlier looks left behind."""
    with suppress(libvirt.libvirtError):
        for pool in conn.listAllStoragePools():
            begun = re.fullmatch(rf"{LOOK}(\d+)-\w+", pool.name())
            if begun and abs(time.time() - int(begun[1])) > OLD_S:
                pool.destroy()


def _pool(conn: libvirt.virConnect, directory: str) -> tuple[libvirt.virStoragePool, bool]:
    """The active pool of this directory, and whether it is to be taken away afterwards."""
    try:
        pool = conn.storagePoolLookupByTargetPath(directory)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
            raise
        name = f"{LOOK}{int(time.time())}-{secrets.token_hex(4)}"
        target = f"<target><path>{escape(directory)}</path></target>"
        made = conn.storagePoolCreateXML(f"<pool type='dir'><name>{name}</name>{target}</pool>")
        return made, True
    # A busy pool (a volume is being made) can't be refreshed; what it knows is recent then.
    with suppress(libvirt.libvirtError):
        pool.refresh()
    return pool, pool.name().startswith(LOOK)


def _listed(
    conn: libvirt.virConnect, pool: libvirt.virStoragePool, paths: Sequence[str]
) -> Directory:
    stamps = {path: stamp for path in paths if (stamp := _known(conn, path)) is not None}
    try:
        # At the end: a pool that somebody took away meanwhile would have shown no file at all.
        free_kib = pool.info()[3] // 1024
    except libvirt.libvirtError as error:
        _raise_if_lost(error)
        return Directory(there=None, problem=_said(error))
    return Directory(there=True, free_kib=free_kib, stamps=stamps)


def _known(conn: libvirt.virConnect, path: str) -> str | None:
    """The stamp of a volume that libvirt knows, looked at anew; None where it knows none."""
    try:
        return _stamp(conn.storageVolLookupByPath(path).XMLDesc())
    except libvirt.libvirtError as error:
        _raise_if_lost(error)
        return None


def _stamp(description: str) -> str:
    """What two hosts that reach the same file see alike, and two files never have in common: when
    it was last written and changed, to the ns, and its sizes. Empty where the file system keeps
    whole seconds only."""
    volume = ET.fromstring(description)  # noqa: S314 (written by libvirt)
    changed = volume.findtext("target/timestamps/ctime", "")
    if not changed.partition(".")[2].strip("0"):
        return ""
    places = ("target/timestamps/mtime", "capacity", "physical")
    return " ".join([changed, *(volume.findtext(place, "") for place in places)])


def _said(error: libvirt.libvirtError) -> str:
    return " ".join((error.get_error_message() or "").split())


def _raise_if_lost(error: libvirt.libvirtError) -> None:
    """A connection that broke says nothing of the file."""
    if error.get_error_domain() == errors.VIR_FROM_RPC:
        raise error
