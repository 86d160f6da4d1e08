"""Pausing and resuming real guests, judged by witnesses; whose pause it is, and whose it is not."""

import time
from collections.abc import Callable, Mapping

import pytest

from hostagent.adapters.host.clock import shift_ns
from hostagent.adapters.libvirt.pause import LibvirtPauser
from hostagent.adapters.libvirt.suspension import Suspension
from hostagent.core.journal import GuestOutcome
from hostagent.core.model import Facts
from hostagent.core.plan import PlannedGuest
from hostagent.guardian.connect import Lines, Ticket
from lab import Witness
from lab.host import Host
from lab.processes import wait_until
from tests.conftest import Audit

S = 1_000_000_000
AGREE_NS = 2_000_000
Planned = dict[str, PlannedGuest]


def results(planned: Planned, outcomes: Mapping[str, GuestOutcome]) -> dict[str, str]:
    return {name: outcomes[guest.uuid].result for name, guest in planned.items()}


def all_of(planned: Planned, result: str) -> dict[str, str]:
    return dict.fromkeys(planned, result)


def pause(pauser: LibvirtPauser, planned: Planned, limit_ns: int = 2 * S) -> dict[str, str]:
    return results(planned, pauser.pause(list(planned.values()), limit_ns, lambda _: None))


def resume(pauser: LibvirtPauser, planned: Planned, limit_ns: int = 5 * S) -> dict[str, str]:
    return results(planned, pauser.resume(list(planned.values()), limit_ns, lambda _: None))


def figure(outcome: GuestOutcome, name: str) -> int:
    value = outcome.figures[name]
    assert isinstance(value, int)
    return value


def test_all_are_paused_and_resumed_and_each_pause_is_measured(
    pauser: LibvirtPauser, planned: Planned, witnesses: dict[str, Witness]
) -> None:
    guests = list(planned.values())
    returned: list[str] = []
    back: list[str] = []
    paused = pauser.pause(guests, 2 * S, returned.append)
    assert results(planned, paused) == all_of(planned, "paused")
    assert all(witness.status() == "paused" for witness in witnesses.values())
    resumed = pauser.resume(guests, 5 * S, back.append)
    assert results(planned, resumed) == all_of(planned, "resumed")
    assert sorted(returned) == sorted(back) == sorted(guest.uuid for guest in guests)
    for name, guest in planned.items():
        (seen,) = witnesses[name].pauses()
        stopped = figure(paused[guest.uuid], "stopped_ns")
        resumed_ns = figure(resumed[guest.uuid], "resumed_ns")
        assert seen.duration_ns is not None
        assert abs(resumed_ns - stopped - seen.duration_ns) < AGREE_NS
        assert figure(paused[guest.uuid], "called_ns") < stopped
        assert stopped < figure(paused[guest.uuid], "returned_ns")
        assert figure(resumed[guest.uuid], "called_ns") < resumed_ns
        assert resumed[guest.uuid].figures["way"] == "libvirt"
        assert abs(figure(paused[guest.uuid], "stopped_shift_ns") - shift_ns()) < AGREE_NS


def test_a_guest_that_its_owner_paused_is_not_ours(
    light_host: Host, pauser: LibvirtPauser, planned: Planned, audit: Audit
) -> None:
    owned = light_host.guest("g1")
    owned.suspend()
    audit.expect_paused(owned)
    assert pause(pauser, planned) == {**all_of(planned, "paused"), "g1": "not-ours"}
    del planned["g1"]
    assert resume(pauser, planned) == all_of(planned, "resumed")
    assert owned.status() == "paused"


class OwnerFirst(Lines):
    """Lines whose caller loses a race: somebody acts between the read and the calls. A fake,
    since the moment can't be met from outside."""

    def __init__(self, lines: Lines, act: Callable[[], None]) -> None:
        self._lines = lines
        self._act = act

    def call(self, fn, limit_ns):  # type: ignore[no-untyped-def]
        return self._lines.call(fn, limit_ns)

    def submit(self, uuid, fn, on_result) -> Ticket:  # type: ignore[no-untyped-def]
        self._act()
        return self._lines.submit(uuid, fn, on_result)


