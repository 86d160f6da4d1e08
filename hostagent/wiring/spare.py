"""A run beside which guests that can't stand a pause are elsewhere: away, update, back.

Order: the run is planned and refused first, as if those guests were gone -> they are moved to the
spare host -> the run -> they come back, whatever became of it. Each of the three is a run of its
own with a journal; after a crash in between `host away` names who is still there, and `host
restore` brings them home. Errors: RefusedError while nothing was changed, or after all that had
been moved came back.
"""

from dataclasses import dataclass, replace

from hostagent.core.errors import HostagentError, RefusedError
from hostagent.core.model import Facts
from hostagent.core.plan import Ending, Plan
from hostagent.core.policy import OnPause
from hostagent.rules import request as requests
from hostagent.rules.move_orders import Operation
from hostagent.rules.move_report import MoveReport
from hostagent.rules.move_request import MoveRequest
from hostagent.rules.report import RunReport
from hostagent.rules.request import Request
from hostagent.rules.selection import select
from hostagent.wiring.moves import MoveSite
from hostagent.wiring.running import Say
from hostagent.wiring.site import Site, new_run


@dataclass(frozen=True, slots=True, kw_only=True)
class SparedRun:
    """What came of it. `away` and `back` are None where nobody had to go; `not_back` is why the way
    back could not even be begun."""

    run: RunReport
    away: MoveReport | None = None
    back: MoveReport | None = None
    not_back: str = ""


def plan_with_spare(
    site: Site, moves: MoveSite, request: Request, spare: str
) -> tuple[Plan | None, Plan]:
    """What it would do: the move away (None where nobody has to go), and the run of the others."""
    facts = site.noted_facts()
    going = _going(request, facts)
    if not going:
        return None, site.plan(request)
    away = moves.migrate_plan(MoveRequest(operation=Operation.SPARE), tuple(going), spare)
    return away, requests.plan(new_run(), _without(request, facts, going), _gone(facts, going))


def run_with_spare(
    site: Site, moves: MoveSite, request: Request, spare: str, *, output: int | None, say: Say
) -> SparedRun:
    """Carry a run out with the guests that can't stand a pause on the spare host meanwhile."""
    facts = site.noted_facts()
    going = _going(request, facts)
    if not going:
        return SparedRun(run=site.run(request, output=output, say=say))
    rest = _without(request, facts, going)
    requests.plan(new_run(), rest, _gone(facts, going))
    away = moves.make_way(MoveRequest(operation=Operation.SPARE), tuple(going), spare, say=say)
    arrived = [guest.uuid for guest in away.guests if guest.result == "moved"]
    if away.result != Ending.DONE:
        back, not_back = _back(moves, arrived, say)
        raise RefusedError(
            f"guests that can't stand a pause could not be moved to {spare}: {away.reason}",
            hint=_where_they_are(back, not_back),
            changed=away.changed,
        )
    try:
        report = site.run(rest, output=output, say=say)
    except HostagentError as error:
        _back(moves, arrived, say)
        error.changed = True
        raise
    back, not_back = _back(moves, arrived, say)
    return SparedRun(run=report, away=away, back=back, not_back=not_back)


def _going(request: Request, facts: Facts) -> dict[str, str]:
    """Name by UUID of the chosen guests that run and are to be moved instead of paused."""
    return {
        guest.uuid: guest.name
        for guest in select(facts, request.guests)
        if guest.runs
        and guest.uuid in facts.notes
        and facts.notes[guest.uuid].policy.on_pause is OnPause.MIGRATE
    }


def _without(request: Request, facts: Facts, going: dict[str, str]) -> Request:
    """The same request for the others; where all were meant, all that are left."""
    if not request.guests:
        return request
    chosen = [guest.uuid for guest in select(facts, request.guests) if guest.uuid not in going]
    if not chosen:
        raise RefusedError(
            "all guests named would be moved away: nobody is left to be paused",
            hint="`hostagent host drain` moves all guests; then run the command by itself",
        )
    return replace(request, guests=tuple(chosen))


def _gone(facts: Facts, going: dict[str, str]) -> Facts:
    return replace(facts, guests=tuple(guest for guest in facts.guests if guest.uuid not in going))


def _back(moves: MoveSite, uuids: list[str], say: Say) -> tuple[MoveReport | None, str]:
    """The way back, or why it could not be begun: what came of the update is told all the same."""
    if not uuids:
        return None, ""
    request = MoveRequest(operation=Operation.RETURN)
    try:
        return moves.bring_back(request, frozenset(uuids), say=say), ""
    except HostagentError as error:
        return None, error.message


def _where_they_are(back: MoveReport | None, not_back: str) -> str:
    problem = not_back or (back.reason if back is not None and back.result != Ending.DONE else "")
    if problem:
        return f"nothing was updated; not all came back: {problem}; `hostagent host restore`"
    return "nothing was updated, and all guests are here; see why with `host drain --dry-run`"
