"""Which user light hosts run as, and how a command becomes that user's.

Layer: lab, nothing below it. Why an ordinary user: a libvirtd of root is the system's, with its
bridge and firewall rules; one of an ordinary user keeps to its own directory and needs no
privilege.
"""

import os
import pwd
from collections.abc import Sequence

ORDINARY_USER = "nobody"


def ordinary_user() -> tuple[int, int]:
    """The user and group that hosts run as: ourselves, or an ordinary one when we are root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    entry = pwd.getpwnam(ORDINARY_USER)
    return entry.pw_uid, entry.pw_gid


def as_ordinary_user(arguments: Sequence[str]) -> list[str]:
    """The words that run a command as that user with no privilege left."""
    if os.geteuid() != 0:
        return list(arguments)
    uid, gid = ordinary_user()
    return [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={gid}",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--",
        *arguments,
    ]
