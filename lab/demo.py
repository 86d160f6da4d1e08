"""`make demo`: the main job on real guests, from nothing, with an independent witness.

Layer: lab, a program of its own. Builds a light-tier host with guests of different sorts, runs
`hostagent run` around a real update of the host's libvirtd as a person would, and prints
hostagent's table beside what a second QMP monitor of the lab saw. The report goes to
build/demo/report.json. Everything is taken away at the end, also after Ctrl-C.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lab.errors import LabError
from lab.guests import GuestSort, GuestSpec
from lab.host import Host
from lab.lab import Lab
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


@click.command()
def main() -> None:
    """Pause real guests around a real update, and show what it did to them."""
    try:
        specs = [GuestSpec(sort=sort) for sort in SORTS]
        with Lab.up(NAME, "light", 1, specs, say=_say) as lab:
            _demonstrate(lab.hosts[0])
    except LabError as error:
        raise click.ClickException(str(error)) from error


def _demonstrate(host: Host) -> None:
    witnesses = [Witness(guest) for guest in host.guests]
    state_dir = REPORT.parent / "state"
    base = [str(Path(sys.executable).with_name("hostagent")), "-c", host.uri]
    base += ["--state-dir", str(state_dir)]
    update = [sys.executable, "-m", "lab.update_libvirtd", NAME, host.name]

    _show([*base, "status"], _run([*base, "status"]))
    run = [*base, "-o", "json", "run", "--budget", "30s", "--", *update]
    document = json.loads(_run(run))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(document, indent=2) + "\n")
    click.echo(f"\n$ hostagent -c {host.uri} run --budget 30s -- python -m lab.update_libvirtd\n")
    agreed = _compare(document, host, witnesses)
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


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f} s"


def _run(command: Sequence[str]) -> str:
    """Run it with its own output on the terminal; what it prints on stdout is the result."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout:
        raise click.ClickException(f"{command[0]} ended with exit {done.returncode}")
    return done.stdout


def _show(command: Sequence[str], text: str) -> None:
    click.echo(f"\n$ hostagent {' '.join(command[1:])}\n{text}")


def _say(text: str) -> None:
    click.echo(f"lab: {text}", err=True)


if __name__ == "__main__":
    main()
