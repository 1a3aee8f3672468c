"""Random masks: text of the language beside the same condition as numpy, written down independently of attnc."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

#: What a mask is evaluated in: i as a column, j as a row, numbers by name, look-up tables as functions.
World = Mapping[str, Any]
Number = Callable[[World], Any]

#: The header of every drawn attention. What a mask does not read does no harm.
HEADER = "p: int dynamic, w: int dynamic, len: int[B], seg: int[B, M], table: int[H, 7]"
GRID = {"y": 3, "x": 5}
TABLE_WIDTH = 7


@dataclass(frozen=True)
class Term:
    """A number or a condition. `text` is an operand: in brackets where an operator could tear it apart."""

    text: str
    value: Number

    def __repr__(self) -> str:
        return self.text


def spec_text(mask: Term) -> str:
    """An attention with this mask and nothing else."""
    extents = ", ".join(f"{name}: {extent}" for name, extent in GRID.items())
    return f"attention a({HEADER}) {{\n  grid ({extents})\n  mask {mask.text}\n}}"


def keep(mask: Term, world: World) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which pairs the mask keeps, [queries, keys]."""
    return np.broadcast_to(mask.value(world), (world["i"].shape[0], world["j"].shape[1])).astype(bool)


# -- numbers ---------------------------------------------------------------------------------------------------------


def _read(name: str) -> Term:
    return Term(name, lambda world: world[name])


def _constant(value: int) -> Term:
    return Term(str(value) if value >= 0 else f"({value})", lambda _world: value)


