"""`hostagent recover`: finish what a run that died had begun, and nothing else.

Layer: cli. Works while libvirtd is dead: journal and lock say all that is needed.
"""

from typing import Any

import click

from hostagent.cli import clock, move_report, run_report
from hostagent.cli.exits import EXIT_CODES
from hostagent.cli.globals import Globals
from hostagent.cli.messages import show_json
from hostagent.cli.progress import Progress
from hostagent.cli.tables import plain
from hostagent.core.plan import Ending
from hostagent.rules.clock_sync import ClockSyncReport
from hostagent.rules.move_report import MoveReport
from hostagent.rules.report import RunReport

Report = RunReport | ClockSyncReport | MoveReport


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what is unfinished; do nothing.")
@click.pass_obj
def recover(globals_: Globals, dry_run: bool) -> int:
    """Finish runs that died, and say how each ended: guests that they paused are resumed, and of
    guests that were on their way to another host it is found out where they are.

    Every command that changes something does this first by itself.
    """
    from hostagent.wiring import Site

    site = Site(globals_.uri, globals_.state_dir)
    if dry_run:
        _show_unfinished(globals_, [left.sentence for left in site.unfinished()])
        return 0
    reports = site.recover(say=Progress(quiet=globals_.quiet).say)
    if globals_.as_json:
        runs = [_to_json(report) for report in reports]
        head = {"schema": "hostagent.recover/1", "changed": bool(runs), "warnings": []}
        show_json({**head, "runs": runs})
    else:
        for report in reports:
            click.echo(f"Run {report.run}:")
            _show(globals_, report)
        if not reports:
            click.echo("Nothing to recover.")
    return _exit_code([Ending(report.result) for report in reports])


def _show(globals_: Globals, report: Report) -> None:
    match report:
        case RunReport():
            run_report.show_report(globals_, report)
        case ClockSyncReport():
            clock.show_report(globals_, report)
        case MoveReport():
            move_report.show_report(globals_, report)


def _to_json(report: Report) -> dict[str, Any]:
    match report:
        case RunReport():
            return run_report.report_to_json(report)
        case ClockSyncReport():
            return clock.report_to_json(report)
        case MoveReport():
            return move_report.report_to_json(report)


def _exit_code(endings: list[Ending]) -> int:
    """An interrupted run that was brought back is a recovery that is done."""
    for bad in (Ending.AMBIGUOUS, Ending.RESUME_FAILED):
        if bad in endings:
            return EXIT_CODES[bad]
    return 0


def _show_unfinished(globals_: Globals, sentences: list[str]) -> None:
    if globals_.as_json:
        head = {"schema": "hostagent.recover/1", "changed": False, "dry_run": True, "warnings": []}
        show_json({**head, "unfinished": sentences})
        return
    for sentence in sentences:
        click.echo(plain(sentence))
    if not sentences:
        click.echo("Nothing to recover.")
