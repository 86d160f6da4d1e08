"""The root tree of full tier hosts: a small Debian with systemd and libvirt, made once.

Layer: lab, above the cache. mmdebstrap makes it. Invariants: packages come from the machine's own
apt sources, only from those of its own release; the tree in the cache is never booted, each host
gets a copy. Effects: below the cache directory; mmdebstrap mounts in a namespace of its own, which
goes away with it. Errors: CannotRun. It takes about a minute and 400 MB.
"""

import hashlib
import re
import tempfile
from pathlib import Path

from lab.cache import build_once, cache_directory
from lab.errors import CannotRun
from lab.images import Say
from lab.tools import run

RECIPE = "1"
"""Changed whenever this file changes what a tree contains: old trees are then not used."""

PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "iproute2", "iptables", "openssh-server"),
    *("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-utils"),
    *("dnsmasq-base", "python3"),
)
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")

QEMU_CONF = """\
# A container has neither AppArmor nor control groups and namespaces to give away.
security_driver = "none"
cgroup_controllers = []
namespaces = []
user = "root"
group = "root"
"""

LAN_CONF = """\
[Match]
Name=host0

[Network]
Address={address}/24
LinkLocalAddressing=no
"""

FILES = {
    # At boot Debian empties /tmp, where the lab's own directory is mounted: not here.
    "etc/tmpfiles.d/tmp.conf": "",
    "etc/libvirt/qemu.conf": QEMU_CONF,
    # A reboot asks guests to shut down, as by default, but does not wait minutes for those that
    # can't hear it.
    "etc/default/libvirt-guests": "ON_SHUTDOWN=shutdown\nSHUTDOWN_TIMEOUT=10\n",
}
TIMERS_THAT_WANT_A_NETWORK = ("apt-daily.timer", "apt-daily-upgrade.timer")


def host_root(say: Say) -> Path:
    """The tree in the cache, built when it is not there."""
    recipe = repr((RECIPE, PACKAGES, LEFT_OUT, FILES, _release()))
    place = cache_directory() / f"root-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not place.exists():
        say("host root: building a Debian tree with systemd and libvirt (about a minute)")
        build_once(place, _build)
    return place


def _release() -> str:
    """The machine's own release, by os-release(5)."""
    found = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.M)
    if found is None:
        raise CannotRun("/etc/os-release names no release: hosts are built on Debian only")
    return found.group(1)


def _sources(release: str) -> list[Path]:
    """The machine's apt sources that are of its own release, not of third parties."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    own = re.compile(rf"(^|\s){release}(\s|$|-(updates|security))", re.M)
    found = [
        file
        for file in files
        if file.suffix in (".list", ".sources") and file.is_file() and own.search(file.read_text())
    ]
    if not found:
        raise CannotRun(f"no apt source of {release} in /etc/apt")
    return found


def _build(scratch: Path) -> Path:
    release = _release()
    finished = scratch / "root"
    with tempfile.TemporaryDirectory(prefix="halab-apt-") as directory:
        run(
            "mmdebstrap",
            "--mode=root",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT),
            release,
            finished,
            *_sources(release),
            cwd=Path(directory),
        )
    _finish(finished)
    return finished


def _finish(root: Path) -> None:
    """Settings that all hosts share, and a key with which root may log in to itself."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for timer in TIMERS_THAT_WANT_A_NETWORK:
        (root / "etc/systemd/system/timers.target.wants" / timer).unlink(missing_ok=True)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    (wants / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")
    ssh = root / "root" / ".ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    run(
        "chroot", root, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519"
    )
    (ssh / "authorized_keys").write_bytes((ssh / "id_ed25519.pub").read_bytes())


def adapt(root: Path, name: str, uuid: str, address: str, names: dict[str, str]) -> None:
    """What is different on each host: name, identity, address. Hosts have one ssh key, which each
    of them knows beforehand: libvirt can't ask whether to trust it."""
    key = (root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    (root / "etc/ssh/ssh_known_hosts").write_text(f"h*,{address.rpartition('.')[0]}.* {key}")
    (root / "etc/hostname").write_text(f"{name}\n")
    lines = [f"{ip} {host}" for host, ip in names.items()]
    (root / "etc/hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    (root / "etc/machine-id").write_text("")
    lan = root / "etc/systemd/network/10-lan.network"
    lan.parent.mkdir(parents=True, exist_ok=True)
    lan.write_text(LAN_CONF.format(address=address))
    (root / "etc/libvirt/libvirtd.conf").write_text(f'host_uuid = "{uuid}"\n')
