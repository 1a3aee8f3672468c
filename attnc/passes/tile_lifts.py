"""tile-lifts: conditions on blocks of pairs as conditions on block numbers.

Before: `any` and `all` of a condition over blocks. Coordinates are arithmetic already.
After: conditions on i // rows, j // keys, sizes, offsets and parameters, without quantifiers, equal for every pair that
exists: the integer set of the condition with the positions inside of the blocks projected out.

    any(0 <= i - j < 100, 64, 64)   ->   0 <= i // 64 - j // 64 <= 2   (and what a call without such pairs must fulfil)

A density is compared with 0 or 1, which is one of the two. What is not affine, or has no short answer, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache, reduce
from typing import Any, NoReturn

from attnc.ir.arithmetic import condition
from attnc.ir.build import add, call, compare, conj, is_const, mul
from attnc.ir.dependence import pair_axes
from attnc.ir.expr import Call, Const, Exists, Expr, Index, Lift, Lookup, Ref, Size, Value, Var, int_const
from attnc.ir.fold import fold
from attnc.ir.traverse import children, count_nodes, substitute, transform, walk
from attnc.ir.types import BOOL, INT
from attnc.passes.errors import NotLowerable, fail
from attnc.passes.isl import isl
from attnc.passes.isl_ast import NotClosedError, condition_of
from attnc.passes.mask_sets import MAX_OPERATIONS, Frame, NotAffineError, Translator, as_number

#: Convex pieces of a condition on blocks, and operations of its text, that are still worth evaluating for every pair.
MAX_PIECES = 24
MAX_NODES = 800

_I, _J = Index("i"), Index("j")
_ROW, _KEY = Ref("block of i", INT), Ref("block of j", INT)
_Q_OFFSET, _K_OFFSET = Value("q_offset", INT), Value("k_offset", INT)
_FLIPPED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
_BLOCKS = "write the condition on block numbers itself: `i // 64`, `j // 64`"


def without_lifts(expr: Expr, given: Mapping[Expr, Expr] | None = None) -> Expr:
    """The expression with every lift replaced. Raises SpecError (E401) for one that has no such condition.

    `given` are sizes and offsets that are known of every call: conditions are shorter then.
    """
    if not any(isinstance(node, Lift) for node in walk(expr)):
        return expr
    known = tuple((given or {}).items())
    return transform(transform(expr, without_densities), lambda node: _lowered(node, known))


def without_densities(node: Expr) -> Expr:
    """A comparison of a density with 0 or 1 as `any` or `all`."""
    match node:
        case Call(fn=fn, args=(Const() as bound, Lift(op="density") as lift)):
            return _compared(_FLIPPED.get(fn, fn), lift, bound) or node
        case Call(fn=fn, args=(Lift(op="density") as lift, Const() as bound)):
            return _compared(fn, lift, bound) or node
        case _:
            return node


def _compared(fn: str, lift: Lift, bound: Const) -> Expr | None:
    some, every = (Lift(op, lift.body, lift.rows, lift.keys, lift.span) for op in ("any", "all"))
    if is_const(bound, 0):
        known: dict[str, Expr] = {"gt": some, "ne": some, "le": _not(some), "eq": _not(some)}
        return known.get(fn)
    if is_const(bound, 1):
        known = {"ge": every, "eq": every, "lt": _not(every), "ne": _not(every)}
        return known.get(fn)
    return None


def _not(cond: Expr) -> Expr:
    return call("not", cond, type=BOOL, span=cond.span)


def _lowered(node: Expr, given: tuple[tuple[Expr, Expr], ...]) -> Expr:
    if not isinstance(node, Lift):
        return node
    if node.op == "density":
        help_ = (
            "compare it with 0 or 1, which is `any` and `all`, or compute it before and pass what it says of blocks: "
            "a tensor `dense: bool[(N + 63) // 64, (M + 63) // 64]`, looked up as `dense[i // 64, j // 64]`"
        )
        fail(NotLowerable("a density of blocks", node.span, help_))
    return _on_blocks(node, given)


@lru_cache(256)
def _on_blocks(lift: Lift, given: tuple[tuple[Expr, Expr], ...]) -> Expr:
    """The same lift is asked for by every plan of a module."""
    if not (isinstance(lift.rows, Const) and isinstance(lift.keys, Const)):
        fail(NotLowerable(f"`{lift.op}` over blocks of unknown size", lift.span, "give the parameter a value"))
    context = isl.Context()
    context.set_max_operations(MAX_OPERATIONS)
    try:
        return fold(transform(_Blocks(lift, context, dict(given)).condition(), _without_numbers))
    except NotAffineError:
        _refuse_body(lift)
    except NotClosedError:
        fail(NotLowerable(f"`{lift.op}` of this condition", lift.span, _BLOCKS))
    except isl.Error:
        help_ = f"its integer set passed the bound on the work: simplify the condition, or {_BLOCKS}"
        fail(NotLowerable(f"`{lift.op}` of this condition", lift.span, help_))


class _Blocks:
    """The set of a lift over [block of i, block of j], its parameters the leaves of the condition."""

    def __init__(self, lift: Lift, context: Any, given: Mapping[Expr, Expr]) -> None:
        self._lift = lift
        self._sizes = {_ROW: _int(lift.rows), _KEY: _int(lift.keys)}
        self._range = tuple(given.get(leaf, leaf) for leaf in (_Q_OFFSET, Size("N"), _K_OFFSET, Size("M")))
        own = (leaf for leaf in self._range if not isinstance(leaf, Const))
        self._body = fold(substitute(lift.body, given))
        leaves = dict.fromkeys((*own, *_parameters(self._body)))
        self._frame = Frame(context, tuple(leaves), (_ROW, _KEY, _I, _J))

    def condition(self) -> Expr:
        """The condition on pairs that exist."""
        there = self._set(reduce(conj, self._truths(), conj(self._inside(_ROW, _I), self._inside(_KEY, _J))))
        kept = self._set(self._body)
        context = self._project(there)
        if self._lift.op == "any":
            blocks = self._project(there.intersect(kept))
        else:
            blocks = context.subtract(self._project(there.subtract(kept)))
        blocks = blocks.coalesce().gist(context).coalesce()
        if blocks.n_basic_set() > MAX_PIECES:
            raise NotClosedError
        return self._text(blocks, context)

    def _inside(self, block: Ref, position: Index) -> Expr:
        """A position of a block that exists."""
        size = int_const(self._sizes[block])
        first, count = self._range[:2] if block == _ROW else self._range[2:]
        start = mul(size, block)
        in_block = conj(compare("le", start, position), compare("lt", position, add(start, size)))
        return conj(in_block, conj(compare("le", first, position), compare("lt", position, add(first, count))))

    def _truths(self) -> Iterator[Expr]:
        """A condition as a number is 0 or 1."""
        for leaf in self._frame.params:
            if isinstance(leaf, Call) and leaf.fn == "where" and leaf == as_number(leaf.args[0]):
                yield conj(compare("le", int_const(0), leaf), compare("le", leaf, int_const(1)))

    def _set(self, cond: Expr) -> Any:
        found = Translator(self._frame).condition(cond)
        if not found.exact:
            raise NotAffineError
        return found.outer

    def _project(self, points: Any) -> Any:
        return points.project_out(isl.dim_type.set, 2, 2).coalesce()

    def _text(self, blocks: Any, context: Any) -> Expr:
        """The set as a condition: its dimensions become parameters, which is what isl prints conditions of."""
        names = [f"b{n}" for n in range(2)]
        for n, name in enumerate(names):
            blocks, context = (points.set_dim_name(isl.dim_type.set, n, name) for points in (blocks, context))
        count = len(self._frame.params)
        blocks, context = (
            points.move_dims(isl.dim_type.param, count, isl.dim_type.set, 0, 2).params() for points in (blocks, context)
        )
        numbers = (_quotient(_I, self._sizes[_ROW]), _quotient(_J, self._sizes[_KEY]))
        leaves = dict(zip((*self._frame.param_names(), *names), (*self._frame.params, *numbers), strict=True))
        found = condition_of(blocks, context, leaves)
        if isinstance(found, Const):  # isl prints what always or never holds as a number
            return Const(bool(found.value), BOOL)
        if count_nodes(found) > MAX_NODES:
            raise NotClosedError
        return found


def _quotient(position: Index, size: int) -> Expr:
    return position if size == 1 else call("floordiv", position, int_const(size), type=INT)


def _int(size: Expr) -> int:
    assert isinstance(size, Const)  # bound
    return int(size.value)


def _parameters(expr: Expr, bound: frozenset[str] = frozenset()) -> Iterator[Expr]:
    """The integers, and the conditions as 0 or 1, that do not vary within a block: sums and multiples are taken apart.

    `bound` are the variables of enclosing `exists` of the condition itself.
    """
    match expr:
        case Const():
            return
        case Exists(var=var, body=body):
            yield from _parameters(body, bound | {var})
        case _ if _varies(expr, bound) or expr.type not in (INT, BOOL) or _is_taken_apart(expr):
            for child in children(expr):
                yield from _parameters(child, bound)
        case _:
            yield expr if expr.type == INT else as_number(expr)


def _varies(expr: Expr, bound: frozenset[str]) -> bool:
    if pair_axes(expr):
        return True
    return any(isinstance(node, Exists) or (isinstance(node, Var) and node.name in bound) for node in walk(expr))


def _is_taken_apart(expr: Expr) -> bool:
    match expr:
        case Call(fn="add" | "sub" | "neg" | "and" | "or" | "not"):
            return True
        case Call(fn="mul", args=args):
            return any(isinstance(arg, Const) for arg in args)
        case Call(fn="lt" | "le" | "gt" | "ge" | "eq" | "ne", args=(a, b)):
            return a.type == b.type == INT
        case _:
            return False


def _without_numbers(node: Expr) -> Expr:
    """A comparison of a condition as 0 or 1 with a number as the condition itself."""
    match node:
        case Call(fn=fn, args=(Call(fn="where", args=(cond, Const(value=1), Const(value=0))), Const(value=bound))):
            false, true = (bool(condition(fn, (value, bound))) for value in (0, 1))
            if false == true:
                return Const(true, BOOL, node.span)
            return cond if true else _not(cond)
        case _:
            return node


def _refuse_body(lift: Lift) -> NoReturn:
    """Point at the part of the condition that is not affine."""
    what, span = f"`{lift.op}` of a condition that is not affine in i and j", lift.span
    for node in walk(lift.body):
        if isinstance(node, Lookup) and pair_axes(node):
            what, span = f"`{lift.op}` of a condition that looks up `{node.tensor}` by position", node.span
            break
    fail(NotLowerable(what, span, _BLOCKS))
