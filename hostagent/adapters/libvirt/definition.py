"""A guest's libvirt definition, read for a move: what it needs of a host, and what ties it to one.

Layer: adapters; pure, XML in and plain values out. Sources: https://libvirt.org/formatdomain.html,
and for what libvirt itself refuses to migrate src/qemu/qemu_migration.c
(qemuMigrationSrcIsAllowed, qemuMigrationSrcIsAllowedHostdev). Deliberately absent: whether another
host has these things (destination), and asking libvirt (movable).
"""

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from hostagent.adapters.libvirt import ties
from hostagent.adapters.libvirt.guests import agent_state, clock_definition
from hostagent.core.clock import ClockDefinition
from hostagent.core.model import AgentState
from hostagent.core.move import Disk

MEDIA = frozenset({"cdrom", "floppy"})
KIB = {"b": 1 / 1024, "bytes": 1 / 1024, "KB": 1000 / 1024, "k": 1, "KiB": 1, "MB": 1000**2 / 1024}
KIB |= {"M": 1024, "MiB": 1024, "GB": 1000**3 / 1024, "G": 1024**2, "GiB": 1024**2}
KIB |= {"TB": 1000**4 / 1024, "T": 1024**3, "TiB": 1024**3}
"""libvirt's units of memory; what it writes itself is in KiB."""

HOST_DEFINED = frozenset({"host-passthrough", "maximum"})
"""CPU modes that name no model: what a running guest has is the host's own CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What is read of it; the words are those of core.move.Movable. `cpu_mode` as libvirt writes
    it; `job` names a job of a disk (a block commit ...), which only the description tells."""

    memory_kib: int
    cpus: int
    kind: str
    machine: str
    arch: str
    emulator: str
    cpu: str
    cpu_mode: str
    networks: tuple[str, ...]
    bridges: tuple[str, ...]
    disks: tuple[Disk, ...]
    files: tuple[str, ...]
    unmovable: tuple[str, ...]
    nvram: str
    tpm: bool
    on_poweroff: str
    channel: bool
    clock: ClockDefinition
    job: str


def read(description: str, migratable: str = "") -> Definition:
    """The definition; `migratable` is the one that libvirt would send to another host, for the CPU
    that a running guest needs there (VIR_DOMAIN_XML_MIGRATABLE)."""
    domain = _parse(description)
    cpu = (_parse(migratable) if migratable else domain).find("cpu")
    system = domain.find("os/type")
    return Definition(
        memory_kib=_memory_kib(domain),
        cpus=int(domain.findtext("vcpu", "1")),
        kind=domain.get("type", ""),
        machine=system.get("machine", "") if system is not None else "",
        arch=system.get("arch", "") if system is not None else "",
        emulator=domain.findtext("devices/emulator", ""),
        cpu="" if cpu is None else ET.tostring(cpu, encoding="unicode").strip(),
        cpu_mode="" if cpu is None else cpu.get("mode", "custom"),
        networks=_networks(domain),
        bridges=_bridges(domain),
        disks=_disks(domain),
        files=_files(domain),
        unmovable=ties.found(domain),
        nvram=domain.findtext("os/nvram", "") or _source(domain.find("os/nvram/source")),
        tpm=domain.find("devices/tpm/backend[@type='emulator']") is not None,
        on_poweroff=domain.findtext("on_poweroff", "destroy"),
        channel=agent_state(description) is not AgentState.NONE,
        clock=clock_definition(description),
        job=_block_job(domain),
    )


def _parse(description: str) -> ET.Element:
    return ET.fromstring(description)  # noqa: S314 (written by libvirt, which resolved everything)


def _memory_kib(domain: ET.Element) -> int:
    memory = domain.find("memory")
    if memory is None:
        return 0
    return round(int(memory.text or "0") * KIB.get(memory.get("unit", "KiB"), 1))


def _networks(domain: ET.Element) -> tuple[str, ...]:
    """By name; of a network that hands out a bridge or a device too (<actual> in the live form)."""
    names = (source.get("network", "") for source in domain.iterfind("devices/interface/source"))
    return tuple(dict.fromkeys(filter(None, names)))


def _bridges(domain: ET.Element) -> tuple[str, ...]:
    """Interfaces of the host that were named by the guest itself."""
    named = (
        source.get("bridge", "") or source.get("dev", "")
        for interface in domain.iterfind("devices/interface")
        if interface.get("type") in ("bridge", "direct")
        and (source := interface.find("source")) is not None
        and not source.get("network")
    )
    return tuple(dict.fromkeys(filter(None, named)))


def _files(domain: ET.Element) -> tuple[str, ...]:
    """Whatever QEMU opens beside disks, to read it only."""
    places = ("os/kernel", "os/initrd", "os/dtb", "os/loader", "os/acpi/table")
    texts = [domain.findtext(place, "") for place in places]
    texts += [rom.get("file", "") for rom in domain.iterfind("devices/*/rom")]
    return tuple(dict.fromkeys(text for text in texts if text.startswith("/")))


def _disks(domain: ET.Element) -> tuple[Disk, ...]:
    """Those that have something in them: an empty drive needs nothing."""
    disks = (_disk(element) for element in domain.iterfind("devices/disk"))
    return tuple(disk for disk in disks if disk is not None)


def _disk(element: ET.Element) -> Disk | None:
    source, target = element.find("source"), element.find("target")
    name = _source(source)
    if source is None or target is None or not name:
        return None
    kind = element.get("type", "file")
    # A disk that several guests may open is on storage that is made for it, and is never copied.
    shared = kind == "network" or element.find("shareable") is not None
    driver = element.find("driver")
    return Disk(
        target=target.get("dev", ""),
        source=name,
        kind=kind,
        format=driver.get("type", "raw") if driver is not None else "raw",
        medium=element.get("device", "disk") in MEDIA,
        readonly=element.find("readonly") is not None,
        shared=True if shared else None,
        pool=source.get("pool", ""),
        backing=_backing(element),
    )


def _source(source: ET.Element | None) -> str:
    """The path, or what names it on a network."""
    if source is None:
        return ""
    if protocol := source.get("protocol"):
        return f"{protocol}:{source.get('name', '')}"
    if volume := source.get("volume"):
        return volume
    return source.get("file") or source.get("dev") or source.get("dir") or source.get("path") or ""


def _backing(disk: ET.Element) -> tuple[str, ...]:
    """The chain below the disk, as a running guest has it."""
    paths = []
    layer = disk.find("backingStore")
    while layer is not None:
        path = _source(layer.find("source"))
        if path.startswith("/"):
            paths.append(path)
        layer = layer.find("backingStore")
    return tuple(paths)


def _block_job(domain: ET.Element) -> str:
    """libvirt moves no guest with a job of this kind under way."""
    for disk in domain.iterfind("devices/disk"):
        mirror, target = disk.find("mirror"), disk.find("target")
        if mirror is not None and target is not None:
            return f"block {mirror.get('job', 'job')} of {target.get('dev', '')}"
    return ""
