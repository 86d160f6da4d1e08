"""`make demo`: the main job on real guests, from nothing, with an independent witness.

Layer: lab, a program of its own. Builds a host with guests of different sorts, runs `hostagent run`
around a real update as a person would, and prints hostagent's table beside what a second QMP
monitor of the lab saw. Light tier: the host's libvirtd is replaced and restarted. Full tier (as
root): packages are upgraded inside the host, by the hostagent there. The report goes to
build/demo/report.json. Everything is taken away at the end, also after Ctrl-C.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from lab.errors import LabError
from lab.full import FullHost
from lab.guests import ClockReading, GuestSort, GuestSpec
from lab.host import Host
from lab.lab import Lab
from lab.state import Tier
from lab.update_packages import prepare
from lab.witness import Witness

NAME = "demo"
SORTS = (
    GuestSort.AGENT,
    GuestSort.DISK,
    GuestSort.PLAIN,
    GuestSort.NO_HWCLOCK,
    GuestSort.BUSY,
)
REPORT = Path("build/demo/report.json")
AGREE_S = 0.002
"""How far hostagent's figure may be from the witness's."""
RIGHT_S = 0.003
"""How far a clock that hostagent calls right may be off, by the lab's reading from inside."""
COARSE_S = 0.03
"""The same for a clock that only the guest's `date` could set, to a whole second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """How hostagent is called on a host, and what it is to carry out.

    `shown` and `shown_update` are what a person would type."""

    host: Host
    hostagent: list[str]
    update: list[str]
    shown: str
    shown_update: str
    env: dict[str, str] | None = None


@click.command()
@click.option("--tier", type=click.Choice([str(tier) for tier in Tier]), default=str(Tier.LIGHT))
def main(tier: str) -> None:
    """Pause real guests around a real update, and show what it did to them."""
    try:
        specs = [GuestSpec(sort=sort) for sort in SORTS]
        with Lab.up(NAME, tier, 1, specs, say=_say) as lab:
            host = lab.hosts[0]
            _demonstrate(_inside(host) if isinstance(host, FullHost) else _outside(host))
    except LabError as error:
        raise click.ClickException(str(error)) from error


def _outside(host: Host) -> Scene:
    """The light tier: hostagent of this machine, and the host's libvirtd replaced."""
    state_dir = str(REPORT.parent / "state")
    program = str(Path(sys.executable).with_name("hostagent"))
    return Scene(
        host=host,
        hostagent=[program, "-c", host.uri, "--state-dir", state_dir],
        update=[sys.executable, "-m", "lab.update_libvirtd", NAME, host.name],
        shown=f"hostagent -c {host.uri}",
        shown_update="python -m lab.update_libvirtd",
    )


def _inside(host: FullHost) -> Scene:
    """The full tier: hostagent inside the host, and Debian's packages upgraded there."""
    _say("packages: stepping back to the older QEMU, so that there is something to upgrade")
    update = prepare(host)
    return Scene(
        host=host,
        hostagent=host.command(["hostagent"]),
        update=update,
        shown="hostagent",
        shown_update=" ".join(Path(word).name for word in update),
        env=host.env,
    )


def _demonstrate(scene: Scene) -> None:
    host, base = scene.host, scene.hostagent
    witnesses = [Witness(guest) for guest in host.guests]
    click.echo(f"\n$ {scene.shown} status\n{_run([*base, 'status'], scene.env)}")
    run = [*base, "-o", "json", "run", "--budget", "30s", "--", *scene.update]
    document = json.loads(_run(run, scene.env))
    readings = {guest.name: guest.clock() for guest in host.guests}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(document, indent=2) + "\n")
    click.echo(f"\n$ {scene.shown} run --budget 30s -- {scene.shown_update}\n")
    agreed = _compare(document, host, witnesses)
    agreed &= _compare_clocks(document, readings)
    for witness in witnesses:
        witness.close()
    click.echo(f"\nThe whole report: {REPORT}")
    if document["result"] != "done" or not agreed:
        raise click.ClickException(f"the run ended {document['result']}: {document['reason']}")


def _compare(document: dict[str, Any], host: Host, witnesses: Sequence[Witness]) -> bool:
    """hostagent's figures beside the witness's, and whether they agree."""
    rows, agreed = [], True
    seen = {guest.name: witness for guest, witness in zip(host.guests, witnesses, strict=True)}
    sorts = {guest.name: str(guest.sort) for guest in host.guests}
    for guest in document["guests"]:
        witness = seen[guest["name"]]
        lengths = [pause.duration_ns for pause in witness.pauses()]
        length_s = sum(value for value in lengths if value is not None) / 1e9
        agreed &= abs((guest["pause_s"] or 0) - length_s) <= AGREE_S
        rows.append(
            f"{guest['name']:6} {sorts[guest['name']]:12} {guest['result']:8} "
            f"{_s(guest['pause_s']):>10} {_s(guest['pause_uncertainty_s']):>9} "
            f"{_s(guest['pause_guest_clock_s']):>14} {length_s:>10.4f} s  {witness.status()}"
        )
    click.echo(
        f"{'GUEST':6} {'SORT':12} {'RESULT':8} {'PAUSE':>10} {'+/-':>9} "
        f"{'CLOCK BEHIND':>14} {'WITNESS':>12}  NOW"
    )
    click.echo("\n".join(rows))
    update = document["update"]
    click.echo(
        f"\n{document['result']}: the update took {update['duration_s']:.3f} s and ended with "
        f"exit {update['exit_code']}."
    )
    return agreed


def _compare_clocks(document: dict[str, Any], readings: Mapping[str, ClockReading]) -> bool:
    """hostagent's word on each clock beside a reading from inside, and whether they agree."""
    rows, agreed = [], True
    for guest in document["guests"]:
        clock, reading = guest["clock"], readings[guest["name"]]
        inside_s, doubt_s = reading.guest_minus_host_ns / 1e9, reading.uncertainty_ns / 1e9
        most_s = RIGHT_S if clock["method"] == "agent" else COARSE_S
        agreed &= not clock["synced"] or abs(inside_s) - doubt_s <= most_s
        word = {True: "right", False: "unsynced", None: "-"}[clock["synced"]]
        rows.append(
            f"{guest['name']:6} {_ms(clock['offset_before_s']):>12} "
            f"{_ms(clock['offset_resumed_s']):>12} {_ms(clock['offset_after_s']):>11} "
            f"{_ms(clock['uncertainty_s']):>9} {_ms(inside_s):>13} {_ms(doubt_s):>9}  "
            f"{clock['method'] or '-':12} {word}"
        )
    click.echo(
        f"\nClocks, guest minus host:\n{'GUEST':6} {'BEFORE':>12} {'RESUMED':>12} "
        f"{'NOW':>11} {'+/-':>9} {'READ INSIDE':>13} {'+/-':>9}  {'SET BY':12} CLOCK"
    )
    click.echo("\n".join(rows))
    return agreed


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.2f} ms"


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f} s"


def _run(command: Sequence[str], env: dict[str, str] | None) -> str:
    """Run it with its own output on the terminal; what it prints on stdout is the result."""
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        raise click.ClickException(f"{command[0]} ended with exit {done.returncode}")
    return done.stdout


def _say(text: str) -> None:
    click.echo(f"lab: {text}", err=True)


if __name__ == "__main__":
    main()
