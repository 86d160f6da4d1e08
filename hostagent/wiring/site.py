"""A `Site` is one host's libvirt and one state directory. Order of every command that changes
something: lock -> no guardian alive -> what earlier runs left is brought back -> facts -> plan ->
run. Reading commands (status, --dry-run) take no lock and change nothing.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hostagent.adapters import run_files
from hostagent.adapters.guardian import GuardianWatch, NoGuardian
from hostagent.adapters.host.command import HostCommand
from hostagent.adapters.host.facts import read_clock
from hostagent.adapters.host.locks import RunLock, holders, ourselves
from hostagent.adapters.host.signals import put_off, told_to
from hostagent.adapters.host_file import HostFile
from hostagent.adapters.journal_file import JournalFile, MemoryJournal
from hostagent.adapters.libvirt import uri
from hostagent.adapters.libvirt.guests import LibvirtGuests
from hostagent.adapters.libvirt.metadata import LibvirtNotes
from hostagent.adapters.run_files import RunFiles
from hostagent.core.errors import LibvirtUnreachableError, RefusedError
from hostagent.core.journal import JournalError, State
from hostagent.core.model import Facts
from hostagent.core.plan import Plan
from hostagent.rules import clock_sync
from hostagent.rules import request as requests
from hostagent.rules.clock_sync import ClockSyncReport, ClockTerms
from hostagent.rules.report import RunReport, report
from hostagent.rules.request import Request
from hostagent.wiring.running import KINDS, OpenJournal, Report, Say, begin, finish, workers
from hostagent.work import recovery
from hostagent.work.inbox import Inbox

GUARDIAN_WAIT_S = 5.0
"""How long a command waits for a guardian that is just bringing an earlier run's guests back."""


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
        self.state_dir = (state_dir or run_files.default_state_dir()).absolute()
        self._open_journal = open_journal

    def plan(self, request: Request) -> Plan:
        """What a run would do; nothing is locked, brought back or changed."""
        return requests.plan(new_run(), request, self.noted_facts())

    def run(self, request: Request, *, output: int | None, say: Say) -> RunReport:
        """Carry a run out. `output` is where its commands write (None: where we do). Raises
        RefusedError and its kinds while nothing was changed."""
        state = self.carry_out(
            lambda facts: requests.plan(new_run(), request, _with_notes(facts)),
            output=output,
            say=say,
        )
        return report(state, time.monotonic_ns())

    def clock_plan(self, selectors: Sequence[str], terms: ClockTerms) -> Plan:
        """What `clock sync` would look at; nothing is changed."""
        return clock_sync.plan(new_run(), selectors, terms, self.facts())

    def sync_clocks(
        self, selectors: Sequence[str], terms: ClockTerms, *, say: Say
    ) -> ClockSyncReport:
        """Set the clocks of these guests, or of all. Raises as `run`."""
        state = self.carry_out(
            lambda facts: clock_sync.plan(new_run(), selectors, terms, facts),
            output=None,
            say=say,
        )
        return clock_sync.report(state, time.monotonic_ns())

    def recover(self, *, say: Say) -> list[Report]:
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

    def noted_facts(self) -> Facts:
        """The facts, with what is noted in the guests that run. Raises as `facts`."""
        return _with_notes(self.facts())

    def book(self, host_uuid: str) -> HostFile:
        """What this host remembers beyond runs."""
        return HostFile(self.state_dir, host_uuid)

    def unfinished(self) -> list[Unfinished]:
        """What runs left unfinished; nothing is done about it."""
        living = {holder.run: holder.pid for _, holder in holders() if holder.lives}
        return [
            _unfinished(files.run, state, living.get(files.run))
            for files, state in self._all_left()
        ]

    def carry_out(
        self, plan_for: Callable[[Facts], Plan], *, output: int | None, say: Say
    ) -> State:
        """Any run, from the lock to its end: its last state."""
        with self._locked(self._host_uuid(say)) as lock:
            with put_off():
                self._bring_back(lock, say)
            plan = plan_for(self.facts())
            run_files.tidy(self.state_dir)
            files = RunFiles(state_dir=self.state_dir, run=plan.run)
            inbox = Inbox()
            with told_to(inbox.put):  # from the first row on, so that a stopped run has its end
                journal, state = begin(files, plan, self._open_journal)
                lock.name(ourselves(plan.run, self.state_dir))
                watch = GuardianWatch(files, lock.guardian_path, inbox.put)
                steps = workers(files, plan, watch, HostCommand(output), say, inbox.put)
                state = finish(files, journal, state, steps, say, inbox)
                if _is_over(state):
                    lock.name(None)
                return state

    def facts(self) -> Facts:
        """This host and its guests now, and what earlier runs left. Raises RefusedError."""
        facts = LibvirtGuests(self._uri).facts()
        return replace(
            facts,
            host=replace(facts.host, clock_synchronised=read_clock().synchronised),
            held=run_files.held_guests(self.state_dir),
            running_commands={
                command.pid: line
                for command, line in run_files.living_commands(self.state_dir, facts.host.uuid)
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
        yield from self._left(self.state_dir)
        for host_uuid, holder in holders():
            if Path(holder.state_dir) != self.state_dir:
                for files, state in self._left(Path(holder.state_dir)):
                    host = state.plan.host
                    if host.uuid == host_uuid and uri.may_be_same(self._uri, host.uri):
                        yield files, state

    def _left(self, state_dir: Path) -> Iterator[tuple[RunFiles, State]]:
        for files in run_files.unfinished_runs(state_dir):
            with contextlib.suppress(OSError, JournalError):
                yield files, files.state()

    def _bring_back(self, lock: RunLock, say: Say) -> list[Report]:
        """Finish the runs of this host that were left unfinished, in whatever state directory."""
        places = [self.state_dir]
        if lock.left_by is not None and Path(lock.left_by.state_dir) not in places:
            places.append(Path(lock.left_by.state_dir))
        ends: list[State] = []
        left_alone = False
        for place in places:
            held = set(run_files.held_guests(place).values())
            for files, state in self._left(place):
                if state.plan.host.uuid != lock.host_uuid:
                    continue
                if files.run in held:
                    left_alone = True
                else:
                    ends.append(self._take_over(files, state, say))
        over = [state.plan.run for state in ends if _is_over(state)]
        run_files.forget_lists(places, over)
        if len(over) == len(ends) and not left_alone:
            lock.name(None)
        now_ns = time.monotonic_ns()
        return [KINDS[state.plan.kind].report(state, now_ns) for state in ends]

    def _take_over(self, files: RunFiles, state: State, say: Say) -> State:
        say(f"bringing back what run {files.run} left")
        try:
            journal = self._open_journal(files.journal)
        except OSError as error:
            say(f"{files.journal} can't be written ({error.strerror}); bringing guests back anyway")
            journal = MemoryJournal()
        steps = workers(files, state.plan, NoGuardian(), HostCommand(), say)
        rows = [*run_files.guardian_rows(files), *run_files.let_go_rows(files)]
        state = recovery.take_over(state, journal, steps, rows)
        if not KINDS[state.plan.kind].recovers_slowly:
            return finish(files, journal, state, steps, say)
        inbox = Inbox()
        known = len(state.heard)
        with told_to(inbox.put):
            state = finish(files, journal, state, steps, say, inbox)
        for heard in state.heard[known:]:
            if heard.what == "signal":  # the command that came upon this run stops, too
                signal.raise_signal(signal.Signals[str(heard.value)])
        return state


def _with_notes(facts: Facts) -> Facts:
    """With what is noted in the guests that run: what their owners allow."""
    uuids = [guest.uuid for guest in facts.guests if guest.runs]
    return replace(facts, notes=LibvirtNotes(facts.host.uri).read(uuids))


def _wait_for_guardian(lock: RunLock) -> None:
    until = time.monotonic() + GUARDIAN_WAIT_S
    while lock.guardian_lives():
        if time.monotonic() >= until:
            raise RefusedError(
                "a guardian is still bringing guests of an earlier run back",
                hint="`hostagent status` names the run; look at its guests' QEMU processes",
            )
        time.sleep(0.05)


def _is_over(state: State) -> bool:
    """Whether the run left no guest that is still to be brought back."""
    return not KINDS[state.plan.kind].has_guests_to_bring_back(state)


def new_run() -> str:
    """A run's name: when it began, and which process, so that names sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"


def _unfinished(run: str, state: State, pid: int | None) -> Unfinished:
    """`pid` is the process that drives it, if that lives."""
    what = KINDS[state.plan.kind].left(state)
    sentence = f"run {run} has no end; {what}; `hostagent recover` finishes it"
    if pid is not None:
        sentence = f"run {run} is under way (pid {pid}); {what}"
    return Unfinished(
        run=run, started=run.partition("-")[0], under_way=pid is not None, sentence=sentence
    )
