"""An independent witness of a guest's pauses: what QEMU itself says on a monitor of the lab's own.

Layer: lab. Invariants: it shares nothing with hostagent or libvirt, so it sees a pause while
libvirtd is dead, frozen or replaced; it only listens and asks, and never changes a guest.
Effects: a thread and a socket, until closed. Units: `wall_ns` is QEMU's time stamp (the host's wall
clock, microsecond steps; qapi/qmp-event.c), `seen_ns` this process's monotonic clock on arrival.
STOP is sent after the virtual CPUs stopped and RESUME before they start, so a pause read from the
time stamps is a lower bound. When the guest's QEMU ends, the witness notes it (GONE) and waits for
the next QEMU of the same guest.
"""

import itertools
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from lab.errors import LabError
from lab.processes import wait_until
from lab.qmp import Message, Monitor, QmpSilent

GONE = "GONE"
"""The witness's own word: QEMU closed the monitor."""

_TURN_S = 0.05


class Watched(Protocol):
    """What the witness needs of a guest: where its monitor is is asked anew for each QEMU."""

    @property
    def name(self) -> str:
        """The guest's name."""

    @property
    def witness_socket(self) -> Path:
        """The monitor that belongs to the witness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event; `wall_ns` is None where QEMU could not read its clock."""

    name: str
    wall_ns: int | None
    seen_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """One pause; `resume` is None while it lasts, or when the guest ended in it."""

    stop: Event
    resume: Event | None

    @property
    def duration_ns(self) -> int | None:
        """Its length by QEMU's own time stamps."""
        if self.resume is None or self.resume.wall_ns is None or self.stop.wall_ns is None:
            return None
        return self.resume.wall_ns - self.stop.wall_ns

    @property
    def seen_duration_ns(self) -> int | None:
        """Its length by this process's monotonic clock: right even if the host's clock was set."""
        return None if self.resume is None else self.resume.seen_ns - self.stop.seen_ns


class Witness:
    """Listens to one guest from its creation until `close`.

    One that `waits` may be made before the guest has a QEMU, and hears it from its beginning.
    """

    def __init__(self, guest: Watched, timeout_s: float = 5, *, waits: bool = False) -> None:
        self._guest = guest
        self._events: list[Event] = []
        self._answers: dict[str, queue.Queue[Any]] = {}
        self._keys = itertools.count(1)
        self._closing = threading.Event()
        self._monitor = None if waits else Monitor(guest.witness_socket, timeout_s)
        self._thread = threading.Thread(
            target=self._listen, name=f"witness-{guest.name}", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and let go of the monitor."""
        self._closing.set()
        self._thread.join(timeout=5)

    @property
    def events(self) -> tuple[Event, ...]:
        """All events until now, oldest first."""
        return tuple(self._events)

    def pauses(self) -> tuple[Pause, ...]:
        """All pauses until now; one whose end was not seen has no resume."""
        return tuple(pair(self.events))

    def status(self, timeout_s: float = 2) -> str:
        """QEMU's own word for the guest's state ("running", "paused" ...), asked for now.

        QmpSilent while QEMU does not answer (frozen), LabError while there is no QEMU.
        """
        monitor, key = self._monitor, f"witness-{next(self._keys)}"
        if monitor is None:
            raise LabError(f"{self._guest.name} has no QEMU")
        answer: queue.Queue[Any] = queue.Queue()
        self._answers[key] = answer
        try:
            monitor.send("query-status", key=key)
            return str(answer.get(timeout=timeout_s)["status"])
        except queue.Empty:
            raise QmpSilent(f"{self._guest.name}: no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise LabError(f"{self._guest.name}: QEMU ended") from error
        finally:
            self._answers.pop(key, None)

    def wait_for(self, name: str, count: int = 1, timeout_s: float = 10) -> Event:
        """Wait until an event was seen `count` times since the beginning; returns that one."""

        def seen() -> list[Event]:
            return [event for event in self.events if event.name == name]

        what = f"{self._guest.name}: event {name} number {count}"
        wait_until(lambda: len(seen()) >= count, timeout_s, what)
        return seen()[count - 1]

    def _listen(self) -> None:
        while not self._closing.is_set():
            if self._monitor is None:
                self._reconnect()
                continue
            try:
                self._take(self._monitor.read(_TURN_S))
            except QmpSilent:
                continue
            except EOFError:
                self._monitor.close()
                self._monitor = None
                self._events.append(Event(name=GONE, wall_ns=None, seen_ns=time.monotonic_ns()))
        if self._monitor is not None:
            self._monitor.close()

    def _reconnect(self) -> None:
        try:
            self._monitor = Monitor(self._guest.witness_socket, timeout_s=1)
        except (OSError, EOFError, LabError):
            self._closing.wait(_TURN_S)

    def _take(self, message: Message) -> None:
        body = message.body
        if "event" in body:
            self._events.append(
                Event(
                    name=body["event"], wall_ns=_wall_ns(body["timestamp"]), seen_ns=message.seen_ns
                )
            )
        elif body.get("id") in self._answers and "return" in body:
            self._answers[body["id"]].put(body["return"])


def _wall_ns(stamp: dict[str, int]) -> int | None:
    """QEMU's time stamp in ns; it writes -1 where it can't read the clock."""
    if stamp["seconds"] < 0:
        return None
    return stamp["seconds"] * 1_000_000_000 + stamp["microseconds"] * 1_000


def pair(events: tuple[Event, ...]) -> Iterator[Pause]:
    """Each STOP with the RESUME that follows it."""
    stop: Event | None = None
    for event in events:
        if event.name == "STOP" and stop is None:
            stop = event
        elif event.name in ("RESUME", GONE) and stop is not None:
            yield Pause(stop=stop, resume=event if event.name == "RESUME" else None)
            stop = None
    if stop is not None:
        yield Pause(stop=stop, resume=None)
