"""How far another host's clock is ahead of this one's, where ssh leads there.

Layer: adapters; starts `ssh`, as libvirt does for qemu+ssh, and `date` on the other side. libvirt
itself tells no host's time, so over other transports nobody can tell. One ssh answers several
questions, and the quickest counts: the other's time belongs to the middle of the round trip, with
half of it as uncertainty. Errors: none; what could not be read is None. Units: ns.
"""

import os
import re
import select
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO
from urllib.parse import parse_qs, urlsplit

from hostagent.adapters.libvirt import addresses

S = 1_000_000_000
QUESTIONS = 5
_ASK = "while read -r _; do date +%s.%N; done"
_TIME = re.compile(rb"(\d{9,11})\.(\d{9})\n")
"""GNU date; one that knows no %N (busybox) answers something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockDifference:
    """The other clock less ours."""

    ahead_ns: int
    uncertainty_ns: int


def read(uri: str, limit_ns: int) -> ClockDifference | None:
    """The difference to the host of this URI, within the limit."""
    parts, until_ns = urlsplit(uri), time.monotonic_ns() + limit_ns
    if addresses.transport(uri) != "ssh" or not parts.hostname or limit_ns <= 0:
        return None
    try:
        ssh = subprocess.Popen(
            _command(uri), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None
    try:
        return _asked(ssh, until_ns)
    finally:
        _end(ssh)


def _command(uri: str) -> list[str]:
    """As libvirt would call it (src/rpc/virnetsocket.c), asking nobody for a password."""
    parts = urlsplit(uri)
    given = parse_qs(parts.query)
    words = [given.get("command", ["ssh"])[0], "-T", "-e", "none", "-o", "BatchMode=yes"]
    if parts.port:
        words += ["-p", str(parts.port)]
    if parts.username:
        words += ["-l", parts.username]
    if "keyfile" in given:
        words += ["-i", given["keyfile"][0]]
    if given.get("no_verify", ["0"])[0] != "0":
        words += ["-o", "StrictHostKeyChecking=no"]
    return [*words, "--", parts.hostname or "", _ASK]


def _asked(ssh: "subprocess.Popen[bytes]", until_ns: int) -> ClockDifference | None:
    assert ssh.stdin is not None
    assert ssh.stdout is not None
    best: ClockDifference | None = None
    with suppress(OSError):  # it ended
        for _ in range(QUESTIONS):
            found = _question(ssh.stdin, ssh.stdout, until_ns)
            if found is None:
                break
            if best is None or found.uncertainty_ns < best.uncertainty_ns:
                best = found
    return best


def _question(asks: IO[bytes], answers: IO[bytes], until_ns: int) -> ClockDifference | None:
    sent_ns, began_ns = time.time_ns(), time.monotonic_ns()
    os.write(asks.fileno(), b"\n")
    line = b""
    while not line.endswith(b"\n"):
        left_ns = until_ns - time.monotonic_ns()
        if left_ns <= 0 or not select.select([answers], [], [], left_ns / 1e9)[0]:
            return None
        got = os.read(answers.fileno(), 64)
        if not got:
            return None
        line += got
    half_ns = (time.monotonic_ns() - began_ns) // 2
    told = _TIME.fullmatch(line)
    if told is None:
        return None
    theirs_ns = int(told[1]) * S + int(told[2])
    return ClockDifference(ahead_ns=theirs_ns - (sent_ns + half_ns), uncertainty_ns=half_ns + 1)


def _end(ssh: "subprocess.Popen[bytes]") -> None:
    """Killed: it was asked for nothing that could be left half done."""
    ssh.kill()
    for pipe in (ssh.stdin, ssh.stdout):
        if pipe is not None:
            pipe.close()
    with suppress(subprocess.TimeoutExpired):
        ssh.wait(timeout=1)
