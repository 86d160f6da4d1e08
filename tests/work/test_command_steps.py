"""The command steps with real processes behind a real gate."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hostagent.adapters.host.command import HostCommand
from hostagent.core.errors import RefusedError
from hostagent.core.journal import Outcome
from hostagent.core.plan import Step, Verb
from hostagent.core.ports import CommandId
from hostagent.work.fence import Fence
from hostagent.work.steps.command import Apply, Cancel, Commands, Launch, RunCommand, Signal

LIMIT_S = 10.0


class Bench:
    """The steps of one run's commands."""

    def __init__(self, output: int | None = None) -> None:
        self.fence = Fence()
        self.commands = Commands(HostCommand(output), self.fence)

    def launch(self, *argv: str) -> Outcome:
        step = Step(key="launch", verb=Verb.LAUNCH, args={"argv": list(argv)})
        return Launch(self.commands).do(step)

    def apply(self, before_ns: int | None = None) -> Outcome:
        step = Step(key="apply", verb=Verb.APPLY, args={"before_ns": before_ns})
        return Apply(self.commands).do(step)

    def begin_apply(self) -> Callable[[], Outcome]:
        """Apply in a thread of its own; call the result for its outcome."""
        outcomes: list[Outcome] = []
        thread = threading.Thread(target=lambda: outcomes.append(self.apply()), daemon=True)
        thread.start()

        def ended() -> Outcome:
            thread.join(LIMIT_S)
            return outcomes[0]

        return ended

    def cancel(self) -> str:
        return Cancel(self.commands).do(Step(key="cancel", verb=Verb.CANCEL)).result

    def signal(self, name: str) -> str:
        args = {"command": "apply", "signal": name}
        return Signal(self.commands).do(Step(key="s", verb=Verb.SIGNAL, args=args)).result


@pytest.fixture
def bench() -> Bench:
    return Bench()


def _script(directory: Path, text: str) -> str:
    path = directory / "script"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def _until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


