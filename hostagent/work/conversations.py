"""Conversations with the agents of many guests: one question, one answer, the next question.

Layer: work. Each guest has a thread of its own that nobody joins, so one that hangs keeps nobody
waiting. First comes a roll call: every guest is asked its first question soon, and who is silent
gives its place up at once. Those that answer converse a few at a time (work/turns), the quickest
first. What to ask is decided elsewhere (`Decide`, pure). Invariant: `hold` returns by its limit,
and earlier when nobody has said anything for SILENCE_NS. Effects: through ports.Agent only.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from hostagent.core.clock import (
    Answer,
    Exchange,
    Learn,
    Method,
    NoAnswer,
    Question,
    Read,
    Refusal,
    Set,
)
from hostagent.core.ports import Agent
from hostagent.work.turns import Turns

V = TypeVar("V")

ROLL_CALL = 4
"""First questions begun at once."""
ROLL_CALL_MOST = 12
"""First questions under way at once: more than may well hang together."""
ROLL_CALL_PATIENCE_S = 0.015
"""An agent tells the time within 2 ms."""
SILENCE_NS = 2_500_000_000
"""libvirt ends a call on a silent agent after 2 s."""
WHOLE_SECOND_NS = 1_000_000_000

ALMOST_S = 0.05
"""libvirt calls an agent connected a moment before it can be asked, after its own restart above
all."""

OUT_OF_TIME = NoAnswer(refusal=Refusal.NO_ANSWER, reason="its agent does not answer in time")
NOT_ASKED = NoAnswer(refusal=Refusal.LIBVIRT, reason="there was no time to ask its agent")

log = logging.getLogger(__name__)

Decide = Callable[[str, Sequence[Exchange], int], "Read | Set | Learn | V"]
"""By uuid, the exchanges so far and the time that is left in ns: the next question, or the end."""


@dataclass(slots=True)
class _Talk:
    """One guest's conversation, written by its thread and read by `hold`: a whole history at a
    time, in which a question under way stands as unanswered, so that a set that may still take
    effect is never forgotten."""

    uuid: str
    history: tuple[Exchange, ...] = ()


class Conversations(Generic[V]):
    """Conversations under one decision, to be held once."""

    def __init__(self, agent: Agent, decide: "Decide[V]", limit_ns: int) -> None:
        self._agent = agent
        self._decide = decide
        self._began_ns = time.monotonic_ns()
        self._until_ns = self._began_ns + limit_ns
        self._patient_until_ns = self._began_ns + SILENCE_NS
        self._patience = threading.Lock()
        self._over = threading.Event()
        self._roll_call = Turns(ROLL_CALL, ROLL_CALL_MOST, ROLL_CALL_PATIENCE_S)
        self._turns = Turns()
        self._ended: queue.SimpleQueue[tuple[str, V]] = queue.SimpleQueue()
        self._talks: dict[str, _Talk] = {}

    def hold(self, uuids: Sequence[str], wait_ns: Mapping[str, int] | None = None) -> dict[str, V]:
        """Every guest's end. `wait_ns` says how long an agent that is not connected is awaited.
        For one that did not come to an end in time the decision is asked with no time left, and
        what is under way counts as unanswered; its thread asks nothing more."""
        waits = wait_ns or {}
        for uuid in uuids:
            talk = self._talks[uuid] = _Talk(uuid)
            target, args = self._talk, (talk, waits.get(uuid, 0))
            threading.Thread(target=target, args=args, name="agent-talk", daemon=True).start()
        ends: dict[str, V] = {}
        while len(ends) < len(uuids):
            give_up_ns = min(self._until_ns, self._patient_until_ns)
            try:
                uuid, end = self._ended.get(timeout=_seconds_until(give_up_ns))
                ends[uuid] = end
            except queue.Empty:
                if time.monotonic_ns() >= min(self._until_ns, self._patient_until_ns):
                    break
        self._over.set()
        return {uuid: ends[uuid] if uuid in ends else self._given_up(uuid) for uuid in uuids}

    def _talk(self, talk: _Talk, wait_ns: int) -> None:
        """In the guest's own thread."""
        with self._roll_call.take():
            move = self._ask(talk, self._next(talk))
        while wait_ns and _is_away(talk) and self._has_come(talk, wait_ns):
            time.sleep(ALMOST_S)
            talk.history = ()
            move = self._ask(talk, self._next(talk))
        if isinstance(move, Read | Set | Learn):
            with self._turns.take() as turn:
                while isinstance(move, Read | Set | Learn) and not self._over.is_set():
                    move = self._ask(talk, move)
                    turn.heard()
        if not isinstance(move, Read | Set | Learn):
            self._ended.put((talk.uuid, move))

    def _ask(self, talk: _Talk, move: "Read | Set | Learn | V") -> "Read | Set | Learn | V":
        """Ask, and say what comes next; an end stays an end, and after it all nothing is asked."""
        if not isinstance(move, Read | Set | Learn) or self._over.is_set():
            return move
        before = talk.history
        talk.history = (*before, Exchange(question=move, answer=OUT_OF_TIME))
        self._be_patient_until(time.monotonic_ns() + _longest_ns(move))
        answer = self._answer(talk.uuid, move)
        talk.history = (*before, Exchange(question=move, answer=answer))
        self._be_patient_until(time.monotonic_ns() + SILENCE_NS)
        return self._next(talk)

    def _answer(self, uuid: str, question: Question) -> Answer:
        """An agent whose answer breaks something is that guest's trouble alone."""
        try:
            return self._agent.ask(uuid, question)
        except Exception as error:
            log.exception("asking the agent of guest %s failed", uuid)
            return NoAnswer(refusal=Refusal.FAILED, reason=f"asking its agent failed: {error!r}")

    def _next(self, talk: _Talk) -> "Read | Set | Learn | V":
        left_ns = max(self._until_ns - time.monotonic_ns(), 0)
        return self._decide(talk.uuid, talk.history, left_ns)

    def _has_come(self, talk: _Talk, wait_ns: int) -> bool:
        until_ns = min(self._began_ns + wait_ns, self._until_ns)
        self._be_patient_until(until_ns + SILENCE_NS)
        return self._agent.await_connected(talk.uuid, until_ns)

    def _be_patient_until(self, at_ns: int) -> None:
        with self._patience:
            self._patient_until_ns = max(self._patient_until_ns, at_ns)

    def _given_up(self, uuid: str) -> V:
        """The end of a conversation that is still under way: what would be asked next has no
        answer either."""
        history = self._talks[uuid].history
        unanswered = OUT_OF_TIME if history else NOT_ASKED
        move = self._decide(uuid, history, 0)
        while isinstance(move, Read | Set | Learn):
            history = (*history, Exchange(question=move, answer=unanswered))
            move = self._decide(uuid, history, 0)
        return move


def _longest_ns(question: Question) -> int:
    """How long a question may be silent; a set at a whole second waits for that second first."""
    waits = isinstance(question, Set) and question.method is Method.DATE_SECONDS
    return SILENCE_NS + (WHOLE_SECOND_NS if waits else 0)


def _is_away(talk: _Talk) -> bool:
    answer = talk.history[-1].answer if talk.history else None
    return isinstance(answer, NoAnswer) and answer.refusal in (
        Refusal.NOT_CONNECTED,
        Refusal.LIBVIRT,
    )


def _seconds_until(at_ns: int) -> float:
    return max(at_ns - time.monotonic_ns(), 0) / 1e9
