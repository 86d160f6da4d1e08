"""Fixtures over the lab: real hosts and guests for tests, and the audit that follows every one.

Layer: tests. Hosts are booted once a session and brought back to order before each test that uses
them; a test that wrecks a host for good takes a fresh one. Invariants: a tier that this machine
can't do is skipped with the reason, named in the summary, and is a failure where CI=true; after
every test with real guests the audit looks for guests that were left paused and for processes
that were left behind. The fixtures' contract is in docs/how-to/use-the-lab.md.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from lab import (
    CannotRun,
    Guest,
    GuestSort,
    GuestSpec,
    Lab,
    LabBusy,
    LabError,
    MoveWitness,
    Tier,
    Witness,
)
from lab.audit import MARK, Expected, findings, findings_of_moves, left_processes
from lab.host import Host

SHARED_SORTS = (GuestSort.AGENT, GuestSort.DISK, GuestSort.PLAIN, GuestSort.AGENT)
"""None without hwclock, whose clock takes seconds to set: tests of that take it away (Hwclock)."""
MOVING_SORTS = (
    (GuestSort.AGENT, GuestSort.DISK, GuestSort.PLAIN),
    (GuestSort.AGENT,),
)
TIER_FIXTURES = {
    Tier.LIGHT: {"light_host", "fresh_light_host", "make_light_lab", "two_light_hosts"},
    Tier.FULL: {"full_host", "make_full_lab"},
}

Guests = int | Sequence[GuestSpec] | Sequence[Sequence[GuestSpec]]

not_run_key = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="run the slow campaigns too")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[not_run_key] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by the lab that they use; leave campaigns to those who ask for them."""
    for item in items:
        for tier, fixtures in TIER_FIXTURES.items():
            if fixtures & set(getattr(item, "fixturenames", ())):
                item.add_marker(str(tier))
    asked = config.getoption("--campaign") or "campaign" in config.getoption("-m")
    campaigns = [] if asked else [item for item in items if item.get_closest_marker("campaign")]
    if campaigns:
        config.stash[not_run_key]["campaign"] = f"{len(campaigns)} tests; ask with --campaign"
        config.hook.pytest_deselected(items=campaigns)
        items[:] = [item for item in items if item not in campaigns]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    not_run = config.stash[not_run_key]
    if not_run:
        terminalreporter.section("groups not run")
        for group, reason in not_run.items():
            terminalreporter.line(f"{group}: {reason}")


def _cannot(config: pytest.Config, group: str, reason: str) -> None:
    """This machine can't do a group: skipped, or failed where everything has to run."""
    config.stash[not_run_key][group] = reason
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _make_lab(config: pytest.Config, tier: Tier, hosts: int, guests: Guests) -> Lab:
    """A lab under the first name that no other test session holds."""
    prefix = os.environ.get("HALAB_NAME", "t")
    for number in range(1, 100):
        try:
            return Lab.up(f"{prefix}{number}", tier, hosts, guests)
        except LabBusy:
            continue
        except CannotRun as error:
            reason = str(error)
        _cannot(config, str(tier), reason)
    raise LabError("every lab name is in use")


def _lab_maker(
    stack: ExitStack, config: pytest.Config, tier: Tier, audit: "Audit"
) -> Callable[..., Lab]:
    """A function that makes labs of a tier; at the end each is audited, then taken away."""

    def make(hosts: int = 1, guests: Guests = 2) -> Lab:
        lab = stack.enter_context(_make_lab(config, tier, hosts, guests))
        stack.callback(audit.check_lab, lab)
        return lab

    return make


class Audit:
    """What the current test declares, and the verdict on the hosts it used."""

    def __init__(self, mark: str, directory: Path) -> None:
        self.expected = Expected()
        self.mark = mark
        self.directory = directory

    def expect_paused(self, guest: Guest) -> None:
        """This guest is meant to be left paused (by its owner, say)."""
        self.expected.paused.add(guest.name)

    def expect_frozen(self, guest: Guest) -> None:
        """The QEMU of this guest is meant to be left stopped."""
        self.expected.frozen.add(guest.name)

    def expect_dead_libvirtd(self, host: Host) -> None:
        """The libvirtd of this host is meant to be left dead or stopped."""
        self.expected.libvirtd_dead.add(host.name)

    def check(self, host: Host) -> None:
        """Fail the test when its host is not in order."""
        found = findings(host, self.expected)
        if found:
            pytest.fail(f"audit of {host.name}: {'; '.join(found)}", pytrace=False)

    def check_lab(self, lab: Lab) -> None:
        """Fail the test when a host is not in order, or a guest not in one place."""
        found = [text for host in lab.hosts for text in findings(host, self.expected)]
        found += findings_of_moves(lab)
        if found:
            pytest.fail(f"audit of {lab.name}: {'; '.join(found)}", pytrace=False)


