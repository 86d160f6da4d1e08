"""What a folded journal means for an in-place run: where each guest and each command stands.

Layer: rules. A read-only view of core.journal.State in this run's own words; it decides nothing.

A run that was taken over after a crash begins each way back anew: the keys of those steps carry
how often it crashed, so that a resume that died with its process is not taken for one that was
done. What the guardian did is heard ("guardian-back") and counts like an outcome of our own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hostagent.core.journal import Closed, GuestOutcome, HeardAt, State
from hostagent.core.plan import PlannedGuest, Verb
from hostagent.rules.request import Terms, terms_of

MAY_STAND_STILL = frozenset({"paused", "unsettled", "hung"})
"""Results of a pause after which the guest is paused by us, or still may be."""

LET_GO = "let-go"
"""What a dead hostagent had told its guardian of a guest, and not yet its journal: nothing of ours
holds it. Whoever has stopped it since then is somebody else."""

BROUGHT_BACK = frozenset({"resumed", "running", "gone", "not-ours", LET_GO})
"""Results of a resume after which nothing of ours holds the guest."""

COMMANDS = (Verb.PREPARE, Verb.APPLY, Verb.VERIFY, Verb.ROLLBACK)
"""Steps that run a command of the user's; each is known by its own verb."""


@dataclass(frozen=True)
class Progress:
    """The view. Not slotted: its properties are cached, as next() asks them often."""

    state: State

    @cached_property
    def terms(self) -> Terms:
        """The terms of the run."""
        return terms_of(self.state.plan)

    @cached_property
    def crashes(self) -> int:
        """How often the run was taken over from a process that died."""
        return sum(heard.what == "crashed" for heard in self.state.heard)

    @cached_property
    def signals(self) -> tuple[HeardAt, ...]:
        """Signals that asked the run to stop, in order."""
        return tuple(heard for heard in self.state.heard if heard.what == "signal")

    @cached_property
    def guardians_died(self) -> int:
        """How many guardians died while armed."""
        return sum(heard.what == "guardian-died" for heard in self.state.heard)

    @cached_property
    def guardian_exposed(self) -> bool:
        """Whether a guardian shared the control group of its owner."""
        return any(heard.what == "guardian-exposed" for heard in self.state.heard)

    @cached_property
    def guests(self) -> tuple[PlannedGuest, ...]:
        """The guests to pause: chosen, free when their jobs had ended, and still running when the
        guardian was armed."""
        return tuple(guest for guest in self.state.plan.chosen if self.dropped(guest.uuid) is None)

    def dropped(self, uuid: str) -> GuestOutcome | None:
        """Why a chosen guest was left alone before anything was paused."""
        for verb, kept in ((Verb.AWAIT_JOBS, "free"), (Verb.ARM, "guarded")):
            outcome = self._guests_of(verb).get(uuid)
            if outcome is not None and outcome.result != kept:
                return outcome
        return None

    def key(self, verb: Verb) -> str:
        """The key of a way-back step for the present holder of the run."""
        return f"{verb}@{self.crashes}" if self.crashes else str(verb)

    @property
    def key_settle(self) -> str:
        """The key of the second resume: of guests whose own QEMU hung at the first."""
        return f"settle@{self.crashes}" if self.crashes else "settle"

    @property
    def key_clocks(self) -> str:
        """The key of the step that sets the clocks, right after the last resume."""
        return f"clocks@{self.crashes}" if self.crashes else "clocks"

    @property
    def key_clocks_again(self) -> str:
        """The key of the second look at the clocks, at the end of the run."""
        return f"clocks-again@{self.crashes}" if self.crashes else "clocks-again"

    def clock_before(self, uuid: str) -> GuestOutcome | None:
        """The reading of this guest's clock from before the pause."""
        return self._guests_of("clocks-before").get(uuid)

    def clock_syncs(self, uuid: str) -> tuple[GuestOutcome, ...]:
        """What came of each time that this guest's clock was to be set, in order."""
        return tuple(
            closed.outcome.guests[uuid]
            for closed in self.state.done.values()
            if closed.step.verb is Verb.SYNC_CLOCKS and uuid in closed.outcome.guests
        )

    def clock_untold(self, uuid: str) -> bool:
        """Whether this guest's clock may have been set before it was first read: the step that was
        to do both died with its process."""
        for closed in self.state.done.values():
            if closed.step.verb is Verb.SYNC_CLOCKS and uuid in closed.step.guests:
                told = closed.outcome.guests.get(uuid)
                if told is None or "first_offset_ns" in told.figures:
                    return told is None
        return False

    @cached_property
    def stood_still(self) -> tuple[PlannedGuest, ...]:
        """The guests that stood still because of us, or may have, and run again by now."""
        return tuple(guest for guest in self.guests if self._stood_still(guest.uuid))

    def closed(self, key: str) -> Closed | None:
        """A finished step."""
        return self.state.done.get(key)

    def exit_code(self, verb: Verb) -> int | None:
        """How a command ended; None while it runs, and where nobody could know."""
        closed = self.closed(verb)
        code = closed.outcome.figures.get("exit_code") if closed is not None else None
        return code if isinstance(code, int) else None

    def paused(self, uuid: str) -> GuestOutcome | None:
        """How the pause of this guest went."""
        return self._guests_of(Verb.PAUSE).get(uuid)

    def ended(self, uuid: str) -> GuestOutcome | None:
        """What became of this guest, if its process had ended by the last look."""
        return self._guests_of(Verb.CENSUS).get(uuid)

    def back(self, uuid: str) -> GuestOutcome | None:
        """The word that counts on the resume of this guest: whoever resumed it, else whoever found
        it needing nothing more, else the last. The time of its RESUME may be another's to know."""
        outcomes = list(self._backs(uuid))
        if not outcomes:
            return None
        resumed = [outcome for outcome in outcomes if outcome.result == "resumed"]
        over = [outcome for outcome in outcomes if outcome.result in BROUGHT_BACK]
        counts = (resumed or over or outcomes[-1:])[0]
        times = [outcome.figures for outcome in outcomes if "resumed_ns" in outcome.figures]
        return replace(counts, figures={**(times[0] if times else {}), **counts.figures})

    @cached_property
    def to_resume(self) -> tuple[str, ...]:
        """Guests that are paused by us or may be, and are not known to be back."""
        return tuple(guest.uuid for guest in self.guests if self._may_stand_still(guest.uuid))

    @cached_property
    def hung(self) -> tuple[str, ...]:
        """Of those, the ones whose own QEMU did not answer when we resumed them."""
        return tuple(
            uuid
            for uuid in self.to_resume
            if (back := self.back(uuid)) is not None and back.result == "hung"
        )

    @cached_property
    def deadline_ns(self) -> int | None:
        """When the budget ends and the guardian resumes by itself; None before it was armed."""
        closed = self.closed(Verb.ARM)
        value = closed.outcome.figures.get("deadline_ns") if closed is not None else None
        return value if isinstance(value, int) else None

    @cached_property
    def command_deadline_ns(self) -> int | None:
        """When the command must be done, so that guests are back within the budget."""
        if self.deadline_ns is None:
            return None
        return self.deadline_ns - self.terms.reserve_ns

    @cached_property
    def update_began(self) -> bool:
        """Whether the update's command was let through its gate, or may have been."""
        if self.state.result(Verb.CANCEL) == "cancelled":
            return False
        return Verb.APPLY in self.state.open or self.state.result(Verb.APPLY) not in (
            "",
            "not-begun",
        )

    def _may_stand_still(self, uuid: str) -> bool:
        if not self.state.begun(Verb.PAUSE) or self.state.rebooted:
            return False
        back = self.back(uuid)
        if back is not None and back.result in BROUGHT_BACK:
            return False
        if Verb.PAUSE in self.state.open:
            return True
        outcome = self.paused(uuid)
        if outcome is None:
            return self.state.result(Verb.PAUSE) != "not-begun"
        return outcome.result in MAY_STAND_STILL

    def _stood_still(self, uuid: str) -> bool:
        pause, back = self.paused(uuid), self.back(uuid)
        if self.state.rebooted or back is None or uuid in self.to_resume:
            return False
        paused = pause is None or pause.result in MAY_STAND_STILL
        return paused and back.result in ("resumed", "running", LET_GO)

    def _proves(self, uuid: str, result: str) -> bool:
        """Whether what the guardian saw is final. A guest that it saw running while our suspend
        had not returned may have stopped afterwards; only a look of our own knows."""
        pause = self.paused(uuid)
        return result != "running" or (pause is not None and "returned_ns" in pause.figures)

    def _guests_of(self, key: str) -> dict[str, GuestOutcome]:
        closed = self.closed(key)
        return dict(closed.outcome.guests) if closed is not None else {}

    def _backs(self, uuid: str) -> Iterator[GuestOutcome]:
        for heard in self.state.heard:
            if heard.what == "guardian-back":
                value: Any = heard.value
                if value["uuid"] == uuid and self._proves(uuid, value["result"]):
                    yield GuestOutcome(
                        result=value["result"], reason=value["reason"], figures=value["figures"]
                    )
        for closed in self.state.done.values():
            if closed.step.verb is Verb.RESUME and uuid in closed.outcome.guests:
                yield closed.outcome.guests[uuid]
