"""One live migration: the call, and what is done for it while it goes on.

Layer: adapters. The source's libvirt carries the migration out by itself (peer to peer), so it
outlives us; here it is watched, driven through its stages and, if need be, ended. Three things that
libvirt leaves alone are seen to:

- A destination whose libvirt stops answering before the hand-over: the move is aborted at once.
  Were the hand-over asked of it, the source's libvirt would give up after 30 s (keepalive) and
  resume the guest, and the other would start its copy as soon as it went on (seen with 9.0).
- A destination's QEMU that hangs in the hand-over: libvirt waits for it without limit, and the
  guest stands still. Its copy is ended, if it surely never ran; libvirt then resumes the source.
- The same after an abort: libvirt waits for that QEMU to end.

Deliberately absent: the verdict on what came of it (move_verdict), its figures (move_figures).
Times in ns, monotonic.
"""

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import libvirt

from hostagent.adapters.libvirt import addresses, move_places, way
from hostagent.adapters.libvirt.bounded import connect, within
from hostagent.adapters.libvirt.events import Events
from hostagent.adapters.libvirt.move_places import Seen
from hostagent.adapters.libvirt.move_watch import Hand, Pulse
from hostagent.core.move import Measure, Order, Progress, Stage
from hostagent.rules import convergence

S = 1_000_000_000
MS = 1_000_000

TICK_S = 0.05
SILENT_NS = 3 * S
"""How long a destination's libvirt may leave a question without an answer."""
HUNG_NS = 8 * S
"""How long a hand-over may take beyond the downtime that is allowed."""
AGAIN_NS = 2 * S
UNHEEDED_NS = 5 * S
"""After an abort: then the destination's copy is ended."""
GIVE_UP_NS = 35 * S
"""After an abort, or after the limit of one that can't be aborted any more (post-copy); longer than
libvirt's own keepalive (30 s): then nobody waits any more."""
TELL_NS = S
OPENING_NS = 3 * S
"""A connection to a host that has just answered."""
_CERTIFICATES = re.compile(r"credentials|certificate|TLS", re.IGNORECASE)
"""In the words of QEMU and of its GnuTLS."""
_LIBVIRTS_OWN = "verify peer's certificate"
"""One libvirt of the other's (src/rpc/virnetclient.c)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the call ended. `error` is empty for success; `returned` is False if nobody waited any
    more. `switched`: whether the source stopped for the hand-over, None where that was not seen."""

    error: str
    returned: bool
    switched: bool | None
    begun_ns: int
    ended_ns: int
    progress: Progress


def flags_of(order: Order) -> int:
    """For virDomainMigrateToURI3."""
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
    if order.persistent:
        flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    measures = {stage.measure for stage in order.convergence}
    if Measure.AUTO_CONVERGE in measures:
        flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
    if Measure.POST_COPY in measures:
        flags |= libvirt.VIR_MIGRATE_POSTCOPY
    if order.copy:
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
    if addresses.is_tls(order.via):
        flags |= libvirt.VIR_MIGRATE_TLS
    if on_one_machine(order):
        # One page cache: libvirt can't tell, and refuses a disk on a local file system.
        flags |= libvirt.VIR_MIGRATE_UNSAFE
    return flags


def on_one_machine(order: Order) -> bool:
    return addresses.is_local(order.source) and addresses.is_local(order.destination)


