"""Two full tier hosts between which guests are moved by `hostagent` on the first one.

Layer: tests. Guests: g1 moves live, g2 cold, g3 is off; each has a disk where only its host has it.
Judged from outside: by the files of both hosts, QEMU's processes, and from inside the guests.
"""

import hashlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt

from hostagent.adapters.libvirt import move_disks, move_settle
from hostagent.adapters.libvirt.move_places import Place
from hostagent.core.move import Method, Order
from lab import Guest, Lab
from lab.audit import MARK
from lab.calls import connection
from lab.certificates import Authority
from lab.full import FullHost
from lab.processes import command_line
from lab.tools import run
from tests.full.inside import STATE, Inside
from tests.run.killing import catch
from tests.run.tool import Ended

S = 1_000_000_000

SSH = "qemu+ssh://root@h2/system"
TCP = "qemu+tcp://h2/system"
TLS = "qemu+tls://h2/system"
IMAGES = Path("/var/lib/libvirt/images")


class Pair:
    """The two hosts, and hostagent on the first."""

    def __init__(self, lab: Lab, env: Mapping[str, str]) -> None:
        first, second = lab.hosts
        assert isinstance(first, FullHost)
        assert isinstance(second, FullHost)
        self.lab = lab
        self.first = first
        self.second = second
        shutil.rmtree(first.root / STATE, ignore_errors=True)
        self.agent = Inside(first, first.env | {MARK: env[MARK]})
        self.live, self.cold, self.off = (lab.guest(name) for name in ("g1", "g2", "g3"))

    def begin(self) -> None:
        """Everybody at home, nothing of a move anywhere; g2 is to be moved cold."""
        for guest in self.lab.guests:
            path = self.disk(guest, self.first)
            if not path.exists():  # a move home that failed has taken its old copy away
                base = ("-b", guest._images.disk, "-F", "qcow2")
                run("qemu-img", "create", "-q", "-f", "qcow2", *base, path)
        self.lab.restore()
        for path in images(self.second):
            path.unlink()
        for host in (self.first, self.second):
            for pool in _pools(host):
                host.run("virsh", "pool-destroy", pool)
        assert self.agent.run("guest", "set", "g2", "on-reboot=cold").code == 0

    def end(self) -> None:
        """No pool, no marker and no job of ours is left on either host."""
        self.agent.end()
        left = self.left()
        assert left == [], left

    def left(self) -> list[str]:
        """What a move left behind."""
        pools = [
            f"pool {name} on {host.name}"
            for host in (self.first, self.second)
            for name in _pools(host)
        ]
        markers = [
            str(path)
            for host in (self.first, self.second)
            for path in images(host)
            if "hostagent" in path.name
        ]
        jobs = [
            f"{guest.name} has a job"
            for guest in self.lab.guests
            if guest.qemu() and guest.call("job", _job, on=guest.host)
        ]
        return [*pools, *markers, *jobs]

    def disk(self, guest: Guest, host: FullHost) -> Path:
        """The guest's disk on that host, as a path of the machine."""
        return host.root / guest.spec.local_disk_path.relative_to("/")

    def catch_copy(self, guest: Guest) -> None:
        """The moment when its copy at the second host was begun."""
        catch(lambda: self.disk(guest, self.second).exists(), f"the copy of {guest.name}")

    @contextmanager
    def narrow(self, mbit_s: int) -> Iterator[None]:
        """The first host sends no quicker than this."""
        rate = ("tbf", "rate", f"{mbit_s}mbit", "burst", "32kb", "latency", "400ms")
        self.first.run("tc", "qdisc", "add", "dev", "host0", "root", *rate)
        try:
            yield
        finally:
            self.first.run("tc", "qdisc", "del", "dev", "host0", "root")

    def cut(self) -> Callable[[], None]:
        """Nothing goes from one host to the other any more, and nobody is told; how to mend it."""
        (network,) = (
            process.pid
            for process in self.lab._directory.recorded()
            if process.alive() and command_line(process)[:1] == ("sleep",)
        )
        port = f"vb-halab-{self.lab.name}-{self.second.name}"[:15]
        link = ("nsenter", f"--net=/proc/{network}/ns/net", "ip", "link", "set", port)
        subprocess.run([*link, "nomaster"], check=True)
        return lambda: subprocess.run([*link, "master", "lan"], check=True) and None

    @contextmanager
    def small_images(self, mib: int) -> Iterator[None]:
        """The second host's images are on a file system of this size."""
        self.second.run("mount", "-t", "tmpfs", "-o", f"size={mib}m", "images", str(IMAGES))
        try:
            yield
        finally:
            self.second.run("umount", "-l", str(IMAGES))


