"""block-values: conditions that read positions by blocks only, evaluated once for every pair of blocks.

Before: a condition on positions, all of whose reads of i are `i // k` and of j `j // l`, and numbers for what else it
reads.
After: whether it holds, per block of gcd(k) queries and block of gcd(l) keys; exactly, as the language defines it. What
reads one side only is evaluated once per block of that side, and equal subexpressions once.

    (i // 64 - j // 64) & 3 == 0   ->   a truth value for each pair of blocks of 64
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnc.ir.expr import Call, Const, Exists, Expr, Index, Lookup, Param, Size, Value, Var
from attnc.ir.traverse import children
from attnc.ir.types import INT
from attnc.passes.mask_sets import exists_values
from attnc.passes.numpy_functions import FUNCTIONS

Array = NDArray[Any]
#: Pairs of blocks that are evaluated, and times the distinct operations over both sides: about a second.
MAX_PAIRS = 1 << 21
MAX_OPERATIONS = 1 << 29
#: Values that a step over pairs takes, of which others are computed once each.
_MOST_VALUES = 1 << 12
#: Pairs that are looked at together: what is computed of them stays in the cache of a core.
_CHUNK = 1 << 16


class NotByBlocksError(Exception):
    """An expression without a value here, or too much work."""


def grains(relation: Expr) -> tuple[int, int] | None:
    """Queries and keys among which a condition cannot tell; None where it reads single positions, or tensors."""
    found: dict[str, int] = {"i": 0, "j": 0}
    for name, divisor in _reads(relation):
        if divisor is None:
            return None
        found[name] = gcd(found[name], divisor)
    rows, keys = found["i"], found["j"]
    return (rows, keys) if rows > 1 and keys > 1 else None


def _reads(expr: Expr) -> Iterator[tuple[str, int | None]]:
    """Positions with what they are divided by; None for one that is read as it is, or what has no value."""
    seen: set[int] = set()
    waiting = [expr]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        match node:
            case Call(fn="floordiv", args=(Index(name="i" | "j" as name), Const(value=divisor))) if divisor >= 1:
                yield name, int(divisor)
            case Index(name="i" | "j" as name):
                yield name, None
            case Index() | Lookup():
                yield "i", None
            case _:
                waiting.extend(children(node))


def truth_by_blocks(relation: Expr, queries: Array, keys: Array, numbers: Mapping[Expr, int]) -> Array:
    """Whether the condition holds for pairs of positions [queries, keys]. Raises NotByBlocksError."""
    pairs = len(queries) * len(keys)
    if pairs > MAX_PAIRS:
        raise NotByBlocksError
    tape = _Tape(numbers)
    last = tape.place(relation, {})
    if pairs * len(tape.steps) > MAX_OPERATIONS:
        raise NotByBlocksError
    sources = _sources(tape.steps)
    found = np.zeros((len(queries), len(keys)), np.bool_)
    rows = max(1, _CHUNK // max(len(keys), 1))
    for first in range(0, len(queries), rows):
        positions = {"i": queries[first : first + rows, None], "j": keys[None, :]}
        found[first : first + rows] = _Run(tape.steps, sources, positions).value(last)
    return found


#: A function with the places of its arguments, a number, or the name of a position.
_Step = tuple[str, tuple[int, ...]] | bool | int | float | str


class _Tape:
    """Expressions as steps, each of which reads earlier ones; equal ones are one step."""

    def __init__(self, numbers: Mapping[Expr, int]) -> None:
        self.steps: list[_Step] = []
        self._numbers = numbers
        self._places: dict[object, int] = {}
        self._known: dict[tuple[int, tuple[tuple[str, int], ...]], int] = {}

    def place(self, expr: Expr, variables: Mapping[str, int]) -> int:
        """The step that has the value of an expression. Raises NotByBlocksError."""
        key = (id(expr), tuple(variables.items()))
        if key not in self._known:
            self._known[key] = self._place(expr, variables)
        return self._known[key]

    def _place(self, expr: Expr, variables: Mapping[str, int]) -> int:
        match expr:
            case Const(value=value):
                return self._step(value)
            case Var(name=name):
                return self._step(variables[name])
            case Index(name="i" | "j" as name):
                return self._step(name)
            case Size() | Param() | Value() | Index():
                if expr not in self._numbers:
                    raise NotByBlocksError
                return self._step(self._numbers[expr])
            case Exists():
                return self._exists(expr, variables)
            case Call(fn=fn, args=args) if fn in _FUNCTIONS and (fn != "pow" or expr.type == INT):
                return self._step((fn, tuple(self.place(arg, variables) for arg in args)))
            case _:
                raise NotByBlocksError

    def _exists(self, expr: Exists, variables: Mapping[str, int]) -> int:
        values = exists_values(expr)
        if values is None:
            raise NotByBlocksError
        found = self._step(False)
        for value in values:
            found = self._step(("or", (found, self.place(expr.body, {**variables, expr.var: value}))))
        return found

    def _step(self, step: _Step) -> int:
        key = (type(step), step)
        if key not in self._places:
            self._places[key] = len(self.steps)
            self.steps.append(step)
        return self._places[key]


def _sources(steps: list[_Step]) -> list[int]:
    """For each step the only one through which it reads pairs; itself where there is none, or it reads more."""
    sides: list[frozenset[str]] = []
    sources: list[int] = []
    for place, step in enumerate(steps):
        args = step[1] if isinstance(step, tuple) else ()
        own: frozenset[str] = frozenset((step,)) if isinstance(step, str) else frozenset()
        sides.append(own.union(*(sides[arg] for arg in args)))
        read = {sources[arg] if len(sides[arg]) > 1 else -1 for arg in args if sides[arg]}
        sources.append(read.pop() if len(read) == 1 and -1 not in read else place)
    return sources


class _Run:
    """Values of steps for some positions, each computed when it is first asked for.

    A step that reads pairs through one other step only, its source, is a function of the value of that: the distance of
    two frames takes few values on many pairs. It is computed once for each of them.
    """

    def __init__(self, steps: list[_Step], sources: list[int], positions: Mapping[str, Array]) -> None:
        self._steps = steps
        self._sources = sources
        self._positions = positions
        self._values: list[Any] = [None] * len(steps)
        self._inner: dict[int, tuple[_Run, Array] | None] = {}

    def value(self, place: int) -> Any:
        """The value of a step."""
        found = self._values[place]
        if found is None:
            few = self._few_values(self._sources[place]) if self._sources[place] != place else None
            if few is None:
                found = self._computed(self._steps[place])
            else:
                run, number = few
                found = np.asarray(run.value(place))
                found = found[number] if found.ndim else found
            self._values[place] = found
        return found

    def _few_values(self, source: int) -> tuple[_Run, Array] | None:
        """A run over the values that a source takes, and the number of each pair's among them; None where many."""
        if source not in self._inner:
            self._inner[source] = self._of_source(source)
        return self._inner[source]

    def _of_source(self, source: int) -> tuple[_Run, Array] | None:
        values = np.asarray(self.value(source))
        if values.dtype != np.int64 or not values.size:
            return None
        low, high = int(values.min()), int(values.max())
        if high - low >= min(_MOST_VALUES, values.size):
            return None
        taken = np.zeros(high - low + 1, np.bool_)
        taken[values - low] = True
        run = _Run(self._steps, list(range(len(self._steps))), self._positions)
        run._values[source] = np.nonzero(taken)[0] + low
        return run, (np.cumsum(taken) - 1)[values - low]

    def _computed(self, step: _Step) -> Any:
        match step:
            case str():
                return self._positions[step]
            case ("and" | "or" as fn, (a, b)):
                first = self.value(a)
                if np.all(first) if fn == "or" else not np.any(first):  # the other side has no say
                    return first
                return _FUNCTIONS[fn](first, self.value(b))
            case (fn, places):
                with np.errstate(all="ignore"):
                    return _FUNCTIONS[fn](*(self.value(place) for place in places))
            case _:
                return step


def _bit_length(value: Any) -> Any:
    return np.where(np.equal(value, 0), 0, np.frexp(np.abs(np.asarray(value, np.float64)))[1]).astype(np.int64)


def _relu(value: Any) -> Any:
    return np.maximum(value, 0)


def _real(value: Any) -> Any:
    return np.asarray(value, np.float64)


def _int(value: Any) -> Any:
    return np.floor(value).astype(np.int64)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **FUNCTIONS,
    "div": np.true_divide,
    "sign": np.sign,
    "relu": _relu,
    "pow": np.power,
    "bitand": np.bitwise_and,
    "bit_length": _bit_length,
    "real": _real,
    "floor": np.floor,
    "int": _int,
}
