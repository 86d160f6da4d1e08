"""Runs as values: plans to decide on, and a story that feeds outcomes to the one decision.

Time is a number here. A `Story` holds the folded state of a run and asks rules.inplace.next what
to do; the test answers each step that was begun.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hostagent.core.journal import (
    Entry,
    GuestOutcome,
    Heard,
    Intent,
    Outcome,
    Planned,
    Row,
    Stamp,
    State,
    apply,
    start,
)
from hostagent.core.model import (
    AgentState,
    Facts,
    Guest,
    GuestState,
    Host,
    Process,
    Qmp,
)
from hostagent.core.plan import Decision, Do, Done, Json, Plan, Verb, Wait
from hostagent.rules import inplace
from hostagent.rules.request import Request, S, Terms, plan

MS = 1_000_000

HOST = Host(name="h1", uri="qemu:///system", uuid="host-1", daemon=None, qmp=Qmp(allowed=True))


def guest(name: str, **changes: Any) -> Guest:
    """A guest that runs, with a process of its own and no agent."""
    number = sum(name.encode())
    made = Guest(
        name=name,
        uuid=f"uuid-{name}",
        state=GuestState.RUNNING,
        process=Process(domain_id=number, pid=10_000 + number, start_ticks=7),
        monitor=f"/run/{name}.sock",
    )
    return replace(made, **changes)


def facts(*guests: Guest, **changes: Any) -> Facts:
    return replace(Facts(host=HOST, guests=guests), **changes)


def a_plan(*names: str, guests: tuple[Guest, ...] = (), agent: bool = False, **terms: Any) -> Plan:
    """A plan to pause the guests of these names, all of which run."""
    state = AgentState.CONNECTED if agent else AgentState.NONE
    every = (*(guest(name, agent=state) for name in names), *guests)
    request = Request(terms=Terms(command=("update",), **terms))
    return plan("run-1", request, facts(*every))


def stamp(now_ns: int) -> Stamp:
    return Stamp(monotonic_ns=now_ns, boot_id="boot-1", utc="2026-01-01T00:00:00.000+00:00", pid=1)


class Story:
    """One run, told row by row; `next` is the decision of its kind."""

    def __init__(
        self,
        plan: Plan,
        now_ns: int = 100 * S,
        next: Callable[[State, int], Decision] = inplace.next,
    ) -> None:
        self.now_ns = now_ns
        self._next = next
        self.boot_id = "boot-1"
        self.state: State = start(Entry(row=Planned(plan=plan), stamp=stamp(now_ns)))

    def row(self, row: Row) -> None:
        self.now_ns += 1
        at = replace(stamp(self.now_ns), boot_id=self.boot_id)
        self.state = apply(self.state, Entry(row=row, stamp=at))

    def decide(self) -> Decision:
        return self._next(self.state, self.now_ns)

    def go(self) -> tuple[str, ...]:
        """Begin what is decided; the keys of the steps, none for a wait or the end."""
        decision = self.decide()
        if not isinstance(decision, Do):
            return ()
        for step in decision.steps:
            self.row(Intent(step=step))
        return tuple(step.key for step in decision.steps)

    def close(self, key: str, result: str, reason: str = "", **figures: Any) -> None:
        self.row(Outcome(key=key, result=result, reason=reason, figures=figures))

    def close_guests(self, key: str, results: dict[str, str], reason: str = "") -> None:
        guests = {f"uuid-{name}": self.outcome(result, reason) for name, result in results.items()}
        self.row(Outcome(key=key, result="over", guests=guests))

    def close_clocks(self, key: str, **tries: GuestOutcome) -> None:
        """A try at clocks is over; by guest's name what came of it."""
        guests = {f"uuid-{name}": tried for name, tried in tries.items()}
        self.row(Outcome(key=key, result="over", guests=guests))

    def outcome(self, result: str, reason: str) -> GuestOutcome:
        figures = {"called_ns": self.now_ns, "returned_ns": self.now_ns + MS}
        return GuestOutcome(result=result, reason=reason, figures=figures)

    def hear(self, what: str, value: Any = None) -> None:
        self.row(Heard(what=what, value=value))

    def wait(self) -> Wait:
        decision = self.decide()
        assert isinstance(decision, Wait), decision
        return decision

    def done(self) -> Done:
        decision = self.decide()
        assert isinstance(decision, Done), decision
        return decision

    def pass_time(self) -> None:
        """Let time go on until the decision that is awaited."""
        until_ns = self.wait().until_ns
        assert until_ns is not None, "waits without end"
        assert until_ns > self.now_ns, "waits for what is over"
        self.now_ns = until_ns


