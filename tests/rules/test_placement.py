"""Where guests go: by example, and what must always be true of it."""

import os
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.core.model import GuestState
from hostagent.core.move import Destination, Disk, Fit, Room
from hostagent.core.policy import Policy
from hostagent.rules.move_ladder import Obstacle
from hostagent.rules.move_room import memory_kib, needed_kib
from hostagent.rules.placement import Candidate, Demand, Place, Placement, demand, place
from tests.rules.movables import GIB, MIB, destination, disk, host, movable, pool, resident

EXAMPLES = settings(max_examples=int(os.environ.get("HOSTAGENT_EXAMPLES", "300")), deadline=None)


def wants(name: str, gib: int = 1, **changes: Any) -> Demand:
    """A guest of so many GiB, QEMU's share included, so that sums are easy."""
    memory = gib * GIB - 65 * MIB if gib else 0
    return replace(Demand(uuid=f"uuid-{name}", name=name, memory_kib=memory), **changes)


def candidate(name: str, gib: int = 8, *, cordoned: str = "", **changes: Any) -> Candidate:
    """A host that can spare so many GiB where it keeps nothing for itself."""
    reserved = changes.pop("reserved", ())
    there = host(name, **{"free_kib": gib * GIB, **changes})
    return Candidate(destination=destination(there), cordoned=cordoned, reserved=reserved)


def put(*guests: Demand, on: tuple[Candidate, ...], kept_kib: int = 0, **changes: Any) -> Placement:
    return place(guests, on, kept_kib=kept_kib, **changes)


def hosts_of(placement: Placement) -> dict[str, str]:
    """Names of hosts by names of guests; those without a place are left out."""
    return {
        found.guest.name: found.uri.removeprefix("qemu+ssh://").removesuffix("/system")
        for found in placement.places
        if found.uri
    }


def reasons(placement: Placement, name: str) -> list[str]:
    found = placement.of(f"uuid-{name}")
    assert found is not None
    return [rejection.reason for rejection in found.rejections]


class TestWho:
    def test_goes_where_most_is_left(self) -> None:
        placement = put(
            wants("a", 2), wants("b", 2), wants("c", 1), on=(candidate("h2", 4), candidate("h3", 5))
        )
        assert hosts_of(placement) == {"a": "h3", "b": "h2", "c": "h3"}

    def test_is_big_goes_first(self) -> None:
        placement = put(wants("a", 2), wants("b", 5), on=(candidate("h2", 5), candidate("h3", 4)))
        assert hosts_of(placement) == {"a": "h3", "b": "h2"}

    def test_has_only_a_place_if_all_are_packed_tightly(self) -> None:
        small = [wants(name, 2) for name in ("b", "c", "d", "e")]
        placement = put(wants("a", 3), *small, on=(candidate("h2", 6), candidate("h3", 5)))
        assert hosts_of(placement) == {"a": "h3", "b": "h3", "c": "h2", "d": "h2", "e": "h2"}

    def test_fits_nowhere_has_all_reasons_and_the_others_go(self) -> None:
        hosts = (candidate("h2", 8), candidate("h3", 2, cordoned="new disks"))
        placement = put(wants("big", 9), wants("a", 1), on=hosts)
        assert hosts_of(placement) == {"a": "h2"}
        assert reasons(placement, "big") == [
            "h2 can spare 8192 MiB of memory, and it takes 9216 MiB",
            "h3 is cordoned: new disks",
            "h3 can spare 2048 MiB of memory, and it takes 9216 MiB",
        ]

    def test_comes_before_is_named(self) -> None:
        placement = put(wants("a", 6), wants("b", 5), on=(candidate("h2", 10),))
        assert reasons(placement, "b") == [
            "h2 can spare 4096 MiB of memory after a, and it takes 5120 MiB"
        ]

    def test_is_not_asked_about(self) -> None:
        assert put(wants("a"), on=(candidate("h2"),)).of("nobody") is None

    def test_is_told_in_the_order_of_the_question(self) -> None:
        placement = put(wants("b"), wants("a", 3), on=(candidate("h2"),))
        assert [found.guest.name for found in placement.places] == ["b", "a"]


