"""What the tests that kill, freeze and orphan hostagent have in common.

Layer: tests. A case is judged by the witnesses and by the files that the update's command writes
itself, never by hostagent's report.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGSTOP
from typing import Any

from lab import Witness
from tests.run.tool import Agent, wait_for
from tests.run.walked_run import MARK, Orders

BACK_LIMIT_S = 1.0
"""Within this all guests run again after a SIGKILL of hostagent (docs/reliability.md)."""


class Update:
    """An update's command that writes down when it began and when it ended."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._log = directory / "update.log"
        self.gate = directory / "gate"

    def lasting(self, seconds: float, code: int = 0) -> list[str]:
        """A command of this length and exit status."""
        log = self._log
        return ["sh", "-c", f"echo began >>{log}; sleep {seconds}; echo ended >>{log}; exit {code}"]

    def until_told(self) -> list[str]:
        """A command that goes on until `tell`."""
        script = f"echo began >>{self._log}; read -r _ <{self.gate}; echo ended >>{self._log}"
        self.gate.unlink(missing_ok=True)
        os.mkfifo(self.gate)
        return ["sh", "-c", script]

    def tell(self) -> None:
        """Let the command end; it must have begun."""
        wait_for(self._told, 5, "the command to listen")

    def _told(self) -> bool:
        try:
            gate = os.open(self.gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            return False
        os.write(gate, b"\n")
        os.close(gate)
        return True

    def began(self) -> int:
        """How often it began."""
        return self._count("began")

    def ended(self) -> int:
        """How often it came to its end."""
        return self._count("ended")

    def forget(self) -> None:
        """Begin a new count."""
        self._log.unlink(missing_ok=True)

    def _count(self, word: str) -> int:
        return self._log.read_text().split().count(word) if self._log.exists() else 0


@dataclass(frozen=True)
class Walked:
    """How a walked run ended. `signalled_ns` is 0 where its row never came."""

    code: int
    stdout: str
    stderr: str
    signalled_ns: int

    @property
    def document(self) -> Any:
        """What it reported."""
        return json.loads(self.stdout)


def walk(agent: Agent, terms: dict[str, Any], **orders: Any) -> Walked:
    """Carry a run (or with no terms a recovery) out under these orders, to its end."""
    words = Orders(
        uri=agent.host.uri, state_dir=str(agent.state_dir), terms=terms, **orders
    ).words()
    process = subprocess.run(words, env=agent.env, capture_output=True, text=True, timeout=60)
    marks = [line for line in process.stderr.splitlines() if line.startswith(MARK)]
    moment = int(marks[0].removeprefix(MARK)) if marks else 0
    return Walked(process.returncode, process.stdout, process.stderr, moment)


def catch(condition: Callable[[], bool], what: str) -> None:
    """Wait for a moment that must be met to the millisecond."""
    until_ns = time.monotonic_ns() + 20_000_000_000
    while not condition():
        assert time.monotonic_ns() < until_ns, f"waited for {what}"
        time.sleep(0.0005)


def stands_still(witnesses: Iterable[Witness]) -> list[Witness]:
    """The witnesses whose guest does not run now."""
    return [witness for witness in witnesses if witness.status() != "running"]


def last_resume_s(witnesses: Iterable[Witness], since_ns: int, limit_s: float = 5) -> float:
    """How long after a moment the last guest ran again; 0 when none stood still after it."""
    watched = list(witnesses)
    wait_for(lambda: not stands_still(watched), limit_s, "all guests to run")
    resumed = [
        event.seen_ns - since_ns
        for witness in watched
        for event in witness.events
        if event.name == "RESUME" and event.seen_ns > since_ns
    ]
    return max(resumed, default=0) / 1e9


def guardian_pid(agent: Agent) -> int:
    """The guardian that now watches over the newest run, by its list; 0 when there is none."""
    try:
        newest = max(agent.state_dir.glob("runs/*.guardian.json"))
        return int(json.loads(newest.read_bytes())["guardian"]["pid"])
    except (ValueError, OSError):
        return 0


def journals(agent: Agent) -> list[Path]:
    """The journals of all runs, oldest first."""
    return sorted(
        path
        for path in agent.state_dir.glob("runs/*.jsonl")
        if not path.name.endswith(".guardian.jsonl")
    )


def without_end(agent: Agent) -> list[str]:
    """Runs whose journal has no end; an empty one never had a plan."""
    texts = {path.stem: path.read_text() for path in journals(agent)}
    return [run for run, text in texts.items() if text and '{"row":"ended"' not in text]


def wait_paused(witnesses: Iterable[Witness], limit_s: float = 10) -> None:
    """Wait until every guest stands still, by QEMU's own word."""
    watched = list(witnesses)
    wait_for(
        lambda: len(stands_still(watched)) == len(watched), limit_s, "all guests to stand still"
    )


def is_gone(pid: int) -> bool:
    """Whether a process is gone (a zombie counts as gone)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def signals_since(witness: Witness, since_ns: int, name: str) -> int:
    """How many events of this name were seen after a moment."""
    return sum(event.name == name and event.seen_ns > since_ns for event in witness.events)


def now_ns() -> int:
    """The clock of the witnesses."""
    return time.monotonic_ns()


def orphan(agent: Agent, witnesses: Iterable[Witness], update: Update, *words: str) -> None:
    """Leave guests paused as nothing but a loss of hostagent and its guardian together does."""
    process = agent.start("run", *words, "--", *update.until_told())
    wait_paused(witnesses)
    wait_for(lambda: update.began() == 1, 10, "the update to begin")
    os.kill(process.pid, SIGSTOP)  # or it would replace its guardian
    guardian = guardian_pid(agent)
    os.kill(guardian, SIGKILL)
    os.kill(process.pid, SIGKILL)
    process.wait(10)
    update.tell()
    wait_for(lambda: is_gone(guardian) and update.ended() == 1, 10, "the end of both")
