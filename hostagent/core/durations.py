"""Durations as people write them: 30s, 500ms, 1m30s, 2h.

Layer: core. A bare number is seconds. The same words as systemd.time(7) for these units.
"""

import re

_UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
MOST_NS = 24 * _UNITS_NS["h"]
"""Nothing that a person waits for takes a day; far beyond, no timer of the system would hold it."""

LONGEST_TEXT = 40
"""More digits than that are no duration, and too many for a float."""

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)?\s*", re.ASCII)


def parse(text: str) -> int | None:
    """The duration in ns; None if this is not one."""
    if len(text) > LONGEST_TEXT:
        return None
    total, position = 0, 0
    while position < len(text):
        match = _PART.match(text, position)
        if match is None:
            return None
        number, unit = match.groups()
        if unit is None and (position, match.end()) != (0, len(text)):
            return None
        total += round(float(number) * _UNITS_NS[unit or "s"])
        position = match.end()
    return total if text else None


def written(duration_ns: int) -> str:
    """A short text that `parse` reads as this duration, to the millisecond."""
    for unit in ("h", "m", "s"):
        if duration_ns and duration_ns % _UNITS_NS[unit] == 0:
            return f"{duration_ns // _UNITS_NS[unit]}{unit}"
    return f"{duration_ns // _UNITS_NS['ms']}ms"
