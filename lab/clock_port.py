"""A guest's clock against the host's, read on a port on which the guest tells the time.

Layer: lab. No agent and no fork: the guest's init answers each line with its EPOCHREALTIME, in
microseconds. On an idle machine the best of some readings is certain to about 0.1 ms (seen: 0.08 to
0.15), and one after another agree to 0.03 ms. Invariant: the truth lies
within `uncertainty_ns` (half the round trip) of what is said. Units: ns.
"""

import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

READINGS = 9
ANSWER_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """A guest's wall clock against the host's; the error is at most `uncertainty_ns`."""

    guest_minus_host_ns: int
    uncertainty_ns: int


def read_clock(path: Path) -> ClockReading:
    """The best of some readings, which the first after a while never is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as port:
        port.settimeout(ANSWER_S)
        port.connect(str(path))
        with port.makefile("rb") as answers:
            readings = [_read_once(port, answers) for _ in range(READINGS)]
    return min(readings, key=lambda reading: reading.uncertainty_ns)


def _read_once(port: socket.socket, answers: IO[bytes]) -> ClockReading:
    before_ns = time.time_ns()
    port.sendall(b"?\n")
    text = answers.readline().decode()
    after_ns = time.time_ns()
    seconds, _, micro = text.strip().partition(".")
    guest_ns = int(seconds) * 1_000_000_000 + int(micro) * 1_000
    half_ns = (after_ns - before_ns) // 2
    return ClockReading(guest_minus_host_ns=guest_ns - before_ns - half_ns, uncertainty_ns=half_ns)
