"""What a lab guest is: its sort and its libvirt definition.

Layer: lab. Invariants: pure text, no effects; every guest, whatever its sort, has the same ports
for the lab (two QMP monitors, a counter, a shell), so that any can be judged by the witness; a
definition names no path of one host only, so a guest can run on any host of its lab.
Why these machines: a q35 with a qemu64 CPU boots under software emulation everywhere; hpet as clock
source, because on a busy machine a guest under emulation measures its TSC wrongly and its clock
runs seconds off.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count
from pathlib import Path
from xml.sax.saxutils import escape

from lab.images import Images

AGENT_PORT = "org.qemu.guest_agent.0"
UTC = "offset='utc'"
GUEST_MEMORY_MIB = 128
BUSY_MIB = 16
"""A busy guest writes this much memory about three times a second: dirty pages without end,
yet the other guests of a machine of two CPUs keep their timings."""


class GuestSort(StrEnum):
    """The sorts of guest, after what hostagent meets in the field."""

    AGENT = "agent"
    PLAIN = "plain"
    NO_HWCLOCK = "no-hwclock"
    DISK = "disk"
    BUSY = "busy"
    SCRIPTED = "scripted"
    """Its agent's channel ends in the lab: lab.scripted_agent answers, or lies, on it. Until then
    the guest looks like one whose agent does not run."""

    @property
    def has_agent(self) -> bool:
        """Whether a guest agent runs in it."""
        return self not in (GuestSort.PLAIN, GuestSort.SCRIPTED)

    @property
    def has_channel(self) -> bool:
        """Whether libvirt gives it an agent's channel."""
        return self is not GuestSort.PLAIN


class Shutdown(StrEnum):
    """What a guest does when it is asked to shut down, by its agent or by its power button.

    works     it does
    ignored   nothing: nobody listens to the button, and the agent (if there is one) fails
    hangs     it begins, and never ends
    """

    WORKS = "works"
    IGNORED = "ignored"
    HANGS = "hangs"


