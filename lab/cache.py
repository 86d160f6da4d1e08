"""Where images and root trees are kept between labs, and how one gets there whole or not at all.

Layer: lab. Invariants: outside the project tree; what has its final name is complete, since it is
built beside it and renamed; one builder at a time, the others wait and use what it made; what a
killed builder left is removed by the next, once the last of its programs has ended. Effects: files
below the cache directory.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

SCRATCH = "building-"


def cache_directory() -> Path:
    """The cache of this user."""
    if os.geteuid() == 0:
        return Path("/var/cache/hostagent-lab")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hostagent-lab"


def build_once(place: Path, build: Callable[[Path], Path]) -> None:
    """Make `place` by a build in a scratch directory, which returns what to rename."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)
        if place.exists():
            return
        for left in place.parent.glob(f"{SCRATCH}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=place.parent) as scratch:
            finished = build(Path(scratch))
            finished.chmod(0o755)
            finished.rename(place)
