"""What a guest takes of the host that it moves to: its disks that are copied, and memory.

Layer: rules; pure. Used by the checks of one move (rules/move_checks) and by the choice among
several hosts (rules/placement), so that both reckon alike. Sizes in KiB, as libvirt's.
"""

from pathlib import PurePosixPath
from typing import Protocol

from hostagent.core.move import Destination, Disk, MoveHost, Room

MIB = 1024
GIB = 1024 * MIB

LEAST_RESERVE_KIB = 512 * MIB
"""Memory that is left to a host itself: as Nova's reserved_host_memory_mb ..."""
RESERVE_PERCENT = 5
"""... and more on a large one, whose page cache and guests' QEMUs grow with it."""
OVERHEAD_KIB = 65 * MIB
"""What a guest's QEMU takes beside the guest's memory: vdsm's guest_ram_overhead."""


class HasDisks(Protocol):
    """A guest as far as its disks matter."""

    @property
    def uuid(self) -> str: ...
    @property
    def disks(self) -> tuple[Disk, ...]: ...


def own_disks(guest: HasDisks, destination: Destination) -> tuple[Disk, ...]:
    """The disks that the guest writes, and that its new host may not reach. Hosts on one machine
    reach the same files; else both hosts' word counts."""
    if destination.host.same_machine:
        return ()
    shared = destination.fit(guest.uuid).shared
    return tuple(
        disk
        for disk in guest.disks
        if disk.source and not disk.medium and not disk.readonly
        if disk.shared is not True and disk.target not in shared
    )


def copied(guest: HasDisks, destination: Destination) -> tuple[Disk, ...]:
    """The disks that have to be copied to get there. What the guest only reads is not: that has to
    be there already."""
    return tuple(disk for disk in own_disks(guest, destination) if disk.shared is False)


def needed_kib(disk: Disk) -> int:
    """What a copy takes there. A raw volume is made with all its blocks, since libvirt asks for its
    capacity and names no allocation (qemuMigrationDstPrecreateDisk); others grow as they are
    written."""
    if disk.format == "raw" or not disk.allocation_kib:
        return disk.capacity_kib
    return disk.allocation_kib


def room_of(disk: Disk, there: MoveHost) -> Room | None:
    """The active pool there into which it would be copied: the one of the same name, or else (as
    libvirt looks for it) the one with the same directory, or that directory itself."""
    for room in there.pools:
        found = room.name == disk.pool if disk.pool else room.path == directory_of(disk)
        if found and room.active:
            return room
    return None


def directory_of(disk: Disk) -> str:
    """The directory that it is in."""
    return str(PurePosixPath(disk.source).parent)


def memory_kib(guest_memory_kib: int) -> int:
    """What a guest that runs takes of its host's memory."""
    return guest_memory_kib + OVERHEAD_KIB


def reserve_kib(host: MoveHost) -> int:
    """What a host keeps for itself by default."""
    return max(LEAST_RESERVE_KIB, host.memory_kib * RESERVE_PERCENT // 100)


def spare_kib(host: MoveHost, kept_kib: int | None = None) -> int:
    """The memory that may be given to guests that come, with `kept_kib` kept (None: the default):
    of what is free now, and of what is not promised to guests there that have not taken all of it
    yet. Negative where a host has promised too much."""
    promised = sum(memory_kib(guest.memory_kib) for guest in host.guests if guest.active)
    free = min(host.free_kib, host.memory_kib - promised)
    return free - (reserve_kib(host) if kept_kib is None else kept_kib)


def size(kib: int) -> str:
    """A size as people write it."""
    if abs(kib) >= 10 * GIB:
        return f"{kib / GIB:.0f} GiB"
    return f"{kib / MIB:.0f} MiB"
