"""libvirt calls of a guest's owner, which hostagent never makes.

Layer: lab, above calls. The project's libvirt types have only what hostagent uses; these are typed
here. Numbers are libvirt's public flags (include/libvirt/libvirt-domain.h).
"""

from typing import Protocol, cast

import libvirt

UNDEFINE_ALL = 1 | 2 | 4 | 16
"""With its managed save, its snapshots' and checkpoints' metadata, and its UEFI variables."""

METADATA_ELEMENT = 2
AFFECT_LIVE = 1
SNAPSHOT_METADATA_ONLY = 2


class Snapshot(Protocol):
    """A snapshot of a guest."""

    def getName(self) -> str: ...

    def delete(self, flags: int = 0) -> int: ...


class Owned(Protocol):
    """A guest as its owner treats it."""

    def pMWakeup(self) -> int: ...

    def fsThaw(self) -> int: ...

    def abortJob(self) -> int: ...

    def managedSaveRemove(self) -> int: ...

    def isActive(self) -> int: ...

    def isPersistent(self) -> int: ...

    def setAutostart(self, autostart: int) -> int: ...

    def undefineFlags(self, flags: int = 0) -> int: ...

    def listAllSnapshots(self, flags: int = 0) -> list[Snapshot]: ...

    def snapshotCreateXML(self, xml: str, flags: int = 0) -> Snapshot: ...

    def setMetadata(
        self, kind: int, metadata: str | None, key: str | None, uri: str | None, flags: int = 0
    ) -> int: ...


def owned(domain: libvirt.virDomain) -> Owned:
    """The same guest with its owner's calls."""
    return cast(Owned, domain)
