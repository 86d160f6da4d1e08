"""Agents that hang, restart, refuse or fight while clocks are set, and what is said of it. Real
agents in real guests; clocks are judged by readings from inside, without any agent."""

import signal
import time
from collections.abc import Iterator

import pytest

from lab import Guest
from lab.host import Host
from lab.light import LightHost
from tests.run.faults import wait_row
from tests.run.test_clock import RIGHT_S, clock, off_s, step
from tests.run.tool import Agent, wait_for

QEMU_GA = "qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run"


@pytest.fixture
def g1(light_host: Host) -> Iterator[Guest]:
    """A guest whose agent, hwclock and clock are put back afterwards."""
    guest = light_host.guest("g1")
    step(light_host, "g1", 0)
    yield guest
    put_back = (
        "kill -CONT $(pidof qemu-ga); ln -sf /bin/busybox /sbin/hwclock; rm -f /run/corrector;"
        "echo 1 >/run/agent-respawn; killall -q qemu-ga sleep; true"
    )
    guest.shell(put_back)
    guest.wait_agent()


def hwclock(guest: Guest, script: str) -> None:
    """Replace the guest's hwclock by this script."""
    text = f"printf '#!/bin/sh\\n{script}\\n' >/run/hwclock; chmod +x /run/hwclock"
    guest.shell(f"{text}; ln -sf /run/hwclock /sbin/hwclock")


def start_agent_without(guest: Guest, *commands: str) -> None:
    """Restart the guest's agent with these commands disabled."""
    guest.shell(
        "echo 1000 >/run/agent-respawn; kill $(pidof qemu-ga); sleep 0.2;"
        f"{QEMU_GA} -b {','.join(commands)} </dev/null >/dev/null 2>&1 &"
    )
    guest.wait_agent()


def test_an_agent_that_is_stopped_delays_nobody(agent: Agent, light_host: Host, g1: Guest) -> None:
    g1.shell("kill -STOP $(pidof qemu-ga)")
    began = time.monotonic()
    ended = agent.run("run", "--", "sleep", "2")
    assert time.monotonic() - began < 20
    assert ended.code == 0, ended.stdout
    assert clock(ended, "g1")["synced"] is False
    assert "does not answer" in clock(ended, "g1")["reason"]
    assert clock(ended, "g2")["synced"] is True
    assert off_s(light_host, "g2") < RIGHT_S


def test_an_agent_that_comes_back_late_is_awaited(
    agent: Agent, light_host: Host, g1: Guest
) -> None:
    """C5: the time to set was taken before the wait."""
    g1.shell("echo 4 >/run/agent-respawn; kill $(pidof qemu-ga)")
    ended = agent.run("run", "--", "sleep", "2")
    assert off_s(light_host, "g1") < RIGHT_S
    assert ended.code == 0, ended.stdout
    assert (clock(ended, "g1")["synced"], clock(ended, "g1")["method"]) == (True, "agent")


def test_an_agent_that_does_not_come_back_has_its_reason(
    agent: Agent, light_host: Host, g1: Guest
) -> None:
    g1.shell("echo 1000 >/run/agent-respawn; kill $(pidof qemu-ga)")
    ended = agent.run("run", "--agent-wait", "500ms", "--", "sleep", "1")
    assert ended.code == 0, ended.stdout
    assert clock(ended, "g1")["synced"] is False
    assert "not connected" in clock(ended, "g1")["reason"]
    g1.shell(f"{QEMU_GA} </dev/null >/dev/null 2>&1 &")
    later = agent.run("clock", "sync", "g1", "--wait")
    assert (later.code, clock(later, "g1")["synced"]) == (0, True)
    assert off_s(light_host, "g1") < RIGHT_S


