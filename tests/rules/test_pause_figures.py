"""One pause from three sources, and what is said where they disagree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.rules.pause import Call, Sources, measure
from hostagent.rules.request import S

MS = 1_000_000
SUSPEND = Call(called_ns=100 * S, returned_ns=100 * S + 2 * MS)
RESUME = Call(called_ns=102 * S, returned_ns=102 * S + 2 * MS)
STOP_NS, RESUME_NS = 100 * S + MS, 102 * S + MS
"""A pause of 2 s."""


def test_events_within_the_calls_are_the_figure() -> None:
    pause = measure(
        Sources(suspend=SUSPEND, resume=RESUME, stopped_ns=STOP_NS, resumed_ns=RESUME_NS)
    )
    assert (pause.pause_ns, pause.source, pause.disagreement) == (2 * S, "events", "")
    assert pause.uncertainty_ns == 2 * MS
    assert pause.api_ns == 2 * S


@pytest.mark.parametrize("stopped_ns", [STOP_NS, None])
@pytest.mark.parametrize("resumed_ns", [RESUME_NS, None])
def test_without_both_events_the_calls_are_the_figure(
    stopped_ns: int | None, resumed_ns: int | None
) -> None:
    if stopped_ns and resumed_ns:
        return
    pause = measure(
        Sources(suspend=SUSPEND, resume=RESUME, stopped_ns=stopped_ns, resumed_ns=resumed_ns)
    )
    assert (pause.pause_ns, pause.source, pause.uncertainty_ns) == (2 * S, "api", 2 * MS)
    assert not pause.disagreement


@pytest.mark.parametrize("step_ns", [90 * S, -90 * S])
def test_a_clock_step_in_mid_pause_is_said_and_costs_nothing(step_ns: int) -> None:
    pause = measure(
        Sources(suspend=SUSPEND, resume=RESUME, stopped_ns=STOP_NS, resumed_ns=RESUME_NS + step_ns)
    )
    assert (pause.pause_ns, pause.source) == (2 * S, "api")
    assert "clock was stepped" in pause.disagreement


def test_a_negative_figure_of_the_events_alone_is_no_figure() -> None:
    pause = measure(Sources(stopped_ns=STOP_NS, resumed_ns=RESUME_NS - 90 * S))
    assert (pause.pause_ns, pause.source) == (None, "")
    assert "clock was stepped" in pause.disagreement


def test_nothing_seen_is_no_figure() -> None:
    pause = measure(Sources())
    assert (pause.pause_ns, pause.source, pause.uncertainty_ns, pause.api_ns) == (
        None,
        "",
        None,
        None,
    )


@pytest.mark.parametrize(("clock_ns", "agrees"), [(2 * S, True), (0, False), (7 * S, False)])
def test_a_guest_clock_that_tells_another_time_is_said(clock_ns: int, agrees: bool) -> None:
    pause = measure(Sources(suspend=SUSPEND, resume=RESUME, clock_ns=clock_ns))
    assert pause.guest_clock_ns == clock_ns
    assert bool(pause.disagreement) is not agrees


TIMES = st.none() | st.integers(0, 200 * S)
CALLS = st.none() | st.builds(
    lambda called, took: Call(called_ns=called, returned_ns=called + took),
    st.integers(0, 200 * S),
    st.integers(0, 5 * S),
)


@given(
    st.builds(
        Sources,
        suspend=CALLS,
        resume=CALLS,
        stopped_ns=TIMES,
        resumed_ns=TIMES,
        clock_ns=st.none() | st.integers(-S, 90 * S),
    )
)
def test_no_figure_is_ever_negative_or_without_its_source(sources: Sources) -> None:
    pause = measure(sources)
    for figure in (pause.pause_ns, pause.uncertainty_ns, pause.api_ns):
        assert figure is None or figure >= 0
    assert (pause.pause_ns is None) == (pause.source == "")
    if pause.source == "api":
        assert pause.uncertainty_ns is not None


@given(
    st.integers(0, 50 * MS),
    st.integers(0, 50 * MS),
    st.integers(0, 60 * S),
    st.integers(0, 50 * MS),
)
def test_the_truth_lies_within_the_stated_uncertainty(
    before: int, after: int, truth_ns: int, tail: int
) -> None:
    stop_ns = 100 * S + before
    suspend = Call(called_ns=100 * S, returned_ns=stop_ns + after)
    run_ns = stop_ns + truth_ns
    resume = Call(called_ns=run_ns - min(truth_ns, tail), returned_ns=run_ns + tail)
    pause = measure(Sources(suspend=suspend, resume=resume))
    assert pause.pause_ns is not None
    assert pause.uncertainty_ns is not None
    assert abs(pause.pause_ns - truth_ns) <= pause.uncertainty_ns + 1
