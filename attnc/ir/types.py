"""Types of typed expressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from attnc.ir.expr import Expr

Kind = Literal["bool", "int", "real"]


@dataclass(frozen=True, slots=True)
class ScalarType:
    """One number per point of the index space. `int` is exact, `real` is rounded by the back end."""

    kind: Kind

    def __str__(self) -> str:
        return self.kind


@dataclass(frozen=True, slots=True)
class VectorType:
    """A real vector; `dim` is its length, an int expression over sizes and parameters."""

    dim: Expr

    def __str__(self) -> str:
        from attnc.ir.printer import print_expr  # the printer reads types, so it cannot be imported above

        return f"real[{print_expr(self.dim)}]"


Type = ScalarType | VectorType

BOOL = ScalarType("bool")
INT = ScalarType("int")
REAL = ScalarType("real")
