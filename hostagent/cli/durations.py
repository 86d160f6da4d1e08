"""Durations as people type them: 30s, 500ms, 1m30s, 2h.

Layer: cli. A bare number is seconds. The same words as systemd.time(7) for these units.
"""

import re

import click

_UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
MOST_NS = 24 * _UNITS_NS["h"]
"""Nothing that a person waits for takes a day; far beyond, no timer of the system would hold it."""

LONGEST_TEXT = 40
"""More digits than that are no duration, and too many for a float."""

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)?\s*")


class Duration(click.ParamType[int]):
    """A duration, converted to whole nanoseconds; `least_ns` is the shortest that makes sense."""

    name = "duration"

    def __init__(self, least_ns: int = 1) -> None:
        self._least_ns = least_ns

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        duration_ns = parse(str(value))
        if duration_ns is None:
            self.fail(f"{value!r} is not a duration; write for example 30s, 500ms or 1m30s")
        if duration_ns < self._least_ns:
            self.fail(f"{value!r} is shorter than {self._least_ns / 1e9:g} s")
        if duration_ns > MOST_NS:
            self.fail(f"{value!r:.40} is longer than a day")
        return duration_ns


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
