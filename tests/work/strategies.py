"""What hypothesis may choose: guests, troubles, and moments."""

from hypothesis import strategies as st

from hostagent.core.plan import Verb
from hostagent.rules.request import S
from tests.work.scenario import Scenario
from tests.work.simulated_run import Script
from tests.work.world import MS, GuestScript

MOST_ROWS = 32
AGENTS = st.sampled_from(["", "good", "good", "busy", "hung", "away", "refuses", "restless"])
PLAIN = st.just(GuestScript()) | st.builds(GuestScript, agent=AGENTS)
RARELY = st.sampled_from([False, False, False, False, True])

GUESTS = PLAIN | st.builds(
    GuestScript,
    suspend_ns=st.sampled_from([MS, MS, MS, 300 * MS, 3 * S, 6 * S, 12 * S, 40 * S]),
    refuses=RARELY,
    owner_pauses_before=RARELY,
    owner_pauses_after=st.booleans(),
    owner_resumes_ns=st.sampled_from([None, None, None, 100 * MS, 3 * S]),
    gone_ns=st.sampled_from([None, None, None, 0, 100 * MS, 3 * S]),
    frozen_ns=st.sampled_from([None, None, 0, MS // 2, 100 * MS, 2 * S]),
    thawed_after_ns=st.sampled_from([None, 100 * MS, 4 * S, 20 * S, 60 * S]),
    resume_failures=st.sampled_from([0, 0, 1, 2]),
    agent=AGENTS,
)

TROUBLES = st.dictionaries(
    st.sampled_from(
        [
            Verb.PREPARE,
            Verb.LAUNCH,
            Verb.ARM,
            Verb.PAUSE,
            Verb.APPLY,
            Verb.RESUME,
            Verb.CANCEL,
            Verb.DISARM,
            Verb.CENSUS,
            Verb.READ_CLOCKS,
            Verb.SYNC_CLOCKS,
            Verb.SIGNAL,
            Verb.VERIFY,
            Verb.ROLLBACK,
        ]
    ),
    st.sampled_from(["hangs", "refused", "breaks", "slow"]),
    max_size=2,
)

DISKS = st.dictionaries(
    st.sampled_from([Verb.PREPARE, Verb.LAUNCH, Verb.ARM, Verb.PAUSE, Verb.APPLY, Verb.VERIFY]),
    st.sampled_from(["hangs", "fails", "slow", "late"]),
    max_size=1,
)

MOMENTS = st.integers(2, MOST_ROWS) | st.tuples(
    st.sampled_from(
        [
            *("launch", "arm", "pause", "apply", "resume", "resume", "disarm", "verify"),
            *("sync-clocks", "sync-clocks"),
        ]
    ),
    st.sampled_from(["begun", "closed"]),
)

ONE_OR_TWO = st.lists(
    st.sampled_from(["signal", "signal-later", "guardian-dies", "owners-pause", "crash-later"]),
    min_size=1,
    max_size=2,
).map(tuple)
ACTIONS = ONE_OR_TWO | st.sampled_from([("crash",), ("guardian-dies", "crash")])

SCRIPTS = st.builds(
    Script,
    trouble=st.just({}) | TROUBLES,
    disk=st.just({}) | DISKS,
    command_ns=st.sampled_from([10 * MS, 2 * S, 2 * S, 29 * S, 90 * S, None]),
    exit_code=st.sampled_from([0, 0, 3]),
    heeds_signals=st.booleans(),
    side_exit_code=st.sampled_from([0, 0, 0, 0, 1]),
    side_ns=st.sampled_from([S, S, S, S, None]),
    events=st.dictionaries(MOMENTS, ACTIONS, min_size=1, max_size=4) | st.just({}),
    delay_ns=st.sampled_from([MS // 2, 100 * MS, 3 * S, 15 * S, 31 * S]),
    lost_rows=st.integers(0, 4),
)

TERMS = st.fixed_dictionaries(
    {},
    optional={
        "budget_ns": st.sampled_from([3 * S, 10 * S, 30 * S]),
        "allow_unpaused": st.booleans(),
        "kill_after_ns": st.sampled_from([0, 5 * S]),
        "prepare": st.just(("get",)),
        "verify": st.just(("look",)),
        "rollback": st.just(("undo",)),
        "all_guests": st.booleans(),
    },
)

SCENARIOS = st.builds(
    Scenario,
    guests=st.lists(GUESTS, min_size=1, max_size=3).map(
        lambda found: dict(zip("abc", found, strict=False))
    ),
    script=SCRIPTS,
    terms=TERMS,
)
