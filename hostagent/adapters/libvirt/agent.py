"""The guests' agents: what their clocks show, and setting them.

Layer: adapters; satisfies ports.Agent. Calls go over connections of their own (agent_pool), so that
stuck agents take none from the pause. virDomainGetTime and virDomainSetTime do not taint a guest;
what goes through agent_commands does. Invariants: no question is put twice behind the caller's back
but a reading whose connection was found broken; the time to set is taken at the last moment.
Deliberately absent: deciding anything, and limits of its own (libvirt ends a call after 2 s, twice
that where the channel is out of step; a libvirt that hangs hangs the calling thread). Units: ns.
"""

import time

import libvirt

from hostagent.adapters.libvirt import agent_commands
from hostagent.adapters.libvirt.agent_commands import ExecFailed, Nonsense
from hostagent.adapters.libvirt.agent_pace import Pace
from hostagent.adapters.libvirt.agent_pool import Line, Lines
from hostagent.adapters.libvirt.agent_refusals import (
    NO_ANSWER,
    failed,
    is_lost,
    nonsense,
    refusal,
)
from hostagent.adapters.libvirt.agent_watch import AgentWatch
from hostagent.core.clock import (
    Answer,
    ClockReading,
    Learn,
    Method,
    NoAnswer,
    Question,
    Read,
    Set,
    WasSet,
)

S = 1_000_000_000
LATEST_S = 2**33
"""Seconds since 1970 beyond which no clock stands (the year 2242): an agent's rubbish."""
EARLY_NS, LATE_NS = 500_000, 5_000_000
"""So long before and after its beginning a second is taken for whole."""


class LibvirtAgent:
    """The agents of one libvirt's guests."""

    def __init__(self, uri: str, pace: Pace | None = None) -> None:
        self._lines = Lines(uri)
        self._pace = pace or Pace()
        self._watch = AgentWatch(uri)

    def ask(self, uuid: str, question: Question) -> Answer:
        """Put one question to one guest's agent (ports.Agent)."""
        try:
            try:
                return self._ask(uuid, question)
            except libvirt.libvirtError as error:
                if not isinstance(question, Read) or not is_lost(error):
                    raise
            return self._ask(uuid, question)  # libvirt was restarted since the last question
        except libvirt.libvirtError as error:
            return refusal(error)
        except (UnicodeDecodeError, SystemError):  # from libvirt's binding, of the agent's words
            return nonsense("bytes that are no text")

    def await_connected(self, uuid: str, until_ns: int) -> bool:
        """Wait until this guest's agent is connected (ports.Agent)."""
        return self._watch.wait(uuid, until_ns)

    def _ask(self, uuid: str, question: Question) -> Answer:
        self._pace.keep_apart()
        with self._lines.lend() as line:
            try:
                domain = line.domain(uuid)
                with self._pace.call(uuid):
                    return _put(domain, question)
            except libvirt.libvirtError as error:
                self._look_after(line, uuid, error)
                raise

    def _look_after(self, line: Line, uuid: str, error: libvirt.libvirtError) -> None:
        if is_lost(error):
            self._lines.drop(line)
        else:
            line.forget(uuid)


def _put(domain: libvirt.virDomain, question: Question) -> Answer:
    match question:
        case Read():
            return _read(domain)
        case Learn():
            try:
                return agent_commands.abilities(domain)
            except Nonsense as error:
                return nonsense(str(error))
        case Set(method=Method.AGENT):
            return _set(domain, question.ahead_ns)
        case Set():
            return _set_by_date(domain, question)


def _read(domain: libvirt.virDomain) -> ClockReading | NoAnswer:
    """One reading of a guest's clock: its time belongs to the middle of the round trip."""
    called_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    answer = domain.getTime()
    round_trip_ns = time.monotonic_ns() - called_ns
    if answer is None:
        return NO_ANSWER
    if not 0 <= answer["seconds"] < LATEST_S:
        return nonsense(f"its clock is at {answer['seconds']} s since 1970")
    guest_ns = answer["seconds"] * S + answer["nseconds"]
    half_ns = round_trip_ns // 2
    return ClockReading(
        at_ns=called_ns + half_ns,
        offset_ns=guest_ns - (wall_ns + half_ns),
        behind_ns=called_ns + half_ns - guest_ns,
        uncertainty_ns=round_trip_ns - half_ns + 1,
    )


def _set(domain: libvirt.virDomain, ahead_ns: int) -> WasSet | NoAnswer:
    wanted_ns = time.time_ns() + ahead_ns
    if not 0 <= wanted_ns < LATEST_S * S:
        return failed("the time to set is out of any clock's range")
    domain.setTime({"seconds": wanted_ns // S, "nseconds": wanted_ns % S})
    return WasSet(at_ns=time.monotonic_ns())


def _set_by_date(domain: libvirt.virDomain, question: Set) -> WasSet | NoAnswer:
    """By `date` in the guest, which leaves its RTC alone."""
    whole = question.method is Method.DATE_SECONDS
    if whole:
        _await_whole_second(question.ahead_ns)
    wanted_ns = time.time_ns() + question.ahead_ns
    if not 0 <= wanted_ns < LATEST_S * S:
        return failed("the time to set is out of any clock's range")
    text = f"@{round(wanted_ns / S)}" if whole else f"@{wanted_ns // S}.{wanted_ns % S:09}"
    try:
        agent_commands.run(domain, "date", ["-u", "-s", text])
    except ExecFailed as error:
        return failed(str(error))
    except Nonsense as error:
        return nonsense(str(error))
    except TimeoutError:
        return NO_ANSWER
    return WasSet(at_ns=time.monotonic_ns())


def _await_whole_second(ahead_ns: int) -> None:
    """Wait until the host's wall clock plus `ahead_ns` is as good as a whole second. On a busy host
    a sleep ends late, and that becomes an error of the guest's clock: once it is waited anew."""
    for _ in range(2):
        past_ns = (time.time_ns() + ahead_ns) % S
        if past_ns < LATE_NS or past_ns > S - EARLY_NS:
            return
        time.sleep((S - past_ns) / 1e9)