def suspend_after(
    act: Callable[[], None], pauser: LibvirtPauser, guests: list[PlannedGuest], limit_ns: int
) -> tuple[dict[str, GuestOutcome], list[str]]:
    """The outcomes, and the list that grows with each guest for which nothing is outstanding."""
    returned: list[str] = []
    lines = OwnerFirst(pauser._resumer().lines, act)
    suspension = Suspension(lines, pauser._events, pauser._ours, returned.append)
    return suspension.run(guests, limit_ns), returned


def test_an_owner_who_is_faster_between_read_and_call_keeps_his_pause(
    light_host: Host, pauser: LibvirtPauser, planned: Planned, audit: Audit
) -> None:
    owned = light_host.guest("g3")
    audit.expect_paused(owned)
    outcomes, _ = suspend_after(owned.suspend, pauser, [planned["g3"]], 2 * S)
    assert outcomes[owned.uuid].result == "not-ours"
    assert "owner" in outcomes[owned.uuid].reason


def test_a_guest_whose_qemu_is_stopped_is_not_called_at_all(
    light_host: Host, pauser: LibvirtPauser, planned: Planned, witnesses: dict[str, Witness]
) -> None:
    light_host.guest("g2").freeze()
    began = time.monotonic()
    assert pause(pauser, planned) == {**all_of(planned, "paused"), "g2": "failed"}
    assert time.monotonic() - began < 0.2
    light_host.guest("g2").thaw()
    light_host.guest("g2").wait_counting()
    assert witnesses["g2"].pauses() == ()
    del planned["g2"]
    assert resume(pauser, planned) == all_of(planned, "resumed")


