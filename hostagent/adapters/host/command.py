"""The user's commands: update, prepare, verify, rollback.

Layer: adapters; satisfies core.ports.Command. Each runs in a session of its own, so that a Ctrl-C
at the terminal reaches hostagent alone and guests are resumed before the command hears of it. It
has the caller's directory and environment, /dev/null as input, the caller's own output (no pipe of
ours: a child that stays behind and holds it open keeps nobody waiting), and no other descriptor.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

from hostagent.adapters.host import processes
from hostagent.core.errors import RefusedError
from hostagent.core.ports import CommandId

_GATE = Path(__file__).with_name("gate.py")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A started process, our end of its gate, and where its exec would report an error."""

    process: subprocess.Popen[bytes]
    gate: int
    errors: int


class HostCommand:
    """Commands by the name of their step. `output` is the descriptor that they write to (None:
    this process's own output)."""

    def __init__(self, output: int | None = None) -> None:
        self._output = output
        self._commands: dict[str, _Waiting] = {}
        self._lock = threading.Lock()

    def launch(self, name: str, argv: Sequence[str]) -> CommandId:
        """Start a process that waits to become this command. Raises RefusedError."""
        gate_read, gate_write = os.pipe()
        errors_read, errors_write = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GATE), str(gate_read), str(errors_write), *argv],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(gate_read, errors_write),
                start_new_session=True,
                env=_callers_environment(),
            )
        except OSError as error:
            os.close(gate_write)
            os.close(errors_read)
            raise RefusedError(f"can't start a process: {error}") from error
        finally:
            os.close(gate_read)
            os.close(errors_write)
        with self._lock:
            self._commands[name] = _Waiting(process=process, gate=gate_write, errors=errors_read)
        command = processes.identify(process.pid)
        if command is None:
            raise RefusedError("the command's process ended at once")
        return command

    def release(self, name: str) -> None:
        """Open the gate. A byte always fits into an empty pipe, so this never waits."""
        gate = self._commands[name].gate
        os.write(gate, b"1")
        os.close(gate)

    def wait(self, name: str) -> int:
        """The exit status; negative for a signal. Raises OSError if it could not be executed."""
        command = self._commands[name]
        status = command.process.wait()
        os.set_blocking(command.errors, False)
        try:
            number = os.read(command.errors, 16)
        except BlockingIOError:
            number = b""
        os.close(command.errors)
        if number:
            raise OSError(int(number), os.strerror(int(number)))
        return status

    def cancel(self, name: str) -> None:
        """End a command that still waits at its gate."""
        command = self._commands[name]
        os.close(command.gate)
        command.process.wait(timeout=5)

    def signal(self, command: CommandId, number: int) -> bool:
        """Signal the command's process group."""
        return processes.signal_group(command, Signals(number))

    def alive(self, command: CommandId) -> bool:
        """Whether this very process still lives."""
        return processes.alive(command)


def _callers_environment() -> dict[bytes, bytes]:
    """Ours without what Python itself has added to it: in the C locale it sets LC_CTYPE (PEP 538).
    /proc/self/environ is as this process was started."""
    environment = dict(os.environb)
    try:
        given = b"\0" + Path("/proc/self/environ").read_bytes()
    except OSError:
        return environment
    if b"\0LC_CTYPE=" not in given:
        environment.pop(b"LC_CTYPE", None)
    return environment
