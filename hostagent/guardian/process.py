"""Processes told apart by pid and start time: a pid alone may be somebody else's by now.

Layer: guardian. Source: proc(5), /proc/PID/stat (field 3 state, field 22 start time in clock
ticks since boot). A zombie counts as gone: it runs nothing, and a PID 1 that does not reap keeps
it for ever. Reading /proc takes microseconds and waits for nothing. Errors: a process that can't
be read is a normal answer (gone), never an exception (but for `wait`).
"""

import os
import select
from dataclasses import dataclass
from pathlib import Path, PurePath

STOPPED = frozenset("Tt")
"""States of a process that does not run until somebody lets it: SIGSTOP, a debugger."""
HALTED = STOPPED | {"D"}
"""... and one that waits in the kernel, as on a disk that does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """One process: its pid and its start time in clock ticks since boot."""

    pid: int
    start_ticks: int

    def state(self) -> str:
        """Its state letter of proc(5), or empty when this very process is gone."""
        return state_of(self.pid, self.start_ticks)

    def alive(self) -> bool:
        """Whether this very process still exists and is no zombie."""
        return self.state() != ""

    def wait(self) -> None:
        """Wait for its end, however long that takes (pidfd_open(2); a zombie has ended). Raises
        OSError when that can't be done."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():
                ends = select.poll()
                ends.register(fd, select.POLLIN)
                ends.poll()
        finally:
            os.close(fd)


def state_of(pid: int, start_ticks: int) -> str:
    """The state letter of the process with this pid and start time; empty when it is gone."""
    fields = _stat(pid)
    if fields is None or int(fields[19]) != start_ticks or fields[0] in "ZXx":
        return ""
    return fields[0]


def identify(pid: int) -> ProcessId | None:
    """The identity of the process that has this pid now."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZXx":
        return None
    return ProcessId(pid=pid, start_ticks=int(fields[19]))


def myself() -> ProcessId:
    """The identity of this process."""
    found = identify(os.getpid())
    if found is None:
        raise OSError("/proc does not show this process")
    return found


def executable(pid: int) -> str:
    """The path of a process's program, as started (a replaced file's mark removed)."""
    try:
        return str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(" (deleted)")
    except OSError:
        return ""


def program(pid: int) -> str:
    """The name of a process's program; empty when it is gone. Without CAP_SYS_PTRACE (root in an
    ordinary container) the file of another user's process can't be seen: then the name that the
    kernel gave it when it was started, which anybody may read."""
    path = executable(pid)
    if path:
        return PurePath(path).name
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def boot_id() -> str:
    """The kernel's name for this boot: monotonic times compare within one boot only."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on (the name before them may hold anything)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
