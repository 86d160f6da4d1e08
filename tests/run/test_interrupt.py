"""Ctrl-C, SIGTERM, a closed terminal, an ended session: guests first, then the command.

Layer: tests. The command's own trap and QEMU's RESUME events carry the same clock, so their order
is known without asking hostagent.
"""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Witness
from tests.run.commands import (
    error_of,
    last_resume_ns,
    nobody_stopped,
    notes,
    only_pause,
    script,
    start_words,
    table_words,
    wait_noted,
)
from tests.run.tool import Agent, wait_for

Witnesses = dict[str, Witness]

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
GRACE_S = 5.0
"""How long a signalled command may take before the run ends without it."""

SLOW_S = 1.0
"""How much later than promised this busy machine may be."""


def trapping(name: str, *then: str) -> tuple[str, ...]:
    """Lines of a script that notes this signal, does something more, and else goes on."""
    return (
        f"trap 'note {name}; {'; '.join(then)}' {name}",
        "note began",
        "while :; do sleep 0.1; done",
    )


@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
def test_guests_run_before_the_command_hears_of_a_signal(
    agent: Agent, witnesses: Witnesses, tmp_path: Path, number: signal.Signals
) -> None:
    name = number.name.removeprefix("SIG")
    update = script(tmp_path, "update", *trapping(name, "exit 0"))
    verify = script(tmp_path, "verify", "note ran")
    process = agent.start("run", "--verify", verify, "--", update)
    wait_noted(update, "began")
    process.send_signal(number)
    ended = agent.wait(process)
    assert ended.code == STATUS[number], ended
    assert ended.document["result"] == "interrupted"
    assert number.name in ended.document["reason"]
    assert ended.document["update"]["exit_code"] == 0
    assert last_resume_ns(witnesses) <= notes(update)[name]
    assert not notes(verify)


def test_a_signal_while_prepare_runs(agent: Agent, witnesses: Witnesses, tmp_path: Path) -> None:
    prepare = script(tmp_path, "prepare", *trapping("TERM", "exit 0"))
    update = script(tmp_path, "update", "note ran")
    process = agent.start("run", "--prepare", prepare, "--", update)
    wait_noted(prepare, "began")
    process.send_signal(signal.SIGTERM)
    ended = agent.wait(process)
    assert ended.code == 143, ended
    assert ended.document["changed"] is True
    assert "TERM" in notes(prepare)
    assert nobody_stopped(witnesses)
    assert not notes(update)


def test_a_signal_while_verify_runs(agent: Agent, witnesses: Witnesses, tmp_path: Path) -> None:
    """Verify was stopped, not failed: nothing says that the update is bad."""
    verify = script(tmp_path, "verify", *trapping("INT", "exit 1"))
    rollback = script(tmp_path, "rollback", "note ran")
    process = agent.start("run", "--verify", verify, "--rollback", rollback, "--", "true")
    wait_noted(verify, "began")
    process.send_signal(signal.SIGINT)
    ended = agent.wait(process)
    assert ended.code == 130, ended
    assert ended.document["result"] == "interrupted"
    assert last_resume_ns(witnesses) < notes(verify)["INT"]
    assert not notes(rollback)


