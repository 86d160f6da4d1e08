"""Each reason to halt, told apart: its result, its words, and that it is for good."""

import pytest

from hostagent.core.plan import Ending, Verb
from hostagent.rules.halt import Halt, halted
from hostagent.rules.progress import Progress
from hostagent.rules.request import S
from tests.rules.runs import (
    Story,
    a_plan,
    applying,
    armed,
    exit_with,
    guest,
    launched,
    pausing,
    tidied,
)


def halt_of(story: Story) -> Halt:
    found = halted(Progress(story.state), story.now_ns)
    assert found is not None
    return found


def is_open(story: Story) -> bool:
    return halted(Progress(story.state), story.now_ns) is None


@pytest.mark.parametrize("make", [launched, armed, pausing, applying])
def test_nothing_wrong_halts_nothing(make: type[Story]) -> None:
    assert is_open(make("a"))


def test_crashed() -> None:
    story = applying("a")
    story.hear("crashed")
    assert halt_of(story) == Halt(result=Ending.INTERRUPTED, reason="hostagent died in mid-run")


def test_signalled() -> None:
    story = launched("a")
    story.hear("signal", "SIGHUP")
    assert halt_of(story) == Halt(result=Ending.INTERRUPTED, reason="stopped by SIGHUP")


@pytest.mark.parametrize(
    ("result", "reason", "said"),
    [("exited", "", "exit 3"), ("not-begun", "the disk is full", "the disk is full")],
)
def test_unprepared(result: str, reason: str, said: str) -> None:
    story = Story(a_plan("a", prepare=("get",)))
    story.go()
    story.close("prepare", result, reason, **({"exit_code": 3} if result == "exited" else {}))
    assert halt_of(story).result is Ending.REFUSED
    assert said in halt_of(story).reason
    assert not story.go()


def test_busy() -> None:
    story = Story(a_plan(guests=(guest("a", job="dump"),)))
    story.go()
    story.close_guests("await-jobs", {"a": "busy"}, reason="a dump is running on it")
    assert halt_of(story).reason == "guest a: a dump is running on it"


@pytest.mark.parametrize("verb", ["launch", "arm", "pause", "apply"])
def test_not_begun(verb: str) -> None:
    story = _at(verb)
    story.close(verb, "not-begun", "why")
    assert halt_of(story) == Halt(result=Ending.REFUSED, reason="why")


@pytest.mark.parametrize("verb", ["launch", "arm", "pause", "apply"])
def test_broken_down(verb: str) -> None:
    story = _at(verb)
    story.close(verb, "failed", "ValueError()")
    assert halt_of(story).reason == f"{verb} failed: ValueError()"


def test_not_all() -> None:
    story = pausing("a", "b")
    story.close_guests("pause", {"a": "paused", "b": "failed"}, reason="no")
    assert halt_of(story).reason == "guest b could not be paused: no"


def test_unguarded() -> None:
    story = applying("a")
    for _ in range(2):
        story.hear("guardian-died")
    assert is_open(story)
    story.hear("guardian-died")
    assert halt_of(story) == Halt(result=Ending.PARTLY, reason="3 guardians died")


def test_unguarded_before_the_update_is_refused() -> None:
    story = pausing("a")
    for _ in range(3):
        story.hear("guardian-died")
    assert halt_of(story).result is Ending.REFUSED


@pytest.mark.parametrize("verb", ["launch", "arm", "pause"])
def test_hanging_and_hanging_for_good(verb: str) -> None:
    story = _at(verb)
    story.pass_time()
    assert halt_of(story) == Halt(result=Ending.REFUSED, reason=f"{verb} hangs")
    if verb == Verb.PAUSE:
        story.close_guests(verb, {"a": "paused"})
    else:
        story.close(verb, "over")
    assert halt_of(story).reason == f"{verb} took too long"
    assert "cancel" in tidied(story).state.done or verb == "launch"
    assert halt_of(story).reason == f"{verb} took too long"


def test_deadline_while_the_command_runs_and_for_good() -> None:
    story = applying("a")
    story.pass_time()
    assert halt_of(story).result is Ending.BUDGET_EXCEEDED
    exit_with(story, 0)
    assert halt_of(story).result is Ending.BUDGET_EXCEEDED


def test_deadline_before_the_update_could_begin() -> None:
    story = pausing("a", budget_ns=4 * S)
    story.pass_time()
    assert halt_of(story).result is Ending.REFUSED
    assert "before the update could begin" in halt_of(story).reason


def test_a_command_that_ended_in_time_has_no_deadline_any_more() -> None:
    story = applying("a")
    exit_with(story, 0)
    story.now_ns += 100 * S
    assert is_open(story)


def test_the_first_reason_is_told() -> None:
    story = pausing("a")
    story.close_guests("pause", {"a": "failed"}, reason="no")
    story.hear("signal", "SIGINT")
    assert halt_of(story).reason == "stopped by SIGINT"


def _at(verb: str) -> Story:
    """A run in the middle of this step."""
    if verb == Verb.LAUNCH:
        story = Story(a_plan("a"))
        story.go()
        return story
    made = {Verb.ARM: launched, Verb.PAUSE: armed}.get(Verb(verb))
    if made is None:
        return applying("a")
    story = made("a")
    story.go()
    return story
