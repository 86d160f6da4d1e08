"""`hostagent` as a person runs it, and how its tests wait.

Layer: tests. Pauses are judged by witnesses (a second QMP monitor of each guest), never by
hostagent's own report.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.host import Host

HOSTAGENT = [sys.executable, "-m", "hostagent.cli"]
LIMIT_S = 60


@dataclass(frozen=True)
class Ended:
    """A hostagent that ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """Its JSON."""
        return json.loads(self.stdout)

    def guest(self, name: str) -> dict[str, Any]:
        """One guest of its report."""
        return next(guest for guest in self.document["guests"] if guest["name"] == name)


class Agent:
    """hostagent on one host, with a state directory of this test."""

    def __init__(self, host: Host, state_dir: Path, env: Mapping[str, str]) -> None:
        self.host = host
        self.state_dir = state_dir
        self.env = dict(env)
        self.started: list[subprocess.Popen[str]] = []

    def command(self, *words: str) -> list[str]:
        """The words of a call with JSON output."""
        base = ["-c", self.host.uri, "--state-dir", str(self.state_dir), "-o", "json"]
        return [*HOSTAGENT, *base, *words]

    def run(self, *words: str, **options: Any) -> Ended:
        """Run it to its end."""
        process = self.start(*words, **options)
        return self.wait(process)

    def start(self, *words: str, **options: Any) -> "subprocess.Popen[str]":
        """Start it; it is killed at the end of the test if it still lives."""
        process = subprocess.Popen(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env,
            **options,
        )
        self.started.append(process)
        return process

    def wait(self, process: "subprocess.Popen[str]", limit_s: float = LIMIT_S) -> Ended:
        """Wait for its end."""
        stdout, stderr = process.communicate(timeout=limit_s)
        return Ended(process.returncode, stdout, stderr)

    def end(self) -> None:
        """Nothing that this test started stays."""
        for process in self.started:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
                process.wait(10)

    def rows(self) -> list[dict[str, Any]]:
        """All rows of the newest run's journal."""
        paths = [
            path
            for path in sorted((self.state_dir / "runs").glob("*.jsonl"))
            if not path.name.endswith(".guardian.jsonl")
        ]
        return [json.loads(line) for line in paths[-1].read_text().splitlines()] if paths else []


def wait_for(condition: Callable[[], bool], limit_s: float, what: str) -> float:
    """Wait for a condition; how long it took. Fails the test after the limit."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit_s:
            pytest.fail(f"waited {limit_s:g} s for {what}")
        time.sleep(0.005)
    return time.monotonic() - began
