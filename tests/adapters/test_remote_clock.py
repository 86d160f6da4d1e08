"""The clock of another host by ssh. There is no sshd in a light lab, so `ssh` is a program of the
test's, which runs what it is told on this machine, with a `date` that is fast or slow."""

import os
import time
from pathlib import Path

import pytest

from hostagent.adapters.libvirt import remote_clock

S = 1_000_000_000
SSH = """#!/bin/sh
echo "$@" >> {directory}/called
for last; do :; done
{before}
PATH={directory}/other:$PATH exec /bin/sh -c "$last"
"""
DATE = """#!/bin/sh
exec /bin/date -d '{ahead} seconds' "$@"
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with `ssh` in it, before all others."""
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def ssh(directory: Path, date: str, before: str = "") -> None:
    program(directory / "other" / "date", date)
    program(directory / "ssh", SSH.format(directory=directory, before=before))


@pytest.mark.parametrize("ahead_s", [-90, 0, 3])
def test_the_difference_is_measured_with_its_uncertainty(elsewhere: Path, ahead_s: int) -> None:
    ssh(elsewhere, DATE.format(ahead=ahead_s))
    found = remote_clock.read("qemu+ssh://root@h2:2222/system?keyfile=/k&no_verify=1", 5 * S)
    assert found is not None
    assert abs(found.ahead_ns - ahead_s * S) <= found.uncertainty_ns
    assert found.uncertainty_ns < S
    called = (elsewhere / "called").read_text()
    assert "BatchMode=yes -p 2222 -l root -i /k -o StrictHostKeyChecking=no -- h2 " in called


@pytest.mark.parametrize(
    ("date", "before"),
    [
        ("#!/bin/sh\necho 1700000000.%N\n", ""),
        ("#!/bin/sh\necho rubbish\n", ""),
        ("#!/bin/sh\nexit 1\n", "exit 255"),
        ("#!/bin/sh\nexit 1\n", "exec sleep 60"),
    ],
)
def test_what_can_not_be_read_is_not_known(elsewhere: Path, date: str, before: str) -> None:
    ssh(elsewhere, date, before)
    began = time.monotonic()
    assert remote_clock.read("qemu+ssh://h2/system", S) is None
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "uri", ["qemu:///system", "qemu+tcp://h2/system", "qemu+tls://h2/system", "qemu+ssh:///system"]
)
def test_other_transports_lead_to_no_clock(elsewhere: Path, uri: str) -> None:
    ssh(elsewhere, DATE.format(ahead=0))
    assert remote_clock.read(uri, S) is None
    assert not (elsewhere / "called").exists()


def test_without_ssh_there_is_no_clock() -> None:
    assert remote_clock.read("qemu+ssh://h2/system?command=/nonexistent/ssh", S) is None
