"""Commands for runs: scripts that write down when they did what, and ways to call hostagent.

Layer: tests. Scripts stamp with the wall clock (ns), as QEMU does its events, so that a command's
own account is compared with a witness's without hostagent between them.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import Witness
from lab.witness import Pause
from tests.run.tool import LIMIT_S, Agent, Ended, wait_for

SLOW_S = 0.5
"""How much longer than the command a pause may take on this busy machine."""


def script(directory: Path, name: str, *lines: str) -> str:
    """An executable shell script with these lines; `note WORD` in it stamps a word."""
    path = directory / name
    notes = directory / f"{name}.notes"
    head = ["#!/bin/sh", f'note() {{ echo "$1 $(date +%s%N)" >>{notes}; }}']
    path.write_text("\n".join([*head, *lines, ""]))
    path.chmod(0o755)
    return str(path)


def notes(path: str) -> dict[str, int]:
    """What a script noted: word -> wall clock in ns (the last of each word)."""
    file = Path(f"{path}.notes")
    lines = file.read_text().splitlines() if file.exists() else []
    return {word: int(at_ns) for word, at_ns in (line.split() for line in lines)}


def wait_noted(path: str, word: str, limit_s: float = 20) -> int:
    """Wait until a script has noted this word; when it did."""
    wait_for(lambda: word in notes(path), limit_s, f"{word!r} of {path}")
    return notes(path)[word]


def table_words(agent: Agent, *words: str) -> list[str]:
    """The words of a call with the table output, as on a terminal."""
    command = agent.command(*words)
    at = command.index("-o")
    return command[:at] + command[at + 2 :]


def run_words(agent: Agent, words: list[str], **options: Any) -> Ended:
    """Run these very words to their end."""
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=agent.env,
        timeout=LIMIT_S,
        **options,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def start_words(agent: Agent, words: list[str], **options: Any) -> "subprocess.Popen[str]":
    """Start these very words; ended with the test."""
    process = subprocess.Popen(words, text=True, env=agent.env, **options)
    agent.started.append(process)
    return process


def error_of(ended: Ended) -> dict[str, Any]:
    """The one JSON error on standard output, checked for its form."""
    document: dict[str, Any] = json.loads(ended.stdout)
    assert document["schema"] == "hostagent.error/1", ended
    assert set(document) >= {"code", "message", "hint", "changed", "warnings"}
    assert document["message"]
    assert "Traceback" not in ended.stderr
    return document


def nobody_stopped(witnesses: Mapping[str, Witness]) -> bool:
    """Whether no guest was paused, however shortly."""
    return not any(event.name == "STOP" for w in witnesses.values() for event in w.events)


def only_pause(witness: Witness) -> Pause:
    """The one pause that a witness saw, over by now."""
    (pause,) = witness.pauses()
    assert pause.resume is not None
    return pause


def last_resume_ns(witnesses: Mapping[str, Witness]) -> int:
    """When the last guest ran again, by QEMU's own wall clock stamp."""
    stamps = []
    for witness in witnesses.values():
        resume = only_pause(witness).resume
        assert resume is not None
        assert resume.wall_ns is not None
        stamps.append(resume.wall_ns)
    return max(stamps)


class HeldRun:
    """A run whose guests stand still until `finish`."""

    def __init__(self, agent: Agent, still: Mapping[str, Witness], directory: Path) -> None:
        self._agent = agent
        self._told = directory / "told"
        loop = f"while [ ! -e {self._told} ]; do sleep 0.05; done"
        self._update = script(directory, "update", "note began", loop, "note end")
        self.process = agent.start("run", "--", self._update)
        for witness in still.values():
            witness.wait_for("STOP")
        wait_noted(self._update, "began")

    def finish(self) -> Ended:
        """Let the command end."""
        self._told.touch()
        return self._agent.wait(self.process)

    def undisturbed(self, witness: Witness) -> None:
        """This guest stood still for the command, and no longer."""
        resume = only_pause(witness).resume
        assert resume is not None
        assert resume.wall_ns is not None
        assert 0 <= resume.wall_ns - notes(self._update)["end"] < SLOW_S * 1e9
        assert witness.status() == "running"
