"""Loads of the vectors of tokens: those of queries once per program, those of keys once per key tile."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.codegen.context import Variant
from attnc.codegen.place import operand_heads, tensor_codes
from attnc.ir.plan import KernelPlan


def plain_name(operand: str) -> str:
    """The name of an operand as part of a name in the text: those that the backward reads have a colon."""
    return operand.replace(":", "_")


def padded(dim: int) -> int:
    """Features as a block: a power of two, at least what a tensor core takes."""
    return max(16, 1 << (dim - 1).bit_length())


@dataclass(frozen=True, slots=True)
class _Operand:
    """A stored vector that the kernel loads: its tensor, length, side and the head that it is read for."""

    name: str
    stem: str
    dim: int
    heads: str


class TokenLoads:
    """The loads of one plan's attention kernels."""

    def __init__(self, plan: KernelPlan, variant: Variant) -> None:
        self._plan = plan
        self._variant = variant
        self._stems = {name: code.stem for name, code in tensor_codes(plan, variant).items()}

    def _operand(self, name: str, dim: int) -> _Operand:
        return _Operand(
            plain_name(name), self._stems[name], dim, "h" if operand_heads(self._plan, name) == "H" else "hk"
        )

    def _base(self, operand: _Operand) -> str:
        stem, heads = operand.stem, operand.heads
        return f"{stem}_ptr + b.to(tl.int64) * {stem}_s0 + {heads}.to(tl.int64) * {stem}_s1"

    def query_lines(self) -> tuple[str, ...]:
        """Query-side operands are loaded once."""
        lines: list[str] = []
        for name in dict.fromkeys(term.left for term in self._plan.dots):
            dim = next(term.dim for term in self._plan.dots if term.left == name)
            operand = self._operand(name, dim)
            start = "q_start + " if self._variant.packed else ""
            block = padded(dim)
            plain = operand.name
            mask = "row_ok[:, None]" if block == dim else f"row_ok[:, None] & (f_{plain} < {dim})[None, :]"
            lines += [
                f"f_{plain} = tl.arange(0, {block})",
                (
                    f"left_{plain} = tl.load({self._base(operand)} + ({start}row).to(tl.int64)[:, None] * "
                    f"{operand.stem}_s2 + f_{plain}[None, :] * {operand.stem}_s3, mask={mask}, other=0.0)"
                ),
            ]
        for name in dict.fromkeys(term.right for term in self._plan.dots):
            dim = next(term.dim for term in self._plan.dots if term.right == name)
            lines += self._key_base(name, dim, "k")
        for name, dim in self.values().items():
            lines += self._key_base(name, dim, "v")
        return tuple(lines)

    def values(self) -> dict[str, int]:
        """What weights accumulators, with lengths."""
        found = [(self._plan.values_of(acc), acc.dim) for acc in self._plan.accumulators if acc.weighted]
        return dict(found) or {self._plan.values: self._plan.value_dim}

    def _key_base(self, name: str, dim: int, role: str) -> list[str]:
        operand = self._operand(name, dim)
        start = f" + k_start * {operand.stem}_s2" if self._variant.packed else ""
        return [
            f"f{role}_{operand.name} = tl.arange(0, {padded(dim)})",
            f"base{role}_{operand.name} = {self._base(operand)}{start}",
        ]

    def key_load(self, name: str, dim: int, role: str, column_mask: str) -> str:
        """A tile of a key-side operand: keys as columns for the logits, as rows for the values."""
        stem, name = self._stems[name], plain_name(name)
        row, feature = ("[None, :]", "[:, None]") if role == "k" else ("[:, None]", "[None, :]")
        masks = [f"{column_mask}{row}"] if column_mask else []
        if padded(dim) != dim:
            masks.append(f"(f{role}_{name} < {dim}){feature}")
        mask = f", mask={' & '.join(masks)}, other=0.0" if masks else ""
        return (
            f"tl.load(base{role}_{name} + col.to(tl.int64){row} * {stem}_s2 + "
            f"f{role}_{name}{feature} * {stem}_s3{mask})"
        )
