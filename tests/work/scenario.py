"""A whole scenario: a run, its crashes and take-overs, and what must be true at its end.

`play` drives lives of hostagent one after the other, as an operator's next commands would: each
waits until the guardian is done, takes over what is unfinished (work.recovery, the real one) and
drives it to its end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hostagent.core.journal import Heard, Intent, Outcome, Row, State, fold
from hostagent.core.model import AgentState, Guest
from hostagent.core.plan import Done, Ending, Plan, Verb
from hostagent.rules.progress import Progress
from hostagent.rules.report import report
from hostagent.rules.request import S
from hostagent.rules.verdict import SEVERITY
from hostagent.work.recovery import finish, take_over
from tests.rules.runs import a_plan
from tests.rules.runs import guest as plain_guest
from tests.work.simulated_run import Crashed, Life, Loop, Moment, Script, first_state
from tests.work.world import GuestScript, SimCommand, SimGuest, SimJournal, World

MOST_LIVES = 12
MakeLoop = Callable[[Life, State, SimJournal], Any]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Guests by name, what goes wrong, and the terms of the run."""

    guests: dict[str, GuestScript]
    script: Script = field(default_factory=Script)
    terms: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Played:
    """What came of it."""

    world: World
    plan: Plan
    command: SimCommand
    script: Script
    journal: SimJournal
    ends: list[tuple[Done, State]] = field(default_factory=list)
    crashes: int = 0

    @property
    def state(self) -> State:
        return fold(self.journal.entries)


class _Look:
    """Recovery's workers: they only look."""

    def __init__(self, life: Life) -> None:
        self.do: Any = None
        self.look = life.look


def play(scenario: Scenario, make_loop: MakeLoop = Loop) -> Played:
    """Play it to its end and check what must be true then."""
    uuids = {f"uuid-{name}": script for name, script in scenario.guests.items()}
    world, script = World(uuids), scenario.script
    guests = tuple(_planned(name, script.agent) for name, script in scenario.guests.items())
    plan = a_plan(guests=guests, **scenario.terms)
    command = SimCommand(
        duration_ns=script.command_ns,
        exit_code=script.exit_code,
        heeds_signals=script.heeds_signals,
    )
    played = Played(
        world=world, plan=plan, command=command, script=script, journal=SimJournal(world)
    )
    events = dict(script.events)
    for number in range(MOST_LIVES):
        life = Life(world, script, plan, command)
        life.recovered = number > 0
        _cause_events(played, life, script, events)
        try:
            _live(played, life, make_loop)
        except Crashed:
            played.crashes += 1
            played.journal.lose(script.lost_rows)
        life.dies()
        world.run_until_quiet()
        _owners_pause(played)
        guarded = world.guardian is not None and world.guardian.alive
        if not played.journal.entries or played.state.ended is not None or guarded:
            break
    _check(played)
    return played


def _planned(name: str, agent: str) -> Guest:
    states = {"": AgentState.NONE, "away": AgentState.DISCONNECTED}
    return plain_guest(name, agent=states.get(agent, AgentState.CONNECTED))


def _live(played: Played, life: Life, make_loop: MakeLoop) -> None:
    if life.recovered:
        looks = dict.fromkeys(Verb, _Look(life))
        rows = played.world.guardian_rows
        state = take_over(played.state, played.journal, looks, rows)
    else:
        state = first_state(played.plan, played.journal)
    loop = make_loop(life, state, played.journal)
    rows = played.world.guardian_rows
    done = finish(loop, lambda now: bool(Progress(now).to_resume), lambda: rows)
    played.ends.append((done, loop.state))
    _check_end(played, done, loop.state)


def _cause_events(
    played: Played, life: Life, script: Script, events: dict[Moment, tuple[str, ...]]
) -> None:
    """What is to happen after which row, whoever wrote it; each happens once."""
    world = played.world

    def signal(name: str) -> None:
        life.put(Heard(what="signal", value=name))

    def crash() -> None:
        if life.alive:
            raise Crashed

    def guardian_dies() -> None:
        if world.guardian is not None and world.guardian.alive:
            world.guardian.dies()
            life.put(Heard(what="guardian-died"))

    effects: dict[str, Callable[[], None]] = {
        "signal": lambda: signal("SIGINT"),
        "signal-later": lambda: world.after(script.delay_ns, lambda: signal("SIGTERM")),
        "guardian-dies": guardian_dies,
        "owners-pause": lambda: _owners_pause(played),
        "crash": crash,
        "crash-later": lambda: world.after(script.delay_ns, crash),
    }

    def on_row(number: int, row: Row) -> None:
        for action in (*events.pop(number, ()), *events.pop(_moment(life, row), ())):
            effects[action]()

    played.journal.on_row = on_row


def _moment(life: Life, row: Row) -> tuple[str, str]:
    """A step's beginning or end, by its verb."""
    match row:
        case Intent():
            life.verbs[row.step.key] = row.step.verb
            return row.step.verb, "begun"
        case Outcome():
            return life.verbs.get(row.key, ""), "closed"
        case _:
            return "", ""


