"""Looks at the guests around the pause: waits for their jobs; after it lists newcomers, and what
became of those that ended.

Layer: work. Only reads.
"""

import shlex
import time

from hostagent.core.errors import HostagentError
from hostagent.core.journal import GuestOutcome, Outcome
from hostagent.core.model import Guest, GuestState
from hostagent.core.plan import Plan, Step
from hostagent.core.ports import Guests
from hostagent.rules.selection import skip_reason

POLL_S = 0.25
"""How often a job is looked at; libvirt has no event for the end of every kind of job."""
CALL_LIMIT_NS = 3_000_000_000


class AwaitJobs:
    """Waits until no guest of the step has a running job: `free`, `busy` or `gone`."""

    def __init__(self, guests: Guests) -> None:
        self._guests = guests

    def do(self, step: Step) -> Outcome:
        limit_ns = step.args["limit_ns"]
        assert isinstance(limit_ns, int)
        until_ns = time.monotonic_ns() + limit_ns
        while True:
            found = self._guests.look(step.guests, CALL_LIMIT_NS)
            outcomes = {uuid: _outcome(found.get(uuid)) for uuid in step.guests}
            over = time.monotonic_ns() >= until_ns
            if over or all(outcome.result != "busy" for outcome in outcomes.values()):
                return Outcome(key=step.key, result="over", guests=outcomes)
            time.sleep(POLL_S)

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result="lost")


def _outcome(guest: Guest | None) -> GuestOutcome:
    if guest is None:
        return GuestOutcome(result="gone", reason="it is not on this host any more")
    if guest.job:
        return GuestOutcome(result="busy", reason=f"a {guest.job} is running on it")
    reason = skip_reason(guest, "")
    return GuestOutcome(result="gone" if reason else "free", reason=reason)


class Census:
    """Names guests that run now and did not when the plan was made, and says what became of those
    of the plan whose process has ended."""

    def __init__(self, guests: Guests, plan: Plan) -> None:
        self._guests = guests
        self._known = {guest.uuid: guest.process for guest in plan.guests}

    def do(self, step: Step) -> Outcome:
        try:
            facts = self._guests.facts()
        except HostagentError as error:
            return Outcome(key=step.key, result="unread", reason=error.message)
        started = [guest.name for guest in facts.guests if guest.runs and self._is_new(guest)]
        ended = {
            guest.uuid: GuestOutcome(result="ended", reason=_what_became(guest))
            for guest in facts.guests
            if self._known.get(guest.uuid) is not None and self._is_new(guest)
        }
        return Outcome(
            key=step.key, result="over", guests=ended, figures={"started": list(started)}
        )

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result="lost")

    def _is_new(self, guest: Guest) -> bool:
        return guest.uuid not in self._known or self._known[guest.uuid] != guest.process


def _what_became(guest: Guest) -> str:
    """Of one that something else ended. What was saved as it stood still does so again when it is
    started (libvirt saves the state too), and is then not ours to resume: a person has to know."""
    resume = f"`virsh resume {shlex.quote(guest.name)}`"  # names may hold anything
    if guest.state is GuestState.PAUSED:
        return (
            "something else ended it and started it again, and it stands still "
            f"({guest.reason}): {resume} lets it run"
        )
    if guest.state is GuestState.SHUT_OFF and guest.reason == "saved":
        return (
            "something else saved it as it stood still: once started it stands still until "
            f"{resume}"
        )
    if guest.runs:
        return "something else ended it and started it again"
    return f"something else ended it: it is {guest.state} ({guest.reason})"
