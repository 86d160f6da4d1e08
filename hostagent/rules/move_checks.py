"""What stands in the way of a guest's move to one destination.

Layer: rules; pure. All checks are made before anything moves, and all obstacles are found, not only
the first; each has a reason and a cure in an operator's words. The tables `_HOSTS` and `_THERE` say
which check counts for which methods; what is about the guest alone is in rules/move_ladder, and
what stops nothing in rules/move_warnings. Whatever nobody can tell counts as an obstacle where a
mistake would lose data or a guest's time, and as a warning where libvirt refuses by itself before
it touches the guest.

Sources, libvirt 9.0: src/qemu/qemu_migration.c (qemuMigrationSrcIsAllowed: no snapshots; no host
device that could be left behind; qemuMigrationDstPrepareStorage: a file or volume that is there
already is taken for the copy's target and written over; offline: the definition alone goes along)
and qemu_migration_cookie.c (equal host UUIDs). QEMU 7.2: hw/block/pflash_cfi01.c (UEFI variables
are guest memory, and are written into the destination's file when the guest goes on there).
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from hostagent.core.move import Destination, Disk, Fit, Method, Movable, MoveHost, Room
from hostagent.rules.move_ladder import Found, Obstacle, obstacles_here, word
from hostagent.rules.move_room import (
    copied,
    directory_of,
    memory_kib,
    needed_kib,
    own_disks,
    reserve_kib,
    room_of,
    size,
    spare_kib,
)

ARRIVES = frozenset({Method.LIVE, Method.COLD, Method.OFFLINE})
"""The methods that end on the other host."""
NVRAM = "nvram"
"""Stands for the file of the UEFI variables where a destination names what both hosts reach."""
RUNS_THERE = frozenset({Method.LIVE, Method.COLD})
_AS_FILES = frozenset({Method.COLD, Method.OFFLINE})
"""Only the definition and the disks go along; files that libvirt keeps of its own stay behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One guest's move, as the checks look at it."""

    guest: Movable
    source: MoveHost
    destination: Destination
    method: Method
    own_copies: frozenset[str]

    @property
    def there(self) -> MoveHost:
        """The host that it is to move to."""
        return self.destination.host

    @property
    def fit(self) -> Fit:
        """What that host says of this guest."""
        return self.destination.fit(self.guest.uuid)

    @property
    def written(self) -> tuple[Disk, ...]:
        """The disks that take new room there: one that has a copy of ours is written onto it."""
        disks = copied(self.guest, self.destination)
        return tuple(disk for disk in disks if disk.source not in self.own_copies)

    @property
    def virsh(self) -> str:
        """How a command for the destination begins."""
        return f"virsh -c {word(self.there.uri)}"


def obstacles(
    guest: Movable,
    source: MoveHost,
    destination: Destination,
    method: Method,
    *,
    own_copies: Collection[str] = (),
) -> tuple[Obstacle, ...]:
    """All that stands in the way of this move. `own_copies` are paths at the destination at which
    an earlier move of ours left this guest's disks, by the journal's word (never by the guest's
    metadata, which others write): those may be written over."""
    here = obstacles_here(guest, method)
    if method not in ARRIVES:
        return here
    move = move_of(guest, source, destination, method, own_copies)
    there = (
        Obstacle(reason=reason, cure=cure, guest=guest.uuid)
        for reason, cure in found_by(_THERE, move)
    )
    return (*here, *obstacles_between(source, destination), *there)


def obstacles_between(source: MoveHost, destination: Destination) -> tuple[Obstacle, ...]:
    """What closes this destination to all guests of this source."""
    return tuple(
        Obstacle(reason=reason, cure=cure)
        for check in _HOSTS
        for reason, cure in check(source, destination)
    )


Checks = tuple[tuple[Callable[[Move], Iterator[Found]], frozenset[Method]], ...]
"""Checks, each with the methods for which it counts."""


def move_of(
    guest: Movable,
    source: MoveHost,
    destination: Destination,
    method: Method,
    own_copies: Collection[str],
) -> Move:
    """What the checks look at."""
    return Move(
        guest=guest,
        source=source,
        destination=destination,
        method=method,
        own_copies=frozenset(own_copies),
    )


def found_by(checks: Checks, move: Move) -> Iterator[Found]:
    """What these checks find, in their order."""
    for check, methods in checks:
        if move.method in methods:
            yield from check(move)


