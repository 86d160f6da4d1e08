"""A guest's notes in real libvirt's metadata, judged by the definitions that libvirt gives out."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import resources

import libvirt
import pytest
from lxml import etree

from hostagent.adapters.libvirt import metadata
from hostagent.adapters.libvirt.metadata import LibvirtNotes, read, write_home, write_policy
from hostagent.core.errors import AmbiguousError, LibvirtUnreachableError, RefusedError
from hostagent.core.policy import GuestNotes, Home, OnReboot, Policy
from hostagent.rules.policy import NAMESPACE
from lab import Lab, LabError
from lab.host import Host
from lab.processes import wait_until

S = 1_000_000_000
HOME = Home(
    host_uuid="0a1b2c3d-1111-2222-3333-444455556666",
    host_name="h1.example.org",
    since="2026-11-25T13:00:00Z",
)
POLICY = Policy(owner="ops", on_reboot=(OnReboot.LIVE, OnReboot.COLD), max_pause_ns=1500 * 10**6)
RUNNING, STORED = 0, libvirt.VIR_DOMAIN_XML_INACTIVE
KIND = libvirt.VIR_DOMAIN_METADATA_ELEMENT
LIVE, CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
FOREIGN = "<app xmlns='urn:app'><owner>me</owner></app>"
"""Another program's own metadata."""

SCHEMA = etree.XMLSchema(
    etree.fromstring(resources.files("hostagent").joinpath("schemas/guest-1.xsd").read_bytes())
)


@pytest.fixture
def connection(light_host: Host) -> Iterator[libvirt.virConnect]:
    libvirt.registerErrorHandler(lambda *_: None, None)
    made = libvirt.open(light_host.uri)
    yield made
    with suppress(libvirt.libvirtError):
        made.close()


@pytest.fixture
def domain(light_host: Host, connection: libvirt.virConnect) -> Iterator[libvirt.virDomain]:
    """g3, without notes; afterwards too: a new definition would leave the running one alone."""
    yield connection.lookupByName("g3")
    with suppress(LabError):  # one that is gone has none
        light_host.guest("g3").call("cleaning", clean)


def clean(domain: libvirt.virDomain) -> None:
    for flag in (LIVE, CONFIG):
        with suppress(libvirt.libvirtError):
            domain.setMetadata(KIND, None, "hostagent", NAMESPACE, flag)


def element(domain: libvirt.virDomain, flags: int = RUNNING) -> etree._Element | None:
    """Our element in a definition, valid by the schema."""
    root = etree.fromstring(domain.XMLDesc(flags))
    found = root.find(f"metadata/{{{NAMESPACE}}}guest")
    if found is not None:
        SCHEMA.assertValid(etree.fromstring(etree.tostring(found)))
    return found


def names(domain: libvirt.virDomain, flags: int = RUNNING) -> list[str]:
    found = element(domain, flags)
    return [] if found is None else [etree.QName(child).localname for child in found]


def redefine(host: Host, inside: str, *, head: str = "") -> None:
    """A new stored definition of g3, with this in its metadata."""
    guest = host.guest("g3")
    text = guest.definition().replace("<title>", f"<metadata>{inside}</metadata><title>", 1)
    guest.call("defining", lambda domain: domain.connect().defineXML(head + text))


def without_empty(definition: str) -> str:
    """Without what libvirt leaves when the last program's metadata is taken out."""
    return definition.replace("  <metadata/>\n", "")


class TestAllSortsOfGuest:
    def test_one_without_notes(self, domain: libvirt.virDomain) -> None:
        assert read(domain) == GuestNotes()
        assert write_home(domain, None) is False
        assert write_policy(domain, Policy()) is False

    def test_a_running_guest_has_it_in_both_definitions(self, domain: libvirt.virDomain) -> None:
        assert write_policy(domain, POLICY) is True
        assert read(domain) == GuestNotes(policy=POLICY)
        wanted = ["owner", "on-reboot", "max-pause"]
        assert names(domain, RUNNING) == names(domain, STORED) == wanted

    def test_a_guest_that_is_off(self, light_host: Host, domain: libvirt.virDomain) -> None:
        light_host.guest("g3").destroy()
        assert write_policy(domain, POLICY) is True
        assert write_home(domain, HOME) is True
        assert read(domain) == GuestNotes(policy=POLICY, home=HOME)
        light_host.guest("g3").start()
        assert read(domain) == GuestNotes(policy=POLICY, home=HOME)

    def test_a_transient_guest(self, domain: libvirt.virDomain) -> None:
        domain.undefine()
        assert not domain.isPersistent()
        assert write_policy(domain, POLICY) is True
        assert write_home(domain, HOME) is True
        assert read(domain) == GuestNotes(policy=POLICY, home=HOME)
        assert write_home(domain, HOME) is False

    def test_a_guest_that_is_gone(self, light_host: Host, domain: libvirt.virDomain) -> None:
        light_host.guest("g3").destroy()
        domain.undefine()
        with pytest.raises(RefusedError, match="no such guest"):
            read(domain)
        with pytest.raises(RefusedError, match="no such guest") as refused:
            write_policy(domain, POLICY)
        assert refused.value.changed is False


