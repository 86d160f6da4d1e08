"""Fixtures of the tests that run `hostagent` as a person does, against the session's light hosts.

Layer: tests. Pauses are judged by witnesses (a second QMP monitor of each guest), never by
hostagent's own report.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from lab import Guest, Lab, Witness
from lab.host import Host
from tests.run.tool import Agent


@pytest.fixture
def agent(light_host: Host, tmp_path: Path, marked_env: Mapping[str, str]) -> Iterator[Agent]:
    """hostagent against the session's host."""
    tool = Agent(light_host, tmp_path / "state", marked_env)
    yield tool
    tool.end()


@pytest.fixture
def witnesses(light_host: Host, witness: Callable[[Guest], Witness]) -> dict[str, Witness]:
    """A witness for each guest of the host, by name."""
    return {guest.name: witness(guest) for guest in light_host.guests}


@pytest.fixture
def hosts(two_light_hosts: Lab) -> tuple[Host, Host]:
    """The session's two light hosts."""
    first, second = two_light_hosts.hosts
    return first, second


@pytest.fixture
def mover(
    hosts: tuple[Host, Host], tmp_path: Path, marked_env: Mapping[str, str]
) -> Iterator[Agent]:
    """hostagent on the first of them."""
    tool = Agent(hosts[0], tmp_path / "state", marked_env)
    yield tool
    tool.end()
