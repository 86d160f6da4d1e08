"""The full tier's host: a container with its own systemd, libvirtd, addresses and boot id.

Layer: lab. It is run by systemd-nspawn from a copy of the root tree in the cache. Invariants: its
network is a namespace of the lab's own (a bridge that joins the hosts, no route out), so no
interface of the machine is touched; guests' sockets and the project tree have the same paths
inside and outside. Effects: processes, a directory and a control group; root is needed. What is not
here: kernel changes and power cuts, since a container has the machine's kernel and loses no page
cache.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lab.certificates import Authority
from lab.definition import GuestSpec
from lab.errors import LabError
from lab.host import Host
from lab.images import Images
from lab.processes import (
    ProcessId,
    all_processes,
    command_line,
    environment,
    identify,
    wait_until,
)
from lab.roots import adapt
from lab.state import HostRecord, LabDirectory
from lab.tools import SYSTEM_PATH, run

PROJECT = Path(__file__).parent.parent
BOOT_HOST = Path(__file__).with_name("boot_host")
JOIN_HOST = Path(__file__).with_name("join_host")
NETWORK = "10.117.0"
PACKAGES = "var/cache/halab-packages"
BOOT_S = 90
LIBVIRTD_SOCKETS = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket")


class FullHost(Host):
    """One container and the guests in it."""

    def __init__(
        self,
        directory: LabDirectory,
        record: HostRecord,
        accelerator: str,
        control_group: Path,
    ) -> None:
        super().__init__(directory, record, accelerator)
        self.control_group = control_group

    @property
    def root(self) -> Path:
        """Its root file system, as it is on the machine's disk."""
        return self.directory / "root"

    @property
    def address(self) -> str:
        """Its address on the lab's network."""
        return f"{NETWORK}.{self.name.removeprefix('h')}"

    @property
    def inside(self) -> Path:
        """Its root file system as its own processes see it, with /run and all mounts."""
        return Path(f"/proc/{self.leader_pid()}/root")

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.socket}"

    @property
    def socket(self) -> Path:
        return self.inside / "run/libvirt/libvirt-sock"

    @property
    def move_uri(self) -> str:
        return f"qemu+ssh://root@{self.name}/system"

    @property
    def libvirtd_binary(self) -> Path:
        return self.root / "usr/sbin/libvirtd"

    @property
    def env(self) -> dict[str, str]:
        return {
            "HOME": "/root",
            "PATH": SYSTEM_PATH,
            "LC_ALL": "C.UTF-8",
            "LIBVIRT_DEFAULT_URI": "qemu:///system",
        }

    def command(self, arguments: Sequence[str]) -> list[str]:
        """As a scope of its own, like a login's, so that it belongs to the host in every respect.

        A signal to the process that runs this command does not reach the one inside.
        """
        scope = ("systemd-run", "--scope", "--quiet", "--collect", "--")
        enter = ("nsenter", "-t", str(self.leader_pid()), "-a", "--")
        return [str(JOIN_HOST), str(self.control_group), *enter, *scope, *arguments]

    def run(self, *arguments: str) -> str:
        """Run a command on the host to its end; what it printed, LabError when it failed."""
        done = subprocess.run(
            self.command(arguments),
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode != 0:
            raise LabError(f"{self.name}: {arguments} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def prepare(self, images: Images) -> None:
        self.directory.mkdir()
        self.guest_directory.mkdir(exist_ok=True)

    def disk_path(self, spec: GuestSpec) -> Path:
        if spec.local_disk:
            return self.root / spec.local_disk_path.relative_to("/")
        return super().disk_path(spec)

    def install(self, tree: Path, names: dict[str, str], images: Images) -> None:
        """Give it a root file system of its own, and its guests their disks."""
        run("cp", "-a", "--reflink=auto", tree, self.root, home=self.directory)
        adapt(self.root, self.name, self.uuid, self.address, names)
        hostagent = self.root / "usr/local/bin/hostagent"
        hostagent.symlink_to(PROJECT / ".venv/bin/hostagent")
        self.make_disks(images)

    def boot(self, network: ProcessId, shared: Sequence[Path]) -> None:
        """Switch it on; `shared` are directories that it may read at their own paths."""
        self.control_group.mkdir(exist_ok=True)
        binds = [f"--bind-ro={path}" for path in (*shared, PROJECT)]
        command = [
            *(str(BOOT_HOST), str(self.control_group)),
            *("nsenter", f"--net=/proc/{network.pid}/ns/net", "--"),
            *("systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot"),
            *(f"--machine=halab-{self._lab.name}-{self.name}", f"--hostname={self.name}"),
            *(f"--uuid={self.uuid}", "--register=no", "--keep-unit", "--console=pipe"),
            *("--resolv-conf=off", "--timezone=off", "--link-journal=no"),
            *("--network-bridge=lan", "--capability=CAP_NET_ADMIN", "--bind=/dev/net/tun"),
            *(f"--bind={self.guest_directory}", *binds),
        ]
        marks = {"HALAB_HOST": str(self.directory), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with (self.directory / "console").open("ab") as console:
            process = subprocess.Popen(
                command,
                env={"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8"} | marks,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        found = identify(process.pid)
        if found is not None:
            self.note(found, "boot")

    def provide_packages(self, *packages: str) -> list[str]:
        """Put Debian packages ("name" or "name=version") inside, for a real update with dpkg.

        They come from the machine's own apt sources, since a host has no way out. Returns their
        paths as the host sees them.
        """
        place = self.root / PACKAGES
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="halab-packages-") as scratch:
            run("apt-get", "-q", "download", *packages, cwd=Path(scratch), home=self.directory)
            files = sorted(Path(scratch).glob("*.deb"))
            for file in files:
                shutil.copy(file, place)
        return [f"/{PACKAGES}/{file.name}" for file in files]

    def wait_booted(self) -> None:
        """Wait until its systemd says that it is up."""
        wait_until(lambda: self.leader() is not None, BOOT_S, f"{self.name} being switched on")
        wait_until(lambda: self._system_state() == "running", BOOT_S, f"boot of {self.name}")
        self.note(self._leader(), "init")

    def _system_state(self) -> str:
        with suppress(LabError):
            return self.run("systemctl", "is-system-running").strip()
        return ""

    def leader(self) -> ProcessId | None:
        """Its systemd, as a process of the machine; None while it is off."""
        for process in all_processes():
            marks = environment(process)
            if marks.get("container_uuid") == self.uuid and _inner_pid(process) == 1:
                return process
        return None

    def _leader(self) -> ProcessId:
        found = self.leader()
        if found is None:
            raise LabError(f"{self.name} is switched off")
        return found

    def leader_pid(self) -> int:
        """The pid of its systemd on the machine; LabError while it is off."""
        return self._leader().pid

    def boot_id(self) -> str:
        """Its own boot id, new after each reboot."""
        return self.run("cat", "/proc/sys/kernel/random/boot_id").strip()

    def listen(self, authority: Authority, *, by_address: bool = True) -> None:
        """Let its libvirtd be reached by qemu+tcp (nobody is asked who he is: the network leads
        nowhere) and by qemu+tls, with a certificate of this authority for its name, and its address
        too unless told otherwise; restarts libvirtd."""
        authority.certify(self.root, self.name, self.address if by_address else "")
        settings = self.root / "etc/libvirt/libvirtd.conf"
        if "auth_tcp" not in settings.read_text():
            settings.write_text(f'{settings.read_text()}auth_tcp = "none"\n')
        sockets = ("libvirtd-tcp.socket", "libvirtd-tls.socket")
        self.run("systemctl", "stop", "libvirtd.service", *LIBVIRTD_SOCKETS, *sockets)
        self.run("systemctl", "start", *LIBVIRTD_SOCKETS, *sockets)
        self.start_libvirtd()

    def make_pool(self, name: str = "default", path: str = "/var/lib/libvirt/images") -> None:
        """A storage pool that is a directory: without one libvirt makes no room for a disk that is
        copied to there."""
        self.run("virsh", "pool-create-as", name, "dir", "--target", path)

    def reboot(self) -> None:
        """Reboot it as an administrator would, and wait until it is up again; guests stay off."""
        before = self._leader()
        self.run("systemctl", "reboot")
        wait_until(lambda: not before.alive(), BOOT_S, f"{self.name} going down")
        self.wait_booted()

    def _processes(self) -> Iterator[ProcessId]:
        """All processes inside, as processes of the machine."""
        space = _pid_space(self._leader())
        for process in all_processes():
            if space is not None and _pid_space(process) == space:
                yield process

    def _by_pid_file(self, path: str) -> ProcessId | None:
        """The process that a pid file inside names."""
        try:
            inner = int((self.inside / path).read_text())
        except (OSError, ValueError, LabError):
            return None
        return next((p for p in self._processes() if _inner_pid(p) == inner), None)

    def libvirtd(self) -> ProcessId | None:
        return self._by_pid_file("run/libvirtd.pid")

    def start_libvirtd(self) -> None:
        self.run("systemctl", "start", "libvirtd.service")
        process = self.libvirtd()
        if process is not None:
            self.note(process, "libvirtd")
        self.wait_answering()

    def restart_libvirtd(self) -> None:
        self.run("systemctl", "restart", "libvirtd.service")
        self.wait_answering()

    def replace_libvirtd_binary(self) -> None:
        fresh = self.libvirtd_binary.with_suffix(".new")
        run("cp", "-a", self.libvirtd_binary, fresh)
        fresh.rename(self.libvirtd_binary)

    def qemu_process(self, guest: str) -> ProcessId | None:
        return self._by_pid_file(f"run/libvirt/qemu/{guest}.pid")

    def port_directory(self, short_name: str) -> Path:
        return self.root / "var/lib/libvirt/qemu/channel/target" / f"domain-{short_name}"

    def definition_file(self, guest: str) -> Path:
        return self.root / "etc/libvirt/qemu" / f"{guest}.xml"

    def qemu_processes(self) -> list[ProcessId]:
        return [
            process
            for process in self._processes()
            if any(word.startswith("guest=") for word in command_line(process))
        ]


def control_groups(lab: str, host: str) -> list[Path]:
    """A host's control group, directly below the machine's cgroup2, and its namesakes.

    systemd-nspawn makes one of the same name in the old systemd hierarchy, where there is one.
    """
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    unified = [mount[1] for mount in mounts if mount[2] == "cgroup2"]
    old = [mount[1] for mount in mounts if "name=systemd" in mount[3].split(",")]
    return [Path(top) / f"halab-{lab}-{host}" for top in (*unified, *old)]


def start_network(directory: LabDirectory, home: Path) -> ProcessId:
    """A network namespace with a bridge `lan`, held by a process of the lab."""
    script = (
        "ip link set lo up && ip link add lan type bridge && ip link set lan up && exec sleep inf"
    )
    process = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", script],
        env={"PATH": SYSTEM_PATH, "HALAB_HOST": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    found = identify(process.pid)
    if found is None:
        raise LabError("the lab's network did not start")
    directory.record(found, "network")
    wait_until(lambda: command_line(found)[:1] == ("sleep",), 10, "the lab's network")
    return found


def _pid_space(process: ProcessId) -> int | None:
    """The PID namespace of a process."""
    with suppress(OSError):
        return Path(f"/proc/{process.pid}/ns/pid").stat().st_ino
    return None


def _inner_pid(process: ProcessId) -> int | None:
    """The pid that a process has in its own namespace (the last of NSpid, proc(5))."""
    with suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None
