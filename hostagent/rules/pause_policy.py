"""Whether a guest's owner lets it be paused, and for how long.

Layer: rules; pure. The policy is in the guest's own metadata (core/policy); where it could not be
read nobody knows what the owner allows, and the guest is left running.
"""

from dataclasses import dataclass

from hostagent.core.durations import written
from hostagent.core.policy import GuestNotes, OnPause


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """Why a guest is not paused, and what to do next."""

    reason: str
    hint: str


def denial(notes: GuestNotes, budget_ns: int) -> Denial | None:
    """Why this guest may not be paused for so long; None where it may."""
    policy = notes.policy
    if notes.unread:
        return Denial(
            reason=f"what its owner allows could not be read: {notes.unread}",
            hint="try again; `hostagent guest show` reads it too",
        )
    if policy.on_pause is OnPause.MIGRATE:
        return Denial(
            reason="it can't stand a pause (on-pause=migrate)",
            hint="--spare URI moves it to another host meanwhile, and back",
        )
    if policy.on_pause is OnPause.ASK:
        return Denial(
            reason="its owner wants to be asked first (on-pause=ask)",
            hint="ask its owner; then --force pauses it all the same",
        )
    if policy.max_pause_ns is not None and policy.max_pause_ns < budget_ns:
        longest = written(policy.max_pause_ns)
        return Denial(
            reason=f"its pause may take {written(budget_ns)}, and its owner allows {longest}",
            hint=f"--budget {longest}; or --force pauses it all the same",
        )
    return None
