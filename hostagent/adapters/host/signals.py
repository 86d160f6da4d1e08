"""Signals that ask a run to stop, as things heard.

Layer: adapters. While a run is under way SIGINT, SIGTERM and SIGHUP (a closed terminal, an ended
ssh session) are told to the run, which resumes guests first. Job control (Ctrl-Z, output of a
background job) is ignored: it would freeze us while guests stand still.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from hostagent.core.journal import Heard

_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_JOB_CONTROL = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


@contextmanager
def told_to(put: Callable[[Heard], None]) -> Iterator[None]:
    """Within this context stopping signals are put there (from the main thread, reentrant).
    One that the caller had us ignore (nohup, a shell's background) is still ignored."""

    def tell(number: int, _frame: FrameType | None) -> None:
        put(Heard(what="signal", value=signal.Signals(number).name))

    wanted = [number for number in _STOP if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, tell) for number in wanted}
    before |= {number: signal.signal(number, signal.SIG_IGN) for number in _JOB_CONTROL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def put_off() -> Iterator[None]:
    """Within this context stopping signals wait: the first one has its usual effect at the end.
    For what must not be left half done, and is soon over."""
    heard: list[Heard] = []
    with told_to(heard.append):
        yield
    if heard:
        signal.raise_signal(signal.Signals[str(heard[0].value)])
