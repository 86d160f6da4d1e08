"""What went wrong for others in the field, each with the right outcome here.

Layer: tests. Events that are lost after a reconnect, file systems frozen by a backup, a host's
clock that is stepped during a pause, commands that wait for input, and files that are being
written. Judged by witnesses and from inside the guests.
"""

import json
import os
import pty
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, cast

import pytest

from lab import Guest, GuestSort, GuestSpec, Lab, Witness
from lab.host import Host
from lab.light import LightHost
from tests.run.faults import (
    S,
    Update,
    all_run,
    kill_libvirtd,
    longest_pause_s,
    start_libvirtd,
)
from tests.run.tool import Agent, Ended, wait_for

Witnesses = dict[str, Witness]

AGREE_S = 0.002
SEEN_S = 0.02
"""The same by the witness's own clock, which runs when this busy process is scheduled."""
LIBFAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
STEP_S = 90


class Frozen(Protocol):
    """Calls of a backup, which hostagent never makes and the project's libvirt types leave out."""

    def fsFreeze(self) -> int: ...

    def fsThaw(self) -> int: ...


def agrees(ended: Ended, name: str, pause_s: float, allowed_s: float = AGREE_S) -> None:
    """The pause that was reported is the one that was seen, or its uncertainty says how it may
    not be."""
    guest = ended.guest(name)
    assert guest["pause_s"] is not None
    assert guest["pause_source"] in ("events", "api")
    if guest["pause_source"] == "api":
        allowed_s += guest["pause_uncertainty_s"]
    assert abs(guest["pause_s"] - pause_s) < allowed_s, guest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["restart", "crash"])
def test_events_after_libvirtd_was_replaced(
    agent: Agent, light_host: LightHost, witnesses: Witnesses, tmp_path: Path, number: int
) -> None:
    """P7: calls worked after the reconnect and no event ever came. Both this run's figures and the
    next one's are those of its own pause."""
    pid = light_host.libvirtd_pid()
    steps = [
        kill_libvirtd(light_host, number),
        f"while Path('/proc/{pid}').exists(): time.sleep(0.01)",
        start_libvirtd(light_host),
        "time.sleep(1)",
    ]
    update = Update(tmp_path, "\n".join(steps))
    for turn, words in enumerate((update.words, ["sleep", "1"])):
        ended = agent.run("run", "--", *words)
        assert ended.code == 0, ended.stdout
        assert ended.document["warnings"] == []
        assert all_run(witnesses)
        for name, witness in witnesses.items():
            pause = witness.pauses()[turn]
            assert pause.duration_ns is not None
            assert ended.guest(name)["resumed_by"] == "libvirt"
            agrees(ended, name, pause.duration_ns / S)
            if turn:
                assert ended.guest(name)["pause_source"] == "events"
    light_host.start_libvirtd()


def test_file_systems_frozen_by_a_backup(
    agent: Agent, light_host: Host, witnesses: Witnesses
) -> None:
    """C3: the agent refuses nearly everything; the backup's owner thaws, never we."""
    guest = light_host.guest("g2")
    guest.call("freeze", lambda domain: cast(Frozen, domain).fsFreeze())
    try:
        ended = agent.run("run", "--", "sleep", "1")
        status = agent_command(light_host, guest, "guest-fsfreeze-status")
    finally:
        guest.call("thaw", lambda domain: cast(Frozen, domain).fsThaw())
    assert (ended.code, ended.document["result"]) == (3, "partly"), ended.stdout
    assert ended.guest("g2")["clock"]["synced"] is False
    assert "frozen" in ended.guest("g2")["clock"]["reason"]
    assert ended.guest("g2")["result"] == "paused"
    assert ended.guest("g2")["pause_s"] is not None
    assert ended.guest("g2")["pause_guest_clock_s"] is None
    assert ended.guest("g1")["pause_guest_clock_s"] is not None
    assert any("g2" in each and "frozen" in each for each in ended.document["warnings"])
    assert status == "frozen"
    assert all_run(witnesses)


def agent_command(host: Host, guest: Guest, name: str) -> object:
    """One command of the guest's agent, past hostagent."""
    words = ["virsh", "-q", "qemu-agent-command", guest.name, json.dumps({"execute": name})]
    done = subprocess.run(
        host.command(words), env=host.env, cwd="/", capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)["return"]


