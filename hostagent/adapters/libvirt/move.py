"""Moving guests between two libvirt hosts: satisfies ports.Mover.

Layer: adapters. An order is carried out by move_live, move_cold or move_ending; what came of a live
one is judged by what both hosts say (move_verdict), and what libvirt left undone is done here, each
act only after the same look held for a while. Invariants: every call has a limit; a host that does
not answer is never taken for one that has no copy; nothing is resumed or started at the source
before the destination has said that it has none. Times in ns, monotonic.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
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
    words,
)
from hostagent.adapters.libvirt.events import Events
from hostagent.adapters.libvirt.move_live import Ended, Live
from hostagent.adapters.libvirt.move_places import Place, Seen, looked, told
from hostagent.adapters.libvirt.move_verdict import Act, Verdict, judge
from hostagent.core.errors import HostagentError, RefusedError
from hostagent.core.journal import GuestOutcome
from hostagent.core.move import Measure, Method, Order, Progress, Stage

S = 1_000_000_000
MS = 1_000_000

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
    Act.MOVED: 2 * S,
}
"""How long the same has to be seen before it counts: libvirt may just be about to do it itself.
MOVED counts at once where libvirt itself said so at the end of the call."""
MOST_ACTS = 4
UNHEEDED_NS = 35 * S
"""For a move that was aborted because of its limit; longer than libvirt's own keepalive (30 s)."""
LAST_NS = 50 * S
"""After the limit of an order: then it is said what was last seen, whatever that is."""
RECOVER_NS = 15 * S
"""For taking a post-copy up again."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Until when a move that goes on is waited for, when it is aborted before that (None: never),
    and when it is said what was last seen."""

    until_ns: int
    last_ns: int
    abort_ns: int | None = None