MIXTURE = (
    GuestSort.AGENT,
    GuestSort.DISK,
    GuestSort.PLAIN,
    GuestSort.NO_HWCLOCK,
    GuestSort.BUSY,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """What is wanted of a guest; a name is given by the lab where there is none (g1, g2 ...).

    `emulator` replaces libvirt's own choice (a wrapper script, say); `qemu_arguments` are appended
    to QEMU's command line; `kernel_arguments` to that of the guest's kernel (those that guest_init
    reads too: the last one of a name counts, as in "halab.block=guest-exec"). `clock` holds the
    attributes of libvirt's <clock>.

    `transient`: created, and defined nowhere. `off`: defined, and not started. `network`: "user",
    or the name of a network of libvirt's (needed to start, not to define); none by default.
    `cdrom`: the path of an image in its CD drive. `snapshot`: the name of one taken before its
    first start (it needs a disk). `shutdown`: what it does when it is asked to shut down.
    `writes_mib_s`: memory that it writes in a second, none of it zero. `local_disk`: its disk (of
    a disk guest) is where no other host has it; full tier only, since light hosts share all files.
    """

    sort: GuestSort = GuestSort.AGENT
    name: str = ""
    memory_mib: int = GUEST_MEMORY_MIB
    emulator: str = ""
    on_poweroff: str = "destroy"
    on_crash: str = "preserve"
    clock: str = UTC
    kernel_arguments: str = ""
    qemu_arguments: tuple[str, ...] = ()
    transient: bool = False
    autostart: bool = False
    off: bool = False
    network: str = ""
    cdrom: str = ""
    snapshot: str = ""
    shutdown: Shutdown | None = None
    writes_mib_s: int = 0
    local_disk: bool = False

    @property
    def local_disk_path(self) -> Path:
        """Where a disk of one host alone is, as that host sees it: libvirt's own place for them."""
        return Path(f"/var/lib/libvirt/images/{self.name}.qcow2")

    @property
    def hears_shutdown(self) -> Shutdown:
        """What it does when asked to shut down: a plain guest ignores it unless told otherwise."""
        if self.shutdown is not None:
            return self.shutdown
        return Shutdown.IGNORED if self.sort is GuestSort.PLAIN else Shutdown.WORKS


def mixture(wanted: int) -> tuple[GuestSpec, ...]:
    """So many guests: one of each sort first, then ordinary ones with an agent."""
    sorts = [*MIXTURE[:wanted], *([GuestSort.AGENT] * (wanted - len(MIXTURE)))]
    return tuple(GuestSpec(sort=sort) for sort in sorts)


def named(groups: Sequence[Sequence[GuestSpec]]) -> list[tuple[GuestSpec, ...]]:
    """The same, host by host, with names: g1, g2 ... counted over the whole lab."""
    numbers = count(1)
    return [
        tuple(
            replace(spec, name=spec.name or f"g{number}")
            for spec, number in zip(group, numbers, strict=False)
        )
        for group in groups
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """A guest's files, in one directory that all hosts of its lab have at the same path."""

    directory: Path
    guest: str

    @property
    def counter(self) -> Path:
        """What the guest counts, a line every half second; appended to wherever it runs."""
        return self.directory / f"{self.guest}.counter"

    @property
    def console(self) -> Path:
        """The kernel's console."""
        return self.directory / f"{self.guest}.console"

    @property
    def disk(self) -> Path:
        """The guest's own disk, an overlay over the image in the cache."""
        return self.directory / f"{self.guest}.qcow2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """A guest's sockets on the host where it runs, inside one directory.

    libvirt makes the paths, each host its own: with a path of its own in its definition a guest on
    its way would have the same one twice, and QEMU removes its sockets' paths as it ends, so the
    end of the one on the source would take away those of the destination (so it was seen).
    """

    directory: Path

    @property
    def witness(self) -> Path:
        """QMP monitor of the witness."""
        return self.directory / "halab.witness"

    @property
    def monitor(self) -> Path:
        """QMP monitor for anybody else (tests, benchmarks)."""
        return self.directory / "halab.monitor"

    @property
    def shell(self) -> Path:
        """The guest's second serial port, where its init takes commands."""
        return self.directory / "halab.shell"

    @property
    def clock(self) -> Path:
        """Where the guest tells the time, a line for a line: a virtio port, quicker than a UART."""
        return self.directory / "halab.clock"

    @property
    def relay(self) -> Path:
        """The other end of a scripted guest's agent's channel."""
        return self.directory / "halab.agent"


def domain_xml(
    spec: GuestSpec, *, uuid: str, accelerator: str, images: Images, files: Files
) -> str:
    """The libvirt definition of a guest (https://libvirt.org/formatdomain.html)."""
    cpu = "<cpu mode='custom' match='exact'><model>qemu64</model></cpu>"
    return f"""
<domain type='{accelerator}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{spec.name}</name>
  <uuid>{uuid}</uuid>
  <title>lab guest: {spec.sort}</title>
  <memory unit='MiB'>{spec.memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{escape(str(images.kernel))}</kernel>
    <initrd>{escape(str(images.initramfs))}</initrd>
    <cmdline>{escape(_kernel_arguments(spec, accelerator))}</cmdline>
  </os>
  <features><acpi/></features>
  {cpu if accelerator == "qemu" else "<cpu mode='host-passthrough'/>"}
  <clock {spec.clock}><timer name='hpet' present='yes'/></clock>
  <on_poweroff>{spec.on_poweroff}</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>{spec.on_crash}</on_crash>
  <pm><suspend-to-mem enabled='yes'/></pm>
  <devices>
    {f"<emulator>{escape(spec.emulator)}</emulator>" if spec.emulator else ""}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <panic model='isa'/>
    <serial type='file'>
      <source path='{files.console}' append='on'/><target port='0'/>
    </serial>
    <serial type='null'><target port='1'/><alias name='ua-shell-tty'/></serial>
    {_channel("halab.clock")}
    <channel type='file'>
      <source path='{files.counter}' append='on'/><target type='virtio' name='halab.counter'/>
    </channel>
    {"".join(_carrier(name) for name in CARRIERS)}
    {_channel(AGENT_PORT) if spec.sort.has_channel else ""}
    {_channel("halab.agent") if spec.sort is GuestSort.SCRIPTED else ""}
    {_disk(spec, files) if spec.sort is GuestSort.DISK else ""}
    {_cdrom(spec.cdrom) if spec.cdrom else ""}
    {_interface(spec.network) if spec.network else ""}
  </devices>
  <qemu:commandline>
    {"".join(_nothing_argument(name) for name in CARRIERS)}
    {"".join(_monitor_arguments(name) for name in ("witness", "monitor"))}
    {_arguments(*spec.qemu_arguments)}
  </qemu:commandline>
  <qemu:override>
    {"".join(_leads_to(f"ua-{name}", f"halab-nothing-{name}") for name in CARRIERS)}
    {_leads_to("ua-shell-tty", "charua-shell")}
  </qemu:override>
</domain>
"""


CARRIERS = ("shell", "witness", "monitor")
"""Sockets that libvirt only gives paths to, since it does so for channels alone. To the guest each
is a port that leads to nothing; its socket is plugged into a serial port or a monitor."""


def _channel(name: str) -> str:
    """A channel whose socket gets its path from libvirt."""
    return f"<channel type='unix'><target type='virtio' name='{name}'/></channel>"


def _carrier(name: str) -> str:
    target = f"<target type='virtio' name='halab.{name}'/>"
    return f"<channel type='unix'>{target}<alias name='ua-{name}'/></channel>"


def _leads_to(alias: str, socket: str) -> str:
    """Plug another of QEMU's character devices into a device."""
    plug = f"<qemu:property name='chardev' type='string' value='{socket}'/>"
    frontend = f"<qemu:frontend>{plug}</qemu:frontend>"
    return f"<qemu:device alias='{alias}'>{frontend}</qemu:device>"


def _disk(spec: GuestSpec, files: Files) -> str:
    path = spec.local_disk_path if spec.local_disk else files.disk
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source file='{path}'/><target dev='vda' bus='virtio'/></disk>"
    )


def _cdrom(path: str) -> str:
    return (
        f"<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
        f"<source file='{escape(path)}'/><target dev='sda' bus='sata'/><readonly/></disk>"
    )


def _interface(network: str) -> str:
    if network == "user":
        return "<interface type='user'><model type='virtio'/></interface>"
    source = f"<source network='{escape(network)}'/>"
    return f"<interface type='network'>{source}<model type='virtio'/></interface>"


def _nothing_argument(name: str) -> str:
    return _arguments("-chardev", f"null,id=halab-nothing-{name}")


def _monitor_arguments(name: str) -> str:
    return _arguments("-mon", f"chardev=charua-{name},mode=control")


def _arguments(*words: str) -> str:
    return "".join(f"<qemu:arg value='{escape(word)}'/>" for word in words)


def _kernel_arguments(spec: GuestSpec, accelerator: str) -> str:
    """Console, clock source, and what guest_init reads."""
    # The kernel's own tests of its ciphers are a seventh of an emulated boot.
    words = ["console=ttyS0", "quiet", "mitigations=off", "panic=0", "cryptomgr.notests"]
    if accelerator == "qemu":
        words += ["clocksource=hpet", "tsc=unstable"]
    words.append(f"halab.agent={_agent_word(spec.sort)}")
    words.append(f"halab.hwclock={'missing' if spec.sort is GuestSort.NO_HWCLOCK else 'works'}")
    words.append(f"halab.disk={int(spec.sort is GuestSort.DISK)}")
    words.append(f"halab.busy={BUSY_MIB if spec.sort is GuestSort.BUSY else 0}")
    words.append(f"halab.shutdown={spec.hears_shutdown}")
    words.append(f"halab.writes={spec.writes_mib_s}")
    return " ".join([*words, spec.kernel_arguments]).strip()


def _agent_word(sort: GuestSort) -> str:
    """Who speaks on the agent's channel, in guest_init's words."""
    if sort is GuestSort.SCRIPTED:
        return "scripted"
    return "real" if sort.has_agent else "none"
