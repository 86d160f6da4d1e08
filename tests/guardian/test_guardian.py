"""The guardian with real guests: they are brought back, whatever happens, and only ours are.

"Within" is judged by the witness: QEMU's own RESUME event on a monitor of the lab's.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest
from guardian_rig import SECOND_NS, Rig, wait_status

from hostagent.guardian.connect import CallTimeout, Line
from hostagent.guardian.wire import encode
from lab import Guest, Witness
from lab.host import Host
from lab.processes import wait_until

MakeRig = Callable[..., Rig]
WitnessOf = Callable[[Guest], Witness]

ALL = ("g1", "g2", "g3", "g4")


def back_s(witness: Witness, since_ns: int, timeout_s: float = 5) -> float:
    """How long after `since_ns` the guest's first RESUME came."""
    resumes: list[int] = []

    def seen() -> bool:
        resumes[:] = [
            event.seen_ns
            for event in witness.events
            if event.name == "RESUME" and event.seen_ns >= since_ns
        ]
        return bool(resumes)

    wait_until(seen, timeout_s, "RESUME")
    return (resumes[0] - since_ns) / 1e9


def test_all_run_soon_after_the_owner_is_killed(make_rig: MakeRig, witness: WitnessOf) -> None:
    rig = make_rig(*ALL)
    seen = [witness(guest) for guest in rig.guests]
    owner = rig.owner()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        os.kill(owner.guardian.pid, number)
    killed_ns = owner.kill()
    times = [back_s(each, killed_ns) for each in seen]
    print("back after", [f"{each * 1000:.0f} ms" for each in times])
    assert max(times) < 1
    wait_until(lambda: not owner.guardian.alive(), 5, "end of the guardian")
    assert not rig.list_file.exists()
    assert [entry["what"] for entry in rig.journal()][-1] == "guardian-ended"


def test_the_deadline_resumes_and_the_guardian_waits_for_its_owner(
    make_rig: MakeRig, witness: WitnessOf
) -> None:
    rig = make_rig("g1", "g3")
    seen = [witness(guest) for guest in rig.guests]
    watch = rig.watch(budget_s=2)
    rig.suspend()
    watch.paused(rig.uuids("g1", "g3"))
    times = [back_s(each, rig.deadline_ns - SECOND_NS) - 1 for each in seen]
    print("back after the deadline", times)
    assert all(0 <= each < 0.5 for each in times)
    wait_until(lambda: not rig.list_file.exists(), 5, "empty list")
    assert watch.alive()
    # What its owner pauses from now on is not ours.
    rig.suspend("g3")
    assert watch.disarm((), 5 * SECOND_NS)
    wait_status(rig.guests[1], "paused")
    rig.guests[1].resume()


def test_disarmed_it_leaves_everything_as_it_is(make_rig: MakeRig) -> None:
    rig = make_rig("g3")
    watch = rig.watch(budget_s=5)
    rig.suspend()
    assert watch.disarm((), 5 * SECOND_NS)
    guardian = watch.guardian
    assert guardian is not None
    wait_until(lambda: not guardian.alive(), 5, "end of the guardian")
    wait_status(rig.guests[0], "paused")
    assert not rig.list_file.exists()
    rig.guests[0].resume()


def test_what_was_let_go_or_never_listed_stays_paused(
    make_rig: MakeRig, light_host: Host, witness: WitnessOf
) -> None:
    rig = make_rig("g1", "g3")
    owners = light_host.guest("g4")
    owners.suspend()
    seen = [witness(guest) for guest in (*rig.guests, owners)]
    watch = rig.watch(budget_s=2)
    rig.suspend()
    watch.let_go(rig.uuids("g3"))
    back_s(seen[0], 0)
    wait_until(lambda: rig.journal()[-1]["what"] == "guardian-back", 5, "end of the resume")
    assert [each.status() for each in seen] == ["running", "paused", "paused"]
    assert watch.disarm((), 5 * SECOND_NS)
    for guest in (rig.guests[1], owners):
        guest.resume()


def test_what_was_let_go_is_noted(make_rig: MakeRig) -> None:
    """For a recovery: hostagent may die before its own journal says that the guest is back."""
    rig = make_rig("g3")
    rig.watch().let_go(rig.uuids("g3"))
    wait_until(lambda: not rig.list_file.exists(), 5, "an empty list")
    noted = [row["value"] for row in rig.journal() if row["what"] == "guardian-let-go"]
    assert noted == [{"uuids": rig.uuids("g3")}]


