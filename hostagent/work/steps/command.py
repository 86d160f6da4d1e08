"""Steps that run commands: prepare, launch, apply, cancel, signal, verify, rollback.

Layer: work. A command's outcome is `exited` with its exit_code, or after a crash `lost` (nobody was
there to see how it ended). The update's command is launched behind a gate before the pause and
released by apply; the others are launched and released in one go.
"""

import signal
import time
from collections.abc import Callable

from hostagent.core.errors import RefusedError
from hostagent.core.journal import Heard, Outcome
from hostagent.core.plan import Json, Step, Verb
from hostagent.core.ports import Command, CommandId
from hostagent.work.fence import Fence


class Commands:
    """What the steps of one run know of its commands, by verb."""

    def __init__(self, command: Command, fence: Fence) -> None:
        self.port = command
        self.fence = fence
        self.ids: dict[str, CommandId] = {}
        self.released = False

    def launch(self, verb: Verb, step: Step) -> CommandId:
        """Start the process that waits to become this command. Raises RefusedError."""
        argv = step.args["argv"]
        assert isinstance(argv, list)
        self.ids[verb] = self.port.launch(verb, [str(word) for word in argv])
        return self.ids[verb]

    def wait(self, verb: Verb, key: str, released_ns: int) -> Outcome:
        """Its end, as an outcome. `exit_code` is the shell's 126 or 127 where it could not be
        executed."""
        reason = ""
        try:
            code = self.port.wait(verb)
        except OSError as error:
            code = 127 if isinstance(error, FileNotFoundError) else 126
            reason = f"the command could not be executed: {error.strerror}"
        figures: dict[str, Json] = {
            "exit_code": code,
            "released_ns": released_ns,
            "ended_ns": time.monotonic_ns(),
        }
        return Outcome(key=key, result="exited", reason=reason, figures=figures)


class Launch:
    """Starts the update's command, waiting behind its gate."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def do(self, step: Step) -> Outcome:
        command = self._commands.launch(Verb.APPLY, step)
        figures: dict[str, Json] = {"pid": command.pid, "start_ticks": command.start_ticks}
        return Outcome(key=step.key, result="launched", figures=figures)

    def look(self, step: Step) -> Outcome:
        """Its gate closed with its hostagent, so it has ended without running anything."""
        return Outcome(key=step.key, result="not-begun", reason="hostagent died")


class Apply:
    """Opens the gate and waits for the command's end."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._released_ns = 0

    def do(self, step: Step) -> Outcome:
        before_ns = step.args["before_ns"]
        if isinstance(before_ns, int) and time.monotonic_ns() >= before_ns:
            raise RefusedError("the budget was over before the update could begin")
        try:
            if not self._commands.fence.enter(self._release):
                raise RefusedError("the run was stopped before the update began")
        except OSError as error:
            raise RefusedError(f"the command that waited at its gate is gone: {error}") from error
        return self._commands.wait(Verb.APPLY, step.key, self._released_ns)

    def look(self, step: Step) -> Outcome:
        """Not our child any more: whether it lives is seen by whoever plans the next run."""
        return Outcome(key=step.key, result="lost", reason="hostagent died")

    def _release(self) -> None:
        self._released_ns = time.monotonic_ns()
        self._commands.port.release(Verb.APPLY)
        self._commands.released = True


class RunCommand:
    """Prepare, verify and rollback: guests run, nothing waits for them. Which process it is, is
    told: it may outlive the run, and the next one must not begin beside it."""

    def __init__(self, commands: Commands, tell: Callable[[Heard], None] | None = None) -> None:
        self._commands = commands
        self._tell = tell

    def do(self, step: Step) -> Outcome:
        command = self._commands.launch(step.verb, step)
        if self._tell is not None:
            process: dict[str, Json] = {"pid": command.pid, "start_ticks": command.start_ticks}
            self._tell(Heard(what="command", value={"verb": str(step.verb), **process}))
        released_ns = time.monotonic_ns()
        self._commands.port.release(step.verb)
        return self._commands.wait(step.verb, step.key, released_ns)

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result="lost", reason="hostagent died")


class Cancel:
    """Keeps the gate shut: `cancelled` ends the command that waits there, which never runs, and
    `released` says that it was let through before."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def do(self, step: Step) -> Outcome:
        self._commands.fence.turn()
        if self._commands.released:
            return Outcome(key=step.key, result="released")
        self._commands.port.cancel(Verb.APPLY)
        return Outcome(key=step.key, result="cancelled")

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result="unknown")


class Signal:
    """Sends a signal on to a command's process group."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def do(self, step: Step) -> Outcome:
        command = self._commands.ids.get(str(step.args["command"]))
        number = signal.Signals[str(step.args["signal"])]
        sent = command is not None and self._commands.port.signal(command, number)
        return Outcome(key=step.key, result="sent" if sent else "gone")

    def look(self, step: Step) -> Outcome:
        return Outcome(key=step.key, result="unknown")
