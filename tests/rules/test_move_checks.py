"""What stands in the way of a move: each obstacle alone, for the methods for which it counts."""

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.core.model import GuestState
from hostagent.core.move import Destination, Method, Movable, MoveHost
from hostagent.core.policy import OnReboot, Policy
from hostagent.rules.move_checks import obstacles, obstacles_between
from hostagent.rules.move_ladder import Obstacle, ladder, obstacles_here, stays_because
from hostagent.rules.move_room import copied, needed_kib, reserve_kib, size, spare_kib
from hostagent.rules.move_warnings import warnings, warnings_between
from tests.rules.movables import (
    GIB,
    MIB,
    SOURCE,
    destination,
    disk,
    host,
    movable,
    pool,
    resident,
)

EXAMPLES = settings(max_examples=int(os.environ.get("HOSTAGENT_EXAMPLES", "300")), deadline=None)
MS = 1_000_000

LIVE, COLD, OFFLINE = Method.LIVE, Method.COLD, Method.OFFLINE
SAVE, SHUTDOWN = Method.SAVE, Method.SHUTDOWN
ARRIVES = {LIVE, COLD, OFFLINE}

PAUSED = {"state": GuestState.PAUSED, "reason": "user"}
OFF = {"state": GuestState.SHUT_OFF}
LOCAL = {"disks": (disk(shared=False),)}


def policy(*rungs: OnReboot) -> dict[str, Policy]:
    return {"policy": Policy(on_reboot=rungs)}


EVERYTHING = policy(*OnReboot)


def found(
    guest: Movable,
    method: Method,
    where: Destination | None = None,
    *,
    source: MoveHost = SOURCE,
    own_copies: tuple[str, ...] = (),
) -> tuple[Obstacle, ...]:
    return obstacles(guest, source, where or destination(), method, own_copies=own_copies)


def stopped_for(text: str, where: Destination | None = None, **changes: Any) -> set[Method]:
    """The methods for which there is an obstacle whose reason has this text. A guest that runs is
    asked for all methods but offline, and the same guest shut off is for that."""
    stopped = set()
    for method in Method:
        state = OFF if method is OFFLINE and "state" not in changes else {}
        guest = movable(**{**changes, **state})
        stopped |= {method for each in found(guest, method, where) if text in each.reason}
    return stopped


class TestNothingInTheWay:
    @pytest.mark.parametrize("method", [LIVE, COLD, SAVE, SHUTDOWN])
    def test_of_a_guest_that_runs(self, method: Method) -> None:
        assert found(movable(), method) == ()
        assert warnings(movable(), SOURCE, destination(), method) == ()

    def test_of_one_that_is_shut_off(self) -> None:
        assert found(movable(**OFF), OFFLINE) == ()

    def test_of_a_live_move_of_one_that_its_owner_paused(self) -> None:
        assert found(movable(**PAUSED), LIVE) == ()

    def test_of_a_live_move_of_one_with_frozen_file_systems_or_that_is_transient(self) -> None:
        assert found(movable(frozen=True, persistent=False), LIVE) == ()

    def test_of_a_disk_that_is_copied(self) -> None:
        assert found(movable(**LOCAL), LIVE) == ()
        assert copied(movable(**LOCAL), destination()) == (disk(shared=False),)


class TestTheDestination:
    @pytest.mark.parametrize(
        ("where", "text"),
        [
            (destination(unreachable="no route to host"), "can't reach h2: no route to host"),
            (destination(host(uuid="host-h1")), "same host UUID (host-h1)"),
            (destination(host(qemu=7_001_000)), "QEMU 7.1.0, which is older than 7.2.0 on h1"),
        ],
    )
    def test_is_closed_to_all(self, where: Destination, text: str) -> None:
        assert stopped_for(text, where) == ARRIVES
        (obstacle,) = obstacles_between(SOURCE, where)
        assert obstacle.guest == ""
        assert found(movable(), LIVE, where) == (obstacle,)

    def test_may_have_the_same_qemu_or_a_newer_one(self) -> None:
        for qemu in (7_002_000, 7_002_001, 8_000_000):
            assert obstacles_between(SOURCE, destination(host(qemu=qemu))) == ()

    def test_with_an_older_libvirt_is_only_warned_of(self) -> None:
        where = destination(host(libvirt=8_000_000))
        assert found(movable(), LIVE, where) == ()
        (warning,) = warnings_between(SOURCE, where)
        assert "libvirt 8.0.0, which is older than 9.0.0 on h1" in warning


