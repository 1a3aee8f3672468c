"""Kernels that compute a derived value for every token and store it."""

from __future__ import annotations

from attnc.codegen.code import Code
from attnc.codegen.context import KernelText, Variant
from attnc.codegen.emitter import Emitter
from attnc.codegen.place import is_vector, make_emitter, place_args, program_lines, row_lines, tensor_args, used_args
from attnc.codegen.provenance import describe
from attnc.codegen.vectors import length
from attnc.ir.expr import Expr
from attnc.ir.plan import Derived, KernelPlan
from attnc.ir.traverse import walk
from attnc.ir.types import VectorType

#: Tokens per program.
BLOCK = 32


def token_map(plan: KernelPlan, derived: Derived, variant: Variant) -> tuple[KernelText, Emitter]:
    """The kernel of one derived value."""
    side = derived.side
    row, position = ("row", "i") if side == "q" else ("col", "j")
    axis = "i" if side == "q" else "j"
    heads = "h" if derived.heads == "H" else "hk"
    indices = {
        "b": Code("b"),
        "h": Code("h"),
        "hk": Code("hk"),
        ("r" if side == "q" else "c"): Code(row, axis, wide=variant.wide),
        ("i" if side == "q" else "j"): Code(position, axis, wide=variant.wide),
    }
    emitter = make_emitter(plan, variant, indices, {})
    emitter.lane_masks[axis] = f"{row}_ok"
    width = block_width(derived.expr)
    if width:
        emitter.line(f"d = tl.arange(0, {width})")
    code = emitter.emit(derived.expr, emitter.whole if width else None)
    emitter.outer.lines += _store(emitter, derived, code, heads, row, axis, variant)
    kernel = KernelText(
        kind="token_map",
        name=f"map_{derived.name}",
        title=f"{derived.name}[b, {heads}, {axis}] = {describe(derived.expr)}",
        notes=(),
        args=(
            *place_args(variant),
            *used_args(emitter, plan),
            *tensor_args(derived.name, derived.name, *((4, "real") if is_vector(derived) else (3, "token_number"))),
        ),
        place=(*program_lines(derived.heads, variant), *row_lines(side, BLOCK, variant)),
        prologue=tuple(emitter.outer.lines),
        sweeps=(),
        epilogue=(),
        block=BLOCK,
        grid_side=side,
        grid_heads=derived.heads,
        output=derived.name,
    )
    return kernel, emitter


def block_width(expr: Expr) -> int:
    """Features per program: a power of two that holds every vector inside; 0 for a number without vectors."""
    lengths = [length(node) for node in walk(expr) if isinstance(node.type, VectorType)]
    if not lengths:
        return 0
    return max(16, 1 << (max(lengths) - 1).bit_length())


def _store(
    emitter: Emitter, derived: Derived, code: Code, heads: str, row: str, axis: str, variant: Variant
) -> list[str]:
    stem = derived.name
    start = ("q_start + " if derived.side == "q" else "k_start + ") if variant.packed else ""
    vector = is_vector(derived)
    target = f"{axis}d" if vector else axis
    place = emitter.broadcast(Code(f"({start}{row}).to(tl.int64)", axis), target)
    address = f"{stem}_ptr + b.to(tl.int64) * {stem}_s0 + {heads}.to(tl.int64) * {stem}_s1 + {place} * {stem}_s2"
    mask = emitter.broadcast(Code(f"{row}_ok", axis), target)
    if vector:
        address += f" + d[None, :] * {stem}_s3"
        mask = f"{mask} & (d < {length(derived.expr)})[None, :]"
    value = emitter.broadcast(code, target)
    return (
        [f"tl.store({address}, {value} + tl.zeros_like({mask}).to(tl.float32), mask={mask})"]
        if not code.axes
        else [f"tl.store({address}, ({value}).to({stem}_ptr.dtype.element_ty), mask={mask})"]
    )
