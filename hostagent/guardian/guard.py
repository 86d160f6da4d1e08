"""What the guardian does with the guests it was given: watch, resume, let go.

Layer: guardian. One thread (`Guard.run`) decides, on messages, on what came back, and on the
clock; threads that may hang bring guests back and only report. A guest leaves when it is let go,
when it is back for good, or when its process is gone. It is back for good once a resume was
verified that began after its suspend call had returned; while that call is still outstanding
(hostagent or its QEMU is frozen) it is resumed as often as it is found paused, until hostagent is
dead and the guest is settled: its QEMU not stopped, nothing under way in it, seen running for 2 s.
Only CLOCK_MONOTONIC counts. Effects: resumes, the list and the journal (through `Scribe`).
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import libvirt

from hostagent.guardian.connect import Lines
from hostagent.guardian.probe import Awake, Probe
from hostagent.guardian.process import HALTED, STOPPED, boot_id, myself
from hostagent.guardian.resume import Back, Result, Target
from hostagent.guardian.wire import Arm, Disarm, Disarmed, LetGo, Message, Paused

TICK_S = 0.1
FIRST_ROUND_NS = 2_000_000_000
ROUND_NS = 2_000_000_000
LOOK_S = 0.2
GATHER_NS = 50_000_000
"""Changes of the list are written together: a file a guest, written and synced while all of them
are being stopped or resumed, took a good part of two CPUs and so lengthened the pause (measured).
A list that is this much older only names a guest that needs nothing any more."""
SETTLED_NS = 2_000_000_000


class Resumes(Protocol):
    """resume.Resumer, as far as it is used here."""

    lines: Lines
    probe: Probe

    def resume(
        self, targets: Sequence[Target], limit_ns: int, on_back: Callable[[Back], None]
    ) -> None: ...


class Writes(Protocol):
    """scribe.Scribe, as far as it is used here."""

    def note(self, what: str, value: dict[str, Any]) -> None: ...

    def keep(self, remaining: dict[str, Any] | None) -> None: ...


@dataclass(slots=True, kw_only=True)
class _Held:
    """A guest that is still watched over."""

    target: Target
    outstanding: bool
    dropped: bool = False
    hung: bool = False
    said: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a thread found out about a guest; `over` means that it follows it no longer."""

    held: _Held
    back: Back
    over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PipeEnded:
    """hostagent's end of the pipe is closed."""


Heard = Message | _Seen | PipeEnded


