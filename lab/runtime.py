"""A light host's runtime directory in memory, as /run is on a real host.

Layer: lab. libvirt writes and syncs each guest's status file there at every suspend and resume: on
a disk that took more than half of the time of a pause (measured), which no real host pays. The
host's own directory holds a link, made before what it points to, so that whoever takes a host away
finds both, also after a killed `up`. Where /dev/shm is no tmpfs, or full, it is an ordinary
directory. Effects: one directory below /dev/shm.
"""

import shutil
from pathlib import Path

from lab.tools import run

MEMORY = Path("/dev/shm")
LEAST_FREE_BYTES = 16 * 1024 * 1024


def make_runtime_directory(link: Path) -> None:
    """Make the directory behind this path; one that is there already stays."""
    if link.exists():
        return
    if not _in_memory():
        link.mkdir()
        return
    place = MEMORY / "-".join(("halab", *link.parts[-3:-1])).replace("halab-halab-", "halab-")
    link.symlink_to(place)
    place.mkdir(mode=0o700)


def remove_runtime_directory(link: Path) -> None:
    """Remove the directory behind this path if it is one of ours in memory."""
    if not link.is_symlink():
        return
    place = link.readlink()
    if place.parent == MEMORY and place.name.startswith("halab-"):
        run("rm", "-rf", "--one-file-system", place)


def _in_memory() -> bool:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    on_tmpfs = any(mount[1] == str(MEMORY) and mount[2] == "tmpfs" for mount in mounts)
    return on_tmpfs and shutil.disk_usage(MEMORY).free >= LEAST_FREE_BYTES
