"""What hostagent and its guardian say to each other, and hostagent's end of it.

Layer: guardian; adapters use `Watch`. JSON lines over a pipe, each an object with the message's
name in "say". hostagent says arm, paused, let-go, disarm; the guardian says ready (again after a
restart of its unit), refused, disarmed. The end of the pipe without a disarm is what sets the
guardian off. Invariant of `Watch`: nothing but `arm` and `disarm` waits, and those have a limit; a
guardian that is frozen with a full pipe, or dead (SIGPIPE), keeps no resume waiting: writing is
done by a thread of its own. Errors: WireError for what is no message, NotReadyError from `arm`.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from typing import Any

from hostagent.guardian.daemon import DaemonId
from hostagent.guardian.launch import Mode, exposed, modes, spawn
from hostagent.guardian.process import ProcessId
from hostagent.guardian.resume import Target, Ways

MAX_LINE = 8 * 1024 * 1024
"""An arm for 20,000 guests is about this long; more is no message."""
LAST_WORDS_S = 0.2
"""How long after a guardian's end what it said last may take to be read."""


class WireError(ValueError):
    """This line is no message."""


class NotReadyError(Exception):
    """The guardian is not ready: nothing may be paused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Watch these guests, until `deadline_ns` (CLOCK_MONOTONIC) at the latest.

    `list_path`: where what remains is kept; `journal_path`: the guardian's own journal;
    `lock_path`: its lock, held while it may act; `owner`: the process that pauses the guests."""

    run: str
    list_path: str
    journal_path: str
    lock_path: str
    deadline_ns: int
    owner: ProcessId
    ways: Ways
    guests: tuple[Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """hostagent's suspend call for these has returned: nothing is outstanding for them."""

    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LetGo:
    """These run again, or were found not to be ours."""

    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disarm:
    """All is well, but for `keep`: bring those back, however long it takes."""

    keep: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The guardian watches; this is its process."""

    guardian: ProcessId


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The guardian can't watch, and ends."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disarmed:
    """The guardian ends, or goes on with what it was told to keep."""


Message = Arm | Paused | LetGo | Disarm | Ready | Refused | Disarmed

_NAMES: dict[type[Message], str] = {
    Arm: "arm",
    Paused: "paused",
    LetGo: "let-go",
    Disarm: "disarm",
    Ready: "ready",
    Refused: "refused",
    Disarmed: "disarmed",
}


def encode(message: Message) -> bytes:
    """A message as a line."""
    value = {"say": _NAMES[type(message)], **asdict(message)}
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line. Raises WireError."""
    try:
        value = json.loads(line)
        name = value.pop("say")
        if name == "arm":
            return arm_from_json(value)
        if name == "ready":
            return Ready(guardian=ProcessId(**value["guardian"]))
        if name == "refused":
            return Refused(reason=str(value["reason"]))
        if name == "disarm":
            return Disarm(keep=_uuids(value["keep"]))
        if name == "disarmed":
            return Disarmed()
        if name == "paused":
            return Paused(uuids=_uuids(value["uuids"]))
        if name == "let-go":
            return LetGo(uuids=_uuids(value["uuids"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WireError(f"no message: {error!r:.200}") from None
    raise WireError(f"no such message: {name!r:.40}")


def arm_from_json(value: Mapping[str, Any]) -> Arm:
    """An Arm from its JSON, that of a message or of a list file. Raises KeyError, TypeError."""
    ways = value["ways"]
    daemon = ways["daemon"]
    return Arm(
        run=value["run"],
        list_path=value["list_path"],
        journal_path=value["journal_path"],
        lock_path=value["lock_path"],
        deadline_ns=int(value["deadline_ns"]),
        owner=ProcessId(**value["owner"]),
        ways=Ways(**{**ways, "daemon": DaemonId(**daemon) if daemon else None}),
        guests=tuple(Target(**guest) for guest in value["guests"]),
    )


def _uuids(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError("not a list of uuids")
    return tuple(value)


def read_messages(fd: int) -> Iterator[Message]:
    """The messages that come in on a pipe, until its end. A line that is none is passed over."""
    buffer = b""
    while True:
        try:
            data = os.read(fd, 65536)
        except OSError:
            return
        if not data or len(buffer) > MAX_LINE:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            try:
                yield decode(line)
            except WireError:
                continue


def write_messages(fd: int, queue: "SimpleQueue[bytes | None]") -> None:
    """Write what is queued until None comes or nobody reads any more; then close the pipe. May
    hang as long as the reader does: run it in a daemon thread."""
    # A reader that is gone is an error to be passed over here, never the end of this process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        while (data := queue.get()) is not None:
            while data:
                data = data[os.write(fd, data) :]
    except OSError:
        pass
    finally:
        os.close(fd)


class _End:
    """One guardian process and the threads that talk to it."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", on_end: Callable[["_End"], None]
    ) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a guardian without pipes")
        self._process = process
        self._on_end = on_end
        self._out: SimpleQueue[bytes | None] = SimpleQueue()
        self.heard: SimpleQueue[Message | None] = SimpleQueue()
        self.guardian: ProcessId | None = None
        self.ended = False
        self._once = threading.Lock()
        self._read_all = threading.Event()
        writer = (os.dup(process.stdin.fileno()), self._out)
        process.stdin.close()
        threading.Thread(target=write_messages, args=writer, name="wire", daemon=True).start()
        threading.Thread(target=self._read, name="wire-read", daemon=True).start()

    def say(self, message: Message) -> None:
        self._out.put(encode(message))

    def hang_up(self) -> None:
        self._out.put(None)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for message in read_messages(self._process.stdout.fileno()):
            if isinstance(message, Ready):
                self.guardian = message.guardian
                follow = threading.Thread(target=self._follow, args=(message.guardian,))
                follow.daemon = True
                follow.start()
            self.heard.put(message)
        self._read_all.set()
        self._over()
        self._process.wait()

    def _follow(self, guardian: ProcessId) -> None:
        """The end of its process is its end: systemd-run holds the pipe open until its unit, which
        is started again, has ended for good."""
        with suppress(OSError):
            guardian.wait()
            self._read_all.wait(LAST_WORDS_S)
            self._over()

    def _over(self) -> None:
        if self._once.acquire(blocking=False):
            self.ended = True
            self.heard.put(None)
            self._on_end(self)


class Watch:
    """hostagent's guardian, from its start to its disarming."""

    def __init__(
        self,
        *,
        unit: str,
        list_path: str,
        mode: Mode = Mode.AUTO,
        python: str = sys.executable,
        on_death: Callable[[], None] | None = None,
    ) -> None:
        """Start a guardian; it does nothing before `arm`. `unit` names its systemd unit, and
        `on_death` is called, in a thread, when it ends while it is armed. `exposed` is as in
        launch. Raises NotReadyError."""
        self._unit = unit
        self._list_path = list_path
        self._python = python
        self._on_death = on_death
        self._modes = list(modes(mode))
        self.exposed = False
        self._armed = False
        self._end = self._start()

    @property
    def guardian(self) -> ProcessId | None:
        """The guardian's process, once it was ready."""
        return self._end.guardian

    def arm(self, arm: Arm, limit_ns: int) -> ProcessId:
        """Hand over the guests and wait until the guardian is ready. Raises NotReadyError, and
        then no guardian is left behind."""
        deadline_ns = time.monotonic_ns() + limit_ns
        while True:
            self._end.say(arm)
            answer = self._hear(deadline_ns)
            if isinstance(answer, Ready):
                self._armed = True
                return answer.guardian
            if answer is None and self._end.ended and self._modes:
                self._end = self._start()
                continue
            self._end.say(Disarm(keep=()))
            self._end.hang_up()
            raise NotReadyError(
                answer.reason if isinstance(answer, Refused) else "the guardian does not start"
            )

    def paused(self, uuids: Sequence[str]) -> None:
        """The suspend calls for these have returned. Never waits."""
        self._end.say(Paused(uuids=tuple(uuids)))

    def let_go(self, uuids: Sequence[str]) -> None:
        """These run, or are not ours. Never waits."""
        self._end.say(LetGo(uuids=tuple(uuids)))

    def disarm(self, keep: Sequence[str], limit_ns: int) -> bool:
        """End the guardian, or leave it alone with the guests in `keep`; whether it confirmed.
        Either way nothing is waited for afterwards."""
        self._armed = False
        self._end.say(Disarm(keep=tuple(keep)))
        self._end.hang_up()
        answer = self._hear(time.monotonic_ns() + limit_ns)
        while answer is not None and not isinstance(answer, Disarmed):
            answer = self._hear(time.monotonic_ns() + limit_ns)
        return answer is not None

    def alive(self) -> bool:
        """Whether the guardian is there, as far as its pipe and /proc tell."""
        guardian = self._end.guardian
        return not self._end.ended and (guardian is None or guardian.alive())

    def _start(self) -> _End:
        mode = self._modes.pop(0)
        self.exposed = exposed(mode)
        try:
            process = spawn(mode, unit=self._unit, list_path=self._list_path, python=self._python)
        except OSError as error:
            if self._modes:
                return self._start()
            raise NotReadyError(f"the guardian can't be started: {error}") from error
        return _End(process, self._ended)

    def _hear(self, deadline_ns: int) -> Message | None:
        try:
            left_s = max(deadline_ns - time.monotonic_ns(), 0) / 1e9
            return self._end.heard.get(timeout=left_s)
        except Empty:
            return None

    def _ended(self, end: _End) -> None:
        if self._armed and end is self._end and self._on_death is not None:
            self._armed = False
            self._on_death()
