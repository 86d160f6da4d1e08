"""How a run of any kind begins, is driven, and is finished: the same for all of them.

A `Kind` is what differs: the decision, and when a run still has guests to bring back. Nothing here
waits for a disk without limit.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hostagent.adapters import run_files
from hostagent.adapters.host.command import HostCommand
from hostagent.adapters.host_file import HostFile
from hostagent.adapters.journal_file import boot_id
from hostagent.adapters.libvirt.addresses import quiet
from hostagent.adapters.libvirt.agent import LibvirtAgent
from hostagent.adapters.libvirt.guests import LibvirtGuests
from hostagent.adapters.libvirt.move import LibvirtMover
from hostagent.adapters.libvirt.pause import LibvirtPauser
from hostagent.adapters.run_files import RunFiles
from hostagent.core.errors import RefusedError
from hostagent.core.journal import Heard, Planned, State, start
from hostagent.core.plan import Plan, Verb
from hostagent.core.ports import HostBook, Journal, Watch
from hostagent.rules import clock_sync, inplace, move, move_orders, move_report, report
from hostagent.rules.clock_sync import ClockSyncReport
from hostagent.rules.move_report import MoveReport
from hostagent.rules.move_standing import standings
from hostagent.rules.progress import Progress
from hostagent.rules.report import RunReport
from hostagent.work import recovery
from hostagent.work.fence import Fence
from hostagent.work.inbox import Inbox
from hostagent.work.runner import Decide, Runner, Steps
from hostagent.work.steps.clock import ReadClocks, SyncClocks
from hostagent.work.steps.command import Apply, Cancel, Commands, Launch, RunCommand, Signal
from hostagent.work.steps.guests import AwaitJobs, Census
from hostagent.work.steps.move import Abort, Cordon, Find, Move, Settle, Uncordon
from hostagent.work.steps.pause import Pause, PauseWork, Resume
from hostagent.work.steps.watch import Arm, Disarm

Say = Callable[[str], None]
OpenJournal = Callable[[Path], Journal]

FIRST_SYNC_LIMIT_S = 10.0
"""How long the plan may take to the disk; guests are not paused over one that is slower."""
LAST_SYNC_LIMIT_S = 2.0
"""How long the end of a run waits for the disk; guests run, and recovery would find that out."""


Report = RunReport | ClockSyncReport | MoveReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What differs between kinds of run. `left` says what one without an end has left;
    `recovers_slowly`: finishing one may take minutes, and hears signals meanwhile."""

    decide: Decide
    has_guests_to_bring_back: Callable[[State], bool]
    report: Callable[[State, int], Report]
    left: Callable[[State], str]
    recovers_slowly: bool = False


def _left_paused(state: State) -> str:
    progress = Progress(state)
    names = [guest.name for guest in progress.guests if guest.uuid in progress.to_resume]
    if not names or state.boot_id != boot_id():  # no process that it knew is left
        return "no guest is paused by it"
    return f"guests that may be paused: {', '.join(names)}"


def _left_moving(state: State) -> str:
    names = [each.guest.name for each in standings(state) if each.busy]
    return f"guests that may be on their way: {', '.join(names)}" if names else "no guest is moving"


KINDS = {
    "inplace": Kind(
        decide=inplace.next,
        has_guests_to_bring_back=lambda state: bool(Progress(state).to_resume),
        report=report.report,
        left=_left_paused,
    ),
    clock_sync.KIND: Kind(
        decide=clock_sync.next,
        has_guests_to_bring_back=lambda _state: False,
        report=clock_sync.report,
        left=lambda _state: "no guest is paused by it",
    ),
    move_orders.KIND: Kind(
        decide=move.next,
        has_guests_to_bring_back=move.is_unsettled,
        report=move_report.report,
        left=_left_moving,
        recovers_slowly=True,
    ),
}
"""By the plan's kind."""


