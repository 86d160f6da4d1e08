"""Guests go from one real host to the other and come home, by each transport; each has a disk that
has to be copied."""

import pytest

from tests.full.moving import (
    SSH,
    TCP,
    TLS,
    Pair,
    all_moved,
    digest,
    images,
    reads_file,
    write_file,
)

pytestmark = pytest.mark.full


@pytest.mark.parametrize(
    "uri",
    [
        SSH,
        pytest.param(TCP, marks=pytest.mark.campaign),
        TLS,
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