class Guard:
    """Watches over the guests of one Arm until nothing is left to do."""

    def __init__(
        self,
        arm: Arm,
        resumer: Resumes,
        scribe: Writes,
        *,
        inbox: "SimpleQueue[Heard]",
        reply: Callable[[Message], None],
        release_lock: Callable[[], None],
        returned: frozenset[str] = frozenset(),
        owner_visible: bool | None = None,
    ) -> None:
        """`returned`: the guests whose suspend call has returned; `owner_visible`: whether /proc
        showed the owner when it armed (both known after a restart only)."""
        self._arm = arm
        self._resumer = resumer
        self._scribe = scribe
        self._inbox = inbox
        self._reply = reply
        self._release_lock = release_lock
        self._held = {
            target.uuid: _Held(target=target, outstanding=target.uuid not in returned)
            for target in arm.guests
        }
        self._triggered = False
        self._pipe_ended = False
        self._disarmed = False
        self._lock_released = False
        self._list_due_ns: int | None = None
        # An owner that /proc does not show (hidepid) is dead when its pipe has ended.
        self._owner_visible = arm.owner.alive() if owner_visible is None else owner_visible

    def run(self) -> None:
        """Returns when nothing is left to do."""
        while not self._done():
            with suppress(Empty):
                self._hear(self._inbox.get(timeout=self._wait_s()))
            self._look()
            if self._list_is_due():
                self.keep_list()
        self.keep_list()

    def keep_list(self) -> None:
        """Queue the list as it is now."""
        self._list_due_ns = None
        if not self._held:
            self._scribe.keep(None)
            return
        helds = self._held.values()
        waiting = [each.target.name for each in helds] if self._lock_released else []
        arm = asdict(self._arm)
        arm["guests"] = [asdict(each.target) for each in helds]
        self._scribe.keep(
            {
                **arm,
                "returned": [each.target.uuid for each in helds if not each.outstanding],
                "owner_visible": self._owner_visible,
                "waiting_for_hung": waiting,
                "guardian": asdict(myself()),
                "boot_id": boot_id(),
            }
        )

    def _list_changes(self) -> None:
        if self._list_due_ns is None:
            self._list_due_ns = time.monotonic_ns() + GATHER_NS

    def _list_is_due(self) -> bool:
        return self._list_due_ns is not None and time.monotonic_ns() >= self._list_due_ns

    # what is heard

    def _hear(self, heard: Heard) -> None:
        if isinstance(heard, Paused):
            for held in self._those(heard.uuids):
                held.outstanding = False
            self._list_changes()
        elif isinstance(heard, LetGo):
            # Noted for recovery: hostagent may die before its own journal says so.
            self._scribe.note("let-go", {"uuids": list(heard.uuids)})
            self._drop(self._those(heard.uuids))
        elif isinstance(heard, Disarm):
            self._disarm(heard)
        elif isinstance(heard, PipeEnded):
            self._pipe_ended = True
        elif isinstance(heard, _Seen):
            self._see(heard)

    def _those(self, uuids: Sequence[str]) -> list[_Held]:
        return [self._held[uuid] for uuid in uuids if uuid in self._held]

    def _drop(self, helds: Sequence[_Held]) -> None:
        for held in helds:
            held.dropped = True
            self._held.pop(held.target.uuid, None)
        self._list_changes()

    def _disarm(self, message: Disarm) -> None:
        self._disarmed = True
        self._drop([held for uuid, held in self._held.items() if uuid not in message.keep])
        self._let_others_go_on()
        self._reply(Disarmed())
        self._scribe.note("disarmed", {"keep": list(self._held)})

    def _see(self, seen: _Seen) -> None:
        held, back = seen.held, seen.back
        if held.dropped:
            return
        held.hung = back.result is Result.HUNG
        if held.said != (back.result, back.reason):
            held.said = (back.result, back.reason)
            self._scribe.note("back", {"name": held.target.name, **asdict(back)})
        if seen.over:
            self._drop([held])

    # what the clock and the world say

    def _wait_s(self) -> float:
        if self._triggered:
            return TICK_S
        due_ns = self._arm.deadline_ns
        if self._list_due_ns is not None:
            due_ns = min(due_ns, self._list_due_ns)
        left_s = (due_ns - time.monotonic_ns()) / 1e9
        return min(left_s, TICK_S) if left_s > 0 else TICK_S

    def _look(self) -> None:
        if not self._triggered:
            reason = self._why_resume()
            if reason:
                self._resume_all(reason)
        self._let_others_go_on()

    def _let_others_go_on(self) -> None:
        """Once only guests whose own QEMU hangs are left, let go of the lock and name them."""
        only_hung = self._held and all(
            held.hung or held.target.state() in STOPPED for held in self._held.values()
        )
        alone = self._disarmed or self._owner_gone()
        if only_hung and alone and not self._lock_released:
            self._lock_released = True
            self._release_lock()
            self._scribe.note("waiting", {"for": [h.target.name for h in self._held.values()]})
            self.keep_list()

    def _why_resume(self) -> str:
        if self._disarmed:
            return "left to me" if self._held else ""
        if self._pipe_ended:
            return "the pipe has ended"
        if time.monotonic_ns() >= self._arm.deadline_ns:
            return "the deadline is over"
        # The pipe may be held open by a process that inherited it.
        return "its owner is dead" if self._owner_gone() else ""

    def _owner_gone(self) -> bool:
        if self._owner_visible:
            return not self._arm.owner.alive()
        return self._pipe_ended

    def _done(self) -> bool:
        return not self._held and (self._disarmed or self._pipe_ended or self._owner_gone())

    # bringing back

    def _resume_all(self, reason: str) -> None:
        helds = list(self._held.values())
        names = [held.target.name for held in helds]
        self._scribe.note("resuming", {"why": reason, "guests": names})
        round_ = threading.Thread(target=self._first_round, args=(helds,), daemon=True)
        self._triggered = _starts(round_)
        if not self._triggered:
            self._round_here(helds)

    def _round_here(self, helds: Sequence[_Held]) -> None:
        """Where no thread is to be had (a limit on tasks, no memory): in this one, with the
        workers that wait already; the next turn tries again for whoever is left."""
        final = {held.target.uuid: not held.outstanding for held in helds}

        def on_back(back: Back) -> None:
            over = _is_over(back, final=final[back.uuid])
            self._inbox.put(_Seen(held=self._held[back.uuid], back=back, over=over))

        with suppress(RuntimeError):  # QMP takes a thread for each guest
            self._resumer.resume([held.target for held in helds], FIRST_ROUND_NS, on_back)

    def _first_round(self, helds: Sequence[_Held]) -> None:
        """In a thread of its own: all at once; each that is not done with is then followed."""
        final = {held.target.uuid: not held.outstanding for held in helds}
        unanswered = {held.target.uuid: held for held in helds}

        def on_back(back: Back) -> None:
            held = unanswered.pop(back.uuid)
            over = _is_over(back, final=final[back.uuid])
            self._inbox.put(_Seen(held=held, back=back, over=over))
            if not over and not self._begins_to_follow(held):
                unanswered[back.uuid] = held

        try:
            self._resumer.resume([held.target for held in helds], FIRST_ROUND_NS, on_back)
        finally:
            # Should this ever fail, nobody is forgotten.
            for held in unanswered.values():
                while not self._begins_to_follow(held):
                    time.sleep(LOOK_S)

    def _begins_to_follow(self, held: _Held) -> bool:
        return _starts(threading.Thread(target=self._follow, args=(held,), daemon=True))

    def _follow(self, held: _Held) -> None:
        """In a thread of its own: resume this guest as often as it is found paused."""
        running: Awake | None = None
        while not held.dropped:
            # Read before the attempt: only one that began afterwards can be the last.
            final = not held.outstanding
            back = self._resume_one(held.target)
            over = _is_over(back, final=final)
            if back.result is not Result.RUNNING:
                running = None
            elif running is None:
                running = Awake(slice_ns=1_000_000_000)
            elif running.passed_ns() >= SETTLED_NS and self._owner_gone():
                over = over or self._settled(held.target)
            self._inbox.put(_Seen(held=held, back=back, over=over))
            if over:
                return
            time.sleep(LOOK_S)

    def _resume_one(self, target: Target) -> Back:
        backs: list[Back] = []
        try:
            self._resumer.resume([target], ROUND_NS, backs.append)
        except Exception as error:  # whatever it is, trying again is all that helps the guest
            return Back(uuid=target.uuid, result=Result.FAILED, reason=repr(error))
        return backs[0]

    def _settled(self, target: Target) -> bool:
        """Whether nothing is under way in this guest that could still pause it."""
        if target.state() in HALTED:
            return False
        answer: SimpleQueue[object] = SimpleQueue()
        self._resumer.lines.submit(target.uuid, lambda domain: domain.controlInfo()[0], answer.put)
        try:
            return answer.get(timeout=1) == libvirt.VIR_DOMAIN_CONTROL_OK
        except Empty:
            return not self._resumer.probe.usable()


def _starts(thread: threading.Thread) -> bool:
    """Start it, if the system has a thread to give."""
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def _is_over(back: Back, *, final: bool) -> bool:
    """Whether nothing more is to be done for this guest after that."""
    if back.result in (Result.RESUMED, Result.RUNNING):
        return final
    return back.result in (Result.GONE, Result.NOT_OURS)
