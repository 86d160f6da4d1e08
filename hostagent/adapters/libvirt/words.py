"""virsh's words for libvirt's states, reasons and jobs.

Layer: adapters; tables only. Source: tools/virsh-domain-monitor.c (virshDomainStateReason) and
virDomainJobOperation; a number that is newer than this table becomes "unknown".
"""

from hostagent.core.model import GuestState

STATES: tuple[GuestState, ...] = (
    GuestState.NO_STATE,
    GuestState.RUNNING,
    GuestState.IDLE,
    GuestState.PAUSED,
    GuestState.IN_SHUTDOWN,
    GuestState.SHUT_OFF,
    GuestState.CRASHED,
    GuestState.ASLEEP,
)
"""By virDomainState."""

REASONS: dict[GuestState, tuple[str, ...]] = {
    GuestState.RUNNING: (
        "unknown",
        "booted",
        "migrated",
        "restored",
        "from snapshot",
        "unpaused",
        "migration canceled",
        "save canceled",
        "event wakeup",
        "crashed",
        "post-copy",
        "post-copy failed",
    ),
    GuestState.PAUSED: (
        "unknown",
        "user",
        "migrating",
        "saving",
        "dumping",
        "I/O error",
        "watchdog",
        "from snapshot",
        "shutting down",
        "creating snapshot",
        "crashed",
        "starting up",
        "post-copy",
        "post-copy failed",
        "api error",
    ),
    GuestState.IN_SHUTDOWN: ("unknown", "user"),
    GuestState.SHUT_OFF: (
        "unknown",
        "shutdown",
        "destroyed",
        "crashed",
        "migrated",
        "saved",
        "failed",
        "from snapshot",
        "daemon",
    ),
    GuestState.CRASHED: ("unknown", "panicked"),
}
"""By state and virDomain*Reason."""

USER = "user"
"""The reason of a guest that was paused through libvirt's API: by us, or by its owner."""

JOBS: tuple[str, ...] = (
    "unknown job",
    "start",
    "save",
    "restore",
    "incoming migration",
    "migration",
    "snapshot",
    "snapshot revert",
    "dump",
    "backup",
    "snapshot delete",
)
"""By virDomainJobOperation."""

PASSING = {"saving": "save", "dumping": "dump", "creating snapshot": "snapshot"}
"""Reasons of a pause that passes by itself, with the job behind them: libvirt lets the guest go on
a moment after the job's figures say that it ended, and does so after a restart of its own too."""

UNANSWERED = "a call that its QEMU does not answer"
"""The "job" of a guest whose monitor is held by somebody's call (virDomainControlState)."""


def state(number: int) -> GuestState:
    """The word for a virDomainState."""
    return STATES[number] if 0 <= number < len(STATES) else GuestState.NO_STATE


def reason(state_word: GuestState, number: int) -> str:
    """The word for a reason of this state."""
    words = REASONS.get(state_word, ())
    return words[number] if 0 <= number < len(words) else "unknown"


def job(operation: int) -> str:
    """The word for a running job."""
    return JOBS[operation] if 0 <= operation < len(JOBS) else JOBS[0]
