"""hostagent under systemd: its guardian is a unit of its own and outlives its control group."""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from signal import SIGKILL

import pytest

from lab import LabError, Witness
from lab.full import FullHost
from lab.processes import ProcessId
from tests.full.inside import GUARDIAN, SESSION, UNIT, EndOf, Inside
from tests.run import killing
from tests.run.tool import wait_for

RESTART_LIMIT_S = 5.0
"""A guardian's unit that was killed is started anew: two interpreters' starts on a busy machine."""
AGREE_S = 0.002
KILLS = 20
LATEST_S = 2.0
"""From the start of a run around half a second's update to after its end."""

Record = Callable[[str, object], None]


def in_mid_pause(inside: Inside, witnesses: dict[str, Witness]) -> ProcessId:
    """Wait until guests stand still and the update has begun; hostagent itself."""
    killing.wait_paused(witnesses.values())
    wait_for(lambda: inside.update.began() == 1, 10, "the update to begin")
    return inside.hostagent()


def show(what: str, seconds: float) -> float:
    """Print a figure, for the log."""
    print(f"{what}: {seconds:.3f} s")
    return seconds


def once_paused(witnesses: Iterable[Witness]) -> bool:
    """Whether every guest was paused once and runs again."""
    return all([len(w.pauses()), w.status()] == [1, "running"] for w in witnesses)


def test_the_guardian_is_a_unit_of_its_own(inside: Inside, witnesses: dict[str, Witness]) -> None:
    process = inside.start("run", "--", *inside.update.until_told())
    killing.wait_paused(witnesses.values())
    (unit,) = inside.guardians()
    properties = ("--property=ActiveState,SubState,OOMScoreAdjust,Restart",)
    assert inside.systemctl("show", *properties, unit).split() == [
        *("Restart=on-failure", "OOMScoreAdjust=-1000", "ActiveState=active", "SubState=running"),
    ]
    assert len(inside.members(unit)) == 1
    inside.update.tell()
    ended = inside.wait(process)
    assert (ended.code, ended.document["result"]) == (0, "done"), ended
    for name, witness in witnesses.items():
        (pause,) = witness.pauses()
        assert pause.duration_ns is not None
        assert ended.guest(name)["result"] == "paused"
        assert abs(ended.guest(name)["pause_s"] - pause.duration_ns / 1e9) <= AGREE_S
    inside.wait_tidy()


def test_its_whole_control_group_is_killed(inside: Inside, witnesses: dict[str, Witness]) -> None:
    inside.start_unit("run", "--", *inside.update.until_told())
    died = EndOf(in_mid_pause(inside, witnesses))
    inside.systemctl("kill", "--signal=KILL", UNIT)
    back_s = killing.last_resume_s(witnesses.values(), died.at_ns())
    assert show("back after the kill of the group", back_s) <= killing.BACK_LIMIT_S
    wait_for(lambda: not inside.members(UNIT), 5, "the end of the group")
    inside.wait_tidy()
    assert len(inside.unfinished()) == 1
    recovered = inside.run("recover")
    assert not killing.without_end(inside), recovered
    assert inside.unfinished() == []
    assert once_paused(witnesses.values())
    again = inside.run("run", "--", "true")
    assert (again.code, again.document["result"]) == (0, "done"), again
    inside.wait_tidy()


def test_group_and_guardian_are_killed(inside: Inside, witnesses: dict[str, Witness]) -> None:
    """systemd starts the guardian's unit again, and that resumes what its list names."""
    inside.start_unit("run", "--", *inside.update.until_told())
    died = EndOf(in_mid_pause(inside, witnesses))
    (unit,) = inside.guardians()
    inside.systemctl("kill", "--signal=KILL", UNIT, unit)
    back_s = killing.last_resume_s(witnesses.values(), died.at_ns(), RESTART_LIMIT_S)
    show("back after the kill of group and guardian", back_s)
    inside.wait_tidy()
    assert once_paused(witnesses.values())
    assert len(inside.unfinished()) == 1
    inside.run("recover")
    assert inside.unfinished() == []
    assert once_paused(witnesses.values())
    assert inside.run("run", "--", "true").code == 0


