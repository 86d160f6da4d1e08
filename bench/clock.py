"""How right a guest's clock is after a pause: hostagent beside what people run today.

Layer: bench; `make bench`, or `python -m bench.clock [--rounds N]`. In each round, one after the
other on the same idle guests, each pause a second long:

    hostagent   hostagent run -- sleep 1
    sync        virsh suspend, resume, then virsh domtime --sync (the guest's RTC)
    now         the same with virsh domtime --now (whole seconds)
    one call    the same with one virDomainSetTime of the host's time in ns, uncompensated and never
                read back (what Nova, VDSM and KubeVirt do)

Then on many guests: how long it takes until all clocks are right; and how long for the good ones
when the agents of others fall silent in the pause, beside the same guests with all agents honest.

A figure is the guest's offset as the lab reads it afterwards, without any agent. For hostagent also
how it compares with the uncertainty that it stated, and how long after the last resume all clocks
were right, from its journal. Nothing is asserted: a timed test would lie on a busy machine.
"""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from bench.quiet import spread, wait_for_quiet
from lab.guests import Guest, GuestSort, GuestSpec
from lab.host import Host
from lab.lab import Lab
from lab.processes import wait_until
from lab.scripted_agent import EVERY, ScriptedAgent, silent

MANY = 19
HOSTILE = 10
"""Of those, in the last measurement."""
STATE = Path("build/bench/state").absolute()


@dataclass
class Figures:
    """Offsets, a value a pause and guest; for hostagent with what it said itself."""

    off_ms: list[float] = field(default_factory=list)
    stated_ms: list[float] = field(default_factory=list)
    reading_ms: list[float] = field(default_factory=list)


Way = Callable[[Host, Sequence[Guest]], dict[str, Any]]
"""Pauses these guests for a second and puts their clocks right; hostagent's report, if any."""


