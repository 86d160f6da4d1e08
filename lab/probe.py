"""What this machine can do, found out by trying, and which tiers that allows.

Layer: lab. Invariants: nothing is changed; a device file that exists proves nothing (there are
machines with a /dev/kvm on which QEMU aborts), so a guest is started to find out. Effects: short
processes. Each line of the table says can or cannot and why.
"""

import os
import pwd
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.cache import cache_directory
from lab.errors import CannotRun
from lab.images import Images, guest_images
from lab.state import MOST_GUESTS, Tier
from lab.tools import SYSTEM_PATH, run
from lab.users import as_ordinary_user, ordinary_user

KVM_BOOT_S = 20
GUEST_OVERHEAD_MIB = 100
"""What QEMU needs beside a guest's memory under emulation, rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """One line of the table; `tiers` are those that can't do without it."""

    what: str
    can: bool
    why: str
    tiers: frozenset[Tier] = frozenset()


BOTH = frozenset({Tier.LIGHT, Tier.FULL})
FULL = frozenset({Tier.FULL})

PROGRAMS = (
    ("qemu-system-x86_64", "qemu-system-x86", BOTH),
    ("qemu-img", "qemu-utils", BOTH),
    ("mkfs.ext4", "e2fsprogs", BOTH),
    ("libvirtd", "libvirt-daemon", BOTH),
    ("virsh", "libvirt-clients", frozenset[Tier]()),
    ("apt-get", "apt", BOTH),
    ("dpkg-deb", "dpkg", BOTH),
    ("mmdebstrap", "mmdebstrap", FULL),
    ("systemd-nspawn", "systemd-container", FULL),
    ("nsenter", "util-linux", FULL),
    ("ip", "iproute2", FULL),
    ("openssl", "openssl", frozenset[Tier]()),
)


def _programs() -> Iterator[Ability]:
    for program, package, tiers in PROGRAMS:
        found = shutil.which(program, path=SYSTEM_PATH)
        why = found or f"not installed: apt-get install {package}"
        yield Ability(what=program, can=found is not None, why=why, tiers=tiers)


def _driver() -> Ability:
    """libvirtd loads its QEMU driver from a file of a package of its own."""
    found = sorted(Path("/usr/lib").glob("*/libvirt/connection-driver/libvirt_driver_qemu.so"))
    why = str(found[0]) if found else "not installed: apt-get install libvirt-daemon-driver-qemu"
    return Ability(what="libvirt's QEMU driver", can=bool(found), why=why, tiers=BOTH)


def _user() -> Ability:
    """Hosts of the light tier run as an ordinary user: ourselves, or one that root becomes."""
    what = "ordinary user for light hosts"
    try:
        pwd.getpwuid(ordinary_user()[0])
    except KeyError:
        why = f"user {os.geteuid()} has no name (getent passwd), and libvirt asks for one"
        return Ability(what=what, can=False, why=why, tiers=frozenset({Tier.LIGHT}))
    if os.geteuid() != 0:
        return Ability(what=what, can=True, why="this is one", tiers=frozenset({Tier.LIGHT}))
    try:
        run(*as_ordinary_user(["true"]))
    except (CannotRun, KeyError) as error:
        return Ability(what=what, can=False, why=str(error), tiers=frozenset({Tier.LIGHT}))
    why = f"setpriv to user {ordinary_user()[0]}"
    return Ability(what=what, can=True, why=why, tiers=frozenset({Tier.LIGHT}))


def _memory() -> Ability:
    """Memory that is available for guests (MemAvailable of proc(5))."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available_kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    fits = min(MOST_GUESTS, available_kib // 1024 // (128 + GUEST_OVERHEAD_MIB))
    why = f"{available_kib // 1024} MiB available: {fits} guests"
    return Ability(what="memory", can=fits >= 1, why=why, tiers=BOTH)


def _open_files() -> Ability:
    """Sockets and logs of guests need file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Ability(
        what="open files", can=soft >= 256, why=f"limit {soft} (hard {hard})", tiers=BOTH
    )


def _disk() -> Ability:
    """Room for images and root trees."""
    place = cache_directory()
    while not place.exists():
        place = place.parent
    free_mib = shutil.disk_usage(place).free // 1024 // 1024
    why = f"{free_mib} MiB free below {place}"
    return Ability(what="disk", can=free_mib > 500, why=why, tiers=BOTH)


def _root() -> Ability:
    can = os.geteuid() == 0
    why = "root" if can else "not root; the full tier makes containers and interfaces"
    return Ability(what="root", can=can, why=why, tiers=FULL)


def _attempt(what: str, *command: str) -> Ability:
    """Something that is found out by running a program for a moment."""
    try:
        run(*command, timeout_s=20)
    except CannotRun as error:
        return Ability(what=what, can=False, why=str(error), tiers=FULL)
    return Ability(what=what, can=True, why=f"tried: {' '.join(command[:4])}", tiers=FULL)


