"""Stops guests and brings them back, all at once and each by itself.

Layer: adapters; satisfies ports.Pauser. Stopping is in suspension.py, resuming is the guardian's
(guardian/resume): it exists once. Effects: suspends and resumes; connections and threads that are
left behind with the process, which ends by os._exit. Invariant: all that can be opened or looked
up is so before the first suspend (`warm`); a resume needs none of it. Units: ns, monotonic.
Errors: LibvirtUnreachableError from `warm` and `look`; else every guest gets an outcome.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from hostagent.adapters.libvirt import errors, uri
from hostagent.adapters.libvirt.events import Event, Events
from hostagent.adapters.libvirt.guests import LibvirtGuests
from hostagent.adapters.libvirt.suspension import Ours, Suspension
from hostagent.adapters.libvirt.words import USER
from hostagent.adapters.targets import target_of, ways_of
from hostagent.core.journal import GuestOutcome
from hostagent.core.model import Guest, GuestState, Host
from hostagent.core.plan import Json, PlannedGuest
from hostagent.guardian.connect import Lines, silence
from hostagent.guardian.probe import Probe
from hostagent.guardian.resume import Back, Result, Resumer, Target

CONNECTIONS = 4
WORKERS_EACH = 2
"""8 workers over 4 connections: measured as fast as more, and libvirt has 20 workers in all."""

LISTENING_LIMIT_NS = 50_000_000
"""How long a resume waits for the event stream to come back after a restart of libvirt: without it
the event is lost. Less than anybody notices, and only when the stream is down."""

CATCH_UP_LIMIT_NS = 200_000_000
"""How long a resume waits for events that have arrived and were not looked at yet: after hostagent
was frozen they tell whom the guardian resumed, and whose owner paused it again. It takes 0.1 ms; on
a host so busy that it takes much longer, an owner's pause comes first."""

EVENT_LIMIT_NS = 50_000_000
"""How long a finished resume waits for its event, which takes about 1 ms; guests run by then."""

LET_GO = frozenset((Result.RESUMED, Result.RUNNING, Result.GONE, Result.NOT_OURS))


