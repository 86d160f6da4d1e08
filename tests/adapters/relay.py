"""A TCP port that leads to a Unix socket, so that a light host is one elsewhere.

Layer: tests. libvirt speaks the same on both, so `qemu+tcp://127.0.0.1:PORT/session` is a real
remote connection. With `hold_after` the link falls silent after so many bytes, as one that is cut.
"""

import contextlib
import select
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self


class Relay:
    """Carries bytes both ways until it is closed."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.carried = 0
        self.hold_after: int | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        """libvirt's URI of the host behind it."""
        return f"qemu+tcp://127.0.0.1:{self._listener.getsockname()[1]}/session"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _at: TracebackType | None,
    ) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            target = socket.socket(socket.AF_UNIX)
            target.connect(self.target)
            self._open += [client, target]
            threading.Thread(target=self._carry, args=(client, target), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        partner = {one: other, other: one}
        with contextlib.suppress(OSError, ValueError):
            while True:
                for ready in select.select([one, other], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return self._end(one, other)
                    self.carried += len(data)
                    if self.hold_after is not None and self.carried > self.hold_after:
                        return None
                    partner[ready].sendall(data)
        return self._end(one, other)

    def _end(self, *ends: socket.socket) -> None:
        for each in ends:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
