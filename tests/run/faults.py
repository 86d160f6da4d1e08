"""What the fault tests share: commands that note their own times, and what a witness saw.

Layer: tests. Times are CLOCK_MONOTONIC in ns, one clock for this process, the commands and the
witnesses' `seen_ns`.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lab import Witness
from lab.light import LightHost
from lab.processes import ProcessId, all_processes, command_line
from tests.run.tool import Agent, wait_for

S = 1_000_000_000


class Update:
    """A command for `run`: Python statements, and when they began and ended."""

    def __init__(self, directory: Path, body: str) -> None:
        self._file = directory / "update-times"
        self._file.unlink(missing_ok=True)
        program = [
            "import os, signal, subprocess, time",
            "from pathlib import Path",
            f"times = Path({str(self._file)!r})",
            "times.write_text(f'{time.monotonic_ns()}')",
            body,
            "times.write_text(times.read_text() + f' {time.monotonic_ns()}')",
        ]
        self.words = [sys.executable, "-I", "-c", "\n".join(program)]

    @property
    def began(self) -> bool:
        """Whether it runs, or ran."""
        return self._file.exists() and bool(self._file.read_text())

    @property
    def ended_ns(self) -> int:
        """When its last statement was done."""
        return int(self._file.read_text().split()[1])


def start_libvirtd(host: LightHost) -> str:
    """Statements for an update that start the host's libvirtd, as its user."""
    words = host.command([str(host.libvirtd_binary), "--daemon"])
    return f"subprocess.run({words!r}, env={host.env!r}, cwd='/', check=True)"


def kill_libvirtd(host: LightHost, number: int) -> str:
    """Statements for an update that send a signal to the host's libvirtd."""
    return f"os.kill({host.libvirtd_pid()}, {number:d})"


def resumed_after_s(witness: Witness, since_ns: int, timeout_s: float = 10) -> float:
    """How long after a moment the guest's first RESUME was seen."""
    return (witness.wait_for("RESUME", timeout_s=timeout_s).seen_ns - since_ns) / S


def longest_pause_s(witnesses: Iterable[Witness]) -> float:
    """The longest single pause that any of these saw; one that lasts is a failure."""
    lengths = [0]
    for witness in witnesses:
        for pause in witness.pauses():
            assert pause.seen_duration_ns is not None, "a pause that has not ended"
            lengths.append(pause.seen_duration_ns)
    return max(lengths) / S


def all_run(witnesses: Mapping[str, Witness]) -> bool:
    """QEMU's own word on all of them."""
    return all(witness.status() == "running" for witness in witnesses.values())


def guardians(agent: Agent) -> list[ProcessId]:
    """The living guardians of this test's runs."""
    state = str(agent.state_dir)
    return [
        process
        for process in all_processes()
        if "hostagent.guardian" in (words := command_line(process))
        and any(word.startswith(state) for word in words)
    ]


def wait_no_guardian(agent: Agent, limit_s: float = 10) -> None:
    """Wait until every guardian of this test has ended by itself."""
    wait_for(lambda: not guardians(agent), limit_s, "the end of the guardian")


def wait_row(agent: Agent, row: str, key: str, limit_s: float = 20) -> None:
    """Wait until the newest journal has such a row of this step ("intent" or "outcome")."""

    def there() -> bool:
        try:
            rows = agent.rows()
        except ValueError:  # the last line is just being written
            return False
        return any(_is(each, row, key) for each in rows)

    wait_for(there, limit_s, f"{row} of {key}")


def _is(row: Mapping[str, Any], kind: str, key: str) -> bool:
    content = row["is"]
    return row["row"] == kind and content.get("step", content).get("key") == key
