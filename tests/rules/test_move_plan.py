"""What a drain, a migration or a restore would do: who goes where, how, and why not."""

from typing import Any

import pytest

from hostagent.core.codec import decode
from hostagent.core.errors import RefusedError
from hostagent.core.model import GuestState
from hostagent.core.move import Destination, Measure, Method, Movable, Order
from hostagent.core.plan import Plan
from hostagent.core.policy import OnReboot, Policy
from hostagent.rules.move_orders import Operation, moves_of, order_args
from hostagent.rules.move_plan import Leg, MoveFacts, at_once, plan, refuse
from hostagent.rules.move_request import MoveRequest
from tests.rules.movables import GIB, SOURCE, destination, disk, host, movable, pool, resident
from tests.rules.runs import HOST

COLD_TOO = Policy(on_reboot=(OnReboot.LIVE, OnReboot.COLD))


def planned(
    *guests: Movable,
    to: tuple[Destination, ...] = (destination(),),
    own_copies: tuple[str, ...] = (),
    lost: dict[str, tuple[str, str]] | None = None,
    **asked: Any,
) -> Plan:
    request = MoveRequest(**{"operation": Operation.DRAIN, **asked})
    leg = Leg(source=SOURCE, guests=guests, destinations=to)
    facts = MoveFacts(host=HOST, legs=(leg,), idle_cpus=2.0, lost=lost or {}, own_copies=own_copies)
    return plan("run-1", request, facts)


def rungs(made: Plan, name: str = "web") -> tuple[Order, ...]:
    return moves_of(made.args).orders.get(f"uuid-{name}", ())


def methods(made: Plan, name: str = "web") -> list[Method]:
    return [order.method for order in rungs(made, name)]


class TestWhoGoes:
    def test_a_guest_that_runs_goes_live(self) -> None:
        made = planned(movable())
        (order,) = rungs(made)
        assert (order.method, order.destination, order.runs) == (
            Method.LIVE,
            "qemu+ssh://h2/system",
            True,
        )
        assert order.convergence[-1].measure is Measure.ABORT
        assert order.limit_ns > order.convergence[-1].after_ns

    def test_one_that_is_off_goes_with_its_definition(self) -> None:
        made = planned(movable(state=GuestState.SHUT_OFF))
        (order,) = rungs(made)
        assert (order.method, order.runs) == (Method.OFFLINE, False)

    def test_the_ladder_goes_as_far_as_the_policy(self) -> None:
        everything = Policy(on_reboot=tuple(OnReboot))
        assert methods(planned(movable(policy=everything))) == [
            Method.LIVE,
            Method.COLD,
            Method.SAVE,
            Method.SHUTDOWN,
        ]

    def test_a_rung_that_is_barred_is_left_out(self) -> None:
        """A passed-through device bars all; frozen file systems bar only a shutdown."""
        frozen = movable(policy=COLD_TOO, frozen=True)
        assert methods(planned(frozen)) == [Method.LIVE]

    def test_nobody_is_shut_down_for_a_host_to_which_it_could_have_gone_live(self) -> None:
        no_cpu = destination(host("h2"), fit={"cpu": "no avx"})
        good = destination(host("h3"))
        made = planned(movable(policy=COLD_TOO), to=(no_cpu, good))
        assert [order.destination for order in rungs(made)] == ["qemu+ssh://h3/system"] * 2

    def test_a_guest_that_fits_nowhere_stays_with_all_reasons(self) -> None:
        made = planned(
            movable("big", memory_kib=100 * GIB),
            movable(),
            to=(destination(host("h2")), destination(host("h3"))),
        )
        (big, web) = made.guests
        assert "h2" in big.skip
        assert "h3" in big.skip
        assert not web.skip
        refuse(made, all_or_nothing=False)
        with pytest.raises(RefusedError, match="guest big"):
            refuse(made, all_or_nothing=True)

    def test_nobody_can_go_is_refused(self) -> None:
        made = planned(movable(policy=Policy(on_reboot=(OnReboot.COLD,)), frozen=True))
        assert made.chosen == ()
        with pytest.raises(RefusedError, match="frozen"):
            refuse(made, all_or_nothing=False)

    def test_an_empty_host_is_no_refusal(self) -> None:
        refuse(planned(), all_or_nothing=True)

    def test_one_method_can_be_asked_for(self) -> None:
        asked = {"operation": Operation.MIGRATE, "method": Method.COLD}
        assert methods(planned(movable(policy=COLD_TOO), **asked)) == [Method.COLD]
        made = planned(movable(), **asked)
        assert "allow only live, not cold" in made.guests[0].skip

    def test_two_that_do_not_fit_together_are_spread(self) -> None:
        small = {"memory_kib": 8 * GIB, "free_kib": 7 * GIB}
        made = planned(
            movable("a", memory_kib=5 * GIB),
            movable("b", memory_kib=5 * GIB),
            to=(destination(host("h2", **small)), destination(host("h3", **small))),
        )
        assert {rungs(made, name)[0].destination for name in "ab"} == {
            "qemu+ssh://h2/system",
            "qemu+ssh://h3/system",
        }

    def test_what_is_reserved_live_is_not_given_away_cold(self) -> None:
        """The second pass of placement knows what the first one took."""
        small = host("h2", memory_kib=8 * GIB, free_kib=7 * GIB)
        barred = movable("barred", memory_kib=5 * GIB, policy=Policy(on_reboot=(OnReboot.COLD,)))
        made = planned(movable("a", memory_kib=5 * GIB), barred, to=(destination(small),))
        assert methods(made, "a") == [Method.LIVE]
        assert methods(made, "barred") == []

    def test_one_that_was_not_found_is_told(self) -> None:
        made = planned(lost={"uuid-x": ("x", "it is not on h2 any more")})
        assert [(guest.name, guest.skip) for guest in made.guests] == [
            ("x", "it is not on h2 any more")
        ]

    def test_a_name_that_is_taken_there_keeps_it_here(self) -> None:
        taken = destination(host(guests=(resident("web", uuid="another"),)))
        assert "has another guest of this name" in planned(movable(), to=(taken,)).guests[0].skip


