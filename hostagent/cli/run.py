"""`hostagent run`: pause guests, run a command, resume them, report each pause.

Layer: cli. Needs no daemon and no configuration. Its twin is rules/inplace.
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostagent.cli.durations import Duration
from hostagent.cli.exits import EXIT_CODES, exit_code
from hostagent.cli.globals import Globals
from hostagent.cli.progress import Progress
from hostagent.cli.run_report import show_plan, show_report, show_spared
from hostagent.core.errors import RefusedError, UsageError
from hostagent.core.plan import Ending
from hostagent.rules.request import Request, Terms

if TYPE_CHECKING:
    from hostagent.wiring import Site


@click.command()
@click.option(
    "--guest",
    "guests",
    multiple=True,
    metavar="NAME",
    help="A guest by name, UUID or ID; may be repeated. [default: all that run]",
)
@click.option(
    "--budget",
    type=Duration(10**9),
    default="30s",
    show_default=True,
    help="The longest pause allowed; then guests resume whatever CMD does.",
)
@click.option(
    "--suspend-limit",
    type=Duration(10**8),
    default="2s",
    show_default=True,
    help="How long stopping a guest may take.",
)
@click.option(
    "--allow-unpaused", is_flag=True, help="Go on when a guest can't be stopped, and list it."
)
@click.option(
    "--kill-after",
    type=Duration(),
    default=None,
    metavar="DURATION",
    help="End CMD when it runs this much longer than its deadline.",
)
@click.option(
    "--ignore-running",
    is_flag=True,
    help="Go on although the command of an earlier run still lives.",
)
@click.option("--force", is_flag=True, help="Pause guests whatever their owners' policies say.")
@click.option(
    "--spare",
    default="",
    metavar="URI",
    help="A host to which guests that can't stand a pause (on-pause=migrate) are moved meanwhile.",
)
@click.option(
    "--agent-wait",
    type=Duration(0),
    default="6s",
    show_default=True,
    help="How long to wait, after the pause, for an agent that is away, to set its guest's clock.",
)
@click.option("--prepare", default="", metavar="CMD", help="Run before, while guests run.")
@click.option(
    "--verify",
    default="",
    metavar="CMD",
    help="Run after a successful CMD, while guests run; fails the run if it fails.",
)
@click.option(
    "--rollback",
    default="",
    metavar="CMD",
    help="Run after a failed CMD or verify, while guests run.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done; do nothing.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
@click.pass_obj
def run(globals_: Globals, /, **options: Any) -> int:  # noqa: ANN401 - click's own keywords
    """Pause guests, run CMD, resume the guests, and report how long each stood still.

    Nothing is left paused: if this command dies, a guardian process resumes the guests. The CMDs
    of --prepare, --verify and --rollback are split into words like a shell does, but no shell runs
    them.

    \b
    Example:  hostagent run --budget 20s -- apt-get install --only-upgrade -y qemu-system-x86
    """
    request = _request(options)
    progress = Progress(quiet=globals_.quiet)
    # Imported late: libvirt and all that needs it cost more than parsing the command line.
    from hostagent.wiring import Site

    site = Site(globals_.uri, globals_.state_dir)
    if options["dry_run"]:
        return _show_plan(globals_, site, request, options["spare"])
    output = sys.stderr.fileno() if globals_.as_json else None
    if options["spare"]:
        return _run_with_spare(globals_, site, request, options["spare"], output, progress)
    report = site.run(request, output=output, say=progress.say)
    code = exit_code(report.result, report.signal)
    try:
        show_report(globals_, report)
    except OSError:  # the reader or the terminal has gone; what happened counts all the same
        return code or 1
    return code


def _show_plan(globals_: Globals, site: "Site", request: Request, spare: str) -> int:
    if not spare:
        show_plan(globals_, site.plan(request))
        return 0
    from hostagent.wiring.moves import MoveSite
    from hostagent.wiring.spare import plan_with_spare

    away, plan = plan_with_spare(site, MoveSite(globals_.uri, globals_.state_dir), request, spare)
    show_plan(globals_, plan, away)
    return 0


def _run_with_spare(
    globals_: Globals,
    site: "Site",
    request: Request,
    spare: str,
    output: int | None,
    progress: Progress,
) -> int:
    from hostagent.wiring.moves import MoveSite
    from hostagent.wiring.spare import run_with_spare

    moves = MoveSite(globals_.uri, globals_.state_dir)
    done = run_with_spare(site, moves, request, spare, output=output, say=progress.say)
    code = exit_code(done.run.result, done.run.signal)
    if done.back is not None and code == 0:
        code = exit_code(done.back.result, done.back.signal)
    if done.not_back:
        code = code or EXIT_CODES[Ending.PARTLY]
    try:
        show_spared(globals_, done)
    except OSError:
        return code or 1
    return code


def _request(options: dict[str, Any]) -> Request:
    terms = Terms(
        command=_executable("CMD", tuple(options["command"])),
        prepare=_words("--prepare", options["prepare"]),
        verify=_words("--verify", options["verify"]),
        rollback=_words("--rollback", options["rollback"]),
        budget_ns=options["budget"],
        suspend_limit_ns=options["suspend_limit"],
        kill_after_ns=options["kill_after"],
        agent_wait_ns=options["agent_wait"],
        allow_unpaused=options["allow_unpaused"],
        all_guests=not options["guests"],
    )
    if terms.suspend_limit_ns >= terms.budget_ns:
        raise UsageError(
            "--suspend-limit must be shorter than --budget",
            hint="the budget is the whole pause; most of it belongs to the update",
        )
    return Request(
        terms=terms,
        guests=tuple(options["guests"]),
        ignore_running=options["ignore_running"],
        force=options["force"],
    )


def _words(name: str, text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{name}: {error}", hint="quote it as for a shell") from error
    return _executable(name, words) if words else ()


def _executable(name: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what can't be started before anything is paused for it."""
    if shutil.which(words[0]) is not None:
        return words
    what = "is not executable" if Path(words[0]).exists() else "was not found"
    raise RefusedError(f"{name}: {words[0]!r} {what}", hint="give a program, or its whole path")
