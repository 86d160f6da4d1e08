"""Whether adjtimex(2) may be called at all: some containers forbid even reading with it.

Layer: tests.
"""

import ctypes

LARGER_THAN_TIMEX = 512


def kernel_tells_its_clock() -> bool:
    """Ask it, with all modes off, so that nothing is set."""
    timex = ctypes.create_string_buffer(LARGER_THAN_TIMEX)
    return ctypes.CDLL(None).adjtimex(timex) >= 0
