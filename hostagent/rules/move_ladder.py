"""Which ways a guest may leave its host, and what about the guest itself stands in their way.

Layer: rules; pure. The other host has no part in this: see rules/move_checks. States and reasons
are virsh's words. Tables: `_RUNGS` (policy), `_STATES` and `_PAUSES` (states in which a guest is
left alone), `_CHECKS` (what counts for which methods).

A live move takes a guest along as it is: a frozen file system stays frozen, a pause of its owner
stays a pause. A guest that is to shut down has to be able to.
"""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hostagent.core.model import RUNS, GuestState
from hostagent.core.move import Method, Movable
from hostagent.core.policy import OnReboot

OWNER = "user"
"""libvirt's reason of a guest that was paused through its API (VIR_DOMAIN_PAUSED_USER)."""

Found = tuple[str, str]
"""A reason and its cure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """Why a guest can't leave in this way, and what would help. `guest` is its UUID, empty where a
    destination is closed to all guests alike."""

    reason: str
    cure: str
    guest: str = ""


_RUNGS = (
    (Method.LIVE, frozenset({OnReboot.LIVE, OnReboot.POST_COPY})),
    (Method.COLD, frozenset({OnReboot.COLD})),
    (Method.SAVE, frozenset({OnReboot.SAVE})),
    (Method.SHUTDOWN, frozenset({OnReboot.SHUTDOWN})),
)
"""The ladder, the gentlest first, with the words of a policy that allow each rung."""

_STATES: dict[GuestState, Found] = {
    GuestState.IN_SHUTDOWN: ("it is shutting down", "wait until it is shut off: then it can move"),
    GuestState.CRASHED: (
        "it crashed, and is kept as it is for a look at it",
        "take what you need of it (`virsh dump`), then `virsh destroy` or `virsh reset` it",
    ),
    GuestState.ASLEEP: ("it sleeps (pmsuspended)", "wake it: `virsh dompmwakeup`"),
}

_PAUSES: dict[str, Found] = {
    "I/O error": (
        "it is paused since one of its disks had an I/O error",
        "put the storage right, then `virsh resume` it",
    ),
    "migrating": ("it is being moved already", "wait for that move, or `virsh domjobabort` it"),
    "post-copy": ("it is being moved already (post-copy)", "wait for that move: it can't go back"),
    "post-copy failed": (
        "a post-copy move of it broke off: its memory is on two hosts",
        "bring the link back, then `virsh migrate --postcopy-resume`; destroy it on neither host",
    ),
    "crashed": ("it is paused since it crashed", "look at it, then `virsh reset` it"),
    "watchdog": ("it was paused by its watchdog", "look at it, then `virsh resume` it"),
}
"""By the reason of a pause that is not its owner's."""
_UNFINISHED = ("post-copy", "post-copy failed")
"""Reasons that a running guest may have too, while its memory still comes after it."""


def ladder(guest: Movable) -> tuple[Method, ...]:
    """The methods that the guest's state and policy allow, the gentlest first. One that is shut off
    has nothing to lose, and goes unless it is to stay here; one that its owner paused, or that is
    gone once it is shut off (transient), may only be moved live. Empty: see `stays_because`."""
    if guest.state is GuestState.SHUT_OFF:
        return (Method.OFFLINE,) if guest.policy.on_reboot else ()
    if _left_alone(guest):
        return ()
    allowed = tuple(
        method for method, words in _RUNGS if not words.isdisjoint(guest.policy.on_reboot)
    )
    if guest.state in RUNS and guest.persistent:
        return allowed
    return tuple(method for method in allowed if method is Method.LIVE)


def stays_because(guest: Movable) -> Obstacle | None:
    """Why no method is left for this guest; None where there is one."""
    if ladder(guest):
        return None
    reason, cure = _left_alone(guest) or _by_policy(guest)
    return Obstacle(reason=reason, cure=cure, guest=guest.uuid)


def _by_policy(guest: Movable) -> Found:
    words = ", ".join(guest.policy.on_reboot)
    policy = f"its policy allows only {words}" if words else "its policy is to stay here"
    if words and guest.state not in RUNS:
        policy = f"it is paused, so it can only be moved live, and {policy}"
    elif words and not guest.persistent:
        policy = f"it is transient, so it can only be moved live, and {policy}"
    return policy, f"ask its owner, then `hostagent guest set {word(guest.name)} on-reboot=live`"


