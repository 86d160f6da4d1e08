"""Bringing a guest back to how the lab handed it out, whatever a test did to it.

Layer: lab; called by Guest.restore. Invariants: afterwards it is on its home host and on no other,
defined and set up as it was made, running unless it was made shut off, thawed, its agent answering.
One that was moved away is not moved back but ended and booted anew: a move back would need all that
the test may have broken. Effects: on that guest, on every host of its lab that answers.
"""

import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import libvirt

from lab.definition import UTC, GuestSort
from lab.errors import LabError
from lab.owner import (
    AFFECT_LIVE,
    METADATA_ELEMENT,
    SNAPSHOT_METADATA_ONLY,
    UNDEFINE_ALL,
    owned,
)
from lab.placed import Home
from lab.processes import wait_until

if TYPE_CHECKING:
    from lab.guests import Guest


def bring_back(guest: "Guest") -> None:
    """All of it."""
    for _, process in guest.qemus():
        process.send(signal.SIGCONT)
    _clear(guest)
    was_away = [_leave(guest, host) for host in guest.fleet if host is not guest.home]
    if any(was_away):
        _end(guest, guest.home)
    _set_up(guest)
    _power_up(guest)
    if guest.spec.off:
        return
    _put_back_inside(guest)
    guest.wait_agent()
    if guest.sort is GuestSort.DISK:
        with suppress(LabError):
            guest.call("thaw", lambda domain: owned(domain).fsThaw(), timeout_s=5)


def set_up_anew(guest: "Guest") -> None:
    """Make it on its home host, as its spec says, and leave it off."""
    if guest.spec.transient:
        return
    guest.define()
    guest.call("autostart", lambda domain: owned(domain).setAutostart(guest.spec.autostart))
    if guest.spec.snapshot:
        text = f"<domainsnapshot><name>{guest.spec.snapshot}</name></domainsnapshot>"
        guest.call("snapshot", lambda domain: owned(domain).snapshotCreateXML(text))


def _clear(guest: "Guest") -> None:
    """Take away what a test may have left with libvirt: a job, a saved state."""
    with suppress(LabError):
        guest.call("abort of a job", lambda domain: owned(domain).abortJob())
    with suppress(LabError):
        guest.call("removal", lambda domain: owned(domain).managedSaveRemove())


def _leave(guest: "Guest", host: Home) -> bool:
    """End and undefine it on a host that is not its home; whether it had a QEMU there."""
    had = guest.qemu_on(host) is not None
    if had:
        _end(guest, host)
    if guest.has_definition_on(host):
        _undefine(guest, host)
    return had


def _undefine(guest: "Guest", host: Home) -> None:
    guest.call("undefining", lambda domain: owned(domain).undefineFlags(UNDEFINE_ALL), on=host)


def _end(guest: "Guest", host: Home) -> None:
    """End its QEMU on that host, through libvirt if that works."""
    with suppress(LabError):
        guest.call("destroy", lambda domain: domain.destroy(), timeout_s=10, on=host)
    process = guest.qemu_on(host)
    if process is not None:
        process.send(signal.SIGKILL)
    wait_until(lambda: guest.qemu_on(host) is None, 10, f"end of {guest.name} on {host.name}")


def _set_up(guest: "Guest") -> None:
    """Its definition, autostart, metadata and snapshots as they were made."""
    spec = guest.spec
    if spec.transient:
        if guest.has_definition_on(guest.home):
            _undefine(guest, guest.home)
        return
    guest.define()
    guest.call("autostart", lambda domain: owned(domain).setAutostart(spec.autostart))
    _remove_metadata(guest)
    snapshots = guest.call("snapshots", lambda domain: owned(domain).listAllSnapshots())
    for snapshot in snapshots:
        if snapshot.getName() != spec.snapshot:
            snapshot.delete(SNAPSHOT_METADATA_ONLY)
    if spec.snapshot and spec.snapshot not in [each.getName() for each in snapshots]:
        _end(guest, guest.home)
        set_up_anew(guest)


def _remove_metadata(guest: "Guest") -> None:
    """What programs wrote into the metadata of a guest that runs; a new definition has none."""
    if guest.qemu() is None:
        return
    tree = ElementTree.fromstring(guest.call("definition", lambda domain: domain.XMLDesc()))
    tags = [element.tag for element in tree.findall("./metadata/*")]
    spaces = {tag.partition("}")[0].removeprefix("{") for tag in tags}

    def clear(domain: libvirt.virDomain) -> None:
        for space in spaces:
            owned(domain).setMetadata(METADATA_ELEMENT, None, None, space, AFFECT_LIVE)

    guest.call("removal of metadata", clear)


def _power_up(guest: "Guest") -> None:
    """Running, or off if it was made so."""
    try:
        state = guest.state()
    except LabError:  # a transient guest that is off is unknown to libvirt
        state = "gone"
    if guest.spec.off:
        _end(guest, guest.home)
    elif state == "paused":
        guest.resume()
    elif state == "pmsuspended":
        guest.wake()
        guest.wait_counting()  # what its shell is told while it wakes up is lost
    elif state != "running":
        _boot(guest)


def _boot(guest: "Guest") -> None:
    _end(guest, guest.home)
    guest.start()


def _put_back_inside(guest: "Guest") -> None:
    """Its agent, hwclock and clock as they were; one that does not listen is booted anew."""
    try:
        guest.put_back(int(time.time()) if guest.spec.clock == UTC else None)
    except (LabError, TimeoutError):
        _boot(guest)