class TestWriting:
    def test_twice_the_same_changes_nothing(self, domain: libvirt.virDomain) -> None:
        assert [write_policy(domain, POLICY), write_policy(domain, POLICY)] == [True, False]
        assert [write_home(domain, HOME), write_home(domain, HOME)] == [True, False]

    def test_policy_and_breadcrumb_survive_each_other(self, domain: libvirt.virDomain) -> None:
        write_policy(domain, POLICY)
        write_home(domain, HOME)
        other = Policy(scale_set="web")
        write_policy(domain, other)
        assert read(domain) == GuestNotes(policy=other, home=HOME)
        assert write_home(domain, None) is True
        assert read(domain) == GuestNotes(policy=other)

    def test_nothing_is_left_when_nothing_is_in_it(self, domain: libvirt.virDomain) -> None:
        before = [without_empty(domain.XMLDesc(flags)) for flags in (RUNNING, STORED)]
        write_policy(domain, POLICY)
        write_home(domain, HOME)
        write_home(domain, None)
        assert write_policy(domain, Policy()) is True
        after = [without_empty(domain.XMLDesc(flags)) for flags in (RUNNING, STORED)]
        assert after == before

    def test_a_dry_run_says_it_and_changes_nothing(self, domain: libvirt.virDomain) -> None:
        assert write_policy(domain, POLICY, dry_run=True) is True
        assert element(domain) is None
        assert write_policy(domain, Policy(), dry_run=True) is False

    def test_other_programs_keep_theirs(self, light_host: Host, domain: libvirt.virDomain) -> None:
        inside = f"<h:guest xmlns:h='{NAMESPACE}'><h:owner>a</h:owner>{FOREIGN}</h:guest>"
        redefine(light_host, inside + FOREIGN)
        write_policy(domain, POLICY)
        assert names(domain, RUNNING) == ["owner", "on-reboot", "max-pause"]
        root = etree.fromstring(domain.XMLDesc(STORED))
        kept = root.findall(".//{urn:app}app/{urn:app}owner")
        assert [found.text for found in kept] == ["me", "me"]

    def test_whatever_prefix_was_used(self, light_host: Host, domain: libvirt.virDomain) -> None:
        redefine(
            light_host,
            f"<guest xmlns='{NAMESPACE}' xmlns:hostagent='{NAMESPACE}' hostagent:a='1'>"
            "<owner>a</owner><hostagent:colour/></guest>",
        )
        assert write_home(domain, HOME) is True
        assert write_policy(domain, POLICY) is True
        assert read(domain).home == HOME
        assert read(domain).policy == POLICY

    def test_it_outlives_libvirtd_and_the_guests_restart(
        self, light_host: Host, domain: libvirt.virDomain
    ) -> None:
        write_policy(domain, POLICY)
        light_host.restart_libvirtd()
        assert light_host.guest("g3").call("reading", read) == GuestNotes(policy=POLICY)
        light_host.guest("g3").destroy()
        light_host.guest("g3").start()
        assert light_host.guest("g3").call("reading", read) == GuestNotes(policy=POLICY)


