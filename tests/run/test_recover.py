"""`hostagent recover`: what a run that lost both itself and its guardian left behind.

The next command that changes something does the same by itself. Only guests that the journal says
we paused are brought back, and whatever is missing (libvirtd, a disk that takes writes, a whole
last line) the guests come back all the same.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from hostagent.adapters.host.locks import RunLock
from lab import Witness
from lab.host import Host
from tests.run import killing
from tests.run.killing import Update
from tests.run.tool import Agent, Ended, wait_for

WITHOUT_LIBVIRT_LIMIT_S = 6.0
"""Finding libvirt unusable takes 1 s; looking at the guests first is given 3 s."""


@pytest.fixture
def update(tmp_path: Path) -> Update:
    return Update(tmp_path / "update")


@pytest.fixture
def orphans(agent: Agent, witnesses: dict[str, Witness], update: Update) -> Agent:
    """All guests stand still, and neither hostagent nor guardian is left."""
    killing.orphan(agent, witnesses.values(), update)
    return agent


def _assert_all_run(witnesses: dict[str, Witness], *but: str) -> None:
    still = [name for name, witness in witnesses.items() if witness.status() != "running"]
    assert still == list(but)


def _another(agent: Agent, state_dir: Path) -> Agent:
    return Agent(agent.host, state_dir, agent.env)


def _journal(agent: Agent) -> Path:
    return killing.journals(agent)[-1]


def _listed(agent: Agent) -> list[str]:
    """Whom the guardian still has to bring back."""
    (file,) = agent.state_dir.glob("runs/*.guardian.json")
    return [guest["name"] for guest in json.loads(file.read_bytes())["guests"]]


def test_only_what_we_paused(
    agent: Agent, witnesses: dict[str, Witness], light_host: Host, update: Update
) -> None:
    owned = light_host.guest("g3")
    owned.suspend()
    killing.orphan(agent, [w for name, w in witnesses.items() if name != "g3"], update)
    recovered = agent.run("recover")
    assert recovered.code == 0, recovered
    _assert_all_run(witnesses, "g3")
    assert not list(agent.state_dir.glob("runs/*.guardian.json"))
    owned.resume()


def test_a_guest_that_its_owner_paused_after_the_guardian_brought_it_back(
    agent: Agent, witnesses: dict[str, Witness], light_host: Host, update: Update
) -> None:
    process = agent.start("run", "--", *update.until_told())
    killing.wait_paused(witnesses.values())
    wait_for(lambda: update.began() == 1, 5, "the update to begin")
    guardian = killing.guardian_pid(agent)
    process.kill()
    wait_for(lambda: not killing.stands_still(witnesses.values()), 5, "the guardian")
    wait_for(lambda: killing.is_gone(guardian), 10, "the end of the guardian")
    owned = light_host.guest("g1")
    owned.suspend()
    update.tell()
    assert agent.run("recover").code == 0
    _assert_all_run(witnesses, "g1")
    assert not killing.without_end(agent)
    owned.resume()


def test_a_guest_that_its_owner_paused_after_hostagent_brought_it_back(
    agent: Agent, witnesses: dict[str, Witness], light_host: Host, update: Update
) -> None:
    """While another guest still hangs, hostagent's own journal does not say yet who is back."""
    process = agent.start("run", "--", *update.until_told())
    killing.wait_paused(witnesses.values())
    wait_for(lambda: update.began() == 1, 5, "the update to begin")
    hung, owned = light_host.guest("g2"), light_host.guest("g1")
    hung.freeze()
    update.tell()
    wait_for(lambda: _listed(agent) == ["g2"], 5, "the others")
    process.kill()
    process.wait()
    owned.suspend()
    hung.thaw()
    wait_for(lambda: witnesses["g2"].status() == "running", 5, "the guardian")
    recovered = agent.run("recover")
    assert recovered.code == 0, recovered
    assert witnesses["g1"].status() == "paused"
    guest = next(each for each in recovered.document["runs"][0]["guests"] if each["name"] == "g1")
    assert (guest["result"], guest["pause_s"]) == ("paused", None)
    assert "is not known" in guest["reason"]
    owned.resume()


@pytest.mark.parametrize("how", ["dead", "frozen"])
def test_without_libvirt(
    orphans: Agent, witnesses: dict[str, Witness], light_host: Host, how: str
) -> None:
    if how == "dead":
        light_host.kill_libvirtd(SIGKILL)
    else:
        light_host.freeze()
    asked_ns = killing.now_ns()
    recovered = orphans.run("recover")
    assert recovered.code == 0, recovered
    assert 0 < killing.last_resume_s(witnesses.values(), asked_ns) <= WITHOUT_LIBVIRT_LIMIT_S
    assert not killing.without_end(orphans)
    light_host.start_libvirtd()
    light_host.wait_answering()
    # A new libvirtd knows guests by what the old one wrote down, until their QEMUs have answered.
    guests = light_host.guests
    wait_for(lambda: {guest.state() for guest in guests} == {"running"}, 10, "libvirt to see it")


