"""Moving guests between two libvirt hosts: satisfies ports.Mover.

Layer: adapters. An order is carried out by move_live, move_cold or move_ending; what came of a live
one is judged by what both hosts say (move_verdict), and what libvirt left undone is done here, each
act only after the same look held for a while. Invariants: every call has a limit; a host that does
not answer is never taken for one that has no copy; nothing is resumed or started at the source
before the destination has said that it has none. Times in ns, monotonic.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import libvirt

from hostagent.adapters.libvirt import (
    addresses,
    move_cold,
    move_disks,
    move_ending,
    move_figures,
    move_live,
    move_settle,
)
from hostagent.adapters.libvirt.events import Events
from hostagent.adapters.libvirt.move_live import Ended, Live
from hostagent.adapters.libvirt.move_places import Place, Seen, looked, told
from hostagent.adapters.libvirt.move_verdict import Act, Verdict, judge
from hostagent.core.errors import HostagentError
from hostagent.core.journal import GuestOutcome
from hostagent.core.move import Measure, Method, Order, Progress, Stage

S = 1_000_000_000

POLL_S = 0.25
CONCLUDE_NS = 20 * S
"""For hosts to say what became of the guest: a libvirt that was killed is started again."""
ACT_LIMIT_NS = 15 * S
HOLDS_NS = {
    Act.AMBIGUOUS: 8 * S,
    Act.RESUME_SOURCE: 3 * S // 2,
    Act.END_SOURCE: 3 * S // 2,
    Act.END_DESTINATION: 4 * S,
    Act.RECOVER: S,
}
"""How long the same has to be seen before it counts: libvirt may just be about to do it itself."""
MOST_ACTS = 4
EVENTS_LIMIT_NS = 5 * S
NO_POST_COPY = "Postcopy is not supported"
"""QEMU's word (migration/ram.c) before anything is sent: userfaultfd is missing, or not for this
user. Moving without it is the gentler way, so the move is not refused for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """The two hosts of an order."""

    source: Place
    destination: Place

    def look(self, uuid: str) -> tuple[Seen | None, Seen | None]:
        """Both, as they are now."""
        return looked(self.source, uuid, sends=True), self.destination.look(uuid)


