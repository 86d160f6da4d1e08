"""Plain, aligned, uncut tables: the same in a pipe and on a terminal.

Layer: cli. Names of guests and what their agents say were written by somebody else: nothing of them
may move a cursor or set a title, so all that is not printable is shown escaped.
"""

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart, nothing behind the last."""
    lines = [[plain(cell) for cell in line] for line in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def plain(text: str) -> str:
    """The text with all that is not printable (control characters above all) as \\x1b and so on."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def seconds(value_s: float | None) -> str:
    """A duration for people: milliseconds below ten seconds' worth of precision, `-` for none."""
    return "-" if value_s is None else f"{value_s:.3f} s"


def offset(value_s: float | None) -> str:
    """A clock's offset as chronyc(1) writes it: signed, in the unit that leaves few digits."""
    if value_s is None:
        return "-"
    size_s = abs(value_s)
    for unit, scale, most in (("us", 1e6, 0.01), ("ms", 1e3, 10)):
        if size_s < most:
            return f"{value_s * scale:+.0f}{unit}"
    return f"{value_s:+.0f}s"


def milliseconds(value_s: float | None) -> str:
    """A small duration for people."""
    return "-" if value_s is None else f"{value_s * 1000:.1f} ms"
