"""QMP `cont`: on real QEMUs, and on monitors that do not behave as one should.

The hostile ones are stand-ins: no QEMU can be made to answer like that.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hostagent.guardian import qmp
from hostagent.guardian.qmp import Word, cont
from lab.host import Host

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\n'
OK = b'{"return": {}}\n'
PAUSED = b'{"return": {"status": "paused", "running": false}}\n'
Script = Callable[[socket.socket], None]


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Callable[[Script], str]]:
    """monitor(script): a socket behind which that script talks to one client."""
    server = socket.socket(socket.AF_UNIX)
    path = str(tmp_path / "m")
    server.bind(path)
    server.listen(1)

    def serve(script: Script) -> str:
        def run() -> None:
            with suppress(OSError):
                client, _ = server.accept()
                with client:
                    script(client)

        threading.Thread(target=run, daemon=True).start()
        return path

    yield serve
    server.close()


def answers(*replies: bytes) -> Script:
    """Greets, then gives these replies, one for each request, and then waits for the end."""

    def script(client: socket.socket) -> None:
        client.sendall(GREETING)
        for reply in replies:
            client.recv(4096)
            client.sendall(reply)
        while client.recv(4096):
            pass

    return script


def flood(client: socket.socket) -> None:
    while True:
        client.sendall(b"x" * 65536)


def flood_of_events(client: socket.socket) -> None:
    client.sendall(GREETING)
    while True:
        client.sendall(b'{"event": "STOP"}\n' * 1000)


def drip(client: socket.socket) -> None:
    for byte in GREETING * 100:
        client.sendall(bytes([byte]))
        time.sleep(0.02)


def silent(client: socket.socket) -> None:
    client.recv(1)


@pytest.mark.parametrize(
    ("script", "word"),
    [
        (silent, Word.NO_GREETING),
        (drip, Word.NO_GREETING),
        (flood, Word.ODD),
        (flood_of_events, Word.ODD),
        (lambda client: client.close(), Word.ODD),
        (lambda client: client.sendall(b"hello\n"), Word.ODD),
        (lambda client: client.sendall(b"[1]\n"), Word.ODD),
        (lambda client: client.sendall(b"[" * 100_000 + b"\n"), Word.ODD),
        (lambda client: client.sendall(b'{"event": "STOP"}\n'), Word.ODD),
        (answers(), Word.NO_ANSWER),
        (answers(OK, OK), Word.ODD),
        (answers(OK, b'{"return": {"status": 3}}\n'), Word.ODD),
        (answers(OK, b'{"return": {"status": "io-error"}}\n'), Word.OTHER_STATUS),
        (answers(OK, b'{"return": {"status": "running"}}\n'), Word.RUNNING),
        (answers(OK, PAUSED, b'{"error": {"class": "GenericError", "desc": "no"}}\n'), Word.ODD),
        (answers(OK, PAUSED, OK, PAUSED), Word.ODD),
        (answers(OK, PAUSED, OK), Word.NO_ANSWER),
    ],
)
def test_odd_monitors_are_told_apart_within_the_limit(
    monitor: Callable[[Script], str], script: Script, word: Word
) -> None:
    begun_ns = time.monotonic_ns()
    assert cont(monitor(script), limit_ns=300_000_000).word is word
    assert time.monotonic_ns() - begun_ns < 500_000_000


def test_events_between_the_answers_are_passed_over(monitor: Callable[[Script], str]) -> None:
    event = b'{"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}\n'
    running = b'{"return": {"status": "running"}}\n'
    outcome = cont(monitor(answers(OK, event + PAUSED, event + OK, event + running)))
    assert outcome.word is Word.RESUMED
    assert 0 < outcome.called_ns <= outcome.returned_ns


def test_sockets_that_nobody_serves(tmp_path: Path) -> None:
    assert cont(str(tmp_path / "absent")).word is Word.ABSENT
    assert cont("/dev/null/m").word is Word.ABSENT
    path = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    assert cont(str(path)).word is Word.REFUSED
    assert cont("x" * 200).word is Word.REFUSED


def test_a_queue_full_of_others_counts_as_held(tmp_path: Path) -> None:
    path = str(tmp_path / "m")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(path)
        assert cont(path, limit_ns=100_000_000).word is Word.NO_GREETING
        for client in waiting:
            client.close()


def test_a_real_qemu(light_host: Host) -> None:
    guest = light_host.guest("g3")
    path = str(guest.monitor_socket)
    assert cont(path).word is Word.RUNNING
    guest.suspend()
    refused = cont(path, confirm=lambda: False)
    assert (refused.word, guest.status()) == (Word.NOT_CONFIRMED, "paused")
    assert cont(path).word is Word.RESUMED
    assert guest.status() == "running"
    with socket.socket(socket.AF_UNIX) as holder:
        holder.connect(path)
        assert b"QMP" in holder.recv(4096)
        assert cont(path, greeting_ns=100_000_000).word is Word.NO_GREETING


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_it_asks_for_no_more_than_it_says(monitor: Callable[[Script], str]) -> None:
    """The socket is closed at the end, so that libvirtd can have it."""
    asked: list[str] = []
    ended = threading.Event()

    def script(client: socket.socket) -> None:
        client.sendall(GREETING)
        for reply in (OK, PAUSED, OK, b'{"return": {"status": "running"}}\n'):
            asked.append(json.loads(client.recv(4096))["execute"])
            client.sendall(reply)
        if client.recv(1) == b"":
            ended.set()

    before = open_files()
    assert cont(monitor(script)).word is Word.RESUMED
    assert ended.wait(1)
    assert asked == ["qmp_capabilities", "query-status", "cont", "query-status"]
    assert open_files() <= before
    assert qmp.LIMIT_NS == 1_000_000_000
