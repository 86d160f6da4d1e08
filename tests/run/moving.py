"""What tests of moves that go wrong have in common: moments to act at, faults, and the judgement.

Layer: tests. A guest is moved by the real command, back and forth between two light hosts, and one
thing fails at a moment that is met by a condition, never by a clock. Judged by QEMU's own events on
both hosts (MoveWitness), by what both libvirts have, and from inside the guest.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from subprocess import Popen
from typing import Any, cast

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
from tests.run.tool import Agent, Ended

SLOW_MIB_S = 16
"""The copying then takes some seconds."""
END_LIMIT_S = 150
"""ports.Mover: a move's own limit and a minute; that of a 128 MiB guest is 32 to 62 s."""
REST_LIMIT_S = 20
"""For what was started again or thawed to come to rest."""
FROZEN_S = 5


class Phase(StrEnum):
    """Moments of a live move, in their order; libvirt's names of its phases."""

    BEGIN = "begin"
    PREPARE = "prepare"
    PERFORM = "perform"
    FINISH = "finish"
    CONFIRM = "confirm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case as it went. `seconds` from the fault to the command's end."""

    phase: str
    fault: str
    guest: str
    exit: int
    seconds: float
    after: str


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
        if self.linked:
            threading.Thread(target=self._carry_the_stream, daemon=True).start()

    def close(self) -> None:
        """Nothing of it stays."""
        self._over.set()
        self.witness.close()
        self.agent.end()
        self.control.close()
        self.stream.close()

    def _carry_the_stream(self) -> None:
        """The link of the memory can't listen before libvirt has found its port free."""
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
        """What a move left behind."""
        sockets = left_sockets(self.lab.hosts)
        return [*findings_of_moves(self.lab), *left_jobs(self.lab.guests), *sockets]


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


# faults


class Fault:
    """Something that fails, and is put right again after the command has ended. `again` is what is
    done after hostagent itself was killed."""

    linked = False
    again = ""

    def strike(self, scene: Scene) -> None:
        """Do it, at once."""

    def mend(self, scene: Scene) -> None:
        """Put it right."""


class LibvirtdKilled(Fault):
    """`at_once`: it is started again at once, as systemd does; else after the command's end."""

    def __init__(self, side: str, *, at_once: bool) -> None:
        self._side = side
        self._at_once = at_once

    def strike(self, scene: Scene) -> None:
        host = _side(scene, self._side)
        scene.daemons[host.name].send(signal.SIGKILL)
        wait_until(lambda: not scene.daemons[host.name].alive(), 10, "end of libvirtd")
        if self._at_once:
            host.start_libvirtd()

    def mend(self, scene: Scene) -> None:
        _side(scene, self._side).start_libvirtd()


class LibvirtdFrozen(Fault):
    def __init__(self, side: str) -> None:
        self._side = side

    def strike(self, scene: Scene) -> None:
        scene.daemons[_side(scene, self._side).name].send(signal.SIGSTOP)

    def mend(self, scene: Scene) -> None:
        host = _side(scene, self._side)
        scene.daemons[host.name].send(signal.SIGCONT)
        host.wait_answering()


class CopySignalled(Fault):
    """The QEMU at the destination."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._copy: ProcessId | None = None

    def strike(self, scene: Scene) -> None:
        self._copy = scene.copy()
        assert self._copy is not None, "no QEMU at the destination"
        assert self._copy.send(self._number)

    def mend(self, scene: Scene) -> None:
        if self._copy is not None:
            self._copy.send(signal.SIGCONT)


class LinkBroken(Fault):
    """`stream`: of the memory only; else libvirt's connections too. `silent` or cut."""

    linked = True

    def __init__(self, *, stream: bool, silent: bool) -> None:
        self._stream = stream
        self._silent = silent

    def _links(self, scene: Scene) -> list[Link]:
        return [scene.stream] if self._stream else [scene.stream, scene.control]

    def strike(self, scene: Scene) -> None:
        for link in self._links(scene):
            if self._silent:
                link.fall_silent()
            else:
                link.cut()

    def mend(self, scene: Scene) -> None:
        scene.stream.close()  # libvirt has to find its port free
        if not self._stream:
            scene.control.mend()
        scene.here.wait_answering()
        scene.there.wait_answering()


class HostagentKilled(Fault):
    """`again`: what brings order: `recover`, or the same command."""

    def __init__(self, again: str) -> None:
        self.again = again

    def strike(self, scene: Scene) -> None:
        assert scene.process is not None
        scene.process.kill()


