"""The best of a few readings of a guest's clock: the shortest round trip says most.

Layer: rules. A reading belongs to the middle of its round trip, and the truth lies within half of
it on either side, however unequal the two ways were; so of several the one with the shortest round
trip is taken, not a mean (the reasoning of NTP's clock filter, RFC 5905 section 10).
"""

from collections.abc import Sequence

from hostagent.core.clock import ClockReading, Exchange, NoAnswer, Read

READS = 3


def read(history: Sequence[Exchange], reads: int = READS) -> Read | ClockReading | NoAnswer:
    """Ask again, or the best reading. An agent that did not answer once is not asked again."""
    answers = [exchange.answer for exchange in history]
    readings = [answer for answer in answers if isinstance(answer, ClockReading)]
    refused = next((answer for answer in answers if isinstance(answer, NoAnswer)), None)
    if refused is not None:
        return best(readings) or refused
    if len(readings) < reads:
        return Read()
    return best(readings) or Read()


def best(readings: Sequence[ClockReading]) -> ClockReading | None:
    """The one with the smallest uncertainty; the later one of equals."""
    return min(reversed(readings), key=lambda reading: reading.uncertainty_ns, default=None)