def obstacles_here(guest: Movable, method: Method) -> tuple[Obstacle, ...]:
    """What stands in the way wherever the guest is to go; all that can, where it is only to be
    saved or shut down."""
    return tuple(
        Obstacle(reason=reason, cure=cure, guest=guest.uuid)
        for check, methods in _CHECKS
        if method in methods
        for reason, cure in check(guest, method)
    )


def word(text: str) -> str:
    """A name, a path or a URI as one word of a command that is shown to be typed."""
    return shlex.quote(text)


def _left_alone(guest: Movable) -> Found | None:
    """Why a guest in this state leaves by no method."""
    if guest.state in _STATES:
        return _STATES[guest.state]
    if guest.state in RUNS:
        return _PAUSES[guest.reason] if guest.reason in _UNFINISHED else None
    if guest.state is GuestState.PAUSED and guest.reason != OWNER:
        unknown = (
            f"it is paused, and not by its owner ({guest.reason or 'no reason is known'})",
            "find out why, then `virsh resume` it",
        )
        return _PAUSES.get(guest.reason, unknown)
    return None


def _state(guest: Movable, method: Method) -> Iterator[Found]:
    left_alone = _left_alone(guest)
    is_off = guest.state is GuestState.SHUT_OFF
    if left_alone is not None:
        yield left_alone
    elif method is Method.OFFLINE and not is_off:
        yield f"it is not shut off, but {guest.state}", "move it live, or shut it down first"
    elif method is not Method.OFFLINE and is_off:
        yield "it is shut off", "move it by the method offline"
    elif method in _SHUTS_DOWN and guest.state is GuestState.PAUSED:
        yield "it is paused by its owner, and can't shut down", "move it live, or resume it first"


def _unread(guest: Movable, method: Method) -> Iterator[Found]:
    if guest.unread:
        yield (
            f"what its owner allows could not be read: {guest.unread}",
            "try again; `hostagent guest show` reads it too",
        )


def _job(guest: Movable, method: Method) -> Iterator[Found]:
    if guest.job:
        abort = f"`virsh domjobabort {word(guest.name)}`"
        yield f"a job runs on it: {guest.job}", f"wait for its end, or end it: {abort}"


def _unmovable(guest: Movable, method: Method) -> Iterator[Found]:
    for device in guest.unmovable:
        yield (
            f"it uses {device}, which stays with this host",
            "detach that device (`virsh detach-device`), or shut the guest down",
        )


def _frozen(guest: Movable, method: Method) -> Iterator[Found]:
    if guest.frozen:
        yield (
            "its file systems are frozen (a backup?), so it can't shut down in good order",
            f"let the backup end, or thaw them: `virsh domfsthaw {word(guest.name)}`",
        )


def _on_poweroff(guest: Movable, method: Method) -> Iterator[Found]:
    if guest.on_poweroff != "destroy":
        yield (
            f"its on_poweroff is {guest.on_poweroff}, so it would never be shut off",
            f"`virsh set-lifecycle-action {word(guest.name)} poweroff destroy --live --config`",
        )


def _transient(guest: Movable, method: Method) -> Iterator[Found]:
    if not guest.persistent:
        name = word(guest.name)
        yield (
            "it is transient: once it is shut off nothing is left of it",
            f"move it live, or keep it: `virsh dumpxml {name} > FILE`, then `virsh define FILE`",
        )


_SHUTS_DOWN = frozenset({Method.COLD, Method.SHUTDOWN})
_CHECKS: tuple[tuple[Callable[[Movable, Method], Iterator[Found]], frozenset[Method]], ...] = (
    (_state, frozenset(Method)),
    (_unread, frozenset(Method)),
    (_job, frozenset(Method)),
    (_unmovable, frozenset(Method) - {Method.SHUTDOWN}),
    (_frozen, _SHUTS_DOWN),
    (_on_poweroff, _SHUTS_DOWN),
    (_transient, _SHUTS_DOWN | {Method.SAVE}),
)
