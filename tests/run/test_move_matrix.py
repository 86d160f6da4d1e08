"""The failure matrix of a live move: who fails, and in which phase.

Afterwards always: exactly one copy runs, its memory and its open file intact, nothing is left of
the move, hostagent's word was true, and the same command moves the guest. Each case leaves a row in
build/move-matrix/, from which tests/run/matrix_table writes the table of docs/reliability.md.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from lab import GuestSpec, Lab, Tier
from lab.errors import LabError
from lab.light import LightHost
from tests.conftest import Audit, _make_lab
from tests.run.links import free_port, listen_far_away
from tests.run.moving import FAULTS, Phase, Scene, record, walk

ROWS = Path(__file__).parents[2] / "build" / "move-matrix"

FROM_PREPARE = {"destination's QEMU killed", "destination's QEMU frozen"}
"""There is none before."""
ON_THE_WAY = {"memory's link cut", "memory's link silent"}
"""Memory is only sent then, and the last of it at the hand-over."""
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


def _cases() -> Iterator[tuple[Phase, str]]:
    for phase in Phase:
        for name in FAULTS:
            if name in FROM_PREPARE and phase is Phase.BEGIN:
                continue
            if name in ON_THE_WAY and phase not in (Phase.PERFORM, Phase.FINISH):
                continue
            yield phase, name


CASES = tuple(_cases())


@pytest.fixture(scope="module")
def moving_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Two hosts and one guest, which goes back and forth."""
    with _make_lab(request.config, Tier.LIGHT, 2, [[GuestSpec()], []]) as lab:
        yield lab


@pytest.fixture(scope="module")
def ports(moving_lab: Lab) -> Mapping[str, int]:
    """Where each host's QEMUs await a guest that comes over TCP."""
    found = {host.name: free_port() for host in moving_lab.hosts}
    for host in moving_lab.hosts:
        listen_far_away(cast(LightHost, host), found[host.name])
    return found


@pytest.fixture
def lab(moving_lab: Lab, ports: Mapping[str, int], audit: Audit) -> Iterator[Lab]:
    for host in moving_lab.hosts:
        host.put_right()
    if not _in_order(moving_lab):
        moving_lab.restore()
    yield moving_lab
    audit.check_lab(moving_lab)


def _in_order(lab: Lab) -> bool:
    """Whether the last case left the guest running on one host, and nothing else."""
    where = lab.guests[0].where()
    try:
        lab.guests[0].wait_counting()
    except (LabError, TimeoutError):
        return False
    return len(where.running) == 1 and (where.running, ()) == (where.defined, where.waiting)


def _marked(case: tuple[Phase, str]) -> "pytest.ParameterSet":
    phase, name = case
    marks = () if case in ALWAYS else (pytest.mark.campaign,)
    return pytest.param(phase, name, id=f"{phase}: {name}", marks=marks)


@pytest.mark.light
@pytest.mark.parametrize(("phase", "name"), [_marked(case) for case in CASES])
def test_one_copy_is_left(
    lab: Lab,
    ports: Mapping[str, int],
    tmp_path: Path,
    marked_env: Mapping[str, str],
    phase: Phase,
    name: str,
) -> None:
    fault = FAULTS[name]()
    scene = Scene(lab, tmp_path / "state", marked_env, ports, linked=fault.linked)
    try:
        record(ROWS, walk(scene, phase, fault, name))
    finally:
        fault.mend(scene)
        scene.close()
