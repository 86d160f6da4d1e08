"""How much longer guests stand still than the update takes: hostagent beside the ordinary tools.

Layer: bench; `make bench`, or `python -m bench.pause [--rounds N]`. In each round, one after the
other on the same guests:

    hostagent   hostagent run -- sleep 1
    loop        virsh suspend for each guest, sleep 1, virsh resume for each: what a person writes
    floor       QMP stop to monitors of its own, sleep 1, cont: no libvirt, no safety, no identity

A guest's figure is its pause as the lab's witness saw it less the duration of `sleep 1` in that
run; a round's figure is the median over the guests, and its worst guest. Shown are medians over the
rounds, and ratios. Nothing is asserted: a timed test would lie on a busy machine.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.quiet import spread, wait_for_quiet
from lab.guests import Guest, GuestSort, GuestSpec
from lab.host import Host
from lab.lab import Lab
from lab.qmp import Monitor
from lab.witness import Witness

COMMAND = ["sleep", "1"]
SIZES = (1, 19)


@dataclass
class Figures:
    """Milliseconds beyond the command, a value a round."""

    median_ms: list[float] = field(default_factory=list)
    worst_ms: list[float] = field(default_factory=list)


Way = Callable[[Host, Sequence[Guest]], float]
"""Pauses these guests around COMMAND and returns how long COMMAND took, in seconds."""


def by_hostagent(host: Host, guests: Sequence[Guest]) -> float:
    """As a person runs it."""
    state_dir = Path("build/bench/state").absolute()
    words = [str(Path(sys.executable).with_name("hostagent")), "-c", host.uri, "-o", "json"]
    words += ["--state-dir", str(state_dir), "run"]
    words += [word for guest in guests for word in ("--guest", guest.name)]
    done = subprocess.run([*words, "--", *COMMAND], stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout)["update"]["duration_s"])


def by_virsh_loop(host: Host, guests: Sequence[Guest]) -> float:
    """As a person would write it without hostagent."""
    for guest in guests:
        _virsh(host, "suspend", guest.name)
    took_s = _sleep()
    for guest in guests:
        _virsh(host, "resume", guest.name)
    return took_s


def by_qmp(_host: Host, guests: Sequence[Guest]) -> float:
    """The floor: commands written to all monitors at once, answers read afterwards."""
    monitors = [Monitor(guest.monitor_socket) for guest in guests]
    _broadcast(monitors, "stop")
    took_s = _sleep()
    _broadcast(monitors, "cont")
    for monitor in monitors:
        monitor.close()
    return took_s


WAYS: dict[str, Way] = {"hostagent": by_hostagent, "loop": by_virsh_loop, "floor": by_qmp}


def _virsh(host: Host, word: str, name: str) -> None:
    subprocess.run(["virsh", "-q", "-c", host.uri, word, name], check=True, capture_output=True)


def _sleep() -> float:
    began = time.monotonic()
    subprocess.run(COMMAND, check=True)
    return time.monotonic() - began


def _broadcast(monitors: Sequence[Monitor], command: str) -> None:
    for monitor in monitors:
        monitor.send(command, key=command)
    for monitor in monitors:
        while monitor.read(5).body.get("id") != command:
            pass


def _beyond_ms(host: Host, guests: Sequence[Guest], way: Way) -> list[float]:
    """One round of one way: each guest's pause beyond the command."""
    witnesses = [Witness(guest) for guest in guests]
    try:
        took_s = way(host, guests)
        for witness in witnesses:
            witness.wait_for("RESUME")
        pauses = [witness.pauses()[0].duration_ns for witness in witnesses]
    finally:
        for witness in witnesses:
            witness.close()
    return [pause / 1e6 - took_s * 1e3 for pause in pauses if pause is not None]


def measure(host: Host, size: int, rounds: int) -> dict[str, Figures]:
    """All ways on the first `size` guests, interleaved."""
    guests = host.guests[:size]
    figures = {name: Figures() for name in WAYS}
    for number in range(rounds):
        for name, way in WAYS.items():
            beyond = _beyond_ms(host, guests, way)
            figures[name].median_ms.append(statistics.median(beyond))
            figures[name].worst_ms.append(max(beyond))
        print(f"{size} guests: round {number + 1} of {rounds}", file=sys.stderr)
    return figures


def show(size: int, rounds: int, figures: dict[str, Figures]) -> None:
    """One table."""
    print(f"\n{size} idle guest(s), {rounds} rounds: pause beyond the command, ms")
    print(f"{'':10} {'median guest, median (range)':34} worst guest, median (range)")
    for name, found in figures.items():
        print(f"{name:10} {spread(found.median_ms):34} {spread(found.worst_ms)}")
    ours = statistics.median(figures["hostagent"].median_ms)
    loop = statistics.median(figures["loop"].median_ms)
    floor = statistics.median(figures["floor"].median_ms)
    print(f"loop / hostagent: {loop / ours:.1f}    hostagent / floor: {ours / floor:.1f}")


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--guests", "sizes", multiple=True, type=int, help="[default: 1 and 19]")
def main(rounds: int, sizes: tuple[int, ...]) -> None:
    """Measure, beside virsh and QMP."""
    chosen = sizes or SIZES
    specs = [GuestSpec(sort=GuestSort.AGENT) for _ in range(max(chosen))]
    with Lab.up("bench", "light", 1, specs, say=lambda text: print(text, file=sys.stderr)) as lab:
        print(
            f"load before: {wait_for_quiet():.2f} (1 minute), accelerator {lab.state.accelerator}"
        )
        for size in chosen:
            show(size, rounds, measure(lab.hosts[0], size, rounds))


if __name__ == "__main__":
    main()
