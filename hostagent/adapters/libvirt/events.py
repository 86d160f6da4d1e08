"""What QEMU says about its guests: STOP, RESUME and the like, each with its time.

Layer: adapters. QEMU stamps an event with its wall clock (qapi/qmp-event.c); here it becomes a
monotonic time through the difference of the two clocks at the moment of receipt, which is kept with
it, so that a wall clock that was set meanwhile is seen. STOP is sent after the vCPUs stopped,
RESUME before they start (qapi/run-state.json). Invariants: a connection of its own, opened again by
itself whenever it is lost, and the events registered anew each time: after a restart of libvirt
nothing would ever arrive otherwise. Effects: two daemon threads (libvirt's event loop, once a
process; one that keeps the connection). Errors: LibvirtUnreachableError at the start.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass

import libvirt
import libvirt_qemu

from hostagent.adapters.host.clock import shift_ns
from hostagent.adapters.libvirt import errors
from hostagent.adapters.libvirt.bounded import connect, within

NAMES = (
    "STOP",
    "RESUME",
    "SHUTDOWN",
    "RESET",
    "POWERDOWN",
    "GUEST_PANICKED",
    "SUSPEND",
    "WAKEUP",
)
PATTERN = f"^({'|'.join(NAMES)})$"

KEPT = 64
"""Events kept for each guest: those of the last pauses, not its life story."""

KNOCK_S = 0.02
"""How often a lost connection is tried again; a refused one costs less than a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of one guest. `at_ns` is QEMU's own time, None where QEMU had none.

    `shift_ns` is the wall clock minus the monotonic one at the moment of receipt.
    """

    uuid: str
    name: str
    at_ns: int | None
    received_ns: int
    shift_ns: int


TURNS = 3
"""Of libvirt's loop, until what has arrived is told: the turn under way, one that reads the
socket, and one that calls back (src/util/vireventpoll.c, src/conf/object_event.c)."""

_loop_lock = threading.Lock()
_loop_runs = False


def ensure_loop() -> None:
    """Run libvirt's default event loop in a thread; only connections opened later have events."""
    global _loop_runs
    with _loop_lock:
        if _loop_runs:
            return
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_loop, name="libvirt-events", daemon=True).start()
        _loop_runs = True


def _loop() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            time.sleep(KNOCK_S)


class Events:
    """The events of all guests of one libvirt, from `start` on."""

    def __init__(self, uri: str, place: str) -> None:
        self._uri = uri
        self._place = place
        self._changed = threading.Condition()
        self._kept: dict[str, deque[Event]] = {}
        self._listening = False
        self._started = False
        self._lost = threading.Event()
        self._closed = False

    def start(self, limit_ns: int) -> None:
        """Begin to listen, once; later calls only wait until somebody listens (again)."""
        if not self._started:
            ensure_loop()
            try:
                connection = within(limit_ns, self._open)
            except TimeoutError:
                raise errors.no_answer("listening to events", limit_ns, self._place) from None
            except libvirt.libvirtError as error:
                raise errors.translate(error, "listening to events", self._place) from error
            self._started = True
            keeper = threading.Thread(
                target=self._keep, args=(connection,), name="libvirt-event-keeper", daemon=True
            )
            keeper.start()
        self.await_listening(limit_ns)

    def close(self) -> None:
        """Stop listening. Never waits."""
        self._closed = True
        self._lost.set()

    def await_listening(self, limit_ns: int) -> bool:
        """Wait until events arrive again, or until the limit."""
        with self._changed:
            return self._changed.wait_for(lambda: self._listening, limit_ns / 1e9)

    def catch_up(self, limit_ns: int) -> bool:
        """Let all events that have reached this process be told, as after it was frozen. Asks
        libvirt nothing; takes about 0.1 ms."""
        if not self._started:
            return False
        turns, over = iter(range(TURNS - 1)), threading.Event()

        def turn(timer: int, _opaque: object) -> None:
            if next(turns, None) is None:
                libvirt.virEventRemoveTimeout(timer)
                over.set()

        libvirt.virEventAddTimeout(0, turn, None)
        return over.wait(limit_ns / 1e9)

    def of(self, uuid: str) -> tuple[Event, ...]:
        """All events kept of this guest, oldest first."""
        with self._changed:
            return tuple(self._kept.get(uuid, ()))

    def await_name(self, uuid: str, name: str, after_ns: int, until_ns: int) -> Event | None:
        """The first such event received after a moment, waiting for it until another."""

        def found() -> Event | None:
            return next(
                (
                    event
                    for event in self._kept.get(uuid, ())
                    if event.name == name and event.received_ns >= after_ns
                ),
                None,
            )

        with self._changed:
            left_ns = until_ns - time.monotonic_ns()
            return self._changed.wait_for(found, max(left_ns, 0) / 1e9)

    def _open(self) -> libvirt.virConnect:
        connection = connect(self._uri)
        self._lost.clear()
        connection.registerCloseCallback(self._on_close, None)
        libvirt_qemu.qemuMonitorEventRegister(
            connection,
            None,
            PATTERN,
            self._on_event,
            None,
            libvirt_qemu.VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX,
        )
        self._set_listening(True)
        return connection

    def _keep(self, connection: libvirt.virConnect) -> None:
        """Hold the connection; when it is lost, open another, until closed."""
        held: libvirt.virConnect | None = connection
        del connection
        while held is not None:
            self._lost.wait()
            self._set_listening(False)
            _close(held)
            held = self._reopen()

    def _reopen(self) -> libvirt.virConnect | None:
        while not self._closed:
            try:
                return self._open()
            except libvirt.libvirtError:
                time.sleep(KNOCK_S)
        return None

    def _set_listening(self, listening: bool) -> None:
        with self._changed:
            self._listening = listening
            self._changed.notify_all()

    def _on_close(self, _conn: libvirt.virConnect, _reason: int, _opaque: object) -> None:
        self._lost.set()

    def _on_event(
        self,
        _conn: libvirt.virConnect,
        domain: libvirt.virDomain,
        name: str,
        seconds: int,
        micros: int,
        _details: str | None,
        _opaque: object,
    ) -> None:
        received_ns, shift = time.monotonic_ns(), shift_ns()
        wall_ns = seconds * 1_000_000_000 + micros * 1000
        uuid = domain.UUIDString()
        with self._changed:
            event = Event(
                uuid=uuid,
                name=name,
                at_ns=wall_ns - shift if seconds > 0 else None,
                received_ns=received_ns,
                shift_ns=shift,
            )
            self._kept.setdefault(uuid, deque(maxlen=KEPT)).append(event)
            self._changed.notify_all()


def _close(connection: libvirt.virConnect) -> None:
    try:
        connection.close()
    except libvirt.libvirtError:
        return
