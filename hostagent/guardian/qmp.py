"""One `cont` on a guest's own QMP monitor, for when libvirt can't be used.

Layer: guardian. Source: QEMU's QMP specification (greeting, qmp_capabilities, query-status, cont).
Connect, cont, query-status, close: all within one limit (1 s), so that a libvirtd that comes back
can adopt the guest. Invariants: only a guest whose status is exactly "paused" is continued (an
I/O error, a panic, a sleep or a migration has a status of its own); what the other side sends is
bounded in size and never trusted. Effects: one Unix socket. Errors: none is raised; every way to
fail is an `Outcome`.
"""

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

LIMIT_NS = 1_000_000_000
MAX_BYTES = 256 * 1024
"""More than any honest QEMU sends in this exchange (a greeting is 150 bytes, an event 200)."""
BUSY_RETRY_S = 0.005


class Word(StrEnum):
    """How it went."""

    RESUMED = "resumed"
    RUNNING = "running"
    OTHER_STATUS = "other-status"
    NO_GREETING = "no-greeting"
    NO_ANSWER = "no-answer"
    NOT_CONFIRMED = "not-confirmed"
    REFUSED = "refused"
    ABSENT = "absent"
    ODD = "odd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it went, QEMU's status where it was told, and the bounds of the `cont` itself."""

    word: Word
    reason: str = ""
    status: str = ""
    called_ns: int = 0
    returned_ns: int = 0


class _EndedError(Exception):
    """The exchange is over before its end; carries the outcome."""

    def __init__(self, word: Word, reason: str) -> None:
        super().__init__(reason)
        self.outcome = Outcome(word=word, reason=reason)


def cont(
    path: str,
    *,
    limit_ns: int = LIMIT_NS,
    greeting_ns: int = LIMIT_NS,
    confirm: Callable[[], bool] = lambda: True,
) -> Outcome:
    """Continue the guest behind this monitor if it is paused.

    `greeting_ns`: how long to wait for the greeting; none in that time means that another client
    holds the monitor (a frozen libvirtd). `confirm` is asked right before `cont`: is it still the
    same guest?
    """
    exchange = _Exchange(time.monotonic_ns() + limit_ns)
    try:
        exchange.connect(path, time.monotonic_ns() + min(greeting_ns, limit_ns))
        return _cont(exchange, confirm)
    except _EndedError as ended:
        return ended.outcome
    finally:
        exchange.close()


def _cont(exchange: "_Exchange", confirm: Callable[[], bool]) -> Outcome:
    exchange.ask("qmp_capabilities")
    status = exchange.status()
    if status == "running":
        return Outcome(word=Word.RUNNING, status=status)
    if status != "paused":
        return Outcome(word=Word.OTHER_STATUS, status=status, reason=f"QEMU says {status!r}")
    if not confirm():
        return Outcome(word=Word.NOT_CONFIRMED, status=status, reason="not the same process")
    called_ns = time.monotonic_ns()
    exchange.ask("cont")
    returned_ns = time.monotonic_ns()
    status = exchange.status()
    if status != "running":
        return Outcome(word=Word.ODD, status=status, reason=f"{status!r} after cont")
    return Outcome(word=Word.RESUMED, status=status, called_ns=called_ns, returned_ns=returned_ns)


class _Exchange:
    """The socket, with one deadline and one allowance of bytes for the whole exchange."""

    def __init__(self, deadline_ns: int) -> None:
        self._deadline_ns = deadline_ns
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = b""
        self._received = 0

    def close(self) -> None:
        self._socket.close()

    def connect(self, path: str, greeting_deadline_ns: int) -> None:
        """Connect and read the greeting."""
        self._reach(path, greeting_deadline_ns)
        try:
            greeting = self._line(greeting_deadline_ns)
        except TimeoutError:
            raise _EndedError(Word.NO_GREETING, "its monitor is held by another client") from None
        if "QMP" not in greeting:
            raise _EndedError(Word.ODD, "not a QMP greeting")

    def _reach(self, path: str, deadline_ns: int) -> None:
        while True:
            try:
                self._socket.settimeout(_left_s(deadline_ns))
                self._socket.connect(path)
                return
            except TimeoutError:
                raise _EndedError(Word.NO_GREETING, "its monitor accepts nobody") from None
            except BlockingIOError:
                # The queue of a Unix socket is full: others wait for this monitor too.
                time.sleep(BUSY_RETRY_S)
            except (FileNotFoundError, NotADirectoryError):
                raise _EndedError(Word.ABSENT, "its monitor socket is gone") from None
            except OSError as error:
                raise _EndedError(Word.REFUSED, f"its monitor: {error.strerror}") from None

    def status(self) -> str:
        """QEMU's run state."""
        answer = self.ask("query-status")
        status = answer.get("status") if isinstance(answer, dict) else None
        if not isinstance(status, str):
            raise _EndedError(Word.ODD, "query-status without a status")
        return status[:40]

    def ask(self, command: str) -> object:
        """Send one command and give its return value, passing over events."""
        try:
            self._socket.settimeout(_left_s(self._deadline_ns))
            self._socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
            while True:
                answer = self._line(self._deadline_ns)
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    raise _EndedError(Word.ODD, f"{command}: {str(answer['error'])[:200]}")
        except TimeoutError:
            raise _EndedError(Word.NO_ANSWER, f"no answer to {command}") from None
        except OSError as error:
            raise _EndedError(Word.ODD, f"{command}: {error.strerror}") from None

    def _line(self, deadline_ns: int) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            self._socket.settimeout(_left_s(deadline_ns))
            try:
                data = self._socket.recv(65536)
            except ConnectionError as error:
                raise _EndedError(Word.ODD, f"its monitor: {error.strerror}") from None
            self._received += len(data)
            if not data or self._received > MAX_BYTES:
                raise _EndedError(Word.ODD, "its monitor closed" if not data else "too much data")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise _EndedError(Word.ODD, "not JSON") from None
        if not isinstance(value, dict):
            raise _EndedError(Word.ODD, "not a JSON object")
        return value


def _left_s(deadline_ns: int) -> float:
    left_s = (deadline_ns - time.monotonic_ns()) / 1e9
    if left_s <= 0:
        raise TimeoutError
    return left_s
