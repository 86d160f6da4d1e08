"""`hostagent guest migrate`: move one guest to another host.

Layer: cli. Its twin is rules/move_plan.
"""

from typing import Any

import click

from hostagent.cli.exits import exit_code
from hostagent.cli.globals import Globals
from hostagent.cli.move_options import bandwidth
from hostagent.cli.move_report import show_plan, show_report
from hostagent.cli.progress import Progress
from hostagent.core.move import Method
from hostagent.rules.move_orders import Operation
from hostagent.rules.move_request import MoveRequest

METHODS = (Method.LIVE, Method.COLD, Method.OFFLINE)


@click.command()
@click.argument("name")
@click.option("--to", "destination", required=True, metavar="URI", help="The host to move to.")
@click.option(
    "--method",
    type=click.Choice([str(method) for method in METHODS]),
    default=None,
    help="This one only. [default: the gentlest that its state and policy allow]",
)
@click.option(
    "--delete-source-disks", is_flag=True, help="Delete disks that were copied, once they arrived."
)
@bandwidth
@click.option("--dry-run", is_flag=True, help="Show what would be done and what stands in the way.")
@click.pass_obj
def migrate(globals_: Globals, /, **options: Any) -> int:  # noqa: ANN401 - click's own keywords
    """Move a guest, running or shut off, to another host, and set its clock there.

    It is checked first that it can run there. After any failure it is where it was.

    \b
    Example:  hostagent guest migrate web1 --to qemu+ssh://h2/system
    """
    from hostagent.wiring.moves import MoveSite

    site = MoveSite(globals_.uri, globals_.state_dir)
    method = options["method"]
    request = MoveRequest(
        operation=Operation.MIGRATE,
        method=Method(method) if method else None,
        delete_source_disks=options["delete_source_disks"],
        bandwidth_mib_s=options["bandwidth"],
    )
    selectors = (options["name"],)
    if options["dry_run"]:
        plan = site.migrate_plan(request, selectors, options["destination"])
        return show_plan(globals_, plan, all_or_nothing=request.all_or_nothing)
    say = Progress(quiet=globals_.quiet).say
    report = site.migrate(request, selectors, options["destination"], say=say)
    show_report(globals_, report)
    return exit_code(report.result, report.signal)
