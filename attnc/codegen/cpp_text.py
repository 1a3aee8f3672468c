"""Pieces of emitted C++ that the parts of a kernel share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from attnc.codegen.context import Arg
from attnc.codegen.cpp_levels import Val
from attnc.ir.plan import Accumulator, KernelPlan

#: Queries of a unit, and keys of a tile.
ROWS = 64
KEYS = 64
#: Queries of a unit that reads keys where they lie, and the largest number that meets a key at a time.
FEW_ROWS = 32
AT_ONCE = 8
#: What an accumulator holds before any key.
IDENTITY = {"sum": "0.0f", "max": "(-INFINITY)", "min": "INFINITY"}


@dataclass(frozen=True, slots=True)
class CppVariant:
    """Properties of a call that change the text. `types` are the C++ element types of tensors by name.

    `few`: so few queries share a key that keys are read where they lie, by this many queries at a time; 0: packed.
    """

    types: tuple[tuple[str, str], ...]
    packed: bool = False
    wide: bool = False
    aux: bool = False
    few: int = 0


@dataclass(frozen=True, slots=True)
class CppStage:
    """One function of the module: its name, arguments in the order of the arrays of a call, and its part's number."""

    name: str
    args: tuple[Arg, ...]
    part: int


@dataclass(frozen=True, slots=True)
class CppModule:
    """Emitted source and what the launcher needs to know. `query_heads`: keys are packed for each query head."""

    source: str
    stages: tuple[CppStage, ...]
    plan: KernelPlan
    variant: CppVariant
    query_heads: bool


@cache
def native(name: str) -> str:
    """A file of `codegen/native`."""
    return files("attnc.codegen").joinpath("native", name).read_text(encoding="utf-8")


def padded_text(dim: int) -> str:
    """Features as whole vectors, as C++ text."""
    return f"(({dim} + V - 1) / V * V)"


def indented(lines: list[str], by: int) -> list[str]:
    """Lines moved to the right."""
    return [f"{' ' * by}{line}" for line in lines]


def function_text(head: str, lines: list[str]) -> str:
    """A function of C++."""
    return "\n".join((f"{head} {{", *indented(lines, 2), "}", ""))


def tensor_arguments(key: str, stem: str, rank: int, kind: str) -> list[Arg]:
    """Pointer and strides of a tensor."""
    return [
        Arg(f"{stem}_ptr", "pointer", key, kind=kind),
        *(Arg(f"{stem}_s{n}", "stride", key, n) for n in range(rank)),
    ]


def unpacking(args: tuple[Arg, ...]) -> list[str]:
    """Lines that give the arguments of a call their names."""
    lines: list[str] = []
    ints = pointers = reals = 0
    for arg in args:
        if arg.role == "pointer":
            lines.append(f"{arg.kind}* const {arg.name} = ({arg.kind}*)call.ptrs[{pointers}];")
            pointers += 1
        elif arg.kind == "real":
            lines.append(f"const float {arg.name} = call.reals[{reals}];")
            reals += 1
        else:
            lines.append(f"const {'bool' if arg.kind == 'bool' else 'int64_t'} {arg.name} = call.ints[{ints}];")
            ints += 1
    return lines


def sequence_lines() -> list[str]:
    """Lines that read what a document or batch says of itself."""
    names = ("b", "q_start", "k_start", "N", "M", "q_offset", "k_offset")
    return [f"const int64_t {name} = seq[{n}];" for n, name in enumerate(names)]


def declared_lines(acc: Accumulator) -> list[str]:
    """The accumulator of every query, at its identity."""
    if acc.weighted:
        return [f"alignas(64) float {acc.name}[ROWS * {padded_text(acc.dim)}] = {{}};"]
    return [
        f"alignas(64) float {acc.name}[ROWS];",
        f"for (int s = 0; s < ROWS; s++) {acc.name}[s] = {IDENTITY[acc.op]};",
    ]


def running_value(acc: Accumulator) -> Val:
    """How later sweeps read an accumulator while keys go by."""
    return finished_value(acc) if acc.weighted else Val(f"ld({acc.name} + s0)", "rows", "real")


def finished_value(acc: Accumulator) -> Val:
    """How expressions read an accumulator once its sweep is done."""
    if acc.weighted:
        return Val(f"ld({acc.name} + s * {padded_text(acc.dim)} + t * V)", "feature", "real")
    return Val(f"{acc.name}[s]", "run", "real")


def finished_feature(acc: Accumulator) -> Callable[[str], Val]:
    """How expressions read one feature of a weighted accumulator once its sweep is done."""
    return lambda index: Val(f"{acc.name}[s * {padded_text(acc.dim)} + {index}]", "run", "real")


def state_place(acc: Accumulator) -> str:
    """The address of an accumulator that stages hand on, for query s."""
    stem = f"state_{acc.name}"
    return f"{stem}_ptr + b * {stem}_s0 + head[s] * {stem}_s1 + (q_start + row[s]) * {stem}_s2"


def leaving(acc: Accumulator) -> list[str]:
    """Lines that leave an accumulator of query s."""
    if acc.weighted:
        return [f"memcpy({state_place(acc)}, {acc.name} + s * {padded_text(acc.dim)}, 4 * {acc.dim});"]
    return [f"*({state_place(acc)}) = {acc.name}[s];"]


def wide_tensors(variant: CppVariant) -> list[str]:
    """Tensors whose ints have 64 bits."""
    return [name for name, text in variant.types if text == "int64_t"]
