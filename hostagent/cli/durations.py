"""The click type of durations (core/durations).

Layer: cli.
"""

import click

from hostagent.core.durations import MOST_NS, parse


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
