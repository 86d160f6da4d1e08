"""The report of a run: a fold of its journal into hostagent.run/1.

Layer: rules. Every figure was measured; one that was not is None, and `reason` or a warning says
why. Field names are the JSON's own, seconds as floats, so that cli/render only prints.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hostagent.core.journal import Closed, GuestOutcome, State
from hostagent.core.plan import Done, Json, PlannedGuest, Verb
from hostagent.rules.clock_outcome import NO_CHANNEL, ClockReport, clock_report
from hostagent.rules.halt import halted
from hostagent.rules.pause import Call, Pause, Sources, measure
from hostagent.rules.progress import Progress
from hostagent.rules.verdict import guest_result, newcomers, verdict

EXPOSED = (
    "the guardian had no unit of its own: had this whole control group been killed, guests would "
    "have stayed paused until `hostagent recover` (run as root, or with a user manager: "
    "`loginctl enable-linger`)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestReport:
    """One guest of a run."""

    name: str
    uuid: str
    result: str
    reason: str
    pause_s: float | None
    pause_source: str | None
    pause_uncertainty_s: float | None
    pause_api_s: float | None
    pause_guest_clock_s: float | None
    resumed_by: str | None
    clock: ClockReport


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """The update's command."""

    command: tuple[str, ...]
    exit_code: int | None
    duration_s: float | None
    pid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """A whole run. `host_clock_synchronised` is of the clock that guests' clocks were set by."""

    run: str
    host: str
    host_clock_synchronised: bool | None
    result: str
    reason: str
    changed: bool
    warnings: tuple[str, ...]
    budget_s: float
    signal: str | None
    update: UpdateReport
    guests: tuple[GuestReport, ...]


def report(state: State, now_ns: int) -> RunReport:
    """The report of a run, finished or not."""
    progress = Progress(state)
    done = _ending(progress, now_ns)
    guests = tuple(_guest(progress, guest) for guest in state.plan.guests)
    return RunReport(
        run=state.plan.run,
        host=state.plan.host.name,
        host_clock_synchronised=state.plan.host.clock_synchronised,
        result=done.result,
        reason=done.reason,
        changed=_changed(progress),
        warnings=(*state.plan.warnings, *_warnings(progress)),
        budget_s=progress.terms.budget_ns / 1e9,
        signal=str(progress.signals[0].value) if progress.signals else None,
        update=_update(progress),
        guests=(*guests, *(_newcomer(name) for name in newcomers(progress))),
    )


def _ending(progress: Progress, now_ns: int) -> Done:
    ended = progress.state.ended
    if ended is not None:
        return Done(result=ended.result, reason=ended.reason)
    return verdict(progress, halted(progress, now_ns))


def _changed(progress: Progress) -> bool:
    """Whether anything was done to the host or a guest."""
    return progress.update_began or any(
        key in progress.state.open or progress.state.result(key) not in ("", "not-begun")
        for key in (Verb.PREPARE, Verb.PAUSE)
    )


def _update(progress: Progress) -> UpdateReport:
    applied, launched = progress.closed(Verb.APPLY), progress.closed(Verb.LAUNCH)
    pid = launched.outcome.figures.get("pid") if launched is not None else None
    return UpdateReport(
        command=progress.terms.command,
        exit_code=progress.exit_code(Verb.APPLY),
        duration_s=_duration_s(applied),
        pid=pid if isinstance(pid, int) else None,
    )


def _duration_s(applied: Closed | None) -> float | None:
    if applied is None:
        return None
    figures = applied.outcome.figures
    began_ns, ended_ns = figures.get("released_ns"), figures.get("ended_ns")
    if not isinstance(began_ns, int) or not isinstance(ended_ns, int):
        return None
    return (ended_ns - began_ns) / 1e9


def _guest(progress: Progress, guest: PlannedGuest) -> GuestReport:
    result = guest_result(progress, guest)
    measured = _measured(progress, guest.uuid)
    back = progress.back(guest.uuid)
    way = back.figures.get("way") if back is not None else None
    return GuestReport(
        name=guest.name,
        uuid=guest.uuid,
        result=result.result,
        reason=result.reason,
        pause_s=_s(measured.pause_ns),
        pause_source=measured.source or None,
        pause_uncertainty_s=_s(measured.uncertainty_ns),
        pause_api_s=_s(measured.api_ns),
        pause_guest_clock_s=_s(measured.guest_clock_ns),
        resumed_by=str(way) if way else None,
        clock=_clock(progress, guest),
    )


def _newcomer(name: str) -> GuestReport:
    return GuestReport(
        name=name,
        uuid="",
        result="unpaused",
        reason="started in mid-run",
        pause_s=None,
        pause_source=None,
        pause_uncertainty_s=None,
        pause_api_s=None,
        pause_guest_clock_s=None,
        resumed_by=None,
        clock=ClockReport(),
    )


