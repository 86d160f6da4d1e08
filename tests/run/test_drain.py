"""A host is emptied onto another and filled again: guests of all sorts, and what they keep.

Judged from inside the guests (memory, open file, counter, clock) and by what both libvirts have,
never by hostagent's report alone.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Guest, GuestSort, GuestSpec, Lab
from lab.host import Host
from lab.memory import Memory
from tests.conftest import Audit
from tests.run.tool import Agent, Ended

RIGHT_S = 0.003
COARSE_S = 0.03
"""Of a guest without hwclock (docs/reliability.md)."""

SPECS = (
    GuestSpec(autostart=True),
    GuestSpec(sort=GuestSort.DISK),
    GuestSpec(sort=GuestSort.PLAIN),
    GuestSpec(sort=GuestSort.NO_HWCLOCK),
    GuestSpec(off=True, autostart=True),
    GuestSpec(transient=True),
    GuestSpec(),
    GuestSpec(),
)
AUTOSTARTED, DISK, PLAIN, NO_HWCLOCK, OFF, TRANSIENT, PAUSED, COLD = (
    f"g{number}" for number in range(1, len(SPECS) + 1)
)
MOVE_KEYS = {
    "name",
    "uuid",
    "result",
    "reason",
    "method",
    "from",
    "to",
    "total_s",
    "downtime_s",
    "downtime_source",
    "clock",
}


@pytest.fixture
def lab(make_light_lab: Callable[..., Lab]) -> Lab:
    return make_light_lab(hosts=2, guests=[SPECS, ()])


@pytest.fixture
def agent(lab: Lab, tmp_path: Path, marked_env: dict[str, str]) -> Iterator[Agent]:
    made = Agent(lab.hosts[0], tmp_path / "state", marked_env)
    yield made
    made.end()


def _are_on(lab: Lab, host: Host) -> None:
    """Every guest is on this host and nowhere else, and defined only there."""
    for guest in lab.guests:
        where = guest.where()
        off, transient = guest.spec.off, guest.spec.transient
        assert where.running == (() if off else (host.name,)), (guest, where)
        assert where.defined == (() if transient else (host.name,)), (guest, where)
        assert where.waiting == (), (guest, where)


def _remember(lab: Lab) -> dict[str, Memory]:
    return {guest.name: guest.remember(4) for guest in lab.guests if not guest.spec.off}


def _assert_kept(lab: Lab, memories: dict[str, Memory], *, booted: frozenset[str]) -> None:
    for name, memory in memories.items():
        guest = lab.guest(name)
        if name == PAUSED:
            assert guest.state() == "paused"
            guest.resume()
        if name in booted:
            assert guest.boot_id() != memory.boot_id
        else:
            assert guest.forgotten(memory) == [], name
        guest.wait_counting()


def _assert_clocks_right(lab: Lab, ended: Ended) -> None:
    """Right, but for twice what hostagent says that it does not know: hosts are busy with moves."""
    for name in (AUTOSTARTED, DISK, TRANSIENT, NO_HWCLOCK):
        unsure_s = ended.guest(name)["clock"]["uncertainty_s"]
        right_s = COARSE_S if name == NO_HWCLOCK else RIGHT_S
        assert _off_s(lab.guest(name)) < right_s + 2 * unsure_s, name


def _off_s(guest: Guest) -> float:
    """How far its clock is off at least, by a reading from inside."""
    reading = guest.clock()
    return (abs(reading.guest_minus_host_ns) - reading.uncertainty_ns) / 1e9


def _autostarted(lab: Lab, host: Host) -> set[str]:
    """The guests that start with this host."""
    return {
        guest.name
        for guest in lab.guests
        if guest.call("autostart", lambda domain: domain.autostart(), on=host)
    }


def _notes(guest: Guest, host: Host) -> str:
    """What hostagent keeps in a guest's definition."""
    return str(guest.call("definition", lambda domain: domain.XMLDesc(2), on=host))


def _results(ended: Ended) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["result"], each["method"]) for each in ended.document["guests"]}


def test_a_host_is_emptied_and_filled_again(lab: Lab, agent: Agent, audit: Audit) -> None:
    first, second = lab.hosts
    cold = agent.run("guest", "set", COLD, "on-reboot=cold", "owner=ann")
    assert cold.code == 0, cold
    memories = _remember(lab)
    lab.guest(PAUSED).suspend()

    drained = agent.run("host", "drain", "--to", second.uri, "--yes")
    assert (drained.document["reason"], drained.code) == ("", 0), drained
    assert drained.document["schema"] == "hostagent.drain/1"
    expected = {
        **{guest.name: ("moved", "live") for guest in lab.guests},
        OFF: ("moved", "offline"),
        COLD: ("moved", "cold"),
    }
    assert _results(drained) == expected
    for each in drained.document["guests"]:
        assert set(each) == MOVE_KEYS
        assert (each["from"], each["to"]) == (first.uri, second.uri)
        measured = each["downtime_source"] is not None
        assert measured or each["name"] in (OFF, PAUSED), each
    _are_on(lab, second)
    assert first.uuid in _notes(lab.guest(AUTOSTARTED), second)
    assert "ann" in _notes(lab.guest(COLD), second)
    assert _autostarted(lab, second) == {AUTOSTARTED, OFF}
    _assert_clocks_right(lab, drained)
    _assert_kept(lab, memories, booted=frozenset({COLD}))

    away = agent.run("host", "away")
    assert {each["name"] for each in away.document["guests"]} == {g.name for g in lab.guests}
    lab.guest(PAUSED).suspend()
    memories = _remember_again(lab, memories)

    back = agent.run("host", "restore")
    assert (back.document["reason"], back.code) == ("", 0), back
    assert back.document["schema"] == "hostagent.restore/1"
    _are_on(lab, first)
    assert _autostarted(lab, first) == {AUTOSTARTED, OFF}
    for guest in lab.guests:
        assert "<hostagent:home" not in _notes(guest, first), guest
    assert "ann" in _notes(lab.guest(COLD), first)
    _assert_clocks_right(lab, back)
    _assert_kept(lab, memories, booted=frozenset({COLD}))
    assert agent.run("host", "away").document["guests"] == []


def _remember_again(lab: Lab, memories: dict[str, Memory]) -> dict[str, Memory]:
    """The same, but for the one that was booted anew."""
    return {**memories, COLD: lab.guest(COLD).remember(4)}
