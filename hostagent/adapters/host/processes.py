"""Processes told apart for sure: pid and start time, as proc(5) gives them.

Layer: adapters. A pid alone may have been reused; with field 22 of /proc/PID/stat (start time in
clock ticks since boot) it is one process and no other.
"""

import os
import signal
from pathlib import Path

from hostagent.core.ports import CommandId


def identify(pid: int) -> CommandId | None:
    """This process as it is now; None if there is none, or only its zombie."""
    fields = _stat(pid)
    if fields is None or fields[0] in (b"Z", b"X"):
        return None
    return CommandId(pid=pid, start_ticks=int(fields[19]))


def alive(process: CommandId) -> bool:
    """Whether this very process still lives."""
    return identify(process.pid) == process


def command_line(pid: int) -> str:
    """The command line of a process, for people; empty if it is gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def signal_group(process: CommandId, number: signal.Signals) -> bool:
    """Signal the process group that this process leads; False if it is not that one any more."""
    if not alive(process):
        return False
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _stat(pid: int) -> list[bytes] | None:
    """Fields of /proc/PID/stat from the third (state) on; the name before may hold anything."""
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return raw.rpartition(b")")[2].split()
