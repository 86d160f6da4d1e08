"""Two hosts of a cold move that are not real: for what can't be met on real ones, every moment.

Layer: tests. Real guests in tests/adapters/test_move_cold show what libvirt does at chosen moments;
here something happens at each of all the calls that a move makes, also at those that last a
millisecond, and hosts fall silent that would have to be frozen in between. Stands at the adapter's
own edge: a Place whose connection is this one. Watches that no two copies ever run, but for an
owner who acts between our last look and the very next call.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import libvirt

from hostagent.adapters.libvirt.move_places import Place
from hostagent.core.errors import LibvirtCallError, LibvirtUnreachableError
from hostagent.core.move import Method, Order

T = TypeVar("T")
S = 1_000_000_000
UUID = "8e0cbf31-37fe-4d5e-b8ba-4e9f1c2c2c01"


@dataclass(kw_only=True)
class FakeHost:
    """What libvirt of one host knows of the guest."""

    name: str
    present: bool = False
    active: bool = False
    autostart: bool = False
    silent: bool = False
    undefines: bool = True


@dataclass(kw_only=True)
class World:
    """Both hosts; `events` by the number of the call before which they happen."""

    source: FakeHost = field(
        default_factory=lambda: FakeHost(name="source", present=True, active=True, autostart=True)
    )
    destination: FakeHost = field(default_factory=lambda: FakeHost(name="destination"))
    events: dict[int, Callable[["World"], None]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    started_there: int = 0
    """The number of the call that asked the destination for a start; 0 before."""
    aborted: threading.Event = field(default_factory=threading.Event)

    def place(self, host: FakeHost) -> "FakePlace":
        return FakePlace(self, host)

    @property
    def runs_twice(self) -> bool:
        return self.source.active and self.destination.active


class FakePlace(Place):
    """A host of the world, as the adapter sees hosts."""

    def __init__(self, world: World, host: FakeHost) -> None:
        self.uri = f"test:///{host.name}"
        self._world = world
        self._host = host

    def call(self, doing: str, limit_ns: int, work: Callable[[libvirt.virConnect], T]) -> T:
        world = self._world
        number = len(world.calls)
        world.calls.append(f"{doing} at the {self._host.name}")
        if number in world.events:
            world.events.pop(number)(world)
        if self._host.silent:
            raise LibvirtUnreachableError(f"no answer from the {self._host.name}")
        if doing == "starting it":
            world.started_there = number
        connection: Any = FakeConnection(self._host)
        try:
            return work(connection)
        except libvirt.libvirtError as error:
            raise LibvirtCallError(str(error)) from error

    def job(self, uuid: str) -> str:
        return ""


class FakeConnection:
    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def lookupByUUIDString(self, _uuid: str) -> "FakeDomain":
        if not self._host.present:
            raise NoDomain("no domain with matching uuid")
        return FakeDomain(self._host)

    def defineXML(self, _text: str) -> None:
        self._host.present = True


class NoDomain(libvirt.libvirtError):
    def get_error_code(self) -> int:
        return libvirt.VIR_ERR_NO_DOMAIN


class FakeDomain:
    """The calls of a domain that a cold move makes."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host

    def state(self) -> tuple[int, int]:
        active = self._host.active
        return (1, 1) if active else (libvirt.VIR_DOMAIN_SHUTOFF, 1)

    def ID(self) -> int:
        return 1 if self._host.active else -1

    def isActive(self) -> int:
        return int(self._host.active)

    def isPersistent(self) -> int:
        return 1

    def autostart(self) -> int:
        return int(self._host.autostart)

    def hasManagedSaveImage(self) -> int:
        return 0

    def XMLDesc(self, _flags: int = 0) -> str:
        return "<domain><devices/></domain>"

    def listAllSnapshots(self, _flags: int) -> list[object]:
        return []

    def setAutostart(self, wanted: int) -> int:
        self._host.autostart = bool(wanted)
        return 0

    def shutdownFlags(self, _flags: int) -> int:
        self._host.active = False
        return 0

    def create(self) -> int:
        self._host.active = True
        return 0

    def destroy(self) -> int:
        self._host.active = False
        return 0

    def undefineFlags(self, _flags: int) -> int:
        if not self._host.undefines:
            raise libvirt.libvirtError("cannot remove the definition")
        self._host.present = self._host.active
        self._host.autostart = False
        return 0


def cold_order() -> Order:
    return Order(
        uuid=UUID,
        name="g1",
        method=Method.COLD,
        source="test:///source",
        destination="test:///destination",
        via="test:///destination",
        autostart=True,
        limit_ns=30 * S,
        shutdown_ns=2 * S,
    )