def _namespaces() -> Iterator[Ability]:
    yield _attempt("mount namespaces", "unshare", "--mount", "mount", "-t", "tmpfs", "x", "/mnt")
    yield _attempt("network namespaces", "unshare", "--net", "ip", "link", "set", "lo", "up")
    yield _attempt("virtual Ethernet", "unshare", "--net", "ip", "link", "add", "x", "type", "veth")
    tun = Path("/dev/net/tun")
    why = str(tun) if tun.exists() else f"{tun} is missing"
    yield Ability(what="tun", can=tun.exists(), why=why)
    yield _control_groups()


def _control_groups() -> Ability:
    """systemd in a container needs a control group of its own to work in."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    writable = [m[1] for m in mounts if m[2] == "cgroup2" and os.access(m[1], os.W_OK)]
    why = f"cgroup2 at {writable[0]}" if writable else "no writable cgroup2 is mounted"
    return Ability(what="control groups", can=bool(writable), why=why, tiers=FULL)


def _kvm(images: Callable[[], Images]) -> Ability:
    """Hardware virtualization, as the user that hosts run as, with a real guest."""
    what = "kvm"
    device = Path("/dev/kvm")
    if not device.exists():
        return Ability(what=what, can=False, why=f"no {device}: guests are emulated")
    try:
        run(*as_ordinary_user(["test", "-r", str(device), "-a", "-w", str(device)]))
    except (CannotRun, KeyError):
        uid = ordinary_user()[0]
        return Ability(what=what, can=False, why=f"user {uid} may not open {device}: emulated")
    said = _boot_with_kvm(images())
    return Ability(what=what, can=not said, why=said or "a guest booted with it")


def _boot_with_kvm(images: Images) -> str:
    """Boot a guest with kvm until it counts; empty when it did, else why not."""
    uid, gid = ordinary_user()
    with tempfile.TemporaryDirectory(prefix="halab-kvm-") as place:
        os.chown(place, uid, gid)
        counter = Path(place) / "counter"
        command = [
            *("qemu-system-x86_64", "-accel", "kvm", "-machine", "q35", "-cpu", "host"),
            *("-m", "128", "-display", "none", "-nodefaults", "-no-user-config"),
            *("-kernel", str(images.kernel), "-initrd", str(images.initramfs)),
            *("-append", "quiet", "-device", "virtio-serial"),
            *("-chardev", f"file,id=counter,path={counter}"),
            *("-device", "virtserialport,chardev=counter,name=halab.counter"),
        ]
        qemu = subprocess.Popen(
            as_ordinary_user(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            return _wait_for_count(qemu, counter)
        finally:
            qemu.kill()
            qemu.communicate()


def _wait_for_count(qemu: subprocess.Popen[str], counter: Path) -> str:
    deadline = time.monotonic() + KVM_BOOT_S
    while time.monotonic() < deadline:
        if counter.exists() and counter.stat().st_size > 0:
            return ""
        if qemu.poll() is not None:
            last = (qemu.stderr.read() if qemu.stderr else "").strip().splitlines()
            return f"QEMU ended: {last[-1] if last else qemu.returncode}: guests are emulated"
        time.sleep(0.05)
    return f"no guest booted with it within {KVM_BOOT_S} s: guests are emulated"


def accelerator(images: Images) -> str:
    """The libvirt domain type to use: kvm where a guest really boots with it, else qemu."""
    return "kvm" if _kvm(lambda: images).can else "qemu"


def _requirements() -> Iterator[Ability]:
    """All lines but kvm, which takes a boot and which nothing requires."""
    yield from _programs()
    yield _driver()
    yield _user()
    yield _memory()
    yield _open_files()
    yield _disk()
    yield _root()
    yield from _namespaces()


def abilities() -> list[Ability]:
    """The whole table."""
    listed = list(_requirements())
    if all(ability.can for ability in listed if Tier.LIGHT in ability.tiers):
        listed.append(_kvm(lambda: guest_images(lambda _text: None)))
    return listed


def reasons_against(tier: Tier) -> list[str]:
    """Why this machine can't do a tier; empty when it can."""
    missing = [a for a in _requirements() if tier in a.tiers and not a.can]
    return [f"{ability.what}: {ability.why}" for ability in missing]


def require(tier: Tier) -> None:
    """CannotRun, with the first reason and the names of the others, when a tier can't be done."""
    missing = [a for a in _requirements() if tier in a.tiers and not a.can]
    if missing:
        first, more = missing[0], ", ".join(ability.what for ability in missing[1:])
        text = f"this machine can't do the {tier} tier: {first.what}: {first.why}"
        raise CannotRun(f"{text}; nor {more} (lab/lab probe)" if more else text)
