"""Two full tier hosts: each way in which libvirt lets one host move guests to another."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Guest, GuestSort, GuestSpec, Lab, LabError
from lab.certificates import Authority
from lab.full import FullHost

HOW = ("--live", "--p2p", "--persistent", "--undefinesource")


def full_hosts(lab: Lab) -> tuple[FullHost, FullHost]:
    first, second = lab.hosts
    assert isinstance(first, FullHost)
    assert isinstance(second, FullHost)
    return first, second


def move(guest: Guest, source: FullHost, destination: FullHost, uri: str, *options: str) -> None:
    stream = f"tcp://{destination.address}"
    source.run("virsh", "migrate", *HOW, *options, guest.name, uri, stream)
    assert guest.hosts_running() == [destination.name]


def test_guests_move_by_ssh_tcp_and_tls(make_full_lab: Callable[..., Lab], tmp_path: Path) -> None:
    lab = make_full_lab(hosts=2, guests=[[GuestSpec(sort=GuestSort.PLAIN)], []])
    first, second = full_hosts(lab)
    (guest,) = lab.guests
    memory = guest.remember()
    authority = Authority(tmp_path / "right")
    first.listen(authority)
    second.listen(authority)
    move(guest, first, second, second.move_uri)
    move(guest, second, first, "qemu+tcp://h1/system")
    move(guest, first, second, "qemu+tls://h2/system")
    move(guest, second, first, "qemu+tls://h1/system", "--tls")
    assert guest.forgotten(memory) == []
    second.listen(Authority(tmp_path / "wrong"))
    with pytest.raises(LabError, match=r"(?i)certificate"):
        move(guest, first, second, "qemu+tls://h2/system")
    assert guest.hosts_running() == ["h1"]
    assert guest.forgotten(memory) == []


def test_a_disk_of_one_host_alone_is_copied(make_full_lab: Callable[..., Lab]) -> None:
    spec = GuestSpec(sort=GuestSort.DISK, local_disk=True)
    first, second = full_hosts(make_full_lab(hosts=2, guests=[[spec], []]))
    (guest,) = first.guests
    memory = guest.remember()
    disk = guest.spec.local_disk_path.relative_to("/")
    assert (first.root / disk).exists()
    assert not (second.root / disk).exists()
    second.make_pool()
    move(guest, first, second, second.move_uri, "--copy-storage-all")
    assert (second.root / disk).exists()
    assert guest.forgotten(memory) == []
    guest.shell("echo written >/mnt/file && sync && cat /mnt/file")
