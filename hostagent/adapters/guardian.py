"""The guardian as the run sees it.

Layer: adapters; satisfies core.ports.Watch over guardian.wire. A guardian that dies is told to the
run, which arms another one: the new one is told again what the old one knew. `NoGuardian` is for
recovery, which only resumes.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hostagent.adapters.host.processes import identify
from hostagent.adapters.run_files import RunFiles
from hostagent.adapters.targets import target_of, ways_of
from hostagent.core.errors import RefusedError
from hostagent.core.journal import Heard
from hostagent.core.plan import Plan, PlannedGuest
from hostagent.guardian import wire
from hostagent.guardian.process import ProcessId


class NoGuardian:
    """Stands where nobody has to watch."""

    def arm(self, guests: Sequence[PlannedGuest], plan: Plan, budget_ns: int, limit_ns: int) -> int:
        """Recovery pauses nothing, so there is nothing to watch."""
        raise RefusedError("recovery arms no guardian")

    def settled(self, uuid: str) -> None:
        """Nobody to tell."""

    def let_go(self, uuid: str) -> None:
        """Nobody to tell."""

    def disarm(self, keep: Sequence[str], limit_ns: int) -> bool:
        """Nobody to disarm."""
        return True


class GuardianWatch:
    """The guardian of one run, and its successors. Deaths are put to `put`."""

    def __init__(self, files: RunFiles, lock: Path, put: Callable[[Heard], None]) -> None:
        self._files = files
        self._lock = lock
        self._put = put
        self._numbers = itertools.count(1)
        self._guardian: wire.Watch | None = None
        self._told = threading.Lock()
        self._settled: set[str] = set()
        self._let_go: set[str] = set()

    def arm(self, guests: Sequence[PlannedGuest], plan: Plan, budget_ns: int, limit_ns: int) -> int:
        """Start a guardian over these guests; its deadline. Raises RefusedError."""
        deadline_ns = time.monotonic_ns() + budget_ns
        arm = wire.Arm(
            run=plan.run,
            list_path=str(self._files.guardian_list),
            journal_path=str(self._files.guardian_journal),
            lock_path=str(self._lock),
            deadline_ns=deadline_ns,
            owner=_ourselves(),
            ways=ways_of(plan.host),
            guests=tuple(target_of(guest) for guest in guests),
        )
        guardian = wire.Watch(
            unit=f"hostagent-guardian-{plan.run}-{next(self._numbers)}",
            list_path=arm.list_path,
            on_death=lambda: self._put(Heard(what="guardian-died")),
        )
        try:
            guardian.arm(arm, limit_ns)
        except (wire.NotReadyError, OSError) as error:
            raise RefusedError(f"no guardian: {error}", hint="nothing was paused") from error
        if guardian.exposed:
            self._put(Heard(what="guardian-exposed"))
        with self._told:
            self._guardian = guardian
            guardian.paused(sorted(self._settled))
            guardian.let_go(sorted(self._let_go))
        return deadline_ns

    def settled(self, uuid: str) -> None:
        """The suspend of this guest has returned."""
        with self._told:
            self._settled.add(uuid)
            if self._guardian is not None:
                self._guardian.paused([uuid])

    def let_go(self, uuid: str) -> None:
        """This guest runs, or is not ours."""
        with self._told:
            self._let_go.add(uuid)
            if self._guardian is not None:
                self._guardian.let_go([uuid])

    def disarm(self, keep: Sequence[str], limit_ns: int) -> bool:
        """End it, or leave it alone with these."""
        if self._guardian is None:
            return True
        return self._guardian.disarm(keep, limit_ns)


def _ourselves() -> ProcessId:
    process = identify(os.getpid())
    assert process is not None
    return ProcessId(pid=process.pid, start_ticks=process.start_ticks)
