"""`hostagent guest`: guests, what their owners allow to be done with them, and moving one.

Layer: cli. `list` and `show` change nothing; `set` changes the guest's libvirt metadata only, and
disturbs no guest; `migrate` is in guest_migrate. Documents: hostagent.guest-list/1 and
hostagent.guest/1; durations in seconds.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hostagent.cli.globals import Globals
from hostagent.cli.guest_migrate import migrate
from hostagent.cli.messages import show_json, show_warnings
from hostagent.cli.tables import plain, table
from hostagent.core.policy import Policy
from hostagent.rules import policy as policies

if TYPE_CHECKING:
    from hostagent.core.model import Host
    from hostagent.wiring.guests import NotedGuest, Setting


@click.group()
def guest() -> None:
    """Show guests with what their owners allow, set it, and move a guest."""


guest.add_command(migrate)


@guest.command(name="list")
@click.pass_obj
def list_(globals_: Globals) -> None:
    """List the guests of this host with what they allow. Changes nothing."""
    from hostagent.wiring.guests import read_guests

    host, guests = read_guests(globals_.uri, ())
    if globals_.as_json:
        show_json(_list_document(host, guests))
        return
    click.echo(table(_HEAD, [_row(each) for each in guests]))
    if not guests:
        click.echo("No guests.")


@guest.command()
@click.argument("name")
@click.pass_obj
def show(globals_: Globals, name: str) -> None:
    """Show what one guest allows, and what is wrong with its metadata. Changes nothing."""
    from hostagent.wiring.guests import read_guests

    _, (found,) = read_guests(globals_.uri, [name])
    if globals_.as_json:
        show_json({**_document(changed=False, warnings=_remarks(found)), "guest": _json(found)})
        return
    _show(found)
    if not globals_.quiet:
        show_warnings(_remarks(found))


@guest.command(name="set")
@click.argument("name")
@click.argument("assignments", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--dry-run", is_flag=True, help="Show what would be changed; change nothing.")
@click.pass_obj
def set_(globals_: Globals, name: str, assignments: tuple[str, ...], dry_run: bool) -> None:
    """Set what a guest allows. An empty value (KEY=) brings the default back.

    \b
    owner=NAME                  who answers for it
    availability-set=NAME       guests that back each other up
    update-domain=0..19         its part of that set: one part is disturbed at a time
    scale-set=NAME              identical guests
    on-pause=allow|migrate|ask  when its host's guests are to be paused
    on-reboot=live,post-copy,cold,save,shutdown or none
                                how it may leave a host that reboots
    max-pause=500ms             the longest pause that it stands
    notice=15m                  how long before it wants to know
    temporary-disks=vdb,vdc     disks whose content may be lost
    """
    from hostagent.wiring.guests import set_policy

    done = set_policy(globals_.uri, name, assignments, dry_run=dry_run)
    warnings = _warnings(done, dry_run=dry_run)
    if globals_.as_json:
        document = _document(changed=done.changed, warnings=warnings)
        changes = [dict(zip(("key", "from", "to"), row, strict=True)) for row in _changes(done)]
        extra = {"dry_run": True} if dry_run else {}
        show_json({**document, **extra, "changes": changes, "guest": _json(done.after)})
        return
    _show_changes(done, dry_run=dry_run)
    if not globals_.quiet:
        show_warnings((*warnings, *done.after.notes.problems))


_HEAD = ["GUEST", "STATE", "SET", "UD", "ON-PAUSE", "ON-REBOOT", "PROBLEMS"]
_NOTHING = "-"


def _row(each: "NotedGuest") -> list[str]:
    policy = each.notes.policy
    named = (policy.availability_set, policy.scale_set)
    problems = each.notes.problems
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return [
        each.guest.name,
        str(each.guest.state),
        "+".join(name for name in named if name) or _NOTHING,
        policies.text_of(policy, "update-domain") or _NOTHING,
        policies.text_of(policy, "on-pause"),
        policies.text_of(policy, "on-reboot"),
        problems[0] + more if problems else _NOTHING,
    ]


def _show(found: "NotedGuest") -> None:
    each, notes = found.guest, found.notes
    state = f"{each.state} ({each.reason})" if each.reason else str(each.state)
    click.echo(plain(f"Guest {each.name}: {state}, UUID {each.uuid}"))
    click.echo()
    rows = [
        [
            name,
            policies.text_of(notes.policy, name) or _NOTHING,
            "default" if policies.is_default(notes.policy, name) else "",
        ]
        for name in policies.KEYS
    ]
    click.echo(table(["KEY", "VALUE", ""], rows))
    if notes.home is not None:
        since = f" since {notes.home.since}" if notes.home.since else ""
        name = f"{notes.home.host_name} " if notes.home.host_name else ""
        click.echo()
        click.echo(plain(f"Away{since} from its host {name}({notes.home.host_uuid})"))
    if notes.problems:
        click.echo()
    for problem in notes.problems:
        click.echo(plain(f"Problem: {problem}"))


def _changes(done: "Setting") -> list[tuple[str, str, str]]:
    """The keys whose value changed, with the texts before and after."""
    before, after = done.before.notes.policy, done.after.notes.policy
    return [
        (key, policies.text_of(before, key), policies.text_of(after, key))
        for key in done.keys
        if not policies.same(before, after, key)
    ]


def _show_changes(done: "Setting", *, dry_run: bool) -> None:
    verb = "would be" if dry_run else "is now"
    name = done.before.guest.name
    changes = _changes(done)
    for key, before, after in changes:
        click.echo(plain(f"{name}: {key} {verb} {after or _NOTHING} (was {before or _NOTHING})"))
    if not changes:
        click.echo(plain(f"{name}: nothing to change" if not done.changed else f"{name}: set"))


def _warnings(done: "Setting", *, dry_run: bool) -> tuple[str, ...]:
    left = done.after.notes.problems
    gone = () if dry_run else done.before.notes.problems
    right = tuple(f"put right: {problem}" for problem in gone if problem not in left)
    return (*_remarks(done.after), *right)


def _remarks(found: "NotedGuest") -> tuple[str, ...]:
    return policies.remarks(found.notes.policy)


def _document(*, changed: bool, warnings: tuple[str, ...]) -> dict[str, Any]:
    """hostagent.guest/1."""
    return {"schema": "hostagent.guest/1", "changed": changed, "warnings": list(warnings)}


def _list_document(host: "Host", guests: "tuple[NotedGuest, ...]") -> dict[str, Any]:
    return {
        "schema": "hostagent.guest-list/1",
        "changed": False,
        "warnings": [
            f"{each.guest.name}: {remark}" for each in guests for remark in _remarks(each)
        ],
        "host": {"name": host.name, "uuid": host.uuid},
        "guests": [_json(each) for each in guests],
    }


def _json(each: "NotedGuest") -> dict[str, Any]:
    policy, home = each.notes.policy, each.notes.home
    return {
        "name": each.guest.name,
        "uuid": each.guest.uuid,
        "state": str(each.guest.state),
        "reason": each.guest.reason,
        "policy": _policy_json(policy),
        "defaults": [name for name in policies.KEYS if policies.is_default(policy, name)],
        "problems": list(each.notes.problems),
        "home": asdict(home) if home else None,
    }


def _policy_json(policy: Policy) -> dict[str, Any]:
    """Null, or an empty list, where nobody has said anything."""
    return {
        "owner": policy.owner or None,
        "availability_set": policy.availability_set or None,
        "update_domain": policy.update_domain,
        "scale_set": policy.scale_set or None,
        "on_pause": policy.on_pause,
        "on_reboot": list(policy.on_reboot),
        "max_pause_s": _seconds(policy.max_pause_ns),
        "notice_s": _seconds(policy.notice_ns),
        "temporary_disks": list(policy.temporary_disks),
    }


def _seconds(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns / 1e9
