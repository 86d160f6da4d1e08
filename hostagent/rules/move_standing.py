"""How far each guest is in a run of moves: the fold of its attempts.

Layer: rules. A guest's ladder is walked from its first rung: the next one counts only once the one
before is known to have left the guest as it was. An attempt of which it is not known what came of
it is followed by `find` steps, which ask both hosts. A run that leaves something open is taken over
by the next command, which may find and settle once more, MOST_TAKEOVERS times; then a person must
look. So nobody is forgotten, and nothing goes on for ever.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from hostagent.core.journal import GuestOutcome, State
from hostagent.core.move import Method, Order
from hostagent.core.plan import PlannedGuest
from hostagent.rules.clock_outcome import is_unsynced
from hostagent.rules.move_orders import moves_of

MOST_FINDS = 3
"""How often each process asks where a guest is; each time waits for a move that still goes on."""
CLOCKS_AGAIN = "clocks-again"
"""The key of the second look at clocks begins with it; the destination's URI follows."""
LOST = "lost"
"""The outcome of a step that a crash cut short, where it does no harm to do it again."""
MOST_TAKEOVERS = 5

ARRIVED = "moved"
ENDED_HERE = ("saved", "shut-down")
STAYED = ("stayed", "not-begun")
UNCERTAIN = ("under-way", "ambiguous", "failed", LOST, "unknown")
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
        for number in range(1, MOST_FINDS * _processes(state) + 1):
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


def _processes(state: State) -> int:
    """How many processes have worked on this run, as far as that grants another try."""
    takeovers = sum(heard.what == "crashed" for heard in state.heard)
    return 1 + min(takeovers, MOST_TAKEOVERS)


def may_go_on(state: State) -> bool:
    """Whether the next command may try again."""
    return _processes(state) <= MOST_TAKEOVERS


def turn(state: State, name: str, good: Collection[str]) -> str:
    """The key of a step that may be done again, once by each process: the first one that is not
    over, or that ended well; else the last."""
    keys = [f"{name}:{number}" for number in range(1, _processes(state) + 1)]
    return next((key for key in keys if state.result(key) in ("", *good)), keys[-1])


def settle_turn(state: State, uuid: str) -> str:
    """The key of bringing this guest in order after its move."""
    return turn(state, f"settle:{uuid}", ("settled",))


def clock_turn(state: State, uuid: str) -> str:
    """The key of setting this guest's clock after its move."""
    return turn(state, f"clock:{uuid}", ("over",))


def clock_tries(state: State, uuid: str) -> tuple[GuestOutcome, ...]:
    """What came of setting this guest's clock after its move, and of the second look."""
    keys = [clock_turn(state, uuid), *(key for key in state.done if key.startswith(CLOCKS_AGAIN))]
    tried = (state.done[key].outcome.guests.get(uuid) for key in keys if key in state.done)
    return tuple(each for each in tried if each is not None)


def settle_problem(state: State, uuid: str) -> str:
    """Why an arrived guest is not in order yet; empty when it is."""
    key = settle_turn(state, uuid)
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
        elif each.where is Where.ENDED_HERE:
            why = ended_here(each)
        elif not why and is_unsynced(tries):
            why = f"its clock is not right: {tries[-1].reason}"
        if why:
            return f"guest {each.guest.name}: {why}"
    return ""


def ended_here(each: Standing) -> str:
    """What was done to a guest that could not leave, as its policy allows."""
    word = "saved" if each.order.method is Method.SAVE else "shut down"
    return f"it was {word} here, not moved: its policy allows that"


def _of(state: State, key: str, uuid: str) -> GuestOutcome:
    """What a step said of its guest; where it has no word of it, the step's own."""
    outcome = state.done[key].outcome
    return outcome.guests.get(uuid) or GuestOutcome(result=outcome.result, reason=outcome.reason)
