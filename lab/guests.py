"""A guest of the lab: start it, stop it, freeze its QEMU, ask it how it is.

Layer: lab, above placed, definition, calls and qmp; its hosts are given. Invariants: process and
monitor are found without libvirt, so a guest can be judged while libvirtd is dead or frozen; its
clock and its counter are the guest's own, not an agent's; a guest that was moved is asked where it
is now. Effects: on the guest. Units in names.
Errors: LabError, TimeoutError for what did not come in time.
"""

import itertools
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import libvirt

from lab.calls import DOMAIN_STATES, connection, within
from lab.clock_port import ClockReading, read_clock
from lab.definition import (
    AGENT_PORT,
    Files,
    GuestSort,
    GuestSpec,
    Shutdown,
    domain_xml,
    mixture,
    named,
)
from lab.errors import LabError
from lab.images import Images
from lab.inside import Hwclock, Inside
from lab.memory import Memory, Remembering
from lab.owner import owned
from lab.placed import Home, Placed, Where
from lab.processes import wait_until
from lab.qmp import ask
from lab.restore import bring_back, set_up_anew

__all__ = [
    "ClockReading",
    "Count",
    "Guest",
    "GuestSort",
    "GuestSpec",
    "Home",
    "Hwclock",
    "Memory",
    "Shutdown",
    "Where",
    "mixture",
    "named",
]

T = TypeVar("T")
BOOT_S = 90
"""Far above the 2 to 4 s of an idle machine: twenty guests share two CPUs while booting."""

_keys = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """One line of a guest's counter, with the guest's own clocks."""

    number: int
    clock_s: float
    uptime_s: float


