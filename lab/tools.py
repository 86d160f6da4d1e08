"""Running the programs that the lab is made with.

Layer: lab. Invariants: arguments are lists, never a shell's text. Effects: processes. Errors: a
program that is missing or fails is CannotRun with the last lines that it printed.
"""

import os
import subprocess
from pathlib import Path

from lab.errors import CannotRun

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""An ordinary user's PATH often lacks the sbin directories, where mkfs.ext4 and libvirtd are."""


def run(
    *command: str | Path,
    cwd: Path | None = None,
    timeout_s: float = 600,
    home: Path | None = None,
) -> str:
    """Run a program to its end and return what it printed.

    One that works on a host's files gets the host's directory as `home`: should the lab be killed
    meanwhile, clean-up finds and ends it. It inherits what was made inheritable: the lock on the
    cache, which is then held until the last program of a killed build has ended.
    """
    words = [str(word) for word in command]
    environment = os.environ | {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8"}
    if home is not None:
        environment["HALAB_HOST"] = str(home)
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            close_fds=False,
        )
    except FileNotFoundError as error:
        raise CannotRun(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CannotRun(f"{words[0]} did not end within {timeout_s:g} s") from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise CannotRun(f"{' '.join(words[:3])} failed: {' / '.join(last)}")
    return done.stdout
