"""Two real light hosts and a mover: orders, moves in the background, and what is then true.

Layer: tests. Where a guest is, is judged without hostagent (lab.placed); that its memory went along
by what it counts and by its uptime, which begin anew in a guest that was booted.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

from hostagent.adapters.libvirt.move import LibvirtMover
from hostagent.adapters.libvirt.move_places import Place
from hostagent.core.journal import GuestOutcome
from hostagent.core.move import Method, Order, Progress
from hostagent.rules import convergence
from lab import Guest, Lab
from lab.host import Host
from lab.processes import ProcessId, wait_until

S = 1_000_000_000
T = TypeVar("T")


class Rig:
    """A lab of two hosts; g1 is at home on the first."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.here, self.there = lab.hosts
        self.mover = LibvirtMover()
        self.guest = lab.guest("g1")
        self.told: list[Progress] = []

    def order(
        self,
        method: Method = Method.LIVE,
        *,
        guest: Guest | None = None,
        back: bool = False,
        limit_s: float = 60,
        bandwidth_mib_s: int = 0,
        **more: Any,
    ) -> Order:
        """An order from the first host to the second, or back."""
        source, destination = (self.there, self.here) if back else (self.here, self.there)
        chosen = guest or self.guest
        limit_ns = round(limit_s * S)
        stages = convergence.schedule(
            memory_kib=128 * 1024, limit_ns=limit_ns, bandwidth_mib_s=bandwidth_mib_s
        )
        return Order(
            uuid=chosen.uuid,
            name=chosen.name,
            method=method,
            source=source.uri,
            destination=destination.uri,
            via=destination.move_uri,
            stream=f"unix://{destination.move_directory}/s.sock",
            limit_ns=limit_ns,
            bandwidth_mib_s=bandwidth_mib_s,
            convergence=stages if method is Method.LIVE else (),
            **{"shutdown_ns": 20 * S, **more},
        )

    def move(self, order: Order) -> GuestOutcome:
        return self.mover.move(order, self.told.append)

    def begin(self, order: Order) -> "Moving":
        """Move in the background."""
        return Moving(lambda: self.move(order))

    def begun_copying(self, order: Order) -> "Moving":
        """The same, and wait until memory is on its way."""
        moving = self.begin(order)
        wait_until(lambda: bool(self.told), 20, "first progress of the move")
        return moving

    def copy_on(self, host: Host, guest: Guest | None = None) -> ProcessId:
        """The guest's QEMU on a host, as soon as there is one."""
        chosen = guest or self.guest
        wait_until(lambda: chosen.qemu_on(host) is not None, 20, f"QEMU on {host.name}")
        process = chosen.qemu_on(host)
        assert process is not None
        return process

    def is_on(self, host: Host, guest: Guest | None = None) -> bool:
        """Exactly this host has it, running or paused, and nothing of it is anywhere else."""
        where = (guest or self.guest).where()
        only = (host.name,)
        return (where.running, where.waiting, where.active, where.defined) == (only, (), only, only)

    def close(self) -> None:
        """The guest comes home, so that each host has its own again; the mover ends."""
        process = self.guest.qemu_on(self.there)
        if process is not None:
            self.move(self.order(back=True))
        self.mover.close()

    def meddle(self, doing: str, act: Callable[[], object], *, after: bool = False) -> None:
        """Right before the next call of that name, on whichever host, or right after it, this is
        done, once. Hosts, guests and calls stay real: only the moment is made."""
        acts = [act]
        self.mover.close()
        self.mover = LibvirtMover(lambda uri: _Meddled(uri, doing, acts, after=after))

    def domain(self, host: Host) -> libvirt.virDomain:
        """The guest on a host, by a connection of the test's own."""
        return libvirt.open(host.uri).lookupByUUIDString(self.guest.uuid)


class _Meddled(Place):
    """A host of a move, with somebody who acts at a chosen moment."""

    def __init__(
        self, uri: str, doing: str, acts: list[Callable[[], object]], *, after: bool
    ) -> None:
        super().__init__(uri)
        self._moment = doing
        self._acts = acts
        self._after = after

    def call(self, doing: str, limit_ns: int, work: Callable[[libvirt.virConnect], T]) -> T:
        if doing != self._moment or not self._acts:
            return super().call(doing, limit_ns, work)
        act = self._acts.pop()
        if not self._after:
            act()
        try:
            return super().call(doing, limit_ns, work)
        finally:
            if self._after:
                act()


class Moving:
    """A move in a thread of its own."""

    def __init__(self, work: Callable[[], GuestOutcome]) -> None:
        self._outcome: list[GuestOutcome] = []
        self._thread = threading.Thread(target=lambda: self._outcome.append(work()), daemon=True)
        self._thread.start()

    def outcome(self, timeout_s: float = 120) -> GuestOutcome:
        self._thread.join(timeout_s)
        assert self._outcome, f"the move did not end within {timeout_s} s"
        return self._outcome[0]
