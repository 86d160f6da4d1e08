"""What has become of a guest in a move between two hosts, and what is left to be done about it.

Layer: adapters; pure: what both hosts said in, a decision out. Invariant: nothing is started or
resumed at the source unless the destination has answered and has no copy of the guest; a copy is
ended only where the other one is known to be the guest. What libvirt really leaves behind, and
why each row is as it is, is in docs/reliability.md ("Moves").
"""

from dataclasses import dataclass
from enum import StrEnum

from hostagent.adapters.libvirt.move_places import Seen


class Act(StrEnum):
    """What to do next: the first three end the matter, the fourth is waited for."""

    MOVED = "moved"
    STAYED = "stayed"
    AMBIGUOUS = "ambiguous"
    UNDER_WAY = "under-way"
    RESUME_SOURCE = "resume-source"
    END_DESTINATION = "end-destination"
    END_SOURCE = "end-source"
    RECOVER = "recover"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A decision with its reason, in words for a person. `telling`: it says more than the error of
    the call that was made."""

    act: Act
    reason: str = ""
    telling: bool = False


MIGRATED = "migrated"
"""Why a guest is off at the source: libvirt itself has seen it arrive."""
CANCELED = "migration canceled"
"""Why a guest runs at the source: libvirt itself calls the migration failed there."""


def judge(source: Seen | None, destination: Seen | None, *, switched: bool | None) -> Verdict:
    """Of a guest that was to be moved while it had a QEMU.

    `switched`: whether the source was seen to stop for the hand-over; None where nobody looked.
    """
    if _split(source) or _split(destination):
        return _half_way(source, destination)
    if source is None:
        return _source_unknown(destination)
    if source.job:
        return Verdict(
            act=Act.UNDER_WAY, reason=f"its job at the source goes on: {source.job} ({source})"
        )
    if source.handed_over:
        return _stranded(destination)
    if source.active:
        return _at_source(source, destination, switched)
    return _gone(source, destination)


def _split(seen: Seen | None) -> bool:
    """Whether its memory is on both hosts: it runs at the destination and fetches the rest."""
    return seen is not None and seen.active and seen.reason.startswith("post-copy")


def _half_way(source: Seen | None, destination: Seen | None) -> Verdict:
    """In post-copy neither copy can do without the other: nothing is ever ended here."""
    broken = "failed" in f"{source and source.reason} {destination and destination.reason}"
    if source is not None and source.active and destination is not None and destination.active:
        act = Act.RECOVER if broken else Act.UNDER_WAY
        return Verdict(act=act, reason="it runs at the destination and fetches its memory")
    return Verdict(
        act=Act.AMBIGUOUS,
        reason=f"half of its memory is on each host (at the source: {source or 'no answer'}, at the"
        f" destination: {destination or 'no answer'}); end neither, and mend the way between them",
    )


def _source_unknown(destination: Seen | None) -> Verdict:
    if destination is None:
        reason = "neither host can be asked"
    elif destination.arrived:
        reason = (
            "it runs at the destination, and libvirt at the source does not answer: what it still"
            " has of the guest must not be resumed; start it again, then run this once more"
        )
    else:
        reason = (
            f"libvirt at the source does not answer (the destination says: {destination}); start it"
            " again: the guest may stand still until then"
        )
    return Verdict(act=Act.AMBIGUOUS, reason=reason)


def _stranded(destination: Seen | None) -> Verdict:
    """At the source it stands still in the hand-over and nobody carries that out any more."""
    if destination is None:
        return Verdict(
            act=Act.AMBIGUOUS,
            reason="it stands still at the source (handed over), and the destination can't be"
            " asked: resume it (`virsh resume`) only once that host surely does not run it",
        )
    if destination.arrived:
        return Verdict(act=Act.END_SOURCE, reason="it runs at the destination")
    if destination.active:
        return Verdict(act=Act.END_DESTINATION, reason="it was never started at the destination")
    return Verdict(act=Act.RESUME_SOURCE, reason="the destination has none")


def _at_source(source: Seen, destination: Seen | None, switched: bool | None) -> Verdict:
    if destination is None and switched is False:
        return Verdict(act=Act.STAYED, reason="it never stopped at the source")
    if destination is None:
        return Verdict(
            act=Act.AMBIGUOUS,
            reason=f"at the source it is {source}; the destination can't be asked, and libvirt"
            " there may start a copy as soon as it goes on: before that, end this guest's QEMU"
            " on the destination",
        )
    if not destination.active:
        return Verdict(act=Act.STAYED, reason="the destination has no copy")
    if destination.awaits:
        return Verdict(act=Act.END_DESTINATION, reason="a copy that never ran")
    if source.runs and source.reason == CANCELED and destination.reason == "migrated":
        return Verdict(
            act=Act.END_DESTINATION,
            reason="both hosts ran it for a while: libvirt at the destination started its copy"
            " after the move had failed; look at the guest's disks",
        )
    return Verdict(
        act=Act.AMBIGUOUS,
        reason=f"both hosts have it: {source} at the source, {destination} at the destination",
    )


def _gone(source: Seen, destination: Seen | None) -> Verdict:
    """It has no QEMU at the source."""
    if destination is None:
        return Verdict(
            act=Act.AMBIGUOUS,
            reason=f"at the source it is {source}, and the destination can't be asked",
        )
    if destination.arrived:
        return Verdict(act=Act.MOVED)
    if destination.active:
        return Verdict(
            act=Act.AMBIGUOUS,
            reason=f"at the source it is {source}, and its copy at the destination stands still:"
            " the last memory is there; look at both before anything is resumed or started",
        )
    if source.present and not (source.reason == MIGRATED and destination.present):
        return Verdict(
            act=Act.STAYED, reason=f"it was ended in mid-move: it is {source}", telling=True
        )
    if destination.present and destination.persistent:
        return Verdict(act=Act.MOVED, reason=f"it is {destination} there")
    return Verdict(act=Act.AMBIGUOUS, reason="neither host has it")