class TestTheGuest:
    @pytest.mark.parametrize(
        ("state", "reason", "text"),
        [
            (GuestState.IN_SHUTDOWN, "", "shutting down"),
            (GuestState.CRASHED, "panicked", "crashed"),
            (GuestState.ASLEEP, "", "sleeps"),
            (GuestState.PAUSED, "I/O error", "I/O error"),
            (GuestState.PAUSED, "watchdog", "watchdog"),
            (GuestState.PAUSED, "migrating", "moved already"),
            (GuestState.PAUSED, "post-copy failed", "on two hosts"),
            (GuestState.PAUSED, "starting up", "not by its owner (starting up)"),
            (GuestState.PAUSED, "", "no reason is known"),
            (GuestState.RUNNING, "post-copy", "moved already"),
            (GuestState.RUNNING, "post-copy failed", "on two hosts"),
        ],
    )
    def test_is_left_alone_in_this_state(self, state: GuestState, reason: str, text: str) -> None:
        changes: dict[str, Any] = {"state": state, "reason": reason, **EVERYTHING}
        assert stopped_for(text, **changes) == set(Method)
        assert ladder(movable(**changes)) == ()
        stays = stays_because(movable(**changes))
        assert stays is not None
        assert text in stays.reason

    @pytest.mark.parametrize(
        ("changes", "text", "methods"),
        [
            ({"job": "backup"}, "job runs on it: backup", set(Method)),
            (
                {"unmovable": ("PCI device 0000:01:00.0",)},
                "it uses PCI device 0000:01:00.0",
                {LIVE, COLD, SAVE, OFFLINE},
            ),
            ({"frozen": True}, "frozen", {COLD, SHUTDOWN}),
            ({"on_poweroff": "restart"}, "on_poweroff is restart", {COLD, SHUTDOWN}),
            ({"on_poweroff": "preserve"}, "on_poweroff is preserve", {COLD, SHUTDOWN}),
            ({"persistent": False}, "transient", {COLD, SAVE, SHUTDOWN}),
            ({"snapshots": ("before", "after")}, "snapshots (before, after)", ARRIVES),
            ({"managed_save": True}, "its saved state", {OFFLINE}),
            ({"tpm": True}, "TPM", {COLD, OFFLINE}),
            ({"nvram": "/v/web_VARS.fd"}, "UEFI variables", {COLD, OFFLINE}),
            ({"nvram": "/v/web_VARS.fd", "nvram_shared": True}, "UEFI variables", set()),
            (PAUSED, "can't shut down", {COLD, SHUTDOWN}),
            (PAUSED, "it is not shut off, but paused", {OFFLINE}),
            ({"state": GuestState.RUNNING}, "it is not shut off, but running", {OFFLINE}),
            (OFF, "it is shut off", {LIVE, COLD, SAVE, SHUTDOWN}),
        ],
    )
    def test_has_something_that_stops_these_methods(
        self, changes: dict[str, Any], text: str, methods: set[Method]
    ) -> None:
        assert stopped_for(text, **changes) == methods

    @pytest.mark.parametrize(
        "where", [destination(host(same_machine=True)), destination(fit={"shared": ("nvram",)})]
    )
    def test_has_its_uefi_variables_where_both_hosts_reach_them(self, where: Destination) -> None:
        assert stopped_for("UEFI", where, nvram="/v/web_VARS.fd") == set()

    def test_is_told_of_all_at_once(self) -> None:
        guest = movable(job="backup", snapshots=("s",), networks=("blue",), persistent=False)
        assert len(found(guest, COLD)) == 4

    def test_name_in_a_cure_is_one_word(self) -> None:
        (obstacle,) = found(movable("web; rm -rf /", job="backup"), LIVE)
        assert "domjobabort 'web; rm -rf /'" in obstacle.cure