class TestTheOrder:
    def test_a_drained_guest_knows_its_home(self) -> None:
        (order,) = rungs(planned(movable()))
        assert (order.home, order.home_name) == (HOST.uuid, HOST.name)

    def test_one_that_is_restored_forgets_it_and_a_migrated_one_keeps_what_it_has(self) -> None:
        (back,) = rungs(planned(movable(), operation=Operation.RESTORE))
        (away,) = rungs(planned(movable(), operation=Operation.MIGRATE))
        assert (back.home, away.home) == ("", None)

    def test_disks_that_both_hosts_reach_are_not_copied(self) -> None:
        (order,) = rungs(planned(movable(disks=(disk(shared=True),))))
        assert (order.copy, order.left) == ((), ())

    def test_others_are_copied_and_stay_behind(self) -> None:
        local = disk(shared=False)
        (order,) = rungs(planned(movable(disks=(local,)), delete_source_disks=True))
        assert (order.copy, order.left) == (("vda",), (local.source,))
        assert order.delete_source_disks
        assert order.limit_ns > rungs(planned(movable()))[0].limit_ns

    def test_our_own_copy_at_home_may_be_written_over(self) -> None:
        local = disk(shared=False)
        there = destination(host(pools=(pool(),)), fit={"in_the_way": (local.source,)})
        assert not rungs(planned(movable(disks=(local,)), to=(there,)))
        assert rungs(planned(movable(disks=(local,)), to=(there,), own_copies=(local.source,)))

    def test_post_copy_only_where_the_owner_allows_it(self) -> None:
        def has_post_copy(policy: Policy) -> bool:
            (order,) = rungs(planned(movable(policy=policy)))
            return any(stage.measure is Measure.POST_COPY for stage in order.convergence)

        assert not has_post_copy(Policy())
        assert has_post_copy(Policy(on_reboot=(OnReboot.POST_COPY,)))

    def test_it_goes_to_a_step_and_back(self) -> None:
        (order,) = rungs(planned(movable(disks=(disk(shared=False),))))
        assert decode(Order, order_args(order)) == order


@pytest.mark.parametrize(
    ("idle", "guests", "expected"), [(0.0, 8, 1), (1.8, 8, 3), (60, 8, 4), (60, 2, 2), (1, 0, 1)]
)
def test_as_many_at_once_as_there_is_room_for(idle: float, guests: int, expected: int) -> None:
    assert at_once(idle, guests) == expected


class TestOnlyADrain:
    """...may end a guest where it is: nobody asked for that in a migration, or far from home."""

    @pytest.mark.parametrize("operation", [Operation.RESTORE, Operation.MIGRATE])
    def test_saves_or_shuts_a_guest_down(self, operation: Operation) -> None:
        everything = Policy(on_reboot=tuple(OnReboot))
        assert methods(planned(movable(policy=everything), operation=operation)) == [
            Method.LIVE,
            Method.COLD,
        ]
        full = destination(host(free_kib=GIB))
        stays = planned(movable(policy=everything), to=(full,), operation=operation)
        assert stays.chosen == ()


def test_two_ways_home_share_the_memory_there() -> None:
    home = destination(host("h1", uuid=HOST.uuid, memory_kib=8 * GIB, free_kib=7 * GIB))
    guests = [movable(name, memory_kib=5 * GIB) for name in ("a", "b")]
    legs = tuple(
        Leg(source=host(name), guests=(guest,), destinations=(home,))
        for name, guest in zip(("h2", "h3"), guests, strict=True)
    )
    facts = MoveFacts(host=HOST, legs=legs, idle_cpus=2.0)
    made = plan("run-1", MoveRequest(operation=Operation.RESTORE), facts)
    assert [guest.name for guest in made.chosen] == ["a"]


def test_a_home_that_its_operator_has_cordoned_takes_nobody() -> None:
    home = destination(host("h1", uuid=HOST.uuid))
    leg = Leg(source=host("h2"), guests=(movable(),), destinations=(home,))
    facts = MoveFacts(host=HOST, legs=(leg,), idle_cpus=2.0, cordoned="a fan is broken")
    made = plan("run-1", MoveRequest(operation=Operation.RESTORE), facts)
    assert "a fan is broken" in made.guests[0].skip


def test_the_breadcrumb_of_another_home_is_kept() -> None:
    (order,) = rungs(planned(movable(home="host-elsewhere")))
    assert order.home is None
