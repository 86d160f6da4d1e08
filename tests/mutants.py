"""Mutants of hostagent that lose a promise, each with the test that must notice.

A mutant is one replacement in one file. `tests/test_mutants.py` applies each to a copy of the
package and runs the named test there: it must fail. A mutant that no longer applies is an error,
so that this list stays true.
"""

from dataclasses import dataclass

EXAMPLES = "tests/work/test_every_interruption.py::test_example"
STORIES = "tests/rules/test_inplace_examples.py"
RUNNER = "tests/work/test_runner.py"
STEPS = "tests/work/test_pause_steps.py"
COMMANDS = "tests/work/test_command_steps.py"
CLOCKS = "tests/rules/test_clock_steps.py"
CONVERSATIONS = "tests/work/test_conversations.py"
CLOCK_EXAMPLES = "tests/rules/test_clock.py"
CLOCK_PROPERTIES = "tests/rules/test_clock_property.py"
PLACEMENT = "tests/rules/test_placement.py"
MOVE_CHECKS = "tests/rules/test_move_checks.py"
CONVERGENCE = "tests/rules/test_convergence.py"
COLD = "tests/adapters/test_move_cold_walked.py"
VERDICTS = "tests/adapters/test_move_verdict.py"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """What is lost, and where."""

    name: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        name="the fence lets everything through",
        file="work/fence.py",
        old="            if self._turned:\n                return False\n",
        new="",
        test=EXAMPLES,
    ),
    Mutant(
        name="the fence lets a held up step through, in real threads",
        file="work/fence.py",
        old="            if self._turned:\n                return False\n",
        new="",
        test=RUNNER,
    ),
    Mutant(
        name="a crash does not halt",
        file="rules/halt.py",
        old="    _crashed,\n    _signalled,",
        new="    _signalled,",
        test=EXAMPLES,
    ),
    Mutant(
        name="a signal does not halt",
        file="rules/halt.py",
        old="    _crashed,\n    _signalled,",
        new="    _crashed,",
        test=EXAMPLES,
    ),
    Mutant(
        name="a step that broke down does not halt",
        file="rules/halt.py",
        old='        if closed.outcome.result == "failed":\n            reason',
        new='        if closed.outcome.result == "?":\n            reason',
        test=EXAMPLES,
    ),
    Mutant(
        name="guests that are not ours are resumed",
        file="rules/progress.py",
        old='MAY_STAND_STILL = frozenset({"paused", "unsettled", "hung"})',
        new='MAY_STAND_STILL = frozenset({"paused", "unsettled", "hung", "not-ours"})',
        test=STORIES,
    ),
    Mutant(
        name="unsettled guests are forgotten",
        file="rules/progress.py",
        old='MAY_STAND_STILL = frozenset({"paused", "unsettled", "hung"})',
        new='MAY_STAND_STILL = frozenset({"paused", "hung"})',
        test=EXAMPLES,
    ),
    Mutant(
        name="rollback while the command may live",
        file="rules/inplace.py",
        old="    if not applied or progress.crashes or _living(progress) is not None:\n",
        new="    if progress.crashes:\n",
        test=EXAMPLES,
    ),
    Mutant(
        name="what the guardian brought back is not known",
        file="rules/progress.py",
        old='            if heard.what == "guardian-back":',
        new='            if heard.what == "?":',
        test=EXAMPLES,
    ),
    Mutant(
        name="what the guardian saw while a suspend was outstanding counts",
        file="rules/progress.py",
        old='        return result != "running" or (pause',
        new="        return True or (pause",
        test=STORIES,
    ),
    Mutant(
        name="there is no deadline",
        file="rules/halt.py",
        old="    if deadline_ns is None or at_ns < deadline_ns:\n        return None\n",
        new="    if deadline_ns is None or at_ns >= 0:\n        return None\n",
        test=EXAMPLES,
    ),
    Mutant(
        name="a command that ended past its deadline is done",
        file="rules/halt.py",
        old="    at_ns = now_ns if closed is None else _ended_ns(closed)\n",
        new="    at_ns = now_ns if closed is None else 0\n",
        test=EXAMPLES,
    ),
    Mutant(
        name="the resume waits for the disk",
        file="work/runner.py",
        old='problem = "" if step.safe else self._sync()',
        new="problem = self._sync()",
        test=RUNNER,
    ),
    Mutant(
        name="a pause does not wait for the disk",
        file="work/runner.py",
        old='problem = "" if step.safe else self._sync()',
        new='problem = ""',
        test=RUNNER,
    ),
    Mutant(
        name="a disk that hangs is waited for without end",
        file="work/runner.py",
        old="problems.get(timeout=self._sync_limit_s)",
        new="problems.get()",
        test=RUNNER,
    ),
    Mutant(
        name="an error in a step is taken for not begun",
        file="work/runner.py",
        old='outcome = Outcome(key=step.key, result="failed", reason=repr(error))',
        new='outcome = Outcome(key=step.key, result="not-begun", reason=repr(error))',
        test=RUNNER,
    ),
    Mutant(
        name="not all paused, applied all the same",
        file="rules/halt.py",
        old="    _not_all,\n",
        new="",
        test=EXAMPLES,
    ),
    Mutant(
        name="a hanging guardian is not noticed",
        file="rules/halt.py",
        old="        if opened.step.verb in bounded and",
        new="        if opened.step.key in bounded and",
        test=STORIES,
    ),
    Mutant(
        name="a dead guardian is not replaced",
        file="rules/inplace.py",
        old="        yield from _arm_again(progress, uuids)\n",
        new="",
        test=STORIES,
    ),
    Mutant(
        name="the command is signalled before the guests are resumed",
        file="rules/inplace.py",
        old="        _bring_back(progress, now_ns)\n        or _tidy_up(progress, now_ns)\n",
        new="        _tidy_up(progress, now_ns)\n        or _bring_back(progress, now_ns)\n",
        test=EXAMPLES,
    ),
    Mutant(
        name="a new holder does not resume anew",
        file="rules/progress.py",
        old='        return f"{verb}@{self.crashes}" if self.crashes else str(verb)',
        new="        return str(verb)",
        test=EXAMPLES,
    ),
    Mutant(
        name="recovery does not write the crash down",
        file="work/recovery.py",
        old='    rows.append(Heard(what="crashed"))\n',
        new="",
        test=EXAMPLES,
    ),
    Mutant(
        name="hung guests are not left with the guardian",
        file="rules/inplace.py",
        old="verb=Verb.DISARM, guests=progress.to_resume, safe=True",
        new="verb=Verb.DISARM, guests=(), safe=True",
        test=EXAMPLES,
    ),
    Mutant(
        name="a guest that hangs is reported as done",
        file="rules/verdict.py",
        old='    "unsettled": Ending.AMBIGUOUS,\n',
        new="",
        test=EXAMPLES,
    ),
    Mutant(
        name="one that ran already counts as paused",
        file="rules/verdict.py",
        old='    if back.result == "running" and not _outlasted_the_command(progress, back):',
        new='    if back.result == "running" and back.reason:',
        test=EXAMPLES,
    ),
    Mutant(
        name="a resume does not wait for an outstanding suspend",
        file="work/steps/pause.py",
        old="        waiting = work.outstanding.among(step.guests)\n",
        new="        waiting: set[str] = set()\n",
        test=STEPS,
    ),
    Mutant(
        name="a hung guest delays one whose suspend has returned",
        file="work/steps/pause.py",
        old="args=arguments, daemon=True).start()",
        new="args=arguments, daemon=True).run()",
        test=STEPS,
    ),
    Mutant(
        name="an owner's pause is left in the guardian's list",
        file="work/steps/pause.py",
        old='            if outcome.result in ("not-ours", "failed"):',
        new='            if outcome.result in ("failed",):',
        test=STEPS,
    ),
    Mutant(
        name="a guest that its owner paused is armed for",
        file="work/steps/watch.py",
        old='    if seen.result == "running":',
        new='    if seen.result in ("running", "paused"):',
        test=STEPS,
    ),
    Mutant(
        name="guests are paused after the budget",
        file="work/steps/pause.py",
        old="        if isinstance(before_ns, int) and time.monotonic_ns() >= before_ns:",
        new="        if False:",
        test=STEPS,
    ),
    Mutant(
        name="a released command is cancelled",
        file="work/steps/command.py",
        old="        if self._commands.released:",
        new="        if False:",
        test=COMMANDS,
    ),
    Mutant(
        name="cancel leaves the fence open",
        file="work/steps/command.py",
        old="        self._commands.fence.turn()\n        if self",
        new="        if self",
        test=COMMANDS,
    ),
    Mutant(
        name="clocks are not set",
        file="rules/inplace.py",
        old="    steps += [*sync(progress), *look_again(progress, now_ns)]\n",
        new="    steps += [*look_again(progress, now_ns)]\n",
        test=EXAMPLES,
    ),
    Mutant(
        name="one that comes back late keeps its clock wrong",
        file="rules/clock_steps.py",
        old="    guests = _untried(progress)\n    if not guests:\n",
        new="    guests = _untried(progress)\n    if _steps(progress) or not guests:\n",
        test=EXAMPLES,
    ),
    Mutant(
        name="a clock gets a second look again and again",
        file="rules/clock_steps.py",
        old="for guest in _with_agents(progress)} - seen\n",
        new="for guest in _with_agents(progress)}\n",
        test=CLOCKS,
    ),
    Mutant(
        name="a busy agent is not asked once more",
        file="rules/clock_outcome.py",
        old='bool(outcome.figures.get("again") or outcome.figures.get("sets"))',
        new='bool(outcome.figures.get("sets"))',
        test=EXAMPLES,
    ),
    Mutant(
        name="a second look that finds an agent busy undoes the proof",
        file="rules/clock_outcome.py",
        old="    tried = with_reading or list(tries)\n",
        new="    tried = list(tries)\n",
        test="tests/rules/test_clock_outcome.py",
    ),
    Mutant(
        name="a silent agent makes the run partly done",
        file="rules/clock_outcome.py",
        old='counts.result == "unsynced" and answered',
        new='counts.result == "unsynced"',
        test="tests/rules/test_clock_outcome.py",
    ),
    Mutant(
        name="a sync of clocks that hangs is called done",
        file="rules/clock_sync.py",
        old="    if state.open:\n        return Done(result=Ending.PARTLY",
        new="    if False:\n        return Done(result=Ending.PARTLY",
        test="tests/rules/test_clock_sync.py",
    ),
    Mutant(
        name="whoever is silent keeps its place",
        file="work/turns.py",
        old="lively = sum(turn.heard_at >= silent_since for turn in self._held)",
        new="lively = len(self._held)",
        test="tests/work/test_turns.py",
    ),
    Mutant(
        name="what was given up goes on asking",
        file="work/conversations.py",
        old="        self._over.set()\n",
        new="",
        test=CONVERSATIONS,
    ),
    Mutant(
        name="a set under way is forgotten",
        file="work/conversations.py",
        old="        talk.history = (*before, Exchange(question=move, answer=OUT_OF_TIME))\n",
        new="",
        test=CONVERSATIONS,
    ),
    Mutant(
        name="a reading from before something stepped the clock counts",
        file="rules/clock_talk.py",
        old="    return tuple(reading for reading in readings if _agree(reading, readings[-1]))\n",
        new="    return tuple(readings)\n",
        test=CLOCK_EXAMPLES,
    ),
    Mutant(
        name="a reading from before the last set counts",
        file="rules/clock_talk.py",
        old="        since = self.set_exchanges[-1][0] if self.set_exchanges else -1\n",
        new="        since = -1\n",
        test=CLOCK_PROPERTIES,
    ),
    Mutant(
        name="a clock is set by what was left over, each time more",
        file="rules/clock_methods.py",
        old="            return min(max(learned_ns, 0), MOST_LEARNED_NS)\n",
        new="            return learned_ns\n",
        test=CLOCK_PROPERTIES,
    ),
    Mutant(
        name="a clock that is wrong on purpose is set",
        file="rules/clock.py",
        old="    if left_alone:\n        return _verdict(talk, None, left_alone)\n    if _is_near",
        new="    if _is_near",
        test=CLOCK_PROPERTIES,
    ),
    Mutant(
        name="the RTC that libvirt stores is written",
        file="rules/clock_methods.py",
        old="if method is not Method.AGENT or not spare_rtc)",
        new="if method is not None)",
        test=CLOCK_PROPERTIES,
    ),
    Mutant(
        name="what a slow agent says is taken for certain",
        file="rules/clock.py",
        old="    if reading.uncertainty_ns > UNSURE_NS:\n        sure",
        new="    if False:\n        sure",
        test=CLOCK_PROPERTIES,
    ),
    Mutant(
        name="a set that was refused counts as none",
        file="rules/clock_talk.py",
        old="    return refused is None or refused.refusal in MAY_HAVE_WORKED\n",
        new="    return refused is None\n",
        test=CLOCK_EXAMPLES,
    ),
    Mutant(
        name="a clock is set without end",
        file="rules/clock.py",
        old="    if talk.sets >= MOST_SETS:\n        return Exhausted",
        new="    if talk.sets < 0:\n        return Exhausted",
        test=CLOCK_PROPERTIES,
    ),
    Mutant(
        name="a clock half a day off is set on nobody's word",
        file="rules/clock.py",
        old="    if not task.trusted and not talk.sets and abs(residual_ns) >= HALF_A_DAY_NS:",
        new="    if False:",
        test=CLOCK_PROPERTIES,
    ),
    Mutant(
        name="a clock is read on though its time is out",
        file="rules/clock.py",
        old="(left_ns >= SHORT_NS and _wants_another(talk))",
        new="_wants_another(talk)",
        test=CLOCK_PROPERTIES,
    ),
    Mutant(
        name="a clock is set though its time is out",
        file="rules/clock_methods.py",
        old="            if left_ns < SHORTEST_NS[method]:\n                return Exhausted()\n",
        new="",
        test=CLOCK_PROPERTIES,
    ),
    Mutant(
        name="guests go to a cordoned host",
        file="rules/placement.py",
        old="    if candidate.cordoned:\n        yield",
        new="    if False:\n        yield",
        test=PLACEMENT,
    ),
    Mutant(
        name="memory of guests on their way is given away",
        file="rules/placement.py",
        old="(*given.get(uuid, ()), *candidate.reserved)",
        new="given.get(uuid, ())",
        test=PLACEMENT,
    ),
    Mutant(
        name="guests that back each other up go to one host",
        file="rules/placement.py",
        old="    return len(_members(guest, host)), spare,",
        new="    return 0, spare,",
        test=PLACEMENT,
    ),
    Mutant(
        name="guests to be kept apart share a host",
        file="rules/placement.py",
        old="    if members and rules.keep_apart:",
        new="    if False:",
        test=PLACEMENT,
    ),
    Mutant(
        name="a guest goes to an older QEMU",
        file="rules/move_checks.py",
        old="    if there.qemu < source.qemu:",
        new="    if False:",
        test=MOVE_CHECKS,
    ),
    Mutant(
        name="a copy is written over what is there",
        file="rules/move_checks.py",
        old="    (_in_the_way, ARRIVES),\n",
        new="",
        test=MOVE_CHECKS,
    ),
    Mutant(
        name="a guest that is gone once it is shut off is shut down",
        file="rules/move_ladder.py",
        old="    if guest.state in RUNS and guest.persistent:",
        new="    if guest.state in RUNS:",
        test=MOVE_CHECKS,
    ),
    Mutant(
        name="a live move goes on for ever",
        file="rules/convergence.py",
        old="*last_resort, Stage(after_ns=limit_ns, measure=Measure.ABORT))",
        new="*last_resort)",
        test=CONVERGENCE,
    ),
    Mutant(
        name="a live move that nobody looked after is driven on",
        file="rules/convergence.py",
        old="    if left and left[-1].measure is Measure.ABORT and left[-1].after_ns <= since_ns:\n"
        "        return left[-1]\n",
        new="",
        test=CONVERGENCE,
    ),
    Mutant(
        name="a guest that its owner started is started on the other host too",
        file="adapters/libvirt/move_cold.py",
        old="        _start_nowhere_at_boot(trip)\n        _must_be_off(trip)\n",
        new="        _start_nowhere_at_boot(trip)\n",
        test=COLD,
    ),
    Mutant(
        name="two hosts start the same guest when they boot",
        file="adapters/libvirt/move_settle.py",
        old="    wanted = order.autostart and not problems\n",
        new="    wanted = order.autostart\n",
        test=COLD,
    ),
    Mutant(
        name="a guest is started at the source though the destination may start it too",
        file="adapters/libvirt/move_landing.py",
        old="    if there is None or there.present:\n        return _ambiguous(\n"
        '            f"{why}; it is off,',
        new="    if there is not None and there.present:\n        return _ambiguous(\n"
        '            f"{why}; it is off,',
        test=COLD,
    ),
    Mutant(
        name="a destination that fails before any start leaves the guest off",
        file="adapters/libvirt/move_cold.py",
        old="back(trip, told(error), asked=False)",
        new="back(trip, told(error), asked=True)",
        test=COLD,
    ),
    Mutant(
        name="a QEMU that is only being made has the guest",
        file="adapters/libvirt/move_places.py",
        old="        return made or self.handed_over\n",
        new="        return self.handed_over\n",
        test=VERDICTS,
    ),
)
