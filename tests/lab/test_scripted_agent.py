"""Agents that a test plays, as libvirt sees them."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from lab import Guest, GuestSort, GuestSpec, Lab, LabError
from lab.host import Host
from lab.processes import wait_until
from lab.scripted_agent import EVERY, LIES, ScriptedAgent, silent, wrong_id

S = 1_000_000_000
NEAR_NS = S // 5
LIMIT_S = 1
"""What libvirt waits for an agent here."""
FORGIVEN = ("negative", "huge", "text", "nested", "two answers", "an error")
UNFORGIVEN = ("NaN", "10 MiB")
"""After these libvirt asks no more until the agent was gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A guest whose agent is played, and what plays it."""

    host: Host
    guest: Guest
    agent: ScriptedAgent


@pytest.fixture
def stage(make_light_lab: Callable[..., Lab]) -> Iterator[Stage]:
    host = make_light_lab(guests=[GuestSpec(sort=GuestSort.SCRIPTED)]).hosts[0]
    guest = host.guests[0]
    assert not guest.agent_connected()
    with ScriptedAgent(guest) as agent:
        guest.call("limit", lambda domain: domain.agentSetResponseTimeout(LIMIT_S))
        yield Stage(host=host, guest=guest, agent=agent)


def time_ns(guest: Guest) -> int:
    """The guest's time by libvirt's getTime."""
    told = guest.call("getTime", lambda domain: domain.getTime())
    if told is None:
        raise LabError("no time")
    return int(told["seconds"]) * S + int(told["nseconds"])


def ask(guest: Guest, command: str, **arguments: object) -> dict[str, Any]:
    """What the agent returns for a command, raw."""
    request = json.dumps({"execute": command, "arguments": arguments})

    def work(domain: libvirt.virDomain) -> str:
        return libvirt_qemu.qemuAgentCommand(domain, request, LIMIT_S, 0)

    answer: dict[str, Any] = json.loads(guest.call(command, work))["return"]
    return answer


def is_honest(stage: Stage, offset_ns: int = 0) -> bool:
    return abs(time_ns(stage.guest) - time.time_ns() - offset_ns) < NEAR_NS


def is_right(stage: Stage) -> bool:
    """The same, where there may be no answer."""
    try:
        return is_honest(stage)
    except LabError:
        return False


def test_left_alone_it_is_honest_and_stays(stage: Stage) -> None:
    agent, guest = stage.agent, stage.guest
    agent.set_clock(-3600 * S)
    assert is_honest(stage, -3600 * S)
    now = {"seconds": int(time.time()) + 50, "nseconds": 0}
    guest.call("setTime", lambda domain: domain.setTime(now))
    assert abs(agent.offset_ns - 50 * S) < S + NEAR_NS
    with pytest.raises(LabError, match="Command guest-exec has been disabled"):
        ask(guest, "guest-exec", path="date")
    agent.disabled.clear()
    wanted = time.time() + 7.25
    pid = ask(guest, "guest-exec", path="date", arg=["-u", "-s", f"@{wanted:.9f}"])["pid"]
    assert ask(guest, "guest-exec-status", pid=pid) == {"exited": True, "exitcode": 0}
    assert abs(agent.offset_ns - 7.25 * S) < NEAR_NS
    agent.date_has_fractions = False
    pid = ask(guest, "guest-exec", path="date", arg=["-u", "-s", "@1.5"])["pid"]
    assert ask(guest, "guest-exec-status", pid=pid)["exitcode"] == 1
    agent.disabled.add("guest-set-time")
    with pytest.raises(LabError, match="Command guest-set-time has been disabled"):
        guest.call("setTime", lambda domain: domain.setTime(now))
    offered = ask(guest, "guest-info")["supported_commands"]
    assert {each["name"] for each in offered if not each["enabled"]} == {"guest-set-time"}
    with pytest.raises(LabError, match="The command guest-fsfreeze-thaw has not been found"):
        ask(guest, "guest-fsfreeze-thaw")
    assert agent.asked.count("guest-set-time") == 2
    assert agent.asked[-1] == "guest-fsfreeze-thaw"

    stage.host.restart_libvirtd()
    agent.set_clock(0)
    wait_until(lambda: is_right(stage), 5, "libvirtd's return")
    guest.suspend()
    guest.resume()
    assert is_honest(stage)


def test_it_lies_hangs_and_is_late(stage: Stage) -> None:
    agent, guest = stage.agent, stage.guest
    for name in FORGIVEN:
        agent.replies["guest-get-time"] = LIES[name]
        assert not is_right(stage), name
        assert agent.asked[-1] == "guest-get-time"
        agent.replies.clear()
        wait_until(lambda: is_right(stage), 5, f"honesty after {name}")
    for replies in ({EVERY: silent}, {"guest-get-time": agent.late(1.2)}):
        agent.replies = dict(replies)
        with pytest.raises(LabError, match="not responding"):
            time_ns(guest)
        agent.replies.clear()
        wait_until(lambda: is_right(stage), 5, "honesty")
    agent.drip_s = 0.2
    with pytest.raises(LabError, match="not responding"):
        time_ns(guest)


def test_it_comes_and_goes_like_an_agent(stage: Stage) -> None:
    agent, guest = stage.agent, stage.guest
    agent.disconnect()
    with pytest.raises(LabError, match="not connected"):
        time_ns(guest)
    agent.replies = {"guest-sync": wrong_id, "guest-sync-delimited": wrong_id}
    agent.connect()
    with pytest.raises(LabError, match="not responding"):
        time_ns(guest)
    assert "guest-get-time" not in agent.asked
    agent.replies.clear()
    wait_until(lambda: is_right(stage), 10, "honesty")
    for name in UNFORGIVEN:
        agent.replies["guest-get-time"] = LIES[name]
        assert not is_right(stage), name
        agent.replies.clear()
        agent.disconnect()
        agent.connect()
        wait_until(lambda: is_right(stage), 5, f"honesty after {name}")
    guest.restore()
    assert not guest.agent_port_open()
