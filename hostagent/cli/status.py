"""`hostagent status`: this host, its guests, and what a run left unfinished.

Layer: cli. Never acts: no lock is taken, nothing is brought back. Connected agents of running
guests are asked for the time once: for the offset of their clocks, and since an open channel alone
does not show a stuck one. Where libvirt is unreachable the rest is still shown, before the error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

from hostagent.cli import host_clock
from hostagent.cli.globals import Globals
from hostagent.cli.messages import show_json, show_warnings
from hostagent.cli.tables import offset, plain, table
from hostagent.core.clock import ClockReading, NoAnswer, Refusal
from hostagent.core.errors import LibvirtUnreachableError, RefusedError
from hostagent.core.host_notes import HostNotes
from hostagent.core.model import AgentState, Facts, Guest

if TYPE_CHECKING:
    from hostagent.adapters.host.facts import HostFacts
    from hostagent.adapters.libvirt.guests import Versions
    from hostagent.wiring import Unfinished

AGENT_LIMIT_NS = 1_000_000_000
"""An agent that lives answers within milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All that is shown. What libvirt would say is absent where it is unreachable."""

    machine: "HostFacts"
    unfinished: "Sequence[Unfinished]"
    warnings: tuple[str, ...]
    facts: Facts | None = None
    versions: "Versions | None" = None
    clocks: Mapping[str, ClockReading | NoAnswer] = field(default_factory=dict)
    notes: HostNotes = field(default_factory=HostNotes)


@click.command()
@click.pass_obj
def status(globals_: Globals) -> None:
    """Show this host, its guests, and what a run left unfinished. Changes nothing."""
    seen = _machine(globals_)
    try:
        seen = _with_libvirt(globals_, seen)
    except LibvirtUnreachableError:
        if not globals_.as_json:
            _show(globals_, seen)
        raise
    _show(globals_, seen)


def _machine(globals_: Globals) -> Status:
    """What needs no libvirt."""
    from hostagent.adapters.host import facts
    from hostagent.wiring import Site

    warnings = []
    unfinished: Sequence[Unfinished] = ()
    try:
        unfinished = Site(globals_.uri, globals_.state_dir).unfinished()
    except OSError as error:
        warnings.append(f"what runs left can't be read: {error.filename}: {error.strerror}")
    machine = facts.read()
    if machine.clock.synchronised is False:
        warnings.append("this host's own clock is not synchronised: no time daemon corrects it")
    return Status(machine=machine, unfinished=unfinished, warnings=tuple(warnings))


def _with_libvirt(globals_: Globals, seen: Status) -> Status:
    from hostagent.adapters.libvirt.guests import LibvirtGuests
    from hostagent.wiring import Site

    guests = LibvirtGuests(globals_.uri)
    facts = guests.facts()
    warnings = seen.warnings
    if not facts.host.qmp.allowed:
        warnings += (f"guests can't be resumed without libvirt: {facts.host.qmp.refusal}",)
    clocks, notes = _clocks(facts), HostNotes()
    try:
        notes = Site(globals_.uri, globals_.state_dir).book(facts.host.uuid).read()
    except RefusedError as error:
        warnings += (error.message,)
    return replace(
        seen,
        facts=replace(facts, guests=_with_agents(facts, clocks)),
        clocks=clocks,
        notes=notes,
        versions=guests.versions(),
        warnings=warnings,
    )


def _clocks(facts: Facts) -> "Mapping[str, ClockReading | NoAnswer]":
    """What the connected agents of running guests say of their clocks."""
    from hostagent.wiring.clocks import read_clocks

    asked = [
        guest.uuid for guest in facts.guests if guest.runs and guest.agent is AgentState.CONNECTED
    ]
    return read_clocks(facts.host.uri, asked, AGENT_LIMIT_NS, reads=1)


def _with_agents(
    facts: Facts, clocks: "Mapping[str, ClockReading | NoAnswer]"
) -> tuple[Guest, ...]:
    """The guests, with agents that do not answer marked as stuck."""
    stuck = {
        uuid
        for uuid, answer in clocks.items()
        if isinstance(answer, NoAnswer) and answer.refusal is Refusal.NO_ANSWER
    }
    return tuple(
        replace(guest, agent=AgentState.STUCK) if guest.uuid in stuck else guest
        for guest in facts.guests
    )


def _show(globals_: Globals, seen: Status) -> None:
    if globals_.as_json:
        show_json(to_json(seen))
        return
    click.echo(table(["HOST", seen.facts.host.name if seen.facts else "-"], _host_rows(seen)))
    if seen.facts is not None:
        click.echo()
        click.echo(table(_HEAD, [_guest_row(guest, seen.clocks) for guest in seen.facts.guests]))
        if not seen.facts.guests:
            click.echo("No guests.")
    for cordon in seen.notes.cordons:
        words = f"by {cordon.owner} since {cordon.utc}: {cordon.reason}"
        click.echo(f"\nCordoned {plain(words)}")
    if seen.notes.away:
        click.echo(f"\nGuests away: {len(seen.notes.away)}; `hostagent host away` lists them")
    for left in seen.unfinished:
        label = "Under way" if left.under_way else "Unfinished"
        click.echo(f"\n{label}: {plain(left.sentence)}")
    if not globals_.quiet:
        show_warnings(seen.warnings)


_HEAD = ["GUEST", "ID", "STATE", "REASON", "AGENT", "CLOCK", "JOB"]


def _guest_row(guest: Guest, clocks: Mapping[str, ClockReading | NoAnswer]) -> list[str]:
    number = str(guest.process.domain_id) if guest.process else "-"
    reading = clocks.get(guest.uuid)
    off = offset(reading.offset_ns / 1e9) if isinstance(reading, ClockReading) else "-"
    words = (guest.reason, str(guest.agent), off, guest.job)
    return [guest.name, number, str(guest.state), *(word or "-" for word in words)]


def _host_rows(seen: Status) -> list[list[str]]:
    machine = seen.machine
    load = " ".join(f"{value:.2f}" for value in machine.load)
    rows = [
        ["load", f"{load} ({machine.cpus} CPUs)"],
        ["memory", f"{machine.memory_available_mib} of {machine.memory_total_mib} MiB available"],
        ["uptime", _uptime(machine.uptime_s)],
        ["kernel", machine.kernel],
    ]
    if seen.facts is not None and seen.versions is not None:
        daemon = seen.facts.host.daemon
        process = f" ({daemon.exe}, pid {daemon.pid})" if daemon else ""
        rows += [["libvirt", seen.versions.libvirt + process], ["QEMU", seen.versions.qemu]]
    return [*rows, ["clock", host_clock.words(machine.clock)]]


def _uptime(uptime_s: float) -> str:
    minutes = int(uptime_s // 60)
    days, minutes = divmod(minutes, 24 * 60)
    return f"{days} d {minutes // 60} h {minutes % 60} min"


def to_json(seen: Status) -> dict[str, Any]:
    """The document hostagent.status/1."""
    facts, versions = seen.facts, seen.versions
    return {
        "schema": "hostagent.status/1",
        "changed": False,
        "warnings": list(seen.warnings),
        "host": {
            "name": facts.host.name if facts else None,
            "uuid": facts.host.uuid if facts else None,
            "uri": facts.host.uri if facts else None,
            **_machine_json(seen.machine),
            "libvirt": versions.libvirt if versions else None,
            "qemu": versions.qemu if versions else None,
            "qmp_allowed": facts.host.qmp.allowed if facts else None,
        },
        "guests": [_guest_json(guest, seen.clocks) for guest in facts.guests] if facts else None,
        "cordons": [asdict(cordon) for cordon in seen.notes.cordons],
        "away": len(seen.notes.away),
        "unfinished": [
            {
                "run": left.run,
                "started": left.started,
                "under_way": left.under_way,
                "sentence": left.sentence,
            }
            for left in seen.unfinished
        ],
    }


def _machine_json(machine: "HostFacts") -> dict[str, Any]:
    return {
        "cpus": machine.cpus,
        "load": list(machine.load),
        "memory_total_mib": machine.memory_total_mib,
        "memory_available_mib": machine.memory_available_mib,
        "uptime_s": machine.uptime_s,
        "kernel": machine.kernel,
        "clock": {
            "synchronised": machine.clock.synchronised,
            "maximum_error_ms": machine.clock.maximum_error_ms,
        },
    }


def _guest_json(guest: Guest, clocks: Mapping[str, ClockReading | NoAnswer]) -> dict[str, Any]:
    answer = clocks.get(guest.uuid)
    reading = answer if isinstance(answer, ClockReading) else None
    return {
        "name": guest.name,
        "uuid": guest.uuid,
        "id": guest.process.domain_id if guest.process else None,
        "state": str(guest.state),
        "reason": guest.reason,
        "agent": str(guest.agent),
        "job": guest.job or None,
        "clock_offset_s": reading.offset_ns / 1e9 if reading else None,
        "clock_uncertainty_s": reading.uncertainty_ns / 1e9 if reading else None,
    }