NO_THREADS = """
import pathlib, threading
start, out_of_threads = threading.Thread.start, pathlib.Path({path!r})
def try_start(thread):
    if out_of_threads.exists():
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = try_start
"""
"""A limit on tasks, as Python tells of it; a real one (RLIMIT_NPROC, pids.max) does not bind root,
or needs a control group of its own."""


def test_without_a_thread_to_be_had_the_guests_come_back(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = tmp_path / "out-of-threads"
    (tmp_path / "sitecustomize.py").write_text(NO_THREADS.format(path=str(full)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rig = make_rig("g1", "g3")
    owner = rig.owner()
    full.touch()
    owner.kill()
    for guest in rig.guests:
        wait_status(guest, "running")


def test_a_guest_that_was_started_anew_is_not_touched(make_rig: MakeRig) -> None:
    rig = make_rig("g1", "g3")
    owner = rig.owner()
    rig.guests[1].destroy()
    rig.guests[1].start(wait=False)
    rig.guests[1].suspend()
    owner.kill()
    wait_status(rig.guests[0], "running")
    wait_until(lambda: not owner.guardian.alive(), 5, "end of the guardian")
    assert rig.guests[1].status() == "paused"
    rig.guests[1].resume()


def test_libvirtd_dead_in_mid_pause(
    make_rig: MakeRig, light_host: Host, witness: WitnessOf
) -> None:
    rig = make_rig("g1", "g3")
    seen = [witness(guest) for guest in rig.guests]
    owner = rig.owner()
    light_host.kill_libvirtd()
    killed_ns = owner.kill()
    times = [back_s(each, killed_ns) for each in seen]
    print("back after", times)
    assert max(times) < 1.5
    light_host.start_libvirtd()
    for guest in rig.guests:  # libvirtd has adopted them
        wait_until(lambda guest=guest: guest.state() == "running", 5, f"{guest.name} in libvirt")


def test_libvirtd_frozen_in_mid_pause_is_killed(
    make_rig: MakeRig, light_host: Host, witness: WitnessOf
) -> None:
    rig = make_rig("g1", "g3")
    seen = [witness(guest) for guest in rig.guests]
    owner = rig.owner()
    light_host.freeze()
    killed_ns = owner.kill()
    times = [back_s(each, killed_ns) for each in seen]
    print("back after", times)
    assert max(times) < 1.5
    assert light_host.libvirtd() is None
    light_host.start_libvirtd()


def test_libvirtd_frozen_long_before_the_deadline(
    make_rig: MakeRig, light_host: Host, witness: WitnessOf
) -> None:
    rig = make_rig("g1", "g3")
    seen = [witness(guest) for guest in rig.guests]
    watch = rig.watch(budget_s=3)
    rig.suspend()
    watch.paused(rig.uuids("g1", "g3"))
    light_host.freeze()
    times = [back_s(each, rig.deadline_ns - SECOND_NS) - 1 for each in seen]
    print("back after the deadline", times)
    assert max(times) < 0.5
    light_host.start_libvirtd()


def test_a_frozen_process_that_is_not_that_libvirtd_is_not_killed(
    make_rig: MakeRig, light_host: Host
) -> None:
    rig = make_rig("g3")
    assert rig.ways.daemon is not None
    wrong = replace(rig.ways.daemon, start_ticks=rig.ways.daemon.start_ticks + 1)
    rig.ways = replace(rig.ways, daemon=wrong)
    owner = rig.owner()
    light_host.freeze()
    owner.kill()
    wait_until(lambda: "was not killed" in rig.journal_file.read_text(), 10, "its reason")
    assert light_host.frozen()
    assert rig.guests[0].status() == "paused"
    light_host.thaw()
    wait_status(rig.guests[0], "running")


def test_a_guardian_that_was_frozen_kills_no_healthy_libvirtd(
    make_rig: MakeRig, light_host: Host
) -> None:
    rig = make_rig("g3")
    libvirtd = light_host.libvirtd()
    watch = rig.watch(budget_s=0.5)
    assert watch.guardian is not None
    os.kill(watch.guardian.pid, signal.SIGSTOP)
    rig.suspend()
    watch.paused(rig.uuids("g3"))
    wait_until(lambda: time.monotonic_ns() > rig.deadline_ns + 2 * SECOND_NS, 5, "2 s more")
    os.kill(watch.guardian.pid, signal.SIGCONT)
    wait_status(rig.guests[0], "running", 1)
    assert light_host.libvirtd() == libvirtd
    wait_until(lambda: rig.journal()[-1]["what"] == "guardian-back", 5, "the guardian's note")
    assert rig.journal()[-1]["value"]["way"] == "libvirt"


def test_a_libvirtd_whose_workers_all_hang_is_killed_for_a_guest_that_does_not(
    make_rig: MakeRig, light_host: Host, witness: WitnessOf
) -> None:
    """It still answers the probe, which needs no worker, but can resume nobody."""
    rig = make_rig("g3")
    seen = witness(rig.guests[0])
    hung = light_host.guest("g1")
    watch = rig.watch()
    rig.suspend()
    watch.paused(rig.uuids("g3"))
    hung.freeze()
    for _ in range(6):
        conn = libvirt.open(light_host.uri)
        domain = conn.lookupByUUIDString(hung.uuid)
        for _ in range(5):
            threading.Thread(target=_ask_in_vain, args=(domain,), daemon=True).start()
    wait_until(lambda: not _a_worker_is_left(light_host), 5, "workers all busy")
    guardian = watch.guardian
    assert guardian is not None
    begun_ns = time.monotonic_ns()
    watch.disarm(rig.uuids("g3"), 5 * SECOND_NS)
    assert back_s(seen, begun_ns) < 4
    assert light_host.libvirtd() is None
    hung.thaw()
    light_host.start_libvirtd()
    wait_until(lambda: not guardian.alive(), 8, "end of the guardian")


def _ask_in_vain(domain: libvirt.virDomain) -> None:
    with suppress(libvirt.libvirtError):
        libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-status"}', 0)


def _a_worker_is_left(host: Host) -> bool:
    line = Line(host.uri)
    try:
        with suppress(libvirt.libvirtError):
            line.call(lambda conn: conn.baselineCPU([], 0), SECOND_NS // 2)
        return True
    except CallTimeout:
        return False
    finally:
        line.close()


def test_where_qmp_is_not_allowed_it_waits_for_libvirt(make_rig: MakeRig, light_host: Host) -> None:
    rig = make_rig("g3")
    rig.forbid_qmp("lockd is configured")
    owner = rig.owner()
    light_host.kill_libvirtd()
    owner.kill()
    wait_until(lambda: "lockd is configured" in rig.journal_file.read_text(), 10, "its reason")
    assert rig.guests[0].status() == "paused"
    light_host.start_libvirtd()
    wait_status(rig.guests[0], "running")


def test_one_frozen_qemu_delays_no_other_and_comes_back(
    make_rig: MakeRig, witness: WitnessOf
) -> None:
    rig = make_rig("g1", "g3", "g4")
    hung, others = rig.guests[1], (rig.guests[0], rig.guests[2])
    seen = [witness(guest) for guest in others]
    owner = rig.owner()
    hung.freeze()
    killed_ns = owner.kill()
    assert max(back_s(each, killed_ns) for each in seen) < 1
    # It waits for that guest alone, says so, and blocks no other run.
    wait_until(lambda: rig.listed()["waiting_for_hung"] == ["g3"], 8, "its name")
    assert not rig.lock_file_held()
    assert rig.host.libvirtd() is not None
    hung.thaw()
    wait_status(hung, "running")
    wait_until(lambda: not owner.guardian.alive(), 5, "end of the guardian")
    assert not rig.list_file.exists()


def test_a_suspend_that_comes_late_is_undone(make_rig: MakeRig, witness: WitnessOf) -> None:
    rig = make_rig("g3")
    guest = rig.guests[0]
    seen = witness(guest)
    owner = rig.owner(budget_s=0.5, paused=False)
    owner.signal(signal.SIGSTOP)
    back_s(seen, 0)
    for _ in range(2):
        # Stands for the frozen owner's own call, which takes effect after the deadline.
        late_ns = time.monotonic_ns()
        guest.suspend()
        assert back_s(seen, late_ns) < 1
    owner.signal(signal.SIGCONT)
    owner.kill()
    wait_until(lambda: not owner.guardian.alive(), 8, "end of the guardian")
    assert guest.status() == "running"


def test_a_suspend_that_waits_in_a_frozen_qemu_is_undone(
    make_rig: MakeRig, witness: WitnessOf
) -> None:
    rig = make_rig("g3")
    guest = rig.guests[0]
    seen = witness(guest)
    owner = rig.owner(suspend=False, paused=False)
    guest.freeze()
    owner.tell({"suspend": rig.uuids("g3")})
    wait_until(lambda: guest.call("control", lambda d: d.controlInfo()[0]) != 0, 5, "the suspend")
    owner.kill()
    wait_until(lambda: not rig.lock_file_held(), 10, "the lock let go")
    guest.thaw()
    seen.wait_for("STOP")
    seen.wait_for("RESUME")
    wait_until(lambda: not owner.guardian.alive(), 10, "end of the guardian")
    assert guest.status() == "running"


def test_it_takes_up_its_list_after_both_were_killed(make_rig: MakeRig, witness: WitnessOf) -> None:
    rig = make_rig("g1", "g3")
    seen = [witness(guest) for guest in rig.guests]
    owner = rig.owner()
    wait_until(lambda: len(rig.listed()["returned"]) == 2, 5, "the list")
    os.kill(owner.guardian.pid, signal.SIGKILL)
    owner.kill()
    wait_until(lambda: not owner.guardian.alive(), 5, "end of the guardian")
    assert [guest.status() for guest in rig.guests] == ["paused", "paused"]
    again_ns = time.monotonic_ns()
    subprocess.run(  # as systemd starts its unit again
        [sys.executable, "-m", "hostagent.guardian", "--list", str(rig.list_file)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=10,
    )
    assert max(back_s(each, again_ns) for each in seen) < 1
    assert not rig.list_file.exists()


def test_an_owner_that_went_before_ready_paused_nothing(make_rig: MakeRig) -> None:
    """So a guest that is paused then is its owner's."""
    rig = make_rig("g3")
    rig.suspend()
    done = subprocess.run(
        [sys.executable, "-m", "hostagent.guardian", "--list", str(rig.list_file)],
        input=encode(rig.arm()),
        capture_output=True,
        check=True,
        timeout=10,
    )
    assert done.stdout == b""
    assert rig.guests[0].status() == "paused"
    assert not rig.list_file.exists()
    rig.guests[0].resume()


def test_an_owner_that_went_while_another_got_ready(make_rig: MakeRig) -> None:
    """Its guests stand still since the first one was armed: the second brings them back."""
    rig = make_rig("g3")
    first = rig.watch().guardian
    assert first is not None
    rig.suspend()
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not first.alive(), 5, "the end of the first")
    subprocess.run(
        [sys.executable, "-m", "hostagent.guardian", "--list", str(rig.list_file)],
        input=encode(rig.arm(owner=first)),  # whoever it was, it is gone
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=20,
    )
    assert rig.guests[0].status() == "running"
    assert not rig.list_file.exists()


def test_its_death_is_told_and_a_new_one_takes_over(make_rig: MakeRig) -> None:
    rig = make_rig("g3")
    died = threading.Event()
    first = rig.watch(on_death=died.set)
    rig.suspend()
    assert first.guardian is not None
    os.kill(first.guardian.pid, signal.SIGKILL)
    assert died.wait(2)
    assert not first.alive()
    first.paused(rig.uuids("g3"))
    assert rig.listed()["deadline_ns"] == rig.deadline_ns
    second = rig.watch(budget_s=0.5)
    wait_status(rig.guests[0], "running", 2)
    assert second.disarm((), 5 * SECOND_NS)


def test_a_guest_left_to_it_is_brought_back_after_its_owner_went(make_rig: MakeRig) -> None:
    rig = make_rig("g1", "g3")
    hung = rig.guests[1]
    owner = rig.owner()
    hung.freeze()
    rig.guests[0].resume()
    owner.tell({"disarm": rig.uuids("g3")})
    assert owner.hear() == "True"
    assert not rig.lock_file_held()
    wait_until(lambda: rig.listed()["waiting_for_hung"] == ["g3"], 2, "its name")
    owner.kill()
    hung.thaw()
    wait_status(hung, "running")
    wait_until(lambda: not owner.guardian.alive(), 8, "end of the guardian")


def test_a_pipe_that_somebody_else_holds_open_does_not_hide_a_death(make_rig: MakeRig) -> None:
    rig = make_rig("g3")
    owner = rig.owner(suspend=False, paused=False)
    ends = [
        f for f in Path(f"/proc/{owner.process.pid}/fd").iterdir() if "pipe" in str(f.readlink())
    ]
    held = [os.open(each, os.O_WRONLY | os.O_NONBLOCK) for each in ends if _writable(each)]
    rig.suspend()
    owner.kill()
    wait_status(rig.guests[0], "running", 1)
    for fd in held:
        os.close(fd)


def _writable(end: Path) -> bool:
    return bool(end.lstat().st_mode & 0o200)
