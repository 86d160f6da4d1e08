"""Puts a run together: the only place where rules, work and adapters meet.

A `Site` is one host's libvirt and one state directory. Order of every command that changes
something: lock -> no guardian alive -> what earlier runs left is brought back -> facts -> plan ->
run. Reading commands (status, --dry-run) take no lock and change nothing.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hostagent.adapters import run_files
from hostagent.adapters.guardian import GuardianWatch, NoGuardian
from hostagent.adapters.host.command import HostCommand
from hostagent.adapters.host.locks import RunLock, holders, ourselves
from hostagent.adapters.host.signals import put_off, told_to
from hostagent.adapters.journal_file import JournalFile, MemoryJournal, boot_id
from hostagent.adapters.libvirt import uri
from hostagent.adapters.libvirt.agent import LibvirtAgent
from hostagent.adapters.libvirt.guests import LibvirtGuests
from hostagent.adapters.libvirt.pause import LibvirtPauser
from hostagent.adapters.run_files import RunFiles
from hostagent.core.errors import LibvirtUnreachableError, RefusedError
from hostagent.core.journal import Heard, JournalError, Planned, State, start
from hostagent.core.model import Facts
from hostagent.core.plan import Plan, Verb
from hostagent.core.ports import Journal, Watch
from hostagent.rules import inplace
from hostagent.rules import request as requests
from hostagent.rules.progress import Progress
from hostagent.rules.report import RunReport, report
from hostagent.rules.request import Request
from hostagent.work import recovery
from hostagent.work.fence import Fence
from hostagent.work.runner import Inbox, Runner, Steps
from hostagent.work.steps.clock import ReadClocks
from hostagent.work.steps.command import Apply, Cancel, Commands, Launch, RunCommand, Signal
from hostagent.work.steps.guests import AwaitJobs, Census
from hostagent.work.steps.pause import Pause, PauseWork, Resume
from hostagent.work.steps.watch import Arm, Disarm

Say = Callable[[str], None]
OpenJournal = Callable[[Path], Journal]

GUARDIAN_WAIT_S = 5.0
"""How long a command waits for a guardian that is just bringing an earlier run's guests back."""
FIRST_SYNC_LIMIT_S = 10.0
"""How long the plan may take to the disk; guests are not paused over one that is slower."""
LAST_SYNC_LIMIT_S = 2.0
"""How long the end of a run waits for the disk; guests run, and recovery would find that out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A run without an end, for status: left by a process that died, or still under way."""

    run: str
    started: str
    under_way: bool
    sentence: str


class Site:
    """One host's libvirt, and the state directory of its runs.

    `open_journal` is where a test stands between a run and its disk.
    """

    def __init__(
        self, uri: str, state_dir: Path | None = None, open_journal: OpenJournal = JournalFile
    ) -> None:
        self._uri = uri
        self._state_dir = (state_dir or run_files.default_state_dir()).absolute()
        self._open_journal = open_journal

    def plan(self, request: Request) -> Plan:
        """What a run would do; nothing is locked, brought back or changed."""
        return requests.plan(_new_run(), request, self._facts())

    def run(self, request: Request, *, output: int | None, say: Say) -> RunReport:
        """Carry a run out. `output` is where its commands write (None: where we do). Raises
        RefusedError and its kinds while nothing was changed."""
        with self._locked(self._host_uuid(say)) as lock:
            with put_off():
                self._bring_back(lock, say)
            plan = requests.plan(_new_run(), request, self._facts())
            run_files.tidy(self._state_dir)
            files = RunFiles(state_dir=self._state_dir, run=plan.run)
            inbox: Inbox = queue.SimpleQueue()
            with told_to(inbox.put):  # from the first row on, so that a stopped run has its end
                journal, state = self._begin(files, plan)
                lock.name(ourselves(plan.run, self._state_dir))
                return self._drive(files, journal, state, lock, inbox, output=output, say=say)

    def recover(self, *, say: Say) -> list[RunReport]:
        """Finish every run that was left unfinished. Raises RefusedError where one is under way,
        after what was left on other hosts of this machine is brought back."""
        reports, refused = [], None
        for host_uuid in dict.fromkeys(state.plan.host.uuid for _, state in self._all_left()):
            try:
                with self._locked(host_uuid) as lock, put_off():
                    reports += self._bring_back(lock, say)
            except RefusedError as error:
                refused = refused or error
        if refused is not None:
            refused.changed = bool(reports)
            raise refused
        return reports

    def unfinished(self) -> list[Unfinished]:
        """What runs left unfinished; nothing is done about it."""
        living = {holder.run: holder.pid for _, holder in holders() if holder.lives}
        return [
            _unfinished(files.run, state, living.get(files.run))
            for files, state in self._all_left()
        ]

    def _facts(self) -> Facts:
        facts = LibvirtGuests(self._uri).facts()
        return replace(
            facts,
            held=run_files.held_guests(self._state_dir),
            running_commands={
                command.pid: line
                for command, line in run_files.living_commands(self._state_dir, facts.host.uuid)
            },
        )

    def _host_uuid(self, say: Say) -> str:
        """Which host this is. Even where libvirt can't say, guests of a dead run are helped."""
        try:
            return LibvirtGuests(self._uri).facts().host.uuid
        except LibvirtUnreachableError:
            self.recover(say=say)
            raise

    @contextlib.contextmanager
    def _locked(self, host_uuid: str) -> Iterator[RunLock]:
        lock = RunLock(host_uuid)
        lock.acquire()
        try:
            _wait_for_guardian(lock)
            yield lock
        finally:
            lock.release()

    def _all_left(self) -> Iterator[tuple[RunFiles, State]]:
        """Unfinished runs of this state directory, and of those that a lock's text names: the run
        that died with it may have been given another. Asks libvirt nothing: it may be dead."""
        yield from self._left(self._state_dir)
        for host_uuid, holder in holders():
            if Path(holder.state_dir) != self._state_dir:
                for files, state in self._left(Path(holder.state_dir)):
                    host = state.plan.host
                    if host.uuid == host_uuid and uri.may_be_same(self._uri, host.uri):
                        yield files, state

    def _left(self, state_dir: Path) -> Iterator[tuple[RunFiles, State]]:
        for files in run_files.unfinished_runs(state_dir):
            with contextlib.suppress(OSError, JournalError):
                yield files, files.state()

    def _bring_back(self, lock: RunLock, say: Say) -> list[RunReport]:
        """Finish the runs of this host that were left unfinished, in whatever state directory."""
        places = [self._state_dir]
        if lock.left_by is not None and Path(lock.left_by.state_dir) not in places:
            places.append(Path(lock.left_by.state_dir))
        reports, left_alone = [], False
        for place in places:
            held = set(run_files.held_guests(place).values())
            for files, state in self._left(place):
                if state.plan.host.uuid != lock.host_uuid:
                    continue
                if files.run in held:
                    left_alone = True
                else:
                    reports.append(self._take_over(files, state, say))
        over = [found.run for found in reports if _is_over(found)]
        run_files.forget_lists(places, over)
        if len(over) == len(reports) and not left_alone:
            lock.name(None)
        return reports

    def _take_over(self, files: RunFiles, state: State, say: Say) -> RunReport:
        say(f"bringing back what run {files.run} left")
        try:
            journal = self._open_journal(files.journal)
        except OSError as error:
            say(f"{files.journal} can't be written ({error.strerror}); bringing guests back anyway")
            journal = MemoryJournal()
        steps = _steps(state.plan, NoGuardian(), HostCommand())
        rows = [*run_files.guardian_rows(files), *run_files.let_go_rows(files)]
        state = recovery.take_over(state, journal, steps, rows)
        return _finish(files, journal, state, steps, say)

    def _begin(self, files: RunFiles, plan: Plan) -> tuple[Journal, State]:
        """Open the journal and see the plan on the disk, or refuse."""
        journal = _open(self._open_journal, files.journal)
        state = start(journal.append(Planned(plan=plan)))
        problem = _sync_within(journal, FIRST_SYNC_LIMIT_S)
        if problem:
            raise RefusedError(
                f"the journal {files.journal} can't be written: {problem}",
                hint="free space or choose another --state-dir; nothing was paused",
            )
        return journal, state

    def _drive(
        self,
        files: RunFiles,
        journal: Journal,
        state: State,
        lock: RunLock,
        inbox: Inbox,
        *,
        output: int | None,
        say: Say,
    ) -> RunReport:
        watch = GuardianWatch(files, lock.guardian_path, inbox.put)
        steps = _steps(state.plan, watch, HostCommand(output), inbox.put)
        done = _finish(files, journal, state, steps, say, inbox)
        if _is_over(done):
            lock.name(None)
        return done


