"""Pieces of emitted Triton text and what is known about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attnc.ir.expr import Expr

_ORDER = "ijd"


@dataclass(frozen=True, slots=True)
class Code:
    """A piece of Triton text. `atom` texts need no parentheses; `inner`: only valid in the inner block."""

    text: str
    axes: str = ""
    kind: str = "int"
    atom: bool = True
    inner: bool = False
    wide: bool = False

    @property
    def tight(self) -> str:
        """The text, in parentheses unless it is an atom."""
        return self.text if self.atom else f"({self.text})"


@dataclass(frozen=True, slots=True)
class Feature:
    """Where on the feature axis a vector is read: the text of the index, with axis d or (in a loop over d) without.

    `inner`: the index exists only in the inner block.
    """

    text: str
    axes: str = "d"
    inner: bool = False


@dataclass(frozen=True, slots=True)
class TensorCode:
    """How a tensor is reached: argument stem (PTR is stem_ptr, strides stem_s0 ...), sizes of its dimensions.

    `starts` has, per dimension, the text to add to a stored row (packed documents), or "".
    """

    stem: str
    dims: tuple[Expr, ...]
    kind: str
    starts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """One load: of a number, or of the features of a vector at `feature`. `wide`: its values need 64 bits."""

    tensor: TensorCode
    indices: tuple[Expr, ...]
    feature: Feature | None
    kind: str
    wide: bool


@dataclass(slots=True)
class Block:
    """Lines of one level of the kernel and what they define."""

    lines: list[str] = field(default_factory=list[str])
    memo: dict[tuple[Expr, str], Code] = field(default_factory=dict[tuple[Expr, str], Code])


def union(parts: Iterable[str]) -> str:
    """The axes of several pieces of code, in order."""
    seen = "".join(parts)
    return "".join(axis for axis in _ORDER if axis in seen)


def is_number(text: str) -> bool:
    """Whether a text is a literal."""
    digits = text.translate(str.maketrans("", "", ".-+e"))
    return digits.isdigit() or text.startswith("float(")
