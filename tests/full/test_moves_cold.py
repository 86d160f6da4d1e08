"""A cold move with its disk, and what happens in the long middle of it, the copying: the guest runs
where it was, and nowhere else."""

import time
from collections.abc import Iterator
from signal import SIGINT
from subprocess import Popen

import pytest

from lab.guests import BOOT_S
from tests.full.moving import TCP, Pair, all_moved, images, reads_file, write_file
from tests.run.tool import Ended

pytestmark = pytest.mark.full

END_LIMIT_S = 150
"""ports.Mover: the order's limit and a minute."""


@pytest.fixture
def copying(pair: Pair) -> Iterator["Copying"]:
    made = Copying(pair)
    with pair.narrow(mbit_s=16):
        made.begin()
        yield made
    all_moved(pair.agent.run("guest", "migrate", "g2", "--to", TCP))
    assert reads_file(pair.cold) == made.kept


class Copying:
    """g2 is off, and its disk is on its way."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.kept = write_file(pair.cold, mib=24)

    def begin(self) -> None:
        self.process: Popen[str] = self.pair.agent.start("guest", "migrate", "g2", "--to", TCP)
        self.pair.catch_copy(self.pair.cold)
        self.begun = time.monotonic()

    def ended(self, limit_s: float = END_LIMIT_S) -> Ended:
        return self.pair.agent.wait(self.process, limit_s)

    def runs_at_home(self) -> None:
        guest = self.pair.cold
        guest.wait_booted(BOOT_S)
        assert guest.where().running == guest.where().active == ("h1",)
        assert reads_file(guest) == self.kept


@pytest.mark.campaign
def test_a_destination_that_dies_gives_the_guest_back(copying: Copying) -> None:
    copying.pair.second.kill_libvirtd()
    ended = copying.ended()
    copying.pair.second.put_right()
    assert ended.document["guests"][0]["result"] == "not-moved", ended
    copying.runs_at_home()


def test_an_interrupt_gives_the_guest_back_at_once(copying: Copying) -> None:
    copying.pair.agent.hostagent().send(SIGINT)
    ended = copying.ended(40)
    assert ended.code == 130, ended
    copying.runs_at_home()
    assert images(copying.pair.second) == []


@pytest.mark.campaign
def test_an_owner_who_starts_it_meanwhile_has_the_only_copy(copying: Copying) -> None:
    copying.pair.cold.call("start", lambda domain: domain.create(), timeout_s=60)
    ended = copying.ended()
    assert ended.document["guests"][0]["result"] == "not-moved", ended
    assert "started at the source" in ended.document["guests"][0]["reason"], ended
    copying.runs_at_home()
    assert images(copying.pair.second) == []
