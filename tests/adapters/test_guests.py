"""Guests as libvirt knows them, judged by virsh and by what the lab knows of their processes."""

import subprocess
import threading
import time
from contextlib import suppress

import libvirt
import pytest

from hostagent.adapters.libvirt import words
from hostagent.adapters.libvirt.guests import LibvirtGuests, clock_definition
from hostagent.core.clock import ClockDefinition
from hostagent.core.errors import LibvirtUnreachableError, RefusedError
from hostagent.core.model import AgentState, Facts, Guest, GuestState
from lab import Lab
from lab.host import Host
from lab.processes import wait_until
from tests.conftest import Audit
from tests.lab.test_moving import abort, start_move

S = 1_000_000_000


def by_name(facts: Facts) -> dict[str, Guest]:
    return {guest.name: guest for guest in facts.guests}


def seen(host: Host, name: str) -> Guest:
    return by_name(LibvirtGuests(host.uri).facts())[name]


def virsh(host: Host, *words_: str) -> str:
    done = subprocess.run(
        ["virsh", "-c", host.uri, *words_], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_facts_name_host_daemon_and_all_guests(light_host: Host, facts: Facts) -> None:
    assert facts.host.uuid == light_host.uuid
    assert facts.host.uri == light_host.uri
    assert facts.host.daemon is not None
    assert facts.host.daemon.pid == light_host.libvirtd_pid()
    assert facts.host.qmp.allowed
    assert [guest.name for guest in facts.guests] == ["g1", "g2", "g3", "g4"]


def test_a_guest_has_its_process_and_libvirts_own_monitor(light_host: Host, facts: Facts) -> None:
    for guest in facts.guests:
        assert guest.process is not None
        assert guest.process.pid == light_host.guest(guest.name).qemu_pid()
        assert guest.process.domain_id == int(virsh(light_host, "domid", guest.name))
        assert guest.monitor.endswith(
            f"/domain-{guest.process.domain_id}-{guest.name}/monitor.sock"
        )


def test_agents_are_told_by_their_channel(facts: Facts) -> None:
    agents = {guest.name: guest.agent for guest in facts.guests}
    assert agents == {
        "g1": AgentState.CONNECTED,
        "g2": AgentState.CONNECTED,
        "g3": AgentState.NONE,
        "g4": AgentState.CONNECTED,
    }


@pytest.mark.parametrize(
    ("written", "offset", "adjustment_s"),
    [
        ("", "utc", 0),
        ("<clock offset='utc'/>", "utc", 0),
        ("<clock offset='utc' adjustment='reset'/>", "utc", 0),
        ("<clock offset='localtime'><timer name='hpet' present='yes'/></clock>", "localtime", 0),
        ("<clock offset='timezone' timezone='Europe/Paris'/>", "timezone", 0),
        ("<clock offset='variable' adjustment='-3600' basis='utc'/>", "variable", -3600),
        ("<clock offset='variable' adjustment='7' basis='localtime'/>", "variable", 7),
        ("<clock offset='absolute' start='1000000000'/>", "absolute", 0),
    ],
)
def test_a_clocks_definition_is_read(written: str, offset: str, adjustment_s: int) -> None:
    definition = clock_definition(f"<domain><name>g</name>{written}</domain>")
    assert definition == ClockDefinition(offset=offset, adjustment_s=adjustment_s)


def test_every_guest_has_its_clocks_definition(facts: Facts) -> None:
    assert {guest.clock for guest in facts.guests} == {ClockDefinition(offset="utc")}


def test_states_and_reasons_are_virshs_words(light_host: Host, audit: Audit) -> None:
    guest = light_host.guest("g1")
    guest.suspend()
    assert str(seen(light_host, "g1").state) == "paused"
    assert virsh(light_host, "domstate", "g1", "--reason") == "paused (user)"
    assert seen(light_host, "g1").reason == words.USER
    guest.resume()
    light_host.guest("g3").destroy()
    off = seen(light_host, "g3")
    assert f"{off.state} ({off.reason})" == virsh(light_host, "domstate", "g3", "--reason")
    assert off.process is None
    assert off.monitor == ""
    light_host.guest("g4").sleep()
    assert seen(light_host, "g4").state is GuestState.ASLEEP
    audit.expect_paused(light_host.guest("g4"))


def test_a_crashed_guest_is_crashed(light_host: Host) -> None:
    light_host.guest("g3").crash()
    found = seen(light_host, "g3")
    assert f"{found.state} ({found.reason})" == virsh(light_host, "domstate", "g3", "--reason")
    light_host.guest("g3").destroy()


def test_a_running_job_is_named(light_host: Host) -> None:
    guest = light_host.guest("g1")
    saving = threading.Thread(
        target=lambda: guest.call("save", lambda domain: domain.managedSave(0))
    )
    saving.start()
    reader = LibvirtGuests(light_host.uri)
    jobs: set[str] = set()

    def over() -> bool:
        found = reader.look([guest.uuid], 5 * S)[guest.uuid]
        jobs.add(found.job)
        return found.state is GuestState.SHUT_OFF

    wait_until(over, 30, "the end of the save")
    saving.join()
    assert "save" in jobs
    assert reader.look([guest.uuid], 5 * S)[guest.uuid].reason == "saved"


def test_a_hung_qemu_holds_up_nobody(light_host: Host) -> None:
    guest = light_host.guest("g2")
    guest.freeze()

    def suspend() -> None:
        with suppress(Exception):
            guest.call("suspend", lambda domain: domain.suspend(), timeout_s=40)

    stuck = threading.Thread(target=suspend)
    stuck.start()
    conn = libvirt.open(light_host.uri)
    domain = conn.lookupByName("g2")
    wait_until(
        lambda: domain.controlInfo()[0] == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED, 5, "stuck call"
    )
    began = time.monotonic()
    found = by_name(LibvirtGuests(light_host.uri).facts())
    assert time.monotonic() - began < 1.0
    assert found["g2"].job == words.UNANSWERED
    assert [found[name].job for name in ("g1", "g3", "g4")] == ["", "", ""]
    guest.thaw()
    stuck.join()
    guest.resume()
    conn.close()


def test_look_leaves_out_what_is_not_there(light_host: Host, facts: Facts) -> None:
    uuid = facts.guests[0].uuid
    nobody = "00000000-1111-2222-3333-444444444444"
    assert set(LibvirtGuests(light_host.uri).look([uuid, nobody], 2 * S)) == {uuid}


def test_look_waits_for_a_libvirt_that_restarts(light_host: Host, facts: Facts) -> None:
    reader = LibvirtGuests(light_host.uri)
    uuid = facts.guests[0].uuid
    assert reader.look([uuid], 2 * S)
    light_host.kill_libvirtd()
    starting = threading.Timer(0.3, light_host.start_libvirtd)
    starting.start()
    assert reader.look([uuid], 10 * S)[uuid].runs
    starting.join()


def test_a_frozen_libvirt_is_told_in_time(light_host: Host) -> None:
    light_host.freeze()
    began = time.monotonic()
    with pytest.raises(LibvirtUnreachableError) as caught:
        LibvirtGuests(light_host.uri).facts()
    assert time.monotonic() - began < 3.5
    assert str(light_host.socket) in caught.value.message
    assert "restart" in caught.value.hint
    light_host.thaw()


def test_a_dead_libvirt_is_told_at_once(light_host: Host) -> None:
    light_host.kill_libvirtd()
    began = time.monotonic()
    with pytest.raises(LibvirtUnreachableError) as caught:
        LibvirtGuests(light_host.uri).facts()
    assert time.monotonic() - began < 0.5
    assert str(light_host.socket) in caught.value.message
    light_host.start_libvirtd()


def test_a_remote_host_is_refused_before_anything_is_opened() -> None:
    began = time.monotonic()
    with pytest.raises(RefusedError):
        LibvirtGuests("qemu+ssh://nowhere.invalid/system").facts()
    assert time.monotonic() - began < 0.1


def test_a_guest_that_arrives_has_a_job_on_both_hosts(two_light_hosts: Lab) -> None:
    source, destination = two_light_hosts.hosts
    guest = two_light_hosts.guest("g1")
    with start_move(guest, source, destination, mib_s=2) as moving:
        expected = [(source, "migration"), (destination, "incoming migration")]
        for host, job in expected:
            wait_until(lambda h=host, j=job: seen(h, "g1").job == j, 5, f"{job} on {host.name}")
        abort(guest, source, moving)