class TestTwoDefinitions:
    def test_the_running_one_is_in_force_and_the_other_is_told(
        self, light_host: Host, domain: libvirt.virDomain
    ) -> None:
        write_policy(domain, POLICY)
        light_host.guest("g3").define()  # from a text of before
        notes = read(domain)
        assert notes.policy == POLICY
        (problem,) = notes.problems
        assert "stored definition says otherwise (owner, on-reboot, max-pause)" in problem
        assert write_policy(domain, POLICY) is True
        assert read(domain) == GuestNotes(policy=POLICY)

    def test_a_breadcrumb_leaves_each_its_own_policy(
        self, light_host: Host, domain: libvirt.virDomain
    ) -> None:
        write_policy(domain, POLICY)
        redefine(light_host, f"<h:guest xmlns:h='{NAMESPACE}'><h:owner>b</h:owner></h:guest>")
        write_home(domain, HOME)
        assert names(domain, RUNNING) == ["owner", "on-reboot", "max-pause", "home"]
        assert names(domain, STORED) == ["owner", "home"]

    def test_one_key_leaves_each_its_others(
        self, light_host: Host, domain: libvirt.virDomain
    ) -> None:
        write_policy(domain, POLICY)
        redefine(light_host, f"<h:guest xmlns:h='{NAMESPACE}'><h:owner>b</h:owner></h:guest>")
        write_policy(domain, Policy(scale_set="web"), keys=["scale-set"])
        assert names(domain, RUNNING) == ["owner", "on-reboot", "max-pause", "scale-set"]
        assert names(domain, STORED) == ["owner", "scale-set"]


class TestHostile:
    @pytest.mark.parametrize(
        ("inside", "head", "said"),
        [
            (
                f"<h:guest xmlns:h='{NAMESPACE}'><h:owner>&lol;</h:owner></h:guest>",
                "<!DOCTYPE domain [<!ENTITY lol 'lol'>]>",
                "is not XML",
            ),
            (
                f"<h:guest xmlns:h='{NAMESPACE}'><h:owner>&etc;</h:owner></h:guest>",
                "<!DOCTYPE domain [<!ENTITY etc SYSTEM 'file:///etc/hostname'>]>",
                "is not XML",
            ),
            (
                f"<h:guest xmlns:h='{NAMESPACE}'><h:x>{'a' * 3_500_000}</h:x></h:guest>",
                "",
                "is longer than",
            ),
            (
                f"<h:a xmlns:h='{NAMESPACE}'>{'<h:a>' * 200}{'</h:a>' * 200}</h:a>",
                "",
                "in place of guest",
            ),
            ("<h:guest xmlns:h='urn:hostagent:guest:2'><h:owner/></h:guest>", "", "version 2"),
            (f"<h:guest xmlns:h='{NAMESPACE}'><h:on-pause>no</h:on-pause></h:guest>", "", "'no'"),
            (f"<h:guest xmlns:h='{NAMESPACE}'><h:home/></h:guest>", "", "names no host"),
        ],
        ids=["entity", "outside-entity", "huge", "deep", "version", "value", "home"],
    )
    def test_it_is_that_guests_problem_and_can_be_put_right(
        self, light_host: Host, domain: libvirt.virDomain, inside: str, head: str, said: str
    ) -> None:
        light_host.guest("g3").destroy()
        redefine(light_host, inside, head=head)
        notes = read(domain)
        assert (notes.policy, notes.home) == (Policy(), None)
        (problem,) = notes.problems
        assert said in problem
        others = LibvirtNotes(light_host.uri).read([domain.UUIDString(), uuid(light_host, "g1")])
        assert others[domain.UUIDString()] == notes
        assert others[uuid(light_host, "g1")] == GuestNotes()
        write_home(domain, HOME)
        write_policy(domain, POLICY)
        assert read(domain) == GuestNotes(policy=POLICY, home=HOME)

    def test_one_that_libvirt_could_not_start_any_more_can_be_started_again(
        self, light_host: Host, domain: libvirt.virDomain
    ) -> None:
        """libvirt takes an entity, and then can't read what it wrote itself."""
        light_host.guest("g3").destroy()
        inside = f"<h:guest xmlns:h='{NAMESPACE}'><h:owner>&lol;</h:owner></h:guest>"
        redefine(light_host, inside, head="<!DOCTYPE domain [<!ENTITY lol 'lol'>]>")
        with pytest.raises(LabError, match="Entity"):
            light_host.guest("g3").start()
        write_policy(domain, POLICY)
        light_host.guest("g3").start()
        assert names(domain, RUNNING) == ["owner", "on-reboot", "max-pause"]


def uuid(host: Host, name: str) -> str:
    return host.guest(name).uuid


