"""Taking a lab away: everything that its own state lists, and nothing else.

Layer: lab, above state and processes. Invariant: a process ends only when the lab noted it with its
start time, or its environment or arguments say that it lives in one of the lab's hosts; so a lab
whose `up` was killed at any moment goes away too. Effects: SIGKILL (lab guests hold nothing of
worth, and a frozen process dies of nothing else), removes control groups and directories. Errors:
LabError when something can't be removed.
"""

import os
from contextlib import suppress
from pathlib import Path

from lab.errors import LabError
from lab.processes import (
    ProcessId,
    all_processes,
    kill_all,
    lives_in,
    myself,
    wait_until,
)
from lab.runtime import remove_runtime_directory
from lab.state import LabDirectory, LabState
from lab.tools import run


def lab_processes(directory: LabDirectory) -> list[ProcessId]:
    """Every running process that belongs to a lab."""
    state = directory.read()
    if state is None:
        return []
    noted = [process for process in directory.recorded() if process.alive()]
    homes = [Path(host.directory) for host in state.hosts]
    found = {*noted, *(p for p in all_processes() if any(lives_in(p, home) for home in homes))}
    found.discard(myself())
    return sorted(found, key=lambda process: process.start_ticks)


def remove(directory: LabDirectory) -> list[str]:
    """End and remove all of a lab; says what was there. The caller holds the lock."""
    assert directory.locked, "a lab is removed under its lock only"
    state = directory.read()
    if state is None:
        return []
    ended = _end_processes(directory)
    said = [f"{ended} processes ended"] if ended else []
    for control_group in state.control_groups:
        _remove_control_group(Path(control_group))
    _remove_files(directory, state)
    return said


def _end_processes(directory: LabDirectory) -> int:
    """Kill until none is left: a libvirtd may have started one more guest meanwhile."""
    ended = 0

    def none_left() -> bool:
        nonlocal ended
        left = lab_processes(directory)
        ended += len(left)
        kill_all(left)
        return not left

    try:
        wait_until(none_left, 20, "end of the lab's processes")
    except TimeoutError as error:
        raise LabError(f"lab {directory.name}: {error}") from error
    return ended


def _remove_control_group(top: Path) -> None:
    """Remove a control group and those below it; it may stay busy until its zombies are reaped."""

    def gone() -> bool:
        with suppress(OSError):
            for path, _, _ in os.walk(top, topdown=False):
                Path(path).rmdir()
        return not top.exists()

    try:
        wait_until(gone, 20, f"removal of control group {top}")
    except TimeoutError as error:
        raise LabError(str(error)) from error


def _remove_files(directory: LabDirectory, state: LabState) -> None:
    """Remove the hosts' directories, then the state: a `down` killed here is simply repeated."""
    for host in state.hosts:
        home = Path(host.directory)
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        inside = [path for path in mounted if path == str(home) or path.startswith(f"{home}/")]
        if inside:
            raise LabError(f"{inside[0]} is still mounted; not removing anything below it")
        remove_runtime_directory(home / "r")
        run("rm", "-rf", "--one-file-system", home)
    for entry in directory.path.iterdir():
        if entry.name not in ("lock", "state.json"):
            run("rm", "-rf", "--one-file-system", entry)
    (directory.path / "state.json").unlink()
