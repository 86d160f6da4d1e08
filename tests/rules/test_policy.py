"""A guest's policy as texts: what a person types, and what somebody else left in the metadata."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.core.durations import MOST_NS
from hostagent.core.errors import UsageError
from hostagent.core.policy import OnPause, OnReboot, Policy
from hostagent.rules import policy as policies

S = 1_000_000_000
WORDS = st.text("abcXYZ019_.@:/+-", min_size=1, max_size=12)
DURATIONS = st.integers(1, MOST_NS // 10**6).map(lambda ms: ms * 10**6)
POLICIES = st.builds(
    Policy,
    owner=WORDS | st.just(""),
    availability_set=WORDS | st.just(""),
    update_domain=st.integers(0, policies.MOST_UPDATE_DOMAINS - 1) | st.none(),
    scale_set=WORDS | st.just(""),
    on_pause=st.sampled_from(OnPause),
    on_reboot=st.sets(st.sampled_from(OnReboot)).map(
        lambda rungs: tuple(rung for rung in OnReboot if rung in rungs)
    ),
    max_pause_ns=DURATIONS | st.none(),
    notice_ns=DURATIONS | st.none(),
    temporary_disks=st.lists(WORDS, max_size=5, unique=True).map(tuple),
)


@given(POLICIES)
def test_what_is_written_is_read_without_a_problem(policy: Policy) -> None:
    assert policies.read(policies.write(policy)) == (policy, ())


@given(POLICIES, POLICIES)
def test_what_is_shown_can_be_typed(before: Policy, after: Policy) -> None:
    typed = [f"{name}={policies.text_of(after, name)}" for name in policies.KEYS]
    assert policies.changed(before, typed) == after


@given(st.dictionaries(st.sampled_from([*policies.KEYS, "nonsense"]), st.text(max_size=300)))
def test_any_texts_have_an_answer_and_short_sentences(texts: dict[str, str]) -> None:
    policy, problems = policies.read(texts)
    for problem in problems:
        assert len(problem) < 500
    assert policies.read(policies.write(policy)) == (policy, ())


def test_every_field_has_a_key() -> None:
    assert {key.field for key in policies.KEYS.values()} == set(Policy.__dataclass_fields__)


def test_nothing_said_is_the_default() -> None:
    assert policies.read({}) == (Policy(), ())
    assert policies.write(Policy()) == {}


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("owner=ops@example.org", "owner", "ops@example.org"),
        ("availability-set=web", "availability_set", "web"),
        ("update-domain=0", "update_domain", 0),
        ("update-domain=19", "update_domain", 19),
        ("scale-set=web", "scale_set", "web"),
        ("on-pause=migrate", "on_pause", OnPause.MIGRATE),
        ("on-pause = ask ", "on_pause", OnPause.ASK),
        ("on-reboot=cold,live", "on_reboot", (OnReboot.LIVE, OnReboot.COLD)),
        ("on-reboot=live, post-copy", "on_reboot", (OnReboot.LIVE, OnReboot.POST_COPY)),
        ("on-reboot=none", "on_reboot", ()),
        ("max-pause=1.5s", "max_pause_ns", 1500 * 10**6),
        ("notice=15m", "notice_ns", 900 * S),
        ("temporary-disks=vdb,vdc", "temporary_disks", ("vdb", "vdc")),
    ],
)
def test_one_key_is_changed(assignment: str, field: str, value: object) -> None:
    assert policies.changed(Policy(), [assignment]) == replace(Policy(), **{field: value})


def test_an_empty_value_brings_the_default_back() -> None:
    policy = Policy(owner="ops", on_reboot=(), max_pause_ns=S)
    assert policies.changed(policy, ["on-reboot=", "max-pause="]) == Policy(owner="ops")


@pytest.mark.parametrize(
    ("assignment", "said", "suggested"),
    [
        ("owner", "not KEY=VALUE", "did you mean owner=...?"),
        ("ownr=ops", "no key 'ownr'", "did you mean owner=...?"),
        ("on_reboot=live", "no key 'on_reboot'", "did you mean on-reboot=...?"),
        ("ON-PAUSE=ask", "no key 'ON-PAUSE'", "did you mean on-pause=...?"),
        ("colour=red", "no key 'colour'", "keys: owner, availability-set,"),
        ("=", "no key ''", "keys: owner, availability-set,"),
        ("on-pause=migrat", "on-pause can't be 'migrat'", "did you mean on-pause=migrate?"),
        ("on-pause=Allow", "one of allow, migrate, ask", "did you mean on-pause=allow?"),
        ("on-reboot=nowhere", "save, shutdown, or none", ""),
        ("on-reboot=life,cold", "'life,cold'", "did you mean on-reboot=live,cold?"),
        ("on-reboot=live,live", "only once", "did you mean on-reboot=live?"),
        ("on-reboot=none,live", "stands alone", ""),
        ("on-reboot=live,", "'live,'", "brings back"),
        ("update-domain=20", "from 0 to 19", "`update-domain=` brings back"),
        ("update-domain=-1", "from 0 to 19", "brings back"),
        ("update-domain=\u0663", "from 0 to 19", "brings back"),
        ("max-pause=0", "whole milliseconds", "brings back"),
        ("max-pause=0.5ms", "whole milliseconds", "brings back"),
        ("max-pause=25h", "up to a day", "brings back"),
        ("notice=soon", "'soon'", "brings back"),
        ("owner=a b", "only letters of English", "brings back"),
        ("availability-set=w\u0435b", "only letters of English", "brings back"),
        ("temporary-disks=vda,vda", "only once", "brings back"),
        (f"owner={'a' * 201}", "at most 200", "brings back"),
    ],
)
def test_what_is_typed_wrongly_is_refused_with_a_suggestion(
    assignment: str, said: str, suggested: str
) -> None:
    with pytest.raises(UsageError) as refused:
        policies.changed(Policy(), [assignment])
    assert refused.value.exit_code == 2
    assert said in refused.value.message
    assert suggested in refused.value.hint
    assert len(refused.value.message) < 300


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="owner is given twice"):
        policies.changed(Policy(), ["owner=a", "owner=b"])


def test_one_wrong_text_leaves_the_others_in_force() -> None:
    policy, problems = policies.read({"owner": "ops", "on-reboot": "live,cool", "nonsense": "x"})
    assert policy == Policy(owner="ops")
    assert [problem.partition(" ")[0] for problem in problems] == ["'on-reboot'", "'nonsense'"]


def test_an_update_domain_alone_is_remarked_on() -> None:
    assert policies.remarks(Policy(update_domain=3))
    assert not policies.remarks(Policy(update_domain=3, availability_set="web"))
    assert not policies.remarks(Policy())