class TestEnds:
    def test_exits_3(self, bench: Bench, tmp_path: Path) -> None:
        bench.launch(_script(tmp_path, "exit 3"))
        assert bench.apply().figures["exit_code"] == 3

    def test_dies_of_a_signal(self, bench: Bench, tmp_path: Path) -> None:
        bench.launch(_script(tmp_path, "kill -KILL $$"))
        assert bench.apply().figures["exit_code"] == -9

    def test_is_missing(self, bench: Bench) -> None:
        bench.launch("/nonexistent/halab-command")
        outcome = bench.apply()
        assert outcome.figures["exit_code"] == 127
        assert "No such file" in outcome.reason

    def test_is_not_executable(self, bench: Bench, tmp_path: Path) -> None:
        path = tmp_path / "plain"
        path.write_text("text")
        bench.launch(str(path))
        outcome = bench.apply()
        assert outcome.figures["exit_code"] == 126
        assert "Permission denied" in outcome.reason

    def test_a_child_that_stays_and_keeps_the_output_open_holds_nobody_up(
        self, tmp_path: Path
    ) -> None:
        """Its exit counts, not the end of its output."""
        pid_file = tmp_path / "pid"
        read, write = os.pipe()
        bench = Bench(output=write)
        try:
            bench.launch(_script(tmp_path, f"sleep 30 & echo $! >{pid_file}; echo said"))
            began = time.monotonic()
            assert bench.apply().figures["exit_code"] == 0
            assert time.monotonic() - began < 10
            assert os.read(read, 100) == b"said\n"
        finally:
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
            os.close(read)
            os.close(write)

    def test_reads_nothing_from_its_input(self, bench: Bench, tmp_path: Path) -> None:
        out = tmp_path / "out"
        bench.launch(_script(tmp_path, f"cat >{out}"))
        assert bench.apply().figures["exit_code"] == 0
        assert out.read_bytes() == b""

    def test_inherits_no_descriptor_of_ours(self, bench: Bench, tmp_path: Path) -> None:
        out = tmp_path / "out"
        with (tmp_path / "lock").open("w") as ours:
            os.set_inheritable(ours.fileno(), False)
            bench.launch(_script(tmp_path, f"readlink /proc/self/fd/* >{out}"))
            bench.apply()
        assert str(tmp_path / "lock") not in out.read_text()
        assert "pipe:" not in out.read_text()

    def test_has_a_session_of_its_own_and_our_directory(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HALAB_WORD", "kept")
        bench.launch(
            _script(tmp_path, 'echo "$HALAB_WORD $(pwd) $(cut -d" " -f6 /proc/$$/stat) $$" >out')
        )
        bench.apply()
        word, place, session, pid = (tmp_path / "out").read_text().split()
        assert (word, place, session) == ("kept", str(tmp_path), pid)


class TestGate:
    def test_nothing_runs_before_apply(self, bench: Bench, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        outcome = bench.launch(_script(tmp_path, f"touch {mark}"))
        assert outcome.figures["pid"] == bench.commands.ids["apply"].pid
        time.sleep(0.2)
        assert not mark.exists()
        bench.apply()
        assert mark.exists()

    def test_the_command_is_the_process_that_was_launched(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        outcome = bench.launch(_script(tmp_path, f"echo $$ >{out}"))
        bench.apply()
        assert int(out.read_text()) == outcome.figures["pid"]

    def test_cancel_ends_what_waits_without_running_it(self, bench: Bench, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        bench.launch(_script(tmp_path, f"touch {mark}"))
        assert bench.cancel() == "cancelled"
        assert not bench.commands.port.alive(bench.commands.ids["apply"])
        with pytest.raises(RefusedError, match="was stopped"):
            bench.apply()
        assert not mark.exists()

    def test_cancel_leaves_alone_what_was_released(self, bench: Bench, tmp_path: Path) -> None:
        bench.launch(_script(tmp_path, "sleep 0.5; exit 7"))
        ended = bench.begin_apply()
        _until(lambda: bench.commands.released)
        assert bench.cancel() == "released"
        assert ended().figures["exit_code"] == 7

    def test_nothing_is_released_after_the_budget(self, bench: Bench, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        bench.launch(_script(tmp_path, f"touch {mark}"))
        with pytest.raises(RefusedError):
            bench.apply(before_ns=time.monotonic_ns())
        assert bench.cancel() == "cancelled"
        assert not mark.exists()

    def test_a_process_that_died_at_its_gate_was_not_begun(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        bench.launch(_script(tmp_path, "true"))
        assert bench.signal("SIGKILL") == "sent"
        _until(lambda: not bench.commands.port.alive(bench.commands.ids["apply"]))
        with pytest.raises(RefusedError, match="gate is gone"):
            bench.apply()

    def test_nothing_runs_when_the_owner_is_killed(self, tmp_path: Path) -> None:
        mark, pid_file = tmp_path / "mark", tmp_path / "pid"
        owner = (
            "import sys, time; from hostagent.adapters.host.command import HostCommand\n"
            "command = HostCommand().launch('apply', ['touch', sys.argv[1]])\n"
            "open(sys.argv[2], 'w').write(f'{command.pid} {command.start_ticks}\\n')\n"
            "time.sleep(60)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", owner, str(mark), str(pid_file)])
        _until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
        pid, ticks = map(int, pid_file.read_text().split())
        process.kill()
        process.wait()
        waiting = CommandId(pid=pid, start_ticks=ticks)
        _until(lambda: not HostCommand().alive(waiting))
        assert not mark.exists()


class TestSignals:
    def test_reach_the_whole_group(self, bench: Bench, tmp_path: Path) -> None:
        pid_file = tmp_path / "pid"
        bench.launch(
            _script(
                tmp_path, f"sleep 60 & echo $! >{pid_file}.new; mv {pid_file}.new {pid_file}; wait"
            )
        )
        ended = bench.begin_apply()
        _until(pid_file.exists)
        assert bench.signal("SIGTERM") == "sent"
        assert ended().figures["exit_code"] == -15
        child = int(pid_file.read_text())
        _until(lambda: not _runs(child))

    def test_one_that_is_gone_is_said_to_be(self, bench: Bench, tmp_path: Path) -> None:
        bench.launch(_script(tmp_path, "true"))
        bench.apply()
        assert bench.signal("SIGTERM") == "gone"

    def test_nothing_was_launched_by_a_process_that_took_over(self, bench: Bench) -> None:
        assert bench.signal("SIGTERM") == "gone"


def _runs(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_prepare_verify_and_rollback_run_at_once(bench: Bench, tmp_path: Path) -> None:
    args = {"argv": [_script(tmp_path, "exit 4")]}
    step = Step(key="verify", verb=Verb.VERIFY, args=args)
    assert RunCommand(bench.commands).do(step).figures["exit_code"] == 4


@pytest.mark.parametrize(
    ("worker", "result"), [(Launch, "not-begun"), (Apply, "lost"), (RunCommand, "lost")]
)
def test_what_recovery_sees(bench: Bench, worker: type[Launch], result: str) -> None:
    step = Step(key="k", verb=Verb.LAUNCH)
    assert worker(bench.commands).look(step).result == result


def test_a_cancel_that_a_crash_cut_off_is_unknown(bench: Bench) -> None:
    assert Cancel(bench.commands).look(Step(key="c", verb=Verb.CANCEL)).result == "unknown"
