"""block-tensors: tile lifts that have no condition on block numbers, looked up in tensors of one value per block.

Before: a bound module whose expressions read tile lifts.
After: the same, but what is constant on blocks and reads a density, or `any` and `all` of a condition that looks up by
position or is not affine, is a look-up in a tensor that is made at the call.

    density(c, 64, 32) > 0.5   ->   block_0[i // 64 - q_offset // 64, j // 32 - k_offset // 32]

Comparisons of densities stand in the tensor whole, in double precision: no kernel rounds a density. A density that
enters a score is a number. Tensors may read those before them: lifts of lifts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnc.diagnostics import SpecError
from attnc.ir.build import add, call, sub
from attnc.ir.dependence import axes, pair_axes
from attnc.ir.expand import cases_of
from attnc.ir.expr import Const, Exists, Expr, Index, Lift, Lookup, Size, Value, int_const
from attnc.ir.fold import fold
from attnc.ir.module import AttentionModule, Binding, TensorParam
from attnc.ir.traverse import children, map_children, transform, walk
from attnc.ir.types import BOOL, INT, REAL, ScalarType
from attnc.passes.mask_sets import exists_values
from attnc.passes.positions import K_OFFSET, Q_OFFSET, Positions
from attnc.passes.tile_lifts import without_densities

#: Values of an `exists` around a lift: each has a tensor of its own.
_MAX_CASES = 64


@dataclass(frozen=True, slots=True)
class BlockTensor:
    """One value per block of `rows` queries by `keys` keys: an expression over lifts that is constant on blocks."""

    name: str
    value: Expr
    rows: int
    keys: int
    batches: bool
    heads: bool

    @property
    def type(self) -> ScalarType:
        """Of a value."""
        return BOOL if self.value.type == BOOL else REAL

    @property
    def dims(self) -> tuple[Expr, ...]:
        """What the tensor is declared with: blocks are counted from the first one that holds a position."""
        lead = (*((Size("B"),) if self.batches else ()), *((Size("H"),) if self.heads else ()))
        return (*lead, _blocks(Size("N"), self.rows), _blocks(Size("M"), self.keys))

    @property
    def read(self) -> Lookup:
        """The value of a pair."""
        lead = (*((Index("b"),) if self.batches else ()), *((Index("h"),) if self.heads else ()))
        row, key = _number(Index("i"), Q_OFFSET, self.rows), _number(Index("j"), K_OFFSET, self.keys)
        return Lookup(self.name, (*lead, row, key), self.type, self.value.span)


@dataclass(frozen=True, slots=True)
class Measured:
    """A module that looks up what `tensors`, in this order, hold of its blocks."""

    module: AttentionModule
    tensors: tuple[BlockTensor, ...]


def measures_blocks(module: AttentionModule) -> bool:
    """Whether a module reads lifts that need tensors."""
    return bool(measure_blocks(module).tensors)


def measure_blocks(module: AttentionModule, *, batches: bool = False) -> Measured:
    """The module without lifts that need tensors. `batches`: offsets differ by batch, and so do all tensors."""
    if not any(isinstance(node, Lift) for expr in _expressions(module) for node in walk(expr)):
        return Measured(module, ())
    return _Measure(module, batches).run()


def _expressions(module: AttentionModule) -> Iterator[Expr]:
    yield from (module.mask, module.score, module.value, module.output)
    yield from (binding.expr for binding in (*module.cascade, *module.aux))


class _Measure:
    def __init__(self, module: AttentionModule, batches: bool) -> None:
        self._module = module
        self._batches = batches
        self._found: dict[Expr, BlockTensor] = {}
        self._taken = {tensor.name for tensor in module.tensors} | {scalar.name for scalar in module.scalars}
        self._needs: dict[Lift, bool] = {}

    def run(self) -> Measured:
        module = self._module

        def binding(item: Binding) -> Binding:
            return replace(item, expr=self._expr(item.expr))

        changed = replace(
            module,
            mask=self._expr(module.mask),
            score=self._expr(module.score),
            cascade=tuple(map(binding, module.cascade)),
            value=self._expr(module.value),
            output=self._expr(module.output),
            aux=tuple(map(binding, module.aux)),
        )
        found = tuple(self._found.values())
        tensors = (TensorParam(t.name, t.type, t.dims, single=t.type == REAL) for t in found)
        return Measured(replace(changed, tensors=(*module.tensors, *tensors)), found)

    def _expr(self, expr: Expr) -> Expr:
        return self._looked_up(transform(expr, without_densities))

    def _looked_up(self, expr: Expr) -> Expr:
        if not any(isinstance(node, Lift) and self._needs_tensor(node) for node in walk(expr)):
            return expr
        if isinstance(expr, Exists):
            values = exists_values(expr)
            if values is not None and len(values) <= _MAX_CASES:
                return self._looked_up(fold(cases_of(expr, values)))
        sizes = _block_sizes(expr)
        is_value = isinstance(expr, Lift) or expr.type == BOOL
        if sizes is None or not is_value or isinstance(expr, Exists):
            return map_children(expr, self._looked_up)
        return self._tensor(expr, sizes).read

    def _tensor(self, expr: Expr, sizes: tuple[int, int]) -> BlockTensor:
        value = self._with_bodies(expr)
        if value not in self._found:
            read = axes(value)
            batches = self._batches or "b" in read
            self._found[value] = BlockTensor(self._name(), value, *sizes, batches, bool(read & {"h", "hk"}))
        return self._found[value]

    def _with_bodies(self, expr: Expr) -> Expr:
        """Lifts inside of lifts looked up; the outer ones are what the tensor is computed from."""
        if isinstance(expr, Lift):
            return replace(expr, body=self._looked_up(expr.body))
        return map_children(expr, self._with_bodies)

    def _name(self) -> str:
        number = len(self._found)
        while f"block_{number}" in self._taken:
            number += 1
        self._taken.add(f"block_{number}")
        return f"block_{number}"

    def _needs_tensor(self, lift: Lift) -> bool:
        if lift not in self._needs:
            self._needs[lift] = _has_sizes(lift) and self._has_no_condition(lift)
        return self._needs[lift]

    def _has_no_condition(self, lift: Lift) -> bool:
        if lift.op == "density":
            return True
        try:
            Positions(self._module, 1, 1).lower(lift)
        except SpecError:
            return True
        return False


def _has_sizes(lift: Lift) -> bool:
    return isinstance(lift.rows, Const) and isinstance(lift.keys, Const)


def _block_sizes(expr: Expr) -> tuple[int, int] | None:
    """The size of the blocks that a value is constant on; None for one that tells more, or less, than lifts do."""
    found: set[tuple[int, int]] = set()

    def only_lifts(node: Expr) -> bool:
        if isinstance(node, Lift):
            if isinstance(node.rows, Const) and isinstance(node.keys, Const):
                found.add((int(node.rows.value), int(node.keys.value)))
                return True
            return False
        if not children(node):
            return not pair_axes(node) and (not isinstance(node, Value) or node in (Q_OFFSET, K_OFFSET))
        return all(map(only_lifts, children(node)))

    return next(iter(found)) if only_lifts(expr) and len(found) == 1 else None


def _number(position: Index, first: Expr, size: int) -> Expr:
    if size == 1:
        return sub(position, first)
    return sub(_quotient(position, size), _quotient(first, size))


def _quotient(position: Expr, size: int) -> Expr:
    return call("floordiv", position, int_const(size), type=INT)


def _blocks(count: Size, size: int) -> Expr:
    """At least as many as hold positions, wherever the first one lies in its block."""
    return add(_quotient(sub(count, int_const(1)), size), int_const(2))