def _unreachable(source: MoveHost, destination: Destination) -> Iterator[Found]:
    if destination.unreachable:
        yield (
            f"{source.name} can't reach {destination.host.name}: {destination.unreachable}",
            "open that way (firewall, keys, certificates), or give an address that works",
        )


def _same_host(source: MoveHost, destination: Destination) -> Iterator[Found]:
    there = destination.host
    if there.uuid == source.uuid:
        yield (
            f"{source.name} and {there.name} have the same host UUID ({there.uuid}), so libvirt "
            "takes them for one host",
            "if they are two, give one a host_uuid of its own in its libvirtd.conf (`uuidgen`) and "
            "restart its libvirtd",
        )


def _older_qemu(source: MoveHost, destination: Destination) -> Iterator[Found]:
    there = destination.host
    if there.qemu < source.qemu:
        yield (
            f"{there.name} has QEMU {version(there.qemu)}, which is older than "
            f"{version(source.qemu)} on {source.name}",
            f"update QEMU on {there.name} first",
        )


_HOSTS: tuple[Callable[[MoveHost, Destination], Iterator[Found]], ...] = (
    _unreachable,
    _same_host,
    _older_qemu,
)


def _residents(move: Move) -> Iterator[Found]:
    where = move.there.name
    for other in move.there.guests:
        name = word(other.name)
        if other.uuid == move.guest.uuid and other.active:
            yield (
                f"it runs on {where} too",
                "find out which of the two is right before anything else is done with it",
            )
        elif other.uuid == move.guest.uuid:
            yield (
                f"a definition of it was left on {where}, and would be written over",
                f"look at it (`{move.virsh} dumpxml {name}`), then `{move.virsh} undefine {name}`",
            )
        elif other.name == move.guest.name:
            yield (
                f"{where} has another guest of this name ({other.uuid})",
                f"rename one of them: `{move.virsh} domrename {name} NEW-NAME`",
            )


def _cpu(move: Move) -> Iterator[Found]:
    if move.fit.cpu:
        yield (
            f"{move.there.name} lacks its CPU: {move.fit.cpu}",
            "give it a CPU that both have (`virsh hypervisor-cpu-baseline`) and start it anew",
        )


def _machine(move: Move) -> Iterator[Found]:
    if move.fit.machine:
        yield (
            f"{move.there.name} lacks its machine type {move.guest.machine}: {move.fit.machine}",
            "update QEMU there, or choose another host",
        )


def _memory(move: Move) -> Iterator[Found]:
    wanted, spare = memory_kib(move.guest.memory_kib), spare_kib(move.there)
    if wanted > spare:
        yield (
            f"it takes {size(wanted)} of memory, and {move.there.name} can spare "
            f"{size(max(spare, 0))} beside {size(reserve_kib(move.there))} for itself",
            "make room there, or choose another host",
        )


def _networks(move: Move) -> Iterator[Found]:
    for network in dict.fromkeys(move.guest.networks):
        if network not in move.there.networks:
            yield (
                f"{move.there.name} has no active network {network}",
                f"`{move.virsh} net-start {word(network)}` (before that `net-define`, if it isn't "
                "there)",
            )


def _pools(move: Move) -> Iterator[Found]:
    active = {room.name for room in move.there.pools if room.active}
    for pool in dict.fromkeys(disk.pool for disk in move.guest.disks if disk.pool):
        if pool not in active:
            yield (
                f"{move.there.name} has no active storage pool {pool}",
                f"`{move.virsh} pool-start {word(pool)}` (before that `pool-define`, if it isn't "
                "there)",
            )


def _missing(move: Move) -> Iterator[Found]:
    media = {disk.source: disk.target for disk in move.guest.disks if disk.medium}
    for path in move.fit.missing:
        cure = "bring it there"
        if path in media:
            name = word(move.guest.name)
            cure += f", or take it out: `virsh change-media {name} {media[path]} --eject`"
        yield f"{move.there.name} does not have {path}", cure


def _undecided(move: Move) -> Iterator[Found]:
    for disk in own_disks(move.guest, move.destination):
        if disk.shared is None:
            yield (
                f"nobody can tell whether {move.there.name} reaches the same disk "
                f"{disk.target} ({disk.source})",
                "put it on storage that both hosts share, or into a storage pool of this host",
            )