class LibvirtPauser:
    """Pauses and resumes guests of one host, as it was identified while libvirt was healthy."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._place = f"socket {uri.socket_of(host.uri)}"
        self._events = Events(host.uri, self._place)
        self._ours: dict[str, Ours] = {}
        self._making = threading.Lock()
        self._made: Resumer | None = None

    def warm(self, guests: Sequence[PlannedGuest], limit_ns: int) -> None:
        """Open the connections, look the guests up and listen to their events."""
        until_ns = time.monotonic_ns() + limit_ns
        resumer = self._resumer()
        if not resumer.lines.warm([guest.uuid for guest in guests], limit_ns):
            raise errors.no_answer("opening connections", limit_ns, self._place)
        self._events.start(max(until_ns - time.monotonic_ns(), 1))
        if not resumer.probe.wait_first_answer(max(until_ns - time.monotonic_ns(), 1)):
            raise errors.no_answer("asking libvirt", limit_ns, self._place)

    def pause(
        self,
        guests: Sequence[PlannedGuest],
        limit_ns: int,
        on_returned: Callable[[str], None],
    ) -> Mapping[str, GuestOutcome]:
        """Suspend all in parallel; see ports.Pauser."""
        suspension = Suspension(self._resumer().lines, self._events, self._ours, on_returned)
        return suspension.run(guests, limit_ns)

    def resume(
        self,
        guests: Sequence[PlannedGuest],
        limit_ns: int,
        on_back: Callable[[str], None],
    ) -> Mapping[str, GuestOutcome]:
        """Resume all, each by itself; see ports.Pauser."""
        self._events.catch_up(CATCH_UP_LIMIT_NS)
        outcomes: dict[str, GuestOutcome] = {}
        targets = []
        for guest in guests:
            refusal = self._disproved(guest)
            if refusal is None:
                targets.append(target_of(guest))
            else:
                outcomes[guest.uuid] = refusal
                on_back(guest.uuid)
        backs: dict[str, Back] = {}

        def hear(back: Back) -> None:
            backs[back.uuid] = back
            if back.result in LET_GO:
                on_back(back.uuid)

        if self._ours:
            self._events.await_listening(LISTENING_LIMIT_NS)
        self._resumer().resume(targets, limit_ns, hear)
        event_until_ns = time.monotonic_ns() + EVENT_LIMIT_NS
        for target in targets:
            outcomes[target.uuid] = self._outcome(backs.get(target.uuid), target, event_until_ns)
        return outcomes

    def look(self, guests: Sequence[PlannedGuest], limit_ns: int) -> Mapping[str, GuestOutcome]:
        """After a crash: what libvirt says of these guests now."""
        found = LibvirtGuests(self._host.uri).look([guest.uuid for guest in guests], limit_ns)
        return {guest.uuid: _seen(guest, found.get(guest.uuid)) for guest in guests}

    def close(self) -> None:
        """Close every connection, for a process that goes on without them. Never waits."""
        self._events.close()
        if self._made is not None:
            self._made.lines.close()
            self._made.probe.close()

    def _resumer(self) -> Resumer:
        """Made once, at the first need; opening its connections never keeps the caller waiting."""
        with self._making:
            if self._made is None:
                silence()
                lines = Lines(self._host.uri, count=CONNECTIONS, workers=WORKERS_EACH)
                self._made = Resumer(ways_of(self._host), lines, Probe(self._host.uri))
            return self._made

    def _disproved(self, guest: PlannedGuest) -> GuestOutcome | None:
        """Why it must not be resumed by us: unknown process, or events say it is not ours now."""
        if guest.process is None:
            return GuestOutcome(result="failed", reason="its QEMU process is not known")
        ours = self._ours.get(guest.uuid)
        # The events of a guest that was started again are those of another process.
        if ours is None or not target_of(guest).state():
            return None
        since = [event.name for event in self._events.of(guest.uuid) if ours.is_after(event)]
        if "RESUME" in since and "STOP" in since[since.index("RESUME") :]:
            return GuestOutcome(
                result="not-ours", reason="its owner resumed it and paused it again meanwhile"
            )
        return None

    def _outcome(self, back: Back | None, target: Target, event_until_ns: int) -> GuestOutcome:
        if back is None:
            return GuestOutcome(result="failed", reason="nothing was heard of its resume")
        figures: dict[str, Json] = {"way": back.way} if back.way else {}
        if back.called_ns:
            figures |= {"called_ns": back.called_ns, "returned_ns": back.returned_ns}
        ours = self._ours.get(target.uuid)
        if ours is not None and ours.stop is None:
            figures |= self._late_stop(target, ours)
        event = self._resume_event(back, target, event_until_ns)
        if event is not None:
            figures |= {"resumed_ns": event.at_ns, "resumed_shift_ns": event.shift_ns}
        return GuestOutcome(result=str(back.result), reason=back.reason, figures=figures)

    def _late_stop(self, target: Target, ours: Ours) -> dict[str, Json]:
        """The STOP of our pause where it came after `pause` had returned, as with a hung QEMU."""
        for event in self._events.of(target.uuid):
            if event.name == "STOP" and event.received_ns >= ours.called_ns:
                return {"stopped_ns": event.at_ns, "stopped_shift_ns": event.shift_ns}
        return {}

    def _resume_event(self, back: Back, target: Target, until_ns: int) -> Event | None:
        """The RESUME that ended our pause: after our call, or anybody's where ours came too late.

        A RESUME that was received before the call is another's; one of QEMU's that a gap in the
        stream swallowed is simply absent.
        """
        ours = self._ours.get(target.uuid)
        if back.result is Result.RESUMED:
            after_ns = back.called_ns
        elif back.result is Result.RUNNING and ours is not None:
            after_ns = ours.called_ns
        else:
            return None
        if not self._events.await_listening(0):
            until_ns = 0
        return self._events.await_name(target.uuid, "RESUME", after_ns, until_ns)


def _seen(planned: PlannedGuest, now: Guest | None) -> GuestOutcome:
    if now is None or now.process is None or now.process != planned.process:
        return GuestOutcome(result="gone", reason="it ended, or is another process now")
    if now.runs:
        return GuestOutcome(result="running")
    if now.state is GuestState.PAUSED and now.reason == USER:
        return GuestOutcome(result="paused")
    return GuestOutcome(result="not-ours", reason=f"it is {now.state} ({now.reason})")