class Writer:
    """A program inside a guest that holds a file open and writes number after number."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        loop = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done"
        started = guest.shell(f"(exec >/mnt/written; {loop}) </dev/null 2>&1 & echo $!")
        self._pid = int(started.split()[-1])
        wait_for(lambda: self.numbers() > 1, 10, f"writing in {guest.name}")

    def numbers(self) -> int:
        """How many it has written, each after the one before it."""
        text = self._guest.shell("cat /mnt/written 2>/dev/null || :")
        numbers = [int(line) for line in text.split()]
        assert numbers == list(range(1, len(numbers) + 1))
        return len(numbers)

    def goes_on(self) -> None:
        """It is the same process, and writes on into the same file."""
        before = self.numbers()
        wait_for(lambda: self.numbers() > before, 10, f"more writing in {self._guest.name}")
        link = self._guest.shell(f"readlink /proc/{self._pid}/fd/1")
        assert link.strip() == "/mnt/written"

    def end(self) -> None:
        """Stop it."""
        self._guest.shell(f"kill {self._pid}; sync; rm /mnt/written")


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that a guest's user may look into, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="halab-public-") as directory:
        yield Path(directory)


def test_the_host_clock_is_stepped_in_mid_pause(
    public: Path,
    make_light_lab: Callable[..., Lab],
    witness: Callable[[Guest], Witness],
    tmp_path: Path,
    marked_env: dict[str, str],
) -> None:
    """C10: QEMU stamps STOP and RESUME with the wall clock, so their difference is 90 s too long,
    or negative. One guest's QEMU has a clock of its own (libfaketime); both have open files."""
    if not LIBFAKETIME.exists():
        reason = "libfaketime is missing: install faketime"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    offset = Offset(public)
    stepped = GuestSpec(sort=GuestSort.DISK, emulator=str(offset.emulator))
    host = make_light_lab(guests=[stepped, GuestSpec(sort=GuestSort.DISK)]).hosts[0]
    agent = Agent(host, tmp_path / "state", marked_env)
    witnesses = {guest.name: witness(guest) for guest in host.guests}
    writers = [Writer(guest) for guest in host.guests]
    for turn, step_s in enumerate((STEP_S, 0)):
        body = f"time.sleep(0.5); Path({str(offset.file)!r}).write_text('+{step_s}'); time.sleep(2)"
        ended = agent.run("run", "--budget", "20s", "--", *Update(tmp_path, body).words)
        assert ended.code == 0, ended.stdout
        (odd,) = ended.document["warnings"]
        assert "g1" in odd
        assert "clock was stepped" in odd
        assert ended.guest("g1")["pause_source"] == "api"
        assert ended.guest("g2")["pause_source"] == "events"
        for name, each in witnesses.items():
            pause = each.pauses()[turn]
            assert pause.seen_duration_ns is not None
            assert pause.seen_duration_ns < 4 * S
            agrees(ended, name, pause.seen_duration_ns / S, SEEN_S)
        lengths = [each.pauses()[turn].duration_ns for each in witnesses.values()]
        assert abs((lengths[0] or 0) - (lengths[1] or 0)) > (STEP_S - 5) * S, "nothing was stepped"
        for writer in writers:
            writer.goes_on()
    for writer in writers:
        writer.end()


class Offset:
    """A QEMU whose wall clock is off by what a file says; its other clocks are the host's."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o755)
        self.file = directory / "offset"
        self.file.write_text("+0")
        self.emulator = directory / "qemu"
        settings = [
            f"LD_PRELOAD={LIBFAKETIME}",
            f"FAKETIME_TIMESTAMP_FILE={self.file}",
            "FAKETIME_CACHE_DURATION=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "DONT_FAKE_MONOTONIC=1",
        ]
        words = f'exec env {" ".join(settings)} /usr/bin/qemu-system-x86_64 "$@"'
        self.emulator.write_text(f"#!/bin/sh\n{words}\n")
        self.emulator.chmod(0o755)


@pytest.mark.parametrize("source", ["pipe", "terminal"])
def test_a_command_that_waits_for_input(agent: Agent, witnesses: Witnesses, source: str) -> None:
    """U1: nobody can answer while guests stand still, so its input is empty."""
    given, kept = os.pipe() if source == "pipe" else pty.openpty()[::-1]
    began_s = time.monotonic()
    done = subprocess.run(
        agent.command("run", "--budget", "20s", "--", "cat"),
        stdin=given,
        capture_output=True,
        text=True,
        env=agent.env,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert time.monotonic() - began_s < 10
    assert longest_pause_s(witnesses.values()) < 1
    os.close(given)
    os.close(kept)
