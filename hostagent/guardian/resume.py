"""The one way back for a paused guest: the guardian's and every normal run's.

Layer: guardian; adapters/libvirt calls it too, so the emergency path is exercised by every run.
Each guest by itself, all at once: through libvirt, and where libvirt is unusable by QMP `cont` on
the guest's own monitor. Libvirt is unusable when the probe has no answer in 1 s, or when no resume
of any chosen guest has, though the QEMU of one of them is not itself stopped. Invariants:

- only a guest that is paused by user, in the same process, is resumed, and that is checked right
  before; a success returned proves nothing, the state is read again;
- a hung libvirtd is killed (daemon.py) only when a monitor gave no greeting, that guest's own QEMU
  is not stopped, and libvirt is found not to serve; nothing is ever killed for a guest that hangs;
- where QMP is not allowed (a lock manager) the guest would run without its disk lease: libvirtd is
  restarted if it is systemd's, else libvirt is asked until it answers;
- nothing here writes or waits for a disk: act, then record.

Times are CLOCK_MONOTONIC in ns, but limits count only time in which this process was awake
(probe.Awake). Errors: none is raised; every guest gets one `Back`.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from hostagent.guardian import qmp
from hostagent.guardian.by_libvirt import Called, NotYet, look_again, look_and_resume
from hostagent.guardian.connect import Lines, Ticket, Unreachable
from hostagent.guardian.daemon import HungDaemon
from hostagent.guardian.probe import Awake, Probe, ask_worker
from hostagent.guardian.process import HALTED, STOPPED
from hostagent.guardian.target import Back, Result, Target, Ways, plain

__all__ = ["Back", "Result", "Resumer", "Target", "Ways"]

TICK_S = 0.02
AGAIN_NS = 100_000_000
AGAIN_LOST_NS = 20_000_000
QMP_LAST_WAIT_NS = 500_000_000
SILENCE_NS = 1_000_000_000
LONG_CALL_NS = 200_000_000
"""A call takes 2 to 10 ms; one without an answer for this long hangs."""
GREETING_NS = 200_000_000
"""A QEMU greets within milliseconds. Only after a few tries it is given the whole limit."""
SHORT_TRIES = 3


@dataclass(slots=True, kw_only=True)
class _Try:
    """One guest in the making."""

    target: Target
    ticket: Ticket | None = None
    asked_ns: int = 0
    ask_at_ns: int = 0
    by_qmp: bool = False
    qmp_at_ns: int = 0
    qmp_tries: int = 0
    reason: str = ""
    busy: bool = False
    called: Called | None = None

    @property
    def asked(self) -> bool:
        return self.ticket is not None


_Answer = Back | NotYet | Called | qmp.Outcome | Exception


class Resumer:
    """Brings guests back. Several `resume` may run at once, in threads of their own."""

    def __init__(self, ways: Ways, lines: Lines, probe: Probe) -> None:
        self.ways = ways
        self.lines = lines
        self.probe = probe
        self.hung_daemon = HungDaemon(ways.daemon)
        self._serving: Probe | None = None
        self._serving_lock = threading.Lock()
        probe.on_reconnect(self.hung_daemon.reread)

    def resume(
        self, targets: Sequence[Target], limit_ns: int, on_back: Callable[[Back], None]
    ) -> None:
        """Resume these guests; returns when each is back or the limit is over.

        `on_back` is called once for each guest, in this thread, as soon as it is known; it must
        not wait."""
        _Round(self, targets, on_back).run(limit_ns)

    def serves(self) -> bool:
        """Whether libvirt has a worker left for a call that can block. Asked only in need: the
        first answer takes up to 1 s, and until then it is taken to serve."""
        with self._serving_lock:
            if self._serving is None:
                self._serving = Probe(self.ways.uri, question=ask_worker)
            return self._serving.usable()


class _Round:
    """One call of resume: the guests that are not back yet and what is under way for them."""

    def __init__(
        self, resumer: Resumer, targets: Sequence[Target], on_back: Callable[[Back], None]
    ) -> None:
        self._resumer = resumer
        self._on_back = on_back
        self._open = {target.uuid: _Try(target=target) for target in targets}
        self._inbox: SimpleQueue[tuple[str, _Answer]] = SimpleQueue()
        self._answered = False
        self._silence: Awake | None = None

    def run(self, limit_ns: int) -> None:
        awake = Awake()
        self._ask_libvirt()
        self._resumer.probe.ask_now()
        while self._open and awake.passed_ns() < limit_ns:
            heard = self._listen()
            self._ask_libvirt(looking_after_asked=not heard)
            if self._open and self._unusable():
                self._without_libvirt()
        for attempt in list(self._open.values()):
            self._close(self._given_up(attempt))

    # through libvirt

    def _ask_libvirt(self, *, looking_after_asked: bool = False) -> None:
        """Ask for every guest that is due. One whose QEMU is stopped is only waited for. Those that
        were asked are looked after when no answer came for a tick: to read /proc for all of them
        at every answer would hold up the very calls that bring them back."""
        now_ns = time.monotonic_ns()
        for attempt in list(self._open.values()):
            if attempt.asked and not looking_after_asked:
                continue
            state = attempt.target.state()
            if not state:
                self._close(plain(attempt.target, Result.GONE, "its QEMU process has ended"))
            elif state in STOPPED:
                attempt.reason = "its QEMU process is stopped"
            elif not attempt.asked and now_ns >= attempt.ask_at_ns and self._worth_asking():
                self._submit(attempt)

    def _worth_asking(self) -> bool:
        """Where nobody answers, calls would only pile up. The probe's finding alone does not
        keep a call back: its own connection may be the trouble."""
        return self._resumer.probe.usable() or self._resumer.lines.backlog() == 0

    def _submit(self, attempt: _Try) -> None:
        target, put = attempt.target, self._inbox.put
        attempt.asked_ns = time.monotonic_ns()
        attempt.ticket = self._resumer.lines.submit(
            target.uuid,
            lambda domain: look_and_resume(domain, target),
            lambda answer: put((target.uuid, answer)),
        )
        if self._silence is None:
            self._silence = Awake()

    def _listen(self) -> bool:
        """Take all answers that are there, or wait a tick for one; whether there was one."""
        wait_s, heard = TICK_S, False
        while self._open:
            try:
                uuid, answer = self._inbox.get(timeout=wait_s) if wait_s else self._inbox.get(False)
            except Empty:
                return heard
            wait_s, heard = 0, True
            if uuid in self._open:
                self._hear(self._open[uuid], answer)
        return heard

    def _hear(self, attempt: _Try, answer: _Answer) -> None:
        if isinstance(answer, qmp.Outcome):
            attempt.by_qmp = False
            self._hear_qmp(attempt, answer)
            return
        attempt.ticket = None
        attempt.ask_at_ns = time.monotonic_ns() + AGAIN_NS
        if not isinstance(answer, Unreachable):
            self._answered = True
            self._silence = Awake()
        if isinstance(answer, Called):
            attempt.called = answer
            self._look_again(attempt, answer)
        elif isinstance(answer, Back):
            self._close(_ours(answer, attempt.called))
        elif isinstance(answer, NotYet):
            attempt.reason = answer.reason
            attempt.busy = answer.busy
            if not answer.busy:  # read back, and not running: that call did not bring it back
                attempt.called = None
        elif isinstance(answer, Unreachable):
            attempt.reason = str(answer)
            attempt.ask_at_ns = time.monotonic_ns() + AGAIN_LOST_NS
            self._resumer.probe.ask_now()
        else:
            attempt.reason = f"libvirt: {answer}"

    def _look_again(self, attempt: _Try, called: Called) -> None:
        target, put = attempt.target, self._inbox.put
        attempt.ticket = self._resumer.lines.submit(
            target.uuid,
            lambda domain: look_again(domain, target, called),
            lambda answer: put((target.uuid, answer)),
        )

    # without libvirt

    def _unusable(self) -> bool:
        if not self._resumer.probe.usable():
            return True
        if self._answered or self._silence is None or self._silence.passed_ns() < SILENCE_NS:
            return False
        return any(
            attempt.asked and attempt.target.state() not in HALTED
            for attempt in self._open.values()
        )

    def _without_libvirt(self) -> None:
        if not self._resumer.ways.qmp_allowed:
            if not self._resumer.probe.usable():
                self._resumer.hung_daemon.restart()
            return
        now_ns = time.monotonic_ns()
        for attempt in self._open.values():
            if attempt.by_qmp or now_ns < attempt.qmp_at_ns or attempt.target.state() in STOPPED:
                continue
            attempt.by_qmp = True
            short = attempt.qmp_tries < SHORT_TRIES
            arguments = (attempt.target, GREETING_NS if short else qmp.LIMIT_NS)
            threading.Thread(target=self._by_qmp, args=arguments, name="qmp", daemon=True).start()

    def _by_qmp(self, target: Target, greeting_ns: int) -> None:
        outcome = qmp.cont(
            target.monitor, greeting_ns=greeting_ns, confirm=lambda: target.state() != ""
        )
        self._inbox.put((target.uuid, outcome))

    def _hear_qmp(self, attempt: _Try, outcome: qmp.Outcome) -> None:
        attempt.qmp_tries += 1
        wait_ns = min(AGAIN_LOST_NS << attempt.qmp_tries, QMP_LAST_WAIT_NS)
        attempt.qmp_at_ns = time.monotonic_ns() + wait_ns
        attempt.reason = f"QMP: {outcome.reason}"
        target = attempt.target
        if outcome.word is qmp.Word.RESUMED:
            self._close(
                Back(
                    uuid=target.uuid,
                    result=Result.RESUMED,
                    reason=self._resumer.hung_daemon.what_was_done() or "libvirt did not answer",
                    way="qmp",
                    called_ns=outcome.called_ns,
                    returned_ns=outcome.returned_ns,
                )
            )
        elif outcome.word is qmp.Word.RUNNING:
            self._close(plain(target, Result.RUNNING, "", "qmp"))
        elif outcome.word is qmp.Word.OTHER_STATUS:
            self._close(plain(target, Result.NOT_OURS, outcome.reason, "qmp"))
        elif outcome.word is qmp.Word.NO_GREETING:
            self._held_monitor(attempt)

    def _held_monitor(self, attempt: _Try) -> None:
        """A libvirtd that does not serve holds the monitor: it has to go first."""
        if attempt.target.state() in HALTED | {""}:
            return
        if self._answered and self._silence and self._silence.passed_ns() < SILENCE_NS:
            return
        if self._resumer.probe.usable() and self._resumer.serves():
            return
        doubt = self._resumer.hung_daemon.kill()
        if doubt:
            attempt.reason += f"; libvirtd was not killed: {doubt}"
            return
        for other in self._open.values():
            other.qmp_at_ns = 0

    # the end

    def _given_up(self, attempt: _Try) -> Back:
        state = attempt.target.state()
        if state in HALTED:
            return plain(attempt.target, Result.HUNG, f"its QEMU process is stopped ({state})")
        if not self._resumer.probe.usable():
            refusal = self._resumer.ways.qmp_refusal
            reason = f"libvirt does not answer; {refusal or attempt.reason}"
            return plain(attempt.target, Result.FAILED, reason)
        silent_ns = time.monotonic_ns() - attempt.asked_ns if attempt.asked else 0
        if attempt.busy or silent_ns > LONG_CALL_NS:
            return plain(attempt.target, Result.HUNG, "its QEMU does not answer")
        return plain(attempt.target, Result.FAILED, attempt.reason or "no answer in time")

    def _close(self, back: Back) -> None:
        attempt = self._open.pop(back.uuid)
        if attempt.ticket is not None:
            attempt.ticket.cancel()
        self._on_back(back)


def _ours(back: Back, called: Called | None) -> Back:
    """A guest that runs after a resume of ours had returned was resumed by us, also when libvirt
    was lost before it could be read back and another look was needed."""
    if back.result is not Result.RUNNING or called is None or not called.called_ns:
        return back
    return replace(
        back,
        result=Result.RESUMED,
        way="libvirt",
        called_ns=called.called_ns,
        returned_ns=called.returned_ns,
    )