class LibvirtMover:
    """Moves guests between any two hosts that their orders name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[str, Events] = {}
        self._lives: dict[str, Live] = {}

    def close(self) -> None:
        """Stop listening to events. Never waits."""
        with self._lock:
            for events in self._events.values():
                events.close()
            self._events.clear()

    def move(self, order: Order, tell: Callable[[Progress], None]) -> GuestOutcome:
        """Carry one order out."""
        pair = _pair(order)
        if order.method is Method.LIVE:
            return _tidied(order, pair, self._live(order, pair, tell))
        if order.method in (Method.SAVE, Method.SHUTDOWN):
            return move_ending.end(order, pair.source)
        return _tidied(order, pair, move_cold.move(order, pair.source, pair.destination))

    def look(self, order: Order) -> GuestOutcome:
        """What came of an order that somebody began."""
        pair = _pair(order)
        until_ns = time.monotonic_ns() + order.limit_ns
        if order.method is Method.LIVE:
            return _tidied(order, pair, self._conclude(order, pair, None, until_ns))
        if order.method in (Method.SAVE, Method.SHUTDOWN):
            return move_ending.look(order, pair.source, until_ns)
        found = move_cold.look(order, pair.source, pair.destination, until_ns)
        return _tidied(order, pair, found)

    def settle(self, order: Order) -> GuestOutcome:
        """Everything about an arrived guest as it was, and nothing left at the source."""
        pair = _pair(order)
        return move_settle.settle(order, pair.source, pair.destination)

    def abort(self, order: Order) -> None:
        """Ask for the end of a move that is under way."""
        with self._lock:
            live = self._lives.get(order.uuid)
        if live is not None:
            live.abort()
            return
        pair = _pair(order)
        seen = looked(pair.source, order.uuid, sends=True)
        if seen is None or seen.job != "migration":
            return
        try:
            pair.source.guest(
                "aborting the move", order.uuid, 5 * S, lambda domain: domain.abortJob()
            )
        except HostagentError:
            return  # what came of it, `look` says

    # live

    def _live(self, order: Order, pair: _Pair, tell: Callable[[Progress], None]) -> GuestOutcome:
        here, there = pair.look(order.uuid)
        refusal = _refusal(here, there)
        if refusal is not None or here is None:
            return refusal or _stayed("libvirt at the source does not answer")
        order = replace(order, persistent=here.persistent, runs=here.runs)
        try:
            events = (self._listening(order.source), self._listening(order.destination))
            move_disks.make(order, pair.source, pair.destination)
        except HostagentError as error:
            return _stayed(f"nothing was begun: {told(error)}")
        live, ended = self._run(order, events, tell)
        notes = list[str]()
        if NO_POST_COPY in ended.error and not ended.switched:
            notes.append("without post-copy, which QEMU can't do between these hosts")
            order = replace(order, convergence=without_post_copy(order))
            live, ended = self._run(order, events, tell)
        outcome = self._conclude(order, pair, live, time.monotonic_ns() + CONCLUDE_NS, ended)
        if outcome.result != "moved":
            return outcome
        measured = move_figures.figures(order, ended, pair.destination, events)
        reason = "; ".join(part for part in (*notes, outcome.reason) if part)
        return replace(outcome, reason=reason, figures=measured)

    def _run(
        self, order: Order, events: tuple[Events, Events], tell: Callable[[Progress], None]
    ) -> tuple[Live, Ended]:
        live = Live(order, *events, tell)
        with self._lock:
            self._lives[order.uuid] = live
        try:
            return live, live.run()
        finally:
            with self._lock:
                del self._lives[order.uuid]

    def _listening(self, uri: str) -> Events:
        with self._lock:
            events = self._events.get(uri)
            if events is None:
                events = self._events[uri] = Events(addresses.quiet(uri), uri)
        events.start(EVENTS_LIMIT_NS)
        return events

    def _conclude(
        self,
        order: Order,
        pair: _Pair,
        live: Live | None,
        until_ns: int,
        ended: Ended | None = None,
    ) -> GuestOutcome:
        """Look until it is clear what became of the guest, doing what is left to be done."""
        switched = ended.switched if ended is not None else None
        since_ns, last, acts, notes = time.monotonic_ns(), None, 0, list[str]()
        while True:
            here, there = pair.look(order.uuid)
            verdict = judge(here, there, switched=switched)
            now_ns = time.monotonic_ns()
            if verdict.act is not last:
                since_ns, last = now_ns, verdict.act
            held = now_ns - since_ns >= HOLDS_NS.get(verdict.act, 0)
            over = now_ns > until_ns and verdict.act is Act.UNDER_WAY
            if verdict.act in (Act.MOVED, Act.STAYED):
                move_live.sweep(order)
            if verdict.act is Act.STAYED:
                notes += move_settle.take_back(order, pair.source, pair.destination)
            if verdict.act in (Act.MOVED, Act.STAYED) or over or acts >= MOST_ACTS:
                return _outcome(verdict, ended, notes)
            if verdict.act is Act.AMBIGUOUS and held:
                if live is not None and there is None and here is not None and here.runs:
                    live.end_late_copy()
                return _outcome(verdict, ended, notes)
            if verdict.act in _ACTS and held:
                acts += 1
                notes.append(self._act(order, pair, verdict))
                last = None
            time.sleep(POLL_S)

    def _act(self, order: Order, pair: _Pair, verdict: Verdict) -> str:
        """Do what libvirt left undone; what was done, and why, in words."""
        if verdict.act is Act.RECOVER:
            return self._recover(order)
        place, doing, work = _ACTS[verdict.act]
        at = pair.source if place == "source" else pair.destination
        try:
            at.guest(doing, order.uuid, ACT_LIMIT_NS, work)
        except HostagentError as error:
            return told(error)
        return f"{doing}: {verdict.reason}"

    def _recover(self, order: Order) -> str:
        """Take a post-copy up again whose link broke."""
        try:
            events = (self._listening(order.source), self._listening(order.destination))
        except HostagentError as error:
            return told(error)
        ended = Live(order, *events, lambda _: None).run(resume=True)
        return f"its post-copy was taken up again{': ' if ended.error else ''}{ended.error}"


def _resume(domain: libvirt.virDomain) -> int:
    return domain.resume()


def _end(domain: libvirt.virDomain) -> int:
    return domain.destroy()


_ACTS: dict[Act, tuple[str, str, Callable[[libvirt.virDomain], int]]] = {
    Act.RESUME_SOURCE: ("source", "resumed at the source", _resume),
    Act.END_SOURCE: ("source", "what was left of it at the source was ended", _end),
    Act.END_DESTINATION: ("destination", "its copy at the destination was ended", _end),
    Act.RECOVER: ("source", "post-copy recovery", _resume),
}


def _pair(order: Order) -> _Pair:
    return _Pair(source=Place(order.source), destination=Place(order.destination))


def without_post_copy(order: Order) -> tuple[Stage, ...]:
    """The same schedule, less its last resort."""
    return tuple(stage for stage in order.convergence if stage.measure is not Measure.POST_COPY)


def _tidied(order: Order, pair: _Pair, outcome: GuestOutcome) -> GuestOutcome:
    """Of a guest that stayed nothing is left at the destination; `settle` keeps what arrived."""
    if outcome.result != "stayed":
        return outcome
    left = move_disks.discard(order, pair.destination)
    return replace(outcome, reason="; ".join(part for part in (outcome.reason, *left) if part))


def _stayed(reason: str) -> GuestOutcome:
    return GuestOutcome(result="stayed", reason=reason)


def _refusal(here: Seen | None, there: Seen | None) -> GuestOutcome | None:
    """Why a live move is not begun."""
    if here is None:
        return _stayed("libvirt at the source does not answer")
    if there is None:
        return _stayed("libvirt at the destination does not answer")
    if there.active and here.active:
        verdict = judge(here, there, switched=None)
        return GuestOutcome(result="ambiguous", reason=verdict.reason)
    if not here.active:
        return _stayed(f"it can't be moved live: it is {here}")
    if here.job:
        return _stayed(f"it has a job under way: {here.job}")
    if here.handed_over:
        return _stayed(f"it stands still in an earlier move: it is {here}")
    return None


def _outcome(verdict: Verdict, ended: Ended | None, notes: list[str]) -> GuestOutcome:
    """The call's own error is the reason of a guest that stayed."""
    failed = ended.error if ended is not None else ""
    if verdict.act is Act.MOVED:
        said = [*notes]
    elif verdict.act is Act.STAYED:
        said = [verdict.reason if verdict.telling or not failed else "", failed, *notes]
    else:
        said = [verdict.reason, failed, *notes]
    result = str(verdict.act) if verdict.act not in _ACTS else "ambiguous"
    return GuestOutcome(result=result, reason="; ".join(part for part in said if part))
