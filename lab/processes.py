"""Processes by identity: a pid alone may be somebody else's by the time it is used.

Layer: lab, nothing below it. Invariant: no process is signalled by name, and none whose start
time differs from the one that was recorded. Effects: reads /proc, sends signals. Units: start
times are clock ticks since boot (field 22 of /proc/PID/stat, proc(5)). A process that vanished
is a normal answer (None, False), never an error. Zombies count as gone: in a container whose
PID 1 does not reap they stay for ever, yet they run nothing.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """One process, told apart from a later one that got the same pid."""

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """Whether this very process still exists and is not a zombie."""
        fields = _stat(self.pid)
        return fields is not None and int(fields[19]) == self.start_ticks and fields[0] != "Z"

    def state(self) -> str:
        """The state letter of proc(5): R, S, D, T (stopped) ...; empty when it is gone."""
        fields = _stat(self.pid)
        return fields[0] if fields is not None and self.alive() else ""

    def send(self, number: int) -> bool:
        """Send a signal through a pidfd, so that a reused pid can't get it."""
        with suppress(ProcessLookupError):
            fd = os.pidfd_open(self.pid)
            try:
                if self.alive():
                    signal.pidfd_send_signal(fd, number)
                    return True
            finally:
                os.close(fd)
        return False


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def identify(pid: int) -> ProcessId | None:
    """The identity of a pid, or None when no such process runs (zombies do not run)."""
    fields = _stat(pid)
    if fields is None or fields[0] == "Z":
        return None
    return ProcessId(pid=pid, start_ticks=int(fields[19]))


def myself() -> ProcessId:
    """The identity of this process."""
    found = identify(os.getpid())
    assert found is not None
    return found


def read_pid_file(path: Path) -> ProcessId | None:
    """The process that a pid file names, if it runs."""
    try:
        return identify(int(path.read_text()))
    except (OSError, ValueError):
        return None


def all_processes() -> Iterator[ProcessId]:
    """Every process of this PID namespace that runs."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            found = identify(int(entry.name))
            if found is not None:
                yield found


def environment(process: ProcessId) -> dict[str, str]:
    """The environment that a process was started with; empty when it may not be read."""
    try:
        raw = Path(f"/proc/{process.pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition("=") for item in raw.decode(errors="replace").split("\0") if item)
    return {name: value for name, _, value in pairs}


def command_line(process: ProcessId) -> tuple[str, ...]:
    """The arguments of a process; empty when they may not be read."""
    try:
        raw = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(raw.decode(errors="replace").rstrip("\0").split("\0"))


def lives_in(process: ProcessId, home: Path) -> bool:
    """Whether a process belongs to a host whose directory this is.

    Its environment says so (libvirt passes HOME on to QEMU). Where that may not be read (root in a
    container, without CAP_SYS_PTRACE, asking for another user's process), its arguments do: the
    host's own libvirtd is started by its path, and QEMU has a key in a file of libvirt's. A program
    that merely reads a file of the host does not count.
    """
    if str(home) in {environment(process).get(mark) for mark in ("HOME", "HALAB_HOST")}:
        return True
    words = command_line(process)
    started = bool(words) and words[0].startswith(f"{home}/")
    return started or any(f'"file":"{home}/' in word for word in words)


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until a condition holds; TimeoutError names what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(POLL_S)


def kill_all(processes: Iterable[ProcessId], timeout_s: float = 10) -> None:
    """SIGKILL each and wait until none runs; a stopped (frozen) one dies of it too."""
    targets = list(processes)
    for process in targets:
        process.send(signal.SIGKILL)
    wait_until(
        lambda: not any(process.alive() for process in targets),
        timeout_s,
        f"end of {[process.pid for process in targets]}",
    )
