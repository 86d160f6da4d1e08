"""Guests whose owners don't let them be paused: refused, forced, or on a spare host meanwhile."""

from collections.abc import Callable

from lab import Guest, Lab, MoveWitness
from lab.host import Host
from tests.run.tool import Agent


def test_a_guest_that_can_not_stand_a_pause_is_elsewhere_meanwhile(
    mover: Agent,
    hosts: tuple[Host, Host],
    two_light_hosts: Lab,
    move_witness: Callable[[Guest], MoveWitness],
) -> None:
    spared = two_light_hosts.guest("g1")
    mover.run("guest", "set", "g1", "on-pause=migrate")
    refused = mover.run("run", "--", "true")
    assert (refused.code, refused.document["code"]) == (4, "refused")
    assert "--spare" in refused.document["hint"]

    shown = mover.run("run", "--spare", hosts[1].uri, "--dry-run", "--", "true")
    assert shown.code == 0, shown
    assert [each["name"] for each in shown.document["spare"]["guests"]] == ["g1"]
    assert "g1" not in {each["name"] for each in shown.document["plan"]["guests"]}

    memory = spared.remember(4)
    seen = move_witness(spared)
    ended = mover.run("run", "--spare", hosts[1].uri, "--", "sleep", "2")
    assert ended.document["spare"]["back"]["reason"] == ""
    assert (ended.code, ended.document["result"]) == (0, "done"), ended
    assert {each["name"] for each in ended.document["guests"]} == {"g2", "g3"}
    for way, host in (("away", hosts[1]), ("back", hosts[0])):
        (told,) = ended.document["spare"][way]["guests"]
        assert (told["name"], told["result"], told["to"]) == ("g1", "moved", host.uri)
    stood_still_s = [(pause.duration_ns or 0) / 1e9 for pause in seen.pauses()]
    assert len(stood_still_s) == 2
    assert max(stood_still_s) < 1.5
    assert spared.where().running == spared.where().defined == ("h1",)
    assert spared.forgotten(memory) == []
    assert mover.run("host", "away").document["guests"] == []


def test_without_a_spare_host_that_answers_nothing_is_done(
    mover: Agent, two_light_hosts: Lab
) -> None:
    mover.run("guest", "set", "g1", "on-pause=migrate")
    nowhere = "qemu:///session?socket=/nowhere/libvirt-sock"
    ended = mover.run("run", "--spare", nowhere, "--", "true")
    assert (ended.code, ended.document["changed"]) == (4, False), ended
    assert two_light_hosts.guest("g1").where().running == ("h1",)


def test_what_came_of_the_update_is_told_though_the_way_back_is_closed(
    mover: Agent, hosts: tuple[Host, Host], two_light_hosts: Lab
) -> None:
    spared = two_light_hosts.guest("g1")
    mover.run("guest", "set", "g1", "on-pause=migrate")
    kill = ["sh", "-c", f"kill -KILL {hosts[1].libvirtd_pid()}"]
    ended = mover.run("run", "--spare", hosts[1].uri, "--", *kill)
    assert (ended.code, ended.document["result"]) == (3, "done"), ended
    assert any("host restore" in warning for warning in ended.document["warnings"])
    assert [each["name"] for each in mover.run("host", "away").document["guests"]] == ["g1"]
    hosts[1].start_libvirtd()
    assert mover.run("host", "restore").code == 0
    assert spared.where().running == ("h1",)


def test_an_owner_can_be_overruled(mover: Agent) -> None:
    mover.run("guest", "set", "g1", "on-pause=ask", "max-pause=1s")
    assert mover.run("run", "--", "true").code == 4
    forced = mover.run("run", "--force", "--", "true")
    assert forced.code == 0, forced
    assert forced.guest("g1")["result"] == "paused"
