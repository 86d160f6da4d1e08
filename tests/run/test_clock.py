"""Guests' clocks after a pause, and `hostagent clock`: judged by readings without any agent."""

import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lab import Guest, GuestSpec, Lab
from lab.guests import Hwclock
from lab.host import Host
from tests.run.tool import Agent, Ended

RIGHT_S = 0.003
"""How far a clock may be off right after, beyond what the lab's own reading can't tell."""
COARSE_S = 0.03
"""The same where the guest's `date` takes whole seconds only, at the pace of a fork in a guest."""


def off_s(host: Host, name: str) -> float:
    """How far a guest's clock is off at least, by a reading from inside."""
    return off_s_of(host.guest(name))


def off_s_of(guest: Guest) -> float:
    """The same of a guest."""
    reading = guest.clock()
    off_ns = abs(reading.guest_minus_host_ns) - reading.uncertainty_ns
    return max(off_ns, 0) / 1e9


def clock(ended: Ended, name: str) -> dict:
    return ended.guest(name)["clock"]


def step(host: Host, name: str, seconds: int) -> None:
    """Put a guest's clock this far off, to a second."""
    host.guest(name).shell(f"date -s @{int(time.time()) + seconds}")


def test_after_a_pause_every_clock_that_can_be_set_is_right(agent: Agent, light_host: Host) -> None:
    light_host.guest("g4").hwclock(Hwclock.MISSING)
    ended = agent.run("run", "--", "sleep", "2")
    assert off_s(light_host, "g1") < RIGHT_S
    assert off_s(light_host, "g2") < RIGHT_S
    assert off_s(light_host, "g4") < COARSE_S
    assert ended.code == 0, ended.stdout
    for name, method in (("g1", "agent"), ("g2", "agent"), ("g4", "date-seconds")):
        told = clock(ended, name)
        assert (told["synced"], told["method"]) == (True, method), told
        assert told["offset_resumed_s"] - told["offset_before_s"] == pytest.approx(-2.0, abs=0.2)
        assert abs(told["offset_after_s"]) < 0.005
        assert 0 < told["uncertainty_s"] < 0.1
    assert clock(ended, "g3")["synced"] is False
    assert "agent" in clock(ended, "g3")["reason"]


def test_show_says_how_far_a_clock_is_off(agent: Agent, light_host: Host) -> None:
    step(light_host, "g1", 100)
    shown = agent.run("clock", "show")
    assert shown.code == 0, shown.stderr
    assert shown.document["schema"] == "hostagent.clock/1"
    assert shown.document["changed"] is False
    assert clock(shown, "g1")["offset_after_s"] == pytest.approx(100, abs=1.1)
    assert clock(shown, "g1")["synced"] is False
    assert clock(shown, "g3")["offset_after_s"] is None
    assert clock(shown, "g3")["reason"]
    assert isinstance(shown.document["host"]["synchronised"], bool | None)


def test_a_dry_run_sets_nothing(agent: Agent, light_host: Host) -> None:
    step(light_host, "g1", 100)
    ended = agent.run("clock", "sync", "--dry-run", "g1")
    assert ended.code == 0, ended.stderr
    assert ended.document["plan"] == [{"name": "g1", "do": "set", "why": ""}]
    assert off_s(light_host, "g1") > 90


def test_sync_sets_only_what_is_off_and_says_so(agent: Agent, light_host: Host) -> None:
    agent.run("clock", "sync")
    step(light_host, "g1", -100)
    ended = agent.run("clock", "sync")
    assert ended.code == 0, ended.stdout
    assert ended.document["changed"] is True
    assert clock(ended, "g1")["offset_before_s"] == pytest.approx(-100, abs=1.1)
    assert (clock(ended, "g1")["synced"], clock(ended, "g1")["method"]) == (True, "agent")
    assert (clock(ended, "g2")["synced"], clock(ended, "g2")["method"]) == (True, None)
    assert off_s(light_host, "g1") < RIGHT_S
    again = agent.run("clock", "sync", "g1")
    assert again.document["changed"] is False


