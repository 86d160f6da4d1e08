"""Guests' definitions that the lab can't make: devices of hosts, UEFI, TPM, network storage."""

import pytest

from hostagent.adapters.libvirt import definition
from hostagent.core.move import Disk

HEAD = "<name>g</name><memory unit='KiB'>2097152</memory><vcpu>4</vcpu>"


def domain(devices: str = "", rest: str = "") -> str:
    return f"<domain type='kvm'>{HEAD}{rest}<devices>{devices}</devices></domain>"


def unmovable(devices: str, rest: str = "") -> tuple[str, ...]:
    return definition.read(domain(devices, rest)).unmovable


PCI = "<address domain='0x0000' bus='0x3b' slot='0x02' function='0x1'/>"


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (
            f"<hostdev mode='subsystem' type='pci' managed='yes'><source>{PCI}</source></hostdev>",
            "PCI device 0000:3b:02.1 of the host is given to it",
        ),
        (
            "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1050'/>"
            "<product id='0x0407'/></source></hostdev>",
            "USB device 1050:0407 of the host is given to it",
        ),
        (
            "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='4'/></source>"
            "</hostdev>",
            "USB device 1/4 of the host is given to it",
        ),
        (
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>"
            "<address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source></hostdev>",
            "mediated device c2177883-f1bb-47f0-914d-32a22e3a8804 of the host is given to it",
        ),
        (
            "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/>"
            "<address bus='0' target='0' unit='3'/></source></hostdev>",
            "scsi device scsi_host0 3 of the host is given to it",
        ),
        (
            "<hostdev mode='capabilities' type='misc'><source><char>/dev/input/event3</char>"
            "</source></hostdev>",
            "a misc device of the host is given to it",
        ),
        (
            f"<interface type='hostdev'><source>{PCI}</source></interface>",
            "network device PCI device 0000:3b:02.1 of the host is given to it",
        ),
        (
            "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>",
            "network device /dev/vhost-vdpa-0 of the host is given to it",
        ),
        (
            "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv/x'/>"
            "<target dir='data'/></filesystem>",
            "directory /srv/x of the host is mounted in it as data (virtiofs)",
        ),
        (
            "<filesystem type='mount'><source dir='/srv/x'/><target dir='data'/></filesystem>",
            "directory /srv/x of the host is mounted in it as data (9p)",
        ),
        (
            "<serial type='dev'><source path='/dev/ttyS0'/></serial>",
            "serial port /dev/ttyS0 of the host is given to it",
        ),
        (
            "<parallel type='dev'><source path='/dev/parport0'/></parallel>",
            "parallel port /dev/parport0 of the host is given to it",
        ),
        ("<smartcard mode='host'/>", "a smartcard of the host is given to it"),
        (
            "<input type='evdev'><source dev='/dev/input/event1'/></input>",
            "input device /dev/input/event1 of the host is given to it",
        ),
        ("<shmem name='s'/>", "shared memory s is between guests of this host"),
        (
            "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
            "the TPM of the host is given to it",
        ),
        (
            "<memory model='nvdimm'><source><path>/srv/nv</path></source></memory>",
            "its nvdimm memory is kept in /srv/nv of the host",
        ),
        (
            "<graphics type='vnc'><listen type='address' address='10.1.2.3'/></graphics>",
            "its display listens on 10.1.2.3, an address of the host",
        ),
        (
            "<disk type='nvme' device='disk'><source namespace='1'>"
            "<address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source>"
            "<target dev='vda'/></disk>",
            "disk vda is a device of the host (nvme) at 0000:01:00.0",
        ),
    ],
)
def test_what_ties_a_guest_to_its_host_is_named(device: str, said: str) -> None:
    assert unmovable(device) == (said,)


@pytest.mark.parametrize(
    "device",
    [
        "<interface type='network'><source network='default'/></interface>",
        f"<hostdev mode='subsystem' type='pci'><source>{PCI}</source>"
        "<teaming type='transient' persistent='ua-b'/></hostdev>",
        f"<interface type='hostdev'><source>{PCI}</source>"
        "<teaming type='transient' persistent='ua-b'/></interface>",
        "<serial type='pty'/><console type='pty'/>",
        "<smartcard mode='passthrough' type='spicevmc'/>",
        "<shmem name='s' role='master'/>",
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
        "<memory model='dimm'><target><size unit='KiB'>1024</size></target></memory>",
        "<graphics type='vnc'><listen type='address' address='0.0.0.0'/></graphics>",
        "<graphics type='vnc'><listen type='address' address='::1'/></graphics>",
        "<graphics type='vnc'><listen type='network' network='n' address='10.0.0.1'/></graphics>",
        "<graphics type='vnc'><listen type='socket' socket='/run/x'/></graphics>",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
        "<watchdog model='i6300esb' action='reset'/>",
    ],
)
def test_what_moves_along_is_no_tie(device: str) -> None:
    assert unmovable(device) == ()


