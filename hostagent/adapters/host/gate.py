"""Waits at a gate, then becomes the update's command. Run as a script, never imported.

Layer: adapters, in a process of its own. `gate.py GATE_FD ERROR_FD CMD...`: one byte on GATE_FD
opens the gate; its end of file (hostagent died before) ends this process without running anything.
Started before the pause, so that neither fork nor interpreter start lengthens it. The error number
of an exec that failed is written to ERROR_FD; the exit status is then the shell's: 127 for a
command that is not there, 126 for one that can't be executed.
"""

import os
import signal
import sys

OURS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""Ignored by Python or by a run, not by the caller, whose other choices the command inherits."""

with open("/proc/self/environ", "rb") as given:  # noqa: PTH123 - pathlib is slow to import
    CALLERS_LC_CTYPE = b"\0LC_CTYPE=" in b"\0" + given.read()
"""Python sets this variable itself in the C locale (PEP 538)."""


def main() -> None:
    """Wait, then exec."""
    gate, errors, argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    os.set_inheritable(gate, False)
    os.set_inheritable(errors, False)
    if not os.read(gate, 1):
        os._exit(0)
    for number in OURS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    if not CALLERS_LC_CTYPE:
        os.environ.pop("LC_CTYPE", None)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is the point
    except OSError as error:
        os.write(errors, str(error.errno).encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


main()
