"""What tests of moves that go wrong have in common: moments to act at, and the judgement.

Layer: tests. A guest is moved by the real command, back and forth between two light hosts; moments
of its move are met by a condition, never by a clock. Judged by QEMU's own events on
both hosts (MoveWitness), by what both libvirts have, and from inside the guest.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from subprocess import Popen
from typing import cast

from lab import Guest, Lab, MoveWitness
from lab.audit import findings_of_moves
from lab.errors import LabError
from lab.guests import Where
from lab.host import Host
from lab.light import LightHost
from lab.processes import ProcessId, wait_until
from lab.qmp import ask
from tests.run.killing import catch, journals
from tests.run.links import FAR_ADDRESS, Link
from tests.run.tool import Agent

REST_LIMIT_S = 20
"""For what was started again or thawed to come to rest."""


class Phase(StrEnum):
    """Moments of a live move, in their order; libvirt's names of its phases."""

    BEGIN = "begin"
    PREPARE = "prepare"
    PERFORM = "perform"
    FINISH = "finish"
    CONFIRM = "confirm"


class Scene:
    """One guest about to be moved from where it is to the other host."""

    def __init__(
        self,
        lab: Lab,
        state_dir: Path,
        env: Mapping[str, str],
        ports: Mapping[str, int],
        *,
        linked: bool,
    ) -> None:
        self.lab = lab
        self.guest: Guest = lab.guests[0]
        self.here = cast(LightHost, self.guest.host)
        self.there = cast(LightHost, next(host for host in lab.hosts if host is not self.here))
        self.agent = Agent(self.here, state_dir, env)
        self.witness = MoveWitness(self.guest)
        self.daemons = {host.name: _libvirtd(host) for host in (self.here, self.there)}
        port = ports[self.there.name]
        self.control = Link(self.there.socket)
        self.stream = Link((FAR_ADDRESS, port), port)
        self.linked = linked
        self.uri = self.there.uri
        if linked:
            self.control.begin()
            self.uri = f"qemu+tcp://127.0.0.1:{self.control.port}/session"
        self.process: Popen[str] | None = None
        self._over = threading.Event()

    def words(self, *more: str) -> list[str]:
        """The command."""
        return ["guest", "migrate", self.guest.name, "--to", self.uri, *more]

    def begin(self, *more: str) -> None:
        """Start the command."""
        wait_until(lambda: self.witness.on[self.here.name]._monitor is not None, 5, "the witness")
        self.process = self.agent.start(*self.words(*more))
        self.carry_the_stream()

    def close(self) -> None:
        """Nothing of it stays."""
        self._over.set()
        self.witness.close()
        self.agent.end()
        self.control.close()
        self.stream.close()

    def carry_the_stream(self) -> None:
        """Let the next move's memory through its link, where there is one."""
        self.stream.close()
        if self.linked:
            threading.Thread(target=self._await_the_stream, daemon=True).start()

    def _await_the_stream(self) -> None:
        """It can't listen before libvirt has found its port free."""
        while not self._over.wait(0.01):
            if self.copy() is not None:
                self.stream.begin()
                return

    def copy(self) -> ProcessId | None:
        """The guest's QEMU at the destination."""
        return self.guest.qemu_on(self.there)

    # moments

    def wait(self, phase: Phase) -> None:
        """Wait for the moment; fails if the command ends before it."""
        assert self.process is not None
        process, reached = self.process, _MOMENTS[phase]

        def due() -> bool:
            if reached(self):
                return True
            assert process.poll() is None, f"ended before {phase}: {process.communicate()}"
            return False

        catch(due, f"the moment of {phase}")

    def has_intent(self) -> bool:
        """The step is in the journal."""
        return any('"verb":"move"' in path.read_text() for path in journals(self.agent))

    def has_sent(self) -> bool:
        """QEMU at the source has sent some memory."""
        try:
            told = ask(self.guest.ports_on(self.here).monitor, "query-migrate", 1)
        except (OSError, EOFError, LabError):
            return False
        return told.get("status") == "active" and told["ram"]["transferred"] > 0

    def heard(self, host: LightHost, name: str) -> bool:
        """An event of the guest's QEMU on that host."""
        return any(event.name == name for event in self.witness.on[host.name].events)

    # judgement

    def place(self) -> str:
        """`source` or `destination`, where exactly one of them has the guest and nothing is left
        of a move; else what is there."""
        where = self.guest.where()
        for word, host in (("source", self.here), ("destination", self.there)):
            only = (host.name,)
            if (where.running, where.waiting, where.active, where.defined) == (
                only,
                (),
                only,
                only,
            ):
                return word
        return str(where)

    def at_rest(self) -> str:
        """The place, once it is one of both."""
        known = ("source", "destination")
        deadline = time.monotonic() + REST_LIMIT_S
        while (place := self.place()) not in known and time.monotonic() < deadline:
            time.sleep(0.1)
        assert place in known, place
        return place

    def ran_twice_ms(self) -> float:
        """How long the guest ran on both hosts, by QEMU's events."""
        running, since_ns, twice_ns = {self.here.name}, 0, 0
        for host, event in self.witness.events:
            if len(running) > 1:
                twice_ns += event.seen_ns - since_ns
            if event.name == "RESUME":
                running.add(host)
            elif event.name in ("STOP", "GONE"):
                running.discard(host)
            since_ns = event.seen_ns
        return twice_ns / 1e6

    def left(self) -> list[str]:
        """What a move left behind. (Not its socket, where the destination came back only after the
        command's end: the next move takes that away.)"""
        return [*findings_of_moves(self.lab), *left_jobs(self.lab.guests)]


_MOMENTS: dict[Phase, Callable[[Scene], bool]] = {
    Phase.BEGIN: Scene.has_intent,
    Phase.PREPARE: lambda scene: scene.copy() is not None,
    Phase.PERFORM: Scene.has_sent,
    Phase.FINISH: lambda scene: scene.heard(scene.here, "STOP"),
    Phase.CONFIRM: lambda scene: scene.heard(scene.there, "RESUME"),
}


def is_only_on(where: Where, host: Host) -> bool:
    """Whether a guest runs on this host and is defined there, and nothing of it is elsewhere."""
    only = (host.name,)
    return (where.running, where.waiting, where.active, where.defined) == (only, (), only, only)


def left_sockets(hosts: Iterable[Host]) -> list[str]:
    """Sockets over which guests were moved."""
    found = [path for host in hosts for path in host.socket.parent.glob("hostagent*.sock")]
    return [f"{path} is left" for path in found]


def left_jobs(guests: Iterable[Guest]) -> list[str]:
    """Guests that have a job."""
    return [
        f"{guest.name} has a job"
        for guest in guests
        if guest.call("job", lambda domain: domain.jobInfo())[0]
    ]


def _libvirtd(host: LightHost) -> ProcessId:
    process = host.libvirtd()
    assert process is not None
    return process