def test_encrypted_memory_is_a_tie() -> None:
    assert unmovable("", "<launchSecurity type='sev'/>") == (
        "its memory is encrypted by this host's CPU",
    )


def test_the_same_sentence_is_said_once() -> None:
    assert len(unmovable("<smartcard mode='host'/><smartcard mode='host-certificates'/>")) == 1


def test_memory_cpus_and_kind() -> None:
    found = definition.read(
        "<domain type='kvm'><memory unit='GiB'>2</memory><vcpu placement='static'>3</vcpu>"
        "<os><type arch='aarch64' machine='virt-7.2'>hvm</type></os><devices/></domain>"
    )
    assert (found.memory_kib, found.cpus, found.kind) == (2 * 1024 * 1024, 3, "kvm")
    assert (found.arch, found.machine, found.on_poweroff) == ("aarch64", "virt-7.2", "destroy")


UEFI = """
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/g_VARS.fd</nvram>
</os>"""


def test_firmware_and_its_variables() -> None:
    found = definition.read(domain("", UEFI))
    assert found.files == ("/usr/share/OVMF/OVMF_CODE_4M.fd",)
    assert found.nvram == "/var/lib/libvirt/qemu/nvram/g_VARS.fd"
    written_anew = "<os><nvram type='file'><source file='/srv/g_VARS.fd'/></nvram></os>"
    assert definition.read(domain("", written_anew)).nvram == "/srv/g_VARS.fd"


def test_tpm_is_told_only_where_its_state_is_kept_by_libvirt() -> None:
    assert definition.read(domain("<tpm><backend type='emulator'/></tpm>")).tpm
    assert not definition.read(domain("<tpm><backend type='passthrough'/></tpm>")).tpm


def test_networks_and_bridges() -> None:
    found = definition.read(
        domain(
            "<interface type='network'><source network='default'/></interface>"
            "<interface type='bridge'><source network='lan' portid='x' bridge='br1'/></interface>"
            "<interface type='bridge'><source bridge='br0'/></interface>"
            "<interface type='direct'><source dev='eth1' mode='bridge'/></interface>"
            "<interface type='user'/><interface type='network'><source network='default'/>"
            "</interface>"
        )
    )
    assert found.networks == ("default", "lan")
    assert found.bridges == ("br0", "eth1")


DISKS = """
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/srv/a.qcow2'/>
  <backingStore type='file'><source file='/srv/b.qcow2'/>
    <backingStore type='file'><source file='/srv/c.raw'/><backingStore/></backingStore>
  </backingStore><target dev='vda'/></disk>
<disk type='block' device='disk'><source dev='/dev/vg/x'/><target dev='vdb'/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='pool/image'><host name='c1'/>
  </source><target dev='vdc'/></disk>
<disk type='volume' device='disk'><driver type='raw'/><source pool='default' volume='v.img'/>
  <target dev='vdd'/></disk>
<disk type='file' device='cdrom'><source file='/srv/x.iso'/><target dev='sda'/><readonly/></disk>
<disk type='file' device='cdrom'><target dev='sdb'/><readonly/></disk>
<disk type='file' device='disk'><source file='/srv/both.img'/><target dev='vde'/><shareable/></disk>
"""


def test_disks_and_media() -> None:
    assert definition.read(domain(DISKS)).disks == (
        Disk(
            target="vda",
            source="/srv/a.qcow2",
            format="qcow2",
            backing=("/srv/b.qcow2", "/srv/c.raw"),
        ),
        Disk(target="vdb", source="/dev/vg/x", kind="block"),
        Disk(target="vdc", source="rbd:pool/image", kind="network", shared=True),
        Disk(target="vdd", source="v.img", kind="volume", pool="default"),
        Disk(target="sda", source="/srv/x.iso", medium=True, readonly=True),
        Disk(target="vde", source="/srv/both.img", shared=True),
    )


def test_a_job_of_a_disk_is_a_job() -> None:
    mirrored = DISKS.replace(
        "<target dev='vdb'/>", "<target dev='vdb'/><mirror type='file' job='copy'/>"
    )
    assert definition.read(domain(mirrored)).job == "block copy of vdb"
    assert definition.read(domain(DISKS)).job == ""


def test_the_cpu_is_the_one_that_is_sent() -> None:
    live = domain("", "<cpu mode='custom' check='full'><model>qemu64</model></cpu>")
    sent = domain("", "<cpu mode='custom' check='none'><model>qemu64</model></cpu>")
    assert 'check="none"' in definition.read(live, sent).cpu
    assert definition.read(domain("", "<cpu mode='host-passthrough'/>")).cpu_mode == (
        "host-passthrough"
    )
    assert definition.read(domain()).cpu == ""
