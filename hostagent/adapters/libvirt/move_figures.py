"""What was measured of a live move that ended at the destination.

Layer: adapters. The downtime has two sources: QEMU's own STOP and RESUME, by their time stamps, if
both hosts are one machine with one clock; and libvirt's figure of the finished job
(virDomainGetJobStats: downtime, and downtime_net without the difference of the hosts' clocks), in
whole ms. The events are a lower bound: STOP is sent after the CPUs stopped, RESUME before they
start. Times in ns. Errors: none; a figure that could not be had is absent.
"""

import time
from typing import Any

import libvirt

from hostagent.adapters.libvirt.events import Events
from hostagent.adapters.libvirt.move_live import Ended, on_one_machine
from hostagent.adapters.libvirt.move_places import Place
from hostagent.core.errors import HostagentError
from hostagent.core.move import Order

S = 1_000_000_000
MS = 1_000_000


def figures(
    order: Order, ended: Ended, destination: Place, events: tuple[Events, Events]
) -> dict[str, int | str]:
    """What was measured of a move that ended at the destination."""
    measured: dict[str, int | str] = {
        "total_ns": ended.ended_ns - ended.begun_ns,
        "sent_b": ended.progress.sent_b,
    }
    stats = _completed(order, destination)
    if stats:
        measured["sent_b"] = int(stats.get(libvirt.VIR_DOMAIN_JOB_DATA_PROCESSED, 0))
    if not order.runs:
        return measured
    if "downtime" in stats:
        whole, net = int(stats["downtime"]), int(stats.get("downtime_net", stats["downtime"]))
        measured["downtime_qemu_ns"] = whole * MS
        measured |= _downtime("qemu", whole * MS, (abs(whole - net) + 1) * MS)
    stood_ns = _between(order.uuid, ended.begun_ns, events)
    if stood_ns is not None and on_one_machine(order):
        measured["downtime_events_ns"] = stood_ns
        measured |= _downtime("events", stood_ns, MS)
    return measured


def _downtime(source: str, downtime_ns: int, uncertainty_ns: int) -> dict[str, int | str]:
    return {
        "downtime_ns": downtime_ns,
        "downtime_source": source,
        "downtime_uncertainty_ns": uncertainty_ns,
    }


def _completed(order: Order, destination: Place) -> dict[str, Any]:
    try:
        return destination.guest(
            "reading the move's figures",
            order.uuid,
            3 * S,
            lambda domain: domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED),
        )
    except HostagentError:
        return {}


def _between(uuid: str, since_ns: int, events: tuple[Events, Events]) -> int | None:
    """From the source's last STOP to the destination's first RESUME after it, by QEMU's stamps."""
    stops = [
        event
        for event in events[0].of(uuid)
        if event.name == "STOP" and event.received_ns >= since_ns
    ]
    if not stops:
        return None
    until_ns = time.monotonic_ns() + S // 2
    resume = events[1].await_name(uuid, "RESUME", stops[-1].received_ns - S, until_ns)
    stop = stops[-1]
    if resume is None or resume.at_ns is None or stop.at_ns is None:
        return None
    return resume.at_ns + resume.shift_ns - stop.at_ns - stop.shift_ns
