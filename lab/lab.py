"""A lab as a whole: made by `up`, found again by `attach`, taken away by `down`.

Layer: lab, above hosts and guests; the command line and the tests are above it. Invariants: what is
about to be made is in the state file first; a lab that fails on its way up takes itself away; two
labs of different names never touch each other. Effects: all of the lab's. Errors: CannotRun when
the machine can't do it, LabError else.
"""

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Self

from lab.cleanup import remove
from lab.errors import LabBusy, LabError
from lab.full import FullHost, control_groups, start_network
from lab.guests import Guest, GuestSort, GuestSpec, Where, mixture, named
from lab.host import Host, restore_all
from lab.images import Images, Say, guest_images
from lab.light import LightHost
from lab.probe import accelerator, require
from lab.processes import myself
from lab.roots import host_root
from lab.state import (
    DEFAULT_NAME,
    MOST_GUESTS,
    GuestRecord,
    HostRecord,
    LabDirectory,
    LabState,
    Phase,
    Tier,
)

BOOT_AT_ONCE = 3
"""Guests that boot side by side: a little more than two CPUs can use, so that none idles."""


def silent(_text: str) -> None:
    """For callers that want no progress."""


class Lab:
    """Some hosts with their guests."""

    def __init__(
        self,
        directory: LabDirectory,
        state: LabState,
        images: Images,
        specs: Sequence[GuestSpec] = (),
    ) -> None:
        self._directory = directory
        self._state = state
        self._images = images
        self._specs = {spec.name: spec for spec in specs}
        self.hosts: list[Host] = []
        for record in state.hosts:
            self.hosts.append(self._host(record))
        for host in self.hosts:
            host.everyone = self.guests

    @classmethod
    def up(
        cls,
        name: str = DEFAULT_NAME,
        tier: Tier | str = Tier.LIGHT,
        hosts: int = 1,
        guests: int | Sequence[GuestSpec] | Sequence[Sequence[GuestSpec]] = 4,
        *,
        stays: bool = False,
        say: Say = silent,
    ) -> Self:
        """Make a lab; `guests` are per host (the same on each, or a sequence for each host), and
        counted through over the lab.

        It belongs to this process and keeps its lock until `down` (use it as a context manager),
        unless it `stays`. What a killed `up`, or a process that died without `down`, left under
        this name is taken away first; a lab that stays is not.
        """
        specs = _specs_by_host(hosts, guests)
        if hosts < 1 or sum(map(len, specs)) > MOST_GUESTS:
            raise LabError(f"a lab has at least one host and at most {MOST_GUESTS} guests")
        require(Tier(tier))
        directory = LabDirectory(name)
        if not directory.lock():
            raise LabBusy(f"lab {name} is in use by another process; use another name")
        try:
            take_away_leftover(directory, say)
        except BaseException:
            directory.unlock()
            raise
        try:
            images = guest_images(say)
            chosen = named(specs)
            state = _new_state(directory, Tier(tier), chosen, accelerator(images), stays)
            lab = cls(directory, state, images, [spec for group in chosen for spec in group])
            lab._bring_up(say)
        except BaseException:
            remove(directory)
            directory.unlock()
            raise
        if stays:
            directory.unlock()
        return lab

    @classmethod
    def attach(cls, name: str = DEFAULT_NAME) -> Self:
        """A lab that some other process has brought up."""
        directory = LabDirectory(name)
        state = directory.read()
        if state is None:
            raise LabError(f"there is no lab {name}; make one: lab/lab up --name {name}")
        return cls(directory, state, guest_images(silent))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def name(self) -> str:
        """The lab's name."""
        return self._state.name

    @property
    def state(self) -> LabState:
        """What its state file says."""
        return self._state

    def host(self, name: str) -> Host:
        """A host by name."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"lab {self.name} has no host {name}")

    @property
    def guests(self) -> list[Guest]:
        """The guests of all hosts."""
        return [guest for host in self.hosts for guest in host.guests]

    def guest(self, name: str) -> Guest:
        """A guest by name, wherever it is."""
        for guest in self.guests:
            if guest.name == name:
                return guest
        raise LabError(f"lab {self.name} has no guest {name}")

    def restore(self) -> None:
        """Bring all hosts and guests back to how they were handed out, each guest at home."""
        restore_all(self.hosts, self.guests)

    @staticmethod
    def where(guest: Guest) -> Where:
        """Which hosts run a guest, and which have it defined."""
        return guest.where()

    def down(self) -> list[str]:
        """Take it away and let go of the lock; says what was there."""
        return _remove(self._directory)

    @staticmethod
    def remove(name: str = DEFAULT_NAME) -> list[str]:
        """Take a lab of that name away, whatever is left of it; says what was there."""
        return _remove(LabDirectory(name))

    def _empty_host(self, record: HostRecord) -> Host:
        """The object for a host, by its tier."""
        accelerator_name = self._state.accelerator
        if self._state.tier is Tier.LIGHT:
            return LightHost(self._directory, record, accelerator_name)
        groups = control_groups(self.name, record.name)
        return FullHost(self._directory, record, accelerator_name, groups[0])

    def _host(self, record: HostRecord) -> Host:
        """The object for a host of the state file, with its guests."""
        host = self._empty_host(record)
        for guest in record.guests:
            spec = self._specs.get(guest.name) or GuestSpec(
                sort=GuestSort(guest.sort), name=guest.name, memory_mib=guest.memory_mib
            )
            host.guests.append(Guest(host, spec, guest.uuid, self._images, self.hosts))
        return host

    def _bring_up(self, say: Say) -> None:
        """Start hosts one after the other, then all guests, a few at once."""
        for host in self.hosts:
            host.prepare(self._images)
        self._boot_full_hosts(say)
        for host in self.hosts:
            say(f"host {host.name}: starting libvirtd")
            host.start_libvirtd()
        pool = ThreadPoolExecutor(max_workers=BOOT_AT_ONCE)
        try:
            for guest in pool.map(_boot, self.guests):
                say(f"guest {guest.name} ({guest.sort}) runs")
        finally:
            # After Ctrl-C nobody waits for guests that are about to be taken away.
            pool.shutdown(wait=False, cancel_futures=True)
        for host in self.hosts:
            host.finish()
        self._state = replace(self._state, phase=Phase.UP)
        self._directory.write(self._state)

    def _boot_full_hosts(self, say: Say) -> None:
        """Install and switch on the hosts that are containers, side by side."""
        hosts = [host for host in self.hosts if isinstance(host, FullHost)]
        if not hosts:
            return
        tree = host_root(say)
        network = start_network(self._directory, hosts[0].directory)
        names = {host.name: host.address for host in hosts}
        for host in hosts:
            say(f"host {host.name}: installing and booting")
            host.install(tree, names, self._images)
            host.boot(network, [self._images.kernel.parent])
        for host in hosts:
            host.wait_booted()
            say(f"host {host.name} is up")


def _specs_by_host(
    hosts: int, guests: int | Sequence[GuestSpec] | Sequence[Sequence[GuestSpec]]
) -> list[tuple[GuestSpec, ...]]:
    """What is wanted on each host."""
    if isinstance(guests, int):
        return [mixture(guests)] * hosts
    alike = tuple(spec for spec in guests if isinstance(spec, GuestSpec))
    each = [tuple(group) for group in guests if not isinstance(group, GuestSpec)]
    if (alike and each) or (each and len(each) != hosts):
        raise LabError(f"guests are one sequence for all hosts, or {hosts} for a host each")
    return each or [alike] * hosts


def _remove(directory: LabDirectory) -> list[str]:
    if not directory.locked and not directory.lock():
        raise LabBusy(f"lab {directory.name} is in use by another process")
    try:
        return remove(directory)
    finally:
        directory.unlock()


def _boot(guest: Guest) -> Guest:
    guest.make()
    return guest


def take_away_leftover(directory: LabDirectory, say: Say) -> None:
    """Remove what a dead process left of a lab; LabError when the lab is somebody's."""
    state = directory.read()
    if state is None:
        return
    left_over = state.phase is Phase.STARTING or state.owner is not None
    if not left_over:
        raise LabBusy(f"lab {state.name} is up already; take it away: lab/lab down")
    for line in remove(directory):
        say(f"left over from a lab that was killed: {line}")


def _new_state(
    directory: LabDirectory,
    tier: Tier,
    guests: Sequence[Sequence[GuestSpec]],
    accelerator_name: str,
    stays: bool,
) -> LabState:
    """Write down what is going to be made."""
    hosts = tuple(
        HostRecord(
            name=f"h{number}",
            uuid=str(uuid.uuid4()),
            directory=str(directory.path / f"h{number}"),
            guests=tuple(
                GuestRecord(
                    name=spec.name,
                    sort=spec.sort,
                    uuid=str(uuid.uuid4()),
                    memory_mib=spec.memory_mib,
                )
                for spec in group
            ),
        )
        for number, group in enumerate(guests, 1)
    )
    state = LabState(
        name=directory.name,
        tier=tier,
        phase=Phase.STARTING,
        accelerator=accelerator_name,
        hosts=hosts,
        owner=None if stays else myself(),
        control_groups=tuple(
            str(group)
            for host in hosts
            for group in control_groups(directory.name, host.name)
            if tier is Tier.FULL
        ),
    )
    directory.write(state)
    return state
