"""`hostagent clock`: how right guests' clocks are, and setting them.

Layer: cli. `show` changes nothing and takes no lock; `sync` is a run with a journal. Units as
chronyc(1) writes them; an offset is guest minus host, so a guest that is late has a negative one.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from hostagent.cli import host_clock
from hostagent.cli.durations import Duration
from hostagent.cli.exits import exit_code
from hostagent.cli.globals import Globals
from hostagent.cli.messages import show_json, show_warnings
from hostagent.cli.progress import Progress
from hostagent.cli.tables import offset, plain, table
from hostagent.rules.clock_outcome import ClockReport
from hostagent.rules.clock_sync import ClockTerms, Forecast, GuestClock, forecast

if TYPE_CHECKING:
    from hostagent.adapters.host.facts import HostClock
    from hostagent.rules.clock_sync import ClockSyncReport

READ_LIMIT_NS = 5_000_000_000
"""An agent that hangs is given up by libvirt after 2 to 4 s."""
WAIT_NS = 60_000_000_000
"""A guest that is just booting has its agent within that."""


@click.group()
def clock() -> None:
    """Show how right guests' clocks are, and set them."""


@clock.command()
@click.argument("guests", nargs=-1, metavar="[GUEST]...")
@click.pass_obj
def show(globals_: Globals, guests: tuple[str, ...]) -> None:
    """Show the offset of each guest's clock from this host's, and how sure that is."""
    found = _look(globals_, guests, ClockTerms())
    if globals_.as_json:
        show_json(
            _document(found.host, changed=False, warnings=found.warnings, guests=found.guests)
        )
        return
    click.echo(f"Host {found.host.name}: clock {host_clock.words(found.host.clock)}\n")
    click.echo(table(_HEAD, [_row(each) for each in found.guests]))
    if not globals_.quiet:
        show_warnings(found.warnings)


