"""How far each guest is in a run of moves: the fold of its attempts.

Layer: rules. A guest's ladder is walked from its first rung: the next one counts only once the one
before is known to have left the guest as it was. An attempt of which it is not known what came of
it is followed by `find` steps, which ask both hosts; MOST_FINDS of them, then a person must look.
"""

from dataclasses import dataclass
from enum import StrEnum

from hostagent.core.journal import GuestOutcome, State
from hostagent.core.move import Order
from hostagent.core.plan import PlannedGuest
from hostagent.rules.clock_outcome import is_unsynced
from hostagent.rules.move_orders import moves_of

MOST_FINDS = 3
"""How often it is asked where a guest is; each waits for a move that still goes on."""
LOST = "lost"
"""The outcome of a step that a crash cut short, where it does no harm to do it again."""
MOST_TIMES = 3
"""How often such a step is begun: hostagent may be killed again and again."""

ARRIVED = "moved"
ENDED_HERE = ("saved", "shut-down")
STAYED = ("stayed", "not-begun")
UNCERTAIN = ("under-way", "failed", LOST, "unknown")
"""Words of the outcomes of `move` and `find` (ports.Mover)."""


class Where(StrEnum):
    """How far a guest is in this run."""

    WAITING = "waiting"
    MOVING = "moving"
    UNCERTAIN = "uncertain"
    ARRIVED = "arrived"
    ENDED_HERE = "ended-here"
    STAYED = "stayed"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One guest's standing: the rung that counts (the next one while it waits), what is known of
    it, and the step that is open or comes next."""

    guest: PlannedGuest
    where: Where
    order: Order
    key: str
    outcome: GuestOutcome | None = None

    @property
    def busy(self) -> bool:
        """Whether something is under way with it, or may be."""
        return self.where in (Where.MOVING, Where.UNCERTAIN)

    @property
    def reason(self) -> str:
        """What the last attempt said."""
        return self.outcome.reason if self.outcome else "nothing was heard of it yet"


def standings(state: State) -> tuple[Standing, ...]:
    """All chosen guests, in the order of the plan."""
    orders = moves_of(state.plan.args).orders
    return tuple(_standing(state, guest, orders[guest.uuid]) for guest in state.plan.chosen)


def _standing(state: State, guest: PlannedGuest, rungs: tuple[Order, ...]) -> Standing:
    outcome: GuestOutcome | None = None
    for order in rungs:
        key = f"{order.method}:{guest.uuid}"
        if not state.begun(key):
            return Standing(guest=guest, where=Where.WAITING, order=order, key=key, outcome=outcome)
        if key in state.open:
            return Standing(guest=guest, where=Where.MOVING, order=order, key=key)
        outcome = _of(state, key, guest.uuid)
        for number in range(1, MOST_FINDS + 1):
            if outcome.result not in UNCERTAIN:
                break
            key = f"find-{number}:{guest.uuid}:{order.method}"
            if not state.begun(key) or key in state.open:
                return Standing(
                    guest=guest, where=Where.UNCERTAIN, order=order, key=key, outcome=outcome
                )
            outcome = _of(state, key, guest.uuid)
        if outcome.result not in STAYED:
            where = _ENDS.get(outcome.result, Where.AMBIGUOUS)
            return Standing(guest=guest, where=where, order=order, key=key, outcome=outcome)
    return Standing(guest=guest, where=Where.STAYED, order=rungs[-1], key="", outcome=outcome)


_ENDS = {ARRIVED: Where.ARRIVED, **dict.fromkeys(ENDED_HERE, Where.ENDED_HERE)}


def turn(state: State, name: str) -> str:
    """The key of a step that may be done again: the first one that no crash has cut short."""
    keys = [f"{name}:{number}" for number in range(1, MOST_TIMES + 1)]
    return next((key for key in keys if state.result(key) != LOST), keys[-1])


def clock_tries(state: State, uuid: str) -> tuple[GuestOutcome, ...]:
    """What came of setting this guest's clock after its move."""
    closed = state.done.get(turn(state, f"clock:{uuid}"))
    return () if closed is None else tuple(closed.outcome.guests.values())


def settle_problem(state: State, uuid: str) -> str:
    """Why an arrived guest is not in order yet; empty when it is."""
    key = turn(state, f"settle:{uuid}")
    if key in state.open:
        return "bringing its definition in order hangs"
    if key not in state.done:
        return ""
    outcome = _of(state, key, uuid)
    return "" if outcome.result == "settled" else outcome.reason or outcome.result


def problem(state: State) -> str:
    """The first thing that is not as it was asked for; empty when all is."""
    for guest in state.plan.guests:
        if guest.skip:
            return f"guest {guest.name}: {guest.skip}"
    for each in standings(state):
        tries = clock_tries(state, each.guest.uuid)
        why = settle_problem(state, each.guest.uuid)
        if each.where is Where.STAYED:
            why = each.reason
        elif not why and is_unsynced(tries):
            why = f"its clock is not right: {tries[-1].reason}"
        if why:
            return f"guest {each.guest.name}: {why}"
    return ""


def _of(state: State, key: str, uuid: str) -> GuestOutcome:
    """What a step said of its guest; where it has no word of it, the step's own."""
    outcome = state.done[key].outcome
    return outcome.guests.get(uuid) or GuestOutcome(result=outcome.result, reason=outcome.reason)
