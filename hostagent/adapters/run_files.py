"""The files of runs in the state directory: their names, which are unfinished, and their tidying.

Layer: adapters. STATE/runs/RUN.jsonl is a run's journal, RUN.guardian.jsonl its guardian's, and
RUN.guardian.json what a living guardian still has to bring back. A run is unfinished while its
journal has no `ended` row.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostagent.adapters.host import processes
from hostagent.adapters.journal_file import boot_id, read_journal
from hostagent.core.journal import Heard, JournalError, State, salvage
from hostagent.core.plan import Verb
from hostagent.core.ports import CommandId
from hostagent.rules.progress import LET_GO

GUARDIAN_BACK = "guardian-back"
GUARDIAN_LET_GO = "guardian-let-go"
"""Rows of a guardian's journal (guardian/scribe)."""

KEPT = 50
"""Journals of ended runs that are kept; older ones are removed when a new run begins."""


def default_state_dir() -> Path:
    """/var/lib/hostagent for root, else the user's own (XDG Base Directory specification)."""
    if os.geteuid() == 0:
        return Path("/var/lib/hostagent")
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local/state")) / "hostagent"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """The files of one run."""

    state_dir: Path
    run: str

    @property
    def journal(self) -> Path:
        """The run's own journal."""
        return self.state_dir / "runs" / f"{self.run}.jsonl"

    @property
    def guardian_journal(self) -> Path:
        """What its guardian did."""
        return self.state_dir / "runs" / f"{self.run}.guardian.jsonl"

    @property
    def guardian_list(self) -> Path:
        """What its guardian still has to bring back."""
        return self.state_dir / "runs" / f"{self.run}.guardian.json"

    def state(self) -> State:
        """The fold of the journal, as far as its lines are whole. Raises OSError, JournalError."""
        return salvage(read_journal(self.journal))


def all_runs(state_dir: Path) -> list[RunFiles]:
    """All runs with a journal, oldest first: their names begin with their time."""
    paths = sorted((state_dir / "runs").glob("*.jsonl"))
    return [
        RunFiles(state_dir=state_dir, run=path.stem)
        for path in paths
        if not path.name.endswith(".guardian.jsonl")
    ]


def unfinished_runs(state_dir: Path) -> list[RunFiles]:
    """Runs without an end, oldest first. An empty journal is a run that never had a plan."""
    return [files for files in all_runs(state_dir) if _is_unfinished(files.journal)]


def _is_unfinished(path: Path) -> bool:
    """By the last line alone: reading a hundred whole journals would make `status` slow."""
    text = path.read_bytes()
    last = text.rstrip(b"\n").rpartition(b"\n")[2]
    return bool(text.strip()) and not last.startswith(b'{"row":"ended"')


def living_commands(state_dir: Path, host_uuid: str) -> Iterator[tuple[CommandId, str]]:
    """Commands of this host's runs that still live, with their command lines."""
    for files in all_runs(state_dir):
        try:
            state = files.state()
        except (OSError, JournalError):
            continue
        if state.boot_id != boot_id() or state.plan.host.uuid != host_uuid:
            continue
        for command in _commands(state):
            if processes.alive(command):
                yield command, processes.command_line(command.pid)


def _commands(state: State) -> Iterator[CommandId]:
    """The processes of a run's commands: of its update by the launch, of the others as heard."""
    launched = state.done.get(Verb.LAUNCH)
    told: list[Any] = [heard.value for heard in state.heard if heard.what == "command"]
    if launched is not None:
        told.append(launched.outcome.figures)
    for figures in told:
        pid, ticks = figures.get("pid"), figures.get("start_ticks")
        if isinstance(pid, int) and isinstance(ticks, int):
            yield CommandId(pid=pid, start_ticks=ticks)


def guardian_rows(files: RunFiles) -> list[Heard]:
    """What the guardian brought back, as rows for the run's own journal."""
    return [
        Heard(what=GUARDIAN_BACK, value=_back(value))
        for what, value in _guardian_notes(files)
        if what == GUARDIAN_BACK
    ]


def let_go_rows(files: RunFiles) -> list[Heard]:
    """The guests of which a hostagent that died had told its guardian that they run, or are not
    its own: its journal may not say so yet."""
    said = [
        value.get("uuids", ()) for what, value in _guardian_notes(files) if what == GUARDIAN_LET_GO
    ]
    reason = "brought back before hostagent died; how long it stood still is not known"
    rest = {"result": LET_GO, "reason": reason, "figures": {}}
    uuids = dict.fromkeys(uuid for each in said for uuid in each)
    return [Heard(what=GUARDIAN_BACK, value={"uuid": str(uuid), **rest}) for uuid in uuids]


def _guardian_notes(files: RunFiles) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        entries = list(read_journal(files.guardian_journal))
    except OSError:
        return
    for entry in entries:
        if isinstance(entry.row, Heard) and isinstance(entry.row.value, dict):
            yield entry.row.what, entry.row.value


def _back(value: dict[str, Any]) -> dict[str, Any]:
    """A guardian's word on a guest (guardian.resume.Back) in the form of our own outcomes."""
    names = ("called_ns", "returned_ns", "way")
    return {
        "uuid": str(value.get("uuid", "")),
        "result": str(value.get("result", "")),
        "reason": str(value.get("reason", "")) or "the guardian brought it back",
        "figures": {name: value[name] for name in names if value.get(name)},
    }


def held_guests(state_dir: Path) -> dict[str, str]:
    """Guests that a living guardian of an earlier run still waits for, with that run's name."""
    held: dict[str, str] = {}
    for path in (state_dir / "runs").glob("*.guardian.json"):
        try:
            content = json.loads(path.read_bytes())
            guardian = CommandId(**content["guardian"])
            guests = [str(guest["uuid"]) for guest in content["guests"]]
            waiting = bool(content["waiting_for_hung"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if waiting and processes.alive(guardian):
            held.update(dict.fromkeys(guests, path.name.removesuffix(".guardian.json")))
    return held


def forget_lists(places: Iterable[Path], runs: Iterable[str]) -> None:
    """Remove what the dead guardians of these runs had still to bring back: it is done, and a
    guardian that its unit starts again must not do it later."""
    for files in (RunFiles(state_dir=place, run=run) for run in runs for place in places):
        with suppress(OSError):
            files.guardian_list.unlink(missing_ok=True)


def tidy(state_dir: Path) -> None:
    """Remove the files of ended runs but the newest; never one that is unfinished."""
    ended = [files for files in all_runs(state_dir) if not _is_unfinished(files.journal)]
    for files in ended[:-KEPT]:
        for path in (files.guardian_journal, files.journal):
            path.unlink(missing_ok=True)
