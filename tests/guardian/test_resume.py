"""Resuming, as a normal run does it: in the same process, over warm connections."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from guardian_rig import SECOND_NS, Rig, wait_status

from hostagent.guardian.connect import Lines, silence
from hostagent.guardian.probe import Probe
from hostagent.guardian.resume import Back, Result, Resumer
from lab.host import Host
from lab.processes import wait_until

MakeRig = Callable[..., Rig]


@pytest.fixture
def resumer_of() -> Iterator[Callable[[Rig], Resumer]]:
    made: list[Resumer] = []

    def make(rig: Rig) -> Resumer:
        silence()
        made.append(Resumer(rig.ways, Lines(rig.ways.uri), Probe(rig.ways.uri)))
        uuids = [target.uuid for target in rig.targets.values()]
        assert made[-1].lines.warm(uuids, 5 * SECOND_NS)
        return made[-1]

    yield make
    for resumer in made:
        resumer.lines.close()
        resumer.probe.close()


def resume(resumer: Resumer, rig: Rig, limit_s: float = 3) -> dict[str, Back]:
    backs: list[Back] = []
    targets = list(rig.targets.values())
    resumer.resume(targets, int(limit_s * SECOND_NS), backs.append)
    assert len(backs) == len(targets)
    names = {target.uuid: target.name for target in targets}
    return {names[back.uuid]: back for back in backs}


def test_every_sort_of_outcome(
    make_rig: MakeRig, resumer_of: Callable[[Rig], Resumer], light_host: Host
) -> None:
    rig = make_rig("g1", "g2", "g3", "g4")
    resumer = resumer_of(rig)
    running, asleep, restarted, frozen = rig.guests
    asleep.sleep()
    restarted.destroy()
    restarted.start(wait=False)
    restarted.suspend()
    frozen.suspend()
    frozen.freeze()
    backs = resume(resumer, rig, limit_s=0.5)
    assert {name: back.result for name, back in backs.items()} == {
        running.name: Result.RUNNING,
        asleep.name: Result.NOT_OURS,
        restarted.name: Result.GONE,
        frozen.name: Result.HUNG,
    }
    assert restarted.status() == "paused"
    restarted.resume()
    frozen.thaw()
    called_ns = time.monotonic_ns()
    back = resume(resumer, rig)[frozen.name]
    assert (back.result, back.way) == (Result.RESUMED, "libvirt")
    assert called_ns < back.called_ns < back.returned_ns < time.monotonic_ns()
    assert frozen.status() == "running"


def test_a_guest_that_thaws_within_the_limit(
    make_rig: MakeRig, resumer_of: Callable[[Rig], Resumer]
) -> None:
    rig = make_rig("g3")
    resumer = resumer_of(rig)
    rig.suspend()
    rig.guests[0].freeze()
    threading.Timer(0.3, rig.guests[0].thaw).start()
    assert resume(resumer, rig)["g3"].result is Result.RESUMED


def test_another_process_is_never_resumed(
    make_rig: MakeRig, resumer_of: Callable[[Rig], Resumer], light_host: Host
) -> None:
    """By neither way: the same guest with another start time, and with another id."""
    rig = make_rig("g3")
    resumer = resumer_of(rig)
    rig.suspend()
    right = rig.targets["g3"]
    rig.targets["g3"] = replace(right, start_ticks=right.start_ticks + 1)
    assert resume(resumer, rig)["g3"].result is Result.GONE
    rig.targets["g3"] = replace(right, domain_id=right.domain_id + 1)
    assert resume(resumer, rig, limit_s=0.3)["g3"].result is Result.FAILED
    light_host.kill_libvirtd()
    wait_until(lambda: not resumer.probe.usable(), 3, "unusable")
    rig.targets["g3"] = replace(right, start_ticks=right.start_ticks + 1)
    assert resume(resumer, rig)["g3"].result is Result.GONE
    assert rig.guests[0].status() == "paused"
    rig.targets["g3"] = right
    back = resume(resumer, rig)["g3"]
    assert (back.result, back.way) == (Result.RESUMED, "qmp")
    light_host.start_libvirtd()


def test_the_state_that_a_new_libvirtd_had_saved_is_not_believed(
    make_rig: MakeRig, resumer_of: Callable[[Rig], Resumer], light_host: Host
) -> None:
    """It died between QEMU's stop and its own note of it, and can't reach QEMU yet."""
    rig = make_rig("g3")
    resumer = resumer_of(rig)
    guest = rig.guests[0]
    light_host.kill_libvirtd()
    with socket.socket(socket.AF_UNIX) as stopper, stopper.makefile("rw") as lines:
        stopper.connect(str(guest.monitor_socket))
        for command in ("qmp_capabilities", "stop"):
            lines.write(json.dumps({"execute": command}) + "\n")
        lines.flush()
        wait_until(lambda: "STOP" in lines.readline(), 5, "the stop")
    wait_status(guest, "paused")
    holder = socket.socket(socket.AF_UNIX)
    holder.connect(rig.targets["g3"].monitor)
    light_host.start_libvirtd()
    assert guest.state() == "running", "this test's own assumption"
    threading.Timer(0.7, holder.close).start()
    assert resume(resumer, rig, limit_s=5)["g3"].result is Result.RESUMED
    assert guest.status() == "running"


def test_a_libvirtd_that_serves_others_is_not_killed_when_our_own_calls_hang(
    make_rig: MakeRig, light_host: Host, tmp_path: Path
) -> None:
    """Stands in for a guest whose QEMU hangs without being stopped: a socket that never answers
    takes our calls, so no resume has an answer, while the monitor is rightly held."""
    rig = make_rig("g3")
    libvirtd = light_host.libvirtd()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen(64)
        lines = Lines(f"qemu:///session?socket={tmp_path}/silent")
        resumer = Resumer(rig.ways, lines, Probe(rig.ways.uri))
        rig.suspend()
        back = resume(resumer, rig, limit_s=4)["g3"]
        assert back.result is Result.HUNG
    assert light_host.libvirtd() == libvirtd
    rig.guests[0].resume()
    resumer.probe.close()
    lines.close()