def test_the_guardian_alone_is_killed(inside: Inside, witnesses: dict[str, Witness]) -> None:
    """Another is armed in its place; guests stand still until the update is over."""
    process = inside.start_unit("run", "--", *inside.update.until_told())
    in_mid_pause(inside, witnesses)
    (unit,) = inside.guardians()
    inside.systemctl("kill", "--signal=KILL", unit)
    wait_for(lambda: _armed(inside) == 2, RESTART_LIMIT_S, "another guardian")
    assert len(killing.stands_still(witnesses.values())) == len(witnesses)
    told_ns = time.monotonic_ns()
    inside.update.tell()
    ended = inside.wait(process)
    assert (ended.code, ended.document["result"]) == (0, "done"), ended
    assert once_paused(witnesses.values())
    for witness in witnesses.values():
        assert killing.signals_since(witness, told_ns, "RESUME") == 1
    inside.wait_tidy()


def test_the_one_in_its_place_resumes(inside: Inside, witnesses: dict[str, Witness]) -> None:
    """After the first one's end hostagent's group is killed: the second is in charge."""
    inside.start_unit("run", "--", *inside.update.until_told())
    died = EndOf(in_mid_pause(inside, witnesses))
    (unit,) = inside.guardians()
    inside.systemctl("kill", "--signal=KILL", unit)
    wait_for(lambda: _armed(inside) == 2, RESTART_LIMIT_S, "another guardian")
    inside.systemctl("kill", "--signal=KILL", UNIT)
    back_s = killing.last_resume_s(witnesses.values(), died.at_ns())
    assert show("back by the second guardian", back_s) <= killing.BACK_LIMIT_S
    inside.wait_tidy()
    inside.run("recover")
    assert inside.unfinished() == []
    assert once_paused(witnesses.values())


def test_its_unit_is_stopped(inside: Inside, witnesses: dict[str, Witness]) -> None:
    """systemctl stop: hostagent and the update's command get SIGTERM at the same time."""
    process = inside.start_unit("run", "--", *inside.update.until_told())
    in_mid_pause(inside, witnesses)
    told_ns = time.monotonic_ns()
    inside.systemctl("stop", UNIT)
    back_s = killing.last_resume_s(witnesses.values(), told_ns)
    assert show("back after systemctl stop was called", back_s) <= killing.BACK_LIMIT_S
    ended = inside.wait(process)
    assert ended.code == 143, ended
    assert ended.document["result"] == "interrupted"
    assert inside.unfinished() == []
    assert not inside.members(UNIT)
    assert once_paused(witnesses.values())
    inside.wait_tidy()


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_its_login_session_ends(inside: Inside, witnesses: dict[str, Witness], signal: str) -> None:
    """What logind does with KillUserProcesses=yes, to the polite and to the rest."""
    inside.start_session("run", "--", *inside.update.until_told())
    hostagent = in_mid_pause(inside, witnesses)
    died = EndOf(hostagent)
    told_ns = time.monotonic_ns()
    inside.systemctl("kill", f"--signal={signal}", SESSION)
    since_ns = died.at_ns() if signal == "KILL" else told_ns
    back_s = killing.last_resume_s(witnesses.values(), since_ns)
    assert show(f"back after SIG{signal} to the session", back_s) <= killing.BACK_LIMIT_S
    died.at_ns()
    inside.wait_tidy()
    inside.run("recover")
    assert inside.unfinished() == []
    assert once_paused(witnesses.values())


def test_its_ssh_connection_ends(inside: Inside, witnesses: dict[str, Witness]) -> None:
    process = inside.start_ssh("run", "--", *inside.update.until_told())
    hostagent = in_mid_pause(inside, witnesses)
    died = EndOf(hostagent)
    client = inside.ssh_client()
    client.send(SIGKILL)
    back_s = killing.last_resume_s(witnesses.values(), EndOf(client).at_ns())
    assert show("back after the end of the connection", back_s) <= killing.BACK_LIMIT_S
    died.at_ns()
    process.wait(10)
    inside.wait_tidy()
    assert inside.unfinished() == []
    assert once_paused(witnesses.values())


def _armed(inside: Inside) -> int:
    """How many guardians were armed over the newest run."""
    text = max(inside.state_dir.glob("runs/*.guardian.jsonl")).read_text()
    return text.count('"guardian-armed"')


def test_the_guardians_unit_does_not_end_by_a_stop(
    inside: Inside, witnesses: dict[str, Witness]
) -> None:
    """Whoever stops all units of hostagent's while guests stand still."""
    process = inside.start_unit("run", "--", *inside.update.until_told())
    in_mid_pause(inside, witnesses)
    inside.systemctl("kill", "--signal=TERM", f"{GUARDIAN}*")
    (unit,) = inside.guardians()
    with pytest.raises(LabError, match="Operation refused"):
        inside.systemctl("stop", unit)
    inside.update.tell()
    ended = inside.wait(process)
    assert (ended.code, ended.document["warnings"]) == (0, []), ended
    inside.wait_tidy()


