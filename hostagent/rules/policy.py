"""A guest's policy as texts: how it is read, written and changed.

Layer: rules. A policy is written as texts by key (`guest set NAME KEY=VALUE ...`, and the guest's
libvirt metadata), so that it travels with the guest. What a person types wrongly is refused with a
suggestion; what somebody else wrote wrongly into the metadata is that guest's problem: it is shown,
and the default of that key, which is the safe one, applies.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from hostagent.core.durations import MOST_NS, parse, written
from hostagent.core.errors import UsageError
from hostagent.core.policy import OnPause, OnReboot, Policy

MOST_UPDATE_DOMAINS = 20
LONGEST = 200
"""Characters of one value; the metadata was written by somebody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """How one key is read and written. `read` raises ValueError with what would be right."""

    field: str
    read: Callable[[str], Any]
    write: Callable[[Any], str]


def _word(text: str) -> str:
    if not re.fullmatch(r"[\w.@:/+-]+", text):
        raise ValueError("letters, digits and . _ - @ : / + only")
    return text


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,2}", text) or int(text) >= MOST_UPDATE_DOMAINS:
        raise ValueError(f"a number from 0 to {MOST_UPDATE_DOMAINS - 1}")
    return int(text)


def _duration(text: str) -> int:
    duration_ns = parse(text)
    if duration_ns is None or not 0 < duration_ns <= MOST_NS:
        raise ValueError("a duration up to a day, for example 500ms, 30s or 15m")
    return duration_ns


def _one_of(kind: type[StrEnum]) -> Callable[[str], Any]:
    def read(text: str) -> StrEnum:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"one of {', '.join(kind)}") from None

    return read


def _list_of(read_one: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def read(text: str) -> tuple[Any, ...]:
        found = tuple(read_one(part.strip()) for part in text.split(","))
        if len(set(found)) != len(found):
            raise ValueError("each only once")
        return found

    return read


def _ladder(text: str) -> tuple[OnReboot, ...]:
    """The rungs are tried from the gentlest on, whatever order they were written in."""
    wanted = _list_of(_one_of(OnReboot))(text)
    return tuple(rung for rung in OnReboot if rung in wanted)


KEYS = {
    "owner": _Key(field="owner", read=_word, write=str),
    "availability-set": _Key(field="availability_set", read=_word, write=str),
    "update-domain": _Key(field="update_domain", read=_number, write=str),
    "scale-set": _Key(field="scale_set", read=_word, write=str),
    "on-pause": _Key(field="on_pause", read=_one_of(OnPause), write=str),
    "on-reboot": _Key(field="on_reboot", read=_ladder, write=",".join),
    "max-pause": _Key(field="max_pause_ns", read=_duration, write=written),
    "notice": _Key(field="notice_ns", read=_duration, write=written),
    "temporary-disks": _Key(field="temporary_disks", read=_list_of(_word), write=",".join),
}
"""In the order in which they are shown."""

DEFAULT = Policy()


def read(texts: Mapping[str, str]) -> tuple[Policy, tuple[str, ...]]:
    """The policy in a guest's metadata, and a sentence for each text that is not right."""
    policy, problems = DEFAULT, []
    for key, text in texts.items():
        try:
            policy = _with(policy, key, text)
        except ValueError as error:
            problems.append(f"policy {key!r:.60}: {text!r:.60} is not right: {error}")
    return policy, tuple(problems)


def write(policy: Policy) -> dict[str, str]:
    """The texts of all that is not as by default."""
    return {
        name: key.write(getattr(policy, key.field))
        for name, key in KEYS.items()
        if getattr(policy, key.field) != getattr(DEFAULT, key.field)
    }


def changed(policy: Policy, assignments: Iterable[str]) -> Policy:
    """The policy after `KEY=VALUE ...`; an empty value brings the default back. Raises UsageError
    for the first that is not right: nothing is changed then."""
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise UsageError(f"{assignment!r} is not KEY=VALUE", hint=f"keys: {', '.join(KEYS)}")
        try:
            policy = _with(policy, name.strip(), text.strip())
        except ValueError as error:
            raise UsageError(f"{assignment!r}: {error}", hint=_hint(name)) from error
    return policy


def _with(policy: Policy, name: str, text: str) -> Policy:
    key = KEYS.get(name)
    if key is None:
        raise ValueError("there is no such key")
    if len(text) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    value = key.read(text) if text else getattr(DEFAULT, key.field)
    return replace(policy, **{key.field: value})


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name, KEYS, n=1)
    if name in KEYS or not close:
        return f"keys: {', '.join(KEYS)}"
    return f"did you mean {close[0]}?"
