"""How long it takes to empty a host, and how long guests stand still: hostagent beside `virsh`.

Layer: bench; `make bench`, or `python -m bench.drain [--rounds N] [--guests N]`. In each round, on
the same guests, one after the other, from one light host to another on this machine:

    hostagent   hostagent host drain --yes
    one by one  virsh migrate --live --p2p for each guest in turn: what a person writes
    all at once the same for all guests at the same time

Afterwards all come back, which is not measured. A round's figures are the time of the whole command
and the guests' downtimes as the lab's witnesses saw them (QEMU's own STOP at the source and RESUME
at the destination). Shown are medians over the rounds, and ratios. Nothing is asserted: a timed
test would lie on a busy machine.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.quiet import spread, wait_for_quiet
from lab import Guest, GuestSpec, Lab, MoveWitness
from lab.host import Host
from lab.processes import wait_until

STATE = Path("build/bench/state").absolute()
LIMIT_S = 300


@dataclass
class Figures:
    """A value a round."""

    total_s: list[float] = field(default_factory=list)
    median_ms: list[float] = field(default_factory=list)
    worst_ms: list[float] = field(default_factory=list)


Way = Callable[[Host, Host, Sequence[Guest]], None]
"""Moves these guests from the first host to the second."""


def by_hostagent(source: Host, destination: Host, _guests: Sequence[Guest]) -> None:
    """As a person runs it."""
    words = [str(Path(sys.executable).with_name("hostagent")), "-c", source.uri]
    words += ["--state-dir", str(STATE), "host", "drain", "--to", destination.uri, "--yes"]
    subprocess.run(words, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)


def one_by_one(source: Host, destination: Host, guests: Sequence[Guest]) -> None:
    """The loop that a person writes."""
    for guest in guests:
        _wait(_migrate(source, destination, guest))


def all_at_once(source: Host, destination: Host, guests: Sequence[Guest]) -> None:
    """The same with an ampersand."""
    for process in [_migrate(source, destination, guest) for guest in guests]:
        _wait(process)


WAYS: dict[str, Way] = {
    "hostagent": by_hostagent,
    "one by one": one_by_one,
    "all at once": all_at_once,
}


def _migrate(source: Host, destination: Host, guest: Guest) -> "subprocess.Popen[bytes]":
    how = ["--live", "--p2p", "--persistent", "--undefinesource"]
    stream = f"unix://{destination.move_directory}/{guest.name}.sock"
    words = ["virsh", "-q", "-c", source.uri, "migrate", *how, guest.name]
    return subprocess.Popen([*words, destination.move_uri, stream], stderr=subprocess.PIPE)


def _wait(process: "subprocess.Popen[bytes]") -> None:
    _, said = process.communicate(timeout=LIMIT_S)
    if process.returncode:
        raise click.ClickException(said.decode())


def _downtimes_ms(witnesses: Sequence[MoveWitness]) -> list[float]:
    found = []
    for witness in witnesses:
        wait_until(lambda seen=witness: _is_over(seen), 10, "the end of a downtime")
        duration_ns = witness.pauses()[0].duration_ns
        assert duration_ns is not None
        found.append(duration_ns / 1e6)
    return found


def _is_over(witness: MoveWitness) -> bool:
    pauses = witness.pauses()
    return bool(pauses) and pauses[0].resume is not None


def measure(lab: Lab, rounds: int) -> dict[str, Figures]:
    """All ways, interleaved."""
    source, destination = lab.hosts
    guests = source.guests
    figures = {name: Figures() for name in WAYS}
    for number in range(rounds):
        for name, way in WAYS.items():
            with ExitStack() as stack:
                witnesses = [stack.enter_context(MoveWitness(guest)) for guest in guests]
                began_s = time.monotonic()
                way(source, destination, guests)
                figures[name].total_s.append(time.monotonic() - began_s)
                downtimes = _downtimes_ms(witnesses)
            figures[name].median_ms.append(statistics.median(downtimes))
            figures[name].worst_ms.append(max(downtimes))
            one_by_one(destination, source, guests)
            for guest in guests:
                guest.wait_agent()
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return figures


def show(count: int, figures: dict[str, Figures]) -> None:
    """One table, and the ratios."""
    print(f"\n{count} idle guests; seconds in all, and downtimes in ms: median (range)")
    print(f"{'':12} {'total, s':32} {'median downtime':34} worst downtime")
    for name, found in figures.items():
        total = spread(found.total_s)
        print(f"{name:12} {total:32} {spread(found.median_ms):34} {spread(found.worst_ms)}")
    ours, loop = figures["hostagent"], figures["one by one"]
    faster = statistics.median(loop.total_s) / statistics.median(ours.total_s)
    longer = statistics.median(ours.worst_ms) / statistics.median(loop.worst_ms)
    print(f"one by one / hostagent, total: {faster:.2f}")
    print(f"hostagent / one by one, worst downtime: {longer:.2f}")


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--guests", "count", default=8, show_default=True)
def main(rounds: int, count: int) -> None:
    """Measure and print."""
    STATE.mkdir(parents=True, exist_ok=True)
    specs = [[GuestSpec()] * count, []]
    with Lab.up("bench", "light", 2, specs, say=lambda text: print(text, file=sys.stderr)) as lab:
        print(f"load before: {wait_for_quiet():.2f}")
        show(count, measure(lab, rounds))


if __name__ == "__main__":
    main()
