"""The schedule of a live move as data: what is done, and when, for one that does not end by itself.

Layer: rules; pure. A live move sends memory while the guest goes on writing it, and pauses the
guest for the last part as soon as that part fits into the allowed downtime. The schedule begins
with a short downtime and raises it step by step to the longest that is acceptable; the guest may be
throttled from the beginning (QEMU does so only once it outruns the link); then comes post-copy, if
its owner allows that; and always, as the last stage, the move is aborted and the guest stays where
it runs.

Invariants: a schedule ends with ABORT, once; times never go back; no downtime is longer than what
is acceptable. Units: ns since the move began, and ms where QEMU takes ms. Deliberately absent: a
look at the progress. A stage comes at its time whatever the figures say, so that no figure that is
stale, or that never comes, keeps a move from ending.

The figures follow oVirt: its policies "Minimal downtime" and "Suspend workload if needed"
(MigrationPolicies of engine-config) and vdsm's config.py.in. Those go on by iterations of QEMU's;
here an iteration is reckoned as the time in which the link carries the guest's memory once.
"""

from collections.abc import Iterator, Sequence

from hostagent.core.move import Measure, Stage

MS = 1_000_000
S = 1000 * MS

GENTLE_MS = (100, 150, 200, 300, 400, 500)
"""oVirt's "Minimal downtime"; 500 ms is vdsm's migration_downtime too."""
COARSER = 4
"""Above those each step is so many times the one before, up to what the guest's owner accepts.
oVirt's "Suspend workload if needed" goes from 500 ms to 5 s at once."""
MOST_MS = 2_000_000
"""QEMU takes no longer downtime (migration/options.c: MAX_MIGRATE_DOWNTIME_SECONDS is 2000)."""
LEAST_STEP_NS = S
"""QEMU needs some of its 100 ms samples of the link before a new downtime means anything."""

SLOWEST_KIB_S = 16 * 1024
"""A move that is slower than this over all is given up: vdsm's migration_max_time_per_gib_mem, 64 s
for each GiB (half of its default bandwidth)."""
SETUP_NS = 30 * S
"""For all that comes before the first byte: vdsm's migration_listener_timeout."""
PASSES = 4
"""Where an operator has made the link narrower than that: so many times the guest's memory."""
MOST_NS = 6 * 3600 * S
"""No move takes longer: vdsm's migration_destination_timeout."""


def time_limit_ns(
    size_kib: int, *, bandwidth_mib_s: int = 0, slowest_kib_s: int = SLOWEST_KIB_S
) -> int:
    """How long a live move may take. `size_kib` is the guest's memory and all disks that are
    copied, `bandwidth_mib_s` what the link is limited to (0: not known)."""
    rate_kib_s = max(slowest_kib_s, 1)
    if bandwidth_mib_s > 0:
        rate_kib_s = max(min(rate_kib_s, bandwidth_mib_s * 1024 // PASSES), 1)
    return min(SETUP_NS + max(size_kib, 0) * S // rate_kib_s, MOST_NS)


def downtimes_ms(max_pause_ns: int | None) -> tuple[int, ...]:
    """The steps of the allowed downtime, up to the longest acceptable (None: oVirt's 500 ms)."""
    longest_ms = GENTLE_MS[-1] if max_pause_ns is None else max_pause_ns // MS
    longest_ms = min(max(longest_ms, 1), MOST_MS)
    return (*(step for step in _steps_ms() if step < longest_ms), longest_ms)


def _steps_ms() -> Iterator[int]:
    yield from GENTLE_MS
    step_ms = GENTLE_MS[-1] * COARSER
    while step_ms < MOST_MS:
        yield step_ms
        step_ms *= COARSER


def schedule(
    *,
    memory_kib: int,
    limit_ns: int,
    copied_kib: int = 0,
    bandwidth_mib_s: int = 0,
    max_pause_ns: int | None = None,
    post_copy: bool = False,
) -> tuple[Stage, ...]:
    """The stages of one live move.

    A step comes each time that the link has carried the memory once; where the link isn't known,
    the steps share the first half of the limit. The other half is for the last of them, or for
    post-copy. `copied_kib` of disks are sent before the memory: the steps wait for them.
    """
    limit_ns = max(limit_ns, 0)
    steps_ms = downtimes_ms(max_pause_ns)
    times_ns = _times_ns(len(steps_ms), limit_ns // 2, memory_kib, copied_kib, bandwidth_mib_s)
    throttle = Stage(after_ns=0, measure=Measure.AUTO_CONVERGE)
    steps = (
        Stage(after_ns=after_ns, measure=Measure.MAX_DOWNTIME, downtime_ms=step_ms)
        for after_ns, step_ms in zip((0, *times_ns), steps_ms, strict=False)
    )
    last_resort = (Stage(after_ns=times_ns[-1], measure=Measure.POST_COPY),) if post_copy else ()
    return (throttle, *steps, *last_resort, Stage(after_ns=limit_ns, measure=Measure.ABORT))


def _times_ns(
    count: int, within_ns: int, memory_kib: int, copied_kib: int, bandwidth_mib_s: int
) -> tuple[int, ...]:
    """When each of so many steps has had its time, all of them `within_ns`."""
    memory_kib, copied_kib = max(memory_kib, 1), max(copied_kib, 0)
    copying_ns = within_ns * copied_kib // (memory_kib + copied_kib)
    if bandwidth_mib_s > 0:
        copying_ns = min(copying_ns, _carried_ns(copied_kib, bandwidth_mib_s))
    step_ns = (within_ns - copying_ns) // count
    if bandwidth_mib_s > 0:
        step_ns = min(step_ns, max(_carried_ns(memory_kib, bandwidth_mib_s), LEAST_STEP_NS))
    return tuple(copying_ns + number * step_ns for number in range(1, count + 1))


def _carried_ns(size_kib: int, bandwidth_mib_s: int) -> int:
    return size_kib * S // (bandwidth_mib_s * 1024)


def due(stages: Sequence[Stage], since_ns: int, done_count: int) -> Stage | None:
    """The next stage to be carried out, `since_ns` after the move began and with the first
    `done_count` stages done; None while there is none.

    An abort that is due comes before all that was missed, so that a move that nobody looked after
    for long is not driven on. Whoever carries it out: a move that has gone over to post-copy can no
    longer be aborted, since the guest's memory is on two hosts by then.
    """
    left = stages[done_count:]
    if left and left[-1].measure is Measure.ABORT and left[-1].after_ns <= since_ns:
        return left[-1]
    return left[0] if left and left[0].after_ns <= since_ns else None
