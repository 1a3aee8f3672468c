"""Inner products of vectors that depend on both positions, in C++: a loop over the features for every pair."""

from __future__ import annotations

from collections.abc import Callable

from attnc.codegen.cpp_emitter import CppEmitter
from attnc.codegen.cpp_levels import Val
from attnc.codegen.cpp_loops import Loop
from attnc.codegen.cpp_text import indented
from attnc.ir.expr import Value
from attnc.ir.plan import KernelPlan, PairDot
from attnc.ir.traverse import walk


def operands(plan: KernelPlan) -> tuple[dict[str, int], dict[str, int]]:
    """Names and lengths of the vectors of queries and of keys that inner products read."""
    lefts = {term.left: term.dim for term in plan.dots}
    lefts |= {acc.by: acc.dim for acc in plan.columns if acc.weighted}
    rights = {term.right: term.dim for term in plan.dots}
    lengths = {"q": plan.head_dim, "k": plan.head_dim, "v": plan.value_dim}
    for node in (node for pair in plan.pair_dots for side in (pair.left, pair.right) for node in walk(side)):
        if isinstance(node, Value) and node.name in lengths:
            (lefts if node.name == "q" else rights)[node.name] = lengths[node.name]
    return lefts, rights


def token_features(lefts: dict[str, int], rights: dict[str, int]) -> dict[str, Callable[[str], Val]]:
    """How expressions read one feature of the tokens: of a query, and of the keys where they are packed."""

    def left(name: str, dim: int) -> Callable[[str], Val]:
        return lambda index: Val(f"left_{name}[s * {dim} + {index}]", "row", "real")

    def right(number: int, dim: int) -> Callable[[str], Val]:
        place = f"packed[{number}] + t * V / NR * {dim} * NR + t * V % NR"
        return lambda index: Val(f"ld({place} + {index} * NR)", "key", "real")

    found = {name: left(name, dim) for name, dim in lefts.items()}
    return found | {name: right(number, dim) for number, (name, dim) in enumerate(rights.items())}


def pair_lines(emitter: CppEmitter, pair: PairDot) -> list[str]:
    """The products of a tile, where others read those of queries and keys."""
    emitter.restart("run", "pair")
    loop = Loop(emitter.fresh("f"))
    with emitter.inside(loop):
        factors = [emitter.at(emitter.emit(side), "pair") for side in (pair.left, pair.right)]
    before = [*emitter.levels["run"].lines, *emitter.levels["pair"].lines]
    emitter.restart("run", "pair")
    return [
        "for (int s = 0; s < used; s++) for (int t = 0; t < KV; t++) {",
        *indented(before, 2),
        f"  vf {pair.name} = {{}};",
        f"  for (int64_t {loop.index} = 0; {loop.index} < {pair.dim}; {loop.index}++) {{",
        *indented([*loop.lines, f"{pair.name} += {' * '.join(factors)};"], 4),
        "  }",
        f"  st(s_{pair.name} + s * KB + t * V, {pair.name});",
        "}",
    ]
