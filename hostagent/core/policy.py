"""A guest's policy: what its owner allows to be done with it.

Layer: core. How it is written and read is in rules/policy; where it is kept (the guest's libvirt
metadata, so that it travels with the guest) in adapters/libvirt/metadata.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class OnPause(StrEnum):
    """What is done with a guest when its host's guests are to be paused."""

    ALLOW = "allow"
    MIGRATE = "migrate"
    ASK = "ask"


class OnReboot(StrEnum):
    """A rung of the ladder on which a guest may leave a host that reboots, the gentlest first."""

    LIVE = "live"
    POST_COPY = "post-copy"
    COLD = "cold"
    SAVE = "save"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The policy. The defaults disturb least: a guest may be paused, and moved live only. With an
    empty `on_reboot` a guest does not leave its host at all."""

    owner: str = ""
    availability_set: str = ""
    update_domain: int | None = None
    scale_set: str = ""
    on_pause: OnPause = OnPause.ALLOW
    on_reboot: tuple[OnReboot, ...] = (OnReboot.LIVE,)
    max_pause_ns: int | None = None
    notice_ns: int | None = None
    temporary_disks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The breadcrumb in a guest that was moved away: the host that it belongs on, and since when
    it is away (UTC, ISO 8601; a label)."""

    host_uuid: str
    host_name: str = ""
    since: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestNotes:
    """All that is noted in a guest's metadata. `problems` are sentences about what somebody wrote
    there that is not right; the defaults apply in its place. `unread` is why it could not be read:
    then nobody knows what the owner allows."""

    policy: Policy = field(default_factory=Policy)
    problems: tuple[str, ...] = ()
    unread: str = ""
    home: Home | None = None
