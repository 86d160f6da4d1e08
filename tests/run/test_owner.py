"""What owners and fate do to guests: before a run, and while guests stand still for it.

Layer: tests. Nothing of the owner's is undone, and no other guest stands still any longer for it:
both are judged by witnesses and by QEMU's own word.
"""

import socket
from pathlib import Path

from lab import Witness
from tests.conftest import Audit
from tests.run.commands import HeldRun, notes, script
from tests.run.tool import Agent, Ended, wait_for

Witnesses = dict[str, Witness]


def result_of(ended: Ended, name: str) -> tuple[str, str]:
    """A guest's result and reason in the report."""
    guest = ended.guest(name)
    return guest["result"], guest["reason"]


def test_guests_that_do_not_run_are_left_as_they_are(
    agent: Agent, witnesses: Witnesses, audit: Audit, tmp_path: Path
) -> None:
    paused, off, asleep, crashed = (agent.host.guest(name) for name in ("g1", "g2", "g3", "g4"))
    audit.expect_paused(paused)
    paused.suspend()
    off.destroy()
    asleep.sleep()
    crashed.crash()
    before = {name: len(witness.events) for name, witness in witnesses.items()}
    update = script(tmp_path, "update", "note ran")
    ended = agent.run("run", "--", update)
    assert ended.code == 0, ended
    assert ended.document["result"] == "done"
    assert result_of(ended, "g1") == ("skipped", "paused (user)")
    assert result_of(ended, "g2") == ("skipped", "shut off (destroyed)")
    assert result_of(ended, "g3")[0] == "skipped"
    assert "pmsuspended" in result_of(ended, "g3")[1]
    assert result_of(ended, "g4") == ("skipped", "crashed (panicked)")
    assert "ran" in notes(update)
    states = [guest.state() for guest in (paused, off, asleep, crashed)]
    assert states == ["paused", "shut off", "pmsuspended", "crashed"]
    assert {name: len(witness.events) for name, witness in witnesses.items()} == before
    assert all(guest["pause_s"] is None for guest in ended.document["guests"])


def test_guests_that_end_in_mid_pause(
    agent: Agent, witnesses: Witnesses, audit: Audit, tmp_path: Path
) -> None:
    """One is destroyed by its owner, one dies, one is destroyed, started and paused again: that is
    another process, which nobody but its owner paused and nobody else touches."""
    off, dead, again = (agent.host.guest(name) for name in ("g1", "g2", "g3"))
    audit.expect_paused(again)
    before = again.qemu_pid()
    run = HeldRun(agent, witnesses, tmp_path)
    again.destroy()
    again.start(wait=False)
    again.suspend()
    dead.kill()
    off.destroy()
    ended = run.finish()
    assert ended.code == 3, ended
    assert ended.document["result"] == "partly"
    assert [result_of(ended, guest.name)[0] for guest in (off, dead, again)] == ["gone"] * 3
    assert off.state() == dead.state() == "shut off"
    assert again.qemu_pid() != before
    assert again.status() == "paused"
    run.undisturbed(witnesses["g4"])
    assert result_of(ended, "g4")[0] == "paused"


def test_what_owners_do_in_mid_pause_is_not_undone(
    agent: Agent, witnesses: Witnesses, audit: Audit, tmp_path: Path
) -> None:
    """One guest is resumed, one resumed and paused again, one started."""
    resumed, paused, late = (agent.host.guest(name) for name in ("g1", "g2", "g4"))
    audit.expect_paused(paused)
    late.destroy()
    running = {name: witness for name, witness in witnesses.items() if name != "g4"}
    run = HeldRun(agent, running, tmp_path)
    resumed.resume()
    paused.resume()
    paused.suspend()
    late.start(wait=False)
    ended = run.finish()
    assert ended.code == 3, ended
    assert ended.document["result"] == "partly"
    assert result_of(ended, "g1")[0] == "unpaused"
    assert len(witnesses["g1"].pauses()) == 1
    assert resumed.status() == "running"
    assert result_of(ended, "g2")[0] == "left-paused"
    assert "owner" in result_of(ended, "g2")[1]
    assert ended.guest("g2")["pause_s"] is None
    assert paused.status() == "paused"
    listed = [guest for guest in ended.document["guests"] if guest["name"] == "g4"]
    assert [guest["result"] for guest in listed] == ["skipped", "unpaused"]
    assert not [event for event in witnesses["g4"].events if event.name == "STOP"]
    assert late.status() == "running"
    run.undisturbed(witnesses["g3"])


def test_a_guest_that_crashes_as_it_runs_again(
    agent: Agent, witnesses: Witnesses, tmp_path: Path
) -> None:
    """It gets the order for its panic while it stands still: fate, and not ours. It is neither
    resumed again nor waited for."""
    guest = agent.host.guest("g3")
    guest.shell("echo 1 >/proc/sys/kernel/sysrq")
    run = HeldRun(agent, witnesses, tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as port:
        port.connect(str(guest.ports.shell))
        port.sendall(b"x echo c >/proc/sysrq-trigger\n")
        ended = run.finish()
        wait_for(lambda: guest.state() == "crashed", 10, "the crash of g3")
    result, reason = result_of(ended, "g3")
    assert (result, ended.code) in (("paused", 0), ("gone", 3))  # it ran when it was read, or not
    assert result == "paused" or "crash" in reason
    events = [event.name for event in witnesses["g3"].events]
    assert events.count("RESUME") == 1
    assert guest.status() == "guest-panicked"
    for name in ("g1", "g2", "g4"):
        run.undisturbed(witnesses[name])
