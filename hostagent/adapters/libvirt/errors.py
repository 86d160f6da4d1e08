"""libvirt's errors in the operator's words: one table, one `translate`.

Layer: adapters. Invariants: the table is data; each code that libvirt's driver for QEMU, its
transport and its agent channel can answer our calls with has a row that says what to do next.
Codes of subjects that hostagent never calls (networks, storage, secrets ...) are named in
`UNCONCERNED`, so that a test can tell a forgotten code from an irrelevant one. Source:
virErrorNumber, https://libvirt.org/html/libvirt-virterror.html. Effects: none.
"""

import errno
from dataclasses import dataclass

import libvirt

from hostagent.core.errors import (
    HostagentError,
    LibvirtCallError,
    LibvirtUnreachableError,
    RefusedError,
    UsageError,
)

LONGEST = 400
"""Characters of libvirt's own message that are passed on: a guest's agent may write megabytes."""

VIR_FROM_RPC = libvirt.VIR_FROM_RPC
"""The part of libvirt that carries calls: errors from here are about the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a code means: the class decides the exit status, `says` is the operator's sentence."""

    becomes: type[HostagentError]
    says: str
    hint: str


_LOOK_AT_LOG = "look at libvirt's log: `journalctl -u libvirtd` (or virtqemud)"
_START = "start libvirt (`systemctl start libvirtd`) or name another host with -c URI"
_RIGHTS = "run as root, or as a member of the group libvirt, or allow it in polkit's rules"

UNREACHABLE = Row(
    becomes=LibvirtUnreachableError, says="there is no connection to libvirt", hint=_START
)
FORBIDDEN = Row(
    becomes=LibvirtUnreachableError, says="this user is not let into libvirt", hint=_RIGHTS
)
OTHER = Row(becomes=LibvirtCallError, says="libvirt reports an error", hint=_LOOK_AT_LOG)

_MEMORY = Row(
    becomes=LibvirtCallError, says="out of memory", hint="free memory on this host and try again"
)
_ADDRESS = Row(
    becomes=UsageError,
    says="the libvirt URI names no host that can be reached",
    hint="check -c/--connect and LIBVIRT_DEFAULT_URI; a local host is qemu:///system",
)
_UNSUPPORTED = Row(
    becomes=LibvirtCallError,
    says="this libvirt or QEMU can't do that",
    hint="`hostagent status` shows the versions; update libvirt and QEMU",
)
_FAILED = Row(
    becomes=LibvirtCallError,
    says="libvirt tried and it failed",
    hint="look at the guest's log below /var/log/libvirt/qemu and at " + _LOOK_AT_LOG[8:],
)
_STALE = Row(
    becomes=LibvirtUnreachableError,
    says="the connection to libvirt is gone",
    hint="libvirt was restarted: run the command again",
)

