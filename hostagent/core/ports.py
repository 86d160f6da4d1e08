"""What the work needs of the outside: small Protocols that adapters (and tests) satisfy.

Layer: core. Every method says how long it may take: a port never makes its caller wait for a
guest, a daemon or a disk without limit. Times are CLOCK_MONOTONIC in ns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hostagent.core.clock import Answer, Question
from hostagent.core.host_notes import HostNotes, Note
from hostagent.core.journal import Entry, GuestOutcome, Row
from hostagent.core.model import Facts, Guest
from hostagent.core.move import Order, Progress
from hostagent.core.plan import Plan, PlannedGuest


class Journal(Protocol):
    """One run's journal on disk."""

    def append(self, row: Row) -> Entry:
        """Stamp the row and queue it for the disk. Memory only: never waits."""

    def sync(self) -> None:
        """Wait until all that was appended is on the disk. May hang as long as the disk does;
        call it from a thread that can be left behind. Raises OSError."""


class Guests(Protocol):
    """Guests as libvirt knows them."""

    def facts(self) -> Facts:
        """The host and all its guests. Takes at most a few seconds. Raises
        LibvirtUnreachableError, RefusedError."""

    def look(self, uuids: Sequence[str], limit_ns: int) -> Mapping[str, Guest]:
        """These guests as they are now; one that is not there any more is absent. Raises
        LibvirtUnreachableError after the limit."""


class Pauser(Protocol):
    """Stops and resumes guests, all at once, each by itself."""

    def warm(self, guests: Sequence[PlannedGuest], limit_ns: int) -> None:
        """Open the connections, look the guests up and listen to their events, before any pause.
        Raises LibvirtUnreachableError."""

    def pause(
        self,
        guests: Sequence[PlannedGuest],
        limit_ns: int,
        on_returned: Callable[[str], None],
    ) -> Mapping[str, GuestOutcome]:
        """Suspend all in parallel; a guest's result is one of

        paused      stands still because of us
        not-ours    its owner stopped it first, or it is another process now
        failed      libvirt refused; it runs
        unsettled   no answer within the limit: it may still stop later

        `on_returned(uuid)` is called as soon as nothing is outstanding for a guest. Figures:
        called_ns, returned_ns (bounds of the call), stopped_ns (QEMU's STOP event on the
        monotonic clock)."""

    def resume(
        self,
        guests: Sequence[PlannedGuest],
        limit_ns: int,
        on_back: Callable[[str], None],
    ) -> Mapping[str, GuestOutcome]:
        """Resume all, each by itself; a guest's result is one of

        resumed     runs again, read back
        running     ran already: its owner or the guardian was first
        gone        shut off, crashed, or another process now
        not-ours    paused, but for another reason than ours
        hung        its own QEMU does not answer; the others are not held up
        failed      could not be resumed, with the reason

        Figures: called_ns, returned_ns, resumed_ns (QEMU's RESUME event), way (libvirt or qmp)."""

    def look(self, guests: Sequence[PlannedGuest], limit_ns: int) -> Mapping[str, GuestOutcome]:
        """After a crash: `paused` (by user, same process), `running`, `gone` or `not-ours`."""