class TestTheOtherHost:
    @pytest.mark.parametrize(
        ("other", "text"),
        [
            (resident("web"), "it runs on h2 too"),
            (resident("web", active=False), "a definition of it was left on h2"),
            (resident("web", uuid="other"), "another guest of this name (other)"),
            (resident("web", uuid="other", active=False), "another guest of this name (other)"),
            (resident("old", uuid="uuid-web", active=False), "a definition of it was left on h2"),
        ],
    )
    def test_has_one_of_its_name_or_uuid(self, other: Any, text: str) -> None:
        assert stopped_for(text, destination(host(guests=(other,)))) == ARRIVES

    def test_may_have_other_guests(self) -> None:
        assert found(movable(), LIVE, destination(host(guests=(resident("db"),)))) == ()

    @pytest.mark.parametrize(
        ("fit", "text"),
        [
            ({"cpu": "missing features: avx2"}, "lacks its CPU: missing features: avx2"),
            ({"machine": "unsupported"}, "lacks its machine type pc-q35-7.2: unsupported"),
            ({"missing": ("/iso/debian.iso",)}, "does not have /iso/debian.iso"),
            ({"in_the_way": ("/images/web.qcow2",)}, "something at /images/web.qcow2"),
            ({"nowhere": ("/images",)}, "copied into /images, which h2 does not have"),
        ],
    )
    def test_says_of_this_guest(self, fit: dict[str, Any], text: str) -> None:
        assert stopped_for(text, destination(fit=fit)) == ARRIVES

    def test_lacks_a_medium_which_can_be_taken_out(self) -> None:
        cd = disk(target="sda", source="/iso/debian.iso", medium=True)
        where = destination(fit={"missing": ("/iso/debian.iso",)})
        (obstacle,) = found(movable(disks=(cd,)), LIVE, where)
        assert "change-media web sda --eject" in obstacle.cure

    def test_has_no_active_network(self) -> None:
        where = destination(host(networks=("default",)))
        assert stopped_for("network blue", where, networks=("default", "blue")) == ARRIVES
        assert stopped_for("network default", where, networks=("default", "blue")) == set()

    @pytest.mark.parametrize("pools", [(), (pool(active=False),)])
    def test_has_no_active_pool(self, pools: Any) -> None:
        where = destination(host(pools=pools))
        changes = {"disks": (disk(shared=True, pool="images"),)}
        assert stopped_for("storage pool images", where, **changes) == ARRIVES

    def test_could_not_be_looked_at(self) -> None:
        where = destination(fit={"unknown": ("/iso/debian.iso",)})
        text = "h2 could not be asked about /iso/debian.iso"
        assert stopped_for(text, where) == {COLD, OFFLINE}
        (warning,) = warnings(movable(), SOURCE, where, LIVE)
        assert text in warning

    def test_could_not_be_looked_at_where_a_copy_would_write(self) -> None:
        where = destination(fit={"unknown": (disk().source,)})
        assert stopped_for(disk().source, where, **LOCAL) == ARRIVES
        assert warnings(movable(**LOCAL), SOURCE, where, LIVE) == ()


class TestMemory:
    def test_is_needed_by_what_runs(self) -> None:
        where = destination(host(free_kib=GIB))
        assert stopped_for("of memory", where) == {LIVE, COLD}

    @pytest.mark.parametrize(
        ("memory_kib", "reserve"), [(4 * GIB, 512 * MIB), (200 * GIB, 10 * GIB)]
    )
    def test_of_a_host_is_kept_for_itself(self, memory_kib: int, reserve: int) -> None:
        assert reserve_kib(host(memory_kib=memory_kib)) == reserve

    def test_that_guests_there_have_not_taken_yet_is_theirs(self) -> None:
        there = host(guests=(resident("db", memory_kib=8 * GIB),))
        assert spare_kib(there, kept_kib=0) == 8 * GIB - 65 * MIB
        off = host(guests=(resident("db", memory_kib=8 * GIB, active=False),))
        assert spare_kib(off, kept_kib=0) == 15 * GIB


class TestDisks:
    def test_of_which_nobody_can_tell(self) -> None:
        assert stopped_for("nobody can tell whether h2", disks=(disk(),)) == ARRIVES

    @pytest.mark.parametrize(
        "where",
        [
            destination(host(same_machine=True)),
            destination(fit={"shared": ("vda",)}),
        ],
    )
    def test_that_the_destination_knows_to_be_the_same(self, where: Destination) -> None:
        for shared in (None, False, True):
            guest = movable(disks=(disk(shared=shared),))
            assert found(guest, LIVE, where) == ()
            assert copied(guest, where) == ()

    @pytest.mark.parametrize("changes", [{"medium": True}, {"readonly": True}, {"source": ""}])
    def test_that_are_only_read_are_not_copied(self, changes: dict[str, Any]) -> None:
        guest = movable(disks=(disk(shared=False, **changes),))
        assert copied(guest, destination()) == ()
        assert found(guest, LIVE) == ()

    def test_that_are_no_files_are_not_copied(self) -> None:
        changes = {"disks": (disk(shared=False, kind="block", source="/dev/vg/web"),)}
        assert stopped_for("is a block of this host", **changes) == ARRIVES

    @pytest.mark.parametrize(
        ("changes", "needed"),
        [
            ({}, 2 * GIB),
            ({"format": "raw"}, 10 * GIB),
            ({"allocation_kib": 0}, 10 * GIB),
        ],
    )
    def test_take_room(self, changes: dict[str, Any], needed: int) -> None:
        assert needed_kib(disk(**changes)) == needed

    def test_find_no_room_together(self) -> None:
        two = (
            disk(shared=False),
            disk(shared=False, target="vdb", source="/var/lib/libvirt/images/data.qcow2"),
        )
        small = destination(host(pools=(pool(free_kib=3 * GIB),)))
        assert stopped_for("take 4096 MiB in images on h2", small, disks=two) == ARRIVES
        assert stopped_for("in images on h2", small, disks=two[:1]) == set()

    def test_may_outgrow_their_room(self) -> None:
        small = destination(host(pools=(pool(free_kib=3 * GIB),)))
        (warning,) = warnings(movable(**LOCAL), SOURCE, small, LIVE)
        assert "may grow to 10 GiB in images on h2, where 3072 MiB are left" in warning

    def test_would_go_where_nobody_can_tell_the_room(self) -> None:
        where = destination(host(pools=(pool(active=False),)))
        assert stopped_for("what room h2 has in", where, **LOCAL) == ARRIVES

    def test_of_ours_that_are_there_may_be_written_over(self) -> None:
        path = disk().source
        where = destination(host(pools=()), fit={"in_the_way": (path,)})
        assert len(found(movable(**LOCAL), LIVE, where)) == 2
        assert found(movable(**LOCAL), LIVE, where, own_copies=(path,)) == ()

    def test_are_not_ours_by_the_word_of_the_guest(self) -> None:
        where = destination(fit={"in_the_way": (disk().source,)})
        assert found(movable(**LOCAL, home=where.host.uuid), LIVE, where)


