"""A figure counts only when the machine was quiet: waits for it, and says how it was.

Layer: bench.
"""

import os
import statistics
import sys
import time
from collections.abc import Sequence

QUIET_LOAD = 0.5
PATIENCE_S = 600.0


def wait_for_quiet() -> float:
    """Wait until the load of one minute is below 0.5, at most ten minutes; the load then."""
    until = time.monotonic() + PATIENCE_S
    while (load := os.getloadavg()[0]) >= QUIET_LOAD and time.monotonic() < until:
        print(f"waiting for a quiet machine: load {load:.2f}", file=sys.stderr)
        time.sleep(10)
    return load


def spread(values: Sequence[float]) -> str:
    """Median, least and largest of some values in milliseconds."""
    return f"{statistics.median(values):7.1f}  ({min(values):.1f} to {max(values):.1f})"