def begin(files: RunFiles, plan: Plan, open_journal: OpenJournal) -> tuple[Journal, State]:
    """Open the journal and see the plan on the disk, or refuse."""
    journal = _open(open_journal, files.journal)
    state = start(journal.append(Planned(plan=plan)))
    problem = _sync_within(journal, FIRST_SYNC_LIMIT_S)
    if problem:
        raise RefusedError(
            f"the journal {files.journal} can't be written: {problem}",
            hint="free space or choose another --state-dir; nothing was changed",
        )
    return journal, state


def finish(
    files: RunFiles,
    journal: Journal,
    state: State,
    steps: Steps,
    say: Say,
    inbox: Inbox | None = None,
) -> State:
    """Drive a run to its end; its last state."""
    kind = KINDS[state.plan.kind]
    runner = Runner(
        decide=kind.decide,
        state=state,
        journal=journal,
        steps=steps,
        inbox=inbox or Inbox(),
        clock=time.monotonic_ns,
        say=say,
    )
    recovery.finish(runner, kind.has_guests_to_bring_back, lambda: run_files.guardian_rows(files))
    _sync_within(journal, LAST_SYNC_LIMIT_S)
    return runner.state


def workers(
    files: RunFiles,
    plan: Plan,
    watch: Watch,
    command: HostCommand,
    say: Say,
    tell: Callable[[Heard], None] | None = None,
) -> Steps:
    """The workers of one run. `tell` is not needed to finish one: recovery begins no command."""
    fence = Fence()
    pausing = PauseWork(LibvirtPauser(plan.host), watch, plan.guests, fence)
    commands = Commands(command, fence)
    guests = LibvirtGuests(plan.host.uri)
    running = RunCommand(commands, tell)
    agent_on = cache(lambda uri: LibvirtAgent(quiet(uri) if uri else plan.host.uri))
    return {
        Verb.PREPARE: running,
        Verb.AWAIT_JOBS: AwaitJobs(guests),
        Verb.READ_CLOCKS: ReadClocks(agent_on("")),
        Verb.SYNC_CLOCKS: SyncClocks(agent_on),
        Verb.LAUNCH: Launch(commands),
        Verb.ARM: Arm(pausing, plan),
        Verb.PAUSE: Pause(pausing),
        Verb.APPLY: Apply(commands),
        Verb.RESUME: Resume(pausing),
        Verb.DISARM: Disarm(watch),
        Verb.CENSUS: Census(guests, plan),
        Verb.CANCEL: Cancel(commands),
        Verb.SIGNAL: Signal(commands),
        Verb.VERIFY: running,
        Verb.ROLLBACK: running,
        **_move_workers(plan, HostFile(files.state_dir, plan.host.uuid), say),
    }


def _move_workers(plan: Plan, book: HostBook, say: Say) -> Steps:
    mover = LibvirtMover()
    return {
        Verb.CORDON: Cordon(book),
        Verb.MOVE: Move(mover, say),
        Verb.FIND: Find(mover),
        Verb.ABORT: Abort(mover),
        Verb.SETTLE: Settle(mover, book, plan.run),
        Verb.UNCORDON: Uncordon(book),
    }


def _open(open_journal: OpenJournal, path: Path) -> Journal:
    try:
        return open_journal(path)
    except OSError as error:
        raise RefusedError(
            f"the journal {path} can't be opened: {error.strerror}",
            hint="make the state directory writable, or choose another with --state-dir",
        ) from error


def _sync_within(journal: Journal, limit_s: float) -> str:
    """Why the journal is not on the disk by now; empty when it is."""
    problems = ["no answer from its disk"]

    def sync() -> None:
        try:
            journal.sync()
            problems[0] = ""
        except OSError as error:
            problems[0] = error.strerror or str(error)

    thread = threading.Thread(target=sync, name="sync", daemon=True)
    thread.start()
    thread.join(limit_s)
    return problems[0]
