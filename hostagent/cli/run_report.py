"""How a run's plan and its report are printed.

Layer: cli. JSON is hostagent.run/1; field names are those of rules/report.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hostagent.cli import move_report
from hostagent.cli.globals import Globals
from hostagent.cli.messages import show_json, show_warnings
from hostagent.cli.tables import milliseconds, offset, plain, seconds, table
from hostagent.core.codec import plan_to_json
from hostagent.core.plan import Plan
from hostagent.rules.clock_outcome import ClockReport
from hostagent.rules.report import GuestReport, RunReport
from hostagent.rules.request import terms_of
from hostagent.rules.verdict import exit_words

if TYPE_CHECKING:
    from hostagent.wiring.spare import SparedRun


def show_plan(globals_: Globals, plan: Plan, away: Plan | None = None) -> None:
    """What a run would do; `away` is the plan of those that are moved to a spare host meanwhile."""
    if globals_.as_json:
        document = {"schema": "hostagent.run/1", "changed": False, "dry_run": True}
        spare = {} if away is None else {"spare": plan_to_json(away)}
        warnings = [*plan.warnings, *(away.warnings if away is not None else ())]
        show_json({**document, "warnings": warnings, "plan": plan_to_json(plan), **spare})
        return
    if away is not None:
        click.echo("First, away to the spare host (and back at the end):")
        move_report.show_plan(globals_, away, all_or_nothing=True)
        click.echo()
    terms = terms_of(plan)
    click.echo(f"Host {plan.host.name}: would run {plain(' '.join(terms.command))}")
    click.echo(f"with these guests paused, for at most {terms.budget_ns / 1e9:g} s:\n")
    rows = [
        [guest.name, "skip" if guest.skip else "pause", guest.skip or guest.job]
        for guest in plan.guests
    ]
    click.echo(table(["GUEST", "DO", "WHY"], rows))
    show_warnings(plan.warnings)


def show_report(globals_: Globals, report: RunReport) -> None:
    """What a run did."""
    if globals_.as_json:
        show_json(report_to_json(report))
        return
    if report.guests:
        click.echo(table(_HEAD, [_row(guest) for guest in report.guests]))
    click.echo(_sentence(report))
    if not globals_.quiet:
        show_warnings(report.warnings)


def show_spared(globals_: Globals, done: "SparedRun") -> None:
    """What a run did beside which guests were moved away and back."""
    moves = {"away": done.away, "back": done.back}
    if globals_.as_json:
        told = {
            name: None if move is None else move_report.report_to_json(move)
            for name, move in moves.items()
        }
        document = report_to_json(done.run)
        document["warnings"] = [*document["warnings"], *_not_back(done)]
        show_json({**document, "spare": told})
        return
    for name, move in moves.items():
        if move is not None:
            click.echo(f"{name}:")
            move_report.show_report(globals_, move)
    show_report(globals_, done.run)
    show_warnings(_not_back(done))


def _not_back(done: "SparedRun") -> tuple[str, ...]:
    if not done.not_back:
        return ()
    cure = "`hostagent host restore` brings home who is on the spare host"
    return (f"guests that made way did not come back: {done.not_back}; {cure}",)


def report_to_json(report: RunReport) -> dict[str, Any]:
    """hostagent.run/1."""
    return {"schema": "hostagent.run/1", **asdict(report)}


_HEAD = ["GUEST", "RESULT", "PAUSE", "+/-", "SOURCE", "CLOCK FELL BEHIND", "CLOCK NOW", "REASON"]


def _row(guest: GuestReport) -> list[str]:
    return [
        guest.name,
        guest.result,
        seconds(guest.pause_s),
        milliseconds(guest.pause_uncertainty_s),
        guest.pause_source or "-",
        seconds(guest.pause_guest_clock_s),
        _clock_now(guest.clock),
        guest.reason,
    ]


def _clock_now(clock: ClockReport) -> str:
    """Its offset after all that was done, and whether that counts as right."""
    if clock.offset_after_s is None:
        return "unsynced" if clock.synced is False else "-"
    shown = f"{offset(clock.offset_after_s)} +/-{offset(clock.uncertainty_s).lstrip('+')}"
    return shown if clock.synced is not False else f"{shown}, unsynced"


def _sentence(report: RunReport) -> str:
    update = report.update
    command = " ".join(update.command)
    parts = [f"{report.result}: {command}"]
    if update.exit_code is not None:
        parts.append(exit_words(update.exit_code))
    if update.duration_s is not None:
        parts.append(f"took {update.duration_s:.3f} s")
    if report.reason:
        parts.append(report.reason)
    return plain(", ".join(parts))
