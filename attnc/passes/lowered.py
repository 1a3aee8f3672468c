"""A module between its own text and its plans: what forward and backward are both made of."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.ir.expr import Expr
from attnc.ir.module import AttentionModule
from attnc.ir.plan import Sweep
from attnc.passes.exp2 import Folded
from attnc.passes.normalizer_passes import Cascade
from attnc.passes.operands import Operands
from attnc.passes.positions import Positions


@dataclass(frozen=True, slots=True)
class Lowered:
    """A module on its way to plans: everything but its tiles, which `positions` and `module` decide.

    `score` is the logit in its own unit, `scaled` in the unit that sweeps read; `rows` is the module over stored rows.
    """

    module: AttentionModule
    positions: Positions
    rows: AttentionModule
    cascade: Cascade
    folded: Folded
    operands: Operands
    score: Expr
    scaled: Expr
    sweeps: tuple[Sweep, ...]
    values: str
