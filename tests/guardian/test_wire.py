"""The pipe between hostagent and its guardian, with a real guardian process over libvirt's own
test driver (test:///default, in the guardian's memory) and no guests."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hostagent.guardian import wire
from hostagent.guardian.daemon import DaemonId
from hostagent.guardian.launch import Mode
from hostagent.guardian.process import ProcessId, myself
from hostagent.guardian.resume import Target, Ways
from hostagent.guardian.wire import (
    Arm,
    Disarm,
    Disarmed,
    LetGo,
    NotReadyError,
    Paused,
    Ready,
    Refused,
    Watch,
    WireError,
    decode,
    encode,
)
from lab.processes import wait_until

SECOND_NS = 1_000_000_000
ArmOf = Callable[..., Arm]
WatchOf = Callable[..., Watch]


@pytest.fixture
def arm_of(tmp_path: Path) -> ArmOf:
    def make(**changes: Any) -> Arm:
        fields: dict[str, Any] = {
            "run": "test",
            "list_path": str(tmp_path / "list.json"),
            "journal_path": str(tmp_path / "journal.jsonl"),
            "lock_path": str(tmp_path / "lock"),
            "deadline_ns": time.monotonic_ns() + 60 * SECOND_NS,
            "owner": myself(),
            "ways": Ways(uri="test:///default", qmp_allowed=False, qmp_refusal="", daemon=None),
            "guests": (),
        }
        return Arm(**(fields | changes))

    return make


@pytest.fixture
def watch_of(tmp_path: Path) -> Iterator[WatchOf]:
    made: list[Watch] = []

    def make(**options: Any) -> Watch:
        path = str(tmp_path / "list.json")
        made.append(Watch(unit="halab-guardian", list_path=path, mode=Mode.SETSID, **options))
        return made[-1]

    yield make
    for watch in made:
        watch.disarm((), SECOND_NS)


def test_every_message_comes_through_as_it_was(arm_of: ArmOf) -> None:
    target = Target(
        uuid="u", name="g\n1", domain_id=3, pid=7, start_ticks=9, monitor="/run/m\u00e9.sock"
    )
    daemon = DaemonId(pid_file="/run/p", exe="/usr/sbin/libvirtd", pid=5, start_ticks=6)
    ways = Ways(uri="qemu:///system", qmp_allowed=True, qmp_refusal="", daemon=daemon)
    for message in (
        arm_of(),
        arm_of(guests=(target,), ways=ways),
        Paused(uuids=("u", "v")),
        LetGo(uuids=()),
        Disarm(keep=("u",)),
        Ready(guardian=ProcessId(pid=1, start_ticks=2)),
        Refused(reason="why"),
        Disarmed(),
    ):
        line = encode(message)
        assert line.count(b"\n") == 1
        assert decode(line) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'"say"',
        b"{}",
        b'{"say":"sing"}',
        b'{"say":"paused"}',
        b'{"say":"paused","uuids":"u"}',
        b'{"say":"paused","uuids":[1]}',
        b'{"say":"arm"}',
        b'{"say":"arm","ways":{"daemon":3}}',
        b'{"say":{}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_message_is_told_apart(line: bytes) -> None:
    with pytest.raises(WireError):
        decode(line)


def test_torn_and_foreign_lines_are_passed_over() -> None:
    read, write = os.pipe()
    line = encode(Disarmed())
    for part in (b"noise\n", line[:5], line[5:], line + line, b'{"say":'):
        os.write(write, part)
    os.close(write)
    assert list(wire.read_messages(read)) == [Disarmed()] * 3
    os.close(read)


def test_it_is_nobodys_child_and_leads_no_session(arm_of: ArmOf, watch_of: WatchOf) -> None:
    watch = watch_of()
    guardian = watch.arm(arm_of(), 10 * SECOND_NS)
    assert watch.alive()
    assert os.getsid(guardian.pid) not in (os.getsid(0), guardian.pid)
    assert Path(f"/proc/{guardian.pid}/cwd").readlink() == Path("/")
    with pytest.raises(ChildProcessError):
        os.waitpid(guardian.pid, os.WNOHANG)
    assert watch.disarm((), 5 * SECOND_NS)
    wait_until(lambda: not guardian.alive(), 5, "end of the guardian")
    assert not watch.alive()


def test_only_one_at_a_time_gets_ready(arm_of: ArmOf, watch_of: WatchOf, tmp_path: Path) -> None:
    watch_of().arm(arm_of(), 10 * SECOND_NS)
    other = Watch(unit="x", list_path=str(tmp_path / "other.json"), mode=Mode.SETSID)
    with pytest.raises(NotReadyError, match="another guardian holds"):
        other.arm(arm_of(list_path=str(tmp_path / "other.json")), 10 * SECOND_NS)


def test_it_refuses_when_it_cannot_keep_its_list(
    arm_of: ArmOf, watch_of: WatchOf, tmp_path: Path
) -> None:
    guest = Target(uuid="u", name="g", domain_id=1, pid=1, start_ticks=1, monitor="/absent")
    arm = arm_of(list_path=str(tmp_path / "absent" / "list"), guests=(guest,))
    with pytest.raises(NotReadyError, match=r"can't write .*: No such file"):
        watch_of().arm(arm, 10 * SECOND_NS)


@pytest.mark.parametrize(("program", "why"), [("/bin/false", "start"), ("/absent", "can't be")])
def test_one_that_does_not_start_is_told(
    arm_of: ArmOf, watch_of: WatchOf, program: str, why: str
) -> None:
    with pytest.raises(NotReadyError, match=why):
        watch_of(python=program).arm(arm_of(), 10 * SECOND_NS)


def test_one_that_never_gets_ready_is_not_waited_for(
    arm_of: ArmOf, watch_of: WatchOf, tmp_path: Path
) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 2\n")
    sleeper.chmod(0o700)
    begun_ns = time.monotonic_ns()
    with pytest.raises(NotReadyError, match="does not start"):
        watch_of(python=str(sleeper)).arm(arm_of(), SECOND_NS // 5)
    assert time.monotonic_ns() - begun_ns < SECOND_NS


def test_its_death_is_told_and_nothing_said_to_it_then_hurts(
    arm_of: ArmOf, watch_of: WatchOf
) -> None:
    died = threading.Event()
    watch = watch_of(on_death=died.set)
    guardian = watch.arm(arm_of(), 10 * SECOND_NS)
    os.kill(guardian.pid, signal.SIGKILL)
    assert died.wait(2)
    assert not watch.alive()
    watch.paused(["u"])
    watch.let_go(["u"])
    assert not watch.disarm((), SECOND_NS // 5)


def test_a_dead_guardian_does_not_kill_its_owner_by_sigpipe(
    arm_of: ArmOf, watch_of: WatchOf
) -> None:
    watch = watch_of()
    guardian = watch.arm(arm_of(), 10 * SECOND_NS)
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.kill(guardian.pid, signal.SIGKILL)
        wait_until(lambda: not watch.alive(), 5, "end of the guardian")
        for _ in range(3):
            watch.paused(["u"])
            assert not watch.disarm((), SECOND_NS // 20)
        writers = [thread for thread in threading.enumerate() if thread.name == "wire"]
        wait_until(lambda: not any(map(threading.Thread.is_alive, writers)), 5, "the writes")
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_a_frozen_guardian_with_a_full_pipe_keeps_nobody_waiting(
    arm_of: ArmOf, watch_of: WatchOf
) -> None:
    watch = watch_of()
    guardian = watch.arm(arm_of(), 10 * SECOND_NS)
    os.kill(guardian.pid, signal.SIGSTOP)
    begun_ns = time.monotonic_ns()
    for _ in range(100):  # far more than the 64 KiB of a pipe
        watch.paused(["u" * 36] * 100)
    assert not watch.disarm((), SECOND_NS // 5)
    assert time.monotonic_ns() - begun_ns < SECOND_NS
    os.kill(guardian.pid, signal.SIGCONT)
    wait_until(lambda: not guardian.alive(), 5, "end of the guardian")


def test_a_guardian_whose_answers_nobody_reads_goes_on(arm_of: ArmOf, tmp_path: Path) -> None:
    full_read, full_write = os.pipe()
    os.set_blocking(full_write, False)
    while True:
        try:
            os.write(full_write, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(full_write, True)
    in_read, in_write = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "hostagent.guardian", "--list", str(tmp_path / "list.json")],
        dict(os.environ),
        file_actions=[
            (os.POSIX_SPAWN_DUP2, in_read, 0),
            (os.POSIX_SPAWN_DUP2, full_write, 1),
            (os.POSIX_SPAWN_CLOSE, in_write),
        ],
    )
    os.close(in_read)
    os.write(in_write, encode(arm_of()))
    journal = tmp_path / "journal.jsonl"
    wait_until(journal.exists, 5, "the journal")
    os.write(in_write, encode(Disarm(keep=())))
    ended: list[int] = []
    threading.Thread(target=lambda: ended.append(os.waitpid(pid, 0)[1]), daemon=True).start()
    wait_until(lambda: ended == [0], 10, "its end")
    for fd in (in_write, full_read, full_write):
        os.close(fd)
