"""An agent that a test plays: honest by itself, and as wrong as the test wants it.

Layer: lab. It sits at the host's end of a scripted guest's relay, so libvirt and QEMU see a guest
like any other. It speaks QEMU's guest agent protocol (QEMU Guest Agent Protocol Reference): JSON, a
line for a line. Its clock is the host's plus `offset_ns`. One thread answers, one request after the
other: an answer that takes its time delays the next ones, as in qemu-ga. Units: ns, s where named.
"""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from lab.guests import Guest

COMMANDS = (
    "guest-sync",
    "guest-sync-delimited",
    "guest-ping",
    "guest-get-time",
    "guest-set-time",
    "guest-info",
)
CONNECT_S = 10
Reply = Callable[[dict[str, Any]], bytes | None]


def returned(value: object) -> bytes:
    """The line with which an agent returns a value."""
    return json.dumps({"return": value}).encode() + b"\n"


class ScriptedAgent:
    """Answers for a guest of the sort `scripted` while its block lasts.

    `replies` maps a command to what is answered in place of the honest answer: raw bytes, or None
    for silence. `asked` lists the commands that came. `drip_s` is waited after every byte.
    """

    def __init__(self, guest: Guest) -> None:
        self.replies: dict[str, Reply] = {}
        self.asked: list[str] = []
        self.offset_ns = 0
        self.drip_s = 0.0
        self._path = str(guest.ports.relay)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._serve, name="scripted-agent", daemon=True)

    def __enter__(self) -> Self:
        self._socket.settimeout(CONNECT_S)
        self._socket.connect(self._path)
        self._socket.settimeout(None)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(CONNECT_S)
        self._socket.close()

    def _serve(self) -> None:
        """Until either side hangs up."""
        with suppress(OSError), self._socket.makefile("rb") as requests:
            for line in requests:
                self._answer(line.strip(b"\xff \r\n"))

    def _answer(self, line: bytes) -> None:
        try:
            request = json.loads(line)
            command = str(request["execute"])
        except (ValueError, KeyError, TypeError):
            return
        self.asked.append(command)
        reply = self.replies.get(command, self._honest)(request)
        if reply is not None:
            self._send(reply)

    def _send(self, reply: bytes) -> None:
        if not self.drip_s:
            self._socket.sendall(reply)
            return
        for byte in reply:
            self._socket.sendall(bytes([byte]))
            time.sleep(self.drip_s)

    def _honest(self, request: dict[str, Any]) -> bytes:
        arguments = request.get("arguments", {})
        match request["execute"]:
            case "guest-sync":
                return returned(arguments["id"])
            case "guest-sync-delimited":
                return b"\xff" + returned(arguments["id"])
            case "guest-ping":
                return returned({})
            case "guest-get-time":
                return returned(time.time_ns() + self.offset_ns)
            case "guest-set-time":
                self.offset_ns = arguments["time"] - time.time_ns() if "time" in arguments else 0
                return returned({})
            case "guest-info":
                return returned({"version": "9.9", "supported_commands": _known()})
            case command:
                words = f"The command {command} has not been found"
                return error("CommandNotFound", words)


def error(kind: str, words: str) -> bytes:
    """The line with which an agent reports an error."""
    return json.dumps({"error": {"class": kind, "desc": words}}).encode() + b"\n"


def _known() -> list[dict[str, object]]:
    return [{"name": name, "enabled": True, "success-response": True} for name in COMMANDS]
