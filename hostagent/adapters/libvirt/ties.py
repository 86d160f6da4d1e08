"""Devices that tie a guest to its host, each as a sentence for the one who wants it moved.

Layer: adapters; pure. A row of `_KINDS` is one kind of device: where it is in a guest's description
and what it says of itself there, empty where it moves after all. Sources: formatdomain.html, and
what QEMU or libvirt itself refuses to migrate (src/qemu/qemu_migration.c: host devices but those
that fail over to a persistent interface, shared memory but of role "master").
"""

import ipaddress
import xml.etree.ElementTree as ET
from collections.abc import Callable

Saying = Callable[[ET.Element], str]


def found(domain: ET.Element) -> tuple[str, ...]:
    """What ties this guest, in the order of the kinds."""
    said = (say(element) for place, say in _KINDS for element in domain.iterfind(place))
    return tuple(dict.fromkeys(filter(None, said)))


def _fails_over(device: ET.Element) -> bool:
    """QEMU unplugs it by itself for a migration, and plugs another one in there."""
    teaming = device.find("teaming")
    return teaming is not None and teaming.get("type") == "transient"


def _host_device(device: ET.Element) -> str:
    kind = device.get("type", "")
    if device.get("mode") == "capabilities":
        return f"a {kind} device of the host is given to it"
    if kind == "pci" and _fails_over(device):
        return ""
    return f"{_device_name(kind, device.find('source'))} of the host is given to it"


def _device_name(kind: str, source: ET.Element | None) -> str:
    if source is None:
        return f"a {kind} device"
    address = source.find("address")
    if kind == "usb":
        vendor, product = source.find("vendor"), source.find("product")
        if vendor is not None and product is not None:
            return f"USB device {_hex(vendor, 'id', 4)}:{_hex(product, 'id', 4)}"
    if address is None:
        return f"{kind} device {source.get('protocol', '') or source.get('wwpn', '')}".rstrip()
    if kind == "pci":
        return f"PCI device {_pci(address)}"
    if kind == "usb":
        return f"USB device {address.get('bus')}/{address.get('device')}"
    if kind == "mdev":
        return f"mediated device {address.get('uuid')}"
    return f"{kind} device {_adapter(source)}{address.get('unit', '')}".rstrip()


def _adapter(source: ET.Element) -> str:
    """The SCSI adapter's name, with a blank behind it."""
    adapter = source.find("adapter")
    return f"{adapter.get('name')} " if adapter is not None else ""


def _pci(address: ET.Element) -> str:
    """As lspci writes it."""
    parts = [_hex(address, "domain", 4), _hex(address, "bus", 2), _hex(address, "slot", 2)]
    return f"{':'.join(parts)}.{_hex(address, 'function', 1)}"


def _hex(element: ET.Element, name: str, digits: int) -> str:
    return f"{int(element.get(name, '0'), 0):0{digits}x}"


def _interface(device: ET.Element) -> str:
    kind, source = device.get("type", ""), device.find("source")
    if kind not in ("hostdev", "vdpa") or _fails_over(device):
        return ""
    if source is None:
        return f"a network device of the host ({kind}) is given to it"
    address = source.find("address")
    if address is not None:
        name = f"PCI device {_pci(address)}"
    else:
        name = source.get("dev") or source.get("network") or kind
    return f"network device {name} of the host is given to it"


def _disk(device: ET.Element) -> str:
    kind, source = device.get("type", ""), device.find("source")
    if kind not in ("nvme", "vhostuser", "vhostvdpa"):
        return ""
    address = source.find("address") if source is not None else None
    where = f" at {_pci(address)}" if address is not None else ""
    return f"disk {_named(device)} is a device of the host ({kind}){where}"


def _named(device: ET.Element) -> str:
    target = device.find("target")
    return target.get("dev", "") if target is not None else ""


def _filesystem(device: ET.Element) -> str:
    source, target, driver = device.find("source"), device.find("target"), device.find("driver")
    driven = driver.get("type", "path") if driver is not None else "path"
    place = ""
    if source is not None:
        place = source.get("dir") or source.get("socket") or source.get("file") or ""
    tag = target.get("dir", "") if target is not None else ""
    way = "9p" if driven == "path" else driven
    return f"directory {place} of the host is mounted in it as {tag} ({way})"


def _character_device(device: ET.Element) -> str:
    source = device.find("source")
    if device.get("type") != "dev" or source is None:
        return ""
    return f"{device.tag} port {source.get('path')} of the host is given to it"


def _smartcard(device: ET.Element) -> str:
    return "" if device.get("mode") == "passthrough" else "a smartcard of the host is given to it"


def _input(device: ET.Element) -> str:
    source = device.find("source")
    if device.get("type") not in ("passthrough", "evdev") or source is None:
        return ""
    return f"input device {source.get('evdev') or source.get('dev')} of the host is given to it"


def _shared_memory(device: ET.Element) -> str:
    if device.get("role") == "master":
        return ""
    return f"shared memory {device.get('name')} is between guests of this host"


def _tpm(backend: ET.Element) -> str:
    return "the TPM of the host is given to it" if backend.get("type") == "passthrough" else ""


def _memory(device: ET.Element) -> str:
    path = device.findtext("source/path", "")
    return f"its {device.get('model')} memory is kept in {path} of the host" if path else ""


def _listen(device: ET.Element) -> str:
    """A display bound to an address of this host can't be bound on another. libvirt replaces a
    network's own address by itself."""
    text = device.get("address", "")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    if device.get("type") == "network" or address.is_unspecified or address.is_loopback:
        return ""
    return f"its display listens on {text}, an address of the host"


_KINDS: tuple[tuple[str, Saying], ...] = (
    ("devices/hostdev", _host_device),
    ("devices/interface", _interface),
    ("devices/disk", _disk),
    ("devices/filesystem", _filesystem),
    ("devices/serial", _character_device),
    ("devices/parallel", _character_device),
    ("devices/channel", _character_device),
    ("devices/smartcard", _smartcard),
    ("devices/input", _input),
    ("devices/shmem", _shared_memory),
    ("devices/tpm/backend", _tpm),
    ("devices/memory", _memory),
    ("devices/graphics/listen", _listen),
    ("launchSecurity", lambda _: "its memory is encrypted by this host's CPU"),
)
