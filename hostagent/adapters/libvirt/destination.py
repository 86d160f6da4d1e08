"""A destination: the host, the way there, and how each guest fits, by the word of its own libvirt.

Layer: adapters. Changes nothing but for transient pools that are looked through and taken away
(disks). CPUs and machine types are libvirt's to compare; a disk is shared when both hosts see the
same file at its path, told by when it was last written. What is not answered in time is unknown,
never fitting. Sources: virConnectCompareHypervisorCPU, virConnectGetDomainCapabilities. Errors:
LibvirtUnreachableError where the destination itself does not answer.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import libvirt

from hostagent.adapters.libvirt import addresses, disks, errors, way
from hostagent.adapters.libvirt.bounded import spread
from hostagent.adapters.libvirt.disks import Directory
from hostagent.adapters.libvirt.fits import NOT_IN_TIME, Answers, fit_of, paths_of
from hostagent.adapters.libvirt.move_host import WORKERS, Connection, optional, read_host, visit
from hostagent.core.errors import HostagentError
from hostagent.core.move import Destination, Movable, MoveHost, Room

S = 1_000_000_000

LOOKS = 3
"""A guest that runs writes to its disk between two looks at it; so often both hosts are asked."""


def read_destination(
    source: MoveHost, uri: str, guests: Sequence[Movable], limit_ns: int, home: str = ""
) -> Destination:
    """The destination at this URI for these guests of the source.

    `home` is its URI as the source reaches it, where a person named it. Raises
    LibvirtUnreachableError.
    """
    until_ns = time.monotonic_ns() + limit_ns
    host = _beside(read_host(uri, limit_ns), source)
    road = way.find(source.uri, host.uri, until_ns - time.monotonic_ns())
    if home:
        road = replace(road, via=home, unreachable="")
    answers = _ask(source, host, guests, until_ns)
    return Destination(
        host=replace(host, pools=_pools(host.pools, answers.directories)),
        via=road.via,
        stream=road.stream,
        unreachable=road.unreachable,
        doubts=(*road.doubts, *_unseen(answers.directories)),
        fits=tuple(fit_of(guest, answers) for guest in guests),
    )


def _beside(host: MoveHost, source: MoveHost) -> MoveHost:
    """Two libvirts with local URIs are on one machine."""
    if not (addresses.is_local(host.uri) and addresses.is_local(source.uri)):
        return host
    return replace(host, same_machine=True)


def _ask(source: MoveHost, host: MoveHost, guests: Sequence[Movable], until_ns: int) -> Answers:
    """All questions about guests, on one connection."""
    return visit(
        host.uri,
        "asking how guests fit",
        until_ns - time.monotonic_ns(),
        lambda there: _answers(there, source, host, guests, until_ns),
    )


def _answers(
    there: Connection,
    source: MoveHost,
    host: MoveHost,
    guests: Sequence[Movable],
    until_ns: int,
) -> Answers:
    disks.sweep(there)
    by_uuid = {guest.uuid: guest for guest in guests}
    judged = spread(by_uuid, WORKERS, _share(until_ns), lambda uuid: _judged(there, by_uuid[uuid]))
    paths = paths_of(guests)
    seen = spread(
        paths, WORKERS, _share(until_ns), lambda place: _looked(there, place, paths[place])
    )
    found = {place: looked or NOT_IN_TIME for place, looked in seen.items()}
    interfaces = optional(
        lambda: frozenset(each.name() for each in there.listAllInterfaces()), None
    )
    return Answers(
        same_machine=host.same_machine,
        machines={uuid: verdict[0] for uuid, verdict in judged.items()},
        cpus={uuid: verdict[1] for uuid, verdict in judged.items()},
        directories={place: found.get(place, NOT_IN_TIME) for place in paths},
        same={} if host.same_machine else _same(there, source, guests, found, until_ns),
        interfaces=interfaces,
    )


def _share(until_ns: int) -> int:
    """Half of what is left, so that something is left for the next."""
    return max(0, until_ns - time.monotonic_ns()) // 2


def _judged(there: Connection, guest: Movable) -> tuple[str, str]:
    """libvirt's reasons against the machine type and the CPU. Never raises."""
    emulator = guest.emulator or None
    try:
        there.getDomainCapabilities(emulator, guest.arch, guest.machine, guest.kind)
    except libvirt.libvirtError as error:
        return _said(error), ""
    if not guest.cpu:
        return "", ""
    strict = libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
    try:
        if "<arch>" in guest.cpu:  # a host's own, since the guest has just that
            there.compareCPU(guest.cpu, strict)
        else:
            there.compareHypervisorCPU(
                emulator, guest.arch, guest.machine, guest.kind, guest.cpu, strict
            )
    except libvirt.libvirtError as error:
        return "", _said(error)
    return "", ""


