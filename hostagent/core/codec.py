"""Values to JSON and back, by their own annotations.

Layer: core. Knows dataclasses, StrEnum, tuples, mappings and optional values, which is all that
plans and rows are made of. Unknown fields are ignored (a newer version may have written them);
a missing field without a default, or one of another type, raises CodecError.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hostagent.core.journal import Ended, Entry, Heard, Intent, Outcome, Planned, Row, Stamp
from hostagent.core.plan import Plan

T = TypeVar("T")

_ROWS: dict[str, type[Row]] = {
    "planned": Planned,
    "intent": Intent,
    "outcome": Outcome,
    "heard": Heard,
    "ended": Ended,
}
_NAMES = {kind: name for name, kind in _ROWS.items()}


class CodecError(ValueError):
    """This JSON is not such a value."""


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """One line of a journal: the row's kind, its fields, and its stamp."""
    row = entry.row
    return {"row": _NAMES[type(row)], "is": asdict(row), "at": asdict(entry.stamp)}


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """A plan as it is shown by --dry-run."""
    return asdict(plan)


def entry_from_json(value: Any) -> Entry:  # noqa: ANN401 - what json.loads gives
    """The inverse of entry_to_json. Raises CodecError."""
    try:
        kind = _ROWS[value["row"]]
        return Entry(row=decode(kind, value["is"]), stamp=decode(Stamp, value["at"]))
    except (KeyError, TypeError) as error:
        raise CodecError(f"not a journal entry: {error}") from error


def decode(kind: type[T], value: Any) -> T:  # noqa: ANN401
    """A value of this dataclass from its JSON. Raises CodecError."""
    if not is_dataclass(kind) or not isinstance(value, dict):
        raise CodecError(f"not a {kind.__name__}: {value!r:.80}")
    hints, found = _hints(kind), {}
    for field in fields(kind):
        if field.name in value:
            found[field.name] = _convert(hints[field.name], value[field.name])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise CodecError(f"{kind.__name__} without {field.name}")
    return kind(**found)


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _convert(hint: Any, value: Any) -> Any:  # noqa: ANN401
    origin, args = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return _convert_union(args, value)
    if origin is tuple:
        return tuple(_convert(args[0], item) for item in _expect(list, value))
    if origin is Mapping or origin is dict:
        return {key: _convert(args[1], item) for key, item in _expect(dict, value).items()}
    if is_dataclass(hint):
        return decode(hint, value)  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError as error:
            raise CodecError(str(error)) from error
    return _expect(hint, value)


def _convert_union(args: tuple[Any, ...], value: Any) -> Any:  # noqa: ANN401
    """`X | None` of a value type; a union of JSON primitives stays as it is."""
    if value is None and type(None) in args:
        return None
    kinds = [arg for arg in args if is_dataclass(arg)]
    return _convert(kinds[0], value) if kinds else value


def _expect(kind: Any, value: Any) -> Any:  # noqa: ANN401
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CodecError(f"expected {kind.__name__}, not {value!r:.80}")
    return value
