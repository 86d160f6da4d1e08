"""What resuming is about: a guest, the ways to bring it back, and what became of it.

Layer: guardian; values only, but for the look into /proc that tells a guest's QEMU from another.
"""

from dataclasses import dataclass
from enum import StrEnum

from hostagent.guardian.daemon import DaemonId
from hostagent.guardian.process import state_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A guest that may have to be resumed: exactly this process of it.

    `pid` and `start_ticks` identify its QEMU (process.py), `monitor` is the path of libvirt's own
    QMP socket."""

    uuid: str
    name: str
    domain_id: int
    pid: int
    start_ticks: int
    monitor: str

    def state(self) -> str:
        """The state letter of its QEMU process; empty when that is gone."""
        return state_of(self.pid, self.start_ticks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """By which ways guests may be brought back. `qmp_refusal` says why QMP is not allowed."""

    uri: str
    qmp_allowed: bool
    qmp_refusal: str
    daemon: DaemonId | None


class Result(StrEnum):
    """What became of a guest."""

    RESUMED = "resumed"
    RUNNING = "running"
    GONE = "gone"
    NOT_OURS = "not-ours"
    HUNG = "hung"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Back:
    """What became of a guest; `called_ns` and `returned_ns` bound the resume that worked."""

    uuid: str
    result: Result
    reason: str = ""
    way: str = ""
    called_ns: int = 0
    returned_ns: int = 0


def plain(target: Target, result: Result, reason: str, way: str = "") -> Back:
    """A Back without times."""
    return Back(uuid=target.uuid, result=result, reason=reason, way=way)
