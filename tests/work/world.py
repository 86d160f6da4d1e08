"""A world with its own time: guests with true states, a guardian, a command, a journal.

What is simulated is only what stands outside of hostagent: libvirt and QEMU, the guardian process
(as DESIGN has it: it resumes at its deadline, when its owner dies, or what is left to it), the
update's command, and the disk. Time is a number that jumps from event to event. The world keeps
what really happened, and whatever must never happen is put down in `faults` at that moment.
"""

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hostagent.core.journal import Entry, Heard, Row, Stamp
from hostagent.rules.request import S
from tests.rules.runs import stamp

MS = 1_000_000
NEVER = None


@dataclass(frozen=True, kw_only=True)
class GuestScript:
    """What one guest is going to do. Times count from the moment the pause begins."""

    suspend_ns: int = MS
    refuses: bool = False
    owner_pauses_before: bool = False
    owner_pauses_after: bool = False
    owner_resumes_ns: int | None = None
    gone_ns: int | None = None
    frozen_ns: int | None = None
    thawed_after_ns: int | None = None
    resume_failures: int = 0
    agent: str = ""
    """good, busy (the first time), hung, away, refuses, restless (its own time daemon steps once
    after we have set it); empty: it has no channel."""


@dataclass(kw_only=True)
class SimGuest:
    """A guest as it truly is. `stopped_by` is "us", "owner", or empty while its CPUs run."""

    uuid: str
    script: GuestScript
    stopped_by: str = ""
    since_ns: int = 0
    gone: bool = False
    in_flight: bool = False
    owner_was_first: bool = False
    owner_was_last: bool = False
    frozen_from_ns: int | None = None
    thawed_ns: int | None = None
    resume_failures: int = 0
    stood_still: list[tuple[int, int]] = field(default_factory=list)
    behind_ns: int = 0
    """How far its clock is behind."""
    tried: int = 0
    talking: bool = False

    @property
    def is_wrong(self) -> bool:
        """Its clock is off, though its agent would have let us set it."""
        settable = self.script.agent in ("good", "busy", "restless")
        return settable and bool(self.behind_ns) and not self.gone and not self.stopped_by


class World:
    """Time, guests, the guardian and the command."""

    def __init__(self, scripts: dict[str, GuestScript]) -> None:
        self.now_ns = 100 * S
        self.faults: list[str] = []
        self.guests = {
            uuid: SimGuest(uuid=uuid, script=script, resume_failures=script.resume_failures)
            for uuid, script in scripts.items()
        }
        self.guardian: Guardian | None = None
        self.guardian_rows: list[Heard] = []
        self.guardian_ever_died = False
        self.deadline_ns = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when_ns: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when_ns, self.now_ns), next(self._numbers), what))

    def after(self, delay_ns: int, what: Callable[[], None]) -> None:
        self.at(self.now_ns + delay_ns, what)

    def next_event_ns(self) -> int | None:
        return self._events[0][0] if self._events else None

    def step(self) -> None:
        """Let the next event happen."""
        when_ns, _, what = heapq.heappop(self._events)
        self.now_ns = max(self.now_ns, when_ns)
        what()

    def run_until_quiet(self, limit_ns: int = 200 * S) -> None:
        end_ns = self.now_ns + limit_ns
        while (when_ns := self.next_event_ns()) is not None and when_ns <= end_ns:
            self.step()

    # guests

    def frozen(self, guest: SimGuest) -> bool:
        """Whether its QEMU hangs now."""
        begun = guest.frozen_from_ns is not None and guest.frozen_from_ns <= self.now_ns
        return begun and (guest.thawed_ns is None or self.now_ns < guest.thawed_ns)

    def frozen_for_ever(self, guest: SimGuest) -> bool:
        return self.frozen(guest) and guest.thawed_ns is None

    def begin_scripts(self) -> None:
        """The pause begins: what the guests do by themselves is due from now on."""
        for guest in self.guests.values():
            script = guest.script
            if script.frozen_ns is not None:
                guest.frozen_from_ns = self.now_ns + script.frozen_ns
                if script.thawed_after_ns is not None:
                    guest.thawed_ns = guest.frozen_from_ns + script.thawed_after_ns
            if script.gone_ns is not None:
                self.after(script.gone_ns, lambda guest=guest: self._goes(guest))  # type: ignore[misc]
            if script.owner_resumes_ns is not None:
                self.after(
                    script.owner_resumes_ns,
                    lambda guest=guest: self.runs_again(guest),  # type: ignore[misc]
                )

    def owners_pause_before(self) -> None:
        for guest in self.guests.values():
            if guest.script.owner_pauses_before:
                guest.stopped_by, guest.owner_was_first = "owner", True

    def owners_pause_after(self, uuids: Sequence[str]) -> None:
        """It is known and on record that these are back: their owners pause them for themselves."""
        for uuid in uuids:
            guest = self.guests[uuid]
            if guest.script.owner_pauses_after and not guest.stopped_by and not guest.gone:
                guest.stopped_by, guest.owner_was_last = "owner", True

    def _goes(self, guest: SimGuest) -> None:
        self.runs_again(guest)
        guest.stopped_by, guest.gone = "", True

    def runs_again(self, guest: SimGuest) -> None:
        if guest.stopped_by == "us" and not self.frozen(guest):
            guest.stood_still.append((guest.since_ns, self.now_ns))
            guest.behind_ns += self.now_ns - guest.since_ns
            guest.stopped_by = ""

    def resume(self, guest: SimGuest, who: str) -> str:
        """Somebody of ours resumes it: the result's word."""
        if guest.gone:
            return "gone"
        if self.frozen(guest):
            return "hung"
        if not guest.stopped_by:
            return "running"
        if guest.stopped_by == "owner":
            self.faults.append(f"{who} resumed {guest.uuid}, which its owner had paused")
        self.runs_again(guest)
        guest.stopped_by = ""
        return "resumed"

    def suspend(self, guest: SimGuest, on_returned: Callable[[], None]) -> None:
        """A suspend call is sent: it takes effect later, and as soon as its QEMU answers."""
        guest.in_flight = True

        def take_effect() -> None:
            if self.frozen(guest):
                if guest.thawed_ns is not None:
                    self.at(guest.thawed_ns, take_effect)
                return
            guest.in_flight = False
            if not guest.gone and not guest.stopped_by:
                guest.stopped_by, guest.since_ns = "us", self.now_ns
            on_returned()

        self.after(guest.script.suspend_ns, take_effect)

    def standing_still(self) -> list[SimGuest]:
        return [guest for guest in self.guests.values() if guest.stopped_by == "us"]