def test_a_hwclock_that_fails_has_set_the_clock_all_the_same(
    agent: Agent, light_host: Host, g1: Guest
) -> None:
    hwclock(g1, "exit 1")
    step(light_host, "g1", -50)
    ended = agent.run("clock", "sync", "g1")
    assert ended.code == 0, ended.stdout
    assert off_s(light_host, "g1") < RIGHT_S
    assert (clock(ended, "g1")["synced"], clock(ended, "g1")["method"]) == (True, "agent")
    assert "hwclock" in clock(ended, "g1")["reason"]


def test_a_slow_hwclock_is_waited_for_and_judged_by_reading(
    agent: Agent, light_host: Host, g1: Guest
) -> None:
    hwclock(g1, "sleep 4")
    step(light_host, "g1", -50)
    ended = agent.run("clock", "sync", "g1")
    assert off_s(light_host, "g1") < RIGHT_S
    assert clock(ended, "g1")["synced"] is True, ended.stdout


def test_guest_set_time_disabled_falls_back_to_date(
    agent: Agent, light_host: Host, g1: Guest
) -> None:
    start_agent_without(g1, "guest-set-time")
    step(light_host, "g1", -50)
    ended = agent.run("clock", "sync", "g1")
    assert ended.code == 0, ended.stdout
    assert (clock(ended, "g1")["synced"], clock(ended, "g1")["method"]) == (True, "date-seconds")
    assert off_s(light_host, "g1") < 0.03


def test_all_ways_disabled_is_partly_done_with_both_reasons(
    agent: Agent, light_host: Host, g1: Guest
) -> None:
    start_agent_without(g1, "guest-set-time", "guest-exec")
    ended = agent.run("run", "--guest", "g1", "--", "sleep", "1")
    assert (ended.code, ended.document["result"]) == (3, "partly"), ended.stdout
    assert clock(ended, "g1")["synced"] is False
    assert "guest-set-time" in clock(ended, "g1")["reason"]
    assert "guest-exec" in clock(ended, "g1")["reason"]


def test_something_else_that_steps_the_clock_doubles_nothing(
    agent: Agent, light_host: Host, g1: Guest
) -> None:
    """C7: the guest corrects itself from its RTC, which went on, at its own moment."""
    loop = (
        "touch /run/corrector; hwclock -w -u; while [ -e /run/corrector ]; do "
        "r=$(cat /sys/class/rtc/rtc0/since_epoch); n=$(date +%s);"
        "[ $((r-n)) -gt 1 ] && date -s @$r; sleep 0.1; done"
    )
    g1.shell(f"({loop}) </dev/null >/dev/null 2>&1 &")
    for _ in range(3):
        ended = agent.run("run", "--guest", "g1", "--", "sleep", "3")
        told, off = clock(ended, "g1"), off_s(light_host, "g1")
        assert off < RIGHT_S or "something else" in told["reason"], (told, off)
        assert off < 2


def test_after_a_kill_the_clocks_are_set_by_recover(
    agent: Agent, light_host: Host, g1: Guest
) -> None:
    process = agent.start("run", "--", "sleep", "5")
    wait_row(agent, "intent", "apply")
    time.sleep(1)
    process.kill()
    process.wait(10)
    wait_for(lambda: g1.status() == "running", 5, "the guardian's resume")
    assert off_s(light_host, "g1") > 0.5
    ended = agent.run("recover")
    assert ended.code == 0, ended.stdout
    assert off_s(light_host, "g1") < RIGHT_S
    (run,) = ended.document["runs"]
    clocks = {guest["name"]: guest["clock"] for guest in run["guests"]}
    assert clocks["g1"]["synced"] is True


def test_libvirtd_restarted_while_clocks_are_set(
    agent: Agent, light_host: LightHost, g1: Guest
) -> None:
    process = agent.start("run", "--", "sleep", "2")
    wait_row(agent, "intent", "clocks")
    light_host.kill_libvirtd(signal.SIGKILL)
    light_host.start_libvirtd()
    ended = agent.wait(process)
    assert off_s(light_host, "g1") < RIGHT_S
    assert off_s(light_host, "g2") < RIGHT_S
    assert ended.code == 0, ended.stdout
    assert clock(ended, "g1")["synced"] is True
