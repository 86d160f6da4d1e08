"""An agent that a test plays: honest by itself, and as wrong as the test wants it.

Layer: lab. It sits at the host's end of a scripted guest's relay, so libvirt and QEMU see a guest
like any other, whose agent connects when this does and is gone when this is. It speaks QEMU's guest
agent protocol (https://qemu.readthedocs.io/en/latest/interop/qemu-ga-ref.html): JSON, a line for a
line; its errors have the words of QEMU 7.2's agent, as that agent was heard to say them. Its clock
is simulated: the host's plus `offset_ns`, so it goes on while the guest is paused. Invariant: one
thread answers, one request after the other, so that an answer which takes its time delays the next
ones, as in qemu-ga. Units: ns, s where named. Errors: TimeoutError, LabError of the guest.
"""

import base64
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from lab.errors import LabError
from lab.guests import Guest
from lab.processes import wait_until

COMMANDS = (
    "guest-sync",
    "guest-sync-delimited",
    "guest-ping",
    "guest-info",
    "guest-get-time",
    "guest-set-time",
    "guest-exec",
    "guest-exec-status",
)
NOT_BY_DEFAULT = ("guest-exec", "guest-exec-status")
"""Disabled unless a test clears `disabled`: so they are as Red Hat packages the agent."""
CONNECT_S = 10
EVERY = "*"
LATEST_S = 2**31
"""Times beyond it QEMU 7.2's agent calls invalid (it says so from the year 2070 on)."""

Reply = Callable[[dict[str, Any]], bytes | None]
"""What is answered to a request: raw bytes, or None for silence."""


class Refused(Exception):
    """The honest agent's answer is an error; the text is its description."""

    kind = "GenericError"


class NotFound(Refused):
    """One of a command that it does not offer."""

    kind = "CommandNotFound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it came."""

    command: str
    arguments: dict[str, Any]
    at_ns: int
    """Monotonic clock."""


class ScriptedAgent:
    """Answers for a guest of the sort `scripted` while its block lasts, or between `connect` and
    `disconnect`, as often as wanted.

    `replies` maps a command (or EVERY) to what is answered in place of the honest answer.
    `requests` has all that came. `drip_s` is waited after every byte that is sent. `disabled` are
    commands that it refuses and calls disabled. `date_has_fractions` is what tells a GNU `date`
    from busybox's.
    """

    def __init__(self, guest: Guest) -> None:
        self.replies: dict[str, Reply] = {}
        self.requests: list[Request] = []
        self.disabled: set[str] = set(NOT_BY_DEFAULT)
        self.date_has_fractions = True
        self.offset_ns = 0
        self.drip_s = 0.0
        self._guest = guest
        self._ended: dict[int, dict[str, Any]] = {}
        self._closing = threading.Event()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(TimeoutError, LabError, OSError):  # its guest may be gone, or paused
            self.disconnect()

    @property
    def asked(self) -> list[str]:
        """The commands that came."""
        return [request.command for request in self.requests]

    def set_clock(self, offset_ns: int) -> None:
        """Put the simulated clock so far from the host's."""
        self.offset_ns = offset_ns

    def connect(self) -> None:
        """Open the agent's port in the guest and answer on it; libvirt has seen it then."""
        self._closing.clear()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(self._guest.ports.relay))
        self._socket.sendall(b"open\n")
        self._thread = threading.Thread(
            target=self._serve, args=(self._socket,), name="scripted-agent", daemon=True
        )
        self._thread.start()
        what = f"agent of {self._guest.name}"
        wait_until(self._guest.agent_port_open, CONNECT_S, what)
        wait_until(self._guest.agent_connected, CONNECT_S, what)

    def disconnect(self, *, seen: bool = True) -> None:
        """Be gone, as an agent whose process ended.

        QEMU tells libvirt of a change at most once a second (so it was seen with QEMU 7.2): unless
        this waits until it is `seen`, libvirt may never learn that an agent was gone which is back
        before. One that said no JSON, or more than 10 MiB, is not asked again until it was seen
        gone.
        """
        if self._socket is None or self._thread is None:
            return
        self._closing.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(CONNECT_S)
        self._socket.close()
        self._socket = self._thread = None
        what = f"end of the agent of {self._guest.name}"
        wait_until(lambda: not self._guest.agent_port_open(), CONNECT_S, what)
        if seen:
            wait_until(lambda: not self._guest.agent_connected(), CONNECT_S, what)

    def honest(self, request: dict[str, Any]) -> bytes:
        """The answer of an agent that does its work, to build others on."""
        key = {"id": request["id"]} if "id" in request else {}
        command = str(request["execute"])
        try:
            value = self._do(command, request.get("arguments", {}))
        except Refused as refused:
            return error(refused.kind, str(refused), **key)
        return _mark(request) + returned(value, **key)

    def late(self, seconds: float, reply: Reply | None = None) -> Reply:
        """The honest answer (or another one) made at once and sent so much later."""

        def answer(request: dict[str, Any]) -> bytes | None:
            made = (reply or self.honest)(request)
            self._closing.wait(seconds)
            return made

        return answer

    def slow(self, seconds: float, reply: Reply | None = None) -> Reply:
        """The same, but the work is done at the end: the answer is fresh when it comes."""

        def answer(request: dict[str, Any]) -> bytes | None:
            self._closing.wait(seconds)
            return (reply or self.honest)(request)

        return answer

    def _serve(self, connected: socket.socket) -> None:
        """Until either side hangs up."""
        with suppress(OSError), connected.makefile("rb") as lines:
            for line in lines:
                reply = self._answer(line.rpartition(b"\xff")[2].strip())
                if reply is not None:
                    self._send(connected, reply)

    def _answer(self, line: bytes) -> bytes | None:
        try:
            request = json.loads(line)
            command = str(request["execute"])
        except (ValueError, KeyError, TypeError):
            return error("GenericError", "JSON parse error, expecting value")
        arguments = dict(request.get("arguments", {}))
        at_ns = time.monotonic_ns()
        self.requests.append(Request(command=command, arguments=arguments, at_ns=at_ns))
        everything = self.replies.get(EVERY, self.honest)
        return self.replies.get(command, everything)(request)

    def _send(self, connected: socket.socket, reply: bytes) -> None:
        if not self.drip_s:
            connected.sendall(reply)
            return
        for byte in reply:
            connected.sendall(bytes([byte]))
            self._closing.wait(self.drip_s)

    def _do(self, command: str, arguments: dict[str, Any]) -> object:
        """The work of an honest agent. Raises Refused."""
        if command in self.disabled:
            raise NotFound(f"Command {command} has been disabled")
        match command:
            case "guest-sync" | "guest-sync-delimited":
                return arguments["id"]
            case "guest-ping":
                return {}
            case "guest-info":
                return {"version": "7.2.22", "supported_commands": self._offered()}
            case "guest-get-time":
                return time.time_ns() + self.offset_ns
            case "guest-set-time":
                return self._set_time(arguments.get("time"))
            case "guest-exec":
                return {"pid": self._run(arguments)}
            case "guest-exec-status":
                return self._status(arguments.get("pid"))
        raise NotFound(f"The command {command} has not been found")

    def _offered(self) -> list[dict[str, object]]:
        return [
            {"name": name, "enabled": name not in self.disabled, "success-response": True}
            for name in COMMANDS
        ]

    def _set_time(self, wanted_ns: object) -> dict[str, Any]:
        """Without a time it is set from the hardware clock, which here is the host's."""
        if wanted_ns is None:
            self.offset_ns = 0
            return {}
        if not isinstance(wanted_ns, int):
            raise Refused("Invalid parameter type for 'time', expected: integer")
        if wanted_ns < 0:
            raise Refused("Failed to set time to guest: Invalid argument")
        if wanted_ns >= LATEST_S * 1_000_000_000:
            raise Refused("Invalid time")
        self.offset_ns = wanted_ns - time.time_ns()
        return {}

    def _run(self, arguments: dict[str, Any]) -> int:
        """`date -u -s @SECONDS[.FRACTION]` is the only program here; the pid of its process."""
        path, words = str(arguments.get("path")), arguments.get("arg", [])
        if path.rpartition("/")[2] != "date":
            failure = f"Failed to execute child process “{path}” (No such file or directory)"
            raise Refused(f"Guest agent command failed, error was '{failure}'")
        pid = 1000 + len(self.requests)
        self._ended[pid] = self._date(words[-1] if words else "")
        return pid

    def _date(self, word: str) -> dict[str, Any]:
        """What guest-exec-status says of a date that was told to set this time."""
        seconds, point, fraction = word.removeprefix("@").partition(".")
        whole = word.startswith("@") and seconds.isdigit()
        if not whole or (point and not (self.date_has_fractions and fraction.isdigit())):
            said = base64.b64encode(f"date: invalid date '{word}'\n".encode()).decode()
            return {"exited": True, "exitcode": 1, "err-data": said, "err-truncated": False}
        wanted_ns = int(seconds) * 1_000_000_000 + int(f"{fraction:0<9.9}")
        self.offset_ns = wanted_ns - time.time_ns()
        return {"exited": True, "exitcode": 0}

    def _status(self, pid: object) -> dict[str, Any]:
        """A process that ended is known until it was asked for once."""
        if not isinstance(pid, int) or pid not in self._ended:
            raise Refused("Invalid parameter 'pid'")
        return self._ended.pop(pid)


