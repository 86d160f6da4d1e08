"""QEMU's machine protocol, just enough of it to watch and to order a lab guest about.

Layer: lab. The lab speaks it on monitors of its own, so that it sees what a guest does even when
libvirtd is dead or frozen, and never disturbs the monitor that libvirt and hostagent use. One
client at a time may use a monitor; a second one connects and then hears nothing.
Errors: QmpSilent when QEMU does not answer in time (frozen, or the monitor is taken), OSError when
there is no QEMU. Protocol: https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lab.errors import LabError


class QmpSilent(LabError):
    """QEMU did not answer in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message from QEMU and when it was read here (monotonic clock)."""

    body: Mapping[str, Any]
    seen_ns: int


class Monitor:
    """One connection to a monitor socket."""

    def __init__(self, path: Path, timeout_s: float = 5) -> None:
        self._buffer = b""
        self._waiting: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(str(path))
            if "QMP" not in self.read(timeout_s).body:
                raise QmpSilent(f"{path}: not a QMP monitor")
            self.execute("qmp_capabilities", timeout_s=timeout_s)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the monitor, for the next client."""
        self._socket.close()

    def send(self, command: str, arguments: Mapping[str, Any] | None = None, key: str = "") -> None:
        """Send a command; its answer is one of the messages that `read` returns."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = dict(arguments)
        if key:
            request["id"] = key
        self._socket.sendall(json.dumps(request).encode() + b"\n")

    def read(self, timeout_s: float) -> Message:
        """The next message; QmpSilent after timeout_s, EOFError when QEMU has ended."""
        deadline = time.monotonic() + timeout_s
        while not self._waiting:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise QmpSilent(f"QEMU said nothing within {timeout_s:g} s")
            self._socket.settimeout(left_s)
            try:
                received = self._socket.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError as error:
                raise EOFError("QEMU closed the monitor") from error
            seen_ns = time.monotonic_ns()
            if not received:
                raise EOFError("QEMU closed the monitor")
            *lines, self._buffer = (self._buffer + received).split(b"\n")
            self._waiting += [
                Message(body=json.loads(line), seen_ns=seen_ns) for line in lines if line.strip()
            ]
        return self._waiting.pop(0)

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, timeout_s: float = 5
    ) -> Any:  # noqa: ANN401 each command returns a shape of its own
        """Run a command and return what it returned; events that come meanwhile are dropped."""
        self.send(command, arguments)
        deadline = time.monotonic() + timeout_s
        while True:
            body = self.read(deadline - time.monotonic()).body
            if "error" in body:
                raise LabError(f"{command}: {body['error'].get('desc')}")
            if "return" in body:
                return body["return"]


def ask(path: Path, command: str, timeout_s: float = 5) -> Any:  # noqa: ANN401
    """One command on a connection of its own."""
    with Monitor(path, timeout_s) as monitor:
        return monitor.execute(command, timeout_s=timeout_s)
