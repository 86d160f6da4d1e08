"""One run at a time per libvirt host: flock(2) on files named by the host's UUID.

Layer: adapters. Two files in the lock directory: the run's, whose text names the run, its process
and its state directory (so that a person, and the next run, find what a crash left behind), and
the guardian's, which a guardian holds for as long as it may touch guests. The kernel drops both
with their process, however it ends; the text of the run's stays after a crash and is emptied
after a run that ended.
"""

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hostagent.adapters.host import processes
from hostagent.core.codec import CodecError, decode
from hostagent.core.errors import RefusedError
from hostagent.core.ports import CommandId


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """What the lock's text says of the run that has, or last had, the lock."""

    run: str
    pid: int
    state_dir: str
    start_ticks: int = 0

    @property
    def lives(self) -> bool:
        """Whether its process lives: then the run is under way, not left."""
        return processes.alive(CommandId(pid=self.pid, start_ticks=self.start_ticks))


def ourselves(run: str, state_dir: Path) -> Holder:
    """This process as the holder of the lock."""
    process = processes.identify(os.getpid())
    ticks = process.start_ticks if process is not None else 0
    return Holder(run=run, pid=os.getpid(), state_dir=str(state_dir), start_ticks=ticks)


class RunLock:
    """The lock of one host's runs. Raises RefusedError where it is held or can't be opened."""

    def __init__(self, host_uuid: str) -> None:
        self.host_uuid = host_uuid
        self.guardian_path = _directory() / f"hostagent-{host_uuid}.guardian.lock"
        self.left_by: Holder | None = None
        self._path = _directory() / f"hostagent-{host_uuid}.lock"
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock at once or refuse; `left_by` is then the run that died with it, if any."""
        file = _open(self._path)
        if not _try_lock(file):
            holder = _read(file)
            os.close(file)
            raise RefusedError(_held_by(holder), hint="wait for it, or look at it with `status`")
        self._file = file
        self.left_by = _read(file)

    def name(self, holder: Holder | None) -> None:
        """Write who has the lock, or that nothing is left of whoever had it."""
        assert self._file is not None
        os.ftruncate(self._file, 0)
        if holder is not None:
            os.pwrite(self._file, json.dumps(asdict(holder)).encode(), 0)

    def release(self) -> None:
        """Give the lock back; its text stays as it is."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def guardian_lives(self) -> bool:
        """Whether a guardian that may touch this host's guests is alive."""
        file = _open(self.guardian_path)
        try:
            return not _try_lock(file)
        finally:
            os.close(file)


def holders() -> Iterator[tuple[str, Holder]]:
    """What the locks of all hosts say: host UUID, and the run that has it or died with it."""
    for path in _directory().glob("hostagent-*.lock"):
        try:
            file = _open(path)
        except RefusedError:  # another user's
            continue
        holder = _read(file)
        os.close(file)
        if holder is not None:
            yield path.stem.removeprefix("hostagent-"), holder


def _directory() -> Path:
    """/run/lock (Filesystem Hierarchy Standard 3.0, 3.15), or the user's own where it is not."""
    common = Path("/run/lock")
    if os.access(common, os.W_OK):
        return common
    return Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))  # noqa: S108 - last resort, see _open


def _open(path: Path) -> int:
    """Open or make a lock file. The directory may be anyone's to write to: a link, or a file that
    is not ours or root's, is refused."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            file = os.open(path, flags)
        except FileNotFoundError:
            file = os.open(path, flags | os.O_CREAT, 0o600)
        status = os.fstat(file)
    except OSError as error:
        hint = "another user may have a run on this host; or make the directory writable"
        raise RefusedError(f"can't open the lock {path}: {error.strerror}", hint=hint) from error
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        os.close(file)
        raise RefusedError(f"the lock {path} is not ours", hint="look at who made it; remove it")
    return file


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: int) -> Holder | None:
    try:
        return decode(Holder, json.loads(os.pread(file, 4096, 0) or b"null"))
    except (CodecError, ValueError):
        return None


def _held_by(holder: Holder | None) -> str:
    if holder is None or not holder.lives:  # the text is of a run that died, until it is recovered
        return "another hostagent begins or recovers a run on this host"
    return f"run {holder.run} is under way on this host (pid {holder.pid}, {holder.state_dir})"