@pytest.fixture
def as_operator(inside: Inside, full_host: FullHost) -> Iterator[Inside]:
    """hostagent run by an ordinary user of the group libvirt, who has no user manager."""
    full_host.run("sh", "-c", "id op || useradd --create-home --groups libvirt op")
    inside.directory.chmod(0o777)
    _forget_locks(full_host)
    state = "home/op/.local/state/hostagent"
    tool = Inside(full_host, inside.env, state=state, user="op")
    yield tool
    tool.end()
    _forget_locks(full_host)


def _forget_locks(host: FullHost) -> None:
    """Users don't touch each other's locks: a host that both use needs them taken away."""
    for lock in (host.inside / "run/lock").glob("hostagent-*"):
        lock.unlink()


def test_an_ordinary_user_without_a_user_manager(
    as_operator: Inside, witnesses: dict[str, Witness]
) -> None:
    """No unit can be had: the guardian is a process of its own, and does its work all the same."""
    as_operator.start("run", "--", *as_operator.update.until_told())
    hostagent = in_mid_pause(as_operator, witnesses)
    assert as_operator.guardians() == []
    assert killing.guardian_pid(as_operator) != 0
    died = EndOf(hostagent)
    hostagent.send(SIGKILL)
    back_s = killing.last_resume_s(witnesses.values(), died.at_ns())
    assert show("back after the kill of a user's hostagent", back_s) <= killing.BACK_LIMIT_S
    as_operator.update.tell()
    as_operator.run("recover")
    assert as_operator.unfinished() == []
    again = as_operator.run("run", "--", "true")
    assert (again.code, again.document["result"]) == (0, "done"), again
    assert any("no unit of its own" in warning for warning in again.document["warnings"])
    assert killing.stands_still(witnesses.values()) == []


@pytest.mark.campaign
@pytest.mark.parametrize("what", ["group", "group and guardian"])
def test_killed_at_any_moment(
    inside: Inside, witnesses: dict[str, Witness], what: str, record_property: Record
) -> None:
    """From the start of hostagent to the end of its update; nobody is left paused."""
    seed = random.randrange(1_000_000)
    record_property("seed", seed)
    print(f"seed {seed}")
    chance, took_s = random.Random(seed), []
    for _ in range(KILLS):
        inside.start_unit("run", "--", "sleep", "0.5")
        wait_for(lambda: bool(inside.members(UNIT)), 10, "hostagent to start")
        died = EndOf(inside.members(UNIT)[0])
        time.sleep(chance.uniform(0, LATEST_S))  # a moment that nobody chose
        both = [f"{GUARDIAN}*"] if what == "group and guardian" else []
        with suppress(LabError):  # one of them may be gone, or not there yet
            inside.systemctl("kill", "--signal=KILL", UNIT, *both)
        since_ns = died.at_ns()
        took_s.append(killing.last_resume_s(witnesses.values(), since_ns))
        inside.wait_tidy()
        assert killing.stands_still(witnesses.values()) == []
        inside.run("recover")
        assert inside.unfinished() == []
    print(f"back after a kill of {what}, s: {sorted(round(each, 3) for each in took_s)}")
    limit_s = killing.BACK_LIMIT_S if what == "group" else RESTART_LIMIT_S
    assert max(took_s) <= limit_s


@pytest.mark.campaign
def test_the_group_is_killed_soon_after_its_guardian(
    inside: Inside, witnesses: dict[str, Witness], record_property: Record
) -> None:
    """While another is started, armed or ready: whichever is there brings guests back."""
    seed = random.randrange(1_000_000)
    record_property("seed", seed)
    print(f"seed {seed}")
    chance, took_s = random.Random(seed), []
    for _ in range(KILLS):
        inside.update.forget()
        inside.start_unit("run", "--", *inside.update.until_told())
        died = EndOf(in_mid_pause(inside, witnesses))
        inside.systemctl("kill", "--signal=KILL", f"{GUARDIAN}*")
        time.sleep(chance.uniform(0, LATEST_S / 2))  # a moment that nobody chose
        inside.systemctl("kill", "--signal=KILL", UNIT)
        took_s.append(killing.last_resume_s(witnesses.values(), died.at_ns(), RESTART_LIMIT_S))
        inside.wait_tidy()
        inside.run("recover")
        assert inside.unfinished() == []
    print(f"back, s: {sorted(round(each, 3) for each in took_s)}")
    assert killing.stands_still(witnesses.values()) == []
