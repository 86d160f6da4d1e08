"""What is asked of a guest's clock, and what comes back: plain values.

Layer: core. One question at a time goes to one guest's agent (`Read`, `Set`, `Learn`), and one
answer comes back; `NoAnswer` says by `refusal` whether the agent is away, hangs, refuses or lies.
Units: ns; an offset is guest minus host wall clock, so a guest that is late has a negative one.
"""

from dataclasses import dataclass
from enum import StrEnum


class Refusal(StrEnum):
    """Why a question has no answer."""

    NO_AGENT = "no-agent"
    NOT_RUNNING = "not-running"
    NOT_CONNECTED = "not-connected"
    NO_ANSWER = "no-answer"
    FROZEN = "frozen"
    DISABLED = "disabled"
    NONSENSE = "nonsense"
    FAILED = "failed"
    LIBVIRT = "libvirt"


ANSWERED = frozenset({Refusal.FROZEN, Refusal.DISABLED, Refusal.NONSENSE, Refusal.FAILED})
"""Refusals that came from the agent itself: it is there, and said no or said rubbish."""


class Method(StrEnum):
    """How a guest's clock is set.

    agent          guest-set-time (virDomainSetTime): the guest's RTC is written too
    date           `date` in the guest (guest-exec, taints), with fractions; its RTC stays as it is
    date-seconds   the same at a whole second, where `date` refuses fractions (busybox)
    """

    AGENT = "agent"
    DATE = "date"
    DATE_SECONDS = "date-seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Ask for the time (virDomainGetTime; taints nothing)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """Set the clock to the host's wall clock at the moment of sending, plus `ahead_ns`.

    With `date-seconds` the moment of sending is the one at which that sum is a whole second."""

    method: Method
    ahead_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Learn:
    """Ask which commands the agent offers (guest-info; taints the guest in libvirt's log)."""


Question = Read | Set | Learn


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockReading:
    """One reading of a guest's clock through its agent.

    `behind_ns` is the host's monotonic clock minus the guest's time: only differences of two
    readings mean anything. `offset_ns` is guest minus host wall clock. The truth lies within
    `uncertainty_ns` (half the round trip) of both. `at_ns` is the middle of the round trip.
    """

    at_ns: int
    offset_ns: int
    behind_ns: int
    uncertainty_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WasSet:
    """The agent says that it set the clock. Only a reading afterwards proves it."""

    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """Commands that the agent knows and has not disabled (guest-info's `enabled`)."""

    enabled: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """Why there is none; `reason` is a sentence for people. A set may have worked all the same."""

    refusal: Refusal
    reason: str


Answer = ClockReading | WasSet | Abilities | NoAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One question with its answer."""

    question: Question
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockDefinition:
    """libvirt's <clock> of a guest: its offset word and, for `variable`, the stored adjustment
    (https://libvirt.org/formatdomain.html#time-keeping)."""

    offset: str = "utc"
    adjustment_s: int = 0
