"""How long a guest stood still: one figure from three sources, and whether they agree.

Layer: rules. The sources (all on the monotonic clock, in ns):

events       QEMU's STOP and RESUME. STOP is sent after the vCPUs stopped and RESUME before they
             start (qapi/run-state.json), so the difference is a lower bound.
API          the calls that stopped and resumed the guest: the pause began between the first call's
             start and its return, and ended between the second's start and its return.
guest clock  how far the guest's own clock fell behind; it counts only while the vCPUs run.

The figure is the events' difference where both were seen and lie within the API's bounds, else the
middle of those bounds. Every figure carries its uncertainty; what could not be measured is None.
"""

from dataclasses import dataclass

AGREE_NS = 20_000_000
"""How far the guest's clock may differ, beyond both uncertainties, before the report says so.
A guest under TCG keeps its time to about 10 ms over some seconds (measured in the lab)."""

EVENT_SLACK_NS = 2_000_000
"""How far events may lie outside of the API's bounds: they carry microseconds of a wall clock that
NTP slews, converted to the monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Bounds of one API call."""

    called_ns: int
    returned_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """All that was seen of one guest's pause."""

    suspend: Call | None = None
    resume: Call | None = None
    stopped_ns: int | None = None
    resumed_ns: int | None = None
    clock_ns: int | None = None
    clock_uncertainty_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """One guest's pause; `source` is "events", "api" or empty when it was not measured."""

    pause_ns: int | None
    source: str
    uncertainty_ns: int | None
    api_ns: int | None
    guest_clock_ns: int | None
    disagreement: str = ""


def measure(sources: Sources) -> Pause:
    """The pause of one guest from all that was seen of it."""
    bounds = _api_bounds(sources)
    events = _events(sources)
    disagreement = ""
    if events is not None and not _is_possible(events, bounds):
        calls = f", the API calls {_ms(bounds[0])} to {_ms(bounds[1])}" if bounds else ""
        disagreement = (
            f"QEMU's events say {_ms(events)}{calls}: "
            "the host's clock was stepped, or an event was missed"
        )
        events = None
    api_ns = sum(bounds) // 2 if bounds is not None else None
    pause_ns: int | None
    uncertainty: int | None
    if events is not None:
        pause_ns, source = events, "events"
        uncertainty = max(bounds[1] - events, 0) if bounds is not None else None
    elif bounds is not None:
        pause_ns, source = api_ns, "api"
        uncertainty = (bounds[1] - bounds[0] + 1) // 2
    else:
        pause_ns, source, uncertainty = None, "", None
    return Pause(
        pause_ns=pause_ns,
        source=source,
        uncertainty_ns=uncertainty,
        api_ns=api_ns,
        guest_clock_ns=sources.clock_ns,
        disagreement=disagreement or _clock_disagreement(sources, pause_ns, uncertainty),
    )


def _api_bounds(sources: Sources) -> tuple[int, int] | None:
    if sources.suspend is None or sources.resume is None:
        return None
    shortest = sources.resume.called_ns - sources.suspend.returned_ns
    longest = sources.resume.returned_ns - sources.suspend.called_ns
    return max(shortest, 0), max(longest, 0)


def _events(sources: Sources) -> int | None:
    if sources.stopped_ns is None or sources.resumed_ns is None:
        return None
    return sources.resumed_ns - sources.stopped_ns


def _is_possible(events_ns: int, bounds: tuple[int, int] | None) -> bool:
    if events_ns < 0 or bounds is None:
        return events_ns >= 0
    return bounds[0] - EVENT_SLACK_NS <= events_ns <= bounds[1] + EVENT_SLACK_NS


def _clock_disagreement(sources: Sources, pause_ns: int | None, uncertainty: int | None) -> str:
    if sources.clock_ns is None or pause_ns is None:
        return ""
    allowed = AGREE_NS + sources.clock_uncertainty_ns + (uncertainty or 0)
    if abs(sources.clock_ns - pause_ns) <= allowed:
        return ""
    return (
        f"the guest's clock fell behind by {_ms(sources.clock_ns)}, the pause was "
        f"{_ms(pause_ns)}: something else sets this clock, or it runs unevenly"
    )


def _ms(value_ns: int) -> str:
    return f"{value_ns / 1e6:.1f} ms"
