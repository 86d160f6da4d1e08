"""Taking a lab away: everything that its own state lists, and nothing else.

Layer: lab, above state and processes. Invariant: a process ends only when the lab noted it with its
start time, or its environment or arguments say that it lives in one of the lab's hosts; so a lab
whose `up` was killed at any moment goes away too. Effects: SIGKILL (lab guests hold nothing of
worth, and a frozen process dies of nothing else), removes interfaces and directories. Errors:
LabError when something can't be removed.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from lab.errors import CannotRun, LabError
from lab.processes import (
    ProcessId,
    all_processes,
    kill_all,
    lives_in,
    myself,
    wait_until,
)
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
    said += [f"interface {link} removed" for link in state.links if _remove_link(link)]
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


def _remove_link(name: str) -> bool:
    """Remove a network interface that the state lists; most went away with their namespace."""
    if not Path(f"/sys/class/net/{name}").exists():
        return False
    with suppress(CannotRun):
        run("ip", "link", "delete", name)
        return True
    return False


def _remove_files(directory: LabDirectory, state: LabState) -> None:
    """Remove the hosts' directories, then the state: a `down` killed here is simply repeated."""
    for host in state.hosts:
        home = Path(host.directory)
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        inside = [path for path in mounted if path == str(home) or path.startswith(f"{home}/")]
        if inside:
            raise LabError(f"{inside[0]} is still mounted; not removing anything below it")
        shutil.rmtree(home, ignore_errors=False) if home.exists() else None
    for entry in directory.path.iterdir():
        if entry.name not in ("lock", "state.json"):
            entry.unlink()
    (directory.path / "state.json").unlink()