def _owners_pause(played: Played) -> None:
    """Owners pause guests that are back for sure: it is on our disk, or on the guardian's."""
    back: set[str] = set()
    for entry in played.journal.entries[: played.journal.durable]:
        if isinstance(entry.row, Outcome) and entry.row.key.startswith(("resume", "settle")):
            back |= {u for u, found in entry.row.guests.items() if found.result == "resumed"}
    for row in played.world.guardian_rows:
        value: Any = row.value
        if value["result"] == "resumed":
            back.add(value["uuid"])
    played.world.owners_pause_after(sorted(back))


# what must be true


def _check_end(played: Played, done: Done, state: State) -> None:
    """When the decision is Done: the truth is no worse than it says."""
    told = SEVERITY.index(done.result)
    for ending, why in _what_happened(played, state):
        if told > SEVERITY.index(ending):
            played.world.faults.append(f"{done} although {why}")
    if done.result is Ending.REFUSED and played.command.released_ns is not None:
        played.world.faults.append("refused, although the command had begun")
    if done.result is Ending.DONE:
        _check_done(played)
    for guest in played.world.guests.values():
        stopped = Progress(state).signals and guest.script.agent != "good"
        if not stopped and _is_known_wrong(played, state, guest):
            played.world.faults.append(f"{done.result}, but the clock of {guest.uuid} is wrong")
    told_by_report = report(state, played.world.now_ns)
    assert told_by_report.result == done.result
    assert all((found.pause_s or 0) >= 0 for found in told_by_report.guests)


def _what_happened(played: Played, state: State) -> Iterator[tuple[Ending, str]]:
    """Each thing that truly went wrong, with the mildest result that says so."""
    command, progress, world = played.command, Progress(state), played.world
    if progress.to_resume:
        yield Ending.RESUME_FAILED, "a guest is still to be brought back"
    if world.standing_still():
        yield Ending.RESUME_FAILED, "a guest stands still"
    if progress.signals or progress.crashes:
        yield Ending.INTERRUPTED, "it was stopped"
    elif Verb.APPLY in state.done and command.code not in (None, 0):
        yield Ending.UPDATE_FAILED, "the command failed"
    if any(_is_left_wrong(state, guest) for guest in world.guests.values()):
        yield Ending.PARTLY, "an agent that answered leaves its clock wrong"
    if command.released_ns is None:
        yield Ending.REFUSED, "the command never began"
    deadline_ns = world.deadline_ns - progress.terms.reserve_ns
    if command.ended_ns is not None and 0 < deadline_ns <= command.ended_ns:
        yield Ending.BUDGET_EXCEEDED, "the command ended past its deadline"


def _check_done(played: Played) -> None:
    command = played.command
    assert command.released_ns is not None, "done without the command"
    assert command.ended_ns is not None, "done before the command"
    assert command.code == 0
    for guest in played.world.guests.values():
        if not _is_excused(guest) and not any(
            begin_ns <= command.released_ns and end_ns >= command.ended_ns
            for begin_ns, end_ns in guest.stood_still
        ):
            played.world.faults.append(f"done, but {guest.uuid} ran during the command")


def _is_known_wrong(played: Played, state: State, guest: SimGuest) -> bool:
    """Its agent would have let us set its clock, and we knew that it had stood still."""
    known = any(found.uuid == guest.uuid for found in Progress(state).stood_still)
    return known and guest.is_wrong and Verb.SYNC_CLOCKS not in played.script.trouble


def _is_left_wrong(state: State, guest: SimGuest) -> bool:
    known = any(found.uuid == guest.uuid for found in Progress(state).stood_still)
    return known and guest.script.agent == "refuses" and _clocks_went_well(state)


def _clocks_went_well(state: State) -> bool:
    """The steps that set clocks had no trouble of their own, and came to their end."""
    steps = [closed for closed in state.done.values() if closed.step.verb is Verb.SYNC_CLOCKS]
    return bool(steps) and all(closed.outcome.result == "over" for closed in steps)


def _is_excused(guest: SimGuest) -> bool:
    return guest.owner_was_first or (guest.gone and not guest.stood_still)


def _check(played: Played) -> None:
    """After all: the run is over, and nobody stands still who should not."""
    world = played.world
    if played.journal.entries and played.state.ended is None:
        assert Progress(played.state).to_resume, "a run that left nothing is not ended"
    for guest in world.standing_still():
        held = world.guardian is not None and world.guardian.alive
        ended = bool(played.journal.entries) and played.state.ended is not None
        if not world.frozen_for_ever(guest):
            world.faults.append(f"{guest.uuid} is left paused")
        elif ended and not held:
            world.faults.append(f"{guest.uuid} hangs, and nobody remembers it")
    for guest in world.guests.values():
        if guest.owner_was_last and guest.stopped_by != "owner" and not guest.gone:
            world.faults.append(f"{guest.uuid} was taken from its owner")
        _check_budget(played, guest)
    assert not world.faults, world.faults


def _check_budget(played: Played, guest: SimGuest) -> None:
    """No guest stands still beyond the budget while its QEMU and one of us two live."""
    world = played.world
    if guest.frozen_from_ns is not None or world.guardian_ever_died:
        return
    for begin_ns, end_ns in guest.stood_still:
        if end_ns > max(world.deadline_ns, begin_ns) + S:
            world.faults.append(f"{guest.uuid} stood still {(end_ns - begin_ns) / S:.1f} s")