def test_run_that_finds_libvirt_dead_brings_back_first(
    orphans: Agent, witnesses: dict[str, Witness], light_host: Host
) -> None:
    light_host.kill_libvirtd(SIGKILL)
    refused = orphans.run("run", "--", "true")
    assert refused.code == 4, refused
    _assert_all_run(witnesses)
    light_host.start_libvirtd()


@pytest.mark.parametrize("libvirt", ["alive", "dead"])
def test_from_another_state_directory(
    orphans: Agent,
    witnesses: dict[str, Witness],
    light_host: Host,
    tmp_path: Path,
    libvirt: str,
) -> None:
    """The lock's text names the state directory of the run that died with it."""
    if libvirt == "dead":
        light_host.kill_libvirtd(SIGKILL)
    recovered = _another(orphans, tmp_path / "other").run("recover")
    assert recovered.code == 0, recovered
    _assert_all_run(witnesses)
    assert not killing.without_end(orphans)
    light_host.start_libvirtd()


def test_run_from_another_state_directory(
    orphans: Agent, witnesses: dict[str, Witness], tmp_path: Path
) -> None:
    assert _another(orphans, tmp_path / "other").run("run", "--", "true").code == 0
    assert not killing.without_end(orphans)
    assert all(len(witness.pauses()) == 2 for witness in witnesses.values())


def test_another_host_that_is_busy_keeps_no_guest_waiting(
    orphans: Agent, witnesses: dict[str, Witness], light_host: Host
) -> None:
    """Two hosts on one machine, one state directory: on the other one a run is under way."""
    other = "0" * 8 + light_host.uuid[8:]
    theirs = _journal(orphans).read_text().replace(light_host.uuid, other)
    _journal(orphans).with_name("00000000T000000-1.jsonl").write_text(theirs)
    lock = RunLock(other)
    lock.acquire()
    recovered = orphans.run("recover")
    lock.release()
    lock.guardian_path.with_name(f"hostagent-{other}.lock").unlink()
    assert recovered.code == 4, recovered
    assert recovered.document["changed"] is True
    _assert_all_run(witnesses)


def test_a_run_under_way_is_not_called_unfinished(
    agent: Agent, witnesses: dict[str, Witness], update: Update
) -> None:
    process = agent.start("run", "--", *update.until_told())
    killing.wait_paused(witnesses.values())
    wait_for(lambda: update.began() == 1, 5, "the update to begin")
    (run,) = agent.run("status").document["unfinished"]
    update.tell()
    agent.wait(process)
    assert run["under_way"]
    assert f"under way (pid {process.pid})" in run["sentence"]
    assert agent.run("status").document["unfinished"] == []


@pytest.mark.parametrize(
    "words", [("recover", "--dry-run"), ("status",), ("run", "--dry-run", "--", "true")]
)
def test_what_only_looks_does_nothing(
    orphans: Agent, witnesses: dict[str, Witness], words: Sequence[str]
) -> None:
    before = _journal(orphans).read_bytes()
    looked = orphans.run(*words)
    assert looked.code == 0, looked
    assert _journal(orphans).read_bytes() == before
    assert len(killing.stands_still(witnesses.values())) == len(witnesses)
    if words[0] != "run":
        assert _journal(orphans).stem in json.dumps(looked.document["unfinished"])
    assert orphans.run("recover").code == 0
    _assert_all_run(witnesses)


def test_two_at_once(orphans: Agent, witnesses: dict[str, Witness]) -> None:
    processes = [orphans.start("recover") for _ in range(2)]
    ended = [orphans.wait(process) for process in processes]
    assert sorted(each.code for each in ended) in ([0, 0], [0, 4]), ended
    _assert_all_run(witnesses)
    assert _journal(orphans).read_text().count('{"row":"ended"') == 1
    assert all(len(witness.pauses()) == 1 for witness in witnesses.values())


