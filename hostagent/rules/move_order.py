"""One attempt at one guest as an order: its limits, its schedule, what is copied and left behind.

Layer: rules; pure. Units: ns, KiB.
"""

from collections.abc import Collection, Sequence

from hostagent.core.model import RUNS, Host
from hostagent.core.move import Destination, Disk, Method, Movable, MoveHost, Order, Stage
from hostagent.core.policy import OnReboot
from hostagent.rules import convergence
from hostagent.rules.move_orders import Operation
from hostagent.rules.move_request import MoveRequest
from hostagent.rules.move_room import copied, needed_kib

S = 1_000_000_000
START_NS = 60 * S
"""For moving a definition and powering the guest on there."""
SAVE_NS = 300 * S
MARGIN_NS = 30 * S
"""For what comes before and after the stream of a live move."""


def order(
    guest: Movable,
    source: MoveHost,
    there: Destination | None,
    method: Method,
    request: MoveRequest,
    home: Host,
    own_copies: Collection[str] = (),
) -> Order:
    """One attempt at this guest; `there` is None for a method that ends it where it is, `home` is
    the host whose run this is, `own_copies` are as of move_checks. A guest that comes home takes
    its disks along: nothing of a drain is left on the host to which it was moved."""
    disks = () if there is None else copied(guest, there)
    home_uuid, home_name = _breadcrumb(guest, request, home)
    live_ns = convergence.time_limit_ns(
        guest.memory_kib + sum(map(needed_kib, disks)), bandwidth_mib_s=request.bandwidth_mib_s
    )
    return Order(
        uuid=guest.uuid,
        name=guest.name,
        method=method,
        source=source.uri,
        destination="" if there is None else there.host.uri,
        via="" if there is None else there.via,
        stream="" if there is None else there.stream,
        persistent=guest.persistent,
        autostart=guest.autostart,
        runs=guest.state in RUNS,
        home=home_uuid,
        home_name=home_name,
        copy=tuple(disk.target for disk in disks),
        left=tuple(disk.source for disk in disks),
        over=tuple(disk.source for disk in disks if disk.source in own_copies),
        delete_source_disks=bool(disks) and _deletes(request),
        bandwidth_mib_s=request.bandwidth_mib_s,
        limit_ns=_limit_ns(method, live_ns, request),
        shutdown_ns=request.shutdown_ns,
        convergence=_schedule(guest, disks, live_ns, request) if method is Method.LIVE else (),
    )


def _breadcrumb(guest: Movable, request: MoveRequest, home: Host) -> tuple[str | None, str]:
    """A drained guest knows its home; one that is home again does not, and one that is moved for
    good keeps what it has. So does one that is away from another home than this."""
    if guest.home not in ("", home.uuid):
        return None, ""
    match request.operation:
        case Operation.DRAIN | Operation.SPARE:
            return home.uuid, home.name
        case Operation.RESTORE | Operation.RETURN:
            return "", ""
        case Operation.MIGRATE:
            return None, ""


def _limit_ns(method: Method, live_ns: int, request: MoveRequest) -> int:
    match method:
        case Method.LIVE:
            return live_ns + MARGIN_NS
        case Method.COLD:
            return request.shutdown_ns + live_ns + START_NS
        case Method.OFFLINE:
            return live_ns + START_NS
        case Method.SAVE:
            return live_ns + SAVE_NS
        case Method.SHUTDOWN:
            return request.shutdown_ns + MARGIN_NS


def _schedule(
    guest: Movable, disks: Sequence[Disk], live_ns: int, request: MoveRequest
) -> tuple[Stage, ...]:
    return convergence.schedule(
        memory_kib=guest.memory_kib,
        copied_kib=sum(map(needed_kib, disks)),
        limit_ns=live_ns,
        bandwidth_mib_s=request.bandwidth_mib_s,
        max_pause_ns=guest.policy.max_pause_ns,
        post_copy=OnReboot.POST_COPY in guest.policy.on_reboot,
    )


def _deletes(request: MoveRequest) -> bool:
    """Whether the originals of copied disks go once the guest has arrived. What a drain has copied
    goes when the guest is home again: it would be in the way of the next drain."""
    return request.delete_source_disks or request.operation.comes_home
