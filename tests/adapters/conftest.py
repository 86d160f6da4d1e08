"""Fixtures of the adapters' tests: what a plan would know of the light host's guests.

Layer: tests. Pauses are judged by witnesses on monitors of their own.
"""

from collections.abc import Callable, Iterator

import pytest

from hostagent.adapters.libvirt.guests import LibvirtGuests
from hostagent.adapters.libvirt.pause import LibvirtPauser
from hostagent.core.model import AgentState, Facts
from hostagent.core.plan import PlannedGuest
from lab import Guest, Witness
from lab.host import Host

S = 1_000_000_000


@pytest.fixture
def facts(light_host: Host) -> Facts:
    return LibvirtGuests(light_host.uri).facts()


@pytest.fixture
def planned(facts: Facts) -> dict[str, PlannedGuest]:
    """The guests as a plan has them, by name."""
    return {
        guest.name: PlannedGuest(
            uuid=guest.uuid,
            name=guest.name,
            process=guest.process,
            monitor=guest.monitor,
            agent=guest.agent is AgentState.CONNECTED,
        )
        for guest in facts.guests
    }


@pytest.fixture
def pauser(facts: Facts, planned: dict[str, PlannedGuest]) -> Iterator[LibvirtPauser]:
    """A pauser that is warm for all guests."""
    made = LibvirtPauser(facts.host)
    made.warm(list(planned.values()), 5 * S)
    yield made
    made.close()


@pytest.fixture
def witnesses(light_host: Host, witness: Callable[[Guest], Witness]) -> dict[str, Witness]:
    """A witness for each guest of the host, by name."""
    return {guest.name: witness(guest) for guest in light_host.guests}
