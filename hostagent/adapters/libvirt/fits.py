"""How guests fit a destination, from what its libvirt answered: pure.

Layer: adapters. Which paths are to be looked at, and what it means where they are, or are not. A
path that nobody could look at is unknown, never fitting. Deliberately absent: asking (destination),
and what any of it means for a move (rules/move_checks).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hostagent.adapters.libvirt.disks import Directory, directory_of, marker
from hostagent.core.move import Disk, Fit, Movable

NVRAM = "nvram"
"""Stands for the file of a guest's UEFI variables among the targets of its disks."""
NOT_IN_TIME = Directory(there=None, problem="libvirt did not answer in time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the destination said. `machines` and `cpus` are its reasons against them, by guest:
    empty where it has none, absent where it did not answer. `same` says of paths whether both hosts
    see one file there; absent where nobody can tell. `interfaces` are None where they could not be
    listed."""

    machines: Mapping[str, str] = field(default_factory=dict)
    cpus: Mapping[str, str] = field(default_factory=dict)
    directories: Mapping[str, Directory] = field(default_factory=dict)
    same: Mapping[str, bool] = field(default_factory=dict)
    same_machine: bool = False
    interfaces: frozenset[str] | None = None


def fit_of(guest: Movable, answers: Answers) -> Fit:
    """How this guest fits."""
    shared = tuple(_shared(guest, answers))
    missing, unknown = _absent(_needed(guest, shared), answers)
    in_the_way, nowhere, unseen = _copies(guest, shared, answers)
    unasked = () if guest.uuid in answers.machines else ("its CPU and machine type",)
    bridges = answers.interfaces
    if bridges is None:
        unknown += guest.bridges
    else:
        missing += tuple(f"interface {name}" for name in guest.bridges if name not in bridges)
    return Fit(
        guest=guest.uuid,
        cpu=answers.cpus.get(guest.uuid, ""),
        machine=answers.machines.get(guest.uuid, ""),
        missing=missing,
        in_the_way=in_the_way,
        nowhere=nowhere,
        shared=shared,
        unknown=(*unasked, *dict.fromkeys((*unknown, *unseen))),
    )


def paths_of(guests: Iterable[Movable]) -> Mapping[str, Sequence[str]]:
    """All paths to look at, by directory."""
    grouped: dict[str, dict[str, None]] = {}
    for guest in guests:
        for path in _all_paths(guest):
            grouped.setdefault(directory_of(path), {})[path] = None
    return {directory: tuple(paths) for directory, paths in grouped.items()}


def _all_paths(guest: Movable) -> Iterator[str]:
    yield from _read_only(guest)
    for disk in _own(guest):
        yield from (disk.source, marker(disk.source, guest.uuid), *disk.backing)
    if guest.nvram.startswith("/"):
        yield guest.nvram


def _read_only(guest: Movable) -> Iterator[str]:
    """Paths that have to be there: nothing copies them."""
    yield from (path for path in guest.files if path.startswith("/"))
    for disk in guest.disks:
        if disk.source.startswith("/") and (disk.medium or disk.readonly):
            yield disk.source


def _own(guest: Movable) -> Iterator[Disk]:
    """Disks with a path that the guest writes."""
    for disk in guest.disks:
        if disk.source.startswith("/") and not (disk.medium or disk.readonly):
            yield disk


def _shared(guest: Movable, answers: Answers) -> Iterator[str]:
    """The targets of disks that both hosts reach."""
    for disk in guest.disks:
        if disk.shared or answers.same_machine or answers.same.get(disk.source):
            yield disk.target
    if guest.nvram and (
        guest.nvram_shared or answers.same_machine or answers.same.get(guest.nvram)
    ):
        yield NVRAM


def _needed(guest: Movable, shared: Sequence[str]) -> Sequence[str]:
    """Paths that must be there: of a disk that is copied what it is an overlay over, since that is
    not. A file on one machine is there; it is looked at all the same, since
    the other libvirt may have another root directory, or no right to it."""
    needed = [*_read_only(guest)]
    for disk in _own(guest):
        needed += [*((disk.source,) if disk.target in shared else ()), *disk.backing]
    return tuple(dict.fromkeys(needed))


def _absent(paths: Iterable[str], answers: Answers) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of paths that must be there: those that are not, and those of which nobody can tell."""
    missing: list[str] = []
    unknown: list[str] = []
    for path in paths:
        looked = answers.directories.get(directory_of(path), NOT_IN_TIME)
        if path in looked.stamps:
            continue
        (unknown if looked.there is None else missing).append(path)
    return tuple(missing), tuple(unknown)


def _copies(
    guest: Movable, shared: Sequence[str], answers: Answers
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Of disks that are copied: paths that are taken, directories that are not there, unknown. What
    a copy of ours has left that was begun once takes no path: the next one removes it."""
    taken: list[str] = []
    nowhere: list[str] = []
    unknown: list[str] = []
    for disk in _own(guest):
        if disk.target in shared:
            continue
        looked = answers.directories.get(directory_of(disk.source), NOT_IN_TIME)
        if disk.source in looked.stamps:
            if marker(disk.source, guest.uuid) in looked.stamps:
                continue
            (taken if disk.source in answers.same else unknown).append(disk.source)
        elif looked.there is None:
            unknown.append(disk.source)
        elif not looked.there:
            nowhere.append(directory_of(disk.source))
    return tuple(taken), tuple(dict.fromkeys(nowhere)), tuple(unknown)
