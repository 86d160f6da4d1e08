"""The way from one host to another: the URI that its peer uses, and where a guest is sent.

Layer: adapters; tries what can be tried from here (addresses), changes nothing. The way of a guest
is tried before anything moves: a name that resolves nowhere, or a firewall, would be found by QEMU
only, in mid-move. Sources: https://libvirt.org/migration.html, qemu.conf (migration_port_min).
Times in ns, monotonic. Errors: LibvirtUnreachableError, of `home_uri` only.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from hostagent.adapters.libvirt import addresses
from hostagent.adapters.libvirt import uri as uris
from hostagent.adapters.libvirt.addresses import bracketed
from hostagent.core.errors import LibvirtUnreachableError

S = 1_000_000_000
LAST_MIGRATION_PORT = 49215
"""migration_port_max of qemu.conf, where the range begins at 49152. libvirt takes the first that is
free, and a QEMU that waits there for a guest gives up when somebody connects and hangs up: so the
last is tried."""
LOOPBACK = "tcp://127.0.0.1"
CONNECT_S = 2.0
FIREWALL_S = 1.0
LONGEST_SOCKET = 107
"""Bytes of a socket's name (unix(7)), less the zero at the end."""
_STREAM_NAME = "hostagent.sock"
_CARRIED = frozenset({"no_verify", "no_tty", "proxy", "mode", "sshauth"})
"""Parameters of a URI that hold for both directions; the others name files of one host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """As core.move.Destination has it."""

    via: str
    stream: str = ""
    unreachable: str = ""
    doubts: tuple[str, ...] = ()


def find(
    source: str, destination: str, limit_ns: int, migration_port: int = LAST_MIGRATION_PORT
) -> Way:
    """The way from the source to the destination, by the URIs that they have from here."""
    until_ns = time.monotonic_ns() + limit_ns
    if addresses.is_local(source) and addresses.is_local(destination):
        return _on_one_machine(source, destination)
    if addresses.is_local(destination):
        return _to_here(source, destination, until_ns)
    way = _tried(destination, until_ns, migration_port)
    if addresses.is_local(source):
        return way
    return replace(way, doubts=(*way.doubts, _untried(source)))


def stream_of(stream: str, uuid: str) -> str:
    """The stream of one guest: a Unix socket is one guest's at a time, so each has its own."""
    if not stream.startswith("unix://"):
        return stream
    return f"{stream.removesuffix('.sock')}-{uuid.replace('-', '')[:12]}.sock"


def home_uri(destination: str, own: str = "", limit_ns: int = 3 * S) -> str:
    """This host's libvirt as the destination reaches it: same transport and path.

    `own` is this host's URI, which matters on one machine only. Raises LibvirtUnreachableError.
    """
    if addresses.is_local(destination):
        return peer(own or uris.wanted("") or "qemu:///system")
    return _home_at(destination, addresses.own_address(destination, time.monotonic_ns() + limit_ns))


def peer(uri: str) -> str:
    """A local URI as another libvirtd of this machine uses it: with its socket."""
    parts = urlsplit(uri)
    return f"qemu+unix://{parts.path}?socket={uris.socket_of(uri)}"


def _on_one_machine(source: str, destination: str) -> Way:
    """Through a socket in the run directory of a user's own libvirt, which the user's QEMU may
    write to and nobody else. QEMU of a system libvirt runs as a user that can't be told from here,
    and may write to no directory that is known: those take the loopback."""
    way = Way(via=peer(destination), stream=LOOPBACK)
    theirs, ours = uris.socket_of(destination), uris.socket_of(source)
    longest = stream_of(f"unix://{theirs.parent / _STREAM_NAME}", "0" * 32)
    if urlsplit(destination).path != "/session":
        return way
    if not _may_meet(ours, theirs) or len(longest) - len("unix://") > LONGEST_SOCKET:
        return way
    return replace(way, stream=f"unix://{theirs.parent / _STREAM_NAME}")


def _may_meet(ours: Path, theirs: Path) -> bool:
    """Whether the source's libvirtd may use a socket of the destination's user."""
    try:
        return ours.stat().st_uid in (0, theirs.stat().st_uid)
    except OSError:
        return False


def _to_here(source: str, destination: str, until_ns: int) -> Way:
    """From elsewhere to this host. Only that something listens here can be tried from here."""
    try:
        address = addresses.own_address(source, until_ns)
    except LibvirtUnreachableError as error:
        return Way(via="", unreachable=f"{error.message}; {error.hint}")
    back, shown = _home_at(source, address, urlsplit(destination).path), bracketed(address)
    port = urlsplit(back).port or addresses.PORTS.get(addresses.transport(back), 0)
    refused = addresses.connect(address, port, CONNECT_S)
    stated = f"nothing listens here at {shown}:{port} ({refused}); {addresses.cure(back)}"
    return Way(
        via=back,
        stream=f"tcp://{shown}",
        unreachable=stated if refused else "",
        doubts=(_untried(source),),
    )


def _untried(source: str) -> str:
    return f"the way was tried from this host only, not from {urlsplit(source).hostname or source}"


def _tried(destination: str, until_ns: int, migration_port: int) -> Way:
    """To a host elsewhere: the first of its addresses at which its libvirt is reached."""
    spot = addresses.spot(destination)
    if spot is None:
        doubt = f"how {destination} is reached is not known here, so libvirt chooses where to send"
        return Way(via=destination, doubts=(doubt,))
    try:
        known = addresses.resolved(spot.host, until_ns)
    except LibvirtUnreachableError as error:
        return Way(via=destination, unreachable=f"{error.message}; {error.hint}")
    failures = []
    for address in known:
        left_s = (until_ns - time.monotonic_ns()) / 1e9
        refused = addresses.connect(address, spot.port, min(CONNECT_S, left_s))
        if not refused:
            doubts = _firewall(address, migration_port)
            return Way(via=destination, stream=f"tcp://{bracketed(address)}", doubts=doubts)
        failures.append(f"{bracketed(address)}:{spot.port} ({refused})")
    told = f"{spot.host} does not let itself be reached at {', '.join(failures)}"
    return Way(via=destination, unreachable=f"{told}; {addresses.cure(destination)}")


def _firewall(address: str, port: int) -> tuple[str, ...]:
    """A port that nothing listens on answers at once; a firewall does not, or says so."""
    refused = addresses.connect(address, port, FIREWALL_S)
    if refused in ("", "connection refused"):
        return ()
    return (
        f"port {port} of {address}, the first that guests are sent to, is not open"
        f" ({refused}): open 49152 to 49215 there, or what its qemu.conf has as migration_port_min"
        " and migration_port_max",
    )


def _home_at(destination: str, address: str, path: str = "") -> str:
    """The destination's URI with our address in its place."""
    parts = urlsplit(destination)
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    carried = [pair for pair in parse_qsl(parts.query) if pair[0] in _CARRIED]
    return parts._replace(
        netloc=f"{user}{bracketed(address)}{port}",
        path=path or parts.path,
        query=urlencode(carried),
    ).geturl()