class TestWarnings:
    def test_of_clocks_that_differ(self) -> None:
        for ahead_ns, words in ((2000 * MS, "2s ahead of"), (-500 * MS, "500ms behind")):
            (warning,) = warnings_between(SOURCE, destination(host(clock_ahead_ns=ahead_ns)))
            assert f"the clock of h2 is {words} that of h1" in warning

    def test_not_of_clocks_that_may_be_the_same(self) -> None:
        near = destination(host(clock_ahead_ns=100 * MS))
        unsure = destination(host(clock_ahead_ns=900 * MS, clock_uncertainty_ns=800 * MS))
        assert warnings_between(SOURCE, near) == ()
        assert warnings_between(SOURCE, unsure) == ()

    def test_of_clocks_that_nobody_knows(self) -> None:
        (warning,) = warnings_between(SOURCE, destination(host(clock_ahead_ns=None)))
        assert "not known" in warning

    @pytest.mark.parametrize(
        ("changes", "method", "text"),
        [
            ({"cpus": 16}, LIVE, "16 CPUs, and h2 has 8"),
            ({"frozen": True}, LIVE, "frozen"),
            ({"agent": False}, COLD, "power button"),
        ],
    )
    def test_of_the_guest(self, changes: dict[str, Any], method: Method, text: str) -> None:
        (warning,) = warnings(movable(**changes), SOURCE, destination(), method)
        assert text in warning

    def test_not_where_nothing_arrives(self) -> None:
        where = destination(host(clock_ahead_ns=None))
        assert warnings(movable(agent=False), SOURCE, where, SHUTDOWN) == ()


class TestLadder:
    @pytest.mark.parametrize(
        ("changes", "rungs"),
        [
            ({}, (LIVE,)),
            (policy(OnReboot.POST_COPY), (LIVE,)),
            (policy(OnReboot.SAVE, OnReboot.COLD), (COLD, SAVE)),
            (EVERYTHING, (LIVE, COLD, SAVE, SHUTDOWN)),
            ({**EVERYTHING, **PAUSED}, (LIVE,)),
            ({**EVERYTHING, "persistent": False}, (LIVE,)),
            ({**EVERYTHING, **OFF}, (OFFLINE,)),
            ({**policy(OnReboot.COLD), **OFF}, (OFFLINE,)),
        ],
    )
    def test_has_the_gentlest_first(
        self, changes: dict[str, Any], rungs: tuple[Method, ...]
    ) -> None:
        assert ladder(movable(**changes)) == rungs
        assert stays_because(movable(**changes)) is None

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            (policy(), "its policy is to stay here"),
            ({**policy(OnReboot.COLD), **PAUSED}, "it is paused, so it can only be moved live"),
            ({**policy(OnReboot.SAVE), "persistent": False}, "transient"),
        ],
    )
    def test_is_empty_for_a_reason(self, changes: dict[str, Any], text: str) -> None:
        assert ladder(movable(**changes)) == ()
        obstacle = stays_because(movable(**changes))
        assert obstacle is not None
        assert text in obstacle.reason
        assert "guest set web on-reboot=live" in obstacle.cure


