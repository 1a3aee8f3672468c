"""columns: statistics over the queries, `[i]`, as statistics over the keys of the exchanged attention.

Before: a typed module whose weights or statistics read reductions over the queries.
After: two modules. In the first, queries and keys are exchanged and the largest values that are constant along the
queries are its statistics, one number per key. The second is the module itself, which looks them up in tensors.

    c = log(sum[i](exp(s))); w = exp(s - c)
    ->  keys   aux column_0 = log(sum[j](exp(s')))       s' is s with queries and keys exchanged
        rows   w = exp(s - column_0[b, h, j])

The first may need statistics over its own "queries" in turn, which are the keys: it is split again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnc.ir.dependence import varies
from attnc.ir.expr import Expr, Index, Lookup, Param, Reduce, Size, Value, int_const, real_const
from attnc.ir.fold import fold
from attnc.ir.module import AttentionModule, Binding, TensorParam
from attnc.ir.traverse import children, map_children, transform, walk
from attnc.ir.types import INT, REAL, VectorType
from attnc.passes.accumulators import N_KEYS
from attnc.passes.errors import NotLowerable, fail
from attnc.passes.normalizer_passes import inlined
from attnc.passes.transpose import GROUP, transposed, transposed_module

_SIDES = {"q": "k", "k": "q"}


@dataclass(frozen=True, slots=True)
class Columns:
    """A module in two parts; `names` are the statistics of `keys`, tensors of `rows`. `aux` finds statistics by name.

    A statistic of the module is one of `names`, or is one of `rows` under its own name.
    """

    keys: AttentionModule
    rows: AttentionModule
    names: tuple[str, ...]
    aux: tuple[tuple[str, str], ...]


def reads_columns(module: AttentionModule) -> bool:
    """Whether a module has statistics over the queries."""
    bindings = (*module.cascade, *module.aux)
    return any(isinstance(node, Reduce) and node.axis == "i" for binding in bindings for node in walk(binding.expr))


def split_columns(module: AttentionModule, group: int) -> Columns:
    """The two modules, for `group` query heads per key head. The first is given keys once per query head."""
    return _Split(module).run(group)


class _Split:
    def __init__(self, module: AttentionModule) -> None:
        self._module = module
        self._found: dict[Expr, str] = {}
        self._taken = {tensor.name for tensor in module.tensors} | {scalar.name for scalar in module.scalars}

    def run(self, group: int) -> Columns:
        module = self._module
        bindings = {binding.name: binding.expr for binding in module.cascade}
        weight = self._looked_up(inlined(bindings["w"], bindings))
        statistics = [replace(b, expr=self._looked_up(inlined(b.expr, bindings))) for b in module.aux]
        own = tuple(b for b in statistics if not self._is_column(b.expr))
        aux = tuple(
            (b.name, b.expr.tensor if isinstance(b.expr, Lookup) and b not in own else b.name) for b in statistics
        )
        tensors = tuple(TensorParam(name, REAL, (Size("B"), Size("H"), Size("M"))) for name in self._found.values())
        rows = replace(
            module, tensors=(*module.tensors, *tensors), cascade=(Binding("w", weight, bindings["w"].span),), aux=own
        )
        return Columns(self._keys(group), rows, tuple(self._found.values()), aux)

    def _is_column(self, expr: Expr) -> bool:
        return isinstance(expr, Lookup) and expr.tensor in self._found.values()

    def _looked_up(self, expr: Expr) -> Expr:
        """With the largest values that are reduced over the queries, and constant along them, in tensors."""
        if not any(isinstance(node, Reduce) and node.axis == "i" for node in walk(expr)):
            return expr
        if _differs_by_row(expr) or expr.type != REAL:
            return map_children(expr, self._looked_up)
        if expr not in self._found:
            self._found[expr] = self._name()
        return Lookup(self._found[expr], (Index("b"), Index("h"), Index("j")), REAL, expr.span)

    def _name(self) -> str:
        number = len(self._found)
        while f"column_{number}" in self._taken:
            number += 1
        self._taken.add(f"column_{number}")
        return f"column_{number}"

    # -- the exchanged module ----------------------------------------------------------------------------------------

    def _keys(self, group: int) -> AttentionModule:
        module = self._module
        exchanged = transposed_module(module)
        vector = VectorType(Size("Dv"))

        def done(expr: Expr) -> Expr:
            return fold(transform(transposed(expr), lambda node: _exchanged(node, group)))

        tensors = tuple(replace(t, dims=tuple(_number(dim, group) for dim in t.dims)) for t in exchanged.tensors)
        return replace(
            exchanged,
            name=f"{module.name}_of_keys",
            scalars=module.scalars,
            tensors=tensors,
            mask=_number(exchanged.mask, group),
            score=done(module.score),
            cascade=(Binding("w", real_const(0.0)),),
            value=Value("v", vector),
            output=Value("o", vector),
            aux=tuple(Binding(name, done(expr), expr.span) for expr, name in self._found.items()),
        )


def _differs_by_row(expr: Expr) -> bool:
    """Whether a value may differ between queries: what is reduced over keys does, since rows keep other keys."""
    match expr:
        case Reduce(axis="j"):
            return True
        case Reduce(axis="i"):
            return False
        case _ if children(expr):
            return any(map(_differs_by_row, children(expr)))
        case _:
            return varies(expr, "i")


def _number(expr: Expr, group: int) -> Expr:
    """With the heads of a group counted."""
    return fold(transform(expr, lambda node: int_const(group) if node == Param(GROUP, INT) else node))


def _exchanged(node: Expr, group: int) -> Expr:
    match node:
        case Param(name=name) if name == GROUP:
            return int_const(group)
        case Value(name="q" | "k" as name):
            return replace(node, name=_SIDES[name])
        case Reduce(axis="i" | "j" as axis, group=None):
            return replace(node, axis="j" if axis == "i" else "i")
        case Reduce(axis="j") | Value(name=N_KEYS.name):
            what = "a statistic over the queries, `[i]`, of one that reads groups or `n_keys`"
            return fail(NotLowerable(what, node.span, "count with `count[j]`"))
        case _:
            return node
