"""The failure matrix of a live move: who fails, and in which phase.

Afterwards always: exactly one copy runs, its memory and its open file intact, nothing is left of
the move, hostagent's word was true, and the same command moves the guest. Each case leaves a row
for the table of docs/reliability.md (tests/run/matrix_table).
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from lab import GuestSpec, Lab, Tier
from lab.light import LightHost
from tests.conftest import Audit, _make_lab
from tests.run.links import free_port, listen_far_away
from tests.run.matrix_table import Row, in_document, record
from tests.run.move_faults import ALWAYS, CASES, FAULTS, Fault
from tests.run.moving import Phase, Scene, left_sockets
from tests.run.tool import Ended

SLOW_MIB_S = 16
"""The copying then takes some seconds."""
END_LIMIT_S = 330
"""A move takes its own limit (38 to 62 s for 128 MiB) and a minute, whoever hangs (ports.Mover);
then it is asked three times where the guest is, each time for up to a minute (rules/move)."""


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


@pytest.fixture(scope="module")
def in_order() -> set[str]:
    """Says so after each case that left the lab in order; empty after one that failed."""
    return {"at the beginning"}


@pytest.fixture
def lab(
    moving_lab: Lab, ports: Mapping[str, int], in_order: set[str], audit: Audit
) -> Iterator[Lab]:
    """In order; after a case that failed, all is as it was handed out."""
    if not in_order:
        for host in moving_lab.hosts:
            host.kill_libvirtd()
            host.start_libvirtd()
        moving_lab.restore()
    in_order.clear()
    yield moving_lab
    audit.check_lab(moving_lab)


def _marked(case: tuple[Phase, str]) -> "pytest.ParameterSet":
    phase, name = case
    marks = () if case in ALWAYS else (pytest.mark.campaign,)
    return pytest.param(phase, name, id=f"{phase}: {name}", marks=marks)


@pytest.mark.light
@pytest.mark.parametrize(("phase", "name"), [_marked(case) for case in CASES])
def test_one_copy_is_left(
    lab: Lab,
    ports: Mapping[str, int],
    in_order: set[str],
    tmp_path: Path,
    marked_env: Mapping[str, str],
    phase: Phase,
    name: str,
) -> None:
    fault = FAULTS[name]()
    scene = Scene(lab, tmp_path / "state", marked_env, ports, linked=fault.linked)
    try:
        walk(scene, phase, fault, name)
        in_order.add(name)
    finally:
        fault.mend(scene)
        scene.close()


def test_the_document_tells_of_each_case() -> None:
    assert in_document() == set(CASES)


def walk(scene: Scene, phase: Phase, fault: Fault, name: str) -> None:
    """One case from the command to the judgement, with a row for the table."""
    memory = scene.guest.remember(4)
    slow = ("--bandwidth", str(SLOW_MIB_S)) if phase is Phase.PERFORM else ()
    scene.begin(*slow)
    assert scene.process is not None
    scene.wait(phase)
    began = time.monotonic()
    fault.strike(scene)
    ended = scene.agent.wait(scene.process, END_LIMIT_S)
    seconds = time.monotonic() - began
    fault.mend(scene)
    after, told = _resolved(scene, fault, ended)
    place = scene.at_rest()
    row = Row(
        phase=phase,
        fault=name,
        guest=place,
        exit=ended.code,
        seconds=round(seconds, 1),
        after=after,
        both_ms=scene.ran_twice_ms(),
    )
    record(row)
    assert _is_true(told, place), f"{row}, told: {told}"
    assert row.both_ms == 0, f"{row}, told: {told}"
    assert scene.guest.forgotten(memory) == [], row
    scene.guest.wait_counting()
    assert scene.left() == [], row
    if place == "source":
        _moves_now(scene)
        assert scene.guest.forgotten(memory) == [], row
    assert left_sockets(scene.lab.hosts) == [], row


def _resolved(scene: Scene, fault: Fault, ended: Ended) -> tuple[str, dict[str, Any]]:
    """What had to be done until it was known where the guest is, and what was then told of it."""
    if fault.again == "the same":
        again = scene.agent.run(*scene.words())
        # Where the move came to its end meanwhile, the guest is not here any more.
        told = {"result": "moved"} if again.code == 4 else again.guest(scene.guest.name)
        assert again.code in (0, 4), again
        return f"the same again (exit {again.code})", told
    if fault.again:
        return "recover", _recovered(scene)
    told = ended.guest(scene.guest.name)
    if ended.code != 5:
        return "", told
    assert ended.document["result"] == "ambiguous", ended
    assert told["reason"], ended
    return "recover", _recovered(scene)


def _recovered(scene: Scene) -> dict[str, Any]:
    recovered = scene.agent.run("recover")
    runs = [run for run in recovered.document["runs"] if run["host"]["uuid"] == scene.here.uuid]
    assert [run["result"] for run in runs] in (["interrupted"], ["failed"], ["done"]), recovered
    return dict(runs[0]["guests"][0])


def _is_true(told: Mapping[str, Any], place: str) -> bool:
    return (told["result"] == "moved") == (place == "destination")


def _moves_now(scene: Scene) -> None:
    """The same command moves it."""
    scene.carry_the_stream()
    again = scene.agent.run(*scene.words())
    assert again.code == 0, again
    assert again.guest(scene.guest.name)["result"] == "moved", again
    assert scene.at_rest() == "destination"
