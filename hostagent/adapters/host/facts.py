"""This host for people: load, memory, uptime, kernel, and whether its own clock is synchronised.

Layer: adapters. Reads only; psutil and ctypes are imported when they are used, since other commands
need neither. Units are in the names. Errors: none; what can't be read is None.
"""

import os
import time
from dataclasses import dataclass

MIB = 1024 * 1024
TIME_ERROR = 5
"""What adjtimex(2) returns for a clock that is not synchronised."""

STA_UNSYNC = 0x0040
"""adjtimex(2): this bit of its status says that nobody corrects the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostClock:
    """The kernel's own view of its clock: set by whatever time daemon runs, if any does.

    `maximum_error_ms` is the kernel's bound; it grows as long as nobody corrects the clock.
    """

    synchronised: bool | None
    maximum_error_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """This host at one moment."""

    cpus: int
    load: tuple[float, float, float]
    memory_total_mib: int
    memory_available_mib: int
    uptime_s: float
    kernel: str
    clock: HostClock


def read() -> HostFacts:
    """This host now."""
    import psutil  # slow to import, and only status needs it

    memory = psutil.virtual_memory()
    return HostFacts(
        cpus=psutil.cpu_count() or 1,
        load=psutil.getloadavg(),
        memory_total_mib=memory.total // MIB,
        memory_available_mib=memory.available // MIB,
        uptime_s=time.clock_gettime(time.CLOCK_BOOTTIME),
        kernel=os.uname().release,
        clock=read_clock(),
    )


def idle_cpus(over_s: float = 0.2) -> float:
    """How many CPUs of this host have nothing to do, measured over this time."""
    import psutil

    busy_percent: float = psutil.cpu_percent(interval=over_s)
    return (psutil.cpu_count() or 1) * (1 - busy_percent / 100)


def read_clock() -> HostClock:
    """The state of the kernel's clock by adjtimex(2) with modes 0, which sets nothing."""
    import ctypes  # as above

    fields = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        # constant, precision, tolerance, time, tick, pps figures and padding: never read here
        ("rest", ctypes.c_byte * 512),
    ]
    timex = type("Timex", (ctypes.Structure,), {"_fields_": fields})()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        state = libc.adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return HostClock(synchronised=None)
    if state < 0:
        return HostClock(synchronised=None)
    return HostClock(
        synchronised=state != TIME_ERROR and not timex.status & STA_UNSYNC,
        maximum_error_ms=timex.maxerror / 1000,
    )
