"""`hostagent status` as a person or a script uses it."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.host import Host
from lab.processes import wait_until
from tests.adapters.kernel_clock import kernel_tells_its_clock


class Status:
    """`hostagent status` against one host."""

    def __init__(self, host: Host, state_dir: Path, environ: Mapping[str, str]) -> None:
        self._words = [sys.executable, "-m", "hostagent.cli", "-c", host.uri]
        self._words += ["--state-dir", str(state_dir)]
        self._environ = environ

    def run(self, *options: str) -> "subprocess.CompletedProcess[str]":
        words = [*self._words, *options, "status"]
        return subprocess.run(
            words, env=self._environ, capture_output=True, text=True, check=False, timeout=30
        )

    def document(self) -> dict[str, Any]:
        done = self.run("-o", "json")
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document


@pytest.fixture
def status(light_host: Host, tmp_path: Path, marked_env: Mapping[str, str]) -> Status:
    return Status(light_host, tmp_path / "state", marked_env)


def test_json_has_host_guests_and_what_is_unfinished(light_host: Host, status: Status) -> None:
    document = status.document()
    assert document["schema"] == "hostagent.status/1"
    assert document["changed"] is False
    assert document["unfinished"] == []
    assert document["host"]["uuid"] == light_host.uuid
    assert document["host"]["libvirt"].count(".") == 2
    assert document["host"]["qemu"].count(".") == 2
    told = document["host"]["clock"]["synchronised"] is not None
    assert told == kernel_tells_its_clock()
    guests = {guest["name"]: guest for guest in document["guests"]}
    assert [guest["agent"] for guest in guests.values()] == ["yes", "yes", "no", "yes"]
    assert {guest["state"] for guest in guests.values()} == {"running"}


def test_tables_are_aligned_and_hold_virshs_words(light_host: Host, status: Status) -> None:
    light_host.guest("g3").destroy()
    lines = status.run().stdout.splitlines()
    head = next(line for line in lines if line.startswith("GUEST"))
    row = next(line for line in lines if line.startswith("g3"))
    assert row[head.index("STATE") :].startswith("shut off")
    assert row[head.index("REASON") :].startswith("destroyed")
    assert row[head.index("ID") :].startswith("-")


def test_an_agent_that_does_not_answer_is_stuck(light_host: Host, status: Status) -> None:
    guest = light_host.guest("g1")
    guest.shell("kill -STOP $(pidof qemu-ga)")
    guests = {seen["name"]: seen["agent"] for seen in status.document()["guests"]}
    guest.shell("kill -CONT $(pidof qemu-ga)")
    assert guests == {"g1": "stuck", "g2": "yes", "g3": "no", "g4": "yes"}


def test_without_libvirt_the_rest_is_shown_before_the_error(
    light_host: Host, status: Status
) -> None:
    light_host.kill_libvirtd()
    done = status.run()
    assert done.returncode == 4
    assert "uptime" in done.stdout
    assert str(light_host.socket) in done.stderr
    as_json = status.run("-o", "json")
    assert as_json.returncode == 4
    assert json.loads(as_json.stdout)["code"] == "libvirt-unreachable"
    light_host.start_libvirtd()


def test_a_frozen_libvirt_is_told_within_some_seconds(light_host: Host, status: Status) -> None:
    light_host.freeze()
    began = time.monotonic()
    assert status.run().returncode == 4
    assert time.monotonic() - began < 5
    light_host.thaw()


def test_status_brings_nothing_back(light_host: Host, status: Status) -> None:
    guest = light_host.guest("g1")
    guest.suspend()
    guests = {seen["name"]: seen for seen in status.document()["guests"]}
    assert (guests["g1"]["state"], guests["g1"]["reason"]) == ("paused", "user")
    wait_until(lambda: guest.status() == "paused", 1, "still paused")
    guest.resume()
