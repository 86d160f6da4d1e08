"""Fixtures of the guardian's tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from guardian_rig import Rig

from lab.host import Host


@pytest.fixture
def make_rig(
    light_host: Host,
    tmp_path: Path,
    marked_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Rig]]:
    """make_rig("g1", "g3"): a rig over these guests of the shared light host."""
    for name, value in marked_env.items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:

        def make(*names: str) -> Rig:
            rig = Rig(light_host, [light_host.guest(name) for name in names], tmp_path)
            stack.callback(rig.close)
            return rig

        yield make
