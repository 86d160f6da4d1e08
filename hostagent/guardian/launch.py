"""How the guardian is started: out of reach of whatever ends hostagent.

Layer: guardian (hostagent's side). With systemd: a transient unit of its own, which survives the
end of hostagent's whole control group and is started again after a SIGKILL, with its list in a
file. Else: a session of its own and a second fork, so that neither terminal, process group nor
parent matter. Either way it inherits the pipe and nothing else. Effects: one process. Errors:
OSError when it can't be started at all; a start that fails later shows as the end of the pipe.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

SYSTEMD = Path("/run/systemd/system")
ROOT = Path(__file__).parents[2]
"""Where `hostagent` was imported from: the guardian must find the same one, wherever it starts."""
PASSED_ON = ("HOME", "LANG", "LC_ALL", "PATH", "PYTHONPATH", "USER")
PASSED_ON_PREFIXES = ("XDG_", "LIBVIRT_")


class Mode(StrEnum):
    """How to start it; `auto` is systemd where it runs, else (or when that fails) setsid."""

    AUTO = "auto"
    SYSTEMD = "systemd"
    SETSID = "setsid"


def modes(wanted: Mode) -> tuple[Mode, ...]:
    """The ways to try, in order."""
    if wanted is not Mode.AUTO:
        return (wanted,)
    return (Mode.SYSTEMD, Mode.SETSID) if _systemd_runs() else (Mode.SETSID,)


def exposed(mode: Mode) -> bool:
    """Whether a guardian that was started like this has no unit of its own on a host where units
    are what is killed: it goes with the rest of its owner's control group then."""
    return mode is Mode.SETSID and SYSTEMD.is_dir()


def _systemd_runs() -> bool:
    if not SYSTEMD.is_dir():
        return False
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return os.geteuid() == 0 or Path(runtime, "systemd", "private").exists()


def spawn(mode: Mode, *, unit: str, list_path: str, python: str) -> "subprocess.Popen[bytes]":
    """Start a guardian with pipes as its input and output. Returns at once."""
    env = dict(os.environ)
    paths = [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]
    env["PYTHONPATH"] = os.pathsep.join(paths)
    # -P: the directory it starts in is not searched for modules.
    command = [python or sys.executable, "-P", "-m", "hostagent.guardian", "--list", list_path]
    if mode is Mode.SYSTEMD:
        command = [*_systemd_run(unit, env), *command]
    else:
        command.append("--detach")
    return subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=env,
        start_new_session=True,
    )


def _systemd_run(unit: str, env: Mapping[str, str]) -> list[str]:
    """systemd-run(1) with a unit that comes back after a SIGKILL, and is never the OOM killer's."""
    properties = (
        "Restart=on-failure",
        "RestartSec=20ms",
        "StartLimitIntervalSec=0",
        "OOMScoreAdjust=-1000",
        "KillMode=mixed",
        # Whoever wants it to end disarms it; a stop would end in SIGKILL with guests still paused.
        "RefuseManualStop=yes",
        "TimeoutStopSec=30s",
    )
    passed_on = sorted(
        name for name in env if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    )
    return [
        # Not by PATH: a caller's poor one must not cost the guardian its own unit.
        "/usr/bin/systemd-run",
        *(() if os.geteuid() == 0 else ("--user",)),
        "--quiet",
        "--pipe",
        "--collect",
        f"--unit={unit}",
        *(f"--property={each}" for each in properties),
        *(f"--setenv={name}={env[name]}" for name in passed_on),
        "--",
    ]
