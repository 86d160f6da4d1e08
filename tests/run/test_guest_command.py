"""`hostagent guest list|show|set` on real guests, judged by the definitions that libvirt gives."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress

import libvirt
import pytest

from lab import LabError, Witness
from lab.host import Host
from tests.run.commands import error_of, nobody_stopped, run_words, table_words
from tests.run.tool import Agent, Ended

NAMESPACE = "urn:hostagent:guest:1"
STORED = libvirt.VIR_DOMAIN_XML_INACTIVE
LIVE, CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
KEYS = ["owner", "availability-set", "update-domain", "scale-set", "on-pause", "on-reboot"]


@pytest.fixture(autouse=True)
def _clean(light_host: Host) -> Iterator[None]:
    """The lab defines its guests anew; what a running one has in its metadata would stay."""
    yield
    for guest in light_host.guests:
        with suppress(LabError):
            guest.call("cleaning", clean)


def clean(domain: libvirt.virDomain) -> None:
    for flag in (LIVE, CONFIG):
        with suppress(libvirt.libvirtError):
            put(domain, None, flag)


def put(domain: libvirt.virDomain, text: str | None, flag: int = LIVE | CONFIG) -> None:
    kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    domain.setMetadata(kind, text, "hostagent", NAMESPACE, flag)


def definitions(host: Host, name: str) -> tuple[str, str]:
    """The running and the stored one."""
    return host.guest(name).call(
        "reading", lambda domain: (domain.XMLDesc(), domain.XMLDesc(STORED))
    )


def guest_of(ended: Ended) -> dict:
    assert ended.document["schema"] == "hostagent.guest/1"
    return ended.document["guest"]


def test_a_policy_is_set_shown_and_listed(agent: Agent, light_host: Host) -> None:
    words = ("on-reboot=cold,live", "owner=ops", "availability-set=web", "update-domain=3")
    ended = agent.run("guest", "set", "g1", *words, "max-pause=500ms")
    assert ended.code == 0, ended.stdout
    assert ended.document["changed"] is True
    assert ended.document["warnings"] == []
    assert {"key": "on-reboot", "from": "live", "to": "live,cold"} in ended.document["changes"]
    for text in definitions(light_host, "g1"):
        assert "<hostagent:on-reboot>live,cold</hostagent:on-reboot>" in text
    shown = agent.run("guest", "show", "g1")
    assert shown.document["changed"] is False
    assert guest_of(shown) == guest_of(ended)
    assert guest_of(shown)["policy"] == {
        "owner": "ops",
        "availability_set": "web",
        "update_domain": 3,
        "scale_set": None,
        "on_pause": "allow",
        "on_reboot": ["live", "cold"],
        "max_pause_s": 0.5,
        "notice_s": None,
        "temporary_disks": [],
    }
    assert guest_of(shown)["defaults"] == ["scale-set", "on-pause", "notice", "temporary-disks"]
    listed = agent.run("guest", "list")
    assert listed.document["schema"] == "hostagent.guest-list/1"
    assert listed.document["host"]["uuid"] == light_host.uuid
    assert listed.guest("g1") == guest_of(shown)
    assert [guest["name"] for guest in listed.document["guests"]] == ["g1", "g2", "g3", "g4"]
    assert len(listed.guest("g2")["defaults"]) == 9


def test_what_is_so_already_changes_nothing(agent: Agent, light_host: Host) -> None:
    assert agent.run("guest", "set", "g1", "owner=ops").document["changed"] is True
    before = definitions(light_host, "g1")
    again = agent.run("guest", "set", "g1", "owner=ops", "on-pause=allow")
    assert (again.code, again.document["changed"], again.document["changes"]) == (0, False, [])
    assert definitions(light_host, "g1") == before


def test_a_dry_run_changes_nothing_and_says_what_would_be(agent: Agent, light_host: Host) -> None:
    before = definitions(light_host, "g1")
    ended = agent.run("guest", "set", "g1", "owner=ops", "--dry-run")
    assert (ended.code, ended.document["changed"], ended.document["dry_run"]) == (0, False, True)
    assert ended.document["changes"] == [{"key": "owner", "from": "", "to": "ops"}]
    assert guest_of(ended)["policy"]["owner"] == "ops"
    assert definitions(light_host, "g1") == before


def test_an_empty_value_brings_the_default_back(agent: Agent, light_host: Host) -> None:
    agent.run("guest", "set", "g1", "owner=ops", "on-reboot=none")
    ended = agent.run("guest", "set", "g1", "owner=", "on-reboot=")
    assert guest_of(ended)["policy"]["on_reboot"] == ["live"]
    assert len(guest_of(ended)["defaults"]) == 9
    assert NAMESPACE not in "".join(definitions(light_host, "g1"))


def test_names_uuids_and_ids(agent: Agent, light_host: Host) -> None:
    guest = light_host.guest("g1")
    number = guest.call("id", lambda domain: domain.ID())
    for selector in (guest.uuid, guest.uuid.upper(), str(number)):
        assert guest_of(agent.run("guest", "show", selector))["name"] == "g1"
    assert agent.run("guest", "set", str(number), "owner=ops").document["changed"] is True


def test_a_guest_that_is_off(agent: Agent, light_host: Host) -> None:
    light_host.guest("g3").destroy()
    assert agent.run("guest", "set", "g3", "owner=ops").document["changed"] is True
    assert guest_of(agent.run("guest", "show", "g3"))["state"] == "shut off"
    light_host.guest("g3").start()
    assert guest_of(agent.run("guest", "show", "g3"))["policy"]["owner"] == "ops"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("ownr=ops",), "did you mean owner"),
        (("owner=ops", "on-reboot=life"), "on-reboot=live"),
        (("owner",), "did you mean owner"),
        (("owner=a", "owner=b"), "once"),
        (("update-domain=20",), "update-domain="),
        ((), "--help"),
    ],
)
def test_bad_input_is_refused_with_a_suggestion(
    agent: Agent, light_host: Host, words: tuple[str, ...], hint: str
) -> None:
    before = definitions(light_host, "g1")
    ended = agent.run("guest", "set", "g1", *words)
    assert ended.code == 2, ended.stdout
    assert hint in error_of(ended)["hint"]
    assert error_of(ended)["changed"] is False
    assert definitions(light_host, "g1") == before


@pytest.mark.parametrize("words", [("show", "nobody"), ("set", "nobody", "owner=ops")])
def test_an_unknown_guest_is_refused(agent: Agent, words: tuple[str, ...]) -> None:
    ended = agent.run("guest", *words)
    assert ended.code == 4
    assert "nobody" in error_of(ended)["message"]


def test_an_update_domain_alone_is_warned_of(agent: Agent, light_host: Host) -> None:
    ended = agent.run("guest", "set", "g1", "update-domain=3")
    assert ended.code == 0
    assert "availability set" in ended.document["warnings"][0]
    assert "g1: " in agent.run("guest", "list").document["warnings"][0]


def test_what_somebody_else_wrote_wrongly_is_that_guests_problem(
    agent: Agent, light_host: Host
) -> None:
    light_host.guest("g1").call(
        "writing", lambda domain: put(domain, "<guest><owner/><a/></guest>")
    )
    light_host.guest("g2").call(
        "writing", lambda domain: put(domain, "<guest><on-pause>never</on-pause></guest>")
    )
    light_host.guest("g3").call("writing", lambda domain: put(domain, f"<x>{'y' * 10**6}</x>"))
    listed = agent.run("guest", "list")
    assert listed.code == 0
    assert "does not know a" in listed.guest("g1")["problems"][0]
    assert "'never'" in listed.guest("g2")["problems"][0]
    assert "longer than" in listed.guest("g3")["problems"][0]
    assert listed.guest("g4")["problems"] == []
    other = agent.run("guest", "set", "g2", "owner=ops")
    assert "'never'" in guest_of(other)["problems"][0]
    right = agent.run("guest", "set", "g2", "on-pause=allow")
    assert guest_of(right)["problems"] == []
    assert right.document["changed"] is True
    assert "put right" in right.document["warnings"][0]


def test_the_breadcrumb_of_a_move_is_shown_and_kept(agent: Agent, light_host: Host) -> None:
    home = "host-uuid='0a1b2c3d-1111-2222-3333-444455556666' host-name='h9' since='2026-11-25'"
    light_host.guest("g1").call(
        "writing", lambda domain: put(domain, f"<guest><home {home}/></guest>")
    )
    ended = agent.run("guest", "set", "g1", "owner=ops")
    assert guest_of(ended)["home"] == {
        "host_uuid": "0a1b2c3d-1111-2222-3333-444455556666",
        "host_name": "h9",
        "since": "2026-11-25",
    }
    shown = run_words(agent, table_words(agent, "guest", "show", "g1"))
    assert "Away since 2026-11-25 from its host h9 (0a1b2c3d-" in shown.stdout


def test_a_guest_that_a_job_holds_is_refused_at_once(agent: Agent, light_host: Host) -> None:
    guest = light_host.guest("g3")
    guest.freeze()
    try:
        with subprocess.Popen(
            ["virsh", "-c", light_host.uri, "managedsave", "g3"], stderr=subprocess.DEVNULL
        ) as saving:
            _wait_held(light_host)
            ended = agent.run("guest", "set", "g3", "owner=ops")
            guest.thaw()
            saving.wait(60)
    finally:
        if guest.frozen():
            guest.thaw()
    assert ended.code == 4, ended.stdout
    assert "g3 is held by" in error_of(ended)["message"]


def _wait_held(host: Host) -> None:
    from lab.processes import wait_until

    guest = host.guest("g3")
    ok = libvirt.VIR_DOMAIN_CONTROL_OK
    wait_until(
        lambda: guest.call("control", lambda domain: domain.controlInfo()[0]) != ok, 10, "the save"
    )


def test_a_frozen_libvirtd_is_given_up(agent: Agent, light_host: Host) -> None:
    light_host.freeze()
    try:
        ended = agent.run("guest", "set", "g1", "owner=ops")
        wrong = agent.run("guest", "set", "g1", "ownr=ops")
    finally:
        light_host.thaw()
    assert ended.code == 4
    assert error_of(ended)["code"] == "libvirt-unreachable"
    assert wrong.code == 2


def test_the_tables(agent: Agent, light_host: Host) -> None:
    agent.run("guest", "set", "g1", "availability-set=web", "update-domain=3", "on-reboot=none")
    listed = run_words(agent, table_words(agent, "guest", "list"))
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert lines[0] == ["GUEST", "STATE", "SET", "UD", "ON-PAUSE", "ON-REBOOT", "PROBLEMS"]
    assert lines[1] == ["g1", "running", "web", "3", "allow", "none", "-"]
    assert lines[2] == ["g2", "running", "-", "-", "allow", "live", "-"]
    shown = run_words(agent, table_words(agent, "guest", "show", "g1"))
    assert "\\" not in shown.stdout
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["on-reboot", "none"] in lines
    assert ["on-pause", "allow", "default"] in lines
    assert ["owner", "-", "default"] in lines
    dry = run_words(agent, table_words(agent, "guest", "set", "g1", "owner=ops", "--dry-run"))
    assert dry.stdout == "g1: owner would be ops (was -)\n"
    done = run_words(agent, table_words(agent, "guest", "set", "g1", "owner=ops"))
    assert done.stdout == "g1: owner is now ops (was -)\n"
    again = run_words(agent, table_words(agent, "guest", "set", "g1", "owner=ops"))
    assert again.stdout == "g1: nothing to change\n"


def test_no_guest_is_disturbed(agent: Agent, witnesses: Mapping[str, Witness]) -> None:
    agent.run("guest", "set", "g1", "owner=ops")
    agent.run("guest", "list")
    assert nobody_stopped(witnesses)


def test_help_loads_no_xml() -> None:
    program = (
        "import sys; from hostagent.cli import cli;"
        "cli.main(['guest', 'set', '--help'], standalone_mode=False);"
        "sys.exit('lxml' in sys.modules or 'libvirt' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for key in KEYS:
        assert f"{key}=" in done.stdout
