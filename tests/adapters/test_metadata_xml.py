"""hostagent's element as XML: what somebody else wrote there, and what survives our writing."""

from datetime import datetime
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from hostagent.adapters.libvirt.metadata_xml import MOST_TEXT, read, with_home, with_policy
from hostagent.core.policy import GuestNotes, Home, OnPause, OnReboot, Policy
from hostagent.rules.policy import KEYS, NAMESPACE
from tests.rules.test_policy import POLICIES

S = 1_000_000_000
HOME = Home(
    host_uuid="0a1b2c3d-1111-2222-3333-444455556666",
    host_name="h1.example.org",
    since="2026-11-25T13:00:00Z",
)
HOMES = st.builds(
    Home,
    host_uuid=st.uuids().map(str),
    host_name=st.text("abc.-", max_size=20),
    since=st.datetimes(datetime(1970, 1, 1)).map(lambda at: f"{at:%Y-%m-%dT%H:%M:%SZ}")
    | st.just(""),
)
SCHEMA = etree.XMLSchema(
    etree.fromstring(resources.files("hostagent").joinpath("schemas/guest-1.xsd").read_bytes())
)


def qualified(text: str) -> etree._Element:
    """As libvirt keeps it: every element without a namespace gets ours."""
    root = etree.fromstring(text)
    for element in root.iter():
        if isinstance(element.tag, str) and etree.QName(element).namespace is None:
            element.tag = f"{{{NAMESPACE}}}{element.tag}"
    return root


def elements(text: str | None) -> list[str]:
    return [] if text is None else [child.tag for child in etree.fromstring(text)]


@given(POLICIES, HOMES | st.none())
def test_what_we_write_is_valid_and_is_read_again(policy: Policy, home: Home | None) -> None:
    text = with_home(with_policy(None, policy, KEYS), home)
    if text is None:
        assert (policy, home) == (Policy(), None)
        return
    SCHEMA.assertValid(qualified(text))
    assert read(text) == GuestNotes(policy=policy, home=home)


@given(POLICIES, POLICIES, HOMES, HOMES)
def test_policy_and_breadcrumb_survive_each_other(
    first: Policy, second: Policy, here: Home, there: Home
) -> None:
    text = with_policy(with_home(with_policy(None, first, KEYS), here), second, KEYS)
    assert text is not None
    assert read(text) == GuestNotes(policy=second, home=here)
    text = with_home(text, there)
    assert text is not None
    assert read(text) == GuestNotes(policy=second, home=there)
    assert with_policy(with_home(text, None), Policy(), KEYS) is None


@given(POLICIES, HOMES)
def test_what_is_so_already_is_the_very_text(policy: Policy, home: Home) -> None:
    text = with_home(with_policy(None, policy, KEYS), home)
    assert with_policy(text, policy, KEYS) is text
    assert with_home(text, home) is text
    assert with_policy(None, Policy(), KEYS) is None
    assert with_home(None, None) is None


def test_the_schema_and_the_rules_know_the_same_keys() -> None:
    names = SCHEMA_NAMES - {"home", "guest"}
    assert names == set(KEYS)


SCHEMA_NAMES = {
    element.get("name")
    for element in etree.fromstring(
        resources.files("hostagent").joinpath("schemas/guest-1.xsd").read_bytes()
    ).iter("{http://www.w3.org/2001/XMLSchema}element")
}


@pytest.mark.parametrize(
    ("inside", "valid"),
    [
        ("<on-reboot>live, cold</on-reboot>", True),
        ("<on-reboot> none </on-reboot>", True),
        ("<max-pause>1m 30s</max-pause>", True),
        ("<notice>30</notice>", True),
        ("<update-domain>07</update-domain>", True),
        ("<on-reboot>life</on-reboot>", False),
        ("<on-reboot>none,live</on-reboot>", False),
        ("<on-pause>Allow</on-pause>", False),
        ("<update-domain>20</update-domain>", False),
        ("<owner>a b</owner>", False),
        ("<owner>w\u0435b</owner>", False),
        ("<max-pause>soon</max-pause>", False),
        ("<max-pause>1s30</max-pause>", False),
        ("<home host-uuid='h1'/>", False),
        ("<home/>", False),
        ("<owner>a</owner><owner>b</owner>", False),
        ("<colour>red</colour>", False),
        (f"<owner>{'a' * 201}</owner>", False),
    ],
)
def test_the_schema_and_the_rules_agree(inside: str, valid: bool) -> None:
    text = f"<guest>{inside}</guest>"
    assert SCHEMA.validate(qualified(text)) is valid
    assert (not read(text).problems) is valid