class TestHost:
    def test_that_is_cordoned_is_never_chosen(self) -> None:
        hosts = (candidate("h2", 8, cordoned="drained"), candidate("h3", 1))
        assert hosts_of(put(wants("a"), on=hosts)) == {"a": "h3"}
        assert hosts_of(put(wants("a"), on=hosts[:1])) == {}

    def test_with_an_obstacle_is_never_chosen(self) -> None:
        hosts = (candidate("h2", 8), candidate("h3", 8))
        obstacle = Obstacle(reason="h2 lacks its CPU: avx2", cure="another", guest="uuid-a")
        found = {("uuid-a", hosts[0].destination.host.uri): (obstacle,)}
        placement = put(wants("a"), wants("b"), on=hosts, obstacles=found)
        assert hosts_of(placement) == {"a": "h3", "b": "h2"}
        assert reasons(placement, "a") == ["h2 lacks its CPU: avx2"]

    def test_keeps_some_memory_for_itself(self) -> None:
        hosts = (candidate("h2", 2),)
        assert hosts_of(place([wants("a", 2)], hosts)) == {}
        assert hosts_of(place([wants("a", 1)], hosts)) == {"a": "h2"}

    def test_keeps_what_is_reserved_for_guests_on_their_way(self) -> None:
        on_its_way = wants("moving", 6)
        hosts = (candidate("h2", 8, reserved=(on_its_way,)), candidate("h3", 4))
        placement = put(wants("a", 3), on=hosts)
        assert hosts_of(placement) == {"a": "h3"}
        assert reasons(placement, "a") == [
            "h2 can spare 2048 MiB of memory after moving, and it takes 3072 MiB"
        ]

    def test_is_not_asked_twice_for_the_memory_of_one_that_is_just_arriving(self) -> None:
        arriving = wants("moving", 4)
        there = resident("moving", memory_kib=arriving.memory_kib)
        hosts = (candidate("h2", 15, memory_kib=10 * GIB, guests=(there,), reserved=(arriving,)),)
        assert hosts_of(put(wants("a", 6), on=hosts)) == {"a": "h2"}

    def test_of_two_names_is_one_host(self) -> None:
        one = candidate("h2", 4)
        other = candidate("h2", 4, uri="qemu+tcp://h2/system")
        placement = put(wants("a", 3), wants("b", 3), on=(one, other))
        assert len(placement.placed) == 1

    def test_has_memory_enough_for_what_is_shut_off(self) -> None:
        assert hosts_of(put(wants("off", 0), on=(candidate("h2", 0),))) == {"off": "h2"}


class TestAvailabilitySets:
    WEB = ("web-1", "web-2", "web-3")

    def members(self, *names: str) -> list[Demand]:
        return [wants(name, availability_set="web") for name in names]

    def test_are_spread(self) -> None:
        placement = put(*self.members(*self.WEB[:2]), on=(candidate("h2", 8), candidate("h3", 2)))
        assert hosts_of(placement) == {"web-1": "h2", "web-2": "h3"}

    def test_share_a_host_where_there_is_no_other_and_it_is_told(self) -> None:
        placement = put(*self.members(*self.WEB), on=(candidate("h2"), candidate("h3")))
        assert hosts_of(placement) == {"web-1": "h2", "web-2": "h3", "web-3": "h2"}
        assert [found.beside for found in placement.places] == [(), (), ("web-1",)]

    def test_are_kept_apart_if_asked(self) -> None:
        hosts = (candidate("h2"), candidate("h3"))
        placement = put(*self.members(*self.WEB), on=hosts, keep_apart=True)
        assert hosts_of(placement) == {"web-1": "h2", "web-2": "h3"}
        assert reasons(placement, "web-3") == [
            "h2 has web-1 of its availability set web, which is to be kept apart",
            "h3 has web-2 of its availability set web, which is to be kept apart",
        ]

    def test_have_members_that_are_there_or_on_their_way(self) -> None:
        there = resident("web-1", availability_set="web", active=False)
        coming = self.members("web-2")[0]
        hosts = (
            candidate("h2", 8, guests=(there,)),
            candidate("h3", 8, reserved=(coming,)),
            candidate("h4", 2),
        )
        assert hosts_of(put(*self.members("web-3"), on=hosts)) == {"web-3": "h4"}

    def test_do_not_matter_to_guests_of_none(self) -> None:
        hosts = (candidate("h2", 8, guests=(resident("a"),)),)
        assert put(wants("b"), on=hosts, keep_apart=True).places[0].beside == ()


