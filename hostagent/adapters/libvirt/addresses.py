"""Hosts by URI: local or not, where they listen, and this host's own address towards them.

Layer: adapters; resolves names, opens and closes TCP connections, asks `ssh -G` (which reads its
configuration and connects nowhere). What a host calls itself is never used: a host without DNS
calls itself something that nobody knows. Every name and every connection has a limit; a resolver
that hangs is left behind in its thread. Source: https://libvirt.org/uri.html. Times in ns,
monotonic. Errors: LibvirtUnreachableError where a name has no address.
"""

import ipaddress
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, urlsplit

from hostagent.adapters.libvirt import uri as uris
from hostagent.adapters.libvirt.bounded import within
from hostagent.core.errors import LibvirtUnreachableError

SSH = frozenset({"ssh", "libssh", "libssh2"})
PORTS = {"": 16514, "tls": 16514, "tcp": 16509} | dict.fromkeys(SSH, 22)
"""By transport; a remote URI without one means TLS."""

_UNRESOLVED = re.compile(r"resolve (host|address)|name or service not known", re.IGNORECASE)
"""In the words of libvirt and of ssh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """Where a host is listened for: after ssh's own aliases."""

    host: str
    port: int


def is_local(uri: str) -> bool:
    """Whether this URI means a libvirt on this machine."""
    parts = urlsplit(uri)
    return not parts.hostname and transport(uri) in uris.LOCAL_TRANSPORTS


def transport(uri: str) -> str:
    """tcp, tls, ssh, unix ...; empty where the URI names none."""
    return urlsplit(uri).scheme.partition("+")[2]


def is_tls(uri: str) -> bool:
    """Whether this URI is reached by libvirt's own TLS, which a remote one means that names no
    transport."""
    return transport(uri) == "tls" or (not transport(uri) and bool(urlsplit(uri).hostname))


def quiet(uri: str) -> str:
    """The same URI; ssh asks nobody for a password, which would be asked in mid-work."""
    parts = urlsplit(uri)
    if transport(uri) != "ssh" or "no_tty" in dict(parse_qsl(parts.query)):
        return uri
    query = f"{parts.query}&no_tty=1" if parts.query else "no_tty=1"
    return parts._replace(query=query).geturl()


def cure(uri: str, said: str = "") -> str:
    """What to look at where there is no connection to this URI; `said` is the error."""
    parts = urlsplit(uri)
    host, kind = parts.hostname or "", transport(uri)
    look = f"see what `virsh -c '{uri}' version` says"
    if _UNRESOLVED.search(said):
        return _named(host)
    if is_local(uri):
        return f"start that libvirt (`systemctl start libvirtd`), or name its socket; {look}"
    if kind in SSH:
        user = f"{parts.username}@" if parts.username else ""
        return (
            f"`ssh -o BatchMode=yes {user}{host} true` must work as this user and as root; {look}"
        )
    if kind == "tcp":
        return f"libvirtd-tcp.socket must be active on {host} and its port open; {look}"
    return (
        f"libvirtd-tls.socket must be active on {host}, its port open, and the certificates valid"
    )


def _named(host: str) -> str:
    return f"put {host} into DNS or this host's /etc/hosts, or name it by its address"


def bracketed(address: str) -> str:
    """An address as a URI has it."""
    return f"[{address}]" if ":" in address else address


def spot(uri: str) -> Spot | None:
    """Where this URI's host is to be connected to; None where that is not ours to know."""
    parts = urlsplit(uri)
    host, kind = parts.hostname or "", transport(uri)
    if not host or kind not in PORTS:
        return None
    found = Spot(host=host, port=parts.port or PORTS[kind])
    return _after_aliases(found, parts) if kind == "ssh" else found


def _after_aliases(named: Spot, parts: SplitResult) -> Spot:
    """Host names may be ssh's own (ssh_config(5)): where it would really connect."""
    given = ["-p", str(parts.port)] if parts.port else []
    try:
        done = subprocess.run(
            ["ssh", "-G", *given, "--", named.host],  # noqa: S607 (the one that libvirt would run)
            capture_output=True,
            text=True,
            timeout=2,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return named
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    return Spot(host=told.get("hostname", named.host), port=int(told.get("port", named.port)))


def resolved(host: str, until_ns: int) -> Sequence[str]:
    """All that this name resolves to, in the resolver's order. Raises LibvirtUnreachableError."""
    try:
        found = within(
            max(0, until_ns - time.monotonic_ns()),
            lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM),
        )
    except (OSError, UnicodeError, TimeoutError) as error:
        late = isinstance(error, TimeoutError)
        told = "the resolver did not answer in time" if late else str(error).partition("] ")[2]
        raise LibvirtUnreachableError(
            f"{host} has no address that is known here ({told or error})",
            hint=_named(host),
        ) from None
    texts = list(dict.fromkeys(_texts(entry[4] for entry in found)))
    if not texts:
        raise LibvirtUnreachableError(
            f"{host} has link-local addresses only", hint="give it an address that every host knows"
        )
    return texts


def _texts(entries: Iterator[tuple[object, ...]]) -> Iterator[str]:
    for entry in entries:
        text = str(entry[0])
        # The zone of a link-local address is this host's name for its own interface.
        if not (":" in text and ipaddress.ip_address(text.partition("%")[0]).is_link_local):
            yield text


def connect(address: str, port: int, limit_s: float) -> str:
    """Why nothing answers there; empty where something does. What answers is hung up on."""
    if limit_s <= 0:
        return "no time was left to try"
    try:
        with socket.create_connection((address, port), timeout=limit_s):
            return ""
    except TimeoutError:
        return f"no answer in {limit_s:.1g} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()


def own_address(other: str, until_ns: int) -> str:
    """This host's address on the route to a host elsewhere. Sends nothing: a UDP socket that is
    connected only chooses its address. Raises LibvirtUnreachableError."""
    theirs = spot(other)
    if theirs is None:
        raise LibvirtUnreachableError(
            f"how {other} is reached is not known here, so its way back can't be found",
            hint="name this host as it is reached from there: --home URI",
        )
    for address in resolved(theirs.host, until_ns):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as routed:
                routed.connect((address, theirs.port))
                return str(routed.getsockname()[0])
        except OSError:
            continue
    raise LibvirtUnreachableError(
        f"there is no route from here to {theirs.host}",
        hint="look at `ip route`, or name this host as it is reached from there: --home URI",
    )
