"""Something happens before each single call of a cold move: one copy runs, or it is said why not.

The hosts are not real (tests/adapters/fake_places says why).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from hostagent.adapters.libvirt import move_cold, move_settle
from hostagent.core.journal import GuestOutcome
from tests.adapters.fake_places import World, cold_order

Event = Callable[[World], None]


def move(world: World) -> GuestOutcome:
    return move_cold.move(
        cold_order(), world.place(world.source), world.place(world.destination), world.aborted
    )


def undisturbed() -> World:
    world = World()
    assert move(world).result == "moved"
    return world


def walked(event: Event) -> list[tuple[str, World, GuestOutcome]]:
    """The event before each call of a move, with what came of it; those that wait do so at once."""
    calls = undisturbed().calls
    worlds = [World(events={number: event}) for number in range(len(calls))]
    with ThreadPoolExecutor(len(worlds)) as pool:
        return list(zip(calls, worlds, pool.map(move, worlds), strict=True))


def owner_starts(world: World) -> None:
    world.source.active = world.source.active or world.source.present


def source_dies(world: World) -> None:
    world.source.silent = True


def destination_dies(world: World) -> None:
    world.destination.silent = True


def destination_starts_it_and_dies(world: World) -> None:
    if world.destination.present and world.calls[-1].startswith("starting it"):
        world.destination.active = True
    world.destination.silent = True


def aborts(world: World) -> None:
    world.aborted.set()


def check(call: str, world: World, outcome: GuestOutcome) -> None:
    """What holds whoever did whatever: `call` is the one before which it happened."""
    told = f"before {call!r}: {outcome}"
    here, there = world.source, world.destination
    assert not world.runs_twice, told
    if outcome.result == "moved":
        assert there.active, told
        assert not here.active, told
        assert not (here.present and here.autostart), told
        assert outcome.figures["state"] == "running", told
    elif outcome.result == "stayed":
        assert here.active, told
        assert here.autostart, told
        assert not there.active, told
    else:
        assert here.silent or there.silent, told
        assert "answer" in outcome.reason, told
    if not here.present or not there.present:
        return
    assert not (there.autostart and here.active), told
    assert not (here.autostart and there.active), told


def test_an_owner_who_starts_it_at_any_moment_has_one_copy() -> None:
    for call, world, outcome in walked(owner_starts):
        check(call, world, outcome)


def test_no_start_is_asked_of_the_destination_after_the_owner_started_it() -> None:
    for call, world, _ in walked(owner_starts):
        if call.startswith(("reading its definition", "defining it", "setting autostart")):
            assert not world.started_there, call


def test_a_source_that_dies_at_any_moment_leaves_one_copy_at_most() -> None:
    for call, world, outcome in walked(source_dies):
        check(call, world, outcome)


def test_a_destination_that_dies_before_the_start_costs_no_guest() -> None:
    for call, world, outcome in walked(destination_dies):
        check(call, world, outcome)
        if not any(each.startswith("starting it") for each in world.calls):
            assert outcome.result == "stayed", f"before {call!r}: {outcome}"


def test_a_destination_that_may_have_started_it_is_believed_to_have() -> None:
    for call, world, outcome in walked(destination_starts_it_and_dies):
        check(call, world, outcome)


def test_an_abort_brings_it_back_until_the_start_is_asked_for() -> None:
    for call, world, outcome in walked(aborts):
        check(call, world, outcome)
        assert (outcome.result == "moved") == bool(world.started_there), call


def test_the_other_host_starts_it_at_boot_once_the_source_can_not() -> None:
    world = World()
    world.source.undefines = False
    assert move(world).result == "moved"
    places = world.place(world.source), world.place(world.destination)
    assert move_settle.settle(cold_order(), *places).result == "unsettled"
    assert not world.source.autostart
    assert not world.destination.autostart
    world.source.undefines = True
    assert move_settle.settle(cold_order(), *places).result == "settled"
    assert not world.source.present
    assert world.destination.autostart
