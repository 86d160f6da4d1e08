"""What the guardian's tests share: targets of lab guests, a guardian in hand, an owner to kill.

Layer: tests. The judge is always QEMU's own word on the lab's witness monitor, never the
guardian's. `Owner` is a process of its own (owner_process.py), so that it can be killed and frozen.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hostagent.guardian.daemon import DaemonId, read_daemon
from hostagent.guardian.launch import Mode
from hostagent.guardian.process import ProcessId, identify, myself
from hostagent.guardian.resume import Target, Ways
from hostagent.guardian.wire import Arm, Watch
from lab import Guest
from lab.host import Host
from lab.processes import wait_until

SECOND_NS = 1_000_000_000
OWNER = Path(__file__).with_name("owner_process.py")


def target_of(host: Host, guest: Guest) -> Target:
    """A guest as the guardian is told of it; asked while libvirt is healthy."""
    domain_id = guest.call("id", lambda domain: domain.ID())
    qemu = guest.qemu()
    assert qemu is not None
    (monitor,) = host.directory.rglob(f"domain-{domain_id}-*/monitor.sock")
    return Target(
        uuid=guest.uuid,
        name=guest.name,
        domain_id=domain_id,
        pid=qemu.pid,
        start_ticks=qemu.start_ticks,
        monitor=str(monitor),
    )


def daemon_of(host: Host) -> DaemonId:
    """The host's libvirtd, by its pid file."""
    daemon = read_daemon(str(host.socket.with_name("libvirtd.pid")))
    assert daemon is not None
    return daemon


def ways_of(host: Host) -> Ways:
    """All ways are open."""
    return Ways(uri=host.uri, qmp_allowed=True, qmp_refusal="", daemon=daemon_of(host))


def wait_status(guest: Guest, wanted: str, timeout_s: float = 5) -> None:
    """Wait until QEMU itself says so."""
    wait_until(lambda: guest.status() == wanted, timeout_s, f"{guest.name} {wanted}")


class Rig:
    """One run's guardian, with the files it keeps, over some guests of a host."""

    def __init__(self, host: Host, guests: Sequence[Guest], directory: Path) -> None:
        self.host = host
        self.guests = list(guests)
        self.directory = directory
        self.list_file = directory / "run.guardian.json"
        self.journal_file = directory / "run.guardian.jsonl"
        self.lock_file = directory / "guardian.lock"
        self.targets = {guest.name: target_of(host, guest) for guest in guests}
        self.ways = ways_of(host)
        self.watches: list[Watch] = []
        self.owners: list[Owner] = []
        self.deadline_ns = 0

    def arm(self, *, budget_s: float = 60, owner: ProcessId | None = None) -> Arm:
        """An Arm for all guests of this rig."""
        return Arm(
            run="test",
            list_path=str(self.list_file),
            journal_path=str(self.journal_file),
            lock_path=str(self.lock_file),
            deadline_ns=time.monotonic_ns() + int(budget_s * SECOND_NS),
            owner=owner or myself(),
            ways=self.ways,
            guests=tuple(self.targets.values()),
        )

    def watch(self, *, budget_s: float = 60, on_death: Callable[[], None] | None = None) -> Watch:
        """A guardian armed by this very process."""
        watch = Watch(
            unit="halab-guardian",
            list_path=str(self.list_file),
            mode=Mode.SETSID,
            on_death=on_death,
        )
        self.watches.append(watch)
        arm = self.arm(budget_s=budget_s)
        self.deadline_ns = arm.deadline_ns
        watch.arm(arm, 10 * SECOND_NS)
        return watch

    def suspend(self, *names: str) -> None:
        """Pause guests as hostagent would, all of this rig when none is named."""
        for guest in self.guests:
            if not names or guest.name in names:
                guest.suspend()

    def forbid_qmp(self, reason: str = "a lock manager is configured") -> None:
        self.ways = replace(self.ways, qmp_allowed=False, qmp_refusal=reason)

    def uuids(self, *names: str) -> list[str]:
        return [self.targets[name].uuid for name in names]

    def journal(self) -> list[dict[str, Any]]:
        """What the guardian wrote, oldest first."""
        lines = self.journal_file.read_text().splitlines()
        return [json.loads(line)["is"] for line in lines]

    def listed(self) -> dict[str, Any]:
        """The guardian's list of what remains."""
        listed: dict[str, Any] = json.loads(self.list_file.read_text())
        return listed

    def lock_file_held(self) -> bool:
        """Whether a guardian holds its lock."""
        with self.lock_file.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def owner(self, *, budget_s: float = 60, suspend: bool = True, paused: bool = True) -> "Owner":
        """Another process that arms a guardian and, unless told otherwise, pauses the guests."""
        owner = Owner(self, budget_s=budget_s, suspend=suspend, paused=paused)
        self.owners.append(owner)
        return owner

    def close(self) -> None:
        for owner in self.owners:
            owner.kill()
        for watch in self.watches:
            watch.disarm((), SECOND_NS)


class Owner:
    """A process that owns a guardian; it does what it is told, until it is killed."""

    def __init__(self, rig: Rig, *, budget_s: float, suspend: bool, paused: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(OWNER), str(rig.list_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(OWNER.parents[2])},
        )
        assert self._process.stdin is not None
        self.tell({"arm": asdict(rig.arm(budget_s=budget_s, owner=self.process))})
        self.guardian = ProcessId(**json.loads(self.hear()))
        uuids = list(rig.uuids(*rig.targets))
        if suspend:
            self.tell({"suspend": uuids})
            assert self.hear() == "suspended"
        if paused:
            self.tell({"paused": uuids})
            assert self.hear() == "said"

    @property
    def process(self) -> ProcessId:
        found = identify(self._process.pid)
        assert found is not None
        return found

    def tell(self, command: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def signal(self, number: int) -> int:
        """Send it a signal; the time just before."""
        at_ns = time.monotonic_ns()
        self._process.send_signal(number)
        return at_ns

    def kill(self) -> int:
        """SIGKILL; the time just before."""
        at_ns = self.signal(signal.SIGKILL)
        self._process.wait(timeout=10)
        return at_ns
