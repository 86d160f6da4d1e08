# The part of libvirt-python's QEMU module that hostagent uses; the package itself is untyped.
# ruff: noqa: ANN401 (libvirt hands opaque values through)
from collections.abc import Callable
from typing import Any

import libvirt

def qemuAgentCommand(domain: libvirt.virDomain, cmd: str, timeout: int, flags: int) -> str: ...

VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX: int

def qemuMonitorEventRegister(
    conn: libvirt.virConnect,
    dom: libvirt.virDomain | None,
    event: str | None,
    cb: Callable[[libvirt.virConnect, libvirt.virDomain, str, int, int, str | None, Any], None],
    opaque: Any,
    flags: int = 0,
) -> int: ...
def qemuMonitorEventDeregister(conn: libvirt.virConnect, callbackID: int) -> int: ...
