"""A guest's notes in its libvirt metadata: its policy, and the breadcrumb that a move leaves.

Layer: adapters. They are kept in one element (metadata_xml) in the running guest's definition and
in the stored one; a transient guest has the first only, one that is off the second. The running
one is in force; where the stored one says otherwise, that is told. Every call has a limit. Writing
is idempotent, changes in each definition only what it is about, and is read again, since somebody
else may write at the same time; two who write the same key at once leave one of the two.

Errors: those of errors.translate; LibvirtUnreachableError for no answer in time while reading,
AmbiguousError while writing, since a call that was given up may still be carried out. Source:
https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainSetMetadata.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import libvirt

from hostagent.adapters.libvirt import errors
from hostagent.adapters.libvirt.bounded import Reader, spread, within
from hostagent.core.errors import AmbiguousError, HostagentError, LibvirtCallError, RefusedError
from hostagent.core.policy import GuestNotes, Home, Policy
from hostagent.rules import policy as policies

T = TypeVar("T")
S = 1_000_000_000

PREFIX = "hostagent"

READ_LIMIT_NS = 3 * S
WRITE_LIMIT_NS = 35 * S
"""libvirt itself gives up after 30 s (QEMU_JOB_WAIT_TIME), with the operation that holds the
guest."""

WORKERS = 4
"""One connection serves 5 calls at a time (libvirtd.conf: max_client_requests)."""

TRIES = 3
"""Writes, until what is read is what was written."""

_KIND = libvirt.VIR_DOMAIN_METADATA_ELEMENT
_OTHER_VERSION = re.compile(r"""["']urn:hostagent:guest:([\w.]{1,20})["']""")


def read(domain: libvirt.virDomain, limit_ns: int = READ_LIMIT_NS) -> GuestNotes:
    """What is noted in this guest. Whatever is wrong with it is among its problems."""
    return _within(
        limit_ns, f"reading the metadata of guest {domain.name()}", lambda: _read(domain)
    )


def write_policy(
    domain: libvirt.virDomain,
    policy: Policy,
    *,
    keys: Collection[str] = tuple(policies.KEYS),
    dry_run: bool = False,
    limit_ns: int = WRITE_LIMIT_NS,
) -> bool:
    """Write these keys of the policy; whether anything was (with `dry_run`: would be) changed.
    Other keys stay as they are, also those that hold something wrong."""

    def change(text: str | None) -> str | None:
        from hostagent.adapters.libvirt.metadata_xml import with_policy

        return with_policy(text, policy, keys)

    return _write(domain, change, dry_run, limit_ns)


def write_home(
    domain: libvirt.virDomain, home: Home | None, *, limit_ns: int = WRITE_LIMIT_NS
) -> bool:
    """Write the breadcrumb, or take it away; whether anything was changed."""

    def change(text: str | None) -> str | None:
        from hostagent.adapters.libvirt.metadata_xml import with_home

        return with_home(text, home)

    return _write(domain, change, False, limit_ns)


class LibvirtNotes:
    """The notes of one libvirt's guests, by its URI."""

    def __init__(self, uri: str) -> None:
        self._reader = Reader(uri, uri)

    def read(self, uuids: Sequence[str], limit_ns: int = READ_LIMIT_NS) -> Mapping[str, GuestNotes]:
        """The notes of these guests; a guest whose notes could not be read has that problem.
        Raises LibvirtUnreachableError where libvirt itself does not answer."""
        domains = self._reader.read(
            "looking up guests",
            limit_ns,
            lambda conn: {uuid: _lookup(conn, uuid) for uuid in uuids},
        )
        found = spread(uuids, WORKERS, limit_ns, lambda uuid: _read_any(domains[uuid]))
        return {uuid: found.get(uuid, _unread("no answer in time")) for uuid in uuids}

    def write_policy(
        self, uuid: str, policy: Policy, keys: Collection[str], *, dry_run: bool
    ) -> bool:
        """`write_policy` of this guest."""
        domain = self._reader.read(
            "looking up the guest", READ_LIMIT_NS, lambda conn: conn.lookupByUUIDString(uuid)
        )
        return write_policy(domain, policy, keys=keys, dry_run=dry_run)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """One definition of a guest, and the text of our element in it; None where it has none."""

    flag: int
    text: str | None


def _read(domain: libvirt.virDomain) -> GuestNotes:
    places = list(_places(domain))
    if not places:
        return GuestNotes()
    notes = _notes(places[0].text)
    if places[0].text is None:
        notes = replace(notes, problems=_other_versions(domain))
    differing = [
        key
        for key in policies.KEYS
        if not policies.same(notes.policy, _notes(places[-1].text).policy, key)
    ]
    if differing:
        told = (
            f"its stored definition says otherwise ({', '.join(differing)}):"
            " that counts from its next start",
        )
        notes = replace(notes, problems=notes.problems + told)
    return notes


def _notes(text: str | None) -> GuestNotes:
    """lxml is loaded only where a guest has notes, or gets some."""
    if text is None:
        return GuestNotes()
    from hostagent.adapters.libvirt import metadata_xml

    return metadata_xml.read(text)


def _places(domain: libvirt.virDomain) -> Iterator[_Place]:
    """The running definition first; that is the one in force."""
    for flag in (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG):
        try:
            yield _Place(flag=flag, text=domain.metadata(_KIND, policies.NAMESPACE, flag))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                yield _Place(flag=flag, text=None)
            elif error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise  # that code: not running, or not stored


def _other_versions(domain: libvirt.virDomain) -> tuple[str, ...]:
    """Notes of another version of hostagent, where there are none of ours."""
    found = sorted(set(_OTHER_VERSION.findall(domain.XMLDesc())))
    if not found:
        return ()
    return (f"its metadata is of version {', '.join(found[:3])}, which can't be read here",)


def _lookup(conn: libvirt.virConnect, uuid: str) -> libvirt.virDomain | None:
    try:
        return conn.lookupByUUIDString(uuid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _read_any(domain: libvirt.virDomain | None) -> GuestNotes:
    """Never raises."""
    if domain is None:
        return _unread("the guest is gone")
    try:
        return _read(domain)
    except libvirt.libvirtError as error:
        return _unread(errors.translate(error).message)


def _unread(why: str) -> GuestNotes:
    return GuestNotes(problems=(f"its metadata could not be read: {why}",), unread=why)


def _write(
    domain: libvirt.virDomain,
    change: Callable[[str | None], str | None],
    dry_run: bool,
    limit_ns: int,
) -> bool:
    doing = f"writing the metadata of guest {domain.name()}"
    try:
        return within(limit_ns, lambda: _rewrite(domain, change, dry_run, doing))
    except TimeoutError:
        raise AmbiguousError(
            f"{doing}: libvirt did not answer within {limit_ns / 1e9:g} s; it may still be written",
            hint="look at libvirt and at `virsh domjobinfo` of the guest, then try again",
            changed=True,
        ) from None


def _rewrite(
    domain: libvirt.virDomain,
    change: Callable[[str | None], str | None],
    dry_run: bool,
    doing: str,
) -> bool:
    """Write until what is read is as wanted."""
    written = False
    for _ in range(TRIES + 1):
        try:
            calls = _calls(tuple(_places(domain)), change)
            if not calls or dry_run:
                return written or bool(calls)
            for flags, text in calls.items():
                domain.setMetadata(_KIND, text, PREFIX, policies.NAMESPACE, flags)
                written = True
        except libvirt.libvirtError as error:
            raise _failed(error, doing, written) from error
    raise AmbiguousError(
        f"{doing}: somebody else writes it at the same time",
        hint="see `hostagent guest show`, and try again",
        changed=True,
    )


def _calls(
    places: Sequence[_Place], change: Callable[[str | None], str | None]
) -> dict[int, str | None]:
    """What must be written where; one call where both definitions are to hold the same."""
    wanted = {place.flag: change(place.text) for place in places}
    differ = {place.flag for place in places if wanted[place.flag] != place.text}
    if len(differ) > 1 and len(set(wanted.values())) == 1:
        return {sum(differ): next(iter(wanted.values()))}
    return {flag: text for flag, text in wanted.items() if flag in differ}


def _failed(error: libvirt.libvirtError, doing: str, written: bool) -> HostagentError:
    """A refusal changed nothing, unless something had been written before it."""
    ours = errors.translate(error, doing)
    if isinstance(ours, RefusedError) and written:
        ours = LibvirtCallError(ours.message, hint=ours.hint)
    ours.changed = not isinstance(ours, RefusedError)
    return ours


def _within(limit_ns: int, doing: str, work: Callable[[], T]) -> T:
    try:
        return within(limit_ns, work)
    except TimeoutError:
        raise errors.no_answer(doing, limit_ns, "the guest's host") from None
    except libvirt.libvirtError as error:
        raise errors.translate(error, doing) from error
