"""The options that every command shares.

Layer: cli. A value; `state_dir` is None where the default applies.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class OutputFormat(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """What stands before the command's name."""

    uri: str
    state_dir: Path | None
    output: OutputFormat
    quiet: bool

    @property
    def as_json(self) -> bool:
        """Whether results are JSON documents."""
        return self.output is OutputFormat.JSON
