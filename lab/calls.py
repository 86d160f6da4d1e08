"""libvirt calls of the lab, each with a time limit.

Layer: lab. Invariant: a libvirtd that is dead or frozen never blocks the lab: the call is left to a
daemon thread and the caller gets LabError. Connections are short-lived, because tests kill and
replace libvirtd at will and a kept connection would be dead half of the time. libvirt's own
printing of errors is turned off: they come as exceptions.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import libvirt

from lab.errors import LabError

T = TypeVar("T")

DOMAIN_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "idle",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}
"""virsh's words for the states."""


def _say_nothing(_context: object, _error: object) -> None:
    """Errors arrive as exceptions; libvirt would print them as well."""


libvirt.registerErrorHandler(_say_nothing, None)


def within(timeout_s: float, what: str, work: Callable[[], T]) -> T:
    """The result of a call, or LabError when it took too long (it then goes on unheard)."""
    results: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def call() -> None:
        try:
            results.put((work(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=call, name=f"lab: {what}", daemon=True).start()
    try:
        value, error = results.get(timeout=timeout_s)
    except queue.Empty:
        raise LabError(f"{what}: no answer within {timeout_s:g} s") from None
    if isinstance(error, libvirt.libvirtError):
        raise LabError(f"{what}: {error}") from error
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # no error: it is what work() returned


@contextmanager
def connection(uri: str, timeout_s: float = 10) -> Iterator[libvirt.virConnect]:
    """A connection for the length of a block."""
    opened = within(timeout_s, f"connecting to {uri}", lambda: libvirt.open(uri))
    try:
        yield opened
    finally:
        with suppress(LabError):
            within(timeout_s, f"closing {uri}", opened.close)
