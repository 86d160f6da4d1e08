"""The journal on a real disk: durable, in order, and honest when the disk is not."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostagent.adapters import journal_file
from hostagent.adapters.journal_file import JournalFile, read_journal
from hostagent.core.journal import Heard, Intent, Outcome, Planned, salvage
from hostagent.core.plan import Step, Verb
from tests.rules.runs import a_plan

LIMIT_S = 10.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "runs" / "run-1.jsonl"


def rows_of(path: Path) -> list[object]:
    return [entry.row for entry in read_journal(path)]


def test_what_was_synced_is_read_back_in_order(path: Path) -> None:
    journal = JournalFile(path)
    rows = [Heard(what="signal", value=number) for number in range(50)]
    entries = [journal.append(row) for row in rows]
    journal.sync()
    assert list(read_journal(path)) == entries


def test_it_is_private_and_goes_on_where_it_was(path: Path) -> None:
    for number in range(2):
        journal = JournalFile(path)
        journal.append(Heard(what="signal", value=number))
        journal.sync()
    assert rows_of(path) == [Heard(what="signal", value=0), Heard(what="signal", value=1)]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_nobody_is_led_to_another_file(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        JournalFile(path)


def test_it_outlives_a_kill_right_after_the_sync(path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from hostagent.adapters.journal_file import JournalFile\n"
        "from hostagent.core.journal import Heard\n"
        "journal = JournalFile(Path(sys.argv[1]))\n"
        "journal.append(Heard(what='signal', value='kept')); journal.sync()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(path)], check=False, timeout=LIMIT_S)
    assert ran.returncode == -signal.SIGKILL
    assert rows_of(path) == [Heard(what="signal", value="kept")]


def test_appends_of_many_threads_are_whole_lines(path: Path) -> None:
    journal = JournalFile(path)

    def write(name: int) -> None:
        for number in range(100):
            journal.append(Heard(what=f"t{name}", value=number))
        journal.sync()

    threads = [threading.Thread(target=write, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    found = [row for row in rows_of(path) if isinstance(row, Heard)]
    for name in range(5):
        assert [row.value for row in found if row.what == f"t{name}"] == list(range(100))


@pytest.mark.parametrize(
    "torn",
    [b'{"row":"heard","is":{"wha', b"\x00\x00\x00", b"[]", b'{"row":"later kind"}', b"\xff\xfe"],
)
def test_torn_lines_are_passed_over(path: Path, torn: bytes) -> None:
    journal = JournalFile(path)
    journal.append(Heard(what="before"))
    journal.sync()
    with path.open("ab") as file:
        file.write(torn + b"\n")
    JournalFile(path).append(Heard(what="after"))
    _until_synced(path)
    assert rows_of(path) == [Heard(what="before"), Heard(what="after")]


def test_a_directory_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(OSError, match="File exists"):
        JournalFile(tmp_path / "file" / "run-1.jsonl")


def test_a_read_only_directory_is_said_at_once(tmp_path: Path) -> None:
    """In a process without root's rights, which may write everywhere."""
    tmp_path.chmod(0o555)
    program = (
        "import os, sys; from pathlib import Path\n"
        "from hostagent.adapters.journal_file import JournalFile\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setuid(65534)\n"
        "try: JournalFile(Path('run-1.jsonl'))\n"
        "except PermissionError: sys.exit(42)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=False, timeout=LIMIT_S
    )
    assert ran.returncode == 42
    assert list(tmp_path.iterdir()) == []


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Files can't grow beyond this: what a write gets is EFBIG, or a part that still fits."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # Python ignores SIGXFSZ
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_before_anything_is_written(path: Path) -> None:
    with full_disk(1000), pytest.raises(OSError, match="too large"):
        JournalFile(path)
    assert not path.exists()


def test_a_disk_that_fills_up_is_said_by_every_sync_from_then_on(path: Path) -> None:
    journal = JournalFile(path)
    journal.append(Heard(what="before"))
    journal.sync()
    with full_disk(path.stat().st_size + 20):
        journal.append(Heard(what="lost"))
        for _ in range(2):
            with pytest.raises(OSError, match="too large"):
                journal.sync()
    assert rows_of(path) == [Heard(what="before")]


@pytest.mark.parametrize("room", [0, 20], ids=["no byte of it", "a part of it"])
def test_a_run_whose_intent_the_full_disk_lost_can_still_be_taken_over(
    path: Path, room: int
) -> None:
    """Safe steps go on without the disk; when there is room again, their outcomes are written."""
    journal = JournalFile(path)
    journal.append(Planned(plan=a_plan("a")))
    journal.sync()
    with full_disk(path.stat().st_size + room):
        journal.append(Intent(step=Step(key="resume", verb=Verb.RESUME, safe=True)))
        with pytest.raises(OSError, match="too large"):
            journal.sync()
    journal.append(Outcome(key="resume", result="over"))
    journal.append(Heard(what="crashed"))
    _wait(lambda: b'"crashed"' in path.read_bytes())
    state = salvage(read_journal(path))
    assert state.plan.run == "run-1"
    assert not state.begun("resume")
    assert state.hears("crashed")


def test_a_disk_that_hangs_holds_up_only_who_asks_for_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fdatasync stands still: the one thing of a disk that can't be had here."""
    answers = threading.Event()
    monkeypatch.setattr(journal_file.os, "fdatasync", lambda file: answers.wait())
    journal = JournalFile(path)
    for number in range(100):
        journal.append(Heard(what="signal", value=number))
    synced = threading.Event()
    threading.Thread(target=lambda: (journal.sync(), synced.set()), daemon=True).start()
    assert not synced.wait(0.2)
    answers.set()
    assert synced.wait(LIMIT_S)


def test_stamps_are_of_this_boot_and_never_go_back(path: Path) -> None:
    journal = JournalFile(path)
    stamps = [journal.append(Heard(what="x")).stamp for _ in range(20)]
    times = [stamp.monotonic_ns for stamp in stamps]
    assert times == sorted(times)
    assert {stamp.boot_id for stamp in stamps} == {
        Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    }
    assert {stamp.pid for stamp in stamps} == {os.getpid()}


def test_each_line_is_json_on_its_own(path: Path) -> None:
    journal = JournalFile(path)
    journal.append(Heard(what="a\nb", value="\udc80"))
    journal.sync()
    (line,) = path.read_bytes().splitlines()
    assert json.loads(line)["is"] == {"what": "a\nb", "value": "\udc80"}


def _until_synced(path: Path) -> None:
    """Another journal's rows were queued: wait until they are in the file."""
    _wait(lambda: b"after" in path.read_bytes())


def _wait(condition: object) -> None:
    assert callable(condition)
    for _ in range(int(LIMIT_S * 200)):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came")
