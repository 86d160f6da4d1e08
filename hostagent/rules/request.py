"""What a person asks of an in-place run, and the plan that it becomes.

Layer: rules. `Request` is the question, `Terms` the part of it that goes into the plan's `args`
and comes back out of the journal unchanged. All limits and their reasons stand here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from hostagent.core.errors import RefusedError
from hostagent.core.model import Facts
from hostagent.core.plan import Json, Plan, PlannedGuest
from hostagent.rules.pause_policy import Denial, denial
from hostagent.rules.selection import planned, select

S = 1_000_000_000

RESERVE_NS = 2 * S
"""Kept of the budget for resuming: the budget is the guests', not the command's."""

AGENT_WAIT_NS = 6 * S
"""How long after the resume a guest's agent that is not connected is awaited, to set its clock: one
that is started anew by its service manager is back within 5 s (systemd's usual RestartSec)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms of a run. Commands are argument lists; an empty one is absent."""

    command: tuple[str, ...]
    prepare: tuple[str, ...] = ()
    verify: tuple[str, ...] = ()
    rollback: tuple[str, ...] = ()
    budget_ns: int = 30 * S
    suspend_limit_ns: int = 2 * S
    kill_after_ns: int | None = None
    agent_wait_ns: int = AGENT_WAIT_NS
    allow_unpaused: bool = False
    all_guests: bool = True

    @property
    def reserve_ns(self) -> int:
        """2 s, or half of a budget below 4 s."""
        return min(RESERVE_NS, self.budget_ns // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for: the terms, the guests named (none: all), and two overrides: beside the
    living command of an earlier run, and against the policy of guests' owners."""

    terms: Terms
    guests: tuple[str, ...] = ()
    ignore_running: bool = False
    force: bool = False


def plan(run: str, request: Request, facts: Facts) -> Plan:
    """The plan of this run. Raises RefusedError; nothing was changed then."""
    _refuse_beside_a_command(request, facts)
    denials = {} if request.force else _denials(request, facts)
    guests = tuple(
        _denied(planned(guest, facts.held.get(guest.uuid, "")), denials)
        for guest in select(facts, request.guests)
    )
    if not request.terms.allow_unpaused:
        _refuse_held(guests, facts)
        _refuse_unpausable(guests, denials)
    return Plan(
        run=run,
        kind="inplace",
        host=facts.host,
        guests=guests,
        args=_args(request.terms),
        warnings=_warnings(facts),
    )


def _denials(request: Request, facts: Facts) -> dict[str, Denial]:
    """By UUID, why guests that run may not be paused."""
    found = {uuid: denial(notes, request.terms.budget_ns) for uuid, notes in facts.notes.items()}
    return {uuid: why for uuid, why in found.items() if why is not None}


def _denied(guest: PlannedGuest, denials: Mapping[str, Denial]) -> PlannedGuest:
    """One that would be paused and may not be is left running, with the reason."""
    if guest.skip or guest.uuid not in denials:
        return guest
    return replace(guest, skip=denials[guest.uuid].reason)


def _args(terms: Terms) -> dict[str, Json]:
    """JSON primitives, so that a plan read back from a journal equals the one written."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(terms).items()
    }


def terms_of(plan: Plan) -> Terms:
    """The terms as the plan keeps them, also when it was read back from a journal."""
    known = {field.name for field in fields(Terms)}  # a newer version may have written others
    args: dict[str, Any] = {name: value for name, value in plan.args.items() if name in known}
    for name in ("command", "prepare", "verify", "rollback"):
        args[name] = tuple(args[name])
    return Terms(**args)


def _refuse_beside_a_command(request: Request, facts: Facts) -> None:
    if request.ignore_running:
        return
    for pid, command in facts.running_commands.items():
        raise RefusedError(
            f"the command of an earlier run still lives: pid {pid} ({command})",
            hint="wait for it or end it; --ignore-running goes on beside it",
        )


def _refuse_held(guests: tuple[PlannedGuest, ...], facts: Facts) -> None:
    for guest in guests:
        if guest.uuid in facts.held:
            raise RefusedError(
                f"guest {guest.name}: {guest.skip}",
                hint="its QEMU hangs: look at that process; or choose other guests with --guest",
            )


def _refuse_unpausable(guests: tuple[PlannedGuest, ...], denials: Mapping[str, Denial]) -> None:
    """All or nothing: one that runs and can't be paused is seen before anything is done."""
    for guest in guests:
        if guest.runs and guest.skip:
            rest = "--allow-unpaused goes on without it; or choose other guests with --guest"
            cure = denials[guest.uuid].hint if guest.uuid in denials else ""
            raise RefusedError(
                f"guest {guest.name} can't be paused: {guest.skip}",
                hint=f"{cure}; {rest}" if cure else rest,
            )


def _warnings(facts: Facts) -> tuple[str, ...]:
    if facts.host.qmp.allowed:
        return ()
    return (
        "if libvirt dies during the pause, guests can't be resumed without it: "
        f"{facts.host.qmp.refusal}",
    )