@pytest.fixture(autouse=True)
def audit(request: pytest.FixtureRequest) -> Iterator[Audit]:
    """The audit of this test; hosts are checked as they are handed back."""
    tiers = [tier for tier in Tier if request.node.get_closest_marker(str(tier))]
    if not tiers:
        yield Audit("", Path())
        return
    directory = request.getfixturevalue("tmp_path")
    verdict = Audit(uuid.uuid4().hex, directory)
    yield verdict
    left = left_processes(verdict.mark, directory)
    if left:
        pytest.fail(f"audit: {'; '.join(left)}", pytrace=False)


@pytest.fixture
def read_only_mounts(request: pytest.FixtureRequest) -> None:
    """Root is stopped by no permission: what it must not write to has to be mounted read-only."""
    probe = ["unshare", "--mount", "true"]
    if os.geteuid() == 0 and subprocess.run(probe, capture_output=True, check=False).returncode:
        reason = "a read-only directory for root: unshare --mount is not permitted"
        _cannot(request.config, "read-only mounts", reason)


@pytest.fixture
def marked_env(audit: Audit) -> dict[str, str]:
    """The environment to start hostagent with: whatever it leaves running is then found.

    On a full tier host: host.env | {MARK: audit.mark}.
    """
    return os.environ | {MARK: audit.mark}


@pytest.fixture(scope="session")
def _shared_light_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    specs = [GuestSpec(sort=sort) for sort in SHARED_SORTS]
    with _make_lab(request.config, Tier.LIGHT, 1, specs) as lab:
        yield lab


@pytest.fixture
def light_host(_shared_light_lab: Lab, audit: Audit) -> Iterator[Host]:
    """The session's light host with g1 (agent), g2 (disk), g3 (plain), g4 (agent)."""
    host = _shared_light_lab.hosts[0]
    host.restore()
    yield host
    audit.check(host)


@pytest.fixture
def make_light_lab(request: pytest.FixtureRequest, audit: Audit) -> Iterator[Callable[..., Lab]]:
    """Labs of this test alone: make_light_lab(hosts=2, guests=1)."""
    with ExitStack() as stack:
        yield _lab_maker(stack, request.config, Tier.LIGHT, audit)


@pytest.fixture
def fresh_light_host(make_light_lab: Callable[..., Lab]) -> Host:
    """A light host of this test alone, with g1 (agent) and g2 (disk)."""
    return make_light_lab(guests=2).hosts[0]


@pytest.fixture(scope="session")
def _shared_moving_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    specs = [[GuestSpec(sort=sort) for sort in sorts] for sorts in MOVING_SORTS]
    with _make_lab(request.config, Tier.LIGHT, 2, specs) as lab:
        yield lab


@pytest.fixture
def two_light_hosts(_shared_moving_lab: Lab, audit: Audit) -> Iterator[Lab]:
    """The session's two light hosts: g1 (agent), g2 (disk), g3 (plain) on h1, g4 (agent) on h2."""
    _shared_moving_lab.restore()
    yield _shared_moving_lab
    audit.check_lab(_shared_moving_lab)


@pytest.fixture(scope="session")
def _shared_full_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with _make_lab(request.config, Tier.FULL, 1, 2) as lab:
        yield lab


@pytest.fixture
def full_host(_shared_full_lab: Lab, audit: Audit) -> Iterator[Host]:
    """The session's full tier host, with systemd, and g1 (agent) and g2 (disk)."""
    host = _shared_full_lab.hosts[0]
    host.restore()
    yield host
    audit.check(host)


@pytest.fixture
def make_full_lab(request: pytest.FixtureRequest, audit: Audit) -> Iterator[Callable[..., Lab]]:
    """Full tier labs of this test alone: make_full_lab(hosts=2, guests=1)."""
    with ExitStack() as stack:
        yield _lab_maker(stack, request.config, Tier.FULL, audit)


@pytest.fixture
def witness() -> Iterator[Callable[[Guest], Witness]]:
    """witness(guest) listens to a guest's QEMU until the test ends."""
    with ExitStack() as stack:
        yield lambda guest: stack.enter_context(Witness(guest))


@pytest.fixture
def move_witness() -> Iterator[Callable[[Guest], MoveWitness]]:
    """move_witness(guest) listens to a guest's QEMUs on all hosts until the test ends."""
    with ExitStack() as stack:
        yield lambda guest: stack.enter_context(MoveWitness(guest))
