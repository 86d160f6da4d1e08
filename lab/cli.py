"""The lab's command line: lab/lab up | status | exec | replace-libvirtd | down | probe.

Layer: lab, the topmost. Invariants: exit status 0 done, 1 the lab did not do it, 2 usage, 4 this
machine can't; `exec` ends with the command's own status. Progress goes to stderr, results to
stdout, so that both can be used in a pipe.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

import click

from lab.errors import CannotRun, LabError
from lab.guests import Guest
from lab.host import Host
from lab.lab import Lab
from lab.probe import abilities, reasons_against
from lab.state import DEFAULT_NAME, LabDirectory, Tier
from lab.update_libvirtd import replace

P = ParamSpec("P")
R = TypeVar("R")

EXIT_FAILED = 1
EXIT_CANNOT = 4

name_option = click.option(
    "--name",
    envvar="HALAB_NAME",
    default=DEFAULT_NAME,
    show_default=True,
    help="Which lab; labs of different names stand side by side.",
)


def _reports_errors(function: Callable[P, R]) -> Callable[P, R]:
    """The lab's own errors become one line and an exit status."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except CannotRun as error:
            _fail(str(error), EXIT_CANNOT)
        except (LabError, TimeoutError) as error:
            _fail(str(error), EXIT_FAILED)

    return wrapper


def _fail(text: str, status: int) -> NoReturn:
    click.echo(f"lab: {text}", err=True)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Real libvirt hosts with real guests on this machine, for tests, demo and benchmarks."""


@main.command()
@name_option
@click.option("--tier", type=click.Choice([str(tier) for tier in Tier]), default=str(Tier.LIGHT))
@click.option("--hosts", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--guests", type=click.IntRange(min=0), default=4, show_default=True, help="Guests per host."
)
@_reports_errors
def up(name: str, tier: str, hosts: int, guests: int) -> None:
    """Make a lab. It stays until `down`."""
    signal.signal(signal.SIGTERM, _interrupted)
    began = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - began:5.1f} s  {text}", err=True)

    lab = Lab.up(name, tier, hosts, guests, stays=True, say=say)
    say("up")
    for host in lab.hosts:
        click.echo(f"{host.name}  {host.uri}")


def _interrupted(_number: int, _frame: object) -> NoReturn:
    """SIGTERM ends `up` like Ctrl-C: what it made is taken away."""
    raise KeyboardInterrupt


@main.command()
@name_option
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@_reports_errors
def status(name: str, output: str) -> None:
    """Show hosts and guests, as they are now."""
    lab = Lab.attach(name)
    rows = [_guest_row(host, guest) for host in lab.hosts for guest in host.guests]
    if output == "json":
        hosts = [_host_row(host) for host in lab.hosts]
        document = {"name": name, "tier": lab.state.tier, "hosts": hosts, "guests": rows}
        click.echo(json.dumps(document, indent=2))
        return
    for host in lab.hosts:
        row = _host_row(host)
        click.echo(f"host {host.name}  libvirtd {row['libvirtd'] or 'dead'}  {row['uri']}")
    _table(rows)


def _host_row(host: Host) -> dict[str, object]:
    process = host.libvirtd()
    try:
        uri = host.uri
    except LabError:
        uri = "switched off"
    return {"host": host.name, "uri": uri, "libvirtd": process.pid if process else None}


def _guest_row(host: Host, guest: Guest) -> dict[str, object]:
    """A line of `status`; asked of QEMU itself, so it works with a dead libvirtd as well."""
    process = guest.qemu()
    counter = guest.counter()
    return {
        "host": host.name,
        "guest": guest.name,
        "sort": str(guest.sort),
        "state": "frozen" if guest.frozen() else guest.status(),
        "qemu": process.pid if process else None,
        "counted": counter.number if counter else None,
    }


def _table(rows: list[dict[str, object]]) -> None:
    """Aligned columns; an absent value is a dash."""
    if not rows:
        return
    lines = [list(rows[0]), *[["-" if v is None else str(v) for v in row.values()] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        padded = (word.ljust(width) for word, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


@main.command(name="exec", context_settings={"ignore_unknown_options": True})
@name_option
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_reports_errors
def execute(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on HOST, with its user and environment: exec h1 -- virsh list."""
    target = Lab.attach(name).host(host)
    done = subprocess.run(target.command(command), env=target.env | _terminal(), check=False)
    sys.exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


def _terminal() -> dict[str, str]:
    return {name: os.environ[name] for name in ("TERM", "NO_COLOR") if name in os.environ}


@main.command(name="replace-libvirtd")
@name_option
@click.argument("host")
@_reports_errors
def replace_libvirtd(name: str, host: str) -> None:
    """Give HOST a fresh copy of libvirtd and restart it: a real update of some seconds."""
    replace(Lab.attach(name).host(host))


@main.command()
@name_option
@_reports_errors
def down(name: str) -> None:
    """Take a lab away with all that it made, also after a killed `up`."""
    directory = LabDirectory(name)
    if directory.read() is None:
        click.echo(f"there is no lab {name}")
        return
    for line in [*Lab.remove(name), f"lab {name} is gone"]:
        click.echo(line)


@main.command()
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
@_reports_errors
def probe(output: str) -> None:
    """Show what this machine can and cannot do, and why."""
    listed = abilities()
    rows: list[dict[str, object]] = [
        {
            "what": ability.what,
            "can": "can" if ability.can else "cannot",
            "for": "+".join(sorted(ability.tiers)) or "-",
            "why": ability.why,
        }
        for ability in listed
    ]
    tiers = {str(tier): reasons_against(tier) for tier in Tier}
    if output == "json":
        click.echo(json.dumps({"abilities": rows, "reasons_against": tiers}, indent=2))
        return
    _table(rows)
    for tier, reasons in tiers.items():
        click.echo(f"{tier} tier: {'can' if not reasons else 'cannot: ' + '; '.join(reasons)}")
