# The part of libvirt-python that hostagent uses; the package itself is untyped.
from collections.abc import Callable
from typing import Any

VIR_ERR_ACCESS_DENIED: int
VIR_ERR_AGENT_UNRESPONSIVE: int
VIR_ERR_AGENT_UNSYNCED: int
VIR_ERR_ARGUMENT_UNSUPPORTED: int
VIR_ERR_AUTH_CANCELLED: int
VIR_ERR_AUTH_FAILED: int
VIR_ERR_AUTH_UNAVAILABLE: int
VIR_ERR_CALL_FAILED: int
VIR_ERR_CONFIG_UNSUPPORTED: int
VIR_ERR_CONF_SYNTAX: int
VIR_ERR_GNUTLS_ERROR: int
VIR_ERR_INTERNAL_ERROR: int
VIR_ERR_INVALID_ARG: int
VIR_ERR_INVALID_CONN: int
VIR_ERR_LIBSSH: int
VIR_ERR_NO_CONNECT: int
VIR_ERR_NO_DOMAIN: int
VIR_ERR_NO_MEMORY: int
VIR_ERR_NO_SUPPORT: int
VIR_ERR_OPERATION_ABORTED: int
VIR_ERR_OPERATION_DENIED: int
VIR_ERR_OPERATION_FAILED: int
VIR_ERR_OPERATION_INVALID: int
VIR_ERR_OPERATION_TIMEOUT: int
VIR_ERR_OPERATION_UNSUPPORTED: int
VIR_ERR_RESOURCE_BUSY: int
VIR_ERR_RPC: int
VIR_ERR_SSH: int
VIR_ERR_SYSTEM_ERROR: int
VIR_ERR_UNKNOWN_HOST: int
VIR_ERR_XML_ERROR: int

VIR_DOMAIN_NOSTATE: int
VIR_DOMAIN_RUNNING: int
VIR_DOMAIN_BLOCKED: int
VIR_DOMAIN_PAUSED: int
VIR_DOMAIN_SHUTDOWN: int
VIR_DOMAIN_SHUTOFF: int
VIR_DOMAIN_CRASHED: int
VIR_DOMAIN_PMSUSPENDED: int
VIR_DOMAIN_PAUSED_USER: int

VIR_DOMAIN_STATS_STATE: int
VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT: int
VIR_DOMAIN_CONTROL_ERROR: int
VIR_DOMAIN_CONTROL_JOB: int
VIR_DOMAIN_CONTROL_OCCUPIED: int
VIR_DOMAIN_CONTROL_OK: int
VIR_DOMAIN_JOB_NONE: int
VIR_DOMAIN_JOB_COMPLETED: int
VIR_DOMAIN_JOB_FAILED: int
VIR_DOMAIN_JOB_CANCELLED: int
VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_DEFAULT: int

class libvirtError(Exception):  # noqa: N801, N818 (libvirt's own name)
    def __init__(self, defmsg: str) -> None: ...
    def get_error_code(self) -> int | None: ...
    def get_error_domain(self) -> int | None: ...
    def get_error_message(self) -> str | None: ...
    def get_int1(self) -> int | None: ...

class virDomain:  # noqa: N801
    def ID(self) -> int: ...  # noqa: N802
    def UUIDString(self) -> str: ...  # noqa: N802
    def XMLDesc(self, flags: int = 0) -> str: ...  # noqa: N802
    def name(self) -> str: ...
    def state(self, flags: int = 0) -> list[int]: ...
    def controlInfo(self, flags: int = 0) -> list[int]: ...  # noqa: N802
    def jobStats(self, flags: int = 0) -> dict[str, Any]: ...  # noqa: N802
    def suspend(self) -> int: ...
    def resume(self) -> int: ...
    def create(self) -> int: ...
    def destroy(self) -> int: ...
    def undefine(self) -> int: ...
    def managedSave(self, flags: int = 0) -> int: ...  # noqa: N802
    def getTime(self, flags: int = 0) -> dict[str, int] | None: ...  # noqa: N802
    def agentSetResponseTimeout(self, timeout: int, flags: int = 0) -> int: ...  # noqa: N802

class virConnect:  # noqa: N801
    def close(self) -> int: ...
    def getURI(self) -> str: ...  # noqa: N802
    def getHostname(self) -> str: ...  # noqa: N802
    def getCapabilities(self) -> str: ...  # noqa: N802
    def getLibVersion(self) -> int: ...  # noqa: N802
    def getVersion(self) -> int: ...  # noqa: N802
    def isAlive(self) -> int: ...  # noqa: N802
    def setKeepAlive(self, interval: int, count: int) -> int: ...  # noqa: N802
    def getAllDomainStats(  # noqa: N802
        self, stats: int = 0, flags: int = 0
    ) -> list[tuple[virDomain, dict[str, Any]]]: ...
    def lookupByUUIDString(self, uuid: str) -> virDomain: ...  # noqa: N802
    def lookupByName(self, name: str) -> virDomain: ...  # noqa: N802
    def defineXML(self, xml: str) -> virDomain: ...  # noqa: N802
    def createXML(self, xml: str, flags: int = 0) -> virDomain: ...  # noqa: N802
    def registerCloseCallback(  # noqa: N802
        self, callback: Callable[[virConnect, int, Any], None], opaque: Any
    ) -> int: ...
    def unregisterCloseCallback(self) -> int: ...  # noqa: N802

def open(name: str | None = None) -> virConnect: ...  # noqa: A001
def openReadOnly(name: str | None = None) -> virConnect: ...  # noqa: N802
def getVersion(name: str | None = None) -> int: ...  # noqa: N802
def registerErrorHandler(  # noqa: N802
    f: Callable[[Any, Any], None] | None, ctx: Any
) -> int: ...
def virEventRegisterDefaultImpl() -> int: ...  # noqa: N802
def virEventRunDefaultImpl() -> int: ...  # noqa: N802
def virEventAddTimeout(  # noqa: N802
    timeout: int, callback: Callable[[int, Any], None], opaque: Any
) -> int: ...