def _said(error: libvirt.libvirtError) -> str:
    text = " ".join((error.get_error_message() or str(error)).split())
    text = text.removeprefix("invalid argument: ").removeprefix("unsupported configuration: ")
    return text if len(text) <= errors.LONGEST else f"{text[: errors.LONGEST]} ..."


def _looked(conn: Connection, directory: str, paths: Sequence[str]) -> Directory | None:
    """None where the connection broke."""
    try:
        return disks.look(conn, directory, paths)
    except libvirt.libvirtError:
        return None


def _same(
    there: Connection,
    source: MoveHost,
    guests: Sequence[Movable],
    found: Mapping[str, Directory],
    until_ns: int,
) -> Mapping[str, bool]:
    """Whether both hosts see the same file, for paths that the destination has."""
    present = {path for looked in found.values() for path in looked.stamps}
    wanted = {
        place: both
        for place, paths in paths_of(guests).items()
        if (both := tuple(path for path in paths if path in present))
    }
    if not wanted:
        return {}
    limit_ns = _share(until_ns)
    with suppress(HostagentError):
        return visit(
            source.uri,
            "looking at disks",
            limit_ns,
            lambda here: _compared(here, there, wanted, limit_ns // 2),
        )
    return {}


def _compared(
    here: Connection, there: Connection, wanted: Mapping[str, Sequence[str]], limit_ns: int
) -> Mapping[str, bool]:
    alike = spread(
        wanted, WORKERS, limit_ns, lambda place: _alike(here, there, place, wanted[place])
    )
    return {path: same for paths in alike.values() for path, same in paths.items()}


def _alike(
    here: Connection, there: Connection, directory: str, paths: Sequence[str]
) -> Mapping[str, bool]:
    """Of one directory. Never raises."""
    found: dict[str, bool] = {}
    for _ in range(LOOKS):
        ours, theirs = _looked(here, directory, paths), _looked(there, directory, paths)
        if ours is None or theirs is None or ours.there is None:
            break
        for path in paths:
            same = _one_file(ours.stamps.get(path), theirs.stamps.get(path))
            if same is not None:
                found[path] = found.get(path, False) or same
        if all(found.get(path) for path in paths):
            break
    return found


def _one_file(ours: str | None, theirs: str | None) -> bool | None:
    """None where nobody can tell: it is gone there, or its times are too coarse."""
    if not theirs or ours == "":
        return None
    return ours == theirs


def _pools(known: Sequence[Room], looked: Mapping[str, Directory]) -> tuple[Room, ...]:
    """The host's pools with what is free now, and directories that are no pool's."""
    fresh = {place: seen.free_kib for place, seen in looked.items() if seen.there and seen.free_kib}
    pools = [replace(room, free_kib=fresh.get(room.path, room.free_kib)) for room in known]
    places = {room.path for room in known if room.active}
    others = (
        Room(name="", active=True, path=place, free_kib=free)
        for place, free in sorted(fresh.items())
        if place not in places
    )
    return (*pools, *others)


def _unseen(looked: Mapping[str, Directory]) -> Iterator[str]:
    for place, seen in sorted(looked.items()):
        if seen.problem:
            yield f"{place} could not be looked at there: {seen.problem}"