SOMETIMES = st.booleans()
GUESTS = st.builds(
    movable,
    state=st.sampled_from(GuestState),
    reason=st.sampled_from(["user", "", "migrating", "post-copy", "post-copy failed", "booted"]),
    job=st.sampled_from(["", "", "", "backup"]),
    persistent=SOMETIMES,
    memory_kib=st.integers(0, 20 * GIB),
    networks=st.sampled_from([(), ("default",), ("default", "blue")]),
    disks=st.lists(
        st.builds(
            disk,
            shared=st.sampled_from([None, True, False]),
            medium=SOMETIMES,
            readonly=SOMETIMES,
            kind=st.sampled_from(["file", "volume", "block"]),
            pool=st.sampled_from(["", "images", "other"]),
        ),
        max_size=3,
    ).map(tuple),
    unmovable=st.sampled_from([(), (), ("PCI device",)]),
    snapshots=st.sampled_from([(), (), ("s",)]),
    nvram=st.sampled_from(["", "/v/web_VARS.fd"]),
    tpm=SOMETIMES,
    on_poweroff=st.sampled_from(["destroy", "destroy", "restart"]),
    frozen=st.sampled_from([None, False, True]),
    policy=st.builds(Policy, on_reboot=st.lists(st.sampled_from(OnReboot)).map(tuple)),
)
DESTINATIONS = st.builds(
    lambda there, **changes: destination(there, **changes),
    st.builds(
        host,
        qemu=st.sampled_from([7_001_000, 7_002_000, 8_000_000]),
        networks=st.sampled_from([(), ("default",), ("default", "blue")]),
        guests=st.sampled_from([(), (resident("web"),), (resident("web", active=False),)]),
        pools=st.sampled_from([(), (pool(),), (pool(free_kib=0),)]),
        same_machine=SOMETIMES,
        free_kib=st.integers(0, 16 * GIB),
    ),
    unreachable=st.sampled_from(["", "", "no route"]),
)


@EXAMPLES
@given(GUESTS, DESTINATIONS, st.sampled_from(Method))
def test_every_obstacle_has_a_reason_and_a_cure(
    guest: Movable, where: Destination, method: Method
) -> None:
    for obstacle in found(guest, method, where):
        assert obstacle.reason
        assert obstacle.cure
        assert obstacle.guest in ("", guest.uuid)
    assert set(obstacles_here(guest, method)) <= set(found(guest, method, where))


@EXAMPLES
@given(GUESTS, DESTINATIONS, st.sampled_from(Method))
def test_nothing_is_lost_where_nothing_stands_in_the_way(
    guest: Movable, where: Destination, method: Method
) -> None:
    if found(guest, method, where):
        return
    assert not guest.job
    if method is not OFFLINE:
        assert guest.persistent or method is LIVE
        assert guest.state in (
            GuestState.RUNNING,
            GuestState.IDLE,
            GuestState.NO_STATE,
            GuestState.PAUSED,
        )
    if method in ARRIVES:
        assert where.host.qemu >= SOURCE.qemu
        assert not where.unreachable
        assert not any(other.uuid == guest.uuid for other in where.host.guests)
        assert set(guest.networks) <= set(where.host.networks)
        assert not guest.snapshots
    if method in (COLD, OFFLINE):
        assert not guest.tpm


@EXAMPLES
@given(GUESTS)
def test_a_guest_has_a_ladder_within_its_policy_or_a_reason(guest: Movable) -> None:
    rungs, stays = ladder(guest), stays_because(guest)
    assert (rungs == ()) is (stays is not None)
    assert list(rungs) == [method for method in Method if method in rungs]
    words = {LIVE: {OnReboot.LIVE, OnReboot.POST_COPY}}
    for method in rungs:
        if method is OFFLINE:
            assert guest.state is GuestState.SHUT_OFF
        else:
            assert words.get(method, {str(method)}) & set(guest.policy.on_reboot)


@pytest.mark.parametrize(
    ("kib", "words"), [(512 * MIB, "512 MiB"), (GIB, "1024 MiB"), (64 * GIB, "64 GiB")]
)
def test_sizes_are_as_people_write_them(kib: int, words: str) -> None:
    assert size(kib) == words


class TestTheOwnersWord:
    def test_that_could_not_be_read_bars_everything(self) -> None:
        assert stopped_for("could not be read", unread="no answer in time") == set(Method)

    def test_to_stay_here_counts_for_one_that_is_off_too(self) -> None:
        stays = movable(**OFF, **policy())
        assert ladder(stays) == ()
        because = stays_because(stays)
        assert because is not None
        assert "stay here" in because.reason