class TestDisks:
    def own(self, name: str) -> tuple[Disk, ...]:
        return (disk(shared=False, source=f"/var/lib/libvirt/images/{name}.qcow2"),)

    def test_share_the_room_of_a_pool(self) -> None:
        hosts = (candidate("h2", 8, pools=(pool(free_kib=3 * GIB),)),)
        guests = [wants(name, disks=self.own(name)) for name in ("a", "b")]
        placement = put(*guests, on=hosts)
        assert hosts_of(placement) == {"a": "h2"}
        assert reasons(placement, "b") == [
            "images on h2 has 1024 MiB left after a, and its disks take 2048 MiB"
        ]

    def test_that_are_there_take_no_room(self) -> None:
        guest = movable(disks=self.own("web"))
        full = candidate("h2", 8, pools=(pool(free_kib=0),))
        assert hosts_of(put(demand(guest), on=(full,))) == {}
        assert hosts_of(put(demand(guest, own_copies=(guest.disks[0].source,)), on=(full,)))
        near = candidate("h2", 8, pools=(pool(free_kib=0),), same_machine=True)
        assert hosts_of(put(demand(guest), on=(near,))) == {"web": "h2"}
        known = Destination(
            host=full.destination.host, via="", fits=(Fit(guest=guest.uuid, shared=("vda",)),)
        )
        assert hosts_of(put(demand(guest), on=(Candidate(destination=known),))) == {"web": "h2"}


class TestDemand:
    def test_is_what_a_guest_takes(self) -> None:
        guest = movable(policy=Policy(availability_set="web"))
        assert demand(guest) == Demand(
            uuid="uuid-web",
            name="web",
            memory_kib=GIB,
            availability_set="web",
            disks=guest.disks,
        )

    def test_has_no_memory_if_it_is_shut_off(self) -> None:
        assert demand(movable(state=GuestState.SHUT_OFF)).memory_kib == 0


SETS = st.sampled_from(["", "web", "db"])
URIS = st.sampled_from(["h2", "h3", "h4"])


@st.composite
def demands(draw: st.DrawFn, prefix: str, most: int) -> list[Demand]:
    made = []
    for number in range(draw(st.integers(0, most))):
        name = f"{prefix}{number}"
        source = f"/var/lib/libvirt/images/{name}.qcow2"
        taken = draw(st.integers(0, 6)) * GIB
        own = disk(shared=draw(st.booleans()), source=source, allocation_kib=taken)
        changes = {"availability_set": draw(SETS), "disks": (own,)}
        made.append(wants(name, draw(st.integers(0, 5)), **changes))
    return made


@st.composite
def hosts(draw: st.DrawFn) -> tuple[Candidate, ...]:
    made = []
    for name in draw(st.lists(URIS, unique=True)):
        residents = tuple(
            resident(f"{name}-{number}", availability_set=draw(SETS), active=draw(st.booleans()))
            for number in range(draw(st.integers(0, 2)))
        )
        made.append(
            candidate(
                name,
                draw(st.integers(0, 12)),
                cordoned=draw(st.sampled_from(["", "", "drained"])),
                guests=residents,
                pools=(pool(free_kib=draw(st.integers(0, 12)) * GIB),),
                reserved=tuple(draw(demands(f"to-{name}-", 2))),
            )
        )
    return tuple(made)


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[Demand], tuple[Candidate, ...], dict[str, Any]]:
    guests, on = draw(demands("g", 7)), draw(hosts())
    closed = [
        (guest.uuid, each.destination.host.uri)
        for guest in guests
        for each in on
        if draw(st.integers(0, 5)) == 0
    ]
    obstacle = Obstacle(reason="no", cure="none")
    terms = {
        "obstacles": {pair: (obstacle,) for pair in closed},
        "kept_kib": draw(st.sampled_from([0, GIB, None])),
        "keep_apart": draw(st.booleans()),
    }
    return guests, on, terms


def on_host(placement: Placement, each: Candidate) -> list[Demand]:
    uri = each.destination.host.uri
    return [found.guest for found in placement.places if found.uri == uri]


