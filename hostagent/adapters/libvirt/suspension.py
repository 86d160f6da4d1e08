"""One suspend of many guests: all at once, each with proof that it is ours.

Layer: adapters. A guest is ours when it ran at the last read before our suspend, is the same
process, and stands still (paused, user) after it; a STOP from before our call disproves it: its
owner was first (suspending a paused guest succeeds without an event). Order: one read of all
states, then all calls over warm lines, then one read of all states again, so that no guest that
stands still waits for questions about another. A call without an answer in time is *unsettled*: it
may still take effect, and `on_returned` says when nothing is outstanding any more. No call begins
after the limit, whatever hung before it. A guest whose QEMU is stopped (SIGSTOP) beforehand is not
even called: the suspend would stop it whenever it is woken. Units: ns, monotonic. Errors: none is
raised; every guest gets an outcome.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import libvirt

from hostagent.adapters.host.clock import shift_ns
from hostagent.adapters.libvirt import errors, words
from hostagent.adapters.libvirt.events import Event, Events
from hostagent.core.journal import GuestOutcome
from hostagent.core.model import RUNS, GuestState, Process
from hostagent.core.plan import Json, PlannedGuest
from hostagent.guardian.connect import CallTimeout, Lines, Ticket, Unreachable
from hostagent.guardian.process import STOPPED, state_of

READ_LIMIT_NS = 500_000_000
"""Reading all states takes well below 1 ms; a guest in the middle of a save may hold it up."""

TOLERANCE_NS = 500_000
"""How far QEMU's time of an event may be off ours: microseconds, and our own two clocks' readings.
An owner's pause this close before our call can't be told from ours."""

SHIFT_TOLERANCE_NS = 1_000_000
"""A wall clock that moved more than this since our call was set, not slewed."""

PLAUSIBLE_NS = 50_000_000
"""An event takes about 1 ms to us. One that seems to have taken longer may come from a QEMU whose
clock is not the host's: then the time of receipt counts."""

GRACE_NS = 20_000_000
"""How long a finished suspend waits for its event. It nearly always arrives before the call is
over; on a busy host it may be late, and without it the pause is measured only roughly."""

ENDED = "it ended, or is another process now"
PAUSED_FIRST = "its owner paused it first"
TOO_LATE = "libvirt did not get to it in time"

