"""The command line: a file a command, loaded only when it is asked for.

Layer: the top. `main` turns every ending into an exit status and a message that says what to do
next, and ends the process without waiting for threads: one of them may hang in a libvirt call.
"""

import importlib
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

from hostagent import __version__
from hostagent.cli.globals import Globals, OutputFormat
from hostagent.cli.messages import show_bug, show_error
from hostagent.core.errors import HostagentError, UsageError

COMMANDS = {
    "run": "Pause guests, run a command, resume them, and report each pause.",
    "status": "Show this host, its guests, and what a run left unfinished.",
    "clock": "Show how right guests' clocks are, and set them.",
    "guest": "Show guests with what their owners allow, set it, and move one.",
    "host": "Empty this host onto others, bring its guests home, and cordon it.",
    "recover": "Finish what a run that died had begun.",
}


class LazyGroup(click.Group):
    """Commands that are imported when they are used: `--help` must feel instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"hostagent.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hostagent")
@click.option(
    "-c",
    "--connect",
    "uri",
    metavar="URI",
    envvar="LIBVIRT_DEFAULT_URI",
    default="",
    help="The libvirt of this host. [default: $LIBVIRT_DEFAULT_URI, else as virsh]",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where journals are kept. [default: /var/lib/hostagent; for a user ~/.local/state]",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice([str(form) for form in OutputFormat]),
    default=str(OutputFormat.TABLE),
    show_default=True,
    help="Tables for people, or JSON.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress, no hints: the result only.")
@click.pass_context
def cli(ctx: click.Context, uri: str, state_dir: Path | None, output: str, quiet: bool) -> None:
    """Planned maintenance of KVM/libvirt hosts that guests hardly notice."""
    ctx.obj = Globals(uri=uri, state_dir=state_dir, output=OutputFormat(output), quiet=quiet)


def main() -> NoReturn:
    """The console script. Exit statuses are in docs/architecture.md."""
    _open_closed_streams()
    _print_any_name()
    code = _run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    os._exit(code)


def _open_closed_streams() -> None:
    """A caller may have closed a standard stream. Its number would go to the next connection to
    libvirt, and the command would inherit that as its output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def _print_any_name() -> None:
    """Names of commands and files may hold bytes that are no text; they are shown escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> int:
    as_json = _asks_for_json(arguments)
    try:
        result = cli.main(arguments, prog_name="hostagent", standalone_mode=False)
    except HostagentError as error:
        show_error(error, as_json)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        if as_json:
            show_error(UsageError(error.format_message(), hint="see --help"), as_json)
        else:
            error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        with suppress(OSError):  # a terminal that has gone
            show_bug(error, as_json)
        return 70
    return result if isinstance(result, int) else 0


def _asks_for_json(arguments: list[str]) -> bool:
    """Known before click has parsed anything, so that a usage error is JSON too where asked."""
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    words = " ".join(ours)
    return any(form in words for form in ("-o json", "-ojson", "--output json", "--output=json"))
