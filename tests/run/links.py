"""Links between two light hosts that can be cut, or fall silent, and be whole again.

Layer: tests. libvirt's connection goes through one TCP port that leads to the destination's socket;
a guest's memory through another one. A QEMU that awaits a guest listens on an address of its own
(migration_address of qemu.conf), and the source sends to 127.0.0.1, where the link is. A silent
link keeps what it was given and delivers it once it is whole again, as TCP does.
"""

import contextlib
import socket
import threading
from pathlib import Path

from lab.light import LightHost

FAR_ADDRESS = "127.0.0.2"
"""Where QEMU listens for a guest; hostagent names 127.0.0.1 to the source."""
NEAR_ADDRESS = "127.0.0.1"


class Link:
    """Carries bytes from one TCP port of 127.0.0.1 to a Unix socket or another TCP port."""

    def __init__(self, target: Path | tuple[str, int], port: int = 0) -> None:
        self._target = target
        self._open: list[socket.socket] = []
        self._whole = threading.Event()
        self._whole.set()
        self._listener: socket.socket | None = None
        self.port = port
        self.carried = 0

    def begin(self) -> None:
        """Listen, and carry."""
        self._listener = socket.create_server((NEAR_ADDRESS, self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Break all connections and take no new ones."""
        listener, self._listener = self._listener, None
        for each in (listener, *self._open):
            if each is not None:
                _end(each)
        self._open.clear()

    def fall_silent(self) -> None:
        """Deliver nothing any more, and say nothing."""
        self._whole.clear()

    def mend(self) -> None:
        """Whole again."""
        self._whole.set()
        if self._listener is None:
            self.begin()

    def close(self) -> None:
        """The end of it."""
        self.cut()
        self._whole.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = self._far_end()
            except OSError:
                return
            self._open += [near, far]
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _far_end(self) -> socket.socket:
        if isinstance(self._target, tuple):
            return socket.create_connection(self._target, timeout=None)
        far = socket.socket(socket.AF_UNIX)
        far.connect(str(self._target))
        return far

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                self._whole.wait()
                other.sendall(data)
                self.carried += len(data)
        # The end of a stream is no end of what was carried before it.
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


def listen_far_away(host: LightHost, port: int) -> None:
    """Make QEMUs of this host await guests at FAR_ADDRESS and this port; libvirtd is restarted.

    Its range has two ports at the least; it takes the first that is free."""
    settings = [
        f'migration_address = "{FAR_ADDRESS}"',
        f"migration_port_min = {port}",
        f"migration_port_max = {port + 1}",
    ]
    with (host.config_directory / "qemu.conf").open("a") as file:
        file.write("\n".join(["", *settings, ""]))
    host.restart_libvirtd()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server((FAR_ADDRESS, 0)) as server:
        return int(server.getsockname()[1])