def _steps(
    plan: Plan, watch: Watch, command: HostCommand, tell: Callable[[Heard], None] | None = None
) -> Steps:
    """The workers of one run. `tell` is not needed to finish one: recovery begins no command."""
    fence = Fence()
    pausing = PauseWork(LibvirtPauser(plan.host), watch, plan.guests, fence)
    commands = Commands(command, fence)
    guests = LibvirtGuests(plan.host.uri)
    running = RunCommand(commands, tell)
    return {
        Verb.PREPARE: running,
        Verb.AWAIT_JOBS: AwaitJobs(guests),
        Verb.READ_CLOCKS: ReadClocks(LibvirtAgent(plan.host.uri), plan.guests),
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
    }


def _finish(
    files: RunFiles,
    journal: Journal,
    state: State,
    steps: Steps,
    say: Say,
    inbox: Inbox | None = None,
) -> RunReport:
    """Drive a run to its end and report it."""
    runner = Runner(
        decide=inplace.next,
        state=state,
        journal=journal,
        steps=steps,
        inbox=inbox or queue.SimpleQueue(),
        clock=time.monotonic_ns,
        say=say,
    )
    recovery.finish(
        runner,
        lambda state: bool(Progress(state).to_resume),
        lambda: run_files.guardian_rows(files),
    )
    _sync_within(journal, LAST_SYNC_LIMIT_S)
    return report(runner.state, time.monotonic_ns())


def _wait_for_guardian(lock: RunLock) -> None:
    until = time.monotonic() + GUARDIAN_WAIT_S
    while lock.guardian_lives():
        if time.monotonic() >= until:
            raise RefusedError(
                "a guardian is still bringing guests of an earlier run back",
                hint="`hostagent status` names the run; look at its guests' QEMU processes",
            )
        time.sleep(0.05)


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


def _is_over(ended: RunReport) -> bool:
    """Whether the run left no guest that is still to be brought back."""
    return all(guest.result not in ("unsettled", "resume-failed") for guest in ended.guests)


def _new_run() -> str:
    """A run's name: when it began, and which process, so that names sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"


def _unfinished(run: str, state: State, pid: int | None) -> Unfinished:
    """`pid` is the process that drives it, if that lives."""
    progress = Progress(state)
    names = [guest.name for guest in progress.guests if guest.uuid in progress.to_resume]
    if state.boot_id != boot_id():  # no process that it knew is left
        names = []
    what = f"guests that may be paused: {', '.join(names)}" if names else "no guest is paused by it"
    sentence = f"run {run} has no end; {what}; `hostagent recover` finishes it"
    if pid is not None:
        sentence = f"run {run} is under way (pid {pid}); {what}"
    return Unfinished(
        run=run, started=run.partition("-")[0], under_way=pid is not None, sentence=sentence
    )
