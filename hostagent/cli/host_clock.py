"""The host's own clock in words: the measure of its guests' clocks.

Layer: cli.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostagent.adapters.host.facts import HostClock


def words(clock: "HostClock") -> str:
    """Whether a time daemon keeps it right, for people."""
    if clock.synchronised is None:
        return "its state can't be read"
    if not clock.synchronised:
        return "not synchronised"
    return f"synchronised (error at most {clock.maximum_error_ms} ms)"
