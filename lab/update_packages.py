"""A real update for demo and tests on a full tier host: Debian's own packages, installed by dpkg.

Layer: lab, above hosts. QEMU goes from the older of Debian's two builds to the newer one, and
libvirt's daemon is installed again, whose maintainer scripts restart libvirtd. `prepare` does
everything that comes before an update (download, and the step back to the older QEMU); what it
returns is the update itself. Where Debian has one build of QEMU only, that one is installed again.
Effects: on the host's packages; guests go on with the QEMU they have.
"""

import subprocess

from lab.full import FullHost
from lab.tools import SYSTEM_PATH

QEMU = ("qemu-system-common", "qemu-system-x86")
LIBVIRT = ("libvirt-daemon", "libvirt-daemon-system")
NOT_INTERACTIVE = ("env", "DEBIAN_FRONTEND=noninteractive")


def prepare(host: FullHost, *, qemu: bool = True) -> list[str]:
    """Get a host ready for the update; returns the update's command. Without `qemu` it is libvirt
    alone."""
    files = host.provide_packages(*LIBVIRT, *(QEMU if qemu else ()))
    if qemu:
        versions = _builds(QEMU[0])
        if len(versions) > 1:
            older = host.provide_packages(*(f"{name}={versions[-1]}" for name in QEMU))
            host.run(*NOT_INTERACTIVE, "dpkg", "-i", *older)
    return [*NOT_INTERACTIVE, "dpkg", "-i", *files]


def _builds(package: str) -> list[str]:
    """The versions that the machine's apt sources offer, newest first (apt-cache(8), madison)."""
    listed = subprocess.run(
        ["apt-cache", "madison", package],
        env={"PATH": SYSTEM_PATH, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return list(dict.fromkeys(line.split("|")[1].strip() for line in listed.splitlines()))
