"""Rows to JSON and back: what was written is what is read, and nothing else is accepted."""

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostagent.core.codec import CodecError, decode, entry_from_json, entry_to_json
from hostagent.core.journal import (
    Ended,
    Entry,
    GuestOutcome,
    Heard,
    Intent,
    Outcome,
    Planned,
    Row,
    Stamp,
)
from hostagent.core.model import Host, LibvirtDaemon, Process, Qmp
from hostagent.core.plan import Ending, Plan, PlannedGuest, Step, Verb

TEXT = st.text(max_size=8) | st.sampled_from(["\udc80 not UTF-8", '"\n\x00', "g1"])
NUMBERS = st.integers(-(2**63), 2**63)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)
PROCESSES = st.builds(Process, domain_id=NUMBERS, pid=NUMBERS, start_ticks=NUMBERS)
DAEMONS = st.builds(LibvirtDaemon, pid_file=TEXT, exe=TEXT, pid=NUMBERS, start_ticks=NUMBERS)
HOSTS = st.builds(
    Host,
    name=TEXT,
    uri=TEXT,
    uuid=TEXT,
    daemon=st.none() | DAEMONS,
    qmp=st.builds(Qmp, allowed=st.booleans(), refusal=TEXT),
)
PLANNED_GUESTS = st.builds(
    PlannedGuest,
    uuid=TEXT,
    name=TEXT,
    process=st.none() | PROCESSES,
    monitor=TEXT,
    agent=st.booleans(),
    job=TEXT,
    runs=st.booleans(),
    skip=TEXT,
)
PLANS = st.builds(
    Plan,
    run=TEXT,
    kind=TEXT,
    host=HOSTS,
    guests=st.lists(PLANNED_GUESTS, max_size=2).map(tuple),
    args=OBJECTS,
    warnings=st.lists(TEXT, max_size=2).map(tuple),
)
STEPS = st.builds(
    Step,
    key=TEXT,
    verb=st.sampled_from(Verb),
    guests=st.lists(TEXT, max_size=2).map(tuple),
    args=OBJECTS,
    safe=st.booleans(),
)
GUEST_OUTCOMES = st.builds(GuestOutcome, result=TEXT, reason=TEXT, figures=OBJECTS)
ROWS: dict[type[Row], st.SearchStrategy[Any]] = {
    Planned: st.builds(Planned, plan=PLANS),
    Intent: st.builds(Intent, step=STEPS),
    Outcome: st.builds(
        Outcome,
        key=TEXT,
        result=TEXT,
        reason=TEXT,
        guests=st.dictionaries(TEXT, GUEST_OUTCOMES, max_size=2),
        figures=OBJECTS,
    ),
    Heard: st.builds(Heard, what=TEXT, value=JSON),
    Ended: st.builds(Ended, result=st.sampled_from(Ending), reason=TEXT),
}
STAMPS = st.builds(Stamp, monotonic_ns=NUMBERS, boot_id=TEXT, utc=TEXT, pid=NUMBERS)
STAMP = Stamp(monotonic_ns=1, boot_id="b", utc="u", pid=2)


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), stamp=STAMPS)
def test_every_row_survives_the_disk(kind: type[Row], data: st.DataObject, stamp: Stamp) -> None:
    entry = Entry(row=data.draw(ROWS[kind]), stamp=stamp)
    line = json.dumps(entry_to_json(entry))
    assert "\n" not in line
    assert entry_from_json(json.loads(line)) == entry


def test_no_row_kind_is_missing_here() -> None:
    assert set(ROWS) == set(Row.__args__)


def written(row: Row) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(entry_to_json(Entry(row=row, stamp=STAMP))))
    return value


def test_what_a_newer_version_adds_is_passed_over() -> None:
    row = Intent(step=Step(key="k", verb=Verb.PAUSE))
    value = written(row)
    value["is"]["newer"] = 1
    value["is"]["step"]["newer"] = [2]
    value["at"]["newer"] = None
    value["newer"] = {}
    assert entry_from_json(value).row == row


def test_what_an_older_version_did_not_write_has_its_default() -> None:
    value = written(Heard(what="signal"))
    del value["is"]["value"]
    assert entry_from_json(value).row == Heard(what="signal")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        7,
        {},
        {"row": "unknown", "is": {}, "at": asdict(STAMP)},
        {"row": ["heard"], "is": {"what": "x"}, "at": asdict(STAMP)},
        {"row": "heard", "is": {"what": "x"}},
        {"row": "heard", "is": {"what": "x"}, "at": None},
        {"row": "heard", "is": None, "at": asdict(STAMP)},
        {"row": "heard", "is": {}, "at": asdict(STAMP)},
        {"row": "heard", "is": {"what": 7}, "at": asdict(STAMP)},
        {"row": "heard", "is": {"what": "x"}, "at": {**asdict(STAMP), "pid": "2"}},
        {"row": "heard", "is": {"what": "x"}, "at": {**asdict(STAMP), "pid": True}},
        {"row": "ended", "is": {"result": "splendid"}, "at": asdict(STAMP)},
        {"row": "intent", "is": {"step": {"key": "k", "verb": "explode"}}, "at": asdict(STAMP)},
        {"row": "intent", "is": {"step": {"key": "k"}}, "at": asdict(STAMP)},
        {
            "row": "intent",
            "is": {"step": {"key": "k", "verb": "pause", "guests": "g1"}},
            "at": asdict(STAMP),
        },
        {
            "row": "intent",
            "is": {"step": {"key": "k", "verb": "pause", "args": []}},
            "at": asdict(STAMP),
        },
        {
            "row": "outcome",
            "is": {"key": "k", "result": "r", "guests": {"g": "paused"}},
            "at": asdict(STAMP),
        },
    ],
)
def test_what_is_not_an_entry_is_refused(value: object) -> None:
    with pytest.raises(CodecError):
        entry_from_json(value)


@given(JSON)
def test_any_json_is_read_or_refused(value: object) -> None:
    for made in (value, {"row": "intent", "is": value, "at": asdict(STAMP)}):
        with pytest.raises(CodecError):
            entry_from_json(made)


def test_an_optional_value_may_be_null_and_nothing_else() -> None:
    made = {"uuid": "u", "name": "n", "process": None}
    assert decode(PlannedGuest, made).process is None
    with pytest.raises(CodecError):
        decode(PlannedGuest, {**made, "process": 7})