class LibvirtMover:
    """Moves guests between any two hosts that their orders name."""

    def __init__(self, place: Callable[[str], Place] = Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._events: dict[str, Events] = {}
        self._lives: dict[str, Live] = {}
        self._endings: dict[str, threading.Event] = {}
        self._unwanted: set[Order] = set()

    def close(self) -> None:
        """Stop listening to events. Never waits."""
        with self._lock:
            for events in self._events.values():
                events.close()
            self._events.clear()

    def move(self, order: Order, tell: Callable[[Progress], None]) -> GuestOutcome:
        """Carry one order out."""
        pair = self._pair(order)
        aborted = self._begun(order)
        try:
            if order.method in (Method.SAVE, Method.SHUTDOWN):
                return move_ending.end(order, pair.source, aborted)
            if order.method is Method.LIVE:
                found = self._live(order, pair, tell, aborted)
            else:
                found = move_cold.move(order, pair.source, pair.destination, aborted)
        finally:
            with self._lock:
                del self._endings[order.uuid]
        return _tidied(order, pair, found)

    def _begun(self, order: Order) -> threading.Event:
        """The wish to end this move; it may have come first."""
        aborted = threading.Event()
        with self._lock:
            self._endings[order.uuid] = aborted
            if order in self._unwanted:
                self._unwanted.remove(order)
                aborted.set()
        return aborted

    def look(self, order: Order) -> GuestOutcome:
        """What came of an order that somebody began."""
        pair = self._pair(order)
        now_ns = time.monotonic_ns()
        until_ns = now_ns + order.limit_ns
        if order.method is Method.LIVE:
            abort_ns = until_ns - _elapsed_ns(order, pair.source)
            times = Times(
                until_ns=max(until_ns, now_ns + CONCLUDE_NS),
                last_ns=until_ns + LAST_NS,
                abort_ns=abort_ns,
            )
            return _tidied(order, pair, self._conclude(order, pair, times))
        if order.method in (Method.SAVE, Method.SHUTDOWN):
            return move_ending.look(order, pair.source, until_ns)
        found = move_cold.look(order, pair.source, pair.destination, until_ns)
        return _tidied(order, pair, found)

    def settle(self, order: Order) -> GuestOutcome:
        """Everything about an arrived guest as it was, and nothing left at the source."""
        pair = self._pair(order)
        return move_settle.settle(order, pair.source, pair.destination)

    def abort(self, order: Order) -> None:
        """Ask for the end of a move that is under way."""
        with self._lock:
            live = self._lives.get(order.uuid)
            ending = self._endings.get(order.uuid)
            if ending is not None:
                ending.set()
            else:
                self._unwanted.add(order)
        if live is not None:
            live.abort()
            return
        source = self._place(order.source)
        seen = looked(source, order.uuid, sends=True)
        if seen is not None and seen.job == _JOBS.get(order.method):
            _abort_job(order, source)

    def _pair(self, order: Order) -> _Pair:
        return _Pair(source=self._place(order.source), destination=self._place(order.destination))

    # live

    def _live(
        self,
        order: Order,
        pair: _Pair,
        tell: Callable[[Progress], None],
        aborted: threading.Event,
    ) -> GuestOutcome:
        begun_ns = time.monotonic_ns()
        here, there = pair.look(order.uuid)
        refusal = _refusal(here, there)
        if refusal is not None or here is None:
            return refusal or _stayed("libvirt at the source does not answer")
        if aborted.is_set():
            return _stayed("it was aborted")
        order = replace(
            order,
            persistent=here.persistent,
            runs=here.runs,
            autostart=order.autostart or here.autostart,
        )
        try:
            events = (self._listening(order.source), self._listening(order.destination))
            move_disks.make(order, pair.source, pair.destination)
            _start_not_at_boot(order, pair.source, here)
        except HostagentError as error:
            return _stayed(f"nothing was begun: {told(error)}")
        live, ended = self._run(order, events, tell, aborted)
        notes = list[str]()
        if NO_POST_COPY in ended.error and not ended.switched:
            notes.append("without post-copy, which QEMU can't do between these hosts")
            order = replace(order, convergence=without_post_copy(order))
            live, ended = self._run(order, events, tell, aborted)
        times = Times(
            until_ns=time.monotonic_ns() + CONCLUDE_NS, last_ns=begun_ns + order.limit_ns + LAST_NS
        )
        outcome = self._conclude(order, pair, times, live, ended)
        if outcome.result != "moved":
            return outcome
        measured = move_figures.figures(order, ended, pair.destination, events)
        reason = "; ".join(part for part in (*notes, outcome.reason) if part)
        return replace(outcome, reason=reason, figures={**outcome.figures, **measured})

    def _run(
        self,
        order: Order,
        events: tuple[Events, Events],
        tell: Callable[[Progress], None],
        aborted: threading.Event,
    ) -> tuple[Live, Ended]:
        live = Live(order, *events, tell)
        with self._lock:
            self._lives[order.uuid] = live
            if aborted.is_set():
                live.abort()
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
        times: Times,
        live: Live | None = None,
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
            held = now_ns - since_ns >= _hold_ns(verdict.act, ended)
            if held and verdict.act in (Act.MOVED, Act.STAYED):
                return self._over(
                    order, pair, (here, there), _outcome(verdict, there, ended, notes)
                )
            if held and verdict.act is Act.AMBIGUOUS:
                if live is not None and there is None and here is not None and here.runs:
                    live.end_late_copy()
                return _outcome(verdict, there, ended, notes)
            if verdict.act is Act.UNDER_WAY and now_ns > times.until_ns:
                return _outcome(verdict, there, ended, notes)
            overdue = times.abort_ns is not None and now_ns > times.abort_ns
            if verdict.act is Act.UNDER_WAY and overdue and _is_ours(here, there):
                notes.append(f"it did not end within {order.limit_ns / S:g} s")
                _abort_job(order, pair.source)
                times = replace(times, until_ns=now_ns + UNHEEDED_NS, abort_ns=None)
            if acts >= MOST_ACTS or now_ns > times.last_ns:
                return _outcome(verdict, there, ended, notes, settled=False)
            if verdict.act in _ACTS and held:
                acts += 1
                notes.append(self._act(order, pair, verdict))
                last = None
            time.sleep(POLL_S)

    def _over(
        self,
        order: Order,
        pair: _Pair,
        seen: tuple[Seen | None, Seen | None],
        outcome: GuestOutcome,
    ) -> GuestOutcome:
        """Nothing is left of the way, and a guest that stayed starts at boot as before."""
        move_live.sweep(order)
        if outcome.result != "stayed":
            return outcome
        notes = move_settle.take_back(order, pair.source, pair.destination)
        if order.autostart:
            notes += move_settle.autostart(order, pair.source, seen[0], wanted=True)
        return _noted(outcome, notes)

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
        ended = Live(replace(order, limit_ns=RECOVER_NS), *events, lambda _: None).run(resume=True)
        return f"its post-copy was taken up again{': ' if ended.error else ''}{ended.error}"


def _resume(domain: libvirt.virDomain) -> int:
    return domain.resume()


def _end(domain: libvirt.virDomain) -> int:
    return domain.destroy()


_JOBS = {Method.LIVE: "migration", Method.SAVE: "save"}

_ACTS: dict[Act, tuple[str, str, Callable[[libvirt.virDomain], int]]] = {
    Act.RESUME_SOURCE: ("source", "resumed at the source", _resume),
    Act.END_SOURCE: ("source", "what was left of it at the source was ended", _end),
    Act.END_DESTINATION: ("destination", "its copy at the destination was ended", _end),
    Act.RECOVER: ("source", "post-copy recovery", _resume),
}


def without_post_copy(order: Order) -> tuple[Stage, ...]:
    """The same schedule, less its last resort."""
    return tuple(stage for stage in order.convergence if stage.measure is not Measure.POST_COPY)


def _tidied(order: Order, pair: _Pair, outcome: GuestOutcome) -> GuestOutcome:
    """Of a guest that stayed nothing is left at the destination; `settle` keeps what arrived."""
    if outcome.result != "stayed":
        return outcome
    return _noted(outcome, move_disks.discard(order, pair.destination))


def _noted(outcome: GuestOutcome, notes: Sequence[str]) -> GuestOutcome:
    return replace(outcome, reason="; ".join(part for part in (outcome.reason, *notes) if part))


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


def _outcome(
    verdict: Verdict,
    there: Seen | None,
    ended: Ended | None,
    notes: list[str],
    *,
    settled: bool = True,
) -> GuestOutcome:
    """The call's own error is the reason of a guest that stayed. `settled`: it was seen for long
    enough to be sure of it."""
    failed = ended.error if ended is not None else ""
    figures: dict[str, int | str] = {}
    if verdict.act is Act.MOVED and settled:
        said = [verdict.reason, *notes]
        figures = {"state": str(there.state) if there is not None else ""}
    elif verdict.act is Act.STAYED:
        said = [verdict.reason if verdict.telling or not failed else "", failed, *notes]
    else:
        said = [verdict.reason, failed, *notes]
    sure = settled or verdict.act in (Act.STAYED, Act.UNDER_WAY)
    result = str(verdict.act) if sure and verdict.act not in _ACTS else "ambiguous"
    return GuestOutcome(
        result=result, reason="; ".join(part for part in said if part), figures=figures
    )


def _hold_ns(act: Act, ended: Ended | None) -> int:
    if act is Act.MOVED and ended is not None and ended.returned and not ended.error:
        return 0
    return HOLDS_NS.get(act, 0)


def _is_ours(here: Seen | None, there: Seen | None) -> bool:
    """Whether the source's job is this move, as far as is known, and may be aborted: not that of an
    owner who moves the guest elsewhere, and no post-copy, which an abort would lose."""
    split = any(seen is not None and "post-copy" in seen.reason for seen in (here, there))
    elsewhere = there is not None and not there.active
    return here is not None and here.job == "migration" and not split and not elsewhere


def _abort_job(order: Order, source: Place) -> None:
    """What came of it, the next look says."""
    with suppress(HostagentError):
        source.guest("aborting the move", order.uuid, 5 * S, lambda domain: domain.abortJob())


def _elapsed_ns(order: Order, source: Place) -> int:
    """For how long libvirt has carried this guest's migration out; 0 where it does not say."""
    with suppress(HostagentError):
        stats = source.guest(
            "reading the move's figures", order.uuid, 2 * S, lambda domain: domain.jobStats()
        )
        if words.job(stats.get("operation", 0)) == "migration":
            return int(stats.get("time_elapsed", 0)) * MS
    return 0


def _start_not_at_boot(order: Order, source: Place, here: Seen) -> None:
    """From before the call until it is known that the guest stayed, its source does not start it at
    boot: it may run on the other host by then. Raises RefusedError."""
    problems = move_settle.autostart(order, source, here, wanted=False)
    if problems:
        raise RefusedError("; ".join(problems))
