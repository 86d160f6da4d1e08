"""Only the libvirtd that was seen healthy is ever killed. Stands in: `sleep` under its name."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.guardian.daemon import MAX_KILLS, HungDaemon, kill_daemon, read_daemon, unit_of
from hostagent.guardian.process import ProcessId, identify, myself

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start("libvirtd"): a process of that name, which the pid file names; killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def make(name: str = "libvirtd") -> "subprocess.Popen[bytes]":
        program = tmp_path / name
        if not program.exists():
            shutil.copy("/bin/sleep", program)
        process = subprocess.Popen([program, "60"])
        started.append(process)
        (tmp_path / "pid").write_text(f"{process.pid}\n")
        return process

    yield make
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def pid_file(tmp_path: Path) -> str:
    return str(tmp_path / "pid")


def test_the_one_that_was_seen_is_killed(start: Start, pid_file: str) -> None:
    process = start()
    daemon = read_daemon(pid_file)
    assert daemon is not None
    assert daemon.pid == process.pid
    os.kill(process.pid, signal.SIGSTOP)
    assert kill_daemon(daemon) == ""
    assert process.wait(timeout=5) == -signal.SIGKILL
    assert "no process" in kill_daemon(daemon) or "not the libvirtd" in kill_daemon(daemon)


@pytest.mark.parametrize(
    "changes",
    [{"start_ticks": 1}, {"exe": "/usr/sbin/virtqemud"}, {"exe": "/bin/sleep"}, {"pid_file": "/x"}],
)
def test_any_doubt_and_nothing_is_killed(
    start: Start, pid_file: str, changes: dict[str, object]
) -> None:
    process = start()
    daemon = read_daemon(pid_file)
    assert daemon is not None
    assert kill_daemon(replace(daemon, **changes)) != ""  # type: ignore[arg-type]
    assert process.poll() is None


def test_a_pid_that_is_somebody_elses_now_is_left_alone(start: Start, pid_file: str) -> None:
    start()
    daemon = read_daemon(pid_file)
    assert daemon is not None
    other = start("libvirtd-other")
    assert kill_daemon(replace(daemon, pid=other.pid)) != ""
    assert "any more" in kill_daemon(daemon)
    assert other.poll() is None


def test_a_pid_file_that_names_no_libvirtd_is_not_believed(
    start: Start, pid_file: str, tmp_path: Path
) -> None:
    start("bash")
    assert read_daemon(pid_file) is None
    for text in ("", "nonsense", "-1", "0", str(2**30), "9" * 100):
        (tmp_path / "pid").write_text(text)
        assert read_daemon(pid_file) is None
    assert read_daemon(str(tmp_path / "absent")) is None


def test_a_replaced_program_is_still_the_one_that_runs(
    start: Start, pid_file: str, tmp_path: Path
) -> None:
    process = start()
    (tmp_path / "libvirtd").unlink()
    daemon = read_daemon(pid_file)
    assert daemon is not None
    assert kill_daemon(daemon) == ""
    process.wait(timeout=5)


def test_kills_are_counted_and_follow_a_restart(start: Start, pid_file: str) -> None:
    start()
    hung = HungDaemon(read_daemon(pid_file))
    for _ in range(MAX_KILLS):
        process = start()
        assert "any more" in hung.kill() or hung.kill() != ""
        hung.reread()
        assert hung.kill() == ""
        process.wait(timeout=5)
    start()
    hung.reread()
    assert "times already" in hung.kill()
    assert "not known" in HungDaemon(None).kill()


def test_what_is_no_system_unit_is_not_restarted(start: Start, pid_file: str) -> None:
    process = start()
    daemon = read_daemon(pid_file)
    assert daemon is not None
    assert unit_of(daemon) == ""
    HungDaemon(daemon).restart()
    assert process.poll() is None


def test_processes_are_told_apart() -> None:
    me = myself()
    assert me.alive()
    assert not ProcessId(pid=me.pid, start_ticks=me.start_ticks + 1).alive()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process = identify(child.pid)
    assert process is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.alive(), "a zombie runs nothing"
    child.wait()
    assert identify(child.pid) is None
