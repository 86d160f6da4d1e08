"""Destinations, read from real hosts: on this machine, and over TCP as if they were elsewhere."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hostagent.adapters.libvirt import way
from hostagent.adapters.libvirt.destination import read_destination
from hostagent.adapters.libvirt.disks import LOOK, Directory, look
from hostagent.adapters.libvirt.fits import Answers, fit_of
from hostagent.adapters.libvirt.movable import read_guests
from hostagent.adapters.libvirt.move_host import read_host
from hostagent.core.errors import LibvirtUnreachableError
from hostagent.core.move import Destination, Disk, Fit, Movable, MoveHost
from lab import GuestSort, GuestSpec, Lab, Tier
from lab.calls import connection
from lab.host import Host
from lab.processes import wait_until
from tests.adapters.relay import Relay
from tests.conftest import Audit, _make_lab

pytestmark = pytest.mark.light
S = 1_000_000_000
LIMIT_NS = 10 * S
CPU = "<cpu mode='custom' match='exact'><model>{}</model></cpu>"


@pytest.fixture(scope="module")
def _lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with _make_lab(request.config, Tier.LIGHT, 2, [GuestSpec(sort=GuestSort.DISK)]) as lab:
        yield lab


@pytest.fixture
def pair(_lab: Lab, audit: Audit) -> Iterator[tuple[Host, Host]]:
    """Two hosts with a guest each; at the end both are in order, and have no pool of ours."""
    one, other = _lab.hosts
    for host in (one, other):
        host.restore()
    yield one, other
    for host in (one, other):
        assert pools(host) == []
        audit.check(host)


@pytest.fixture
def source(pair: tuple[Host, Host]) -> MoveHost:
    return read_host(pair[0].uri, LIMIT_NS)


@pytest.fixture
def guest(pair: tuple[Host, Host]) -> Movable:
    [found] = read_guests(pair[0].uri, None, LIMIT_NS)
    return found


@pytest.fixture
def relay(pair: tuple[Host, Host]) -> Iterator[Relay]:
    """The second host, elsewhere."""
    with Relay(pair[1].socket) as made:
        yield made


@pytest.fixture
def directory(pair: tuple[Host, Host]) -> Path:
    """A directory of the lab that its hosts may read."""
    made = pair[0].directory / f"x{time.monotonic_ns()}"
    made.mkdir()
    return made


def pools(host: Host) -> list[str]:
    with connection(host.uri) as conn:
        return [pool.name() for pool in conn.listAllStoragePools()]


def fit(source: MoveHost, uri: str, guest: Movable) -> Fit:
    [found] = read_destination(source, uri, [guest], LIMIT_NS).fits
    return found


def virsh(host: Host, *words: str) -> None:
    command = host.command(["virsh", *words])
    done = subprocess.run(
        command, env=host.env, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_guest_fits_a_host_on_the_same_machine(
    pair: tuple[Host, Host], source: MoveHost, guest: Movable
) -> None:
    found = read_destination(source, pair[1].uri, [guest], LIMIT_NS)
    assert (found.host.uuid, found.host.same_machine) == (pair[1].uuid, True)
    assert (found.host.clock_ahead_ns, found.host.clock_uncertainty_ns) == (0, 0)
    assert (found.unreachable, found.doubts) == ("", ())
    assert found.fits == (Fit(guest=guest.uuid, shared=("vda",)),)


def test_a_guest_really_goes_that_way_and_comes_back(
    pair: tuple[Host, Host], source: MoveHost, guest: Movable
) -> None:
    one, other = pair
    there = read_destination(source, other.uri, [guest], LIMIT_NS)
    _migrate(one, guest, there)
    back = read_destination(there.host, one.uri, [guest], LIMIT_NS)
    assert back.via == way.home_uri(other.uri, one.uri)
    _migrate(other, guest, back)
    assert [each.name for each in read_guests(one.uri, None, LIMIT_NS)] == [guest.name]


def _migrate(host: Host, guest: Movable, there: Destination) -> None:
    # libvirt takes a disk for shared only where its file system is one of a network.
    flags = ("--live", "--p2p", "--persistent", "--undefinesource", "--unsafe")
    virsh(host, "migrate", *flags, guest.name, there.via, way.stream_of(there.stream, guest.uuid))


def test_a_host_elsewhere_is_read_over_its_address(
    pair: tuple[Host, Host], source: MoveHost, guest: Movable, relay: Relay
) -> None:
    found = read_destination(source, relay.uri, [guest], LIMIT_NS)
    assert (found.host.uuid, found.host.uri) == (pair[1].uuid, relay.uri)
    assert (found.host.same_machine, found.host.clock_ahead_ns) == (False, None)
    assert (found.via, found.stream, found.unreachable) == (relay.uri, "tcp://127.0.0.1", "")
    assert found.fits == (Fit(guest=guest.uuid, shared=("vda",)),)


def test_a_disk_is_shared_only_where_both_see_the_same_file(
    pair: tuple[Host, Host], directory: Path
) -> None:
    for name in ("a.img", "b.img"):
        (directory / name).write_bytes(b"x" * 4096)
    paths = [str(directory / name) for name in ("a.img", "b.img", "none.img")]
    seen = []
    for host in pair:
        with connection(host.uri) as conn:
            seen.append(look(conn, str(directory), paths))
    assert seen[0] == replace(seen[1], free_kib=seen[0].free_kib)
    assert sorted(seen[0].stamps) == paths[:2]
    assert seen[0].stamps[paths[0]] != seen[0].stamps[paths[1]]
    assert seen[0].free_kib > 0


@pytest.mark.parametrize(
    ("there", "same", "expected"),
    [
        (True, {}, Fit(guest="u", unknown=("/d/a",))),
        (True, {"/d/a": False}, Fit(guest="u", in_the_way=("/d/a",))),
        (True, {"/d/a": True}, Fit(guest="u", shared=("vda",))),
        (False, {}, Fit(guest="u", nowhere=("/d",))),
        (None, {}, Fit(guest="u", unknown=("/d/a",))),
    ],
)
def test_what_is_at_a_disks_path_there(
    guest: Movable, there: bool | None, same: dict[str, bool], expected: Fit
) -> None:
    """Two hosts with different files at one path can't be made of one machine's files."""
    disk = Disk(target="vda", source="/d/a", shared=False)
    alone = replace(guest, uuid="u", disks=(disk,), files=(), nvram="")
    stamps = {"/d/a": "1.5"} if there else {}
    answers = Answers(
        machines={"u": ""}, directories={"/d": Directory(there=there, stamps=stamps)}, same=same
    )
    assert fit_of(alone, answers) == expected


def test_a_machine_type_a_cpu_and_an_emulator_that_are_not_there(
    pair: tuple[Host, Host], source: MoveHost, guest: Movable
) -> None:
    uri = pair[1].uri
    machine = fit(source, uri, replace(guest, machine="pc-q35-99.2"))
    assert "'pc-q35-99.2' is not supported" in machine.machine
    emulator = fit(source, uri, replace(guest, emulator="/opt/none/qemu"))
    assert "/opt/none/qemu" in emulator.machine
    arch = fit(source, uri, replace(guest, arch="s390x", machine="s390-ccw-virtio", emulator=""))
    assert "s390x" in arch.machine
    strange = fit(source, uri, replace(guest, cpu=CPU.format("no-such-model")))
    assert "no-such-model" in strange.cpu
    kind = "qemu" if guest.kind == "kvm" else "kvm"
    if kind == "kvm":
        assert "'kvm' is not supported" in fit(source, uri, replace(guest, kind="kvm")).machine
        big = fit(source, uri, replace(guest, cpu=CPU.format("EPYC-Milan")))
        assert "does not provide required features" in big.cpu


def test_media_firmware_and_bridges_that_are_missing_are_named(
    pair: tuple[Host, Host], source: MoveHost, guest: Movable, directory: Path
) -> None:
    (directory / "here.iso").touch()
    media = tuple(
        Disk(target=target, source=str(path), medium=True, readonly=True)
        for target, path in (("sda", directory / "here.iso"), ("sdb", directory / "gone.iso"))
    )
    wanting = replace(
        guest,
        disks=(*guest.disks, *media),
        files=(*guest.files, "/nonexistent/OVMF_CODE.fd"),
        bridges=("lo", "halab-none"),
    )
    found = fit(source, pair[1].uri, wanting)
    assert found.missing == (
        "/nonexistent/OVMF_CODE.fd",
        str(directory / "gone.iso"),
        "interface halab-none",
    )
    assert found.unknown == ()


def test_disks_that_have_to_be_copied(
    source: MoveHost, guest: Movable, relay: Relay, directory: Path
) -> None:
    taken, free, nowhere = directory / "taken.img", directory / "free.img", Path("/nonexistent/d")
    taken.touch()
    disks = tuple(
        Disk(target=target, source=str(path), shared=False)
        for target, path in (("vdb", free), ("vdc", nowhere / "x.img"))
    )
    found = read_destination(source, relay.uri, [replace(guest, disks=disks)], LIMIT_NS)
    [seen] = found.fits
    assert (seen.in_the_way, seen.nowhere, seen.shared) == ((), (str(nowhere),), ())
    [room] = [room for room in found.host.pools if room.path == str(directory)]
    assert (room.name, room.active) == ("", True)
    assert room.free_kib > 0
    # Nobody can say whether it is the same file, where the source does not answer.
    apart = replace(source, uri="qemu:///session?socket=/nonexistent")
    disk = Disk(target="vdb", source=str(taken), shared=False)
    unsure = fit(apart, relay.uri, replace(guest, disks=(disk,)))
    assert (unsure.in_the_way, unsure.shared, unsure.unknown) == ((), (), (str(taken),))


def test_what_may_not_be_looked_at_is_unknown(
    pair: tuple[Host, Host], source: MoveHost, guest: Movable, directory: Path
) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0)
    disk = Disk(target="vdb", source=str(closed / "x.img"))
    device = Disk(target="vdc", source="/dev/vg/x", kind="block")
    wanting = replace(guest, disks=(disk, device))
    found = read_destination(source, pair[1].uri, [wanting], LIMIT_NS)
    assert found.fits[0].unknown == (disk.source, device.source)
    assert found.fits[0].missing == ()
    assert any("Permission denied" in doubt for doubt in found.doubts)


def test_a_pool_that_is_there_is_used_and_kept(
    pair: tuple[Host, Host], source: MoveHost, guest: Movable, directory: Path
) -> None:
    xml = f"<pool type='dir'><name>mine</name><target><path>{directory}</path></target></pool>"
    with connection(pair[1].uri) as conn:
        pool = conn.storagePoolCreateXML(xml)
        (directory / "late.iso").touch()  # the pool does not know it yet
        medium = Disk(target="sda", source=str(directory / "late.iso"), medium=True)
        found = read_destination(source, pair[1].uri, [replace(guest, disks=(medium,))], LIMIT_NS)
        assert found.fits[0].missing == ()
        [room] = [room for room in found.host.pools if room.path == str(directory)]
        assert (room.name, room.active) == ("mine", True)
        assert pools(pair[1]) == ["mine"]
        pool.destroy()


def test_what_a_killed_look_left_goes_with_the_next(
    pair: tuple[Host, Host], source: MoveHost, guest: Movable, directory: Path
) -> None:
    (directory / "x.iso").touch()
    target = f"<target><path>{directory}</path></target>"
    with connection(pair[1].uri) as conn:
        conn.storagePoolCreateXML(f"<pool type='dir'><name>{LOOK}left</name>{target}</pool>")
        # Of a directory that nobody looks at any more, and one that somebody looks at just now.
        names = {f"{LOOK}1700000000-aa": "old", f"{LOOK}{int(time.time())}-bb": "now"}
        for name, part in names.items():
            (directory / part).mkdir()
            place = f"<target><path>{directory / part}</path></target>"
            conn.storagePoolCreateXML(f"<pool type='dir'><name>{name}</name>{place}</pool>")
    assert read_host(pair[1].uri, LIMIT_NS).pools == ()
    medium = Disk(target="sda", source=str(directory / "x.iso"), medium=True)
    assert fit(source, pair[1].uri, replace(guest, disks=(medium,))).missing == ()
    assert pools(pair[1]) == [name for name, part in names.items() if part == "now"]
    with connection(pair[1].uri) as conn:
        conn.storagePoolLookupByTargetPath(str(directory / "now")).destroy()


def test_a_destination_that_hangs_is_told_in_time(
    pair: tuple[Host, Host], source: MoveHost, guest: Movable
) -> None:
    pair[1].freeze()
    began = time.monotonic()
    try:
        with pytest.raises(LibvirtUnreachableError, match=r"did not answer within 1\.5 s"):
            read_destination(source, pair[1].uri, [guest], 3 * S // 2)
    finally:
        took = time.monotonic() - began
        pair[1].thaw()
    assert took < 3


def test_a_link_that_falls_silent_in_mid_reading_is_told_in_time(
    source: MoveHost, guest: Movable, pair: tuple[Host, Host]
) -> None:
    with Relay(pair[1].socket) as whole:
        complete = fit(source, whole.uri, guest)
        carried = whole.carried
    told = []
    for part in (0, 10, 40, 70, 80, 90, 95):
        with Relay(pair[1].socket) as relay:
            relay.hold_after = carried * part // 100
            began = time.monotonic()
            try:
                [seen] = read_destination(source, relay.uri, [guest], S).fits
                told.append(seen == complete or bool(seen.unknown))
            except LibvirtUnreachableError:
                told.append(True)
            assert time.monotonic() - began < 3
    assert all(told)
    # A look that was cut off leaves its pool behind; the next one takes it away.
    fit(source, pair[1].uri, guest)
    wait_until(lambda: pools(pair[1]) == [], 5, "the end of all looks")


def test_a_guest_that_hangs_at_the_destination_holds_nobody_up(
    pair: tuple[Host, Host], source: MoveHost, guest: Movable
) -> None:
    [hung] = pair[1].guests
    hung.freeze()
    began = time.monotonic()
    try:
        found = read_destination(source, pair[1].uri, [guest], LIMIT_NS)
    finally:
        hung.thaw()
    assert time.monotonic() - began < 3
    assert found.fits[0].unknown == ()
    assert [each.name for each in found.host.guests] == [hung.name]


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("qemu+tcp://nosuch.invalid/system", "/etc/hosts"),
        ("qemu+ssh://root@nosuch.invalid/system", "/etc/hosts"),
        ("qemu+tcp://127.0.0.1:1/system", "libvirtd-tcp.socket"),
        ("qemu+tls://127.0.0.1:1/system", "certificates"),
        ("qemu:///session?socket=/nonexistent/s", "name its socket"),
    ],
)
def test_a_destination_that_is_not_there_is_told_with_a_cure(
    source: MoveHost, guest: Movable, uri: str, hint: str
) -> None:
    with pytest.raises(LibvirtUnreachableError) as caught:
        read_destination(source, uri, [guest], LIMIT_NS)
    assert hint in caught.value.hint
