"""A libvirtd that hangs: it holds every guest's monitor, so it may have to go first.

Layer: guardian. Guests outlive libvirtd; one that restarts adopts them. Invariants: a process is
killed only through a pidfd, and only if it is the one that the pid file named while libvirtd was
healthy: same pid, same start time, a libvirtd by its program's name, and still named by the file.
Anything else and nothing is killed. Never by SO_PEERCRED (under socket activation that is PID 1).
The number of kills is bounded. Whether it hangs is the caller's finding. Errors: a sentence that
says why nothing was done; empty means done.
"""

import os
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path, PurePath

from hostagent.guardian.process import identify, program, state_of

PROGRAMS = ("libvirtd", "virtqemud")
MAX_KILLS = 3
SYSTEMCTL_LIMIT_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonId:
    """The libvirtd of a host, as its pid file named it while it was healthy."""

    pid_file: str
    exe: str
    pid: int
    start_ticks: int


def read_daemon(pid_file: str) -> DaemonId | None:
    """Who the pid file names now, if that is a libvirtd. Ask only while it answers."""
    pid = _pid_in(pid_file)
    process = identify(pid) if pid else None
    if process is None:
        return None
    exe = program(process.pid)
    if not exe.startswith(PROGRAMS):
        return None
    return DaemonId(pid_file=pid_file, exe=exe, pid=process.pid, start_ticks=process.start_ticks)


def kill_daemon(daemon: DaemonId) -> str:
    """SIGKILL this very process, else say why not."""
    try:
        pidfd = os.pidfd_open(daemon.pid)
    except OSError:
        return f"no process {daemon.pid}"
    try:
        # From here on the pidfd stands for one process, so what is checked is what is killed.
        doubt = _doubt(daemon)
        if not doubt:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return doubt
    except OSError as error:
        return f"process {daemon.pid}: {error.strerror}"
    finally:
        os.close(pidfd)


def _doubt(daemon: DaemonId) -> str:
    """Why this may not be the daemon any more; empty when it is."""
    if not state_of(daemon.pid, daemon.start_ticks):
        return f"process {daemon.pid} is not the libvirtd that was seen"
    if not daemon.exe.startswith(PROGRAMS) or program(daemon.pid) != daemon.exe:
        return f"process {daemon.pid} is no {daemon.exe}"
    if _pid_in(daemon.pid_file) != daemon.pid:
        return f"{daemon.pid_file} does not name process {daemon.pid} any more"
    return ""


def _pid_in(pid_file: str) -> int:
    try:
        return int(Path(pid_file).read_bytes()[:32])
    except (OSError, ValueError):
        return 0


def unit_of(daemon: DaemonId) -> str:
    """The system unit whose main process this is, or empty. Asks systemd: may take seconds."""
    try:
        groups = Path(f"/proc/{daemon.pid}/cgroup").read_text()
    except OSError:
        return ""
    unit = PurePath(groups.splitlines()[-1].partition("::")[2]).name if groups else ""
    if not unit.endswith(".service") or "/user.slice/" in groups:
        return ""
    shown = _systemctl("show", "--property=MainPID", "--value", unit)
    return unit if shown.strip() == str(daemon.pid) else ""


def _systemctl(*arguments: str) -> str:
    try:
        return subprocess.run(
            ["/usr/bin/systemctl", *arguments],
            capture_output=True,
            text=True,
            timeout=SYSTEMCTL_LIMIT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


class HungDaemon:
    """What may be done about a hung libvirtd: kill it, or have systemd restart it."""

    def __init__(self, daemon: DaemonId | None) -> None:
        self._daemon = daemon
        self._kills = 0
        self._killed = 0
        self._restarting = False
        self._lock = threading.Lock()

    def what_was_done(self) -> str:
        """For people: what was done about it; empty when nothing was."""
        return f"libvirtd (pid {self._killed}) hung and was killed" if self._killed else ""

    def reread(self) -> None:
        """libvirtd answers on a new connection: it may be another process now."""
        with self._lock:
            if self._daemon is not None:
                self._daemon = read_daemon(self._daemon.pid_file) or self._daemon

    def kill(self) -> str:
        """Kill it, at most a few times in the life of this process; why not, else empty."""
        with self._lock:
            if self._daemon is None:
                return "which process libvirtd is was not known while it was healthy"
            if self._kills >= MAX_KILLS:
                return f"libvirtd was killed {self._kills} times already"
            doubt = kill_daemon(self._daemon)
            if not doubt:
                self._kills += 1
                self._killed = self._daemon.pid
            return doubt

    def restart(self) -> None:
        """Kill it and have systemd start it again, if it is the main process of a system unit;
        else do nothing (a session's libvirtd is not ours to restart). Works in a thread of its
        own: never waits."""
        with self._lock:
            if self._restarting or self._daemon is None:
                return
            self._restarting = True
        threading.Thread(target=self._restart, args=(self._daemon,), daemon=True).start()

    def _restart(self, daemon: DaemonId) -> None:
        unit = unit_of(daemon)
        if unit and not self.kill():
            _systemctl("restart", unit)
        self._restarting = False
