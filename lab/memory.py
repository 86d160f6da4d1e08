"""What a guest keeps in mind, to show that a move lost nothing of it.

Layer: lab; part of Guest. Some MiB of memory are written so that each page says which page it is,
and a process holds a file open that has no name any more (on a guest's disk where it has one).
Both are looked at from inside, by the guest's shell. Invariant: a guest that was booted anew
remembers nothing, whatever its memory says: its kernel's boot id tells. Errors: those of
Guest.shell.
"""

import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass

PAGES_PER_MIB = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a guest was told to remember, and in which life."""

    key: str
    mib: int
    boot_id: str


class Remembering(ABC):
    """The memory of a guest."""

    @abstractmethod
    def shell(self, command: str, timeout_s: float = 20) -> str:
        """Run a command inside; what it printed."""

    def boot_id(self) -> str:
        """Its kernel's boot id: another one after each boot, the same after a move with memory."""
        return self.shell("cat /proc/sys/kernel/random/boot_id").strip()

    def remember(self, mib: int = 16) -> Memory:
        """Fill so much memory and open a file; what it was told before is forgotten."""
        memory = Memory(key=uuid.uuid4().hex, mib=mib, boot_id=self.boot_id())
        self.shell(f"remember {memory.key} {mib * PAGES_PER_MIB}", timeout_s=60)
        return memory

    def forgotten(self, memory: Memory) -> list[str]:
        """What is not as it was, in sentences; empty when all is."""
        if self.boot_id() != memory.boot_id:
            return ["it was booted anew"]
        words = f"remembers {memory.key} {memory.mib * PAGES_PER_MIB}"
        return self.shell(words, timeout_s=60).splitlines()

    def still_remembers(self, memory: Memory) -> bool:
        """Whether its memory and its open file are intact, and it was not booted anew."""
        return self.forgotten(memory) == []