class Mover(Protocol):
    """Carries moves out, and finds out what came of them. Safe to call from many threads, for
    different guests. Every result is a GuestOutcome after both hosts were asked; `reason` says why,
    or what a person is to look at."""

    def move(self, order: Order, tell: Callable[[Progress], None]) -> GuestOutcome:
        """Carry one order out. A guest's result is one of

        moved       exactly one host has it, the destination, and it ran there if it ran; the figure
                    `state` is its state there (virsh's word): one may be off by now
        stayed      it is where it was, as it was
        saved       (Method.SAVE) its memory is on the source's disk
        shut-down   (Method.SHUTDOWN) it is off, on its host
        under-way   the source's libvirt still carries it out, though nobody waits any more
        ambiguous   both hosts have it, or neither, or one can't be asked

        `tell` is called about once a second and must not wait. Takes at most order.limit_ns, which
        holds order.shutdown_ns where the guest shuts down first, and a minute, whoever hangs.
        Until it is known that the guest stayed, its source does not start it at boot.
        Figures: state; total_ns; downtime_ns with downtime_source (events: QEMU's own STOP and
        RESUME by one machine's clock; qemu: libvirt's figure; shutdown-to-start) and
        downtime_uncertainty_ns; downtime_qemu_ns, downtime_events_ns where each was had; sent_b."""

    def look(self, order: Order) -> GuestOutcome:
        """What came of an order that somebody began: the words of `move`, and `state`. Waits for a
        move that goes on (a peer-to-peer migration outlives its client) until order.limit_ns after
        that began, or after this call where libvirt does not say when; then it is aborted, unless
        it can't be any more (post-copy). Does what libvirt left undone where it is sure what that
        is. Takes at most order.limit_ns and a minute."""

    def settle(self, order: Order) -> GuestOutcome:
        """After a move: the breadcrumb, snapshots' metadata, nothing left at the source, and only
        then autostart. May be repeated, also much later, until nothing is outstanding. `settled`,
        or `unsettled` with the reason. Takes up to a minute."""

    def abort(self, order: Order) -> None:
        """Ask for the end of a move that is under way. One that shut its guest down starts it again
        at the source, unless a start was asked of the destination already. Takes some seconds at
        most; what comes of it is what `move` or `look` says."""


class Agent(Protocol):
    """The QEMU guest agents. Safe to call from many threads, for different guests."""

    def ask(self, uuid: str, question: Question) -> Answer:
        """Put one question to one guest's agent. Never raises. Takes up to 2 s for an agent that
        hangs (twice that where the channel must be brought into step again), and without limit
        where libvirt itself hangs: call it from a thread that can be left behind."""

    def await_connected(self, uuid: str, until_ns: int) -> bool:
        """Wait until this guest's agent is connected, at most until then; whether it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandId:
    """A process of ours that outlives us: pid and start time (proc(5) field 22)."""

    pid: int
    start_ticks: int


class Command(Protocol):
    """The update's command: started behind a gate, so that its start is not in the pause."""

    def launch(self, name: str, argv: Sequence[str]) -> CommandId:
        """Start a waiting process for this command, in a session of its own. Raises RefusedError
        when it can't be started."""

    def release(self, name: str) -> None:
        """Open the gate: the command's first instruction runs now. Never waits."""

    def wait(self, name: str) -> int:
        """Wait for the command's exit, however long that takes; its status, negative for a signal
        (as subprocess). Raises OSError where it could not be executed."""

    def cancel(self, name: str) -> None:
        """End a command that still waits behind its gate, without running it."""

    def signal(self, command: CommandId, number: int) -> bool:
        """Signal the command's whole session, if this process is still that one."""

    def alive(self, command: CommandId) -> bool:
        """Whether this very process still lives."""


class Watch(Protocol):
    """The guardian, as seen by the run."""

    def arm(self, guests: Sequence[PlannedGuest], plan: Plan, budget_ns: int, limit_ns: int) -> int:
        """Start a guardian and wait until it is ready; the deadline (monotonic ns) at which it
        resumes. Raises RefusedError when it is not ready within the limit."""

    def settled(self, uuid: str) -> None:
        """No suspend is outstanding for this guest any more. Never waits."""

    def let_go(self, uuid: str) -> None:
        """This guest runs, or is not ours. Never waits."""

    def disarm(self, keep: Sequence[str], limit_ns: int) -> bool:
        """End the guardian, or leave it with the guests in `keep` alone; whether it confirmed."""


class HostBook(Protocol):
    """What this host remembers beyond single runs."""

    def read(self) -> HostNotes:
        """What is noted now. Raises RefusedError."""

    def write(self, note: Note) -> None:
        """Add a note and wait until it is on the disk, without limit. Raises RefusedError."""


class Clock(Protocol):
    """Time, as the runner knows it."""

    def __call__(self) -> int:
        """CLOCK_MONOTONIC in ns."""