def _pools(host: FullHost) -> list[str]:
    """Ours."""
    names = host.run("virsh", "pool-list", "--all", "--name").split()
    return [name for name in names if name.startswith("hostagent")]


def _job(domain: libvirt.virDomain) -> int:
    return int(domain.jobInfo()[0])


def images(host: FullHost) -> list[Path]:
    """All that is in its directory of images."""
    place = host.inside / IMAGES.relative_to("/")
    return sorted(place.iterdir())


def digest(path: Path) -> str:
    """Of a whole file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_file(guest: Guest, mib: int = 3) -> str:
    """Write a file that can't be guessed onto the guest's disk; its checksum, by the guest."""
    random = f"dd if=/dev/urandom of=/mnt/kept bs=1M count={mib} 2>/dev/null"
    return guest.shell(f"{random} && sync && md5sum /mnt/kept", timeout_s=60).strip()


def reads_file(guest: Guest) -> str:
    """Its checksum as the disk has it now, not as the guest's memory does."""
    return guest.shell("echo 3 >/proc/sys/vm/drop_caches; md5sum /mnt/kept", timeout_s=60).strip()


def listen(lab: Lab, place: Path) -> None:
    """Both hosts listen to TCP and TLS, with certificates of one authority."""
    made = Authority(place)
    for host in lab.hosts:
        assert isinstance(host, FullHost)
        host.listen(made)


def all_moved(ended: Ended) -> list[dict[str, Any]]:
    """Every guest of the report; all of them have moved. A clock that a busy machine did not let be
    set is no matter of moves."""
    assert ended.stdout, ended
    guests: list[dict[str, Any]] = ended.document["guests"]
    assert {each["result"] for each in guests} == {"moved"}, ended.stdout
    assert ended.code == 0 or "its clock" in ended.document["reason"], ended.stdout
    return guests


def order_of(pair: Pair, guest: Guest, *, over: bool = False) -> Order:
    """A move to the second host, with its disk; `over`: an old copy of it may be written over."""
    path = str(guest.spec.local_disk_path)
    return Order(
        uuid=guest.uuid,
        name=guest.name,
        method=Method.OFFLINE if guest.spec.off else Method.LIVE,
        source=pair.first.uri,
        destination=pair.second.uri,
        via="",
        copy=("vda",),
        left=(path,),
        over=(path,) if over else (),
        limit_ns=60 * S,
    )


def begin_copy(pair: Pair, guest: Guest, order: Order) -> None:
    """What a move does first: from outside, by the libvirts of both hosts."""
    source, destination = Place(pair.first.uri), Place(pair.second.uri)
    if order.method is Method.LIVE:
        move_disks.make(order, source, destination)
    else:
        text = guest.definition()
        until_ns = time.monotonic_ns() + 60 * S
        move_disks.copy(order, text, source, destination, until_ns, threading.Event())


@contextmanager
def using(host: FullHost, path: Path, *, os: str = "") -> Iterator[None]:
    """A guest `stranger` is defined on that host whose disk is this file; `os` is more of its
    firmware."""
    text = (
        "<domain type='qemu'><name>stranger</name><memory unit='MiB'>64</memory>"
        "<os><type arch='x86_64' machine='q35'>hvm</type>"
        f"{os}</os><features><acpi/></features><devices><disk type='file'><source file='{path}'/>"
        f"<target dev='vda' bus='virtio'/></disk></devices></domain>"
    )
    with connection(host.uri) as conn:
        domain = conn.defineXML(text)
        try:
            yield
        finally:
            domain.undefineFlags(move_settle.UNDEFINE)