def by_hostagent(host: Host, guests: Sequence[Guest]) -> dict[str, Any]:
    """As a person runs it."""
    words = [str(Path(sys.executable).with_name("hostagent")), "-c", host.uri, "-o", "json"]
    words += ["--state-dir", str(STATE), "run"]
    words += [word for guest in guests for word in ("--guest", guest.name)]
    done = subprocess.run(
        [*words, "--", "sleep", "1"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode not in (0, 3):  # 3: a clock is not right, which is a figure, not a failure
        raise click.ClickException(done.stdout)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def by_domtime(flag: str) -> Way:
    """virsh suspend, resume and domtime, as a person would write it."""

    def way(host: Host, guests: Sequence[Guest]) -> dict[str, Any]:
        _pause(host, guests)
        for guest in guests:
            _virsh(host, "domtime", guest.name, flag)
        return {}

    return way


def by_one_call(host: Host, guests: Sequence[Guest]) -> dict[str, Any]:
    """The call that managers make: no compensation, no second look."""
    _pause(host, guests)
    for guest in guests:
        guest.call("time", _set_once)
    return {}


def _set_once(domain: Any) -> None:
    now_ns = time.time_ns()
    domain.setTime({"seconds": now_ns // 10**9, "nseconds": now_ns % 10**9})


WAYS: dict[str, Way] = {
    "hostagent": by_hostagent,
    "sync": by_domtime("--sync"),
    "now": by_domtime("--now"),
    "one call": by_one_call,
}


def _pause(host: Host, guests: Sequence[Guest]) -> None:
    for guest in guests:
        _virsh(host, "suspend", guest.name)
    time.sleep(1)
    for guest in guests:
        _virsh(host, "resume", guest.name)


def _virsh(host: Host, *words: str) -> None:
    subprocess.run(["virsh", "-q", "-c", host.uri, *words], check=True, capture_output=True)


def measure(host: Host, guests: Sequence[Guest], rounds: int) -> dict[str, Figures]:
    """All ways, interleaved."""
    figures = {name: Figures() for name in WAYS}
    for number in range(rounds):
        for name, way in WAYS.items():
            report = way(host, guests)
            stated = {each["name"]: each["clock"] for each in report.get("guests", ())}
            for guest in guests:
                reading = guest.clock()
                figures[name].off_ms.append(reading.guest_minus_host_ns / 1e6)
                figures[name].reading_ms.append(reading.uncertainty_ns / 1e6)
                if guest.name in stated:
                    figures[name].stated_ms.append(stated[guest.name]["uncertainty_s"] * 1e3)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return figures


def show(figures: dict[str, Figures]) -> None:
    """One table."""
    count = len(figures["hostagent"].off_ms)
    doubt = statistics.median(figures["hostagent"].reading_ms)
    print(f"\n{count} pauses of 1 s each way; the lab reads to +/- {doubt:.2f} ms (median)")
    print(f"{'':10} {'|offset| ms: median':>20} {'p99':>9} {'worst':>9}")
    for name, found in figures.items():
        sizes = sorted(abs(value) for value in found.off_ms)
        p99 = sizes[min(len(sizes) - 1, int(len(sizes) * 0.99))]
        print(f"{name:10} {statistics.median(sizes):20.3f} {p99:9.3f} {sizes[-1]:9.3f}")
    ours = figures["hostagent"]
    within = [
        abs(off) - doubt <= 2 * stated
        for off, stated, doubt in zip(ours.off_ms, ours.stated_ms, ours.reading_ms, strict=True)
    ]
    print(
        f"hostagent states +/- {statistics.median(ours.stated_ms):.3f} ms (median); within twice "
        f"that: {sum(within)} of {len(within)}"
    )


def right_after_ms(report: dict[str, Any]) -> float:
    """From the last resume's return to the moment when all clocks were right, by the journal."""
    outcomes = _outcomes(report)
    right_ns: int = outcomes["clocks"]["at"]["monotonic_ns"]
    return (right_ns - _last_back_ns(outcomes)) / 1e6


def _outcomes(report: dict[str, Any]) -> dict[str, Any]:
    """The outcomes in a run's journal, by the key of their step."""
    path = STATE / "runs" / f"{report['run']}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["is"]["key"]: row for row in rows if row["row"] == "outcome"}


def _last_back_ns(outcomes: dict[str, Any]) -> int:
    """When the last guest's resume had returned."""
    back = outcomes["resume"]["is"]["guests"].values()
    last_ns: int = max(guest["figures"]["returned_ns"] for guest in back)
    return last_ns


def measure_many(host: Host, rounds: int) -> None:
    """How long it takes for all of many guests."""
    took_ms, worst_ms = [], []
    for _ in range(rounds):
        report = by_hostagent(host, host.guests)
        took_ms.append(right_after_ms(report))
        worst_ms.append(max(abs(guest.clock().guest_minus_host_ns) / 1e6 for guest in host.guests))
    print(f"\n{len(host.guests)} idle guests, {rounds} rounds")
    print(f"clocks right after the last resume, ms: {spread(took_ms)}")
    print(f"worst |offset| of a round, ms: {spread(worst_ms)}")


def last_proven_ms(report: dict[str, Any], guests: Sequence[Guest]) -> float:
    """From the last resume's return until the last of these guests was proven right."""
    outcomes = _outcomes(report)
    proven_ns = max(_proven_ns(outcomes, guest.uuid) for guest in guests)
    return (proven_ns - _last_back_ns(outcomes)) / 1e6


def _proven_ns(outcomes: dict[str, Any], uuid: str) -> int:
    """When this guest was proven right after it was set: at the first try, else at the second."""
    for key in ("clocks", "clocks-again"):
        figures = outcomes[key]["is"]["guests"].get(uuid, {}).get("figures", {})
        if "proven_ns" in figures:
            proven_ns: int = figures["proven_ns"]
            return proven_ns
    raise click.ClickException(f"guest {uuid} was not set")


def measure_hostile(host: Host, rounds: int) -> None:
    """The good ones, with all agents honest and with some that fall silent in the pause."""
    good = [guest for guest in host.guests if guest.sort is GuestSort.AGENT]
    with ExitStack() as stack:
        played = [
            stack.enter_context(ScriptedAgent(guest))
            for guest in host.guests
            if guest.sort is GuestSort.SCRIPTED
        ]
        honest_ms, beside_ms = [], []
        for _ in range(rounds):
            honest_ms.append(last_proven_ms(by_hostagent(host, host.guests), good))
            silencing = threading.Thread(target=_fall_silent, args=(good[0], played))
            silencing.start()
            beside_ms.append(last_proven_ms(by_hostagent(host, host.guests), good))
            silencing.join()
            for agent in played:
                agent.replies.clear()
    print(f"\n{len(good)} good guests of {len(host.guests)}, {rounds} rounds: the last right, ms")
    print(f"all agents honest              {spread(honest_ms)}")
    print(f"{len(played)} silent from the pause on    {spread(beside_ms)}")
    ratio = statistics.median(beside_ms) / statistics.median(honest_ms)
    print(f"silent / honest: {ratio:.2f}")


def _fall_silent(witness: Guest, played: Sequence[ScriptedAgent]) -> None:
    """Once guests stand still: their agents have answered before the pause, and then no more."""
    wait_until(lambda: witness.status() == "paused", 30, "the pause")
    for agent in played:
        agent.replies[EVERY] = silent


@click.command()
@click.option("--rounds", default=13, show_default=True, help="Of four guests each.")
@click.option("--many/--no-many", default=True, help=f"Also {MANY} guests at once.")
def main(rounds: int, many: bool) -> None:
    """Measure, beside virsh and the managers' one call."""
    specs = [GuestSpec(sort=GuestSort.AGENT) for _ in range(MANY if many else 4)]
    with Lab.up("bench", "light", 1, specs, say=lambda text: print(text, file=sys.stderr)) as lab:
        print(
            f"load before: {wait_for_quiet():.2f} (1 minute), accelerator {lab.state.accelerator}"
        )
        show(measure(lab.hosts[0], lab.hosts[0].guests[:4], rounds))
        if many:
            measure_many(lab.hosts[0], 7)
    if many:
        mixed = [GuestSpec(sort=GuestSort.SCRIPTED) for _ in range(HOSTILE)]
        mixed += [GuestSpec(sort=GuestSort.AGENT) for _ in range(MANY - HOSTILE)]
        with Lab.up(
            "bench", "light", 1, mixed, say=lambda text: print(text, file=sys.stderr)
        ) as lab:
            print(f"\nload before: {wait_for_quiet():.2f}")
            measure_hostile(lab.hosts[0], 7)


if __name__ == "__main__":
    main()
