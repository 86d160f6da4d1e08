"""libvirt that can be given up: with a real libvirtd that is frozen, killed and replaced."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import libvirt
import pytest

from hostagent.guardian import probe
from hostagent.guardian.connect import CallTimeout, Line, Lines, Unreachable, silence
from hostagent.guardian.probe import Awake, Probe
from lab.host import Host
from lab.processes import wait_until

SECOND_NS = 1_000_000_000
FIFTH_NS = SECOND_NS // 5


@pytest.fixture(autouse=True)
def _quiet() -> None:
    silence()


@pytest.fixture
def lines(light_host: Host) -> Iterator[Lines]:
    pool = Lines(light_host.uri)
    yield pool
    pool.close()


def collect(pool: Lines, uuids: list[str], fn: Callable[[libvirt.virDomain], Any]) -> list[Any]:
    box: SimpleQueue[Any] = SimpleQueue()
    for uuid in uuids:
        pool.submit(uuid, fn, box.put)
    return [box.get(timeout=5) for _ in uuids]


def test_calls_for_many_guests(lines: Lines, light_host: Host) -> None:
    uuids = [guest.uuid for guest in light_host.guests]
    assert lines.warm(uuids, 5 * SECOND_NS)
    names = collect(lines, uuids, lambda domain: domain.name())
    assert sorted(names) == ["g1", "g2", "g3", "g4"]
    (unknown,) = collect(lines, ["00000000-0000-0000-0000-000000000000"], lambda domain: 1)
    assert unknown.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
    (wrong,) = collect(lines, uuids[:1], lambda domain: 1 / 0)
    assert isinstance(wrong, ZeroDivisionError)
    assert wrong.__traceback__ is None


def test_a_libvirtd_that_freezes_dies_and_comes_back(lines: Lines, light_host: Host) -> None:
    line = Line(light_host.uri)
    probed = Probe(light_host.uri)
    again = threading.Event()
    probed.on_reconnect(again.set)
    assert probed.wait_first_answer(5 * SECOND_NS)
    assert line.call(lambda conn: conn.getHostname(), 5 * SECOND_NS)
    assert lines.warm([], 5 * SECOND_NS)

    light_host.freeze()
    for caller in (line, line, lines):
        with pytest.raises((CallTimeout, Unreachable)):
            caller.call(lambda conn: conn.getHostname(), FIFTH_NS)
    wait_until(lambda: not probed.usable(), 2, "unusable")
    light_host.thaw()
    wait_until(probed.usable, 2, "usable")
    assert line.call(lambda conn: conn.getHostname(), 5 * SECOND_NS)
    assert not again.is_set()

    light_host.freeze()
    light_host.kill_libvirtd()
    with pytest.raises((CallTimeout, Unreachable)):
        line.call(lambda conn: conn.getHostname(), FIFTH_NS)
    light_host.start_libvirtd()
    assert again.wait(5)
    assert probed.usable()
    for caller in (line, lines):
        wait_until(lambda caller=caller: _answers(caller), 5, "a connection")
    probed.close()
    line.close()


def _answers(caller: Line | Lines) -> bool:
    try:
        return bool(caller.call(lambda conn: conn.getHostname(), SECOND_NS))
    except (CallTimeout, Unreachable):
        return False


def test_guests_that_hang_do_not_keep_the_others_waiting(lines: Lines, light_host: Host) -> None:
    """More calls that never return than there are workers."""
    uuid = light_host.guest("g3").uuid
    assert lines.warm([uuid], 5 * SECOND_NS)
    stuck = threading.Event()
    for _ in range(12):
        lines.submit(uuid, lambda domain: stuck.wait(), lambda answer: None)
    begun_ns = time.monotonic_ns()
    assert collect(lines, [uuid], lambda domain: domain.isActive()) == [1]
    assert time.monotonic_ns() - begun_ns < SECOND_NS
    stuck.set()


def test_a_call_is_cancelled_or_begun_never_both(light_host: Host) -> None:
    pool = Lines(light_host.uri, count=1, workers=1)
    uuid = light_host.guest("g3").uuid
    begun, hold, box = threading.Event(), threading.Event(), SimpleQueue[object]()

    def first(domain: libvirt.virDomain) -> None:
        begun.set()
        hold.wait()

    running = pool.submit(uuid, first, box.put)
    waiting = pool.submit(uuid, lambda domain: begun.clear(), box.put)
    assert waiting.cancel()
    assert begun.wait(5)
    assert not running.cancel()
    hold.set()
    box.get(timeout=5)
    assert collect(pool, [uuid], lambda domain: 1) == [1]
    assert begun.is_set(), "what was cancelled ran"
    pool.close()


def test_a_missing_socket_is_no_answer(tmp_path: Path) -> None:
    uri = f"qemu:///session?socket={tmp_path}/absent"
    begun_ns = time.monotonic_ns()
    probed = Probe(uri)
    with pytest.raises(Unreachable):
        Line(uri).call(lambda conn: conn.getHostname(), FIFTH_NS)
    assert probed.usable(), "not before its second is over"
    wait_until(lambda: not probed.usable(), 3, "unusable")
    assert 0.9 < (probed.since_ns - begun_ns) / SECOND_NS < 2
    probed.close()


def test_an_error_that_the_daemon_sends_is_an_answer(light_host: Host) -> None:
    probed = Probe(light_host.uri, question=probe.ask_worker)
    assert probed.wait_first_answer(5 * SECOND_NS)
    assert probed.usable()
    probed.close()


def test_time_in_which_a_process_was_stopped_does_not_count() -> None:
    watch = Awake(slice_ns=20_000_000)
    time.sleep(0.2)  # stands for a SIGSTOP: no look in between
    begun_ns = time.monotonic_ns()
    assert watch.passed_ns() == 20_000_000
    while watch.passed_ns() < 60_000_000:
        time.sleep(0.002)
    assert time.monotonic_ns() - begun_ns >= 40_000_000
