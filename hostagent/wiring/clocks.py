"""Reading clocks without a run: for `clock show`, `clock sync --dry-run` and `status`.

Nothing is locked, journalled or changed.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from hostagent.adapters.libvirt.agent import LibvirtAgent
from hostagent.core.clock import ClockReading, NoAnswer
from hostagent.rules.clock_reading import READS
from hostagent.work.conversations import Conversations
from hostagent.work.steps.clock import decide_reading


def read_clocks(
    uri: str, uuids: Sequence[str], limit_ns: int, *, reads: int = READS
) -> Mapping[str, ClockReading | NoAnswer]:
    """The best of a few readings of each guest's clock, or why there is none. Returns by the
    limit, whoever hangs."""
    decide = partial(decide_reading, reads=reads)
    talks = Conversations[ClockReading | NoAnswer](LibvirtAgent(uri), decide, limit_ns)
    return talks.hold(uuids)
