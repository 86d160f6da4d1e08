"""Guests and hosts of a plan in the guardian's own words.

Layer: adapters. The guardian imports nothing of ours, so its values are its own; here, and nowhere
else, ours become its.
"""

from hostagent.core.model import Host
from hostagent.core.plan import PlannedGuest
from hostagent.guardian.daemon import DaemonId
from hostagent.guardian.resume import Target, Ways


def target_of(guest: PlannedGuest) -> Target:
    """A guest that may have to be resumed; it must have a process."""
    assert guest.process is not None
    return Target(
        uuid=guest.uuid,
        name=guest.name,
        domain_id=guest.process.domain_id,
        pid=guest.process.pid,
        start_ticks=guest.process.start_ticks,
        monitor=guest.monitor,
    )


def ways_of(host: Host) -> Ways:
    """By which ways guests of this host may be brought back."""
    daemon = host.daemon
    return Ways(
        uri=host.uri,
        qmp_allowed=host.qmp.allowed,
        qmp_refusal=host.qmp.refusal,
        daemon=None
        if daemon is None
        else DaemonId(
            pid_file=daemon.pid_file,
            exe=daemon.exe,
            pid=daemon.pid,
            start_ticks=daemon.start_ticks,
        ),
    )