States = Mapping[str, tuple[GuestState, str]]
"""State and reason of each guest by UUID, as they were read in one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """A suspend of ours: what tells its events from others'."""

    called_ns: int
    returned_ns: int
    shift_ns: int
    stop: Event | None = None

    def precedes(self, event: Event) -> bool:
        """Whether the event happened before our call."""
        return self._moment(event) < self.called_ns - TOLERANCE_NS

    def is_after(self, event: Event) -> bool:
        """Whether the event came after our own STOP, so that it is another's doing."""
        since_ns = self.stop.received_ns if self.stop else self.returned_ns or self.called_ns
        return event.received_ns > since_ns

    def _moment(self, event: Event) -> int:
        """When an event happened: QEMU's time where it can be right, else that of its receipt."""
        if event.at_ns is None or abs(event.shift_ns - self.shift_ns) > SHIFT_TOLERANCE_NS:
            return event.received_ns
        took_ns = event.received_ns - event.at_ns
        return event.at_ns if -TOLERANCE_NS <= took_ns <= PLAUSIBLE_NS else event.received_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    """A reason not to suspend, found before any call."""

    outcome: GuestOutcome


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """One guest under way. `answer` counts once `arrived` is set: None is success."""

    guest: PlannedGuest
    process: Process
    ticket: Ticket | None = None
    called_ns: int = 0
    returned_ns: int = 0
    arrived: bool = False
    answer: _Refused | Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether its QEMU process is gone."""
        return not state_of(self.process.pid, self.process.start_ticks)

    def figures(self) -> dict[str, Json]:
        """The bounds of the call, as far as there was one."""
        if not self.returned_ns:
            return {"called_ns": self.called_ns} if self.called_ns else {}
        return {"called_ns": self.called_ns, "returned_ns": self.returned_ns}


class Suspension:
    """One suspend of these guests. `ours` receives what was suspended, late answers too."""

    def __init__(
        self,
        lines: Lines,
        events: Events,
        ours: MutableMapping[str, Ours],
        on_returned: Callable[[str], None],
    ) -> None:
        self._lines = lines
        self._events = events
        self._ours = ours
        self._on_returned = on_returned
        self._arrived: SimpleQueue[str] = SimpleQueue()
        self._over = False
        self._until_ns = 0
        self._lock = threading.Lock()
        self._before: States | None = None
        self._read_ns = 0
        self._shift_ns = 0

    def run(self, guests: Sequence[PlannedGuest], limit_ns: int) -> dict[str, GuestOutcome]:
        """Suspend them; returns when each has an answer, or at the limit."""
        self._read_ns = time.monotonic_ns()
        self._until_ns = self._read_ns + limit_ns
        self._before = self._states(min(READ_LIMIT_NS, limit_ns // 4))
        self._shift_ns = shift_ns()
        outcomes, attempts = {}, {}
        for guest in guests:
            if guest.process is None:
                outcomes[guest.uuid] = _failed("its QEMU process is not known")
                self._on_returned(guest.uuid)
            else:
                attempts[guest.uuid] = _Attempt(guest=guest, process=guest.process)
        for attempt in attempts.values():
            self._submit(attempt)
        self._collect(attempts)
        self._await_events(attempts.values())
        after = self._states(max(min(READ_LIMIT_NS, self._left_ns()), GRACE_NS))
        for uuid, attempt in attempts.items():
            outcomes[uuid] = self._judge(attempt, after)
        return outcomes

    # the calls

    def _submit(self, attempt: _Attempt) -> None:
        attempt.ticket = self._lines.submit(
            attempt.guest.uuid,
            lambda domain: self._suspend(domain, attempt),
            lambda answer: self._arrive(attempt, answer),
        )

    def _suspend(self, domain: libvirt.virDomain, attempt: _Attempt) -> _Refused | None:
        """In a worker's thread: the last look, and the call."""
        refusal = self._refusal(domain, attempt)
        if refusal is not None:
            return _Refused(outcome=refusal)
        with self._lock:
            # This process may have been frozen, or hung in the look: then it is too late.
            if self._over or not self._left_ns():
                return _Refused(outcome=_failed(TOO_LATE))
            attempt.called_ns = time.monotonic_ns()
        domain.suspend()
        attempt.returned_ns = time.monotonic_ns()
        return None

    def _refusal(self, domain: libvirt.virDomain, attempt: _Attempt) -> GuestOutcome | None:
        uuid = attempt.guest.uuid
        process = state_of(attempt.process.pid, attempt.process.start_ticks)
        if not process:
            return _not_ours(ENDED)
        if process in STOPPED:
            return _failed("its QEMU process is stopped (SIGSTOP or a debugger)")
        if self._before is None:
            state, reason = _words(*domain.state())
        else:
            state, reason = self._before.get(uuid, (GuestState.SHUT_OFF, "gone"))
        if state not in RUNS:
            return _not_ours(_is(state, reason))
        if _stands_still(event for event in self._heard(uuid)):
            return _not_ours(PAUSED_FIRST)
        return None

    def _arrive(self, attempt: _Attempt, answer: _Refused | Exception | None) -> None:
        """In a worker's thread, as soon as the call is over."""
        with self._lock:
            if attempt.arrived:
                return
            attempt.answer = answer
            attempt.arrived = True
            if not self._over:
                self._arrived.put(attempt.guest.uuid)
                return
        if answer is None:
            self._ours[attempt.guest.uuid] = self._ours_of(attempt)
        self._on_returned(attempt.guest.uuid)

    def _collect(self, attempts: Mapping[str, _Attempt]) -> None:
        """Take the answers as they come; from the limit on no call begins any more."""
        for _ in attempts:
            try:
                self._on_returned(self._arrived.get(timeout=self._left_ns() / 1e9))
            except Empty:
                break
        with self._lock:
            self._over = True
            for attempt in attempts.values():
                if not attempt.arrived and not attempt.called_ns:
                    attempt.answer = _Refused(outcome=_failed(TOO_LATE))
                    attempt.arrived = True
                    self._arrived.put(attempt.guest.uuid)
        for attempt in attempts.values():
            if attempt.ticket is not None:
                attempt.ticket.cancel()
        while not self._arrived.empty():
            self._on_returned(self._arrived.get())

    def _left_ns(self) -> int:
        return max(self._until_ns - time.monotonic_ns(), 0)

    # the proof

    def _states(self, limit_ns: int) -> States | None:
        """All states in one call that asks no QEMU; None if there is no answer in time."""
        try:
            return self._lines.call(read_states, limit_ns)
        except (Unreachable, CallTimeout, libvirt.libvirtError):
            return None

    def _heard(self, uuid: str) -> list[Event]:
        """What stopped or resumed this guest since its state was read."""
        return [
            event
            for event in self._events.of(uuid)
            if event.name in ("STOP", "RESUME") and event.received_ns >= self._read_ns
        ]

    def _ours_of(self, attempt: _Attempt) -> Ours:
        """What is known of our suspend now: the first STOP that is not from before it."""
        ours = Ours(
            called_ns=attempt.called_ns,
            returned_ns=attempt.returned_ns,
            shift_ns=self._shift_ns,
        )
        heard = self._heard(attempt.guest.uuid)
        stop = next(
            (event for event in heard if event.name == "STOP" and not ours.precedes(event)), None
        )
        return Ours(
            called_ns=ours.called_ns,
            returned_ns=ours.returned_ns,
            shift_ns=ours.shift_ns,
            stop=stop,
        )

    def _await_events(self, attempts: Iterable[_Attempt]) -> None:
        if not self._events.await_listening(0):
            return
        for attempt in attempts:
            if attempt.arrived and attempt.answer is None:
                until_ns = attempt.returned_ns + GRACE_NS
                self._events.await_name(attempt.guest.uuid, "STOP", self._read_ns, until_ns)

    def _judge(self, attempt: _Attempt, after: States | None) -> GuestOutcome:
        if not attempt.arrived:
            return self._mine(attempt, "unsettled", "libvirt has not answered its suspend yet")
        if isinstance(attempt.answer, _Refused):
            return attempt.answer.outcome
        if attempt.ended:
            return _not_ours(ENDED)
        if not attempt.called_ns:
            return _failed(_told(attempt.answer))
        ours = self._ours_of(attempt)
        if _stands_still(
            event for event in self._heard(attempt.guest.uuid) if ours.precedes(event)
        ):
            return _not_ours(PAUSED_FIRST)
        if after is None:
            return self._unread(attempt)
        return self._read_back(attempt, *after.get(attempt.guest.uuid, (GuestState.SHUT_OFF, "")))

    def _unread(self, attempt: _Attempt) -> GuestOutcome:
        """The state could not be read again: the call's own answer has to do."""
        if attempt.answer is None:
            return self._mine(attempt, "paused", "its state could not be read again")
        if isinstance(attempt.answer, Unreachable):
            return self._mine(attempt, "unsettled", str(attempt.answer))
        return _failed(_told(attempt.answer))

    def _read_back(self, attempt: _Attempt, state: GuestState, reason: str) -> GuestOutcome:
        if state is GuestState.PAUSED and reason == words.USER:
            return self._mine(attempt, "paused", "")
        if state not in RUNS:
            return _not_ours(_is(state, reason))
        if attempt.answer is None:
            return _failed("it runs although libvirt said that it was suspended")
        return _failed(_told(attempt.answer))

    def _mine(self, attempt: _Attempt, result: str, reason: str) -> GuestOutcome:
        ours = self._ours[attempt.guest.uuid] = self._ours_of(attempt)
        figures = attempt.figures()
        if ours.stop is not None:
            figures |= {"stopped_ns": ours.stop.at_ns, "stopped_shift_ns": ours.stop.shift_ns}
        return GuestOutcome(result=result, reason=reason, figures=figures)


def read_states(conn: libvirt.virConnect) -> States:
    """State and reason of all guests in virsh's words."""
    rows = conn.getAllDomainStats(
        libvirt.VIR_DOMAIN_STATS_STATE, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    )
    return {
        domain.UUIDString(): _words(stats["state.state"], stats["state.reason"])
        for domain, stats in rows
    }


def _words(state: int, reason: int) -> tuple[GuestState, str]:
    word = words.state(state)
    return word, words.reason(word, reason)


def _is(state: GuestState, reason: str) -> str:
    return f"it is {state} ({reason})" if reason else f"it is {state}"


def _stands_still(events: Iterable[Event]) -> bool:
    """Whether the last of these STOPs and RESUMEs is a STOP."""
    names = [event.name for event in events]
    return bool(names) and names[-1] == "STOP"


def _failed(reason: str) -> GuestOutcome:
    return GuestOutcome(result="failed", reason=reason)


def _not_ours(reason: str) -> GuestOutcome:
    return GuestOutcome(result="not-ours", reason=reason)


def _told(answer: _Refused | Exception | None) -> str:
    """An error of a call in the operator's words."""
    if isinstance(answer, libvirt.libvirtError):
        return errors.translate(answer).message
    return str(answer)
