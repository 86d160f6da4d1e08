"""`host drain`, `restore`, `cordon`, `away` and `guest migrate` as commands: what they refuse, ask,
show and leave."""

import pytest

from lab import Lab
from lab.host import Host
from tests.run.tool import Agent, Ended


def _planned(ended: Ended) -> dict[str, dict[str, object]]:
    return {each["name"]: each for each in ended.document["plan"]["guests"]}


def _all_stay(lab: Lab) -> None:
    for guest in lab.guests:
        assert guest.where().running == (guest.home.name,), guest


def test_a_plan_shows_everybody_and_changes_nothing(
    mover: Agent, hosts: tuple[Host, Host], two_light_hosts: Lab
) -> None:
    mover.run("guest", "set", "g3", "on-reboot=none")
    shown = mover.run("host", "drain", "--to", hosts[1].uri, "--dry-run")
    assert (shown.code, shown.document["changed"]) == (0, False), shown
    plan = _planned(shown)
    assert plan["g1"]["methods"] == ["live"]
    assert plan["g1"]["to"] == hosts[1].uri
    assert plan["g3"]["do"] == "stay"
    assert "stay here" in str(plan["g3"]["reason"])
    refused = mover.run("host", "drain", "--to", hosts[1].uri, "--yes", "--all-or-nothing")
    assert (refused.code, refused.document["code"]) == (4, "refused")
    assert "g3" in refused.document["message"]
    _all_stay(two_light_hosts)
    assert mover.run("status").document["cordons"] == []


def test_nobody_is_moved_without_being_asked(
    mover: Agent, hosts: tuple[Host, Host], two_light_hosts: Lab
) -> None:
    ended = mover.run("host", "drain", "--to", hosts[1].uri)
    assert ended.code == 2
    assert "--yes" in ended.document["hint"]
    _all_stay(two_light_hosts)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("qemu:///session?socket=/nowhere/libvirt-sock", "/nowhere/libvirt-sock"),
        ("qemu+tcp://no.such.host.invalid/system", "no.such.host.invalid"),
    ],
)
def test_a_destination_that_is_not_there_is_refused(
    mover: Agent, two_light_hosts: Lab, uri: str, words: str
) -> None:
    ended = mover.run("host", "drain", "--to", uri, "--yes")
    assert (ended.code, ended.document["changed"]) == (4, False), ended
    assert words in ended.document["message"] + ended.document["hint"]
    _all_stay(two_light_hosts)


def test_a_host_is_not_drained_onto_itself(
    mover: Agent, hosts: tuple[Host, Host], two_light_hosts: Lab
) -> None:
    ended = mover.run("host", "drain", "--to", hosts[0].uri, "--yes")
    assert ended.code == 4, ended
    assert "same host UUID" in ended.document["message"]
    _all_stay(two_light_hosts)


def test_one_destination_of_two_is_enough(mover: Agent, hosts: tuple[Host, Host]) -> None:
    nowhere = "qemu:///session?socket=/nowhere/libvirt-sock"
    shown = mover.run("host", "drain", "--to", nowhere, "--to", hosts[1].uri, "--dry-run")
    assert shown.code == 0, shown
    assert any(nowhere in warning for warning in shown.document["warnings"])
    assert _planned(shown)["g1"]["to"] == hosts[1].uri


def test_a_guest_goes_there_and_back_by_its_name(
    mover: Agent, hosts: tuple[Host, Host], two_light_hosts: Lab
) -> None:
    guest = two_light_hosts.guest("g1")
    memory = guest.remember(4)
    ended = mover.run("guest", "migrate", "g1", "--to", hosts[1].uri)
    assert (ended.code, ended.document["schema"]) == (0, "hostagent.migrate/1"), ended
    told = ended.guest("g1")
    assert (told["result"], told["method"]) == ("moved", "live")
    assert 0 < told["downtime_s"] < told["total_s"]
    assert told["clock"]["synced"] is True
    assert guest.where().running == ("h2",)
    assert mover.run("host", "away").document["guests"] == []
    gone = mover.run("guest", "migrate", "g1", "--to", hosts[1].uri)
    assert (gone.code, gone.document["code"]) == (4, "refused")
    there = Agent(hosts[1], mover.state_dir, mover.env)
    back = there.run("guest", "migrate", guest.uuid, "--to", hosts[0].uri)
    there.end()
    assert back.code == 0, back
    assert guest.where().defined == ("h1",)
    assert guest.forgotten(memory) == []


def test_a_method_that_its_policy_does_not_allow_is_refused(
    mover: Agent, hosts: tuple[Host, Host], two_light_hosts: Lab
) -> None:
    ended = mover.run("guest", "migrate", "g1", "--to", hosts[1].uri, "--method", "cold")
    assert ended.code == 4, ended
    assert "not cold" in ended.document["message"]
    _all_stay(two_light_hosts)


def test_two_owners_of_a_cordon(mover: Agent) -> None:
    assert mover.run("host", "cordon", "--reason", "fan").document["changed"] is True
    assert mover.run("host", "cordon", "--reason", "fan").document["changed"] is False
    (cordon,) = mover.run("status").document["cordons"]
    assert (cordon["owner"], cordon["reason"]) == ("operator", "fan")
    assert mover.run("host", "uncordon", "--dry-run").document["changed"] is False
    assert mover.run("host", "uncordon").document["changed"] is True
    assert mover.run("host", "uncordon").document["changed"] is False


def test_a_drain_goes_on_and_a_restore_knows_who_is_lost(
    mover: Agent, hosts: tuple[Host, Host], two_light_hosts: Lab
) -> None:
    """g3 stays at first; g1 is removed by its owner while it is away."""
    mover.run("guest", "set", "g3", "on-reboot=none")
    partly = mover.run("host", "drain", "--to", hosts[1].uri, "--yes")
    assert (partly.code, partly.document["result"]) == (3, "partly"), partly
    mover.run("guest", "set", "g3", "on-reboot=live")
    rest = mover.run("host", "drain", "--to", hosts[1].uri, "--yes")
    assert (rest.code, [each["name"] for each in rest.document["guests"]]) == (0, ["g3"]), rest
    (cordon,) = mover.run("status").document["cordons"]
    assert cordon["owner"] == "drain"
    lost = two_light_hosts.guest("g1")
    lost.destroy()
    lost.call("undefine", lambda domain: domain.undefineFlags(0), on=hosts[1])
    back = mover.run("host", "restore")
    assert (back.code, back.document["result"]) == (3, "partly"), back
    assert "not on" in back.guest("g1")["reason"]
    assert back.guest("g2")["result"] == back.guest("g3")["result"] == "moved"
    assert mover.run("status").document["cordons"] == []
    assert [each["name"] for each in mover.run("host", "away").document["guests"]] == ["g1"]
    assert mover.run("host", "away", "--forget", "nobody").code == 4
    assert mover.run("host", "away", "--forget", "g1").document["changed"] is True
    nothing = mover.run("host", "restore")
    assert (nothing.code, nothing.document["guests"]) == (0, []), nothing
    lost.define()
