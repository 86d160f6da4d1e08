"""Moving guests: reads both hosts, plans, and carries the plan out as a run of this host.

Order of every command that moves something: lock -> what earlier runs left is finished -> facts of
all hosts -> plan -> run. Plans alone (--dry-run) take no lock and change nothing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from hostagent.adapters.host.facts import idle_cpus
from hostagent.adapters.journal_file import JournalFile
from hostagent.adapters.libvirt.bounded import spread
from hostagent.adapters.libvirt.destination import read_destination
from hostagent.adapters.libvirt.disks import untouched
from hostagent.adapters.libvirt.movable import read_guests
from hostagent.adapters.libvirt.move_host import read_host
from hostagent.core.errors import HostagentError, LibvirtUnreachableError, RefusedError
from hostagent.core.host_notes import (
    OPERATOR,
    CameHome,
    Cordoned,
    HostNotes,
    Uncordoned,
    WentAway,
)
from hostagent.core.model import Facts
from hostagent.core.move import Destination, Movable, MoveHost
from hostagent.core.plan import Plan
from hostagent.rules import move_plan
from hostagent.rules.move_plan import Leg, MoveFacts
from hostagent.rules.move_report import MoveReport
from hostagent.rules.move_request import MoveRequest
from hostagent.rules.selection import select
from hostagent.wiring.running import KINDS, OpenJournal, Say
from hostagent.wiring.site import Site, new_run

S = 1_000_000_000
READ_LIMIT_NS = 20 * S
"""Reading one host and all that matters of its guests; a host that takes longer is no help."""
HOSTS_AT_ONCE = 8

Consent = Callable[[Plan], None]


class MoveSite:
    """One host's libvirt and its state directory, as far as guests leave it and come home.

    `open_journal` is as of a Site.
    """

    def __init__(
        self, uri: str, state_dir: Path | None = None, open_journal: OpenJournal = JournalFile
    ) -> None:
        self._site = Site(uri, state_dir, open_journal)

    def migrate_plan(self, request: MoveRequest, selectors: Sequence[str], to: str) -> Plan:
        """What `guest migrate` would do; nothing is changed."""
        return self._away(request, selectors, (to,), self._site.facts())

    def migrate(
        self, request: MoveRequest, selectors: Sequence[str], to: str, *, say: Say
    ) -> MoveReport:
        """Move these guests. Raises RefusedError and its kinds while nothing was changed."""
        return self._carry_out(request, partial(self._away, request, selectors, (to,)), say)

    def drain_plan(self, request: MoveRequest, destinations: Sequence[str]) -> Plan:
        """What `host drain` would do; nothing is changed."""
        return self._away(request, (), destinations, self._site.facts())

    def drain(
        self,
        request: MoveRequest,
        destinations: Sequence[str],
        *,
        consent: Consent | None,
        say: Say,
    ) -> MoveReport:
        """Move all guests away. `consent` is asked for the plan before anything is locked, and
        raises what is to be raised for a no."""
        if consent is not None:
            consent(self.drain_plan(request, destinations))
        return self._carry_out(request, partial(self._away, request, (), destinations), say)

    def restore_plan(self, request: MoveRequest, home: str) -> Plan:
        """What `host restore` would do; nothing is changed."""
        return self._home(request, home, self._site.facts(), tidy=False)

    def restore(self, request: MoveRequest, home: str, *, say: Say) -> MoveReport:
        """Bring home what drains have moved away. `home` is this host's URI as the others reach
        it, empty to find it."""
        return self._carry_out(request, partial(self._home, request, home, tidy=True), say)

    def make_way(
        self, request: MoveRequest, uuids: Sequence[str], to: str, *, say: Say
    ) -> MoveReport:
        """Move these guests away for a while; none is if not all can be."""
        wanted = replace(request, all_or_nothing=True)
        return self._carry_out(wanted, partial(self._away, wanted, uuids, (to,)), say)

    def bring_back(self, request: MoveRequest, uuids: frozenset[str], *, say: Say) -> MoveReport:
        """Bring these home of all that are away."""
        return self._carry_out(
            request, partial(self._home, request, "", only=uuids, tidy=True), say
        )

    def notes(self) -> HostNotes:
        """This host's cordons, and its guests that are away."""
        return self._site.book(self._site.facts().host.uuid).read()

    def cordon(self, reason: str, *, dry_run: bool) -> bool:
        """Set the operator's cordon; whether that changes anything."""
        book = self._site.book(self._site.facts().host.uuid)
        same = any((each.owner, each.reason) == (OPERATOR, reason) for each in book.read().cordons)
        if not same and not dry_run:
            utc = datetime.now(UTC).isoformat(timespec="seconds")
            book.write(Cordoned(owner=OPERATOR, reason=reason, utc=utc))
        return not same

    def uncordon(self, *, dry_run: bool) -> bool:
        """Take all cordons back; whether there was one."""
        book = self._site.book(self._site.facts().host.uuid)
        cordons = book.read().cordons
        for each in () if dry_run else cordons:
            book.write(Uncordoned(owner=each.owner))
        return bool(cordons)

    def _carry_out(
        self, request: MoveRequest, plan_for: Callable[[Facts], Plan], say: Say
    ) -> MoveReport:
        def plan_or_refuse(facts: Facts) -> Plan:
            plan = plan_for(facts)
            move_plan.refuse(plan, all_or_nothing=request.all_or_nothing)
            return plan

        state = self._site.carry_out(plan_or_refuse, output=None, say=say)
        report = KINDS[state.plan.kind].report(state, time.monotonic_ns())
        assert isinstance(report, MoveReport)
        return report

    def _away(
        self, request: MoveRequest, selectors: Sequence[str], uris: Sequence[str], facts: Facts
    ) -> Plan:
        """The plan of a move from here."""
        uuids = [guest.uuid for guest in select(facts, selectors)]
        source = _here(facts)
        guests = read_guests(facts.host.uri, uuids, READ_LIMIT_NS)
        destinations, warnings = _destinations(source, uris, guests)
        leg = Leg(source=source, guests=guests, destinations=destinations)
        known = MoveFacts(host=facts.host, legs=(leg,), idle_cpus=idle_cpus(), warnings=warnings)
        return move_plan.plan(new_run(), request, known)

    def _nobody_away(self) -> str:
        return f"no guest of this host is away, by its notes in {self._site.state_dir}"

    def forget(self, selectors: Sequence[str], *, dry_run: bool) -> tuple[WentAway, ...]:
        """Await these guests no more; those that were away. Raises RefusedError for another."""
        book = self._site.book(self._site.facts().host.uuid)
        away = book.read().away
        unknown = [each for each in selectors if not any(_means(each, guest) for guest in away)]
        if unknown:
            raise RefusedError(
                f"no guest {unknown[0]!r} is away",
                hint="`hostagent host away` lists those that are",
            )
        forgotten = tuple(guest for guest in away if any(_means(each, guest) for each in selectors))
        for guest in () if dry_run else forgotten:
            book.write(CameHome(uuid=guest.uuid))
        return forgotten

    def _home(
        self,
        request: MoveRequest,
        home: str,
        facts: Facts,
        *,
        tidy: bool,
        only: frozenset[str] | None = None,
    ) -> Plan:
        """The plan of a move to here, of the guests that the notes say are away. Those that are
        here again, and not there, are not awaited any more (noted with `tidy`)."""
        notes = self._site.book(facts.host.uuid).read()
        here = _here(facts)
        legs: list[Leg] = []
        lost: dict[str, tuple[str, str]] = {}
        away = [each for each in notes.away if only is None or each.uuid in only]
        for uri in dict.fromkeys(each.uri for each in away):
            awaited = [each for each in away if each.uri == uri]
            leg, missing = _leg_home(uri, here, awaited, home)
            legs += [leg] if leg is not None else []
            at_home = {guest.uuid for guest in facts.guests} & set(missing) if leg else set()
            for uuid in at_home if tidy else ():
                self._site.book(facts.host.uuid).write(CameHome(uuid=uuid))
            lost |= {uuid: told for uuid, told in missing.items() if uuid not in at_home}
        known = MoveFacts(
            host=facts.host,
            legs=tuple(legs),
            idle_cpus=idle_cpus(),
            lost=lost,
            own_copies=tuple(
                path for each in notes.away for path in each.left if untouched(path, each.utc)
            ),
            cordoned=_by_its_operator(notes),
            warnings=() if notes.away else (self._nobody_away(),),
        )
        return move_plan.plan(new_run(), request, known)


