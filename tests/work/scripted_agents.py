"""Agents in memory, each with a clock of its own: a fake at the port, for what real agents can't be
made to do on demand (to answer after another, to hang until the test lets them go).
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hostagent.core.clock import (
    Abilities,
    Answer,
    ClockReading,
    NoAnswer,
    Question,
    Read,
    Refusal,
    Set,
    WasSet,
)

MS = 1_000_000
HANGING_LIMIT_S = 30

AWAY = NoAnswer(refusal=Refusal.NOT_CONNECTED, reason="its agent is not connected")


@dataclass
class ScriptedAgent:
    """One guest's agent. `before` is called with each question, and may block."""

    offset_ns: int = -3_000 * MS
    connected: threading.Event = field(default_factory=threading.Event)
    before: Callable[[Question], None] = lambda _question: None
    asked: list[Question] = field(default_factory=list)


class ScriptedAgents:
    """ports.Agent. `log` has every question in the order in which they were put."""

    def __init__(self, agents: dict[str, ScriptedAgent]) -> None:
        self.agents = agents
        self.log: list[tuple[str, Question]] = []
        self.release = threading.Event()
        for agent in agents.values():
            agent.connected.set()

    def hang(self, _question: Question) -> None:
        """For `before`: no answer until the test is over."""
        self.release.wait(HANGING_LIMIT_S)

    def ask(self, uuid: str, question: Question) -> Answer:
        agent = self.agents[uuid]
        self.log.append((uuid, question))
        agent.asked.append(question)
        if not agent.connected.is_set():
            return AWAY
        agent.before(question)
        now_ns = time.monotonic_ns()
        match question:
            case Read():
                return ClockReading(
                    at_ns=now_ns, offset_ns=agent.offset_ns, behind_ns=0, uncertainty_ns=MS // 4
                )
            case Set():
                agent.offset_ns = question.ahead_ns - MS // 4
                return WasSet(at_ns=now_ns)
            case _:
                return Abilities(enabled=frozenset())

    def await_connected(self, uuid: str, until_ns: int) -> bool:
        left_s = max(until_ns - time.monotonic_ns(), 0) / 1e9
        return self.agents[uuid].connected.wait(left_s)
