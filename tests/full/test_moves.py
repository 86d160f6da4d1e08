"""Guests go from one real host to the other and come home, by each transport; each has a disk that
has to be copied."""

import subprocess

import pytest

from tests.full.moving import (
    IMAGES,
    SSH,
    TCP,
    TLS,
    Pair,
    all_moved,
    digest,
    images,
    reads_file,
    using,
    write_file,
)

pytestmark = pytest.mark.full


@pytest.mark.parametrize(
    "uri",
    [
        SSH,
        pytest.param(TCP, marks=pytest.mark.campaign),
        pytest.param(TLS, marks=pytest.mark.campaign),
    ],
)
def test_a_host_is_emptied_and_all_come_home_twice(pair: Pair, uri: str) -> None:
    """Live, cold and shut off, by disks of one host alone; no pool covers their directory. The way
    home is found by itself, and nothing is left at the other host that the next drain would find
    in its way."""
    memory = pair.live.remember(4)
    files = {guest: write_file(guest) for guest in (pair.live, pair.cold)}
    off = digest(pair.disk(pair.off, pair.first))
    for _ in range(2):
        drained = all_moved(pair.agent.run("host", "drain", "--to", uri, "--yes"))
        assert [each["method"] for each in drained] == ["live", "cold", "offline"], drained
        for guest in pair.lab.guests:
            assert guest.where().defined == ("h2",), guest
            assert pair.disk(guest, pair.first).exists(), "its disk was to stay"
        assert digest(pair.disk(pair.off, pair.second)) == off
        pair.cold.wait_counting()
        assert {guest: reads_file(guest) for guest in files} == files
        assert pair.left() == []
        all_moved(pair.agent.run("host", "restore"))
        for guest in pair.lab.guests:
            assert guest.where().defined == ("h1",), guest
        assert digest(pair.disk(pair.off, pair.first)) == off
        pair.cold.wait_counting()
        assert {guest: reads_file(guest) for guest in files} == files
        assert images(pair.second) == []
    assert pair.live.forgotten(memory) == []


@pytest.mark.campaign
def test_an_owners_pause_and_every_byte_of_the_disk_go_along(pair: Pair) -> None:
    """A guest that its owner paused moves live and stays paused, so that both images can be
    compared whole. The one at home stays as it is until the guest comes home."""
    kept = write_file(pair.live)
    pair.live.suspend()
    all_moved(pair.agent.run("guest", "migrate", "g1", "--to", SSH))
    at_home = pair.disk(pair.live, pair.first)
    compare = ("qemu-img", "compare", "-U", str(at_home), str(pair.disk(pair.live, pair.second)))
    subprocess.run(compare, check=True, capture_output=True)
    assert pair.live.status() == "paused"
    before = digest(at_home)
    pair.live.resume()
    assert reads_file(pair.live) == kept
    write_file(pair.live)
    assert digest(at_home) == before


def test_uefi_variables_that_stay_in_a_file_of_its_host_are_named(pair: Pair) -> None:
    """By definition only: a guest that is shut off."""
    loader = "<loader readonly='yes' type='pflash'>/fw/code.fd</loader><nvram>/fw/u.fd</nvram>"
    with using(pair.first, IMAGES / "none.qcow2", os=loader):
        ended = pair.agent.run("guest", "migrate", "stranger", "--to", SSH)
    assert (ended.code, ended.document["changed"]) == (4, False), ended
    assert "UEFI variables" in ended.document["message"], ended


@pytest.mark.campaign
def test_a_guest_with_a_snapshot_stays_and_the_others_go(pair: Pair) -> None:
    text = "<domainsnapshot><name>before</name></domainsnapshot>"
    pair.off.call("snapshot", lambda domain: domain.snapshotCreateXML(text))
    ended = pair.agent.run("host", "drain", "--to", TCP, "--yes")
    assert (ended.code, ended.document["result"]) == (3, "partly"), ended
    results = {each["name"]: each["result"] for each in ended.document["guests"]}
    assert results == {"g1": "moved", "g2": "moved", "g3": "not-moved"}
    assert "snapshots (before)" in ended.guest("g3")["reason"]
    assert pair.off.where().defined == ("h1",)
