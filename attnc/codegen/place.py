"""The lines that say which rows a program computes, and the names that expressions read there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attnc.codegen.code import Code, TensorCode
from attnc.codegen.context import Arg, Variant
from attnc.codegen.emitter import Emitter
from attnc.ir.expr import Expr, Size, int_const
from attnc.ir.intervals import Interval
from attnc.ir.module import AttentionModule, TensorParam
from attnc.ir.plan import Derived, KernelPlan
from attnc.ir.types import VectorType

Side = Literal["q", "k"]

_WIDE = Interval(-(2**63), 2**63 - 1)


def tensor_codes(plan: KernelPlan, variant: Variant) -> dict[str, TensorCode]:
    """How each tensor of a plan is reached, by name."""
    codes: dict[str, TensorCode] = {}
    for n, tensor in enumerate(plan.module.tensors):
        codes[tensor.name] = _user_tensor(f"t{n}", tensor, variant)
    for derived in plan.derived:
        codes[derived.name] = _derived_tensor(derived, variant)
    for name, heads, tokens, dim in (("q", "H", "N", "D"), ("k", "Hk", "M", "D"), ("v", "Hk", "M", "Dv")):
        length = plan.head_dim if dim == "D" else plan.value_dim
        codes[name] = _token_tensor(name, heads, tokens, length, variant)
    return codes


def _starts(dims: tuple[Expr, ...], variant: Variant) -> tuple[str, ...]:
    names = {Size("N"): "q_start", Size("M"): "k_start"}
    return tuple(names.get(dim, "") if variant.packed and isinstance(dim, Size) else "" for dim in dims)


def _user_tensor(stem: str, tensor: TensorParam, variant: Variant) -> TensorCode:
    kind = "token_number" if tensor.single else tensor.type.kind
    return TensorCode(stem, tensor.dims, kind, _starts(tensor.dims, variant))


def _derived_tensor(derived: Derived, variant: Variant) -> TensorCode:
    tokens = Size("N") if derived.side == "q" else Size("M")
    dims: tuple[Expr, ...] = (Size("B"), Size(derived.heads), tokens)
    kind = "real" if is_vector(derived) else "token_number"
    return TensorCode(derived.name, dims, kind, _starts(dims, variant))


def _token_tensor(name: str, heads: str, tokens: str, length: int, variant: Variant) -> TensorCode:
    dims: tuple[Expr, ...] = (Size("B"), Size(heads), Size(tokens), int_const(length))  # type: ignore[arg-type]
    return TensorCode(name, dims, "real", _starts(dims, variant))


def ranges(module: AttentionModule, variant: Variant) -> dict[str, Interval]:
    """Ranges of the values of int tensors."""
    found: dict[str, Interval] = {}
    for tensor in module.tensors:
        if tensor.type.kind != "int":
            continue
        bounds = tensor.range
        if bounds is not None and bounds.low is not None and bounds.high is not None:
            found[tensor.name] = Interval(int(bounds.low), int(bounds.high))
        elif tensor.name in variant.wide_tensors:
            found[tensor.name] = _WIDE
    return found


def make_emitter(
    plan: KernelPlan, variant: Variant, indices: Mapping[str, Code], scalars: Mapping[str, Code]
) -> Emitter:
    """An emitter for a kernel of this plan."""
    return Emitter(
        indices=indices,
        scalars={**base_scalars(plan), **scalars},
        tensors=tensor_codes(plan, variant),
        ranges=ranges(plan.module, variant),
        wide=variant.wide,
    )


def base_scalars(plan: KernelPlan) -> dict[str, Code]:
    """Sizes, offsets and dynamic parameters under their names in every kernel."""
    codes = {f"size:{name}": Code(name) for name in ("B", "H", "N", "M")}
    codes["size:Hk"] = Code("HK")
    codes["size:D"] = Code(str(plan.head_dim))
    codes["size:Dv"] = Code(str(plan.value_dim))
    codes["value:q_offset"] = Code("q_offset")
    codes["value:k_offset"] = Code("k_offset")
    codes["value:scale"] = Code("scale", kind="real")
    for n, param in enumerate(plan.module.scalars):
        truth = param.type.kind == "bool"
        codes[f"param:{param.name}"] = Code(f"(p{n} != 0)" if truth else f"p{n}", kind=param.type.kind)
    return codes


def program_lines(heads: str, variant: Variant, *, descending: bool = False) -> list[str]:
    """Tile, batch, head, sizes and offsets of this program. `descending`: the last tile comes first."""
    count = "H" if heads == "H" else "HK"
    lines = ["pid = tl.program_id(0)"]
    if variant.packed:
        lines += _packed_place(count)
    else:
        lines += [
            "tile = n_tiles - 1 - pid % n_tiles" if descending else "tile = pid % n_tiles",
            f"head = pid // n_tiles % {count}",
            f"b = pid // n_tiles // {count}",
        ]
    lines += ["h = head", "hk = head // (H // HK)"] if heads == "H" else ["hk = head"]
    return lines + _offsets(variant)


def row_lines(side: Side, block: int, variant: Variant) -> tuple[str, ...]:
    """Stored rows and positions of a tile that is a range of positions."""
    row, position, offset, size = ("row", "i", "q_offset", "N") if side == "q" else ("col", "j", "k_offset", "M")
    cast = ".to(tl.int64)" if variant.wide else ""
    return (
        f"{row} = tile * {block} + tl.arange(0, {block}){cast}",
        f"{row}_ok = {row} < {size}",
        f"{position} = {offset} + {row}",
    )


def _packed_place(count: str) -> list[str]:
    """Documents: a table gives the document and tile of each program; sizes are the document's own."""
    return [
        f"work = pid // {count}",
        f"head = pid % {count}",
        "b = pid * 0",
        "doc = tl.load(tiles_ptr + 2 * work)",
        "tile = tl.load(tiles_ptr + 2 * work + 1)",
        "if doc < 0:",
        "    return",
        "q_start = tl.load(cu_q_ptr + doc).to(tl.int64)",
        "k_start = tl.load(cu_k_ptr + doc).to(tl.int64)",
        "N = (tl.load(cu_q_ptr + doc + 1) - q_start).to(tl.int32)",
        "M = (tl.load(cu_k_ptr + doc + 1) - k_start).to(tl.int32)",
    ]