def memory_of(guests: list[Demand]) -> int:
    return sum(memory_kib(guest.memory_kib) for guest in guests if guest.memory_kib)


@EXAMPLES
@given(questions())
def test_no_host_is_given_more_than_it_can_spare(question: Any) -> None:
    guests, on, terms = question
    placement = place(guests, on, **terms)
    for each in on:
        there, new = each.destination.host, on_host(placement, each)
        kept = max(512 * MIB, there.memory_kib // 20)
        kept = kept if terms["kept_kib"] is None else terms["kept_kib"]
        running = [other.memory_kib for other in there.guests if other.active]
        coming = memory_of([*each.reserved, *new])
        if any(guest.memory_kib for guest in new):
            assert coming + kept <= there.free_kib
            assert coming + kept + sum(map(memory_kib, running)) <= there.memory_kib
        copies = [own for guest in (*each.reserved, *new) for own in guest.disks if not own.shared]
        (room,) = there.pools
        if any(not own.shared and needed_kib(own) for guest in new for own in guest.disks):
            assert sum(map(needed_kib, copies)) <= room.free_kib


@EXAMPLES
@given(questions())
def test_nobody_goes_where_nobody_may(question: Any) -> None:
    guests, on, terms = question
    placement = place(guests, on, **terms)
    cordoned = {each.destination.host.uri for each in on if each.cordoned}
    assert not cordoned & set(placement.placed.values())
    assert not set(placement.placed.items()) & set(terms["obstacles"])


@EXAMPLES
@given(questions())
def test_each_guest_has_one_place_or_a_reason_against_each_host(question: Any) -> None:
    guests, on, terms = question
    placement = place(guests, on, **terms)
    assert [found.guest for found in placement.places] == guests
    uris = {each.destination.host.uri for each in on}
    for found in placement.places:
        rejected = {rejection.uri for rejection in found.rejections}
        assert all(rejection.reason for rejection in found.rejections)
        assert found.uri not in rejected
        assert rejected <= uris
        assert found.uri in uris or rejected == uris
    assert placement.placed == {
        found.guest.uuid: found.uri for found in placement.places if found.uri
    }


@EXAMPLES
@given(questions())
def test_a_set_shares_a_host_only_where_there_is_no_other(question: Any) -> None:
    guests, on, terms = question
    placement = place(guests, on, **terms)
    for found in placement.places:
        if not found.uri or not found.guest.availability_set:
            continue
        assert not (found.beside and terms["keep_apart"])
        rejected = {rejection.uri for rejection in found.rejections}
        others = [each for each in on if each.destination.host.uri not in (*rejected, found.uri)]
        if found.beside:
            assert all(members_on(each, placement, found) for each in others)


def members_on(each: Candidate, placement: Placement, found: Place) -> bool:
    wanted = found.guest.availability_set
    new = [guest for guest in on_host(placement, each) if guest.uuid != found.guest.uuid]
    known = (*each.destination.host.guests, *each.reserved, *new)
    return any(other.availability_set == wanted for other in known)


@EXAMPLES
@given(questions(), st.randoms(use_true_random=False))
def test_the_order_of_the_question_does_not_matter(question: Any, random: Any) -> None:
    guests, on, terms = question
    placement = place(guests, on, **terms)
    shuffled, elsewhere = list(guests), list(on)
    random.shuffle(shuffled)
    random.shuffle(elsewhere)
    again = place(shuffled, elsewhere, **terms)
    assert again.placed == placement.placed
    assert all(again.of(found.guest.uuid) == found for found in placement.places)


@pytest.mark.parametrize("on", [(), (candidate("h2", cordoned="drained"),)])
def test_without_a_host_nobody_is_placed(on: tuple[Candidate, ...]) -> None:
    placement = put(wants("a"), on=on)
    assert placement.placed == {}
    assert len(placement.places[0].rejections) == len(on)


def test_a_directory_that_is_no_pool_is_named_by_its_path() -> None:
    bare = Room(name="", active=True, path="/var/lib/libvirt/images", free_kib=GIB)
    own = (disk(shared=False),)
    placement = put(wants("a", disks=own), on=(candidate("h2", pools=(bare,)),))
    assert reasons(placement, "a") == [
        "/var/lib/libvirt/images on h2 has 1024 MiB left, and its disks take 2048 MiB"
    ]