def _tear(path: Path) -> None:
    """The power went in the middle of the last line."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][: len(lines[-1]) // 2])


def _lose_a_line(path: Path) -> None:
    """The disk was full for a moment: the pause's outcome, and half of the next line."""
    lines = path.read_bytes().splitlines(keepends=True)
    (apply,) = (line for line in lines if b'"key":"apply"' in line)
    kept = [line for line in lines if b'"key":"pause"' not in line or b'"intent"' in line]
    path.write_bytes(b"".join(kept).replace(apply, apply[: len(apply) // 2]) + _outcome_of_apply())


def _outcome_of_apply() -> bytes:
    outcome = {"key": "apply", "result": "exited", "reason": "", "guests": {}, "figures": {}}
    stamp = {"monotonic_ns": killing.now_ns(), "boot_id": _boot_id(), "utc": "", "pid": 1}
    row = {"row": "outcome", "is": outcome, "at": stamp}
    return b"\n" + json.dumps(row, separators=(",", ":")).encode() + b"\n"


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize("damage", [_tear, _lose_a_line])
def test_damaged_journal(orphans: Agent, witnesses: dict[str, Witness], damage: Any) -> None:
    path = _journal(orphans)
    damage(path)
    before = path.read_bytes()
    recovered = orphans.run("recover")
    assert recovered.code == 0, recovered
    _assert_all_run(witnesses)
    assert not killing.without_end(orphans)
    written = path.read_bytes().removeprefix(before).lstrip(b"\n").splitlines()
    assert all(json.loads(line) for line in written)
    assert before.endswith(b"\n") or path.read_bytes()[len(before) :].startswith(b"\n")
    assert orphans.run("recover").document["runs"] == []


@pytest.fixture
def read_only(read_only_mounts: None, orphans: Agent) -> Iterator[Sequence[str]]:
    """The words that make a command see the state directory read-only."""
    directory = str(orphans.state_dir)
    if os.geteuid() == 0:
        script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
        yield ["unshare", "--mount", "sh", "-c", script, directory]
        return
    for path in (orphans.state_dir / "runs", *(orphans.state_dir / "runs").iterdir()):
        path.chmod(0o500 if path.is_dir() else 0o400)
    yield []
    for path in (orphans.state_dir / "runs", *(orphans.state_dir / "runs").iterdir()):
        path.chmod(0o700 if path.is_dir() else 0o600)


def test_state_directory_read_only(
    read_only: Sequence[str], orphans: Agent, witnesses: dict[str, Witness]
) -> None:
    """Guests come back although nothing can be written; the end is written when it can be."""
    words = [*read_only, *orphans.command("recover")]
    done = subprocess.run(words, env=orphans.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, Ended(done.returncode, done.stdout, done.stderr)
    _assert_all_run(witnesses)


def test_state_directory_writable_again(
    orphans: Agent, witnesses: dict[str, Witness], light_host: Host
) -> None:
    """A recovery that left no trace is done again, and finds that nothing is left to be done."""
    path = _journal(orphans)
    before = path.read_bytes()
    assert orphans.run("recover").code == 0
    path.write_bytes(before)
    assert orphans.run("recover").code == 0
    _assert_all_run(witnesses)
    assert not killing.without_end(orphans)


def test_after_a_reboot(orphans: Agent, witnesses: dict[str, Witness], light_host: Host) -> None:
    """No process of an earlier boot is left, whatever has its pid and start time by chance: guests
    that stand still now were paused by somebody else."""
    path = _journal(orphans)
    path.write_text(path.read_text().replace(_boot_id(), "0ff10000-0000-4000-8000-000000000000"))
    recovered = orphans.run("recover")
    assert recovered.code == 0, recovered
    assert len(killing.stands_still(witnesses.values())) == len(witnesses)
    assert not killing.without_end(orphans)
    for guest in light_host.guests:
        guest.resume()
    assert orphans.run("run", "--", "true").code == 0


def test_killed_recovery_is_recovered(orphans: Agent, witnesses: dict[str, Witness]) -> None:
    """SIGKILL after each row that a recovery writes, one recovery after the other."""
    for at in range(1, 100):
        ended = killing.walk(orphans, {}, at=at)
        if not ended.signalled_ns:
            break
        assert killing.without_end(orphans) or not killing.stands_still(witnesses.values())
    assert at > 1
    assert orphans.run("recover").code == 0
    _assert_all_run(witnesses)
    assert not killing.without_end(orphans)


def test_second_run_at_once_is_refused(
    agent: Agent, witnesses: dict[str, Witness], update: Update, tmp_path: Path
) -> None:
    process = agent.start("run", "--", *update.until_told())
    killing.wait_paused(witnesses.values())
    run = _journal(agent).stem
    for second in (agent, _another(agent, tmp_path / "other")):
        for words in (("run", "--", "true"), ("recover",)):
            refused = second.run(*words)
            assert refused.code == 4, refused
            assert run in refused.document["message"]
            assert f"pid {process.pid}" in refused.document["message"]
    assert len(killing.stands_still(witnesses.values())) == len(witnesses)
    update.tell()
    ended = agent.wait(process)
    assert ended.code == 0, ended
    assert all(len(witness.pauses()) == 1 for witness in witnesses.values())
