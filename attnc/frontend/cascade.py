"""Normalizers: the cascade of bindings from the logits `s` to the weights `w`, and its statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from attnc.frontend import ast
from attnc.frontend.environment import AUX, LET, NORMALIZER, Broken, Elaborator, Env, Local, Meaning
from attnc.frontend.errors import names as name_errors
from attnc.frontend.errors import syntax as syntax_errors
from attnc.frontend.errors import types as errors
from attnc.frontend.names import reserved_as
from attnc.frontend.params import check_free
from attnc.frontend.typing_rules import convert
from attnc.ir.dependence import PAIR, Axes, axes
from attnc.ir.expr import Ref
from attnc.ir.module import Binding
from attnc.ir.types import REAL, VectorType


@dataclass(slots=True)
class Cascade:
    """A checked normalizer. `ok` is False after an error.

    `names` mean something inside, `visible` are those of them that an attention's `aux` can read: the bindings.
    """

    bindings: list[Binding] = field(default_factory=list[Binding])
    aux: list[Binding] = field(default_factory=list[Binding])
    names: dict[str, Meaning] = field(default_factory=dict[str, Meaning])
    visible: dict[str, Meaning] = field(default_factory=dict[str, Meaning])
    varies: dict[str, Axes] = field(default_factory=dict[str, Axes])
    ok: bool = True


def check_cascade(el: Elaborator, node: ast.Block, env: Env) -> Cascade:
    """The bindings of a normalizer where its parameters mean `env.names`."""
    cascade = Cascade(names=dict(env.names))
    env = replace(env, names=cascade.names)
    places = {param.name.text: param.name for param in node.params}
    _report_later_steps(el, env, cascade, node)
    for statement in node.statements:
        _statement(el, env, cascade, statement, places)
    _check_weights(el, env, node, cascade)
    return cascade


def _report_later_steps(el: Elaborator, env: Env, cascade: Cascade, node: ast.Block) -> None:
    """Steps that read themselves or later ones: cycles, or the wrong order. Nothing more is said of those names."""
    named = [item for item in node.statements if isinstance(item, ast.Assign | ast.Let)]
    steps = [item for item in named if reserved_as(item.name.text) is None]
    order = {step.name.text: n for n, step in reversed([*enumerate(steps)])}
    reads = {
        step.name.text: {name.text: name for name in reversed([*ast.names(step.value)]) if name.text in order}
        for step in reversed(steps)
    }
    told: set[str] = set()
    for step in steps:
        own = step.name.text
        for name, place in reads[own].items():
            if order[name] < order[own] or name in cascade.names:
                continue
            chain = _path(name, own, reads)
            if chain and own not in told:
                told.update(chain)
                el.report(name_errors.cyclic_definition((own, *chain[:-1]), place.span), env)
            elif not chain:
                help_ = f"`{name}` is a later step: move it above"
                el.report(name_errors.unknown_name("name", name, place.span, help_=help_), env)
            cascade.names[name] = Broken()


def _path(start: str, end: str, reads: Mapping[str, Mapping[str, object]]) -> tuple[str, ...]:
    """The steps from one to another along what they read, both included; none where there is no way."""
    found: dict[str, tuple[str, ...]] = {start: (start,)}
    waiting = [start]
    while waiting:
        here = waiting.pop(0)
        if here == end:
            return found[here]
        for name in sorted(reads[here]):
            if name not in found:
                found[name] = (*found[here], name)
                waiting.append(name)
    return ()


def _statement(
    el: Elaborator,
    env: Env,
    cascade: Cascade,
    statement: ast.Statement,
    places: dict[str, ast.Word],
) -> None:
    match statement:
        case ast.Assign(over=None) | ast.Let():
            if _is_new(el, env, statement.name, places):
                _bind(el, env, cascade, statement)
            else:
                cascade.ok = False
        case ast.Aux():
            _add_aux(el, env, cascade, statement)
        case _:
            cascade.ok = False
            what = f"`{statement.span.text.split()[0]}`"
            help_ = "a normalizer holds `name = ...`, `let` and `aux name = ...`"
            el.report(syntax_errors.wrong_field(what, "a normalizer", statement.span, help_), env)


def _is_new(el: Elaborator, env: Env, word: ast.Word, places: dict[str, ast.Word]) -> bool:
    check_free(el, env, word)
    first = places.setdefault(word.text, word)
    if first is word:
        return True
    el.report(name_errors.duplicate_name("name", word.text, word.span, first.span), env)
    return False


def _bind(el: Elaborator, env: Env, cascade: Cascade, node: ast.Assign | ast.Let) -> None:
    """A step of the cascade; a `let`, and a vector, which cannot be a step, stand for their text."""
    place = LET if isinstance(node, ast.Let) else NORMALIZER
    expr = el.expr(node.value, replace(env, place=replace(place, forbids=NORMALIZER.forbids)))
    name = node.name.text
    if expr is not None and name == "w":
        expr = convert(el, env, expr, REAL, "the weight `w`")
    if expr is None:
        cascade.ok = False
        cascade.names[name] = cascade.visible[name] = Broken()
    elif isinstance(node, ast.Let) or isinstance(expr.type, VectorType):
        cascade.names[name] = cascade.visible[name] = Local(expr, node.span)
    else:
        cascade.bindings.append(Binding(name, expr, node.name.span))
        cascade.varies[name] = axes(expr, cascade.varies)
        cascade.names[name] = cascade.visible[name] = Local(Ref(name, expr.type, node.name.span))


def _add_aux(el: Elaborator, env: Env, cascade: Cascade, node: ast.Aux) -> None:
    if node.value is None:
        help_ = f"write `aux {node.name.text} = ...`"
        el.report(syntax_errors.wrong_field("`aux` without a value", "a normalizer", node.span, help_), env)
        cascade.ok = False
        return
    binding = check_aux(el, env, node, node.value, cascade.varies)
    if binding is None:
        cascade.ok = False
    elif any(binding.name == other.name for other in cascade.aux):
        first = next(other for other in cascade.aux if other.name == binding.name)
        el.report(name_errors.duplicate_name("aux", binding.name, binding.span, first.span), env)
        cascade.ok = False
    else:
        cascade.aux.append(binding)


def check_aux(el: Elaborator, env: Env, node: ast.Aux, value: ast.Expr, varies: Mapping[str, Axes]) -> Binding | None:
    """A statistic: one real per row or per column."""
    expr = el.typed(value, replace(env, place=AUX), REAL, f"aux `{node.name.text}`")
    if expr is None:
        return None
    if PAIR <= axes(expr, varies):
        el.report(errors.pair_statistic(node.name.text, value.span), env)
        return None
    return Binding(node.name.text, expr, node.name.span)


def _check_weights(el: Elaborator, env: Env, node: ast.Block, cascade: Cascade) -> None:
    steps: list[ast.Assign] = [statement for statement in node.statements if isinstance(statement, ast.Assign)]
    last = steps[-1].name if steps else None
    if last is not None and last.text == "w":
        return
    cascade.ok = False
    span = node.name.span if last is None else last.span
    el.report(errors.no_weights(node.name.text, None if last is None else last.text, span), env)