def parameters_of(order: Order) -> dict[str, Any]:
    """The typed parameters of virDomainMigrateToURI3."""
    parameters: dict[str, Any] = {}
    if order.stream:
        parameters[libvirt.VIR_MIGRATE_PARAM_URI] = way.stream_of(order.stream, order.uuid)
    if order.bandwidth_mib_s:
        parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = order.bandwidth_mib_s
    if flags_of(order) & libvirt.VIR_MIGRATE_TLS:
        # The stream goes to an address; certificates are made out to names.
        parameters[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = urlsplit(order.via).hostname or ""
    if order.copy:
        parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(order.copy)
        if order.stream.startswith("unix://"):
            disks = way.stream_of(order.stream.removesuffix(".sock") + "-d.sock", order.uuid)
            parameters[libvirt.VIR_MIGRATE_PARAM_DISKS_URI] = disks
    return parameters


def sweep(order: Order) -> None:
    """Take the sockets of a move away that is over, on this machine: a QEMU that was killed leaves
    them, and the next move of this guest wants their names."""
    parameters = parameters_of(order)
    uris = (libvirt.VIR_MIGRATE_PARAM_URI, libvirt.VIR_MIGRATE_PARAM_DISKS_URI)
    if not on_one_machine(order):
        return
    for uri in (str(parameters.get(name, "")) for name in uris):
        path = Path(uri.removeprefix("unix://"))
        if uri.startswith("unix://") and path.is_socket():
            with suppress(OSError):
                path.unlink()


class _Call(threading.Thread):
    """The migration itself, in a thread that may be left behind."""

    def __init__(self, order: Order, flags: int) -> None:
        super().__init__(name="libvirt-migrate", daemon=True)
        self._order = order
        self._flags = flags
        self.error = ""
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        order = self._order
        try:
            domain = connect(addresses.quiet(order.source)).lookupByUUIDString(order.uuid)
            domain.migrateToURI3(order.via, parameters_of(order), self._flags)
        except libvirt.libvirtError as error:
            self.error = _explained(order, move_places.told(error))
        self.over.set()


def _explained(order: Order, said: str) -> str:
    """Who asks for TLS has the memory sent by TLS too, never in the clear: QEMU's own, with
    certificates of its own, of which a host that has libvirt's need not have any."""
    if not addresses.is_tls(order.via) or not _CERTIFICATES.search(said):
        return said
    if _LIBVIRTS_OWN in said:
        return (
            f"libvirt at the source does not believe the certificate that it is shown as"
            f" {urlsplit(order.via).hostname} ({said}): where it is made out to a name, say that"
            " name in the URI (of the way home: --home URI)"
        )
    return (
        f"{said}; over qemu+tls QEMU encrypts what it sends, with the certificates of /etc/pki/qemu"
        " (migrate_tls_x509_cert_dir of qemu.conf) on both hosts: put them there, or move over"
        " qemu+ssh, where memory goes over the network in the clear"
    )


class Live:
    """One live migration that we asked for."""

    def __init__(
        self,
        order: Order,
        source: Events,
        destination: Events,
        tell: Callable[[Progress], None],
    ) -> None:
        self._order = order
        self._events = (source, destination)
        self._tell = tell
        self._wanted_off = threading.Event()
        self._aborted_ns = self._asked_off_ns = 0
        self._copy: libvirt.virDomain | None = None
        self._last_word: libvirt.virConnect | None = None
        self._post_copy = False
        self._stages_done = 0
        self._switched_ns = 0
        self._why = ""
        self._progress = Progress(uuid=order.uuid)
        self._told_ns = 0

    def abort(self) -> None:
        """Ask for its end. Never waits."""
        self._wanted_off.set()

    def end_late_copy(self) -> None:
        """The source runs the guest, and libvirt at the destination does not answer: let it find,
        before it does anything else, that its copy is to be ended. Never waits.

        The handle and its connection are older than the source's, so that this request is taken
        first when it goes on, or at worst right after the one to start the copy. Nothing else was
        ever asked on that connection, since libvirtd takes one more request of a client that has
        ended (src/rpc/virnetserverclient.c), as this command will have."""
        copy = self._copy
        if copy is not None:
            threading.Thread(target=_destroy, args=(copy,), daemon=True).start()

    def run(self, *, resume: bool = False) -> Ended:
        """Migrate; returns when the call did, or when it is of no use to wait for it any more.
        `resume`: take a post-copy up again whose link broke."""
        order = self._order
        self._begun_ns = time.monotonic_ns()
        self._post_copy = resume
        source, destination = addresses.quiet(order.source), addresses.quiet(order.destination)
        flags = flags_of(order)
        if resume:
            flags |= libvirt.VIR_MIGRATE_POSTCOPY | libvirt.VIR_MIGRATE_POSTCOPY_RESUME
        self._there: Pulse[Seen] = Pulse(destination, 0.3, self._seen_there)
        self._here: Pulse[Seen] = Pulse(source, 0.2, self._seen)
        self._stats: Pulse[dict[str, Any]] = Pulse(source, 0.5, self._job_stats)
        self._lever, self._brake, self._axe = Hand(source), Hand(source), Hand(destination)
        self._last_word = _opened(destination)
        self._call = _Call(order, flags)
        try:
            self._follow()
        finally:
            for pulse in (self._there, self._here, self._stats):
                pulse.stop()
        returned = self._call.over.is_set()
        return Ended(
            error=self._error(returned),
            returned=returned,
            switched=self._switched(),
            begun_ns=self._begun_ns,
            ended_ns=time.monotonic_ns(),
            progress=self._progress,
        )

    def _error(self, returned: bool) -> str:
        if not returned:
            return self._why or "it did not end within its limit"
        if self._call.error and self._why:
            return f"{self._why} ({self._call.error})"
        return self._call.error

    def _follow(self) -> None:
        while not self._call.over.wait(TICK_S):
            now_ns = time.monotonic_ns()
            self._look(now_ns)
            self._drive(now_ns)
            self._mind_destination()
            self._mind_hand_over(now_ns)
            self._mind_abort(now_ns)
            over_ns = self._aborted_ns or self._begun_ns + self._order.limit_ns
            if now_ns > over_ns + GIVE_UP_NS:
                return

    # what is seen

    def _seen(self, conn: libvirt.virConnect) -> Seen:
        return move_places.seen(conn, self._order.uuid)

    def _seen_there(self, conn: libvirt.virConnect) -> Seen:
        """Keeps a handle of the copy, for `end_late_copy`."""
        there = self._seen(conn)
        if there.active and self._copy is None and self._last_word is not None:
            self._copy = self._last_word.lookupByUUIDString(self._order.uuid)
        return there

    def _job_stats(self, conn: libvirt.virConnect) -> dict[str, Any]:
        return conn.lookupByUUIDString(self._order.uuid).jobStats()

    def _look(self, now_ns: int) -> None:
        here = self._here.answer
        if here is not None and here.handed_over and not self._switched_ns:
            self._switched_ns = now_ns
        if now_ns < self._told_ns + TELL_NS or not self._stats.answer:
            return
        self._told_ns = now_ns
        progress = progress_of(self._order.uuid, self._stats.answer, self._progress)
        if progress is not None:
            self._progress = progress
            self._tell(progress)

    def _heard(self, which: int, name: str) -> bool:
        return any(
            event.name == name and event.received_ns >= self._begun_ns
            for event in self._events[which].of(self._order.uuid)
        )

    def _switched(self) -> bool | None:
        """Events tell for sure, if they were listened to all the time."""
        if self._switched_ns or self._heard(0, "STOP"):
            return True
        if not self._order.runs or not self._events[0].await_listening(0):
            return None
        return False if self._here.answer is not None and self._here.answer.runs else None

    # what is done

    def _drive(self, now_ns: int) -> None:
        """The stages; one that was not taken (libvirt is still preparing) is tried again."""
        since_ns = now_ns - self._begun_ns
        if self._wanted_off.is_set():
            self._abort(now_ns, "it was aborted")
        if since_ns > self._order.limit_ns:
            self._abort(now_ns, f"it did not end within {self._order.limit_ns / S:g} s")
        stages = self._order.convergence
        stage = convergence.due(stages, since_ns, self._stages_done)
        if stage is None or self._aborted_ns:
            return
        if stage.measure is Measure.ABORT:
            self._abort(now_ns, f"it did not end within {stage.after_ns / S:g} s")
        elif stage.measure is Measure.AUTO_CONVERGE:
            self._stages_done += 1  # since the beginning: a flag of the call
        elif self._job_runs() and self._lever.do(lambda conn: self._measure(conn, stage)):
            self._stages_done += 1

    def _job_runs(self) -> bool:
        return bool(self._stats.answer) and bool((self._stats.answer or {}).get("data_total"))

    def _measure(self, conn: libvirt.virConnect, stage: Stage) -> None:
        domain = conn.lookupByUUIDString(self._order.uuid)
        if stage.measure is Measure.MAX_DOWNTIME:
            domain.migrateSetMaxDowntime(stage.downtime_ms)
        else:
            domain.migrateStartPostCopy()
            self._post_copy = True

    def _abort(self, now_ns: int, why: str) -> None:
        """Once; never of a post-copy, which would lose the guest."""
        if self._aborted_ns or self._post_copy:
            return
        self._aborted_ns = self._asked_off_ns = now_ns
        self._why = why
        self._brake.do(self._abort_job)

    def _abort_job(self, conn: libvirt.virConnect) -> None:
        conn.lookupByUUIDString(self._order.uuid).abortJob()

    def _mind_destination(self) -> None:
        if self._there.silent_ns > SILENT_NS:
            self._abort(
                time.monotonic_ns(),
                f"libvirt at the destination did not answer for {SILENT_NS / S:g} s",
            )

    def _mind_hand_over(self, now_ns: int) -> None:
        allowed_ms = max((stage.downtime_ms for stage in self._order.convergence), default=0)
        limit_ns = HUNG_NS + 2 * allowed_ms * MS
        if self._switched_ns and now_ns > self._switched_ns + limit_ns:
            self._end_copy(f"the destination's QEMU did not take it over in {limit_ns / S:g} s")

    def _mind_abort(self, now_ns: int) -> None:
        """One that came before there was a job is asked for again."""
        if not self._aborted_ns or now_ns < self._asked_off_ns + AGAIN_NS:
            return
        self._asked_off_ns = now_ns
        self._brake.do(self._abort_job)
        if now_ns > self._aborted_ns + UNHEEDED_NS:
            self._end_copy(self._why)

    def _end_copy(self, why: str) -> None:
        """End the copy at the destination, if it surely never ran: its libvirt answers, calls it
        not started, and has told of no RESUME (which QEMU sends before the CPUs start)."""
        there = self._there.answer
        fresh = time.monotonic_ns() - self._there.answered_ns < S
        if self._post_copy or not fresh or there is None or not there.awaits:
            return
        if self._heard(1, "RESUME") or not self._events[1].await_listening(0):
            return
        uuid = self._order.uuid
        if self._axe.do(lambda conn: _end(conn, uuid)):
            self._why = why


def _end(conn: libvirt.virConnect, uuid: str) -> None:
    """A last look in the same breath as the blow."""
    if move_places.seen(conn, uuid).awaits:
        conn.lookupByUUIDString(uuid).destroy()


def _opened(uri: str) -> libvirt.virConnect | None:
    """A connection, if it is to be had soon."""
    with suppress(libvirt.libvirtError, TimeoutError):
        return within(OPENING_NS, lambda: connect(uri))
    return None


def _destroy(copy: libvirt.virDomain) -> None:
    with suppress(libvirt.libvirtError):
        copy.destroy()


def progress_of(uuid: str, stats: dict[str, Any], before: Progress) -> Progress | None:
    """From virDomainGetJobStats; the rate is what was sent since the last look."""
    total = stats.get(libvirt.VIR_DOMAIN_JOB_DATA_TOTAL)
    if not total:
        return None
    sent = int(stats.get(libvirt.VIR_DOMAIN_JOB_DATA_PROCESSED, 0))
    left = int(stats.get(libvirt.VIR_DOMAIN_JOB_DATA_REMAINING, 0))
    rate = max(sent - before.sent_b, 0) * S // TELL_NS
    dirty = int(stats.get(libvirt.VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE, 0)) * int(
        stats.get(libvirt.VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE, 0)
    )
    return replace(
        before,
        sent_b=sent,
        left_b=left,
        total_b=int(total),
        rate_b_s=rate,
        dirty_b_s=dirty,
        left_ns=left * S // (rate - dirty) if rate > dirty else None,
    )
