"""`python -m hostagent.guardian --list FILE [--detach]`: the guardian's process.

Layer: guardian. It reads messages on its standard input and answers on its standard output (wire),
and ends by itself when nothing is left to do. Signals that end a process are ignored: whoever
wants it to end disarms it. When FILE exists and nobody arms it, it is a restart (systemd's, after
a SIGKILL): it takes up what the file lists. Its pipe has ended then (systemd does not keep it), so
all are resumed, unless their owner lives: that one arms another guardian. It ends with os._exit:
threads that hang in libvirt keep nothing waiting.
"""

import argparse
import fcntl
import json
import os
import signal
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from hostagent.guardian.connect import Lines, silence
from hostagent.guardian.guard import Guard, Heard, PipeEnded
from hostagent.guardian.probe import Probe
from hostagent.guardian.process import ProcessId, boot_id, myself
from hostagent.guardian.resume import Resumer
from hostagent.guardian.scribe import Scribe
from hostagent.guardian.wire import (
    Arm,
    Disarm,
    Message,
    Ready,
    Refused,
    arm_from_json,
    encode,
    read_messages,
    write_messages,
)

IGNORED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP, signal.SIGTTIN,
    signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGALRM,
)  # fmt: skip
WAIT_FOR_ARM_S = 60
WAIT_WITH_LIST_S = 0.5
WARM_NS = 2_000_000_000
WRITE_NS = 2_000_000_000
LAST_WRITE_S = 1.0
LOCK_RETRY_S = 0.1


class Guardian:
    """The process: its pipe, its lock, its files, and the Guard that decides."""

    def __init__(self, list_path: str) -> None:
        self._list_path = list_path
        # A list that is there already is this run's own: after a restart of the unit nobody sends
        # an Arm; one that succeeds a dead guardian gets an Arm, which then counts.
        self._succeeds = Path(list_path).exists()
        self._lock_fd = -1
        self._inbox: SimpleQueue[Heard] = SimpleQueue()
        self._out: SimpleQueue[bytes | None] = SimpleQueue()
        self._pipe_ended = threading.Event()
        self._writer = threading.Thread(target=write_messages, args=(1, self._out), daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, daemon=True).start()

    def run(self) -> None:
        """From the first message, or the list, to the end."""
        arm = self._wait_for_arm(WAIT_WITH_LIST_S if self._succeeds else WAIT_FOR_ARM_S)
        listed = self._wait_for_list() if arm is None else None
        if listed:
            arm = arm_from_json(listed)
        if arm is None:
            return
        if listed or self._take_lock(arm.lock_path):
            self._watch_over(arm, listed)
        else:
            self._say(Refused(reason=f"another guardian holds {arm.lock_path}"))
        self._out.put(None)
        self._writer.join(LAST_WRITE_S)

    def _watch_over(self, arm: Arm, listed: dict[str, Any] | None) -> None:
        scribe = Scribe(list_path=arm.list_path, journal_path=arm.journal_path)
        lines, probe = Lines(arm.ways.uri), Probe(arm.ways.uri)
        guard = Guard(
            arm,
            Resumer(arm.ways, lines, probe),
            scribe,
            inbox=self._inbox,
            reply=self._say,
            release_lock=self._release_lock,
            returned=frozenset(listed["returned"]) if listed else frozenset(),
            owner_visible=listed["owner_visible"] if listed else None,
        )
        guests = [guest.name for guest in arm.guests]
        scribe.note("restarted" if listed else "armed", {"guests": guests})
        guard.keep_list()
        if listed or self._prepared(arm, scribe, lines):
            self._say(Ready(guardian=myself()))
            guard.run()
        elif not self._succeeds:  # else another may yet have to take the list up
            scribe.keep(None)
        scribe.note("ended", {})
        scribe.flush(int(LAST_WRITE_S * 1e9))

    def _prepared(self, arm: Arm, scribe: Scribe, lines: Lines) -> bool:
        """Whether it may say ready. When hostagent is gone already it paused nothing, as it does
        so only after "ready": then nothing is to be resumed either, unless guests stood still
        before, under the guardian that this one succeeds."""
        lines.warm([guest.uuid for guest in arm.guests], WARM_NS)
        if not scribe.flush(WRITE_NS):
            reason = scribe.error.strerror if scribe.error else "the disk does not answer"
            self._say(Refused(reason=f"can't write {arm.list_path}: {reason}"))
            return False
        return self._succeeds or not self._pipe_ended.is_set()

    # the pipe

    def _read(self) -> None:
        for message in read_messages(0):
            self._inbox.put(message)
        self._pipe_ended.set()
        self._inbox.put(PipeEnded())

    def _say(self, message: Message) -> None:
        self._out.put(encode(message))

    def _wait_for_arm(self, limit_s: float) -> Arm | None:
        deadline_s = time.monotonic() + limit_s
        while True:
            try:
                heard = self._inbox.get(timeout=max(deadline_s - time.monotonic(), 0))
            except Empty:
                return None
            if isinstance(heard, Arm):
                return heard
            if isinstance(heard, Disarm | PipeEnded):
                self._inbox.put(heard)
                return None

    # the lock and the list

    def _take_lock(self, path: str) -> bool:
        """The lock of this host's guardians; the kernel lets go of it when the process ends."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._lock_fd = os.open(path, flags, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._release_lock()
            return False
        return True

    def _release_lock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _wait_for_list(self) -> dict[str, Any] | None:
        """The list to take up after a restart, with the lock held; None when there is none.

        Whoever holds the lock meanwhile (`recover`, the next run, which recovers first) works on
        the same list, so it is read again afterwards. One that waits for a hung guest alone had
        no lock and needs none. A living owner has noticed, and arms another: its guests stand
        still on purpose, so until it dies or the deadline is over this one only stands by."""
        while True:
            listed = self._read_list()
            if not listed or listed["waiting_for_hung"]:
                return listed
            if not _in_good_hands(listed) and self._take_lock(listed["lock_path"]):
                return self._read_list()
            time.sleep(LOCK_RETRY_S)

    def _read_list(self) -> dict[str, Any] | None:
        """The list, if it is of this boot: no process of an earlier one is left to be resumed."""
        try:
            listed: dict[str, Any] = json.loads(Path(self._list_path).read_bytes())
            return listed if listed["boot_id"] == boot_id() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _in_good_hands(listed: dict[str, Any]) -> bool:
    """Whether the owner lives, as far as /proc shows it, and is within its time."""
    return (
        listed["owner_visible"]
        and time.monotonic_ns() < listed["deadline_ns"]
        and ProcessId(**listed["owner"]).alive()
    )


def _detach() -> None:
    """Leave the parent: it ends at once, and this goes on as a child of init. The session is new
    already; not being its leader, it can't get a terminal by opening one."""
    if os.fork():
        os._exit(0)


def _never_the_oom_killers() -> None:
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")


def main() -> None:
    """The guardian's life."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    parser = argparse.ArgumentParser(prog="python -m hostagent.guardian")
    parser.add_argument("--list", required=True)
    parser.add_argument("--detach", action="store_true")
    options = parser.parse_args()
    if options.detach:
        _detach()
    _never_the_oom_killers()
    # Resuming must not depend on a libvirtd that this process would start for its user.
    os.environ.setdefault("LIBVIRT_AUTOSTART", "0")
    silence()
    try:
        Guardian(options.list).run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
