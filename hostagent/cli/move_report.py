"""How a plan of moves and its report are printed: migrate, drain and restore alike.

Layer: cli. JSON is hostagent.migrate/1, hostagent.drain/1 or hostagent.restore/1.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from hostagent.cli.globals import Globals
from hostagent.cli.messages import show_json, show_warnings
from hostagent.cli.tables import milliseconds, offset, plain, seconds, table
from hostagent.core.errors import RefusedError
from hostagent.core.move import Order
from hostagent.core.plan import Plan, PlannedGuest
from hostagent.rules.move_orders import moves_of
from hostagent.rules.move_plan import refuse
from hostagent.rules.move_report import GuestMove, MoveReport


def show_plan(globals_: Globals, plan: Plan, *, all_or_nothing: bool) -> int:
    """What would be moved, how, and where to; and why the others stay. The exit status is that of
    a refusal where the move itself would be refused."""
    moves = moves_of(plan.args)
    if globals_.as_json:
        guests = [_planned(guest, moves.orders.get(guest.uuid, ())) for guest in plan.guests]
        head = {"schema": f"hostagent.{moves.operation}/1", "changed": False, "dry_run": True}
        rest = {"result": None, "guests": [_not_yet(guest) for guest in plan.guests]}
        plan_ = {"parallel": moves.parallel, "guests": guests}
        show_json({**head, "warnings": list(plan.warnings), **rest, "plan": plan_})
        return _status(plan, all_or_nothing=all_or_nothing)
    rows = [_plan_row(guest, moves.orders.get(guest.uuid, ())) for guest in plan.guests]
    click.echo(table(["GUEST", "DO", "HOW", "TO", "WHY"], rows))
    click.echo(plain(f"{moves.parallel} at once"))
    if not globals_.quiet:
        show_warnings(plan.warnings)
    return _status(plan, all_or_nothing=all_or_nothing)


def _status(plan: Plan, *, all_or_nothing: bool) -> int:
    try:
        refuse(plan, all_or_nothing=all_or_nothing)
    except RefusedError as error:
        return error.exit_code
    return 0


def _planned(guest: PlannedGuest, rungs: Sequence[Order]) -> dict[str, Any]:
    return {
        "name": guest.name,
        "uuid": guest.uuid,
        "do": "stay" if guest.skip else "move",
        "methods": [str(order.method) for order in rungs],
        "from": rungs[0].source if rungs else None,
        "to": rungs[0].destination if rungs else None,
        "reason": guest.skip,
    }


def _not_yet(guest: PlannedGuest) -> dict[str, Any]:
    """A guest in the form of a report, of which nothing is known yet."""
    result = "not-moved" if guest.skip else "skipped"
    return _guest(GuestMove(name=guest.name, uuid=guest.uuid, result=result, reason=guest.skip))


def _plan_row(guest: PlannedGuest, rungs: Sequence[Order]) -> list[str]:
    how = ", then ".join(order.method for order in rungs)
    there = rungs[0].destination if rungs else ""
    return [guest.name, "stay" if guest.skip else "move", how or "-", there or "-", guest.skip]


def show_report(globals_: Globals, report: MoveReport) -> None:
    """What was moved."""
    if globals_.as_json:
        show_json(report_to_json(report))
        return
    if report.guests:
        click.echo(table(_HEAD, [_row(guest) for guest in report.guests]))
    click.echo(plain(f"{report.result}{': ' if report.reason else ''}{report.reason}"))
    if not globals_.quiet:
        show_warnings(report.warnings)


def report_to_json(report: MoveReport) -> dict[str, Any]:
    """The document of any of the three."""
    return {
        "schema": f"hostagent.{report.operation}/1",
        "changed": report.changed,
        "warnings": list(report.warnings),
        "run": report.run,
        "host": {"name": report.host, "uuid": report.host_uuid},
        "result": report.result,
        "reason": report.reason,
        "signal": report.signal,
        "guests": [_guest(guest) for guest in report.guests],
    }


def _guest(guest: GuestMove) -> dict[str, Any]:
    clock = guest.clock
    return {
        "name": guest.name,
        "uuid": guest.uuid,
        "result": guest.result,
        "reason": guest.reason,
        "method": guest.method,
        "from": guest.source,
        "to": guest.destination,
        "total_s": guest.total_s,
        "downtime_s": guest.downtime_s,
        "downtime_source": guest.downtime_source,
        "clock": None if clock is None else asdict(clock),
    }


_HEAD = ["GUEST", "RESULT", "HOW", "TO", "TOTAL", "DOWNTIME", "SOURCE", "CLOCK NOW", "REASON"]


def _row(guest: GuestMove) -> list[str]:
    return [
        guest.name,
        guest.result,
        guest.method or "-",
        guest.destination or "-" if guest.result == "moved" else "-",
        seconds(guest.total_s),
        milliseconds(guest.downtime_s),
        guest.downtime_source or "-",
        offset(guest.clock.offset_after_s) if guest.clock is not None else "-",
        guest.reason,
    ]
