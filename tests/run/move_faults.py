"""What can fail in a move, and the cases of the failure matrix.

Layer: tests. A fault strikes at once and is put right after the command has ended; one that is over
by itself says so in its name.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator

from lab.light import LightHost
from lab.processes import ProcessId, wait_until
from tests.run.links import Link
from tests.run.moving import Phase, Scene

FROZEN_S = 5


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
        host = side_of(scene, self._side)
        scene.daemons[host.name].send(signal.SIGKILL)
        wait_until(lambda: not scene.daemons[host.name].alive(), 10, "end of libvirtd")
        if self._at_once:
            host.start_libvirtd()

    def mend(self, scene: Scene) -> None:
        side_of(scene, self._side).start_libvirtd()


class LibvirtdFrozen(Fault):
    def __init__(self, side: str) -> None:
        self._side = side

    def strike(self, scene: Scene) -> None:
        scene.daemons[side_of(scene, self._side).name].send(signal.SIGSTOP)

    def mend(self, scene: Scene) -> None:
        host = side_of(scene, self._side)
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


def side_of(scene: Scene, side: str) -> LightHost:
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

_NOT_AT_BEGIN = {"destination's QEMU killed", "destination's QEMU frozen"}
"""There is none yet."""
_ON_THE_WAY = {"memory's link cut", "memory's link silent"}
"""Memory is only sent in two phases: all of it, and the rest at the hand-over."""


def _cases() -> Iterator[tuple[Phase, str]]:
    for phase in Phase:
        for name in FAULTS:
            if name in _NOT_AT_BEGIN and phase is Phase.BEGIN:
                continue
            if name in _ON_THE_WAY and phase not in (Phase.PERFORM, Phase.FINISH):
                continue
            yield phase, name


CASES = tuple(_cases())
ALWAYS = {
    (Phase.BEGIN, "destination's libvirtd killed and started"),
    (Phase.PREPARE, "destination's QEMU killed"),
    (Phase.PERFORM, "destination's libvirtd killed"),
    (Phase.PERFORM, "source's libvirtd killed and started"),
    (Phase.PERFORM, "memory's link cut"),
    (Phase.PERFORM, "hostagent killed, then recover"),
    (Phase.FINISH, "hostagent killed, then the same again"),
    (Phase.CONFIRM, "source's libvirtd killed and started"),
}
"""Those that are tried each time; the others are campaigns."""
