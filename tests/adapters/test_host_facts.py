"""This host's own figures."""

import os
import time
from pathlib import Path

from hostagent.adapters.host import facts
from hostagent.adapters.host.clock import shift_ns
from tests.adapters.kernel_clock import kernel_tells_its_clock


def test_figures_are_the_kernels() -> None:
    seen = facts.read()
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    assert abs(seen.uptime_s - uptime_s) < 5
    assert seen.cpus == os.cpu_count()
    assert seen.kernel == os.uname().release
    assert 0 < seen.memory_available_mib <= seen.memory_total_mib
    assert len(seen.load) == 3


def test_reading_the_clock_sets_nothing() -> None:
    before = shift_ns()
    first = facts.read_clock()
    second = facts.read_clock()
    assert first.synchronised == second.synchronised
    assert (first.maximum_error_ms is not None) == kernel_tells_its_clock()
    assert abs(shift_ns() - before) < 1_000_000


def test_the_two_clocks_differ_by_what_their_readings_say() -> None:
    assert abs(shift_ns() - (time.time_ns() - time.monotonic_ns())) < 1_000_000
