"""Fixtures of the tests that run `hostagent` inside a full tier host."""

import shutil
from collections.abc import Callable, Iterator, Mapping

import pytest

from lab import Guest, Witness
from lab.audit import MARK
from lab.full import FullHost
from lab.host import Host
from tests.full.inside import STATE, Inside


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
