"""What the update's command may do: fail, die, run on, fork, read, write, and look around.

Layer: tests. When guests ran again is judged by witnesses, what the command did by its own notes.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import Witness
from tests.run.commands import (
    last_resume_ns,
    nobody_stopped,
    notes,
    only_pause,
    script,
    start_words,
    table_words,
)
from tests.run.tool import Agent, wait_for

Witnesses = dict[str, Witness]

BUDGET = ("--budget", "2s", "--suspend-limit", "900ms")
DEADLINE_S = 1.0
"""Of this budget, half is kept as the reserve."""

ALONE = ("--guest", "g1", "--guest", "g3")
"""Where it does not matter which guests: one with an agent, one without."""

SLOW_S = 0.5
"""How much later than promised this busy machine may be."""


def test_a_failed_update_is_rolled_back_once_guests_run(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    update = script(tmp_path, "update", "sleep 0.5", "note end", "exit 3")
    rollback = script(tmp_path, "rollback", "note began")
    verify = script(tmp_path, "verify", "note began")
    ended = agent.run("run", "--rollback", rollback, "--verify", verify, "--", update)
    assert ended.code == 1, ended
    assert ended.document["result"] == "update-failed"
    assert ended.document["update"]["exit_code"] == 3
    assert notes(update)["end"] <= last_resume_ns(witnesses) < notes(rollback)["began"]
    assert not notes(verify)


def test_a_failed_verify_is_rolled_back_too(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    verify = script(tmp_path, "verify", "note began", "sleep 0.3", "note end", "exit 9")
    rollback = script(tmp_path, "rollback", "note began", "exit 4")
    ended = agent.run("run", *ALONE, "--verify", verify, "--rollback", rollback, "--", "true")
    assert ended.code == 1, ended
    assert ended.document["result"] == "update-failed"
    assert ended.document["update"]["exit_code"] == 0
    assert "exit 4" in ended.document["reason"]  # neither updated nor rolled back comes first
    chosen = {name: witnesses[name] for name in ("g1", "g3")}
    assert last_resume_ns(chosen) < notes(verify)["began"]
    assert notes(verify)["end"] < notes(rollback)["began"]


def test_a_command_that_dies_of_a_signal(agent: Agent, witnesses: Witnesses) -> None:
    ended = agent.run("run", *ALONE, "--", "sh", "-c", "kill -SEGV $$")
    assert ended.code == 1, ended
    assert ended.document["result"] == "update-failed"
    assert ended.document["update"]["exit_code"] == -signal.SIGSEGV
    assert "signal 11" in ended.document["reason"]
    assert only_pause(witnesses["g1"])


def test_a_failed_prepare_pauses_nobody(agent: Agent, witnesses: Witnesses, tmp_path: Path) -> None:
    update = script(tmp_path, "update", "note ran")
    rollback = script(tmp_path, "rollback", "note ran")
    prepare = script(tmp_path, "prepare", "exit 6")
    ended = agent.run("run", "--prepare", prepare, "--rollback", rollback, "--", update)
    assert ended.code == 4, ended
    assert ended.document["result"] == "refused"
    assert ended.document["changed"] is True
    assert "exit 6" in ended.document["reason"]
    assert nobody_stopped(witnesses)
    assert not notes(update)
    assert not notes(rollback)


def _within_the_deadline(witness: Witness) -> None:
    pause = only_pause(witness)
    assert pause.duration_ns is not None
    assert pause.duration_ns < (DEADLINE_S + SLOW_S) * 1e9


def test_guests_do_not_wait_for_a_command_past_the_budget(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    update = script(tmp_path, "update", "sleep 2.5", "note end")
    ended = agent.run("run", *BUDGET, "--", update)
    assert ended.code == 3, ended
    assert ended.document["result"] == "budget-exceeded"
    assert ended.document["update"]["exit_code"] == 0
    assert ended.document["update"]["duration_s"] >= 2.5
    assert last_resume_ns(witnesses) < notes(update)["end"]
    for witness in witnesses.values():
        _within_the_deadline(witness)


def test_a_late_failure_is_rolled_back_after_its_end_only(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    update = script(tmp_path, "update", "sleep 2", "note end", "exit 5")
    rollback = script(tmp_path, "rollback", "note began")
    ended = agent.run("run", *ALONE, *BUDGET, "--rollback", rollback, "--", update)
    assert ended.code == 1, ended
    assert ended.document["result"] == "update-failed"
    assert ended.document["update"]["exit_code"] == 5
    assert notes(update)["end"] < notes(rollback)["began"]
    _within_the_deadline(witnesses["g1"])


def test_kill_after_ends_a_command_that_ignores_it_too(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    """SIGTERM half a second after the deadline, SIGKILL 5 s later, also to its children."""
    child = "(trap '' TERM; sleep 60) &"
    lines = ("trap 'note term' TERM", child, "while :; do sleep 0.2; done")
    update = script(tmp_path, "update", *lines)
    ended = agent.run("run", *ALONE, *BUDGET, "--kill-after", "500ms", "--", update)
    assert ended.code == 1, ended
    assert ended.document["update"]["exit_code"] == -signal.SIGKILL
    chosen = {name: witnesses[name] for name in ("g1", "g3")}
    waited_s = (notes(update)["term"] - last_resume_ns(chosen)) / 1e9
    assert 0.3 < waited_s < 0.5 + SLOW_S
    _within_the_deadline(witnesses["g1"])


def test_a_child_that_stays_keeps_nobody_waiting(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    """It holds the command's output open; the command itself has ended."""
    child = tmp_path / "child"
    shell = f"sleep 60 & echo $! >{child}; sleep 0.5"
    with (tmp_path / "out").open("w") as out:
        words = agent.command("run", *ALONE, "--", "sh", "-c", shell)
        process = start_words(agent, words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            assert process.wait(10) == 0
        finally:
            os.kill(int(child.read_text()), signal.SIGKILL)
    _within_the_deadline(witnesses["g1"])


LOOK_AROUND = """
import json, os, subprocess, sys
environment = open("/proc/self/environ", "rb").read().decode().split("\\0")
words = ["grep", "SigIgn", "/proc/self/status"]
ignored = subprocess.run(words, restore_signals=True, capture_output=True, text=True).stdout
status = dict(l.split(":", 1) for l in open("/proc/self/status").read().splitlines())
fds = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in ("0", "1", "2")}
open_fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
print("stdin:", repr(sys.stdin.read()), file=sys.stderr)
json.dump({
    "fds": fds, "open": open_fds, "cwd": os.getcwd(), "env": sorted(environment),
    "session": os.getsid(0), "group": os.getpgid(0), "pid": os.getpid(),
    "blocked": status["SigBlk"].strip(),
    "ignored": ignored, "umask": status["Umask"].strip(), "arguments": sys.argv[1:],
}, open(sys.argv[1], "w"))
"""


def test_what_a_command_finds_around_it(agent: Agent, witnesses: Witnesses, tmp_path: Path) -> None:
    """The caller's directory, environment, mask and signals; a session of its own; no descriptor
    of ours; and an input that has ended although the caller's has not."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    for name in [name for name in agent.env if name.startswith(("LC_", "LANG"))]:
        del agent.env[name]  # in this locale Python adds to its own environment
    agent.env["CALLER"] = "ümläut = and more"
    odd = "a b;$(c)\n"
    words = agent.command(
        "run", *ALONE, "--", sys.executable, "-c", LOOK_AROUND, str(there), odd, "--budget"
    )
    process = start_words(
        agent,
        words,
        cwd=here,
        umask=0o027,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    ended = agent.wait(process)
    assert ended.code == 0, ended
    seen: dict[str, Any] = json.loads(there.read_text())
    look = ["grep", "SigIgn", "/proc/self/status"]
    ignored = subprocess.run(look, capture_output=True, text=True, check=True).stdout
    assert seen["fds"]["0"] == "/dev/null"
    assert "stdin: ''" in ended.stderr
    assert seen["open"] in ([0, 1, 2], [0, 1, 2, 3])  # 3: its own look at the directory
    assert seen["cwd"] == str(here)
    assert [pair for pair in seen["env"] if pair] == sorted(
        f"{name}={value}" for name, value in agent.env.items()
    )
    assert seen["session"] == seen["group"] == seen["pid"] == ended.document["update"]["pid"]
    assert seen["umask"] == "0027"
    assert seen["arguments"] == [str(there), odd, "--budget"]
    assert int(seen["blocked"], 16) == 0
    assert seen["ignored"] == ignored
    _within_the_deadline(witnesses["g1"])


def test_streams_that_the_caller_has_closed(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    """Their numbers must not go to our connections: the command would write into libvirt's."""
    there = tmp_path / "there"
    shell = f"echo output; readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 >{there}"
    words = table_words(agent, "run", *ALONE, "--", "sh", "-c", shell)
    process = start_words(agent, words, preexec_fn=lambda: os.closerange(0, 3))
    assert process.wait(20) == 0
    assert there.read_text().splitlines() == ["/dev/null", str(there), "/dev/null"]
    _within_the_deadline(witnesses["g1"])


@pytest.mark.parametrize("form", ["json", "table"])
def test_ten_mebibytes_of_output_go_through(agent: Agent, witnesses: Witnesses, form: str) -> None:
    size = 10 * 1024 * 1024
    shell = f"head -c {size} /dev/zero"
    words = ("run", *ALONE, "--", "sh", "-c", shell)
    command = agent.command(*words) if form == "json" else table_words(agent, *words)
    process = start_words(
        agent,
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    ended = agent.wait(process)
    assert ended.code == 0, ended.code
    stream = ended.stderr if form == "json" else ended.stdout
    assert stream.count("\0") == size
    if form == "json":
        assert ended.document["result"] == "done"
    _within_the_deadline(witnesses["g1"])


def test_a_reader_that_stops_reading_stops_no_guest(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    """The command hangs in its write, and so does hostagent in its report; guests run."""
    update = script(tmp_path, "update", "head -c 1000000 /dev/zero", "note end")
    words = table_words(agent, "run", *BUDGET, "--", update)
    process = start_words(
        agent,
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for witness in witnesses.values():
        witness.wait_for("RESUME")
        _within_the_deadline(witness)
    assert "end" not in notes(update)
    assert process.poll() is None
    ended = agent.wait(process)
    assert ended.code == 3, ended.stderr
    assert "budget-exceeded" in ended.stdout


def test_a_reader_that_has_gone(agent: Agent, witnesses: Witnesses) -> None:
    words = table_words(agent, "run", *ALONE, "--", "sh", "-c", "sleep 0.3", "no text: \udcff")
    process = start_words(
        agent,
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(20) == 1
    _within_the_deadline(witnesses["g1"])
    wait_for(lambda: agent.rows()[-1]["row"] == "ended", 1, "the end of the run")
