"""Bad and unusual input: refused before anything is touched, or taken as a person means it.

Layer: tests. "Nothing was changed" is judged by witnesses and by the files, not by the report.
"""

import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import Guest, Lab, Witness
from lab.calls import connection
from lab.host import Host
from tests.run.commands import (
    HeldRun,
    error_of,
    nobody_stopped,
    notes,
    only_pause,
    run_words,
    script,
    table_words,
)
from tests.run.tool import Agent, Ended

Witnesses = dict[str, Witness]

FROZEN_LIMIT_S = 6.0
"""libvirt is given 3 s for its first answer; the rest is this busy machine."""


def refused(ended: Ended, *words: str, code: str = "refused", status: int = 4) -> dict[str, Any]:
    """A refusal that says these words and what to do next."""
    assert ended.code == status, ended
    error = error_of(ended)
    assert error["code"] == code
    assert error["changed"] is False
    assert error["hint"]
    for word in words:
        assert word in error["message"], error
    return error


def test_a_command_that_cannot_be_started_is_refused(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    plain_file = tmp_path / "update"
    plain_file.write_text("#!/bin/sh\n")
    bad = {"/nonexistent": "found", "no-such-cmd": "found", str(plain_file): "executable"}
    bad |= {str(tmp_path): "executable"}
    for words, why in bad.items():
        refused(agent.run("run", "--", words), words, why)
    for option in ("--prepare", "--verify", "--rollback"):
        refused(agent.run("run", option, "/nonexistent -x", "--", "true"), option, "/nonexistent")
    refused(agent.run("run"), "CMD", code="usage", status=2)
    refused(agent.run("run", "--prepare", "'open", "--", "true"), code="usage", status=2)
    assert nobody_stopped(witnesses)
    assert not agent.state_dir.exists()


def test_a_file_that_turns_out_not_to_be_executable_is_a_failed_update(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    """Its mode says that it can be executed; only the kernel knows that it can't."""
    file = tmp_path / "update"
    file.write_text("neither a script nor a program\n")
    file.chmod(0o755)
    ended = agent.run("run", "--", str(file))
    assert ended.code == 1
    assert ended.document["result"] == "update-failed"
    assert ended.document["update"]["exit_code"] == 126
    assert "Exec format error" in ended.document["reason"]
    for witness in witnesses.values():
        assert witness.status() == "running"


def test_bad_options_are_usage_errors(agent: Agent, witnesses: Witnesses) -> None:
    bad = (
        ["--budget", "soon"],
        ["--budget", "-1s"],
        ["--budget", "0"],
        ["--budget", "999ms"],
        ["--budget", ""],
        ["--budget", "30s5"],
        ["--budget", "99999999999h"],
        ["--budget", "9" * 400],
        ["--budget", "5s", "--suspend-limit", "5s"],
        ["--suspend-limit", "1ms"],
        ["--kill-after", "never"],
        ["--kill-after", "9" * 400],
        ["--no-such-option"],
    )
    for words in bad:
        refused(agent.run("run", *words, "--", "true"), code="usage", status=2)
    assert nobody_stopped(witnesses)
    assert not agent.state_dir.exists()


def test_unknown_guests_refuse_the_whole_run(agent: Agent, witnesses: Witnesses) -> None:
    for name in ("nobody", "", "00000000-0000-0000-0000-000000000000", "99999", "-1"):
        refused(agent.run("run", "--guest", "g1", "--guest", name, "--", "true"), repr(name))
    assert nobody_stopped(witnesses)


def test_a_guest_is_known_by_name_uuid_and_id(agent: Agent, witnesses: Witnesses) -> None:
    g1, g2, g3 = (agent.host.guest(name) for name in ("g1", "g2", "g3"))
    number = g3.call("id", lambda domain: domain.ID())
    named = ["--guest", "g1", "--guest", g2.uuid.upper(), "--guest", str(number)]
    ended = agent.run("run", *named, "--guest", "g1", "--guest", g1.uuid, "--", "true")
    assert ended.code == 0, ended
    assert [guest["name"] for guest in ended.document["guests"]] == ["g1", "g2", "g3"]
    for name, witness in witnesses.items():
        assert len(witness.pauses()) == (0 if name == "g4" else 1)


@contextmanager
def another_guest(host: Host, of: Guest, name: str) -> Iterator[None]:
    """A guest of this name that is shut off."""
    uuid = "11111111-2222-3333-4444-555555555555"
    xml = of.definition().replace(f"<name>{of.name}</name>", f"<name>{name}</name>")
    with connection(host.uri) as conn:
        domain = conn.defineXML(xml.replace(of.uuid, uuid))
        try:
            yield
        finally:
            domain.undefine()


def test_a_name_that_is_another_guests_id_is_ambiguous(agent: Agent, witnesses: Witnesses) -> None:
    g1 = agent.host.guest("g1")
    number = str(g1.call("id", lambda domain: domain.ID()))
    with another_guest(agent.host, g1, number):
        error = refused(agent.run("run", "--guest", number, "--", "true"), "g1", g1.uuid)
        assert "UUID" in error["hint"]
    assert nobody_stopped(witnesses)


def test_without_guests_the_command_just_runs(
    make_light_lab: Callable[..., Lab], marked_env: dict[str, str], tmp_path: Path
) -> None:
    host = make_light_lab(guests=0).hosts[0]
    update = script(tmp_path, "update", "note ran")
    ended = Agent(host, tmp_path / "state", marked_env).run("run", "--", update)
    assert ended.code == 0, ended
    assert ended.document["result"] == "done"
    assert ended.document["guests"] == []
    assert "ran" in notes(update)


def test_libvirt_that_is_not_there_or_elsewhere_is_refused(agent: Agent, tmp_path: Path) -> None:
    def at(uri: str) -> Ended:
        words = agent.command("run", "--", "true")
        words[words.index("-c") + 1] = uri
        return run_words(agent, words)

    absent = f"qemu:///session?socket={tmp_path}/absent"
    refused(at(absent), str(tmp_path), code="libvirt-unreachable")
    elsewhere = ("qemu+ssh://root@192.0.2.1/system", "qemu+tcp://192.0.2.1/system")
    for uri in (*elsewhere, "qemu+tls://h2/system", "qemu+ssh:///system"):
        began = time.monotonic()
        refused(at(uri), uri)
        assert time.monotonic() - began < 3  # nobody was asked
    for uri in ("test:///default", "xen:///system", "no-uri", "qemu:///nonsense"):
        assert at(uri).code == 4
    assert not agent.state_dir.exists()


def test_a_libvirtd_that_hangs_before_the_start_is_refused_in_time(
    agent: Agent, witnesses: Witnesses
) -> None:
    agent.host.freeze()
    try:
        began = time.monotonic()
        refused(agent.run("run", "--", "true"), "did not answer", code="libvirt-unreachable")
        assert time.monotonic() - began < FROZEN_LIMIT_S
    finally:
        agent.host.thaw()
    assert nobody_stopped(witnesses)
    assert not agent.state_dir.exists()


def test_a_dry_run_shows_the_plan_and_does_nothing(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    update = script(tmp_path, "update", "note ran")
    locks = [path for path in Path("/run/lock").glob(f"hostagent-{agent.host.uuid}*")]
    before = {path: (path.stat().st_mtime_ns, path.read_text()) for path in locks}
    words = ["run", "--dry-run", "--prepare", update, "--guest", "g1", "--", update]
    ended = agent.run(*words)
    assert ended.code == 0, ended
    document = ended.document
    assert document["schema"] == "hostagent.run/1"
    assert document["changed"] is False
    assert document["warnings"] == []
    assert [guest["name"] for guest in document["plan"]["guests"]] == ["g1"]
    shown = run_words(agent, table_words(agent, *words))
    assert shown.code == 0
    assert update in shown.stdout
    assert "g1" in shown.stdout
    after = {path: (path.stat().st_mtime_ns, path.read_text()) for path in locks}
    assert after == before
    assert not notes(update)
    assert not agent.state_dir.exists()
    assert nobody_stopped(witnesses)


def test_one_run_at_a_time_while_dry_runs_go_on(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    first = HeldRun(agent, witnesses, tmp_path)
    elsewhere = Agent(agent.host, tmp_path / "other", agent.env)
    for second in (agent, elsewhere):
        refused(second.run("run", "--", "true"), "under way", f"pid {first.process.pid}")
    assert agent.run("run", "--dry-run", "--ignore-running", "--", "true").code == 0
    assert first.finish().code == 0
    for witness in witnesses.values():
        assert only_pause(witness)


def test_a_state_directory_that_takes_no_files_is_refused(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "runs").write_text("")
    for place in (blocked, Path("/sys/halab"), Path("/proc/halab")):
        agent.state_dir = place
        refused(agent.run("run", "--", "true"), str(place))
    agent.state_dir = tmp_path / "file"
    agent.state_dir.write_text("")
    ended = agent.run("run", "--", "true")
    assert ended.code == 2
    assert error_of(ended)["changed"] is False
    assert nobody_stopped(witnesses)


@pytest.mark.parametrize("room", [0, 5000])
def test_a_full_disk_is_found_before_anything_is_paused(
    agent: Agent, witnesses: Witnesses, tmp_path: Path, room: int
) -> None:
    """A file size limit stands for the disk: no room for the plan, or for the plan alone."""
    update = script(tmp_path, "update", "note ran")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    refused(agent.run("run", "--", update, preexec_fn=limit), "journal", "File too large")
    assert nobody_stopped(witnesses)
    assert not notes(update)


def test_tables_in_a_pipe_are_plain_and_quiet_is_quiet(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    words = ("run", "--guest", "g1", "--", "echo", "said", "\udcff")
    ended = run_words(agent, table_words(agent, *words), errors="surrogateescape")
    assert ended.code == 0
    first, head, row, *rest = ended.stdout.splitlines()
    assert first == "said \udcff"
    assert head.startswith("GUEST")
    assert row.startswith("g1")
    assert head.index("RESULT") == row.index("paused")
    assert rest[-1].startswith(r"done: echo said \udcff")
    assert "\x1b" not in ended.stdout + ended.stderr
    assert ended.stderr == ""
    words = table_words(agent, "-q", "run", "--guest", "nobody", "--", "true")
    failed = run_words(agent, words)
    assert failed.code == 4
    assert failed.stdout == ""
    assert "nobody" in failed.stderr


NAMES = {"schema", "changed", "warnings", "host", "result", "budget_s", "update", "guests"}
UPDATE_NAMES = {"command", "exit_code", "duration_s"}
GUEST_NAMES = {
    "name", "uuid", "result", "reason", "pause_s", "pause_source", "pause_uncertainty_s",
    "pause_api_s", "pause_guest_clock_s", "clock",
}  # fmt: skip
CLOCK_NAMES = {
    "synced", "method", "offset_before_s", "offset_after_s", "uncertainty_s", "reason",
}  # fmt: skip


def test_the_json_has_every_name_that_was_promised(agent: Agent, witnesses: Witnesses) -> None:
    ended = agent.run("run", "--budget", "20s", "--", "sleep", "0.3")
    document = json.loads(ended.stdout)
    assert document["schema"] == "hostagent.run/1"
    assert document["changed"] is True
    assert document["warnings"] == []
    assert document["budget_s"] == 20.0
    assert set(document) >= NAMES
    assert set(document["update"]) >= UPDATE_NAMES
    assert document["update"]["command"] == ["sleep", "0.3"]
    assert 0.3 <= document["update"]["duration_s"] < 1
    assert len(document["guests"]) == len(witnesses)
    for guest in document["guests"]:
        assert set(guest) >= GUEST_NAMES
        assert set(guest["clock"]) >= CLOCK_NAMES
        assert guest["clock"]["synced"] is (guest["name"] != "g3")
    measured = ended.guest("g1")["pause_guest_clock_s"]
    assert measured == pytest.approx(ended.guest("g1")["pause_s"], abs=0.05)
    assert ended.guest("g3")["pause_guest_clock_s"] is None