def _coordinate(index: str, axis: str) -> Term:
    if axis == "y":
        return Term(f"{index}.y", lambda world: world[index] // GRID["x"])
    return Term(f"{index}.x", lambda world: world[index] % GRID["x"])


def _joined(op: str, fn: Callable[[Any, Any], Any]) -> Callable[[Term, Term], Term]:
    return lambda a, b: Term(f"({a.text} {op} {b.text})", lambda world: fn(a.value(world), b.value(world)))


def _called(name: str, fn: Callable[..., Any]) -> Callable[..., Term]:
    return lambda *args: Term(
        f"{name}({', '.join(arg.text for arg in args)})", lambda world: fn(*(arg.value(world) for arg in args))
    )


_add, _sub = _joined("+", lambda a, b: a + b), _joined("-", lambda a, b: a - b)
_mul = _joined("*", lambda a, b: a * b)
_floordiv, _mod = _joined("//", lambda a, b: a // b), _joined("%", lambda a, b: a % b)
_minimum, _maximum = _called("min", np.minimum), _called("max", np.maximum)
_abs, _relu = _called("abs", np.abs), _called("relu", lambda a: np.maximum(a, 0))
_sign, _where = _called("sign", np.sign), _called("where", np.where)
_bits = _called("bit_length", lambda a: np.ceil(np.log2(np.abs(a) + 1.0)).astype(np.int64))

positions = st.sampled_from([_read("i"), _read("j")])
coordinates = st.builds(_coordinate, st.sampled_from("ij"), st.sampled_from("yx"))
uniforms = st.sampled_from([_read("p"), _read("w"), _read("N"), _read("M"), Term("len[b]", lambda world: world["len"])])
constants = st.integers(-9, 9).map(_constant)
divisors = st.integers(1, 7).map(_constant)
differences = st.builds(_sub, positions, positions)


def _looked_up(index: str) -> Term:
    return Term(f"seg[b, {index}]", lambda world: world["seg"](world[index]))


def _table(index: Term) -> Term:
    return Term(f"table[h, {index.text}]", lambda world: world["table"](index.value(world)))


def _numbers(leaves: st.SearchStrategy[Term], depth: int) -> st.SearchStrategy[Term]:
    if depth == 0:
        return leaves
    inner = _numbers(leaves, depth - 1)
    return st.one_of(
        inner,
        st.builds(_add, inner, inner),
        st.builds(_sub, inner, inner),
        st.builds(_mul, st.integers(-3, 3).map(_constant), inner),
        st.builds(_floordiv, inner, divisors),
        st.builds(_mod, inner, divisors),
        st.builds(_minimum, inner, inner),
        st.builds(_maximum, inner, inner),
        st.builds(_abs, inner),
        st.builds(_relu, inner),
        st.builds(_where, _comparisons(inner), inner, inner),
    )


# -- conditions ------------------------------------------------------------------------------------------------------

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}


def _comparison(op: str, a: Term, b: Term) -> Term:
    return Term(f"{a.text} {op} {b.text}", lambda world: _COMPARE[op](a.value(world), b.value(world)))


def _chain(low: Term, middle: Term, high: Term) -> Term:
    return Term(
        f"{low.text} <= {middle.text} < {high.text}",
        lambda world: (low.value(world) <= middle.value(world)) & (middle.value(world) < high.value(world)),
    )


def _comparisons(numbers: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    ops = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    return st.one_of(st.builds(_comparison, ops, numbers, numbers), st.builds(_chain, numbers, numbers, numbers))


def _logic(op: str, fn: Callable[[Any, Any], Any]) -> Callable[[Term, Term], Term]:
    return lambda a, b: Term(f"(({a.text}) {op} ({b.text}))", lambda world: fn(a.value(world), b.value(world)))


_and, _or = _logic("and", np.logical_and), _logic("or", np.logical_or)


def _not(a: Term) -> Term:
    return Term(f"(not ({a.text}))", lambda world: np.logical_not(a.value(world)))


def _exists(low: int, count: int, body: Term) -> Term:
    def value(world: World) -> Any:
        found: Any = np.False_
        for d in range(low, low + count):
            found = found | body.value({**world, "d": d})
        return found

    return Term(f"(exists d in {low}..{low + count}: {body.text})", value)


def _conditions(atoms: st.SearchStrategy[Term], depth: int) -> st.SearchStrategy[Term]:
    if depth == 0:
        return atoms
    inner = _conditions(atoms, depth - 1)
    return st.one_of(
        inner,
        st.builds(_and, inner, inner),
        st.builds(_or, inner, inner),
        st.builds(_not, inner),
        st.builds(_where, inner, inner, inner),
    )


_leaves = st.one_of(positions, differences, positions, coordinates, uniforms, constants)
_affine = _numbers(_leaves, 1)
_opaque = st.one_of(
    st.sampled_from([_looked_up("i"), _looked_up("j")]),
    st.builds(_table, differences),
    st.builds(_mul, positions, positions),
    st.builds(_sign, differences),
    st.builds(_bits, differences),
)
_quantified = st.builds(
    _exists,
    st.integers(-2, 2),
    st.integers(0, 4),
    _comparisons(st.one_of(_leaves, st.builds(_add, positions, st.builds(_mul, constants, st.just(_read("d")))))),
)
_truths = st.sampled_from(
    [
        Term("true", lambda _world: np.True_),
        Term("false", lambda _world: np.False_),
        Term("p < w", lambda w: w["p"] < w["w"]),
    ]
)
_affine_atoms = st.one_of(_comparisons(_leaves), _comparisons(_affine), _quantified)
_any_atoms = st.one_of(_affine_atoms, _truths, _comparisons(st.one_of(_opaque, _leaves)))

#: Masks made of affine comparisons: their tiles have exact closed forms, unless those are long.
affine_masks = _conditions(_affine_atoms, 2)
#: Masks with anything the grammar offers.
masks = st.one_of(affine_masks, _conditions(_any_atoms, 2))


# -- worlds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """The sizes, offsets and parameters of one call."""

    n: int
    m: int
    q_offset: int
    k_offset: int
    p: int
    w: int
    length: int
    seed: int

    def world(self) -> World:
        """What a mask reads. Tables clamp, as look-ups do."""
        generator = np.random.default_rng(self.seed)
        seg = np.sort(generator.integers(-4, 5, max(self.m, 1)))
        table = generator.integers(-4, 5, TABLE_WIDTH)
        return {
            "i": self.q_offset + np.arange(self.n)[:, None],
            "j": self.k_offset + np.arange(self.m)[None, :],
            "N": self.n,
            "M": self.m,
            "p": self.p,
            "w": self.w,
            "len": self.length,
            "seg": lambda position: seg[np.clip(position - self.k_offset, 0, max(self.m - 1, 0))],
            "table": lambda index: table[np.clip(index, 0, TABLE_WIDTH - 1)],
        }


_offsets = st.one_of(st.just(0), st.integers(-40, 40), st.sampled_from([-(2**30), 10**6 + 7, 2**30 - 100]))
numbers = st.builds(
    Numbers,
    n=st.integers(1, 45),
    m=st.integers(0, 45),
    q_offset=_offsets,
    k_offset=_offsets,
    p=st.integers(-20, 50),
    w=st.integers(-20, 50),
    length=st.integers(-5, 50),
    seed=st.integers(0, 3),
)
