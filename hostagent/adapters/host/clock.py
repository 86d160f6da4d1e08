"""The host's two clocks against each other.

Layer: adapters. Other programs (QEMU, guest agents) stamp with wall time; hostagent reckons in
CLOCK_MONOTONIC. Their difference converts one into the other, and when it changes the wall clock
was set meanwhile. Reads only. Units: ns.
"""

import time

READS = 3
"""Takes the tightest of so many: between two readings of a clock a thread may lose its CPU."""


def shift_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC, exact to well below a microsecond's work."""
    best_width, best = 1 << 62, 0
    for _ in range(READS):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        if after - before < best_width:
            best_width, best = after - before, wall - (before + after) // 2
    return best