def test_a_command_that_ignores_signals_outlives_the_run_and_bars_the_next(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    update = script(tmp_path, "update", "trap 'note INT' INT", *trapping("TERM", ":"))
    rollback = script(tmp_path, "rollback", "note ran")
    process = agent.start("run", "--rollback", rollback, "--", update)
    wait_noted(update, "began")
    process.send_signal(signal.SIGTERM)
    first_ns = wait_noted(update, "TERM")
    process.send_signal(signal.SIGINT)  # a second one is passed on too, and changes nothing else
    second_ns = wait_noted(update, "INT")
    # The command still holds the pipes, so it is not their end that shows the run's.
    wait_for(lambda: process.poll() is not None, GRACE_S + SLOW_S, "the end of the run")
    living = agent.rows()
    pid = next(row["is"]["figures"]["pid"] for row in living if row["is"].get("key") == "launch")
    try:
        assert process.returncode == 143
        assert last_resume_ns(witnesses) <= first_ns < second_ns
        assert not notes(rollback)
        next_run = agent.run("run", "--", "true")
        assert next_run.code == 4
        assert str(pid) in error_of(next_run)["message"]
        beside = agent.run("run", "--ignore-running", "--", "true")
        assert beside.code == 0, beside
    finally:
        os.killpg(pid, signal.SIGKILL)
    ended = agent.wait(process)
    assert ended.document["result"] == "interrupted"
    assert ended.document["update"]["pid"] == pid
    assert str(pid) in ended.document["reason"] + str(ended.document["warnings"])
    assert agent.run("run", "--guest", "g1", "--", "true").code == 0


def test_a_prepare_that_outlives_its_run_bars_the_next(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    prepare = script(tmp_path, "prepare", "note began", "exec sleep 60")
    process = agent.start("run", "--prepare", prepare, "--", "true")
    wait_noted(prepare, "began")
    wait_for(lambda: _heard_commands(agent) != [], 5, "the row with the process of prepare")
    (pid,) = _heard_commands(agent)
    try:
        process.kill()
        process.wait()
        assert str(pid) in error_of(agent.run("run", "--", "true"))["message"]
    finally:
        os.killpg(pid, signal.SIGKILL)
    assert nobody_stopped(witnesses)
    assert agent.run("run", "--guest", "g1", "--", "true").code == 0


def _heard_commands(agent: Agent) -> list[int]:
    heard = [row["is"] for row in agent.rows() if row["row"] == "heard"]
    return [row["value"]["pid"] for row in heard if row["what"] == "command"]


def test_what_the_caller_ignores_is_ignored(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    """nohup: the end of the terminal is not to end the update. Ctrl-Z never freezes a run."""
    update = script(tmp_path, "update", "note began", "sleep 0.7", "note end")
    process = agent.start(
        "run", "--", update, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    wait_noted(update, "began")
    for number in (signal.SIGHUP, signal.SIGTSTP, signal.SIGTTOU, signal.SIGTTIN):
        process.send_signal(number)
    ended = agent.wait(process)
    assert ended.code == 0, ended
    assert "end" in notes(update)
    assert last_resume_ns(witnesses) >= notes(update)["end"]


def test_a_closed_terminal(agent: Agent, witnesses: Witnesses, tmp_path: Path) -> None:
    """The other end of the terminal goes away: SIGHUP, and output that fails from then on."""
    update = script(tmp_path, "update", *trapping("HUP", "exit 0"))
    near, far = pty.openpty()
    process = start_words(
        agent,
        table_words(agent, "run", "--", update),
        stdin=far,
        stdout=far,
        stderr=far,
        preexec_fn=lambda: _take_terminal(far),
    )
    os.close(far)
    wait_noted(update, "began")
    os.close(near)
    assert process.wait(20) == 129
    assert last_resume_ns(witnesses) <= notes(update)["HUP"]
    assert agent.rows()[-1]["row"] == "ended"


def _take_terminal(fd: int) -> None:
    """Become the leader of a session that this terminal controls, as a login does."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


LOGIN = """
import fcntl, os, subprocess, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
child = subprocess.Popen(sys.argv[2:], process_group=0)
os.tcsetpgrp(0, child.pid)
open(sys.argv[1], "w").write(str(child.pid))
child.wait()
"""
"""A login shell with one job in the foreground."""


def test_an_ended_session(agent: Agent, witnesses: Witnesses, tmp_path: Path) -> None:
    """The session's leader is killed, as when a connection breaks: the kernel sends SIGHUP."""
    update = script(tmp_path, "update", *trapping("HUP", "exit 0"))
    near, far = pty.openpty()
    words = table_words(agent, "run", "--", update)
    leader = start_words(
        agent,
        [sys.executable, "-c", LOGIN, str(tmp_path / "pid"), *words],
        stdin=far,
        stdout=far,
        stderr=far,
    )
    os.close(far)
    try:
        wait_noted(update, "began")
        leader.kill()
        wait_noted(update, "HUP")
        assert last_resume_ns(witnesses) <= notes(update)["HUP"]
        wait_for(_ended(int((tmp_path / "pid").read_text())), 10, "the end of the run")
    finally:
        os.close(near)
    assert agent.rows()[-1]["row"] == "ended"
    assert agent.rows()[-1]["is"]["result"] == "interrupted"


def _ended(pid: int) -> Callable[[], bool]:
    return lambda: not Path(f"/proc/{pid}").exists()


def test_a_terminal_that_stops_taking_output(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    """Ctrl-S, or a dead connection: progress lines have nowhere to go, and nobody waits for it."""
    update = script(tmp_path, "update", "note began", "sleep 0.5", "note end")
    near, far = pty.openpty()
    process = start_words(
        agent,
        agent.command("run", "--", update),
        stdin=far,
        stdout=subprocess.PIPE,
        stderr=far,
        preexec_fn=lambda: _fill(far),
    )
    os.close(far)
    try:
        assert process.wait(20) == 0
    finally:
        os.close(near)
    assert last_resume_ns(witnesses) >= notes(update)["end"]
    for witness in witnesses.values():
        assert (only_pause(witness).duration_ns or 0) < (0.5 + SLOW_S) * 1e9


def _fill(fd: int) -> None:
    """Write to a terminal that nobody reads until it takes no more."""
    os.set_blocking(fd, False)
    try:
        while True:
            os.write(fd, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(fd, True)