def _offsets(variant: Variant) -> list[str]:
    lines: list[str] = []
    if variant.q_offset == "tensor":
        lines.append("q_offset = tl.load(q_offset_ptr + b)")
    elif variant.q_offset == "end":
        lines.append("q_offset = M - N")
    if variant.k_offset == "tensor":
        lines.append("k_offset = tl.load(k_offset_ptr + b)")
    return lines


def place_args(variant: Variant) -> tuple[Arg, ...]:
    """The arguments that `program_lines` reads."""
    args: list[Arg] = []
    if variant.packed:
        args += [
            Arg("tiles_ptr", "tiles", "work", kind="index"),
            Arg("cu_q_ptr", "tiles", "cu_q", kind="index"),
            Arg("cu_k_ptr", "tiles", "cu_k", kind="index"),
        ]
    else:
        args += [Arg("n_tiles", "tiles", "n_tiles"), Arg("N", "size", "N"), Arg("M", "size", "M")]
    args += [Arg("B", "size", "B"), Arg("H", "size", "H"), Arg("HK", "size", "Hk")]
    if variant.q_offset == "tensor":
        args.append(Arg("q_offset_ptr", "offset", "q", kind="index"))
    elif variant.q_offset == "int":
        args.append(Arg("q_offset", "offset", "q"))
    name = "k_offset_ptr" if variant.k_offset == "tensor" else "k_offset"
    args.append(Arg(name, "offset", "k", kind="index" if variant.k_offset == "tensor" else "int"))
    return tuple(args)


def used_args(emitter: Emitter, plan: KernelPlan, extra: tuple[str, ...] = ()) -> tuple[Arg, ...]:
    """Arguments for the tensors and scalars that the emitted text reads, in a fixed order."""
    args: list[Arg] = []
    codes = tensor_codes(plan, Variant())
    names = [name for name in codes if name in emitter.tensors_used or name in extra]
    for name in names:
        args += tensor_args(name, codes[name].stem, _rank(plan, name), codes[name].kind)
    if "value:scale" in emitter.scalars_used:
        args.append(Arg("scale", "value", "scale", kind="real"))
    for n, param in enumerate(plan.module.scalars):
        if f"param:{param.name}" in emitter.scalars_used:
            args.append(Arg(f"p{n}", "param", param.name, kind=param.type.kind))
    return tuple(args)


def operand_heads(plan: KernelPlan, name: str) -> Literal["H", "Hk"]:
    """The heads for which the vectors of an operand are stored."""
    known: dict[str, Literal["H", "Hk"]] = {"q": "H", "k": "Hk", "v": "Hk"}
    known |= {derived.name: derived.heads for derived in plan.derived}
    if name in known:
        return known[name]
    return "H" if plan.module.tensor(name).dims[1] == Size("H") else "Hk"


def _rank(plan: KernelPlan, name: str) -> int:
    for tensor in plan.module.tensors:
        if tensor.name == name:
            return len(tensor.dims)
    for derived in plan.derived:
        if derived.name == name:
            return 4 if is_vector(derived) else 3
    return 4


def is_vector(derived: Derived) -> bool:
    """Whether a derived value has features."""
    return isinstance(derived.expr.type, VectorType)


def tensor_args(key: str, stem: str, rank: int, kind: str) -> list[Arg]:
    """Pointer and strides of a tensor."""
    pointer = Arg(f"{stem}_ptr", "pointer", key, kind=kind)
    return [pointer, *(Arg(f"{stem}_s{axis}", "stride", key, axis) for axis in range(rank))]
