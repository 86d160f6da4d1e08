"""Fixtures of the tests that run `hostagent` inside a full tier host."""

import shutil
from collections.abc import Callable, Iterator, Mapping

import pytest

from lab import Guest, GuestSort, GuestSpec, Lab, Tier, Witness
from lab.audit import MARK
from lab.full import FullHost
from lab.host import Host
from tests.conftest import Audit, _make_lab
from tests.full.inside import STATE, Inside
from tests.full.moving import Pair, listen


@pytest.fixture
def inside(full_host: Host, marked_env: Mapping[str, str]) -> Iterator[Inside]:
    """hostagent inside the session's full tier host, which no run was ever made on."""
    assert isinstance(full_host, FullHost)
    shutil.rmtree(full_host.root / STATE, ignore_errors=True)
    shutil.rmtree(full_host.guest_directory / "update", ignore_errors=True)
    tool = Inside(full_host, full_host.env | {MARK: marked_env[MARK]})
    yield tool
    tool.end()


@pytest.fixture
def witnesses(full_host: Host, witness: Callable[[Guest], Witness]) -> dict[str, Witness]:
    """A witness for each guest of the host, by name."""
    return {guest.name: witness(guest) for guest in full_host.guests}


@pytest.fixture(scope="session")
def _moving_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    def spec(*, off: bool = False) -> GuestSpec:
        return GuestSpec(sort=GuestSort.DISK, local_disk=True, off=off)

    with _make_lab(request.config, Tier.FULL, 2, [[spec(), spec(), spec(off=True)], []]) as lab:
        listen(lab, tmp_path_factory.mktemp("ca") / "right")
        yield lab


@pytest.fixture
def pair(_moving_lab: Lab, audit: Audit, marked_env: dict[str, str]) -> Iterator[Pair]:
    """The session's two full tier hosts: three guests on the first, all disks local."""
    made = Pair(_moving_lab, marked_env)
    made.begin()
    yield made
    made.end()
    audit.check_lab(_moving_lab)
