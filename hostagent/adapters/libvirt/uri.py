"""Libvirt URIs, as far as hostagent must understand them: local or remote, and which socket.

Layer: adapters; reads the environment, nothing else. Sources: https://libvirt.org/uri.html and the
client's own choice of a socket (src/remote/remote_sockets.c): virtqemud's where it is there, else
libvirtd's. Errors: RefusedError for a remote host or another hypervisor.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from hostagent.core.errors import RefusedError

LOCAL_TRANSPORTS = frozenset({"", "unix"})
SYSTEM_SOCKETS = Path("/run/libvirt")


def refuse_remote(uri: str) -> None:
    """Raise RefusedError unless this URI means QEMU on this very machine.

    The state directory, the guardian and the processes of QEMU are here; pausing guests of
    another machine from afar would leave them paused when the network fails. An empty URI (libvirt
    chooses) passes: look again at what the connection says its URI is. So does an alias.
    """
    parts = urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    if not parts.scheme:
        return
    if parts.hostname or transport not in LOCAL_TRANSPORTS:
        raise RefusedError(
            f"{uri} is a host elsewhere; guests are paused only from their own host",
            hint="run hostagent on that host itself, with -c qemu:///system",
        )
    if driver != "qemu":
        raise RefusedError(
            f"{uri} is not QEMU: hostagent maintains KVM/QEMU hosts",
            hint="use -c qemu:///system, or qemu:///session",
        )


def wanted(uri: str, environ: Mapping[str, str] | None = None) -> str:
    """The URI that will be opened, as far as it can be known beforehand (like virsh)."""
    environ = os.environ if environ is None else environ
    return uri or environ.get("LIBVIRT_DEFAULT_URI", "")


def socket_of(uri: str, environ: Mapping[str, str] | None = None) -> Path:
    """The Unix socket that libvirt's client uses for this local URI."""
    environ = os.environ if environ is None else environ
    parts = urlsplit(uri)
    query = parse_qs(parts.query)
    if given := query.get("socket"):
        return Path(given[0])
    directory = SYSTEM_SOCKETS if parts.path == "/system" else user_sockets(environ)
    direct, legacy = directory / "virtqemud-sock", directory / "libvirt-sock"
    mode = query.get("mode", ["auto"])[0]
    if mode == "direct" or (mode == "auto" and direct.exists()):
        return direct
    return legacy


def may_be_same(given: str, real: str) -> bool:
    """Whether a URI as given means the libvirt whose own URI this is. One that is not known, or an
    alias, may."""
    known = wanted(given)
    return not urlsplit(known).scheme or socket_of(known) == socket_of(real)


def user_sockets(environ: Mapping[str, str]) -> Path:
    """Where the sockets of a user's own libvirt are (virGetUserRuntimeDirectory)."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "libvirt"
    cache = environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "libvirt"