@clock.command()
@click.argument("guests", nargs=-1, metavar="[GUEST]...")
@click.option(
    "--threshold",
    type=Duration(10**6),
    default="5ms",
    show_default=True,
    help="A clock that is off by less is left alone.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait for agents that are not connected, up to a minute: of guests that just boot, say.",
)
@click.option(
    "--force", is_flag=True, help="Also set clocks that are wrong on purpose to this host's time."
)
@click.option("--dry-run", is_flag=True, help="Show what would be set; set nothing.")
@click.pass_obj
def sync(
    globals_: Globals,
    guests: tuple[str, ...],
    threshold: int,
    wait: bool,
    force: bool,
    dry_run: bool,
) -> int:
    """Set the clocks of guests that are off, and prove it by reading them again.

    A clock that is wrong on purpose (libvirt's clock offset is absolute or variable, or it is half
    a day off) is left alone unless --force is given. File systems are never thawed.
    """
    terms = ClockTerms(threshold_ns=threshold, wait_ns=WAIT_NS if wait else 0, force=force)
    if dry_run:
        _show_forecast(globals_, _look(globals_, guests, terms))
        return 0
    from hostagent.wiring import Site

    site = Site(globals_.uri, globals_.state_dir)
    report = site.sync_clocks(guests, terms, say=Progress(quiet=globals_.quiet).say)
    show_report(globals_, report)
    return exit_code(report.result, report.signal)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    """The host whose time is the guests' measure."""

    name: str
    uuid: str
    clock: "HostClock"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a look at the clocks found."""

    host: _Host
    warnings: tuple[str, ...]
    forecasts: tuple[Forecast, ...]

    @property
    def guests(self) -> tuple[GuestClock, ...]:
        """The guests as a report has them."""
        return tuple(_seen(forecast) for forecast in self.forecasts)


def _look(globals_: Globals, selectors: tuple[str, ...], terms: ClockTerms) -> _Seen:
    """Read the clocks of these guests, and decide what would be done with each."""
    from hostagent.wiring import Site
    from hostagent.wiring.clocks import read_clocks

    plan = Site(globals_.uri, globals_.state_dir).clock_plan(selectors, terms)
    answers = read_clocks(plan.host.uri, [guest.uuid for guest in plan.chosen], READ_LIMIT_NS)
    return _Seen(
        host=_host(plan.host.name, plan.host.uuid),
        warnings=plan.warnings,
        forecasts=forecast(plan, answers),
    )


def _host(name: str, uuid: str) -> _Host:
    from hostagent.adapters.host.facts import read_clock

    return _Host(name=name, uuid=uuid, clock=read_clock())


def _seen(found: Forecast) -> GuestClock:
    """One guest whose clock was only read: its offset now is the one before and after."""
    reading = found.reading
    if reading is None:
        report = ClockReport(reason=found.why)
    else:
        offset_s = reading.offset_ns / 1e9
        report = ClockReport(
            synced=_SYNCED[found.do],
            offset_before_s=offset_s,
            offset_after_s=offset_s,
            uncertainty_s=reading.uncertainty_ns / 1e9,
            reason=found.why,
        )
    return GuestClock(name=found.guest.name, uuid=found.guest.uuid, clock=report)


_SYNCED = {"right": True, "set": False, "leave": None}
"""By what a sync would do: a clock that it would set is not right."""


def _show_forecast(globals_: Globals, found: _Seen) -> None:
    """What a sync would do."""
    if globals_.as_json:
        document = _document(
            found.host, changed=False, warnings=found.warnings, guests=found.guests
        )
        plan = [
            {"name": each.guest.name, "do": each.do, "why": each.why} for each in found.forecasts
        ]
        show_json({**document, "dry_run": True, "plan": plan})
        return
    rows = [[each.guest.name, each.do, *_row(_seen(each))[1:]] for each in found.forecasts]
    click.echo(table([_HEAD[0], "DO", *_HEAD[1:]], rows))
    if not globals_.quiet:
        show_warnings(found.warnings)


def show_report(globals_: Globals, report: "ClockSyncReport") -> None:
    """What a sync did."""
    if globals_.as_json:
        show_json(report_to_json(report))
        return
    rows = [
        [each.name, _WORDS[each.clock.synced], offset(each.clock.offset_before_s), *_row(each)[1:]]
        for each in report.guests
    ]
    click.echo(table([_HEAD[0], "RESULT", "BEFORE", "AFTER", *_HEAD[2:]], rows))
    click.echo(plain(f"{report.result}{': ' if report.reason else ''}{report.reason}"))
    if not globals_.quiet:
        show_warnings(report.warnings)


def report_to_json(report: "ClockSyncReport") -> dict[str, Any]:
    """hostagent.clock/1 of a sync."""
    document = _document(
        _host(report.host, report.host_uuid),
        changed=report.changed,
        warnings=report.warnings,
        guests=report.guests,
    )
    return {**document, "run": report.run, "result": report.result, "reason": report.reason}


_WORDS = {True: "right", False: "unsynced", None: "left"}
_HEAD = ["GUEST", "OFFSET", "+/-", "SOURCE", "REASON"]


def _row(guest: GuestClock) -> list[str]:
    clock = guest.clock
    source = clock.method or ("agent" if clock.offset_after_s is not None else "-")
    uncertainty = offset(clock.uncertainty_s).lstrip("+")
    return [guest.name, offset(clock.offset_after_s), uncertainty, source, clock.reason or "-"]


def _document(
    host: _Host, *, changed: bool, warnings: tuple[str, ...], guests: tuple[GuestClock, ...]
) -> dict[str, Any]:
    """hostagent.clock/1."""
    return {
        "schema": "hostagent.clock/1",
        "changed": changed,
        "warnings": list(warnings),
        "host": {
            "name": host.name,
            "uuid": host.uuid,
            "synchronised": host.clock.synchronised,
            "maximum_error_ms": host.clock.maximum_error_ms,
        },
        "guests": [asdict(guest) for guest in guests],
    }
