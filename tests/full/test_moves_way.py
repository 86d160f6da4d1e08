"""The way between two real hosts: names that nobody knows, certificates, and a link that breaks."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Guest, LabError, MoveWitness
from lab.certificates import Authority
from lab.qmp import ask
from tests.full.moving import TCP, TLS, Pair, all_moved, images, listen, reads_file, write_file
from tests.run.killing import catch
from tests.run.tool import wait_for

pytestmark = [pytest.mark.full, pytest.mark.campaign]

CUT_S = 20


def test_a_host_that_calls_itself_what_nobody_knows(pair: Pair) -> None:
    """Its own name is never used for the way there or back."""
    pair.second.run("hostname", "nobody-knows-me")
    try:
        all_moved(
            pair.agent.run(
                "host", "drain", "--to", f"qemu+tcp://{pair.second.address}/system", "--yes"
            )
        )
        all_moved(pair.agent.run("host", "restore"))
    finally:
        pair.second.run("hostname", "h2")


def test_certificates_for_names_alone(pair: Pair, tmp_path: Path) -> None:
    """The stream goes to an address all the same. The way home, by this host's address, is refused
    with a reason; by its name it works."""
    authority = Authority(tmp_path / "names")
    for host in (pair.first, pair.second):
        host.listen(authority, by_address=False)
    all_moved(pair.agent.run("host", "drain", "--to", TLS, "--yes"))
    stays = pair.agent.run("host", "restore")
    assert (stays.code, stays.guest("g1")["result"]) == (3, "not-moved"), stays.stdout
    assert "--home" in stays.guest("g1")["reason"], stays.stdout
    assert pair.live.where().running == ("h2",)
    all_moved(pair.agent.run("host", "restore", "--home", "qemu+tls://h1/system"))


def test_qemu_without_certificates_sends_nothing_in_the_clear(pair: Pair) -> None:
    for host in (pair.first, pair.second):
        place = host.root / "etc/pki/qemu"
        place.rename(place.with_name("qemu.away"))
        try:
            ended = pair.agent.run("guest", "migrate", "g1", "--to", TLS)
            assert (ended.code, ended.document["result"]) == (1, "failed"), ended
            assert "/etc/pki/qemu" in ended.guest("g1")["reason"], ended.stdout
            assert pair.live.where().running == ("h1",)
            assert images(pair.second) == []
        finally:
            place.with_name("qemu.away").rename(place)
    all_moved(pair.agent.run("guest", "migrate", "g1", "--to", TLS))


def test_a_certificate_of_another_authority_is_refused(pair: Pair, tmp_path: Path) -> None:
    pair.second.listen(Authority(tmp_path / "wrong"))
    try:
        ended = pair.agent.run("host", "drain", "--to", TLS, "--yes")
        assert (ended.code, ended.document["changed"]) == (4, False), ended
        assert "certificate" in ended.document["message"] + ended.document["hint"]
    finally:
        listen(pair.lab, tmp_path / "right")


@pytest.mark.parametrize("phase", ["copying", "handing over"])
def test_the_link_is_cut_in_mid_move_and_put_back(
    pair: Pair, phase: str, move_witness: Callable[[Guest], MoveWitness]
) -> None:
    """Silently, as where a switch forgets a port. Exactly one copy runs, with its memory and its
    file; nothing is left, and it can be moved."""
    guest = pair.live
    memory, kept = guest.remember(16), write_file(guest)
    witness = move_witness(guest)
    words = ("guest", "migrate", "g1", "--to", TCP)
    slow = ("--bandwidth", "8") if phase == "copying" else ()
    process = pair.agent.start(*words, *slow)
    catch(lambda: _reached(pair, witness, phase), f"the moment of {phase}")
    mend = pair.cut()
    time.sleep(CUT_S)  # the fault itself lasts so long
    mend()
    began = time.monotonic()
    try:
        ended = pair.agent.wait(process, 150)
    finally:
        print(f"ended {time.monotonic() - began:.1f} s after the link was back")
    told = ended.guest("g1")
    print(phase, ended.code, told["result"], told["reason"])
    if ended.code == 5:
        for host in (pair.first, pair.second):
            host.wait_answering()
        recovered = pair.agent.wait(pair.agent.start("recover"), 150)
        print(recovered.code, recovered.stdout)
        assert recovered.code == 0, recovered
        told = recovered.document["runs"][0]["guests"][0]
    place = "h2" if told["result"] == "moved" else "h1"
    only = (place,)
    wait_for(lambda: guest.where().defined == only, 20, f"{guest.name} on {place} alone")
    where = guest.where()
    assert (where.running, where.waiting, where.active) == (only, (), only), where
    assert guest.forgotten(memory) == []
    assert reads_file(guest) == kept
    if place == "h1":
        assert images(pair.second) == []
        all_moved(pair.agent.run(*words))


def _reached(pair: Pair, witness: MoveWitness, phase: str) -> bool:
    """Memory is on its way, or the guest was stopped for the last of it."""
    if phase == "handing over":
        return any(event.name == "STOP" for event in witness.on["h1"].events)
    try:
        told = ask(pair.live.ports_on(pair.first).monitor, "query-migrate", 1)
    except (OSError, EOFError, LabError):
        return False
    return told.get("status") == "active" and told["ram"]["transferred"] > 0