def test_a_clock_that_is_ahead_is_set_back(agent: Agent, light_host: Host) -> None:
    step(light_host, "g1", 100)
    assert agent.run("clock", "sync", "g1").code == 0
    assert off_s(light_host, "g1") < RIGHT_S


def test_a_guest_that_does_not_exist_is_refused(agent: Agent, light_host: Host) -> None:
    ended = agent.run("clock", "sync", "g1", "nobody")
    assert ended.code == 4
    assert "nobody" in ended.document["message"]


def test_a_threshold_leaves_small_offsets_alone(agent: Agent, light_host: Host) -> None:
    agent.run("clock", "sync", "g1")
    step(light_host, "g1", 3)
    ended = agent.run("clock", "sync", "g1", "--threshold", "10s")
    assert (ended.code, ended.document["changed"]) == (0, False)
    assert clock(ended, "g1")["synced"] is True


class TestWrongOnPurpose:
    def test_a_day_off_is_kept_through_a_pause(self, agent: Agent, light_host: Host) -> None:
        step(light_host, "g1", 86_400)
        before = light_host.guest("g1").clock().guest_minus_host_ns / 1e9
        ended = agent.run("run", "--guest", "g1", "--", "sleep", "2")
        after = light_host.guest("g1").clock().guest_minus_host_ns / 1e9
        assert ended.code == 0, ended.stdout
        assert after == pytest.approx(before, abs=0.006)
        assert clock(ended, "g1")["synced"] is True
        assert "purpose" in clock(ended, "g1")["reason"]

    def test_sync_leaves_it_alone_and_force_sets_it(self, agent: Agent, light_host: Host) -> None:
        step(light_host, "g1", -86_400)
        left = agent.run("clock", "sync", "g1")
        assert (left.code, left.document["changed"]) == (0, False)
        assert clock(left, "g1")["synced"] is None
        assert "--force" in clock(left, "g1")["reason"]
        forced = agent.run("clock", "sync", "g1", "--force")
        assert (forced.code, clock(forced, "g1")["synced"]) == (0, True)
        assert off_s(light_host, "g1") < RIGHT_S

    @pytest.mark.parametrize(
        ("attributes", "off_s"),
        [
            ("offset='variable' adjustment='3600' basis='utc'", lambda: 3600),
            ("offset='absolute' start='1000000000'", lambda: 1_000_000_000 - time.time()),
        ],
        ids=["variable", "absolute"],
    )
    def test_libvirts_offset_is_kept_and_its_adjustment_not_changed(
        self,
        make_light_lab: Callable[..., Lab],
        tmp_path: Path,
        marked_env: Mapping[str, str],
        attributes: str,
        off_s: Callable[[], float],
    ) -> None:
        host = make_light_lab(guests=[GuestSpec(clock=attributes)]).hosts[0]
        guest, agent = host.guests[0], Agent(host, tmp_path / "state", marked_env)
        stored = clock_element(guest)
        before = guest.clock().guest_minus_host_ns / 1e9
        assert before == pytest.approx(off_s(), abs=60)
        ended = agent.run("run", "--", "sleep", "2")
        after = guest.clock().guest_minus_host_ns / 1e9
        assert ended.code == 0, ended.stdout
        assert clock(ended, "g1")["synced"] is True
        assert "purpose" in clock(ended, "g1")["reason"]
        assert after == pytest.approx(before, abs=COARSE_S)
        assert clock_element(guest) == stored
        left = agent.run("clock", "sync")
        assert (clock(left, "g1")["synced"], left.document["changed"]) == (None, False)
        forced = agent.run("clock", "sync", "--force", "g1")
        assert (forced.code, clock(forced, "g1")["synced"]) == (0, True)
        assert off_s_of(guest) < RIGHT_S


def clock_element(guest: Guest) -> str:
    """libvirt's <clock> of the running guest."""
    description = guest.call("definition", lambda domain: domain.XMLDesc())
    found = ET.fromstring(description).find("clock")
    assert found is not None
    return str(sorted(found.attrib.items()))
