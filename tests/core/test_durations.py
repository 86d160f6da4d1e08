"""Durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.core.durations import MOST_NS, parse, written

MS, S = 10**6, 10**9


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("30", 30 * S),
        ("30s", 30 * S),
        ("0", 0),
        ("1.5", 1500 * MS),
        ("500ms", 500 * MS),
        ("0.5ms", 500_000),
        ("2m", 120 * S),
        ("2min", 120 * S),
        ("1h", 3600 * S),
        ("1m30s", 90 * S),
        ("1h 2m 3s 4ms", 3723 * S + 4 * MS),
        ("30 s", 30 * S),
    ],
)
def test_what_people_write(text: str, duration_ns: int) -> None:
    assert parse(text) == duration_ns


@pytest.mark.parametrize(
    "text",
    [
        *("", "s", "-1s", "1d", "1M", "1s30", "30 30", "1,5s"),
        *("nan", "inf", "1e3s", " 1s", "\u0663s", "9" * 41),
    ],
)
def test_what_is_no_duration(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0ms"),
        (1500 * MS, "1500ms"),
        (30 * S, "30s"),
        (90 * S, "90s"),
        (120 * S, "2m"),
        (3600 * S, "1h"),
        (MOST_NS, "24h"),
    ],
)
def test_written_shortly(duration_ns: int, text: str) -> None:
    assert written(duration_ns) == text


@given(st.integers(0, MOST_NS // MS))
def test_what_is_written_is_read(milliseconds: int) -> None:
    assert parse(written(milliseconds * MS)) == milliseconds * MS


@given(st.text(max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    found = parse(text)
    assert found is None or found >= 0