TABLE: dict[int, Row] = {
    libvirt.VIR_ERR_NO_DOMAIN: Row(
        becomes=RefusedError,
        says="there is no such guest any more",
        hint="`hostagent status` lists the guests of this host",
    ),
    libvirt.VIR_ERR_INVALID_DOMAIN: _STALE,
    libvirt.VIR_ERR_INVALID_CONN: _STALE,
    libvirt.VIR_ERR_OPERATION_INVALID: Row(
        becomes=RefusedError,
        says="the guest's present state does not allow it",
        hint="see its state with `hostagent status`; it changed while we looked",
    ),
    libvirt.VIR_ERR_OPERATION_TIMEOUT: Row(
        becomes=RefusedError,
        says="the guest is held by another operation",
        hint="see `virsh domjobinfo GUEST` and `virsh domcontrol GUEST`; wait for it or abort it",
    ),
    libvirt.VIR_ERR_RESOURCE_BUSY: Row(
        becomes=RefusedError,
        says="something else is using it",
        hint="wait for the other operation on this guest to end",
    ),
    libvirt.VIR_ERR_OPERATION_ABORTED: Row(
        becomes=LibvirtCallError,
        says="the operation was aborted by somebody",
        hint="see what state the guest is in with `hostagent status`",
    ),
    libvirt.VIR_ERR_OPERATION_FAILED: _FAILED,
    libvirt.VIR_ERR_INTERNAL_ERROR: _FAILED,
    libvirt.VIR_ERR_SYSTEM_ERROR: _FAILED,
    libvirt.VIR_ERR_HOOK_SCRIPT_FAILED: Row(
        becomes=LibvirtCallError,
        says="libvirt's hook script refused it",
        hint="look at /etc/libvirt/hooks/qemu on this host",
    ),
    libvirt.VIR_ERR_OPERATION_DENIED: Row(
        becomes=RefusedError, says="the connection is read-only", hint=_RIGHTS
    ),
    libvirt.VIR_ERR_ACCESS_DENIED: FORBIDDEN,
    libvirt.VIR_ERR_AUTH_FAILED: FORBIDDEN,
    libvirt.VIR_ERR_AUTH_CANCELLED: FORBIDDEN,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: Row(
        becomes=LibvirtUnreachableError,
        says="polkit's consent is wanted, and nobody can be asked for it, by libvirt",
        hint=_RIGHTS,
    ),
    libvirt.VIR_ERR_NO_CONNECT: UNREACHABLE,
    libvirt.VIR_ERR_NO_SERVER: UNREACHABLE,
    libvirt.VIR_ERR_NO_CLIENT: UNREACHABLE,
    libvirt.VIR_ERR_RPC: UNREACHABLE,
    libvirt.VIR_ERR_GNUTLS_ERROR: UNREACHABLE,
    libvirt.VIR_ERR_SSH: UNREACHABLE,
    libvirt.VIR_ERR_LIBSSH: UNREACHABLE,
    libvirt.VIR_ERR_UNKNOWN_HOST: _ADDRESS,
    libvirt.VIR_ERR_NO_HOSTNAME: _ADDRESS,
    libvirt.VIR_ERR_NO_SUPPORT: _UNSUPPORTED,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: _UNSUPPORTED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: _UNSUPPORTED,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: _UNSUPPORTED,
    libvirt.VIR_ERR_CALL_FAILED: _UNSUPPORTED,
    libvirt.VIR_ERR_NO_MEMORY: _MEMORY,
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: Row(
        becomes=LibvirtCallError,
        says="the guest's agent does not answer",
        hint="look at qemu-guest-agent inside the guest; the guest itself may be stopped",
    ),
    libvirt.VIR_ERR_AGENT_UNSYNCED: Row(
        becomes=LibvirtCallError,
        says="the guest's agent is out of step",
        hint="restart qemu-guest-agent inside the guest",
    ),
    libvirt.VIR_ERR_CONF_SYNTAX: Row(
        becomes=UsageError,
        says="libvirt's client configuration has an error",
        hint="look at ~/.config/libvirt/libvirt.conf and /etc/libvirt/libvirt.conf",
    ),
    libvirt.VIR_ERR_OPEN_FAILED: _FAILED,
    libvirt.VIR_ERR_READ_FAILED: _FAILED,
    libvirt.VIR_ERR_WRITE_FAILED: _FAILED,
    libvirt.VIR_ERR_DBUS_SERVICE: _FAILED,
    libvirt.VIR_ERR_DEVICE_MISSING: _FAILED,
    libvirt.VIR_ERR_CPU_INCOMPATIBLE: _FAILED,
    libvirt.VIR_ERR_INVALID_ARG: OTHER,
    libvirt.VIR_ERR_OVERFLOW: OTHER,
    libvirt.VIR_ERR_PARSE_FAILED: OTHER,
    libvirt.VIR_ERR_XML_ERROR: OTHER,
    libvirt.VIR_ERR_XML_DETAIL: OTHER,
    libvirt.VIR_ERR_NO_DOMAIN_METADATA: OTHER,
    libvirt.VIR_ERR_MULTIPLE_DOMAINS: Row(
        becomes=RefusedError,
        says="more than one guest goes by that name",
        hint="name it by its UUID",
    ),
}

