"""`hostagent host`: empty this host onto others, bring its guests home, and say that it takes none.

Layer: cli. A drain asks on a terminal and needs --yes without one; a restore does not.
"""

import sys
from typing import Any

import click

from hostagent.cli.exits import exit_code
from hostagent.cli.globals import Globals
from hostagent.cli.messages import show_json
from hostagent.cli.move_options import bandwidth, parallel
from hostagent.cli.move_report import show_plan, show_report
from hostagent.cli.progress import Progress
from hostagent.cli.tables import table
from hostagent.core.errors import UsageError
from hostagent.core.plan import Plan
from hostagent.rules.move_orders import Operation, moves_of
from hostagent.rules.move_request import MoveRequest


@click.group()
def host() -> None:
    """Empty this host, bring its guests home, and cordon it."""


@host.command()
@click.option(
    "--to", "destinations", multiple=True, metavar="URI", help="A host to move to; may be repeated."
)
@click.option("--all-or-nothing", is_flag=True, help="Refuse if one guest can't be moved.")
@click.option(
    "--delete-source-disks", is_flag=True, help="Delete disks that were copied, once they arrived."
)
@parallel
@bandwidth
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--dry-run", is_flag=True, help="Show what would be moved and how; do nothing.")
@click.pass_obj
def drain(globals_: Globals, /, **options: Any) -> int:  # noqa: ANN401 - click's own keywords
    """Move every guest of this host to others, the gentlest way that its owner allows.

    A guest that can't be moved stays as it is, and the others go. Afterwards the host is cordoned
    until `hostagent host restore` or `hostagent host uncordon`. The same command goes on with what
    an interrupted one left.

    \b
    Example:  hostagent host drain --to qemu+ssh://h2/system
    """
    from hostagent.wiring.moves import MoveSite

    if not options["destinations"]:
        raise UsageError("no destination", hint="name one or more with --to URI")
    site = MoveSite(globals_.uri, globals_.state_dir)
    request = MoveRequest(
        operation=Operation.DRAIN,
        parallel=options["parallel"],
        all_or_nothing=options["all_or_nothing"],
        delete_source_disks=options["delete_source_disks"],
        bandwidth_mib_s=options["bandwidth"],
    )
    if options["dry_run"]:
        plan = site.drain_plan(request, options["destinations"])
        return show_plan(globals_, plan, all_or_nothing=request.all_or_nothing)
    consent = None if options["yes"] else _ask
    say = Progress(quiet=globals_.quiet).say
    report = site.drain(request, options["destinations"], consent=consent, say=say)
    show_report(globals_, report)
    return exit_code(report.result, report.signal)


def _ask(plan: Plan) -> None:
    """Raises UsageError where nobody can be asked, and click.Abort for a no."""
    ladders = moves_of(plan.args).orders.values()
    leaving = sum(bool(rungs[0].destination) for rungs in ladders)
    ending = len(ladders) - leaving
    staying = len(plan.guests) - len(ladders)
    if not ladders:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"{leaving} guests would be moved away", hint="say --yes, or look with --dry-run first"
        )
    parts = [f"{ending} are saved or shut down here"] if ending else []
    parts += [f"{staying} can't be moved and stay"] if staying else []
    rest = f" ({'; '.join(parts)})" if parts else ""
    click.confirm(f"Move {leaving} guests away from {plan.host.name}{rest}?", abort=True, err=True)


@host.command()
@click.option("--home", default="", metavar="URI", help="This host as the others reach it.")
@click.option("--all-or-nothing", is_flag=True, help="Refuse if one guest can't be brought home.")
@parallel
@bandwidth
@click.option("--dry-run", is_flag=True, help="Show what would be brought home; do nothing.")
@click.pass_obj
def restore(globals_: Globals, /, **options: Any) -> int:  # noqa: ANN401 - click's own keywords
    """Bring home the guests that drains have moved away, and take the drain's cordon back."""
    from hostagent.wiring.moves import MoveSite

    site = MoveSite(globals_.uri, globals_.state_dir)
    request = MoveRequest(
        operation=Operation.RESTORE,
        parallel=options["parallel"],
        all_or_nothing=options["all_or_nothing"],
        bandwidth_mib_s=options["bandwidth"],
    )
    if options["dry_run"]:
        plan = site.restore_plan(request, options["home"])
        return show_plan(globals_, plan, all_or_nothing=request.all_or_nothing)
    say = Progress(quiet=globals_.quiet).say
    report = site.restore(request, options["home"], say=say)
    show_report(globals_, report)
    return exit_code(report.result, report.signal)


@host.command()
@click.option("--reason", default="by hand", show_default=True, help="Shown in `status`.")
@click.option("--dry-run", is_flag=True, help="Show what would change; do nothing.")
@click.pass_obj
def cordon(globals_: Globals, reason: str, dry_run: bool) -> int:
    """Say that this host takes no new guests."""
    from hostagent.wiring.moves import MoveSite

    changed = MoveSite(globals_.uri, globals_.state_dir).cordon(reason, dry_run=dry_run)
    return _say_cordon(globals_, changed, dry_run=dry_run, word="cordoned")


@host.command()
@click.option("--dry-run", is_flag=True, help="Show what would change; do nothing.")
@click.pass_obj
def uncordon(globals_: Globals, dry_run: bool) -> int:
    """Take this host's cordons back, also that of a drain."""
    from hostagent.wiring.moves import MoveSite

    changed = MoveSite(globals_.uri, globals_.state_dir).uncordon(dry_run=dry_run)
    return _say_cordon(globals_, changed, dry_run=dry_run, word="not cordoned")


def _say_cordon(globals_: Globals, changed: bool, *, dry_run: bool, word: str) -> int:
    if globals_.as_json:
        head = {"schema": "hostagent.cordon/1", "changed": changed and not dry_run, "warnings": []}
        show_json({**head, "dry_run": dry_run, "cordoned": word == "cordoned"})
    elif dry_run:
        click.echo(f"would be {word}" if changed else f"is {word} already")
    else:
        click.echo(f"{word}" if changed else f"is {word} already")
    return 0


@host.command()
@click.option(
    "--forget", multiple=True, metavar="GUEST", help="Await this one no more; may be repeated."
)
@click.option("--dry-run", is_flag=True, help="Show what would be forgotten; do nothing.")
@click.pass_obj
def away(globals_: Globals, forget: tuple[str, ...], dry_run: bool) -> int:
    """List the guests of this host that drains have moved away, and where they are."""
    from hostagent.wiring.moves import MoveSite

    site = MoveSite(globals_.uri, globals_.state_dir)
    if forget:
        shown, changed = site.forget(forget, dry_run=dry_run), not dry_run
    else:
        shown, changed = site.notes().away, False
    if globals_.as_json:
        guests = [{"name": each.name, "uuid": each.uuid, "at": each.uri} for each in shown]
        head = {"schema": "hostagent.away/1", "changed": changed, "warnings": []}
        show_json({**head, "forgotten": bool(forget), "guests": guests})
        return 0
    click.echo(table(["GUEST", "AT"], [[each.name, each.uri] for each in shown]))
    if forget:
        click.echo("would be forgotten" if dry_run else "forgotten")
    return 0