def _by_its_operator(notes: HostNotes) -> str:
    """Why this host is to take no guests; the cordon of its own drain does not count."""
    reasons = [each.reason for each in notes.cordons if each.owner == OPERATOR]
    return f"its operator has cordoned it: {reasons[0]}" if reasons else ""


def _means(selector: str, guest: WentAway) -> bool:
    return selector in (guest.name, guest.uuid)


def _here(facts: Facts) -> MoveHost:
    """This host: its clock is the one that others are compared with."""
    return replace(read_host(facts.host.uri, READ_LIMIT_NS), clock_ahead_ns=0)


def _destinations(
    source: MoveHost, uris: Sequence[str], guests: Sequence[Movable]
) -> tuple[tuple[Destination, ...], tuple[str, ...]]:
    """Those that answer, and a warning for each other one. Raises LibvirtUnreachableError where
    none does."""
    problems: dict[str, HostagentError] = {}

    def read(uri: str) -> Destination | None:
        try:
            return read_destination(source, uri, guests, READ_LIMIT_NS)
        except HostagentError as error:
            problems[uri] = error
            return None

    wanted = tuple(dict.fromkeys(uris))
    found = spread(wanted, HOSTS_AT_ONCE, 2 * READ_LIMIT_NS, read)
    answered = tuple(there for uri in wanted if (there := found.get(uri)) is not None)
    if not answered:
        for error in problems.values():
            raise error
        raise LibvirtUnreachableError(
            f"no destination answers: {', '.join(wanted)}", hint="see what `virsh -c URI list` says"
        )
    silent = (uri for uri in wanted if uri not in {there.host.uri for there in answered})
    return answered, tuple(f"{uri} is left out: {_why(problems, uri)}" for uri in silent)


