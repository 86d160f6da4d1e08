"""What guests boot from: a kernel, an initramfs and a disk, made once from Debian's packages.

Layer: lab, above the cache. Invariants: nothing is installed on the machine (packages are
downloaded and unpacked only), and nothing is written outside the scratch directory; no privilege is
needed. Effects: downloads packages with apt, writes below the cache directory. Errors: CannotRun
with the command that failed. Why the archive is written here and not by cpio(1): a plain user can't
make device nodes, and needs none (the kernel brings /dev/console).
"""

import gzip
import hashlib
import lzma
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.cache import build_once, cache_directory
from lab.errors import CannotRun
from lab.tools import run

Say = Callable[[str], None]

INIT = Path(__file__).with_name("guest_init")
RECIPE = "2"
"""Changed whenever this file changes what an image contains: old images are then not used."""

KERNEL_PACKAGE = "linux-image-cloud-amd64"
DISK_MIB = 64
MODULES = (
    # Console and agent ports, network, disk; pvpanic lets a guest's crash be seen by libvirt; the
    # last two are for the power button.
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_blk",
    "crc32c_generic",
    "ext4",
    "pvpanic-mmio",
    "button",
    "evdev",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Paths of the finished images."""

    kernel: Path
    initramfs: Path
    disk: Path


def guest_images(say: Say) -> Images:
    """The images, built when they are not in the cache yet (about 15 s)."""
    key = hashlib.sha256(RECIPE.encode() + INIT.read_bytes()).hexdigest()[:12]
    place = cache_directory() / f"guest-{key}"
    if not place.exists():
        build_once(place, lambda scratch: _build(scratch, say))
    return Images(
        kernel=place / "vmlinuz", initramfs=place / "initramfs", disk=place / "disk.qcow2"
    )


def _build(scratch: Path, say: Say) -> Path:
    """Build all images below scratch; the directory that is returned is the finished one."""
    finished = scratch / "finished"
    finished.mkdir()
    say("guest images: downloading kernel, busybox and guest agent packages")
    tree = _unpack(scratch, _packages())
    say("guest images: packing the initramfs")
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    shutil.copyfile(kernel, finished / "vmlinuz")
    root = scratch / "root"
    _fill_root(root, tree)
    (finished / "initramfs").write_bytes(b"".join(_archive(root)))
    say("guest images: making the disk")
    _make_disk(scratch, finished / "disk.qcow2")
    return finished


def _packages() -> list[str]:
    """Names of the packages: the newest cloud kernel, busybox, the agent and its libraries."""
    kernel = _depends(KERNEL_PACKAGE)
    if not kernel:
        raise CannotRun(f"package lists hold no {KERNEL_PACKAGE}: run apt-get update")
    libraries = [
        name
        for name in _depends("qemu-guest-agent", "--recurse")
        if name.startswith("lib") and "perl" not in name
    ]
    return [kernel[0], "busybox-static", "qemu-guest-agent", *libraries]


def _depends(package: str, *options: str) -> list[str]:
    """What a package depends on, by apt's own reading of its lists."""
    wanted = ("--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks")
    more = ("--no-replaces", "--no-enhances", "--no-pre-depends")
    listed = run("apt-cache", "depends", *wanted, *more, *options, package)
    names = [line.split("Depends: ")[1] for line in listed.splitlines() if "  Depends: " in line]
    return sorted({name for name in names if not name.startswith("<")})


def _unpack(scratch: Path, packages: list[str]) -> Path:
    """Download packages and unpack them into one tree."""
    downloads, tree = scratch / "packages", scratch / "tree"
    downloads.mkdir()
    run("apt-get", "-q", "download", *packages, cwd=downloads)
    for package in sorted(downloads.glob("*.deb")):
        run("dpkg-deb", "-x", package, tree)
    return tree


def _fill_root(root: Path, tree: Path) -> None:
    """Lay out the guest's root file system."""
    for name in ("bin", "sbin", "modules", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy(INIT, root / "init")
    (root / "init").chmod(0o755)
    shutil.copy(next(tree.glob("**/bin/busybox")), root / "bin" / "busybox")
    (root / "bin" / "sh").symlink_to("busybox")
    _copy_agent(root, tree)
    _copy_modules(root / "modules", tree)


def _copy_agent(root: Path, tree: Path) -> None:
    """The guest agent, the libraries that its own loader finds, and what it calls to shut down."""
    agent = next(tree.glob("**/sbin/qemu-ga"))
    shutil.copy(agent, root / "sbin" / "qemu-ga")
    loader = next(path for path in tree.glob("**/ld-linux-x86-64.so.2") if not path.is_symlink())
    libraries = {path.parent for path in tree.glob("**/*.so.*")}
    search = ":".join(str(path) for path in sorted(libraries))
    place = root / "lib" / "x86_64-linux-gnu"
    place.mkdir(parents=True)
    for source in libraries_used(run(loader, "--library-path", search, "--list", agent)):
        if not source.is_relative_to(tree):
            raise CannotRun(f"the agent wants {source}, which none of its packages has")
        shutil.copy(source, place / source.name)
    (root / "lib64").mkdir()
    shutil.copy(loader, root / "lib64" / "ld-linux-x86-64.so.2")
    shutdown = root / "sbin" / "shutdown"
    shutdown.write_text('#!/bin/sh\nsync\n[ "$1" = -r ] && exec reboot -f\nexec poweroff -f\n')
    shutdown.chmod(0o755)


def libraries_used(listing: str) -> list[Path]:
    """The files in a listing of ld.so(8); the loader itself is listed with an absolute name.

    Only base names may be used to lay them out elsewhere: joined to a directory, an absolute name
    would be the machine's own file.
    """
    found = [line.partition(" => ")[2].split(" ")[0] for line in listing.splitlines()]
    return [Path(path) for path in found if path and not path.endswith("/ld-linux-x86-64.so.2")]


def _copy_modules(place: Path, tree: Path) -> None:
    """Kernel modules, unpacked, and the order in which they can be loaded."""
    found = {
        path.name.split(".")[0].replace("-", "_"): path
        for path in tree.glob("**/lib/modules/**/*.ko*")
    }
    order: list[str] = []
    for wanted in MODULES:
        _load_order(wanted.replace("-", "_"), found, order)
    for name in order:
        (place / f"{name}.ko").write_bytes(_module_bytes(found[name]))
    (place / "order").write_text("".join(f"{name}.ko\n" for name in order))


def _load_order(name: str, found: dict[str, Path], order: list[str]) -> None:
    """Append a module after those that it needs; one that this kernel has built in is left out."""
    if name in order or name not in found:
        return
    _, mark, rest = _module_bytes(found[name]).partition(b"\0depends=")
    needs = rest.split(b"\0", 1)[0].decode() if mark else ""
    for need in filter(None, needs.split(",")):
        _load_order(need.replace("-", "_"), found, order)
    order.append(name)


def _module_bytes(path: Path) -> bytes:
    """A module's content; newer Debian kernels ship them packed by xz."""
    raw = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(raw)
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


def _archive(root: Path) -> Iterator[bytes]:
    """A tree as a cpio archive in the "newc" format (Linux: initramfs buffer format).

    https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
    """
    paths = sorted(path for path in root.rglob("*"))
    for number, path in enumerate(paths, start=1):
        info = path.lstat()
        if path.is_symlink():
            content = str(path.readlink()).encode()
        else:
            content = path.read_bytes() if path.is_file() else b""
        yield _archive_entry(str(path.relative_to(root)), content, info.st_mode, number)
    yield _archive_entry("TRAILER!!!", b"", 0, 0)


def _archive_entry(name: str, content: bytes, mode: int, number: int) -> bytes:
    """One header, name and content, each padded to four bytes."""
    raw_name = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw_name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw_name
    return head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)


def _make_disk(scratch: Path, place: Path) -> None:
    """An ext4 file system in a qcow2 file, the base of each guest's own overlay."""
    raw = scratch / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(DISK_MIB * 1024 * 1024)
    run("mkfs.ext4", "-q", "-F", raw)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, place)
    place.chmod(0o644)