class TestWhoHangs:
    def test_a_frozen_qemu_keeps_nobody_waiting(
        self, light_host: Host, domain: libvirt.virDomain
    ) -> None:
        light_host.guest("g3").freeze()
        began = time.monotonic()
        write_policy(domain, POLICY)
        assert read(domain) == GuestNotes(policy=POLICY)
        assert time.monotonic() - began < 2
        light_host.guest("g3").thaw()

    def test_a_frozen_libvirtd_is_given_up(
        self, light_host: Host, domain: libvirt.virDomain
    ) -> None:
        light_host.freeze()
        try:
            with pytest.raises(LibvirtUnreachableError, match=r"within 0\.3 s"):
                read(domain, limit_ns=S * 3 // 10)
            with pytest.raises(AmbiguousError, match="may still be written") as given_up:
                write_policy(domain, POLICY, limit_ns=S * 3 // 10)
            with pytest.raises(LibvirtUnreachableError):
                LibvirtNotes(light_host.uri).read([domain.UUIDString()], S * 3 // 10)
        finally:
            light_host.thaw()
        assert given_up.value.changed is True
        wait_until(lambda: light_host.answers(), 10, "libvirtd")

    def test_a_guest_that_a_job_holds_is_read_and_its_writing_given_up(
        self, light_host: Host, domain: libvirt.virDomain, saving: Callable[[], None]
    ) -> None:
        write_policy(domain, POLICY)
        saving()
        assert read(domain) == GuestNotes(policy=POLICY)
        with pytest.raises(AmbiguousError):
            write_home(domain, HOME, limit_ns=S // 2)

    @pytest.mark.campaign
    def test_libvirts_own_refusal_names_what_holds_the_guest(
        self, domain: libvirt.virDomain, saving: Callable[[], None]
    ) -> None:
        saving()
        with pytest.raises(RefusedError, match="ManagedSave") as refused:
            write_policy(domain, POLICY)
        assert refused.value.changed is False


@pytest.fixture
def saving(light_host: Host) -> Iterator[Callable[[], None]]:
    """saving() has g3 held by a save that does not end before the test does."""
    guest = light_host.guest("g3")
    held: list[threading.Thread] = []

    def save() -> None:
        with suppress(Exception):
            guest.call("saving", lambda domain: domain.managedSave(), timeout_s=60)

    def begin() -> None:
        guest.freeze()
        held.append(threading.Thread(target=save, daemon=True))
        held[0].start()
        job = libvirt.VIR_DOMAIN_CONTROL_JOB
        wait_until(
            lambda: guest.call("control", lambda domain: domain.controlInfo()[0]) == job,
            10,
            "the save",
        )

    yield begin
    if guest.frozen():
        guest.thaw()
    for thread in held:
        thread.join(30)


def test_it_travels_with_a_guest_that_moves(make_light_lab: Callable[..., Lab]) -> None:
    """Live, with its stored definition: both have it at the destination."""
    here, there = make_light_lab(hosts=2, guests=1).hosts
    guest, socket = here.guests[0], there.socket
    guest.call("writing", lambda domain: (write_policy(domain, POLICY), write_home(domain, HOME)))
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
    flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    stream = {"migrate_uri": f"unix://{here.directory}/move.sock"}
    to = f"qemu+unix:///session?socket={socket}"
    guest.call("moving", lambda domain: domain.migrateToURI3(to, stream, flags), timeout_s=60)
    connection = libvirt.open(there.uri)
    domain = connection.lookupByUUIDString(guest.uuid)
    assert (
        names(domain, RUNNING)
        == names(domain, STORED)
        == ["owner", "on-reboot", "max-pause", "home"]
    )
    assert read(domain) == GuestNotes(policy=POLICY, home=HOME)
    domain.destroy()
    domain.undefine()
    connection.close()
    guest.define()


def test_somebody_who_writes_at_the_same_time_is_noticed(domain: libvirt.virDomain) -> None:
    """Here it is one who always takes the policy out again, in the same thread."""

    class Contested:
        def __getattr__(self, name: str) -> object:
            return getattr(domain, name)

        def setMetadata(self, *arguments: object) -> None:
            domain.setMetadata(*arguments)  # type: ignore[arg-type]
            clean(domain)

    with pytest.raises(AmbiguousError, match="somebody else"):
        write_policy(Contested(), POLICY)  # type: ignore[arg-type]


def test_lxml_is_loaded_only_for_a_guest_that_has_notes(light_host: Host) -> None:
    program = (
        "import sys; from hostagent.adapters.libvirt.metadata import LibvirtNotes;"
        f"LibvirtNotes({light_host.uri!r}).read([{uuid(light_host, 'g1')!r}]);"
        "sys.exit('lxml' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert metadata.read is read
