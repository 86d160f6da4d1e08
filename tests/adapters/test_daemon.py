"""Who libvirtd is, and whether QEMU may be driven behind its back."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostagent.adapters.libvirt import daemon
from hostagent.core.model import LibvirtDaemon
from lab.host import Host
from lab.light import LightHost
from lab.processes import wait_until


def found(host: Host) -> LibvirtDaemon:
    daemon_found = daemon.find(host.socket)
    assert daemon_found is not None
    return daemon_found


@pytest.mark.parametrize(
    ("text", "managers"),
    [
        ("", []),
        ('#lock_manager = "lockd"\n', []),
        ('lock_manager = "lockd"\n', ["lockd"]),
        ("  lock_manager='sanlock' # why\n", ["sanlock"]),
        ('lock_manager = "nop"\nlock_manager = "lockd"\n', ["nop", "lockd"]),
        ("lock_manager = lockd\n", [None]),
        ('lock_manager_x = "lockd"\nuser = "lock_manager"\n', []),
    ],
)
def test_settings_are_read_and_comments_are_not(text: str, managers: list[str | None]) -> None:
    assert list(daemon.lock_managers(text)) == managers


def test_libvirtd_is_the_one_of_the_pid_file(light_host: Host) -> None:
    identified = found(light_host)
    assert identified.pid == light_host.libvirtd_pid()
    assert identified.exe == "libvirtd"


def test_a_replaced_binary_is_still_libvirtd(tmp_path: Path) -> None:
    """As in the middle of a package update; any program will do, only its name counts."""
    binary = tmp_path / "libvirtd"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", binary)
    process = subprocess.Popen([str(binary), "60"])
    wait_until(lambda: Path(f"/proc/{process.pid}/exe").readlink() == binary, 5, "its start")
    binary.unlink()
    (tmp_path / "libvirtd.pid").write_text(f"{process.pid}\n")
    identified = daemon.find(tmp_path / "libvirt-sock")
    process.kill()
    process.wait()
    assert identified is not None
    assert (identified.pid, identified.exe) == (process.pid, "libvirtd")


def test_a_dead_libvirtd_is_nobody(light_host: Host) -> None:
    light_host.kill_libvirtd()
    assert daemon.find(light_host.socket) is None
    assert "could not be identified" in daemon.qmp(None, light_host.socket).refusal
    light_host.start_libvirtd()


def test_a_pid_file_of_another_program_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "libvirtd.pid").write_text(f"{os.getpid()}\n")
    assert daemon.find(tmp_path / "libvirt-sock") is None


@pytest.fixture
def qemu_conf(light_host: Host) -> Iterator[Path]:
    """The qemu.conf of the host's libvirtd, put back with its age."""
    assert isinstance(light_host, LightHost)
    file = light_host.config_directory / "qemu.conf"
    before, seen = file.read_text(), file.stat()
    yield file
    if file.is_dir():
        file.rmdir()
    file.write_text(before)
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def refusal(host: Host) -> str:
    return daemon.qmp(found(host), host.socket).refusal


def write_before_start(file: Path, text: str) -> None:
    """As if it had been so before libvirtd started, which could not start with some of these."""
    file.write_text(text)
    os.utime(file, (1, 1))


def test_without_a_lock_manager_qmp_is_allowed(light_host: Host, qemu_conf: Path) -> None:
    assert daemon.qmp(found(light_host), light_host.socket).allowed
    write_before_start(qemu_conf, '#lock_manager = "lockd"\nlock_manager = "nop"\n')
    assert refusal(light_host) == ""


def test_a_missing_configuration_has_no_lock_manager(light_host: Host, qemu_conf: Path) -> None:
    qemu_conf.unlink()
    assert refusal(light_host) == ""


@pytest.mark.parametrize("manager", ["lockd", "sanlock"])
def test_a_lock_manager_is_named(light_host: Host, qemu_conf: Path, manager: str) -> None:
    write_before_start(qemu_conf, f'lock_manager = "{manager}"\n')
    assert manager in refusal(light_host)
    assert str(qemu_conf) in refusal(light_host)


def test_a_change_that_libvirtd_has_not_read_is_not_believed(
    light_host: Host, qemu_conf: Path
) -> None:
    os.utime(qemu_conf)
    assert "changed after libvirtd had read it" in refusal(light_host)


def test_a_configuration_that_cannot_be_read_counts_as_a_lock_manager(
    light_host: Host, qemu_conf: Path
) -> None:
    qemu_conf.unlink()
    qemu_conf.mkdir()
    assert "could not be read" in refusal(light_host)
    assert str(qemu_conf) in refusal(light_host)


LOOK = """
import sys
from hostagent.adapters.libvirt.guests import LibvirtGuests
facts = LibvirtGuests(sys.argv[1]).facts()
print(facts.host.qmp.allowed, facts.host.daemon.pid)
print(*(guest.monitor for guest in facts.guests))
"""


def test_without_the_right_to_look_into_others_processes(light_host: Host) -> None:
    """Root in an ordinary container, whose libvirtd and QEMU run as other users."""
    confined = ["setpriv", "--bounding-set=-sys_ptrace,-sys_admin", "--inh-caps=-all"]
    command = [*(confined if os.geteuid() == 0 else ()), sys.executable, "-c", LOOK]
    seen = subprocess.run([*command, light_host.uri], capture_output=True, text=True, check=True)
    identified, monitors = seen.stdout.splitlines()
    assert identified == f"True {light_host.libvirtd_pid()}"
    paths = [Path(path) for path in monitors.split()]
    assert len(paths) == len(light_host.guests)
    assert all(path.name == "monitor.sock" and path.is_socket() for path in paths)
