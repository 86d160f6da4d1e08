"""What tests do to a guest's agent and clock from inside: break them, and put them back.

Layer: lab; part of Guest. Everything goes through the guest's shell and the functions of its init
(guest_init), never through the agent. Invariant: whatever is changed here is undone by `put_back`,
which Guest.restore calls. Units in names. Errors: those of Guest.shell.
"""

import time
from abc import ABC, abstractmethod
from enum import StrEnum

RESPAWN_S = 1
"""How long after its end a guest's agent is started again, unless a test says otherwise."""
SLOW_HWCLOCK_S = 3


class Hwclock(StrEnum):
    """The program by which qemu-ga sets the hardware clock, after it has set the system's clock.

    works     it does
    missing   there is none: the agent refuses to set the time at all
    fails     it ends with 1: the clock is set, and the agent reports a failure
    slow      it works, some seconds later
    """

    WORKS = "works"
    MISSING = "missing"
    FAILS = "fails"
    SLOW = "slow"


class Inside(ABC):
    """The inside of a guest."""

    @abstractmethod
    def shell(self, command: str, timeout_s: float = 20) -> str:
        """Run a command inside; what it printed."""

    @abstractmethod
    def wait_agent(self, timeout_s: float = 20) -> None:
        """Wait until the agent is there."""

    def hwclock(self, how: Hwclock | str, slow_s: float = SLOW_HWCLOCK_S) -> None:
        """Give the guest a hwclock that behaves like this; the agent is started anew if need be."""
        self.shell(f"hwclock_becomes {Hwclock(how)} {slow_s:g}")
        self.wait_agent()

    def block_agent(self, *commands: str) -> None:
        """Start the agent anew with these commands disabled; with none, all are enabled."""
        self.shell(f"echo '{','.join(commands)}' >/run/agent-block")
        self.restart_agent()

    def restart_agent(self) -> None:
        """End the agent, start it anew at once, and wait until it is there."""
        self.shell("agent_restart")
        self.wait_agent()

    def kill_agent(self, respawn_s: float = RESPAWN_S) -> None:
        """SIGKILL to the agent; it is started again after so many seconds, this time and later."""
        self.shell(f"echo {respawn_s:g} >/run/agent-respawn; kill -KILL $(pidof qemu-ga)")

    def stop_agent(self) -> None:
        """SIGSTOP to the agent: one that hangs while its channel stays open."""
        self.shell("kill -STOP $(pidof qemu-ga)")

    def continue_agent(self) -> None:
        """SIGCONT to the agent; what was asked meanwhile is now answered."""
        self.shell("kill -CONT $(pidof qemu-ga)")

    def step_clock(self, seconds: float) -> None:
        """Set the guest's clock so far from the host's, to some hundredths of a second.

        busybox's date knows whole seconds only, so this waits until one is due (at most 1 s). The
        hardware clock stays as it is.
        """
        time.sleep(-(time.time() + seconds) % 1)
        self.shell(f"date -s @{round(time.time() + seconds)}")

    def start_corrector(self, every_s: float = 0.1) -> None:
        """Let something inside step the clock by itself: from the hardware clock, which goes on
        during a pause, whenever that is more than a second ahead."""
        self.shell(f"corrector_start {every_s:g}")

    def stop_corrector(self) -> None:
        """End what start_corrector began."""
        self.shell("corrector_stop")

    def put_back(self, clock_s: int | None) -> None:
        """Undo all of this. A clock that is more than 2 s off is set to `clock_s` if given."""
        self.shell(f"put_back {'' if clock_s is None else clock_s}")
