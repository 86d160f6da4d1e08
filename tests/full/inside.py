"""`hostagent` inside a full tier host, as its root runs it: from a shell or in a unit of systemd.

Layer: tests. Everything of the host is looked at from outside, as processes of the machine: its
control groups name the units. Pauses are judged by the lab's witnesses. Moments (`_ns`) are of the
machine's monotonic clock, which the host shares.
"""

import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

from lab.audit import MARK
from lab.full import FullHost
from lab.processes import ProcessId, all_processes, command_line, environment
from tests.run.killing import Update
from tests.run.tool import Agent, wait_for

UNIT = "halab-run.service"
SESSION = "halab-session.scope"
GUARDIAN = "hostagent-guardian-"
STATE = "var/lib/hostagent"


class Inside(Agent):
    """hostagent on a full tier host, with its own default state directory and URI."""

    def __init__(
        self, host: FullHost, env: Mapping[str, str], *, state: str = STATE, user: str = ""
    ) -> None:
        """Run by root, or by a `user`; `state` is where it keeps its state then."""
        super().__init__(host, host.root / state, env)
        self.inner = host
        self._as_user = _as(user) if user else ()
        self.directory = host.guest_directory / "update"
        self.update = Update(self.directory)

    def command(self, *words: str) -> list[str]:
        """From a shell: in a scope, as a login's commands are."""
        return self.inner.command([*self._as_user, "hostagent", "-o", "json", *words])

    def start_unit(self, *words: str) -> "subprocess.Popen[str]":
        """As a service of systemd: `systemd-run --unit=halab-run hostagent ...`, to its end."""
        run = ("systemd-run", "--quiet", "--collect", f"--unit={UNIT}", "--pipe", "--wait")
        mark = (f"--setenv={MARK}={self.env[MARK]}",)
        return self._begin([*run, *mark, "hostagent", "-o", "json", *words])

    def start_session(self, *words: str) -> "subprocess.Popen[str]":
        """In a scope with a name, as logind makes one for each login."""
        scope = ("systemd-run", "--scope", "--quiet", "--collect", f"--unit={SESSION}")
        return self._begin([*scope, "hostagent", "-o", "json", *words])

    def start_ssh(self, *words: str) -> "subprocess.Popen[str]":
        """By ssh with a terminal, from the host to itself."""
        options = ("-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", "-tt")
        call = ("env", f"{MARK}={self.env[MARK]}", "hostagent", *map(shlex.quote, words))
        return self._begin(["ssh", *options, "root@h1", *call])

    def _begin(self, words: Sequence[str]) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            self.inner.command(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env,
        )
        self.started.append(process)
        return process

    def systemctl(self, *words: str) -> str:
        """A systemctl inside, to its end."""
        return self.inner.run("systemctl", *words)

    def members(self, unit: str) -> list[ProcessId]:
        """The processes of the units whose names begin like this."""
        return list(_members(unit))

    def hostagent(self) -> ProcessId:
        """hostagent itself."""
        (process,) = self._ours("hostagent", at=1)
        return process

    def ssh_client(self) -> ProcessId:
        """The near end of the connection that `start_ssh` made."""
        (process,) = self._ours("ssh", at=0)
        return process

    def _ours(self, word: str, at: int) -> list[ProcessId]:
        return [
            process
            for process in all_processes()
            if [Path(part).name for part in command_line(process)[at : at + 1]] == [word]
            and environment(process).get(MARK) == self.env[MARK]
        ]

    def guardians(self) -> list[str]:
        """The guardians' units that there are, failed ones too."""
        listed = self.systemctl("list-units", "--all", "--plain", "--no-legend", f"{GUARDIAN}*")
        return [line.split()[0] for line in listed.splitlines()]

    def wait_tidy(self) -> None:
        """Wait until no guardian is left, and see that no unit has failed."""
        wait_for(lambda: not self.guardians(), 10, "the end of the guardian's unit")
        failed = self.systemctl("list-units", "--state=failed", "--plain", "--no-legend")
        assert failed == "", failed

    def unfinished(self) -> list[str]:
        """What `status` says was left unfinished."""
        return [each["run"] for each in self.run("status").document["unfinished"]]

    def end(self) -> None:
        """Nothing that this test started stays, inside either; guests are left to the guardian."""
        for process in (*self._ours("hostagent", at=1), *_members(UNIT), *_members(SESSION)):
            process.send(SIGKILL)
        super().end()


def _as(user: str) -> tuple[str, ...]:
    """The words that run a command as a user, but for the environment as now."""
    become = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--")
    return (*become, "env", f"HOME=/home/{user}", f"USER={user}")


def _members(unit: str) -> Iterator[ProcessId]:
    for process in all_processes():
        with suppress(OSError):
            groups = Path(f"/proc/{process.pid}/cgroup").read_text()
            if any(part.startswith(unit) for part in groups.split("/")):
                yield process


class EndOf:
    """Notes the moment at which a process ends, to the millisecond."""

    def __init__(self, process: ProcessId) -> None:
        self._process = process
        self._ns = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def at_ns(self, limit_s: float = 10) -> int:
        """When it ended; waits for it."""
        self._thread.join(limit_s)
        assert self._ns, f"process {self._process.pid} goes on"
        return self._ns

    def _watch(self) -> None:
        while self._process.alive():
            time.sleep(0.001)
        self._ns = time.monotonic_ns()