def _uncopyable(move: Move) -> Iterator[Found]:
    for disk in copied(move.guest, move.destination):
        if disk.kind not in ("file", "volume"):
            yield (
                f"its disk {disk.target} ({disk.source}) is a {disk.kind} of this host",
                "only files and volumes are copied: put it on storage that both hosts share",
            )


def _in_the_way(move: Move) -> Iterator[Found]:
    for path in move.fit.in_the_way:
        if path not in move.own_copies:
            yield (
                f"{move.there.name} already has something at {path}, which would be written over",
                "find out whose it is, then move it away",
            )


def _nowhere(move: Move) -> Iterator[Found]:
    for directory in move.fit.nowhere:
        yield (
            f"its disks have to be copied into {directory}, which {move.there.name} does not have",
            "make that directory there",
        )


def _unknown_room(move: Move) -> Iterator[Found]:
    for disk in move.written:
        where = directory_of(disk)
        known = disk.pool or where in move.fit.nowhere or room_of(disk, move.there)
        if not known:
            yield (
                f"its disk {disk.target} has to be copied, and nobody can tell what room "
                f"{move.there.name} has in {where}",
                f"make it a pool there: `{move.virsh} pool-create-as NAME dir --target "
                f"{word(where)}`",
            )


def _no_room(move: Move) -> Iterator[Found]:
    for room, disks in rooms(move):
        needed = sum(map(needed_kib, disks))
        if needed > room.free_kib:
            yield (
                f"its disks take {size(needed)} in {room.name or room.path} on {move.there.name}, "
                f"where {size(room.free_kib)} are left",
                "make room there, or choose another host",
            )


def rooms(move: Move) -> Iterator[tuple[Room, tuple[Disk, ...]]]:
    """Each pool or directory there into which disks are copied, with those disks."""
    for room in move.there.pools:
        disks = tuple(disk for disk in move.written if room_of(disk, move.there) is room)
        if disks:
            yield room, disks


def _unseen_copy(move: Move) -> Iterator[Found]:
    sources = {disk.source for disk in move.written}
    for what in move.fit.unknown:
        if move.method is not Method.LIVE or what in sources:
            yield f"{move.there.name} could not be asked about {what}", "look at it there yourself"


def _snapshots(move: Move) -> Iterator[Found]:
    if move.guest.snapshots:
        yield (
            f"it has snapshots ({', '.join(move.guest.snapshots)}), which libvirt does not move",
            f"delete them: `virsh snapshot-delete {word(move.guest.name)} NAME` (with --metadata "
            "libvirt forgets them, and the disk keeps what it has of them)",
        )


def _saved(move: Move) -> Iterator[Found]:
    if move.guest.managed_save:
        name = word(move.guest.name)
        yield (
            "its saved state (managed save) is in a file of this host's libvirt, which does not go "
            "along",
            f"start it from there and move it live, or drop it: `virsh managedsave-remove {name}`",
        )


def _tpm(move: Move) -> Iterator[Found]:
    if move.guest.tpm:
        yield (
            "the contents of its TPM are in a file of this host's libvirt, which goes along with a "
            "live move only",
            "move it live",
        )


def _nvram(move: Move) -> Iterator[Found]:
    same = move.guest.nvram_shared or move.there.same_machine
    shared = same or NVRAM in move.fit.shared
    if move.guest.nvram and not shared:
        yield (
            f"its UEFI variables are in a file of this host ({move.guest.nvram}), which goes along "
            "with a live move only",
            "move it live, or put that file on storage that both hosts share",
        )


_THERE: Checks = (
    (_residents, ARRIVES),
    (_cpu, ARRIVES),
    (_machine, ARRIVES),
    (_memory, RUNS_THERE),
    (_networks, ARRIVES),
    (_pools, ARRIVES),
    (_missing, ARRIVES),
    (_undecided, ARRIVES),
    (_uncopyable, ARRIVES),
    (_in_the_way, ARRIVES),
    (_nowhere, ARRIVES),
    (_unknown_room, ARRIVES),
    (_no_room, ARRIVES),
    (_unseen_copy, ARRIVES),
    (_snapshots, ARRIVES),
    (_saved, frozenset({Method.OFFLINE})),
    (_tpm, _AS_FILES),
    (_nvram, _AS_FILES),
)


def version(number: int) -> str:
    """A version of libvirt's or QEMU's as people write it (7002000 is 7.2.0)."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
