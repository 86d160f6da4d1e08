"""Guests that move and hosts that they move to, as values."""

from typing import Any

from hostagent.core.model import GuestState
from hostagent.core.move import Destination, Disk, Fit, Movable, MoveHost, Resident, Room

MIB = 1024
GIB = 1024 * MIB

SOURCE_URI = "qemu:///system"


def movable(name: str = "web", **changes: Any) -> Movable:
    """A guest that runs, of 1 GiB, with one disk that both hosts reach."""
    made: dict[str, Any] = {
        "name": name,
        "uuid": f"uuid-{name}",
        "state": GuestState.RUNNING,
        "memory_kib": GIB,
        "cpus": 2,
        "kind": "kvm",
        "machine": "pc-q35-7.2",
        "arch": "x86_64",
        "agent": True,
        "disks": (disk(shared=True),),
    }
    return Movable(**{**made, **changes})


def disk(**changes: Any) -> Disk:
    """A qcow2 file of 10 GiB, 2 of them written, of which nobody said whether it is shared."""
    made: dict[str, Any] = {
        "target": "vda",
        "source": "/var/lib/libvirt/images/web.qcow2",
        "format": "qcow2",
        "capacity_kib": 10 * GIB,
        "allocation_kib": 2 * GIB,
    }
    return Disk(**{**made, **changes})


def host(name: str = "h2", **changes: Any) -> MoveHost:
    """A host of 16 GiB with nothing on it but its pool of images, with 100 GiB free."""
    made: dict[str, Any] = {
        "uri": f"qemu+ssh://{name}/system",
        "name": name,
        "uuid": f"host-{name}",
        "arch": "x86_64",
        "cpus": 8,
        "memory_kib": 16 * GIB,
        "free_kib": 15 * GIB,
        "qemu": 7_002_000,
        "libvirt": 9_000_000,
        "pools": (pool(),),
        "clock_ahead_ns": 0,
    }
    return MoveHost(**{**made, **changes})


def pool(**changes: Any) -> Room:
    made: dict[str, Any] = {
        "name": "images",
        "active": True,
        "path": "/var/lib/libvirt/images",
        "free_kib": 100 * GIB,
    }
    return Room(**{**made, **changes})


def resident(name: str, **changes: Any) -> Resident:
    made: dict[str, Any] = {
        "name": name,
        "uuid": f"uuid-{name}",
        "active": True,
        "memory_kib": GIB,
    }
    return Resident(**{**made, **changes})


def destination(there: MoveHost | None = None, **changes: Any) -> Destination:
    """A way to this host that works; `fit` are changes of what it says of the guest web."""
    there = there or host()
    fit = changes.pop("fit", {})
    fits = (Fit(guest="uuid-web", **fit),)
    return Destination(host=there, **{"via": there.uri, "fits": fits, **changes})


SOURCE = host("h1", uri=SOURCE_URI)