def _why(problems: Mapping[str, HostagentError], uri: str) -> str:
    return problems[uri].message if uri in problems else "it does not answer"


def _leg_home(
    uri: str, here: MoveHost, awaited: Sequence[WentAway], home: str
) -> tuple[Leg | None, dict[str, tuple[str, str]]]:
    """The way home from one host, and the guests that were not found there, by UUID."""
    try:
        doubts = _refuse_another(home, here) if home else ()
        source = read_host(uri, READ_LIMIT_NS)
        guests = read_guests(uri, [each.uuid for each in awaited], READ_LIMIT_NS)
        there = read_destination(source, here.uri, guests, READ_LIMIT_NS, home=home)
    except HostagentError as error:
        return None, {each.uuid: (each.name, error.message) for each in awaited}
    there = replace(there, doubts=(*there.doubts, *doubts))
    found = {guest.uuid for guest in guests}
    missing = {
        each.uuid: (
            each.name,
            f"it is not on {source.name} any more (`hostagent host away --forget {each.name}` "
            "awaits it no longer)",
        )
        for each in awaited
        if each.uuid not in found
    }
    return Leg(source=source, guests=tuple(guests), destinations=(there,)), missing


def _refuse_another(home: str, here: MoveHost) -> tuple[str, ...]:
    """What could not be found out of a home that a person named. Raises RefusedError where it is
    another host than this: guests would go there, and nobody would look for them there."""
    try:
        found = read_host(home, READ_LIMIT_NS)
    except LibvirtUnreachableError:
        return (f"{home} can't be reached from here, so nobody knows whether it is this host",)
    if found.uuid == here.uuid:
        return ()
    raise RefusedError(
        f"{home} is {found.name} ({found.uuid}), not this host",
        hint="name this host as the others reach it, or leave --home out",
    )
