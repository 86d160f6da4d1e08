"""Disks that are copied from one real host to the other: what is in the way, full, or cut short."""

import time
from signal import SIGKILL

import pytest

from hostagent.adapters.libvirt import move_disks
from hostagent.adapters.libvirt.disks import LATE_S
from hostagent.adapters.libvirt.move_places import Place
from hostagent.core.errors import RefusedError
from tests.full.moving import (
    IMAGES,
    SSH,
    TCP,
    Pair,
    all_moved,
    begin_copy,
    images,
    order_of,
    reads_file,
    using,
    write_file,
)
from tests.run.killing import catch

pytestmark = pytest.mark.full


def test_a_foreign_file_is_never_written_over_or_deleted(pair: Pair) -> None:
    """One that is seen beforehand, one that comes between the plan and the move, and one in a
    directory of which libvirt's pool does not know it yet."""
    foreign = pair.disk(pair.off, pair.second)
    foreign.write_bytes(b"somebody's")
    ended = pair.agent.run("guest", "migrate", "g3", "--to", SSH)
    assert (ended.code, ended.document["changed"]) == (4, False), ended
    assert str(pair.off.spec.local_disk_path) in ended.document["message"]
    pair.second.make_pool()
    try:
        for guest in (pair.live, pair.cold, pair.off):
            order = order_of(pair, guest)
            path = pair.disk(guest, pair.second)
            path.write_bytes(b"somebody's")
            with pytest.raises(RefusedError, match="already has something"):
                begin_copy(pair, guest, order)
            assert move_disks.discard(order, Place(pair.second.uri)) == []
            assert path.read_bytes() == b"somebody's"
    finally:
        pair.second.run("virsh", "pool-destroy", "default")


def test_what_another_guest_uses_is_not_written_over(pair: Pair) -> None:
    """Even where an earlier move of this guest left a copy of its own at that path."""
    path = pair.disk(pair.live, pair.second)
    path.write_bytes(b"somebody's")
    order = order_of(pair, pair.live, over=True)
    with using(pair.second, pair.live.spec.local_disk_path):
        with pytest.raises(RefusedError, match="stranger"):
            begin_copy(pair, pair.live, order)
        assert path.read_bytes() == b"somebody's"
    begin_copy(pair, pair.live, order)
    assert path.read_bytes() != b"somebody's"
    assert move_disks.discard(order, Place(pair.second.uri)) == []
    assert images(pair.second) == []


@pytest.mark.campaign
def test_a_foreign_file_where_a_copy_was_left_at_home_is_not_written_over(pair: Pair) -> None:
    """The operator needed the room, and the path was taken anew while the guest was away."""
    all_moved(pair.agent.run("host", "drain", "--to", SSH, "--yes"))
    path = pair.disk(pair.off, pair.first)
    time.sleep(LATE_S)  # what changes earlier may be libvirt's own doing
    path.unlink()
    path.write_bytes(b"somebody's")
    restored = pair.agent.run("host", "restore")
    assert (restored.code, restored.document["result"]) == (3, "partly"), restored.stdout
    results = {each["name"]: each["result"] for each in restored.document["guests"]}
    assert results == {"g1": "moved", "g2": "moved", "g3": "not-moved"}, restored.stdout
    assert str(pair.off.spec.local_disk_path) in restored.guest("g3")["reason"]
    assert path.read_bytes() == b"somebody's"
    path.unlink()
    all_moved(pair.agent.run("host", "restore"))


@pytest.mark.campaign
@pytest.mark.parametrize("again", ["recover", "the same"])
def test_hostagent_killed_in_the_midst_of_a_cold_copy(pair: Pair, again: str) -> None:
    """The guest is started again where it was, its half-written copy is taken away, and it can be
    moved. Before that the half has a marker beside it."""
    kept = write_file(pair.cold, mib=24)
    words = ("guest", "migrate", "g2", "--to", TCP)
    with pair.narrow(mbit_s=32):
        process = pair.agent.start(*words)
        pair.catch_copy(pair.cold)
        catch(lambda: len(images(pair.second)) == 2, "the marker")
        pair.agent.hostagent().send(SIGKILL)
        process.wait(10)
    assert len(images(pair.second)) == 2, "the half-written disk, and what says so"
    if again == "recover":
        recovered = pair.agent.run("recover")
        assert recovered.code == 0, recovered
        assert images(pair.second) == []
        assert pair.cold.where().running == ("h1",)
        pair.cold.wait_counting()
    all_moved(pair.agent.run(*words))
    assert pair.cold.where().defined == pair.cold.where().running == ("h2",)
    pair.cold.wait_counting()
    assert reads_file(pair.cold) == kept


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["g1", "g2"])
def test_a_full_disk_in_mid_copy_leaves_the_guest_where_it_runs(pair: Pair, name: str) -> None:
    """There was room when it was planned; then somebody else took it."""
    guest = pair.lab.guest(name)
    kept = write_file(guest, mib=24)
    memory = guest.remember(4)
    with pair.small_images(mib=40), pair.narrow(mbit_s=64):
        process = pair.agent.start("guest", "migrate", name, "--to", TCP)
        catch(lambda: images(pair.second) != [], "the copy")
        pair.second.run("fallocate", "-l", "30M", str(IMAGES / "others"))
        ended = pair.agent.wait(process, 120)
        print(ended.document["guests"])
        assert (ended.code, ended.document["result"]) == (1, "failed"), ended
        assert "space" in ended.guest(name)["reason"].lower(), ended
        assert [path.name for path in images(pair.second)] == ["others"]
    assert guest.where().running == guest.where().defined == ("h1",)
    guest.wait_counting()
    assert reads_file(guest) == kept
    if name == "g1":
        assert guest.forgotten(memory) == []


def test_a_disk_that_has_no_room_there_is_refused(pair: Pair) -> None:
    """Seen beforehand: nothing is begun."""
    write_file(pair.cold, mib=24)
    with pair.small_images(mib=8):
        ended = pair.agent.run("guest", "migrate", "g2", "--to", TCP)
    assert (ended.code, ended.document["changed"]) == (4, False), ended
    assert "8 MiB are left" in ended.document["message"] or "7 MiB" in ended.document["message"]
    assert pair.cold.where().running == ("h1",)


@pytest.mark.campaign
def test_source_disks_are_deleted_after_arrival_only(pair: Pair) -> None:
    """With --delete-source-disks; and they come home all the same."""
    drained = pair.agent.run("host", "drain", "--to", TCP, "--yes", "--delete-source-disks")
    all_moved(drained)
    assert images(pair.first) == []
    assert len(images(pair.second)) == 3
    all_moved(pair.agent.run("host", "restore"))
    assert len(images(pair.first)) == 3
    assert images(pair.second) == []