class Guardian:
    """The guardian's contract, as guardian/guard keeps it."""

    LOOK_NS = 200 * MS
    SETTLED_NS = 2 * S

    def __init__(self, world: World, uuids: Sequence[str], deadline_ns: int) -> None:
        self._world = world
        self.alive = True
        self.held = dict.fromkeys(uuids, False)
        """Guests it has not done with, and whether their suspend has returned."""
        self.owner_dead = False
        self._disarmed = False
        self._triggered = False
        self._said: dict[str, str] = {}
        self._running_since_ns: dict[str, int] = {}
        world.at(deadline_ns, self._trigger)

    def settled(self, uuid: str) -> None:
        if uuid in self.held:
            self.held[uuid] = True

    def let_go(self, uuid: str) -> None:
        self.held.pop(uuid, None)
        self._end_if_done()

    def disarm(self, keep: Sequence[str]) -> None:
        self._disarmed = True
        self.held = {uuid: known for uuid, known in self.held.items() if uuid in keep}
        self._trigger()
        self._end_if_done()

    def owner_dies(self) -> None:
        self.owner_dead = True
        self._trigger()
        self._end_if_done()

    def dies(self) -> None:
        self.alive = False
        self._world.guardian_ever_died = True

    def _trigger(self) -> None:
        if self.alive and not self._triggered:
            self._triggered = True
            for uuid in list(self.held):
                self._world.after(MS, lambda uuid=uuid: self._bring_back(uuid))  # type: ignore[misc]

    def _bring_back(self, uuid: str) -> None:
        if not self.alive or uuid not in self.held:
            return
        world, guest = self._world, self._world.guests[uuid]
        settled = self.held[uuid]
        result = world.resume(guest, "the guardian")
        self._note(uuid, result)
        if self._is_over(guest, result, settled=settled):
            del self.held[uuid]
            self._end_if_done()
        elif not world.frozen_for_ever(guest):
            world.after(self.LOOK_NS, lambda: self._bring_back(uuid))

    def _is_over(self, guest: SimGuest, result: str, *, settled: bool) -> bool:
        if result == "gone":
            return True
        if result != "running":
            self._running_since_ns.pop(guest.uuid, None)
            return result == "resumed" and settled
        since_ns = self._running_since_ns.setdefault(guest.uuid, self._world.now_ns)
        long = self._world.now_ns - since_ns >= self.SETTLED_NS
        return settled or (long and self.owner_dead and not guest.in_flight)

    def _note(self, uuid: str, result: str) -> None:
        if self._said.get(uuid) != result:
            self._said[uuid] = result
            value = {"uuid": uuid, "result": result, "reason": "", "figures": {}}
            self._world.guardian_rows.append(Heard(what="guardian-back", value=value))

    def _end_if_done(self) -> None:
        if not self.held and (self._disarmed or self.owner_dead):
            self.alive = False


@dataclass(kw_only=True)
class SimCommand:
    """The update's command: behind its gate, running, or ended."""

    duration_ns: int | None
    exit_code: int
    heeds_signals: bool
    waiting: bool = False
    released_ns: int | None = None
    ended_ns: int | None = None
    code: int | None = None
    on_end: Callable[[], None] | None = None

    @property
    def lives(self) -> bool:
        """Whether it runs: it was let through its gate and has not ended."""
        return self.released_ns is not None and self.ended_ns is None

    def release(self, world: World) -> None:
        self.waiting, self.released_ns = False, world.now_ns
        if self.duration_ns is not None:
            world.after(self.duration_ns, lambda: self.end(world, self.exit_code))

    def end(self, world: World, code: int) -> None:
        if not self.lives:
            return
        self.ended_ns, self.code = world.now_ns, code
        if self.on_end is not None:
            self.on_end()

    def signal(self, world: World, name: str) -> str:
        if self.waiting:
            self.waiting = False  # the process at the gate dies of it
            return "sent"
        if not self.lives:
            return "gone"
        if name == "SIGKILL":
            self.end(world, -9)
        elif self.heeds_signals:
            world.after(100 * MS, lambda: self.end(world, -15))
        return "sent"


class SimJournal:
    """Rows in memory, some of them on the disk; `on_row` is called after each."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.entries: list[Entry] = []
        self.durable = 0
        self.on_row: Callable[[int, Row], None] = lambda number, row: None

    def append(self, row: Row) -> Entry:
        self._world.now_ns += 1
        entry = Entry(row=row, stamp=self._stamp())
        self.entries.append(entry)
        self.on_row(len(self.entries), row)
        return entry

    def sync(self) -> None:
        self.durable = len(self.entries)

    def lose(self, rows: int) -> None:
        """The process died before the last rows reached the disk."""
        kept = max(self.durable, len(self.entries) - rows)
        del self.entries[kept:]

    def _stamp(self) -> Stamp:
        return stamp(self._world.now_ns)
