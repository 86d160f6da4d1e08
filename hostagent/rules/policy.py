"""A guest's policy as texts: how it is read, written and changed.

Layer: rules. A policy is written as texts by key (`guest set NAME KEY=VALUE ...`, and the guest's
libvirt metadata), so that it travels with the guest. What a person types wrongly is refused with a
suggestion; what somebody else wrote wrongly into the metadata is that guest's problem: it is shown,
and the default of that key, which is the safe one, applies. Invariant: `read(write(policy))` is the
policy again, without a problem. schemas/guest-1.xsd says the same for other programs.
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

NAMESPACE = "urn:hostagent:guest:1"
"""Of the XML in which the texts are kept. One that can't be read as this one gets another."""

MOST_UPDATE_DOMAINS = 20
LONGEST = 200
"""Characters of one value; the metadata was written by somebody else."""

NOWHERE = "none"
"""on-reboot of a guest that does not leave its host at all."""

_MS = 10**6
_SHOWN = 60
"""Characters of somebody else's text that a sentence repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """How one key is read and written. `read` raises ValueError with what would be right; `words`
    are those that it knows, for a suggestion."""

    field: str
    read: Callable[[str], Any]
    write: Callable[[Any], str] = str
    words: tuple[str, ...] = ()


def _word(text: str) -> str:
    """Names are compared, so there is one way only to write each: no letters that look alike."""
    if not re.fullmatch(r"[A-Za-z0-9_.@:/+-]+", text):
        raise ValueError("only letters of English, digits and . _ - @ : / + can stand there")
    return text


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,2}", text) or int(text) >= MOST_UPDATE_DOMAINS:
        raise ValueError(f"write a number from 0 to {MOST_UPDATE_DOMAINS - 1}")
    return int(text)


def _duration(text: str) -> int:
    duration_ns = parse(text)
    if duration_ns is None or not 0 < duration_ns <= MOST_NS or duration_ns % _MS:
        raise ValueError("write whole milliseconds up to a day, for example 500ms, 30s or 15m")
    return duration_ns


def _one_of(kind: type[StrEnum], or_else: str = "") -> Callable[[str], Any]:
    def read(text: str) -> StrEnum:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"write one of {', '.join(kind)}{or_else}") from None

    return read


def _list_of(read_one: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    def read(text: str) -> tuple[Any, ...]:
        found = tuple(read_one(part.strip()) for part in text.split(","))
        if len(set(found)) != len(found):
            raise ValueError("name each only once")
        return found

    return read


def _ladder(text: str) -> tuple[OnReboot, ...]:
    """The rungs are tried from the gentlest on, whatever order they were written in."""
    if text == NOWHERE:
        return ()
    if NOWHERE in (part.strip() for part in text.split(",")):
        raise ValueError(f"{NOWHERE} stands alone")
    wanted = _list_of(_one_of(OnReboot, f", or {NOWHERE}"))(text)
    return tuple(rung for rung in OnReboot if rung in wanted)


def _rungs(ladder: tuple[OnReboot, ...]) -> str:
    return ",".join(ladder) or NOWHERE


KEYS = {
    "owner": _Key(field="owner", read=_word),
    "availability-set": _Key(field="availability_set", read=_word),
    "update-domain": _Key(field="update_domain", read=_number),
    "scale-set": _Key(field="scale_set", read=_word),
    "on-pause": _Key(field="on_pause", read=_one_of(OnPause), words=tuple(OnPause)),
    "on-reboot": _Key(field="on_reboot", read=_ladder, write=_rungs, words=(*OnReboot, NOWHERE)),
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
            problems.append(f"{_short(key)} is {_short(text)}, which is not right: {error}")
    return policy, tuple(problems)


def write(policy: Policy) -> dict[str, str]:
    """The texts of all that is not as by default."""
    return {name: text_of(policy, name) for name in KEYS if not is_default(policy, name)}


def text_of(policy: Policy, name: str) -> str:
    """One key's text; empty where nothing is said."""
    value = getattr(policy, KEYS[name].field)
    return "" if value is None else KEYS[name].write(value)


def is_default(policy: Policy, name: str) -> bool:
    """Whether this key is as it would be if nobody had said anything."""
    return same(policy, DEFAULT, name)


def same(one: Policy, other: Policy, name: str) -> bool:
    """Whether two policies say the same by this key."""
    field = KEYS[name].field
    return bool(getattr(one, field) == getattr(other, field))


def keys_of(assignments: Iterable[str]) -> tuple[str, ...]:
    """The keys of `KEY=VALUE ...`. Raises UsageError for what is not of that form, for a key that
    does not exist and for one that is given twice."""
    names: list[str] = []
    for assignment in assignments:
        name, separator, _ = assignment.partition("=")
        name = name.strip()
        if not separator:
            raise UsageError(f"{_short(assignment)} is not KEY=VALUE", hint=_key_hint(name))
        if name not in KEYS:
            raise UsageError(f"there is no key {_short(name)}", hint=_key_hint(name))
        if name in names:
            raise UsageError(f"{name} is given twice", hint="give each key once")
        names.append(name)
    return tuple(names)


def changed(policy: Policy, assignments: Iterable[str]) -> Policy:
    """The policy after `KEY=VALUE ...`; an empty value brings the default back. Raises UsageError
    for the first that is not right: nothing is changed then."""
    assignments = tuple(assignments)
    for name, assignment in zip(keys_of(assignments), assignments, strict=True):
        text = assignment.partition("=")[2].strip()
        try:
            policy = _with(policy, name, text)
        except ValueError as error:
            raise UsageError(
                f"{name} can't be {_short(text)}: {error}", hint=_value_hint(name, text)
            ) from error
    return policy


def remarks(policy: Policy) -> tuple[str, ...]:
    """What is right by itself but means nothing together."""
    if policy.update_domain is not None and not policy.availability_set:
        return ("an update domain means nothing without an availability set",)
    return ()


def _with(policy: Policy, name: str, text: str) -> Policy:
    key = KEYS.get(name)
    if key is None:
        raise ValueError("there is no such key")
    if len(text) > LONGEST:
        raise ValueError(f"write at most {LONGEST} characters")
    value = key.read(text) if text else getattr(DEFAULT, key.field)
    return replace(policy, **{key.field: value})


def _short(text: str) -> str:
    """Somebody else's text, so that a sentence can hold it."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _key_hint(name: str) -> str:
    close = difflib.get_close_matches(name[:_SHOWN].lower().replace("_", "-"), KEYS, n=1)
    if close:
        return f"did you mean {close[0]}=...?"
    return f"keys: {', '.join(KEYS)}"


def _value_hint(name: str, text: str) -> str:
    """The word that was probably meant; each of a list has its own."""
    words = KEYS[name].words
    parts = [part.strip().lower() for part in text[:LONGEST].split(",")]
    meant = [difflib.get_close_matches(part, words, n=1) for part in parts]
    if words and all(meant):
        return f"did you mean {name}={','.join(dict.fromkeys(each[0] for each in meant))}?"
    return f"`{name}=` brings back what applies when nobody says anything"