class HostagentFrozen(Fault):
    def strike(self, scene: Scene) -> None:
        assert scene.process is not None
        os.kill(scene.process.pid, signal.SIGSTOP)
        time.sleep(FROZEN_S)  # the fault itself: it stands still for so long
        os.kill(scene.process.pid, signal.SIGCONT)


def _side(scene: Scene, side: str) -> LightHost:
    return scene.here if side == "source" else scene.there


FAULTS: dict[str, Callable[[], Fault]] = {
    "destination's libvirtd killed": lambda: LibvirtdKilled("destination", at_once=False),
    "destination's libvirtd killed and started": lambda: LibvirtdKilled(
        "destination", at_once=True
    ),
    "destination's libvirtd frozen": lambda: LibvirtdFrozen("destination"),
    "destination's QEMU killed": lambda: CopySignalled(signal.SIGKILL),
    "destination's QEMU frozen": lambda: CopySignalled(signal.SIGSTOP),
    "source's libvirtd killed": lambda: LibvirtdKilled("source", at_once=False),
    "source's libvirtd killed and started": lambda: LibvirtdKilled("source", at_once=True),
    "source's libvirtd frozen": lambda: LibvirtdFrozen("source"),
    "link cut": lambda: LinkBroken(stream=False, silent=False),
    "link silent": lambda: LinkBroken(stream=False, silent=True),
    "memory's link cut": lambda: LinkBroken(stream=True, silent=False),
    "memory's link silent": lambda: LinkBroken(stream=True, silent=True),
    "hostagent killed, then recover": lambda: HostagentKilled("recover"),
    "hostagent killed, then the same again": lambda: HostagentKilled("the same"),
    "hostagent frozen": HostagentFrozen,
}


# one case


def walk(scene: Scene, phase: Phase, fault: Fault, name: str) -> Row:
    """One case from the command to the judgement; the row for the table."""
    memory = scene.guest.remember(4)
    slow = ("--bandwidth", str(SLOW_MIB_S)) if phase is Phase.PERFORM else ()
    scene.begin(*slow)
    assert scene.process is not None
    scene.wait(phase)
    began = time.monotonic()
    fault.strike(scene)
    ended = scene.agent.wait(scene.process, END_LIMIT_S)
    seconds = time.monotonic() - began
    fault.mend(scene)
    after, told = _resolved(scene, fault, ended)
    place = scene.at_rest()
    row = Row(
        phase=phase,
        fault=name,
        guest=place,
        exit=ended.code,
        seconds=round(seconds, 1),
        after=after,
    )
    assert _is_true(told, place), f"{row}, told: {told}"
    assert scene.ran_twice_ms() == 0, f"{row}, ran twice: {scene.ran_twice_ms():.0f} ms, {told}"
    assert scene.guest.forgotten(memory) == [], row
    scene.guest.wait_counting()
    assert scene.left() == [], row
    if place == "source":
        _moves_now(scene)
        assert scene.guest.forgotten(memory) == [], row
    return row


def _resolved(scene: Scene, fault: Fault, ended: Ended) -> tuple[str, dict[str, Any]]:
    """What had to be done until it was known where the guest is, and what was then told of it."""
    if fault.again == "the same":
        again = scene.agent.run(*scene.words())
        # Where the move came to its end meanwhile, the guest is not here any more.
        told = {"result": "moved"} if again.code == 4 else again.guest(scene.guest.name)
        assert again.code in (0, 4), again
        return f"the same again (exit {again.code})", told
    if fault.again:
        return "recover", _recovered(scene)
    told = ended.guest(scene.guest.name)
    if ended.code != 5:
        return "", told
    assert ended.document["result"] == "ambiguous", ended
    assert told["reason"], ended
    return "recover", _recovered(scene)


def _recovered(scene: Scene) -> dict[str, Any]:
    recovered = scene.agent.run("recover")
    assert recovered.code == 0, recovered
    (run,) = recovered.document["runs"]
    return dict(run["guests"][0])


def _is_true(told: Mapping[str, Any], place: str) -> bool:
    return (told["result"] == "moved") == (place == "destination")


def _moves_now(scene: Scene) -> None:
    """The same command moves it."""
    if scene.linked:
        scene.stream.close()
        threading.Thread(target=scene._carry_the_stream, daemon=True).start()
    again = scene.agent.run(*scene.words())
    assert again.code == 0, again
    assert again.guest(scene.guest.name)["result"] == "moved", again
    assert scene.at_rest() == "destination"


def record(directory: Path, row: Row) -> None:
    """Keep a row for the table."""
    directory.mkdir(parents=True, exist_ok=True)
    words = f"{row.phase} {row.fault}".replace("'", "").replace(",", "").split()
    (directory / f"{'-'.join(words)}.json").write_text(json.dumps(asdict(row)))