def returned(value: object, **key: object) -> bytes:
    """The line with which an agent returns a value."""
    return json.dumps({"return": value, **key}).encode() + b"\n"


def error(kind: str, words: str, **key: object) -> bytes:
    """The line with which an agent reports an error."""
    return json.dumps({"error": {"class": kind, "desc": words}, **key}).encode() + b"\n"


def raw(text: bytes) -> Reply:
    """These bytes, whatever was asked."""
    return lambda _request: text


def silent(_request: dict[str, Any]) -> None:
    """No answer at all; with EVERY, an agent that hangs."""


def wrong_id(request: dict[str, Any]) -> bytes:
    """For guest-sync and guest-sync-delimited: another number than the one that was asked for."""
    return _mark(request) + returned(int(request["arguments"]["id"]) + 1)


def _mark(request: dict[str, Any]) -> bytes:
    """The byte that no JSON has, before the answer to guest-sync-delimited."""
    return b"\xff" if request["execute"] == "guest-sync-delimited" else b""


def nested(depth: int) -> Reply:
    """Lists in lists."""
    return raw(b'{"return": ' + b"[" * depth + b"]" * depth + b"}\n")


def long(size_mib: int) -> Reply:
    """So much text."""
    return raw(b'{"return": "' + b"x" * (size_mib * 1024 * 1024) + b'"}\n')


LIES: dict[str, Reply] = {
    "negative": raw(returned(-5_000_000_000)),
    "huge": raw(returned(2**63 - 1)),
    "too huge": raw(returned(2**63)),
    "text": raw(returned("noon")),
    "null": raw(returned(None)),
    "NaN": raw(b'{"return": NaN}\n'),
    "no JSON": raw(b"what?\n"),
    "no UTF-8": raw(b"\xfe\xff what?\n"),
    "nested": nested(10_000),
    "10 MiB": long(10),
    "two answers": raw(returned(1) + returned(2)),
    "an error": raw(error("GenericError", "it hurts " * 100)),
    "silence": silent,
}
"""What a hostile agent says to guest-get-time."""
