"""After a move: everything about the guest as it was, and nothing of it left where it is not.

Layer: adapters. Idempotent: each thing is looked at first. Invariants: a definition goes only where
the guest does not run and when the other host has it, and its NVRAM file stays; the destination
starts the guest at boot only once the source's definition is gone, and that one loses its autostart
before anything else; disks of the source are deleted only where the order says so. Errors: none; a
thing that could not be done is the reason of `unsettled`.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import libvirt

from hostagent.adapters.libvirt import addresses, metadata, move_disks
from hostagent.adapters.libvirt.move_places import Place, Seen, told
from hostagent.core.errors import HostagentError
from hostagent.core.journal import GuestOutcome
from hostagent.core.move import Order
from hostagent.core.policy import Home

S = 1_000_000_000
CALL_LIMIT_NS = 10 * S

UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)
"""A managed save state is no part of it: libvirt then refuses, and so it is never lost."""


def settle(order: Order, source: Place, destination: Place) -> GuestOutcome:
    """`settled`, or `unsettled` with what is not as it should be."""
    there = destination.look(order.uuid)
    if there is None or not there.present or there.awaits:
        return _unsettled("the destination does not answer" if there is None else f"it is {there}")
    problems = leave(order, source, destination)
    wanted = order.autostart and not problems
    problems += autostart(order, destination, there, wanted=wanted)
    if order.autostart and not wanted:
        problems.append("its autostart is set once the source has nothing of it any more")
    if order.home is not None:
        problems += _tried("leaving the note of its home", destination, order, _home(order))
    problems += move_disks.keep(order, destination)
    if order.delete_source_disks and not problems:
        problems += _delete_disks(order, source, destination)
    return _unsettled("; ".join(problems)) if problems else GuestOutcome(result="settled")


def leave(order: Order, source: Place, destination: Place) -> list[str]:
    """Take the definition away that the source still has; problems in words."""
    here, there = source.look(order.uuid), destination.look(order.uuid)
    if here is None or there is None:
        at = "source" if here is None else "destination"
        return [f"what the source still has of it is not known: libvirt at the {at} is silent"]
    if not here.present:
        return []
    if here.active:
        return [f"the source still has it: it is {here}"]
    problems = autostart(order, source, here, wanted=False)
    if not there.present or not there.persistent:
        return [*problems, "the source's definition stays: the destination has none"]
    problems += _carry_snapshots(order, source, destination)
    if problems:
        return problems
    return _tried(
        "removing the source's definition",
        source,
        order,
        lambda domain: domain.undefineFlags(UNDEFINE),
    )


def take_back(order: Order, source: Place, destination: Place) -> list[str]:
    """Of a guest that stayed at the source: take the definition away that the move left at the
    destination, where a plan has made sure that there was none; problems in words. libvirt leaves
    it there if its copy was ended in the hand-over (seen with 9.0)."""
    here, there = source.look(order.uuid), destination.look(order.uuid)
    if here is None or there is None or not here.persistent:
        return []
    if there.active or not there.persistent:
        return []
    return _tried(
        "removing the definition that was left at the destination",
        destination,
        order,
        lambda domain: domain.undefineFlags(UNDEFINE),
    )


def autostart(order: Order, place: Place, found: Seen | None, *, wanted: bool) -> list[str]:
    """Whether this host starts the guest when it boots itself, by what was found there; problems
    in words."""
    if found is None or not found.persistent or found.autostart == wanted:
        return []
    problems = _tried(
        "setting autostart", place, order, lambda domain: domain.setAutostart(int(wanted))
    )
    return [f"its autostart at {place.uri} could not be changed: {each}" for each in problems]


def _unsettled(reason: str) -> GuestOutcome:
    return GuestOutcome(result="unsettled", reason=reason)


def _tried(
    doing: str, place: Place, order: Order, work: Callable[[libvirt.virDomain], object]
) -> list[str]:
    try:
        place.guest(doing, order.uuid, CALL_LIMIT_NS, work)
    except HostagentError as error:
        return [told(error)]
    return []


def _home(order: Order) -> Callable[[libvirt.virDomain], bool]:
    def write(domain: libvirt.virDomain) -> bool:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        home = Home(host_uuid=order.home or "", host_name=order.home_name, since=since)
        return metadata.write_home(domain, home if order.home else None, limit_ns=CALL_LIMIT_NS)

    return write


def _carry_snapshots(order: Order, source: Place, destination: Place) -> list[str]:
    """Redefine at the destination what the source has metadata of, parents first."""
    try:
        texts = source.guest("reading snapshots", order.uuid, CALL_LIMIT_NS, _snapshots)
        if texts:
            destination.guest(
                "redefining snapshots",
                order.uuid,
                CALL_LIMIT_NS,
                lambda domain: _redefine(domain, texts),
            )
    except HostagentError as error:
        return [told(error)]
    return []


def _snapshots(domain: libvirt.virDomain) -> list[tuple[str, bool]]:
    """XML and whether it is the current one, in libvirt's topological order."""
    found = domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
    secure = libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE
    return [(each.getXMLDesc(secure), bool(each.isCurrent())) for each in found]


def _redefine(domain: libvirt.virDomain, texts: list[tuple[str, bool]]) -> None:
    for text, current in texts:
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
        if current:
            flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
        domain.snapshotCreateXML(text, flags)


def _delete_disks(order: Order, source: Place, destination: Place) -> list[str]:
    """The copied disks' originals. On one machine both are the same files."""
    if addresses.is_local(order.source) and addresses.is_local(order.destination):
        return ["source disks were not deleted: both hosts are this machine"]
    with suppress(HostagentError):
        paths = destination.guest(
            "reading its disks",
            order.uuid,
            CALL_LIMIT_NS,
            lambda domain: move_disks.paths(domain.XMLDesc(), order.copy),
        )
        return move_disks.delete(source, paths)
    return ["source disks were not deleted: the destination did not say which they are"]