BOMB = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not XML"),
        ("<guest>", "is not XML"),
        ("<guest><owner>&lol;</owner></guest>", "is not XML"),
        ("<guest>\x00</guest>", "is not XML"),
        ("<guest>\ud800</guest>", "is not XML"),
        ("<a>" * 300 + "</a>" * 300, "is not XML"),
        ("<a>" * 200 + "</a>" * 200, "in place of guest"),
        ("<guest xmlns='urn:other'><owner>a</owner></guest>", "in place of guest"),
        (f"<{'g' * 5000}/>", "in place of guest"),
        (f"<guest><owner>{'a' * MOST_TEXT}</owner></guest>", "longer than"),
        (f"<!DOCTYPE g [<!ENTITY e0 'lol'>{BOMB}]><guest><owner>&e11;</owner></guest>", "metadata"),
        ("<!DOCTYPE g [<!ENTITY x SYSTEM 'file:///etc/hostname'>]><guest>&x;</guest>", "type"),
        ("<!DOCTYPE guest SYSTEM 'file:///nowhere.dtd'><guest/>", "type"),
    ],
)
def test_what_cant_be_read_is_one_problem_and_is_replaced(text: str, said: str) -> None:
    notes = read(text)
    assert (notes.policy, notes.home) == (Policy(), None)
    (problem,) = notes.problems
    assert said in problem
    assert len(problem) < 300
    assert with_home(text, None) is text
    replaced = with_policy(text, Policy(owner="ops"), ["owner"])
    assert replaced == "<guest><owner>ops</owner></guest>"
    assert read(with_home(text, HOME) or "") == GuestNotes(home=HOME)
    assert with_policy(text, Policy(), KEYS) is None


@given(st.text(max_size=400))
def test_any_text_has_an_answer(text: str) -> None:
    assert len(read(text).problems) <= 1 or "<" in text


@given(st.lists(st.sampled_from([*KEYS, "home", "x"]), max_size=12), st.text(max_size=50))
def test_any_elements_have_an_answer(names: list[str], value: str) -> None:
    root = etree.Element("guest")
    for name in names:
        with_text = etree.SubElement(root, name)
        try:
            with_text.text = value
        except ValueError:  # what XML can't hold
            return
    text = etree.tostring(root, encoding=str)
    notes = read(text)
    assert all(len(problem) < 500 for problem in notes.problems)
    after = with_home(with_policy(text, Policy(owner="ops"), KEYS), HOME)
    assert after is not None
    assert (read(after).policy, read(after).home) == (Policy(owner="ops"), HOME)


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("<owner>a</owner><owner>a</owner>", "owner is there 2 times"),
        ("<owner>a<b/></owner>", "owner holds more than a text"),
        ("<owner>a<!-- or b --></owner>", "owner holds more than a text"),
        ("<on-pause>never</on-pause>", "'on-pause' is 'never'"),
        ("<colour>red</colour>", "does not know colour"),
        ("".join(f"<k{n}/>" for n in range(99)), "and 94 more"),
        ("<home/>", "names no host"),
        ("<home host-uuid='../../etc'/>", "names no host"),
        (f"<home host-uuid='{HOME.host_uuid}' since='once'/>", "not as hostagent writes it"),
        (f"<home host-uuid='{HOME.host_uuid}' host-name='{'h' * 999}'/>", "not as hostagent"),
        (f"<home host-uuid='{HOME.host_uuid}'/>" * 2, "home is there 2 times"),
    ],
)
def test_what_is_wrong_is_told_and_the_rest_is_in_force(inside: str, said: str) -> None:
    notes = read(f"<guest><update-domain>3</update-domain>{inside}</guest>")
    assert notes.policy == Policy(update_domain=3)
    assert notes.home is None
    (problem,) = notes.problems
    assert said in problem
    assert len(problem) < 300


def test_texts_are_read_as_people_lay_them_out() -> None:
    text = """<h:guest xmlns:h='urn:hostagent:guest:1'>
      <!-- mine -->
      <h:on-reboot>
        cold, live
      </h:on-reboot>
      <on-pause><![CDATA[ask]]></on-pause>
    </h:guest>"""
    policy = Policy(on_pause=OnPause.ASK, on_reboot=(OnReboot.LIVE, OnReboot.COLD))
    assert read(text) == GuestNotes(policy=policy)
    assert with_policy(text, policy, KEYS) is text


def test_elements_of_others_and_unknown_ones_are_kept_and_ours_lose_their_namespace() -> None:
    text = (
        "<h:guest xmlns:h='urn:hostagent:guest:1' xmlns:hostagent='urn:z' h:a='1' b='2'>"
        "<h:owner>a</h:owner><hostagent:z hostagent:q='1'><h:y/></hostagent:z><colour/>"
        "<x xmlns='urn:x'><owner>b</owner></x></h:guest>"
    )
    assert read(text).problems == ("this version of hostagent does not know colour",)
    after = with_policy(text, Policy(owner="ops"), KEYS)
    assert after is not None
    root = etree.fromstring(after)
    assert root.nsmap == {}
    assert dict(root.attrib) == {"a": "1", "b": "2"}
    assert elements(after) == ["{urn:z}z", "colour", "{urn:x}x", "owner"]
    assert root[2][0].text == "b"
    assert with_policy(with_home(after, HOME), Policy(), KEYS) is not None


def test_a_wrong_text_stays_until_its_own_key_is_written() -> None:
    text = "<guest><on-pause>never</on-pause></guest>"
    after = with_policy(text, Policy(owner="ops"), ["owner"])
    assert after is not None
    assert len(read(after).problems) == 1
    assert with_policy(text, Policy(), ["on-pause"]) is None


def test_comments_alone_are_nothing() -> None:
    assert with_policy("<guest><!-- x --><owner>a</owner></guest>", Policy(), KEYS) is None


def test_a_breadcrumb_that_would_not_be_read_again_is_not_written() -> None:
    with pytest.raises(ValueError, match="no breadcrumb"):
        with_home(None, Home(host_uuid="h1"))