class Guest(Inside, Remembering, Placed):
    """One guest of a lab."""

    def __init__(
        self,
        home: Home,
        spec: GuestSpec,
        uuid: str,
        images: Images,
        fleet: Sequence[Home] | None = None,
    ) -> None:
        self.home = home
        self.fleet = [home] if fleet is None else fleet
        self._images = images
        self.spec = spec
        self.uuid = uuid
        self.files = Files(directory=home.guest_directory, guest=spec.name)

    def __repr__(self) -> str:
        return f"<guest {self.name} ({self.sort}) of {self.home.name}>"

    @property
    def name(self) -> str:
        """Its name in libvirt."""
        return self.spec.name

    @property
    def sort(self) -> GuestSort:
        """Its sort."""
        return self.spec.sort

    @property
    def has_agent(self) -> bool:
        """Whether a guest agent runs in it."""
        return self.sort.has_agent

    @property
    def witness_socket(self) -> Path:
        """The monitor that lab.witness.Witness listens on."""
        return self.ports.witness

    @property
    def monitor_socket(self) -> Path:
        """A second monitor of the lab's own, free for tests and benchmarks."""
        return self.ports.monitor

    def definition(self) -> str:
        """Its libvirt XML as the lab defines it."""
        return domain_xml(
            self.spec,
            uuid=self.uuid,
            accelerator=self.home.accelerator,
            images=self._images,
            files=self.files,
        )

    def call(
        self,
        what: str,
        work: Callable[[libvirt.virDomain], T],
        timeout_s: float = 30,
        on: Home | None = None,
    ) -> T:
        """A libvirt call on this guest, where it is or on a given host, on a connection of its own,
        with a time limit."""
        host = on or self.host
        with connection(host.uri) as conn:
            text = f"{what} of {self.name} on {host.name}"
            return within(timeout_s, text, lambda: work(conn.lookupByUUIDString(self.uuid)))

    def define(self) -> None:
        """Define it (again) on its home host."""
        with connection(self.home.uri) as conn:
            within(30, f"defining {self.name}", lambda: conn.defineXML(self.definition()))

    def make(self) -> None:
        """Bring it into being as its spec says."""
        set_up_anew(self)
        if not self.spec.off:
            self.start()

    def start(self, *, wait: bool = True) -> None:
        """Power it on and, unless told otherwise, wait until it has booted."""
        self.files.counter.unlink(missing_ok=True)
        if self.spec.transient:
            with connection(self.home.uri) as conn:
                text = f"start of {self.name}"
                within(60, text, lambda: conn.createXML(self.definition()))
        else:
            self.call("start", lambda domain: domain.create(), timeout_s=60)
        process = self.qemu()
        if process is not None:
            self.host.note(process, f"qemu-{self.name}")
        if wait:
            self.wait_booted()

    def destroy(self) -> None:
        """Power it off at once, through libvirt; no error when it is off."""
        with suppress(LabError):
            self.call("destroy", lambda domain: domain.destroy())
        wait_until(lambda: self.qemu() is None, 20, f"end of {self.name}")

    def kill(self) -> None:
        """SIGKILL to its QEMU: a guest that dies without libvirt having asked for it."""
        self.signal(signal.SIGKILL)
        wait_until(lambda: self.qemu() is None, 10, f"end of {self.name}")

    def suspend(self) -> None:
        """Pause it as its owner would (virsh suspend)."""
        self.call("suspend", lambda domain: domain.suspend())

    def resume(self) -> None:
        """Resume it as its owner would (virsh resume)."""
        self.call("resume", lambda domain: domain.resume())

    def state(self) -> str:
        """Its state in virsh's words, from libvirt."""
        number, _ = self.call("state", lambda domain: domain.state())
        return DOMAIN_STATES.get(number, f"state {number}")

    def status(self, timeout_s: float = 2) -> str:
        """QEMU's own word for its state, without libvirt; "off" when there is no QEMU."""
        try:
            return str(ask(self.monitor_socket, "query-status", timeout_s)["status"])
        except (OSError, EOFError):
            return "off"

    def qemu_pid(self) -> int:
        """The pid of its QEMU; LabError when it is off."""
        process = self.qemu()
        if process is None:
            raise LabError(f"{self.name} has no QEMU")
        return process.pid

    def signal(self, number: int) -> None:
        """Send its QEMU a signal."""
        process = self.qemu()
        if process is None or not process.send(number):
            raise LabError(f"{self.name} has no QEMU")

    def freeze(self) -> None:
        """SIGSTOP to its QEMU: a guest whose hypervisor hangs."""
        self.signal(signal.SIGSTOP)
        wait_until(self.frozen, 5, f"stop of QEMU of {self.name}")

    def thaw(self) -> None:
        """SIGCONT to its QEMU."""
        self.signal(signal.SIGCONT)
        wait_until(lambda: not self.frozen(), 5, f"thaw of QEMU of {self.name}")

    def frozen(self) -> bool:
        """Whether its QEMU is stopped by a signal."""
        process = self.qemu()
        return process is not None and process.state() == "T"

    def counter(self) -> Count | None:
        """The last whole line that it counted; None before the first."""
        lines = self._counted()
        if not lines:
            return None
        number, clock_s, uptime_s = lines[-1].split()
        return Count(number=int(number), clock_s=float(clock_s), uptime_s=float(uptime_s))

    def _counted(self) -> list[str]:
        try:
            text = self.files.counter.read_text()
        except FileNotFoundError:
            return []
        return [line for line in text.split("\n")[:-1] if line.count(" ") == 2]

    def wait_counting(self, timeout_s: float = 10, since: Count | None = None) -> None:
        """Wait until it counts on, from now or `since`: the proof that its CPUs execute."""
        before = since or self.counter()
        wait_until(lambda: self.counter() != before, timeout_s, f"{self.name} counting on")

    def wait_booted(self, timeout_s: float = BOOT_S) -> None:
        """Wait until it counts, and until its agent answers where it has one."""
        wait_until(self._counts_at_last, timeout_s, f"boot of {self.name}")
        self.wait_agent(timeout_s)

    def _counts_at_last(self) -> bool:
        """Whether it counts yet; LabError when its QEMU ended meanwhile."""
        if self.qemu() is None:
            raise LabError(f"{self.name} ended while it booted; its console: {self.files.console}")
        return self.counter() is not None

    def wait_agent(self, timeout_s: float = 20) -> None:
        """Wait until libvirt sees its agent connected, and it answers; without one, not at all."""
        if self.has_agent:
            wait_until(self._agent_answers, timeout_s, f"agent of {self.name}")

    def _agent_answers(self) -> bool:
        """One that was just started anew may be gone again between the two questions."""
        if not self.agent_connected():
            return False
        try:
            self.call("agent's time", lambda domain: domain.getTime(), timeout_s=5)
        except LabError as error:
            return "has been disabled" in str(error)
        return True

    def agent_connected(self) -> bool:
        """Whether libvirt sees something in the guest at the agent's channel."""
        xml = self.call("definition", lambda domain: domain.XMLDesc())
        return "name='org.qemu.guest_agent.0' state='connected'" in xml

    def agent_port_open(self) -> bool:
        """The same from QEMU itself, without libvirt: whether the guest has the port open."""
        devices = ask(self.monitor_socket, "query-chardev")
        return any(
            device["frontend-open"] and AGENT_PORT in device["filename"] for device in devices
        )

    def shell(self, command: str, timeout_s: float = 20) -> str:
        """Run a command inside, by its serial port and not by an agent; what it printed.

        LabError when its exit status is not 0, TimeoutError when the guest does not answer.
        """
        key = f"k{next(_keys)}"
        text = self._converse(f"{key} {command}\n", f"\n>{key} ", timeout_s)
        output, _, status = text.partition(f"<{key}\n")[2].rpartition(f">{key} ")
        if status.strip() != "0":
            raise LabError(
                f"{self.name}: {command!r} ended with {status.strip()}: {output.strip()}"
            )
        return output

    def _converse(self, request: str, end: str, timeout_s: float) -> str:
        """Send one line to the shell port and read until the line that begins with `end`."""
        deadline = time.monotonic() + timeout_s
        text = "\n"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as port:
            port.settimeout(timeout_s)
            port.connect(str(self.ports.shell))
            port.sendall(request.encode())
            while end not in text or not text.endswith("\n"):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"{self.name}: no answer to {request.strip()!r}")
                port.settimeout(left_s)
                received = port.recv(65536)
                if not received:
                    raise LabError(f"{self.name}: QEMU ended")
                text += received.decode(errors="replace")
        return text

    def clock(self) -> ClockReading:
        """How far its wall clock is from the host's: the best of some readings from inside."""
        return read_clock(self.ports.clock)

    def crash(self) -> None:
        """Make its kernel panic; libvirt then calls it crashed."""
        with suppress(TimeoutError, LabError):
            self.shell("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger", timeout_s=1)
        wait_until(lambda: self.state() == "crashed", 10, f"crash of {self.name}")

    def sleep(self) -> None:
        """Put it to sleep (S3) from inside; libvirt then calls it pmsuspended."""
        with suppress(TimeoutError, LabError):
            self.shell("echo mem >/sys/power/state", timeout_s=1)
        wait_until(lambda: self.state() == "pmsuspended", 20, f"sleep of {self.name}")

    def wake(self) -> None:
        """Wake it from sleep."""
        self.call("wake-up", lambda domain: owned(domain).pMWakeup())

    def restore(self) -> None:
        """Bring it back to how the lab handed it out: at home, set up as made, running."""
        bring_back(self)