def _measured(progress: Progress, uuid: str) -> Pause:
    pause, back = progress.paused(uuid), progress.back(uuid)
    if pause is None or pause.result not in ("paused", "unsettled"):
        return measure(Sources())
    behind_ns, uncertainty_ns = _fell_behind(progress, uuid)
    return measure(
        Sources(
            suspend=_call(pause),
            # One that ran already was resumed by somebody else, before our call.
            resume=_call(back) if back is not None and back.result == "resumed" else None,
            stopped_ns=_figure(pause, "stopped_ns"),
            resumed_ns=_figure(back, "resumed_ns"),
            clock_ns=behind_ns,
            clock_uncertainty_ns=uncertainty_ns,
        )
    )


def _call(outcome: GuestOutcome | None) -> Call | None:
    called, returned = _figure(outcome, "called_ns"), _figure(outcome, "returned_ns")
    if called is None or returned is None:
        return None
    return Call(called_ns=called, returned_ns=returned)


def _fell_behind(progress: Progress, uuid: str) -> tuple[int | None, int]:
    """How far the guest's clock fell behind the host's monotonic clock, with its uncertainty."""
    before = progress.clock_before(uuid)
    tries = progress.clock_syncs(uuid)
    after = next((each for each in tries if "first_behind_ns" in each.figures), None)
    first, second = _figure(before, "behind_ns"), _figure(after, "first_behind_ns")
    if first is None or second is None or progress.clock_untold(uuid):
        return None, 0
    doubt = (_figure(before, "uncertainty_ns") or 0) + (_figure(after, "first_uncertainty_ns") or 0)
    return second - first, doubt


def _clock(progress: Progress, guest: PlannedGuest) -> ClockReport:
    if not guest.channel and not guest.agent and progress.paused(guest.uuid) is not None:
        return ClockReport(synced=False, reason=NO_CHANNEL)
    told = clock_report(progress.clock_syncs(guest.uuid), progress.clock_before(guest.uuid))
    return replace(told, offset_resumed_s=None) if progress.clock_untold(guest.uuid) else told


def _warnings(progress: Progress) -> tuple[str, ...]:
    names = {guest.uuid: guest.name for guest in progress.state.plan.guests}
    warnings = [
        f"guest {names[guest.uuid]}: {pause.disagreement}"
        for guest in progress.guests
        if (pause := _measured(progress, guest.uuid)).disagreement
    ]
    for heard in progress.state.heard:
        if heard.what == "warning":
            warnings.append(str(heard.value))
    warnings += [*_without_libvirt(progress, names), *_uncounted(progress)]
    warnings += _clocks_unread(progress)
    for name, pid in _living(progress):
        warnings.append(f"{name} still lives (pid {pid}): the next run is refused beside it")
    if progress.guardians_died:
        warnings.append(f"{progress.guardians_died} guardians died and were replaced")
    if progress.guardian_exposed:
        warnings.append(EXPOSED)
    return tuple(warnings)


def _without_libvirt(progress: Progress, names: Mapping[str, str]) -> Iterator[str]:
    """A libvirtd that died, or that we killed, has to be started by somebody."""
    by_reason: dict[str, list[str]] = {}
    for guest in progress.guests:
        back = progress.back(guest.uuid)
        if back is not None and back.figures.get("way") == "qmp":
            by_reason.setdefault(back.reason, []).append(names[guest.uuid])
    for reason, resumed in by_reason.items():
        why = f" ({reason})" if reason else ""
        yield (
            f"resumed by QEMU's own monitors, without libvirt{why}: {', '.join(resumed)}; "
            "see that libvirtd runs"
        )


def _uncounted(progress: Progress) -> Iterator[str]:
    closed = progress.closed(Verb.CENSUS)
    if Verb.CENSUS in progress.state.open:
        yield "guests that were started in mid-run are not listed: libvirt did not answer in time"
    if closed is not None and closed.outcome.result == "unread":
        yield f"guests that were started in mid-run are not listed: {closed.outcome.reason}"


def _clocks_unread(progress: Progress) -> Iterator[str]:
    """Of guests that were paused: an agent that was there and whose clock is not known to be
    right."""
    for guest in progress.stood_still:
        before = progress.clock_before(guest.uuid)
        clock = _clock(progress, guest)
        if guest.agent and clock.synced is False:
            yield f"guest {guest.name}: its clock is not known to be right: {clock.reason}"
        elif before is not None and before.result == "unread":
            yield f"guest {guest.name}: its clock could not be read before: {before.reason}"


def _living(progress: Progress) -> Iterator[tuple[str, int]]:
    """Commands that have not ended, for whom nobody waits any more."""
    update = _update(progress).pid
    if update is not None and progress.update_began and Verb.APPLY in progress.state.open:
        yield "the command", update
    for heard in progress.state.heard:
        value: Any = heard.value
        if heard.what == "command" and value["verb"] in progress.state.open:
            yield f"the {value['verb']} command", value["pid"]


def _figure(outcome: GuestOutcome | None, name: str) -> int | None:
    value: Json = outcome.figures.get(name) if outcome is not None else None
    return value if isinstance(value, int) else None


def _s(value_ns: int | None) -> float | None:
    return None if value_ns is None else value_ns / 1e9
