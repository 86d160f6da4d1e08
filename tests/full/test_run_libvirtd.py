"""The system's libvirtd, started by its sockets, stops or hangs while guests stand still."""

import time
from collections.abc import Sequence

import pytest

from lab import Witness
from lab.processes import identify
from tests.full.inside import Inside
from tests.run import killing
from tests.run.tool import wait_for

AFTER_COMMAND_S = 1.5
AFTER_BUDGET_S = 0.5
BUDGET_S = 4
STOP = "systemctl stop libvirtd"
FREEZE = "systemctl kill --kill-whom=main --signal=STOP libvirtd"
"""The main process alone: QEMUs are in this unit's control group where machined is not."""


def after(action: str, update: Sequence[str]) -> list[str]:
    """An update that begins with an action."""
    return ["sh", "-c", f'{action}; exec "$@"', "sh", *update]


@pytest.mark.parametrize("action", [STOP, FREEZE], ids=["stopped", "frozen"])
def test_libvirtd_fails_in_mid_pause(
    inside: Inside, witnesses: dict[str, Witness], action: str
) -> None:
    before = inside.inner.libvirtd_pid()
    process = inside.start("run", "--", *after(action, inside.update.until_told()))
    killing.wait_paused(witnesses.values())
    wait_for(lambda: inside.update.began() == 1, 10, "the update to begin")
    told_ns = time.monotonic_ns()
    inside.update.tell()
    back_s = killing.last_resume_s(witnesses.values(), told_ns)
    print(f"back after the command's end: {back_s:.3f} s")
    assert back_s <= AFTER_COMMAND_S
    ended = inside.wait(process)
    assert (ended.code, ended.document["result"]) == (0, "done"), ended
    assert identify(before) is None
    serves(inside)
    inside.wait_tidy()


@pytest.mark.parametrize("action", [STOP, FREEZE], ids=["stopped", "frozen"])
def test_libvirtd_fails_and_the_command_goes_on_past_the_budget(
    inside: Inside, witnesses: dict[str, Witness], action: str
) -> None:
    update = after(action, inside.update.until_told())
    process = inside.start("run", "--budget", f"{BUDGET_S}s", "--", *update)
    killing.wait_paused(witnesses.values())
    wait_for(lambda: not killing.stands_still(witnesses.values()), BUDGET_S + 5, "guests to run")
    inside.update.tell()
    ended = inside.wait(process)
    for witness in witnesses.values():
        (pause,) = witness.pauses()
        assert pause.duration_ns is not None
        print(f"pause with a budget of {BUDGET_S} s: {pause.duration_ns / 1e9:.3f} s")
        assert pause.duration_ns / 1e9 <= BUDGET_S + AFTER_BUDGET_S
    assert (ended.code, ended.document["result"]) == (3, "budget-exceeded"), ended
    serves(inside)
    inside.wait_tidy()


def serves(inside: Inside) -> None:
    """libvirtd, started again by systemd or by its socket, has all guests and serves them."""
    inside.inner.wait_answering()
    guests = inside.inner.guests
    wait_for(lambda: {guest.state() for guest in guests} == {"running"}, 5, "guests in libvirt")
    assert inside.run("run", "--", "true").code == 0