def tried(
    result: str,
    *,
    first_ns: int | None = None,
    last_ns: int | None = None,
    sets: int = 0,
    answered: bool = True,
    again: bool = False,
    method: str = "agent",
    reason: str = "",
) -> GuestOutcome:
    """What work/steps/clock says of one try at a guest's clock."""
    figures: dict[str, Json] = {
        "method": method if sets else "",
        "sets": sets,
        "answered": answered,
        "again": again,
    }
    for prefix, offset_ns in (("first_", first_ns), ("", last_ns)):
        if offset_ns is not None:
            figures |= {f"{prefix}offset_ns": offset_ns, f"{prefix}uncertainty_ns": MS // 4}
            figures[f"{prefix}behind_ns"] = -offset_ns
    return GuestOutcome(result=result, reason=reason, figures=figures)


SET = tried("synced", first_ns=-2 * S, last_ns=MS // 10, sets=1)
"""It was two seconds late, was set, and was read back."""
RIGHT = tried("synced", first_ns=MS // 10)
"""It was right as it was."""
BUSY = tried("unsynced", answered=False, again=True, reason="its agent does not answer")
"""Its agent hung, or somebody else was talking with it."""


def launched(*names: str, **terms: Any) -> Story:
    """A run whose command waits at its gate."""
    story = Story(a_plan(*names, **terms))
    if any(guest.agent for guest in story.state.plan.chosen):
        assert story.go() == ("clocks-before",)
        story.close("clocks-before", "over")
    assert story.go() == (Verb.LAUNCH,)
    story.close("launch", "launched", pid=77, start_ticks=8)
    return story


def armed(*names: str, **terms: Any) -> Story:
    """A run whose guardian stands by."""
    story = launched(*names, **terms)
    assert story.go() == (Verb.ARM,)
    budget_ns = terms.get("budget_ns", 30 * S)
    story.close("arm", "armed", deadline_ns=story.now_ns + budget_ns)
    return story


def pausing(*names: str, **terms: Any) -> Story:
    """A run in the middle of its pause."""
    story = armed(*names, **terms)
    assert story.go() == (Verb.PAUSE,)
    return story


def applying(*names: str, **terms: Any) -> Story:
    """A run whose guests stand still and whose command runs."""
    story = pausing(*names, **terms)
    story.close_guests("pause", dict.fromkeys(names, "paused"))
    assert story.go() == (Verb.APPLY,)
    return story


def applied(*names: str, exit_code: int = 0, **terms: Any) -> Story:
    """A run whose command has ended, after two seconds."""
    story = applying(*names, **terms)
    story.now_ns += 2 * S
    exit_with(story, exit_code)
    return story


def exit_with(story: Story, code: int, key: str = "apply") -> None:
    story.close(key, "exited", exit_code=code, ended_ns=story.now_ns)


def tidied(story: Story, *hanging: str) -> Story:
    """Answer well to all that is or gets begun, but the update and what hangs, until only these
    are waited for or the run has ended."""
    for _ in range(20):
        begun = story.go()
        waiting = [key for key in story.state.open if key not in (Verb.APPLY, *hanging)]
        for key in waiting:
            _answer(story, key)
        if not begun and not waiting:
            return story
    raise AssertionError("it never ends")


def _answer(story: Story, key: str) -> None:
    step = story.state.open[key].step
    match step.verb:
        case Verb.RESUME:
            names = [uuid.removeprefix("uuid-") for uuid in step.guests]
            story.close_guests(key, dict.fromkeys(names, "resumed"))
        case Verb.CANCEL:
            story.close(key, "released" if Verb.APPLY in story.state.open else "cancelled")
        case Verb.VERIFY | Verb.ROLLBACK:
            exit_with(story, 0, key)
        case Verb.CENSUS:
            story.close(key, "over", started=[])
        case _:
            story.close(key, "over")