UNCONCERNED = frozenset(
    (
        "BLOCK_COPY_ACTIVE",
        "BUILD_FIREWALL",
        "CHECKPOINT_INCONSISTENT",
        "DOM_EXIST",
        "DRIVER_FULL",
        "GET_FAILED",
        "HTTP_ERROR",
        "INVALID_DOMAIN_CHECKPOINT",
        "INVALID_DOMAIN_SNAPSHOT",
        "INVALID_INTERFACE",
        "INVALID_MAC",
        "INVALID_NETWORK",
        "INVALID_NETWORK_PORT",
        "INVALID_NODE_DEVICE",
        "INVALID_NWFILTER",
        "INVALID_NWFILTER_BINDING",
        "INVALID_SECRET",
        "INVALID_STORAGE_POOL",
        "INVALID_STORAGE_VOL",
        "INVALID_STREAM",
        "MIGRATE_FINISH_OK",
        "MIGRATE_PERSIST_FAILED",
        "MIGRATE_UNSAFE",
        "MULTIPLE_INTERFACES",
        "NETWORK_EXIST",
        "NETWORK_PORT_EXIST",
        "NO_DEVICE",
        "NO_DOMAIN_BACKUP",
        "NO_DOMAIN_CHECKPOINT",
        "NO_DOMAIN_SNAPSHOT",
        "NO_INTERFACE",
        "NO_KERNEL",
        "NO_NAME",
        "NO_NETWORK",
        "NO_NETWORK_PORT",
        "NO_NODE_DEVICE",
        "NO_NWFILTER",
        "NO_NWFILTER_BINDING",
        "NO_OS",
        "NO_ROOT",
        "NO_SECRET",
        "NO_SECURITY_MODEL",
        "NO_SOURCE",
        "NO_STORAGE_POOL",
        "NO_STORAGE_VOL",
        "NO_TARGET",
        "NO_XEN",
        "NO_XENSTORE",
        "OS_TYPE",
        "POST_FAILED",
        "SEXPR_SERIAL",
        "SNAPSHOT_REVERT_RISKY",
        "STORAGE_POOL_BUILT",
        "STORAGE_PROBE_FAILED",
        "STORAGE_VOL_EXIST",
        "XEN_CALL",
        "XML_INVALID_SCHEMA",
    )
)
"""Codes (less VIR_ERR_) of subjects that hostagent does not touch; they get the row OTHER."""


def translate(error: libvirt.libvirtError, doing: str = "", at: str = "") -> HostagentError:
    """Our error for libvirt's. `doing` says what was tried ("suspend guest web1"), `at` which
    libvirt was asked, for an error that is about the connection."""
    row = _row(error)
    told = " ".join((error.get_error_message() or str(error)).split())
    told = told if len(told) <= LONGEST else f"{told[:LONGEST]} ..."
    lead = f"{doing}: " if doing else ""
    place = f" at {at}" if at and issubclass(row.becomes, LibvirtUnreachableError) else ""
    return row.becomes(f"{lead}{row.says}{place} ({told})", hint=row.hint)


def no_answer(doing: str, limit_ns: int, at: str) -> LibvirtUnreachableError:
    """The error for a libvirt that hangs: `at` names its socket or URI."""
    return LibvirtUnreachableError(
        f"{doing}: libvirt at {at} did not answer within {limit_ns / 1e9:g} s",
        hint="it hangs or is stopped: look at it (`ps -o pid,stat,cmd -C libvirtd,virtqemud`)"
        " and restart it; running guests survive that",
    )


def _row(error: libvirt.libvirtError) -> Row:
    code = error.get_error_code()
    if error.get_error_domain() == VIR_FROM_RPC:
        refused = error.get_int1() in (errno.EACCES, errno.EPERM)
        if code == libvirt.VIR_ERR_SYSTEM_ERROR and refused:
            return FORBIDDEN
        if code in (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR):
            return UNREACHABLE
    return OTHER if code is None else TABLE.get(code, OTHER)


def is_unreachable(error: HostagentError) -> bool:
    """Whether a new connection might help."""
    return isinstance(error, LibvirtUnreachableError)
