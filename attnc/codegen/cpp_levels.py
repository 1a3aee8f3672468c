"""Where values of emitted C++ live: by unit, query, vector of queries, column, pair and feature."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from attnc.diagnostics import AttncError, InternalError

Level = Literal["const", "row", "run", "rows", "key", "pair", "feature"]
LEVELS: tuple[Level, ...] = get_args(Level)
VECTORS = ("rows", "key", "pair", "feature")
_SCALAR = {"real": "float", "int": "int64_t", "bool": "bool"}
_VECTOR = {"real": "vf", "int": "vi", "bool": "vi"}


class NoCppError(AttncError):
    """Something that this back end has no code for; the text says what."""


@dataclass(frozen=True, slots=True)
class Val:
    """A value: its text where it lives. `wide`: a vector of 64-bit ints."""

    text: str
    level: Level
    kind: str
    wide: bool = False

    @property
    def type(self) -> str:
        """The C++ type of it, or of an element of its array."""
        if self.level not in VECTORS:
            return _SCALAR[self.kind]
        return "vl" if self.wide else _VECTOR[self.kind]


def join(levels: Iterable[Level]) -> Level:
    """The lowest level where values of these levels are all at hand."""
    found = set(levels)
    if "feature" in found:
        if found & {"key", "pair"}:
            raise InternalError("features and columns in one vector")
        return "feature"
    if "pair" in found or ("key" in found and found & {"row", "run", "rows"}):
        return "pair"
    if "key" in found:
        return "key"
    if "rows" in found:
        return "rows"
    if "run" in found:
        return "run"
    return "row" if "row" in found else "const"
