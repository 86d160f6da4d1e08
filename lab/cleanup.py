"""Taking a lab away: everything that its own state lists, and nothing else.

Layer: lab, above state and processes. Invariant: a process ends only when the lab noted it with its
start time, a pid file inside the lab's directory names it, or it was started with a home directory
inside the lab's (libvirt passes HOME on to QEMU); so a lab whose `up` was killed at any moment goes
away too. Effects: SIGKILL (lab guests hold nothing of worth, and a frozen process dies of nothing
else), removes interfaces and directories. Errors: LabError when something can't be removed.
"""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lab.errors import CannotRun, LabError
from lab.processes import (
    ProcessId,
    all_processes,
    environment,
    kill_all,
    myself,
    read_pid_file,
    wait_until,
)
from lab.state import LabDirectory, LabState
from lab.tools import run

HOME_MARKS = ("HOME", "HALAB_HOST")


def lab_processes(directory: LabDirectory) -> list[ProcessId]:
    """Every running process that belongs to a lab."""
    state = directory.read()
    if state is None:
        return []
    noted = [process for process in directory.recorded() if process.alive()]
    homes = tuple(host.directory for host in state.hosts)
    found = {*noted, *_named_by_pid_files(homes), *_living_in(homes)}
    found.discard(myself())
    return sorted(found, key=lambda process: process.start_ticks)


def _named_by_pid_files(homes: tuple[str, ...]) -> Iterator[ProcessId]:
    """Processes that pid files of a host's libvirt name (libvirtd, QEMU)."""
    for home in homes:
        for file in Path(home).glob("r/libvirt/**/*.pid"):
            process = read_pid_file(file)
            if process is not None and _lives_in(process, homes):
                yield process


def _living_in(homes: tuple[str, ...]) -> Iterator[ProcessId]:
    """Processes whose environment says that their home is a host's directory."""
    for process in all_processes():
        if _lives_in(process, homes):
            yield process


def _lives_in(process: ProcessId, homes: tuple[str, ...]) -> bool:
    values = environment(process)
    return any(values.get(mark) in homes for mark in HOME_MARKS)


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
