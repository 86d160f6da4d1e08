"""Steps of moving guests: cordon, move, find, abort, settle, uncordon.

Layer: work. What an order means is carried out by ports.Mover, which asks both hosts before it says
what came of it; here its word becomes the step's outcome. After a crash a move is looked for, never
repeated: a peer-to-peer migration outlives whoever asked for it. `settle` also notes which of this
host's guests are away (ports.HostBook), so that a restore finds them after a reboot.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from hostagent.core.codec import decode
from hostagent.core.errors import RefusedError
from hostagent.core.host_notes import DRAIN, CameHome, Cordoned, Note, Uncordoned, WentAway
from hostagent.core.journal import GuestOutcome, Outcome
from hostagent.core.move import Order, Progress
from hostagent.core.plan import Step
from hostagent.core.ports import HostBook, Mover
from hostagent.rules.move import WAS_CORDONED
from hostagent.rules.move_orders import Operation
from hostagent.rules.move_standing import LOST

MIB = 1024 * 1024


def order_of(step: Step) -> Order:
    """The order that a step's arguments are."""
    return decode(Order, dict(step.args))


class Move:
    """Carries one guest's order out. `say` gets a sentence a second and must never wait."""

    def __init__(self, mover: Mover, say: Callable[[str], None]) -> None:
        self._mover = mover
        self._say = say

    def do(self, step: Step) -> Outcome:
        order = order_of(step)

        def tell(progress: Progress) -> None:
            self._say(sentence(order, progress))

        return _outcome(step, self._mover.move(order, tell))

    def look(self, step: Step) -> Outcome:
        """What came of it is asked by `find`: within the order's own limits, for all guests at
        once, and in a way that can be stopped."""
        return Outcome(key=step.key, result=LOST)


class Find:
    """Where the guest is, after an attempt of which that is not known."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover

    def do(self, step: Step) -> Outcome:
        return _outcome(step, self._mover.look(order_of(step)))

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result=LOST)


class Abort:
    """Asks for the end of a move that is under way; what came of it the move itself says."""

    def __init__(self, mover: Mover) -> None:
        self._mover = mover

    def do(self, step: Step) -> Outcome:
        self._mover.abort(order_of(step))
        return Outcome(key=step.key, result="asked")

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result=LOST)


class Settle:
    """Brings a guest that arrived in order, and notes where it is. May be done twice. A note that
    can't be written keeps nothing else from being done, and is told."""

    def __init__(self, mover: Mover, book: HostBook, run: str) -> None:
        self._mover = mover
        self._book = book
        self._run = run

    def do(self, step: Step) -> Outcome:
        order = order_of(step)
        operation = Operation(str(step.args["operation"]))
        unwritten = self._noted(_went_away(order, self._run)) if operation.leaves_home else ""
        found = self._mover.settle(order)
        if operation.comes_home:
            unwritten = self._noted(CameHome(uuid=order.uuid))
        if unwritten and found.result == "settled":
            found = GuestOutcome(result="unsettled", reason=unwritten)
        return _outcome(step, found)

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result=LOST)

    def _noted(self, note: Note) -> str:
        """Why it could not be written; empty when it was."""
        try:
            self._book.write(note)
        except RefusedError as error:
            return error.message
        return ""


def _went_away(order: Order, run: str) -> WentAway:
    left = () if order.delete_source_disks else order.left
    utc = datetime.now(UTC).isoformat(timespec="milliseconds")
    return WentAway(
        uuid=order.uuid, name=order.name, uri=order.destination, run=run, left=left, utc=utc
    )


class Cordon:
    """Notes that this host takes no new guests until it is restored, or uncordoned by hand."""

    def __init__(self, book: HostBook) -> None:
        self._book = book

    def do(self, step: Step) -> Outcome:
        if any(each.owner == DRAIN for each in self._book.read().cordons):
            return Outcome(key=step.key, result=WAS_CORDONED)
        utc = datetime.now(UTC).isoformat(timespec="seconds")
        self._book.write(Cordoned(owner=DRAIN, reason="it is being drained", utc=utc))
        return Outcome(key=step.key, result="cordoned")

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result=LOST)


class Uncordon:
    """Takes the drain's own cordon back; an operator's stays."""

    def __init__(self, book: HostBook) -> None:
        self._book = book

    def do(self, step: Step) -> Outcome:
        self._book.write(Uncordoned(owner=DRAIN))
        return Outcome(key=step.key, result="uncordoned")

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result=LOST)


def sentence(order: Order, progress: Progress) -> str:
    """How far a move is, for people."""
    sent = f"{progress.sent_b // MIB} of {progress.total_b // MIB} MiB"
    rate = f", {progress.rate_b_s / MIB:.0f} MiB/s" if progress.rate_b_s else ""
    left = f", about {progress.left_ns / 1e9:.0f} s left" if progress.left_ns else ""
    return f"moving {order.name}: {sent}{rate}{left}"


def _outcome(step: Step, found: GuestOutcome) -> Outcome:
    return Outcome(
        key=step.key, result=found.result, reason=found.reason, guests={step.guests[0]: found}
    )
