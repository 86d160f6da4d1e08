"""Where a guest is, by the word of both hosts of a move.

Layer: adapters; reads only. A look at a host costs one call that asks no QEMU, and one for the job
that may ask it. Invariants: every call has a limit; a host that does not answer is None, never "not
there". libvirt has figures of a migration on the sending side only: on the other one the guest is
paused with the reason "migrating" until it is started there. A guest in that state on the sending
side, without a job, is stranded: libvirt was restarted in the moment of the hand-over and left it
so (src/qemu/qemu_process.c, qemuProcessRecoverMigrationOut). Times in ns, monotonic.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import libvirt

from hostagent.adapters.libvirt import addresses, errors, words
from hostagent.adapters.libvirt.bounded import Reader, connect, within
from hostagent.core.errors import HostagentError
from hostagent.core.model import RUNS, GuestState

T = TypeVar("T")
S = 1_000_000_000

LOOK_LIMIT_NS = 3 * S
JOB_LIMIT_NS = 3 * S // 2
CONNECT_LIMIT_NS = 10 * S
"""A first connection over ssh or TLS takes a second or two."""

HANDED_OVER = ("migrating", "post-copy", "post-copy failed")
"""Reasons of a pause that a migration made."""
STARTING = "starting up"
"""The reason while libvirt makes a QEMU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One guest on one host. `job` is a word of words.JOBS; `domain_id` -1 where it has no QEMU."""

    present: bool = False
    state: GuestState = GuestState.SHUT_OFF
    reason: str = ""
    domain_id: int = -1
    persistent: bool = False
    autostart: bool = False
    saved: bool = False
    job: str = ""

    @property
    def active(self) -> bool:
        """Whether it has a QEMU here."""
        return self.domain_id >= 0

    @property
    def runs(self) -> bool:
        """Whether its CPUs execute here."""
        return self.active and self.state in RUNS

    @property
    def handed_over(self) -> bool:
        """Whether it stands still because of a migration: not started yet, or sent already."""
        paused = self.state is GuestState.PAUSED
        return self.active and paused and self.reason in HANDED_OVER

    @property
    def awaits(self) -> bool:
        """Whether, as a destination, it has a QEMU in which the guest never ran: it was not started
        there yet, or libvirt still makes that QEMU (for as long as that hangs)."""
        made = self.active and self.state is GuestState.PAUSED and self.reason == STARTING
        return made or self.handed_over

    @property
    def arrived(self) -> bool:
        """Whether, as a destination, it has taken the guest over."""
        return self.active and not self.awaits

    def __str__(self) -> str:
        if not self.present:
            return "not there"
        return f"{self.state} ({self.reason})" if self.reason else str(self.state)


class Place:
    """One host of a move. Each call opens the connection anew if the last one broke or hung."""

    def __init__(self, uri: str) -> None:
        self.uri = addresses.quiet(uri)
        self._reader = Reader(self.uri, uri)

    def call(self, doing: str, limit_ns: int, work: Callable[[libvirt.virConnect], T]) -> T:
        """One bounded call. Raises LibvirtUnreachableError, or the translated error."""
        return self._reader.read(doing, limit_ns, work)

    def guest(
        self, doing: str, uuid: str, limit_ns: int, work: Callable[[libvirt.virDomain], T]
    ) -> T:
        """One bounded call on a guest."""
        return self.call(doing, limit_ns, lambda conn: work(conn.lookupByUUIDString(uuid)))

    def look(self, uuid: str, limit_ns: int = LOOK_LIMIT_NS) -> Seen | None:
        """The guest as it is here now; None if this host does not answer in time."""
        try:
            found = self.call("looking for the guest", limit_ns, lambda conn: seen(conn, uuid))
        except HostagentError:
            return None
        return found

    def job(self, uuid: str) -> str:
        """The job of a guest that is active; "" for none. One that QEMU does not answer counts."""
        uri = self.uri
        try:
            return within(JOB_LIMIT_NS, lambda: _job(connect(uri), uuid))
        except (TimeoutError, libvirt.libvirtError):
            return words.UNANSWERED

    def await_look(self, uuid: str, until_ns: int) -> Seen | None:
        """As `look`, patient with a libvirt that is just being restarted."""
        while True:
            seen = self.look(uuid)
            if seen is not None or time.monotonic_ns() > until_ns:
                return seen
            time.sleep(0.2)


def looked(place: Place, uuid: str, *, sends: bool) -> Seen | None:
    """A guest with its job; only the sending side knows of one."""
    seen = place.look(uuid)
    if seen is None or not seen.active or not sends:
        return seen
    return replace(seen, job=place.job(uuid))


def seen(conn: libvirt.virConnect, uuid: str) -> Seen:
    try:
        domain = conn.lookupByUUIDString(uuid)
        number, reason = domain.state()
        word = words.state(number)
        persistent = bool(domain.isPersistent())
        return Seen(
            present=True,
            state=word,
            reason=words.reason(word, reason),
            domain_id=domain.ID() if domain.isActive() else -1,
            persistent=persistent,
            autostart=persistent and bool(domain.autostart()),
            saved=persistent and bool(domain.hasManagedSaveImage()),
        )
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return Seen()
        raise


def _job(conn: libvirt.virConnect, uuid: str) -> str:
    """Also of one whose end libvirt knows while it still tidies up: such a guest is held. What
    can't be read counts as a job."""
    try:
        stats = conn.lookupByUUIDString(uuid).jobStats()
    except libvirt.libvirtError as error:
        code = error.get_error_code()
        if code == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            return "incoming migration"  # its figures are on the sending side
        off = (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN)
        return "" if code in off else words.UNANSWERED
    if stats["type"] == libvirt.VIR_DOMAIN_JOB_NONE:
        return ""
    return words.job(stats.get("operation", 0))


def told(error: BaseException) -> str:
    """An error in the operator's words."""
    if isinstance(error, libvirt.libvirtError):
        return errors.translate(error).message
    return error.message if isinstance(error, HostagentError) else str(error)
