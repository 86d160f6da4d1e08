"""The lab's command: it makes labs, says what is there, and leaves nothing, even when killed.

These labs are made by the command itself, in processes that are killed for real.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab import Lab, LabError, Tier
from lab.probe import reasons_against
from lab.processes import all_processes, identify, lives_in, wait_until
from lab.state import LabDirectory

LAB = Path(__file__).parent.parent.parent / "lab" / "lab"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def name() -> Iterator[str]:
    """A lab name of this test's own; whatever has it is taken away at the end."""
    chosen = f"c{os.getpid()}"
    yield chosen
    Lab.remove(chosen)


@pytest.fixture
def run(name: str) -> Run:
    """run("status") calls the command on the lab of this test."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(LAB), *words],
            env=os.environ | {"HALAB_NAME": name},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return call


def nothing_left(name: str) -> bool:
    """Neither directory nor process of that lab."""
    path = LabDirectory(name).path
    homes = [path / f"h{number}" for number in (1, 2)]
    living = [p for p in all_processes() if any(lives_in(p, home) for home in homes)]
    return not path.exists() and not living


needs_light = pytest.mark.skipif(
    bool(reasons_against(Tier.LIGHT)) and os.environ.get("CI") != "true",
    reason="; ".join(reasons_against(Tier.LIGHT)),
)


@needs_light
@pytest.mark.light
def test_a_lab_is_made_used_and_taken_away(run: Run, name: str) -> None:
    made = run("up", "--guests", "2")
    assert made.returncode == 0, made.stderr
    assert made.stdout.split()[0] == "h1"

    shown = json.loads(run("status", "-o", "json").stdout)
    assert [(row["guest"], row["state"]) for row in shown["guests"]] == [
        ("g1", "running"),
        ("g2", "running"),
    ]
    listed = run("exec", "h1", "--", "virsh", "list", "--name")
    assert sorted(listed.stdout.split()) == ["g1", "g2"]
    assert run("exec", "h1", "--", "sh", "-c", "exit 3").returncode == 3

    again = run("up")
    assert again.returncode == 1
    assert "is up already" in again.stderr
    assert run("exec", "h1", "--", "virsh", "domstate", "g1").stdout.strip() == "running"

    gone = run("down")
    assert gone.returncode == 0, gone.stderr
    assert nothing_left(name)
    assert run("down").stdout == f"there is no lab {name}\n"
    assert run("status").returncode == 1


@needs_light
@pytest.mark.light
@pytest.mark.parametrize("after_s", [0.3, 1.0, 2.5, 4.0])
def test_down_after_a_killed_up_leaves_nothing(run: Run, name: str, after_s: float) -> None:
    up = subprocess.Popen(
        [str(LAB), "up", "--guests", "2"],
        env=os.environ | {"HALAB_NAME": name},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # A fast machine is up by then: what is taken away is an ordinary lab.
    with suppress(subprocess.TimeoutExpired):
        up.wait(timeout=after_s)
    up.kill()
    up.wait()
    down = run("down")
    assert down.returncode == 0, down.stderr
    assert nothing_left(name)


@needs_light
@pytest.mark.light
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_takes_itself_away(name: str, number: signal.Signals) -> None:
    up = subprocess.Popen(
        [str(LAB), "up", "--guests", "2"],
        env=os.environ | {"HALAB_NAME": name},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pid_file = LabDirectory(name).path / "h1" / "r" / "libvirt" / "qemu" / "run" / "g1.pid"
    wait_until(pid_file.exists, 60, "first guest's pid file")
    up.send_signal(number)
    assert up.wait(timeout=30) != 0
    assert nothing_left(name)


@needs_light
@pytest.mark.light
def test_up_takes_away_what_a_killed_up_left(run: Run, name: str) -> None:
    up = subprocess.Popen(
        [str(LAB), "up", "--guests", "1"],
        env=os.environ | {"HALAB_NAME": name},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pid_file = LabDirectory(name).path / "h1" / "r" / "libvirt" / "libvirtd.pid"
    wait_until(pid_file.exists, 60, "libvirtd's pid file")
    up.kill()
    up.wait()
    old = identify(int(pid_file.read_text()))
    again = run("up", "--guests", "1")
    assert again.returncode == 0, again.stderr
    assert "left over from a lab that was killed" in again.stderr
    assert old is None or not old.alive()


@needs_light
@pytest.mark.light
def test_down_ends_frozen_processes_too(run: Run, name: str) -> None:
    assert run("up", "--guests", "1").returncode == 0
    host = Lab.attach(name).hosts[0]
    host.guest("g1").freeze()
    host.freeze()
    assert run("down").returncode == 0
    assert nothing_left(name)


@needs_light
@pytest.mark.light
def test_a_lab_of_a_living_session_is_not_taken_away(run: Run, name: str) -> None:
    with Lab.up(name, guests=1) as lab:
        for words in (("down",), ("up",)):
            refused = run(*words)
            assert refused.returncode == 1
            assert "in use by another process" in refused.stderr
        lab.guests[0].wait_counting()


@needs_light
@pytest.mark.light
def test_second_up_prints_how_long_it_took(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    made = run("up", "--guests", "4")
    assert made.returncode == 0, made.stderr
    with capsys.disabled():
        print(f"\n[up of the light tier with 4 guests: {time.monotonic() - began:.1f} s]")


def test_probe_says_can_or_cannot_and_why() -> None:
    done = subprocess.run(
        [str(LAB), "probe", "-o", "json"], capture_output=True, text=True, check=True, timeout=120
    )
    shown = json.loads(done.stdout)
    assert {row["can"] for row in shown["abilities"]} <= {"can", "cannot"}
    assert all(row["why"] for row in shown["abilities"])
    assert set(shown["reasons_against"]) == {"light", "full"}


def test_a_name_that_would_make_long_paths_is_refused(run: Run) -> None:
    done = subprocess.run(
        [str(LAB), "up", "--name", "a-name-that-is-much-too-long"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "no lab name" in done.stderr


def test_more_guests_than_a_lab_may_have_are_refused() -> None:
    with pytest.raises(LabError, match="at most 20 guests"):
        Lab.up("toomany", hosts=3, guests=7)


def test_a_killed_test_session_gives_its_lock_back(name: str) -> None:
    holder = subprocess.Popen(
        [
            str(LAB.parent.parent / ".venv" / "bin" / "python"),
            "-c",
            "import sys, time; from lab.state import LabDirectory;"
            f"print(LabDirectory({name!r}).lock(), flush=True); time.sleep(60)",
        ],
        cwd=LAB.parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "True\n"
    assert not LabDirectory(name).lock()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    directory = LabDirectory(name)
    assert directory.lock()
    directory.unlock()
    assert not directory.path.exists()