def test_a_suspend_without_an_answer_is_unsettled_and_tracked(
    light_host: Host, pauser: LibvirtPauser, planned: Planned
) -> None:
    guests = list(planned.values())
    frozen: list[bool] = []

    def freeze_once() -> None:
        if not frozen:
            frozen.append(True)
            light_host.freeze()

    outcomes, returned = suspend_after(freeze_once, pauser, guests, S // 2)
    assert set(results(planned, outcomes).values()) == {"unsettled"}
    assert returned == []
    light_host.thaw()
    wait_until(lambda: len(returned) == len(guests), 5, "late answers")
    assert all(guest.status() == "paused" for guest in light_host.guests)
    assert resume(pauser, planned) == all_of(planned, "resumed")


def test_with_libvirt_frozen_before_nothing_is_called_late(
    light_host: Host, pauser: LibvirtPauser, planned: Planned, witnesses: dict[str, Witness]
) -> None:
    light_host.freeze()
    returned: list[str] = []
    outcomes = pauser.pause(list(planned.values()), S // 2, returned.append)
    assert results(planned, outcomes) == all_of(planned, "failed")
    assert len(returned) == len(planned)
    light_host.thaw()
    for guest in light_host.guests:
        guest.wait_counting()
    assert [witness.pauses() for witness in witnesses.values()] == [()] * len(witnesses)


def test_its_owners_resume_ends_the_pause_and_counts(
    light_host: Host, pauser: LibvirtPauser, planned: Planned, witnesses: dict[str, Witness]
) -> None:
    guests = list(planned.values())
    paused = pauser.pause(guests, 2 * S, lambda _: None)
    light_host.guest("g1").resume()
    witnesses["g1"].wait_for("RESUME")
    resumed = pauser.resume(guests, 5 * S, lambda _: None)
    assert results(planned, resumed) == {**all_of(planned, "resumed"), "g1": "running"}
    uuid = planned["g1"].uuid
    (seen,) = witnesses["g1"].pauses()
    assert seen.duration_ns is not None
    ours = figure(resumed[uuid], "resumed_ns") - figure(paused[uuid], "stopped_ns")
    assert abs(ours - seen.duration_ns) < AGREE_NS
    assert "called_ns" not in resumed[uuid].figures


def test_an_owner_who_resumes_and_pauses_again_keeps_his_pause(
    light_host: Host,
    pauser: LibvirtPauser,
    planned: Planned,
    audit: Audit,
    witnesses: dict[str, Witness],
) -> None:
    owned = light_host.guest("g2")
    audit.expect_paused(owned)
    assert pause(pauser, planned) == all_of(planned, "paused")
    owned.resume()
    owned.suspend()
    witnesses["g2"].wait_for("STOP", count=2)
    back: list[str] = []
    resumed = pauser.resume(list(planned.values()), 5 * S, back.append)
    assert results(planned, resumed) == {**all_of(planned, "resumed"), "g2": "not-ours"}
    assert len(back) == len(planned)
    assert owned.status() == "paused"


def test_a_guest_started_anew_in_mid_pause_is_gone(
    light_host: Host, pauser: LibvirtPauser, planned: Planned
) -> None:
    assert pause(pauser, planned) == all_of(planned, "paused")
    light_host.guest("g3").destroy()
    light_host.guest("g3").start()
    assert resume(pauser, planned) == {**all_of(planned, "resumed"), "g3": "gone"}
    assert pause(pauser, planned) == {**all_of(planned, "paused"), "g3": "not-ours"}
    assert light_host.guest("g3").status() == "running"
    del planned["g3"]
    assert resume(pauser, planned) == all_of(planned, "resumed")


def test_the_resume_after_a_restart_of_libvirt_is_measured(
    light_host: Host, pauser: LibvirtPauser, planned: Planned, witnesses: dict[str, Witness]
) -> None:
    guests = list(planned.values())
    paused = pauser.pause(guests, 2 * S, lambda _: None)
    assert results(planned, paused) == all_of(planned, "paused")
    light_host.restart_libvirtd()
    resumed = pauser.resume(guests, 10 * S, lambda _: None)
    assert results(planned, resumed) == all_of(planned, "resumed")
    for name, guest in planned.items():
        (seen,) = witnesses[name].pauses()
        assert seen.duration_ns is not None
        stopped = figure(paused[guest.uuid], "stopped_ns")
        assert (
            abs(figure(resumed[guest.uuid], "resumed_ns") - stopped - seen.duration_ns) < AGREE_NS
        )
    again = pauser.pause(guests, 2 * S, lambda _: None)
    assert all("stopped_ns" in outcome.figures for outcome in again.values()), again
    once_more = pauser.resume(guests, 5 * S, lambda _: None)
    for name, guest in planned.items():
        seen = witnesses[name].pauses()[-1]
        ours = figure(once_more[guest.uuid], "resumed_ns") - figure(again[guest.uuid], "stopped_ns")
        assert seen.duration_ns is not None
        assert abs(ours - seen.duration_ns) < AGREE_NS


def test_without_libvirt_guests_come_back_and_no_event_is_made_up(
    light_host: Host, pauser: LibvirtPauser, planned: Planned, witnesses: dict[str, Witness]
) -> None:
    guests = list(planned.values())
    assert pause(pauser, planned) == all_of(planned, "paused")
    light_host.kill_libvirtd()
    resumed = pauser.resume(guests, 10 * S, lambda _: None)
    assert results(planned, resumed) == all_of(planned, "resumed")
    assert all(witness.status() == "running" for witness in witnesses.values())
    for outcome in resumed.values():
        assert outcome.figures["way"] == "qmp"
        assert "called_ns" in outcome.figures
        assert "resumed_ns" not in outcome.figures
    light_host.start_libvirtd()


def test_after_a_crash_a_look_tells_the_guests_apart(
    light_host: Host, facts: Facts, planned: Planned
) -> None:
    light_host.guest("g1").suspend()
    light_host.guest("g3").destroy()
    crashed = LibvirtPauser(facts.host)
    looked = crashed.look(list(planned.values()), 3 * S)
    expected = {"g1": "paused", "g2": "running", "g3": "gone", "g4": "running"}
    assert results(planned, looked) == expected
    # Recovery resumes without having warmed up, here a guest that the journal calls ours.
    assert resume(crashed, {"g1": planned["g1"]}) == {"g1": "resumed"}
    crashed.close()


def test_warming_up_for_a_frozen_libvirt_ends_in_time(light_host: Host, facts: Facts) -> None:
    light_host.freeze()
    pauser = LibvirtPauser(facts.host)
    began = time.monotonic()
    with pytest.raises(Exception, match="did not answer") as caught:
        pauser.warm([], S)
    assert time.monotonic() - began < 1.5
    assert str(light_host.socket) in str(caught.value)
    light_host.thaw()
    pauser.close()


def test_a_guest_that_is_saved_before_our_call_is_not_ours(
    light_host: Host, pauser: LibvirtPauser, planned: Planned
) -> None:
    guest = light_host.guest("g3")

    def save() -> None:
        guest.call("save", lambda domain: domain.managedSave(0))

    outcomes, returned = suspend_after(save, pauser, [planned["g3"]], 20 * S)
    assert outcomes[guest.uuid].result == "not-ours"
    assert returned == [guest.uuid]
    assert guest.state() == "shut off"
