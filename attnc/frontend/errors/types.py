"""E3: types, shapes, arguments and the rules of each part of a spec."""

from __future__ import annotations

from attnc.diagnostics import Diagnostic, Label, SpecError
from attnc.frontend.errors.wording import clip, did_you_mean, listing, plural
from attnc.source import Span


def wrong_type(what: str, wanted: str, found: str, span: Span) -> Diagnostic:
    """E301: `what` must be of one type and is of another."""
    helps = {
        ("int", "real"): "round it with `int(x)`",
        ("bool", "int"): "compare it: `x != 0`",
        ("bool", "real"): "compare it: `x > 0`",
        ("real", "bool"): "choose between numbers: `where(condition, 1, 0)`",
        ("int", "bool"): "choose between numbers: `where(condition, 1, 0)`",
    }
    help_ = helps.get((wanted, found))
    if help_ is None and found.startswith("real["):
        help_ = "reduce the vector: `dot(x, y)`, `sum[d](x)`"
    title = f"{what} must be {wanted}, not {found}"
    return Diagnostic("E301", title, Label(span, f"this is {found}"), help=help_)


def bad_operand(operator: str, wanted: str, found: str, span: Span, instead: str | None = None) -> Diagnostic:
    """E302: an argument of the wrong kind for a builtin, an operator or a reduction."""
    help_ = None if instead is None else f"to count where it holds use `{instead}(...)`"
    if help_ is None and (operator, found) in (("==", "bool"), ("!=", "bool")):
        help_ = "conditions are joined with `and`, `or`, `not`"
    elif help_ is None and operator in ("//", "%") and found == "real":
        help_ = "the real quotient is `/`"
    elif help_ is None and operator == "and" and found == "int":
        help_ = "bits are joined with `&`; a condition compares: `x != 0`"
    title = f"`{operator}` takes {_article(wanted)}, not {found}"
    return Diagnostic("E302", title, Label(span, f"this is {found}"), help=help_)


def _article(kind: str) -> str:
    return {"bool": "conditions", "int": "ints", "a number": "numbers"}.get(kind, kind)


def unequal_lengths(operator: str, lengths: tuple[str, str], operands: tuple[Span, Span]) -> Diagnostic:
    """E303: vectors of different lengths meet."""
    a, b = lengths
    return Diagnostic(
        "E303",
        f"`{operator}` takes vectors of one length, not {a} and {b}",
        Label(operands[1], f"length {b}"),
        (Label(operands[0], f"length {a}"),),
    )


def unequal_branches(then: str, orelse: str, span: Span) -> Diagnostic:
    """E304: `where` between a condition and a number."""
    title = f"the branches of `where` are {then} and {orelse}"
    return Diagnostic("E304", title, Label(span), help="both must be conditions or both numbers")


def missing_arguments(called: str, missing: tuple[str, ...], formals: tuple[str, ...], span: Span) -> Diagnostic:
    """E305: parameters without a default that are given nothing."""
    title = f"`{called}` needs {plural(len(missing), 'more argument')}: {listing(missing)}"
    help_ = f"write `{called}({', '.join(formals)})`"
    return Diagnostic("E305", title, Label(span), help=help_)


def too_many_arguments(called: str, formals: tuple[str, ...], given: int, span: Span) -> Diagnostic:
    """E305: more arguments than parameters."""
    title = f"`{called}` takes {plural(len(formals), 'argument')}, not {given}"
    help_ = f"they are {listing(formals)}" if formals else f"write `{called}` alone"
    return Diagnostic("E305", title, Label(span, "one too many"), help=help_)


def unknown_argument(called: str, name: str, formals: tuple[str, ...], span: Span) -> Diagnostic:
    """E305: an argument for a parameter that does not exist."""
    help_ = did_you_mean(name, formals)
    if help_ is None:
        help_ = f"its parameters are {listing(formals)}" if formals else "it has no parameters"
    title = f"`{called}` has no parameter `{clip(name)}`"
    return Diagnostic("E305", title, Label(span), help=help_)


def repeated_argument(called: str, name: str, span: Span) -> Diagnostic:
    """E305: a parameter given by position and by name, or twice."""
    return Diagnostic("E305", f"`{called}` is given `{name}` twice", Label(span, "again here"))


def not_callable(name: str, what: str, span: Span, help_: str | None = None) -> Diagnostic:
    """E306: brackets behind something that takes no arguments."""
    title = f"`{clip(name)}` is {what} and cannot be called"
    return Diagnostic("E306", title, Label(span), help=help_)


def not_indexable(name: str, what: str, span: Span, help_: str | None = None) -> Diagnostic:
    """E307: an index behind something without elements."""
    title = f"`{clip(name)}` is {what} and cannot be indexed"
    return Diagnostic("E307", title, Label(span), help=help_)


def index_count(tensor: str, shape: str, dims: int, given: int, span: Span) -> Diagnostic:
    """E308: more or fewer indices than the shape of the tensor has room for."""
    count = "1 index" if dims == 1 else f"{dims} indices"
    row = "with one index less, a real tensor gives its last dimension as a vector"
    return Diagnostic(
        "E308",
        f"`{tensor}: {shape}` takes {count}, not {given}",
        Label(span),
        note=row if given < dims else None,
    )


def wrong_index(tensor: str, dim: str, index: str, takes: tuple[str, ...], span: Span) -> Diagnostic:
    """E309: an index of another dimension."""
    helps = {
        ("N", "j"): f"a tensor read at i and j is declared over M: `{tensor}: ...[..., M]`",
        ("Hk", "h"): "the key head of a query head is `hk`",
    }
    help_ = helps.get((dim, index), f"write `{takes[0]}`")
    title = f"dimension `{dim}` of `{tensor}` is not indexed by `{index}`"
    return Diagnostic("E309", title, Label(span), help=help_)


def wrong_tensor(param: str, wanted: str, found: str, span: Span) -> Diagnostic:
    """E310: a tensor of another kind or shape than the parameter."""
    title = f"argument `{param}` must be {wanted}, not {found}"
    return Diagnostic("E310", title, Label(span, f"this is {found}"))


def dynamic_divisor(operator: str, span: Span) -> Diagnostic:
    """E311: a divisor that is not known when compiling."""
    return Diagnostic(
        "E311",
        f"the divisor of `{operator}` is not known when compiling",
        Label(span, "must be made of literals and static parameters"),
        help="make it a parameter of the attention that is not `dynamic`",
    )


def negative_exponent(span: Span) -> Diagnostic:
    """E312: an int to a negative power."""
    title = "an int to a negative power is no int"
    return Diagnostic("E312", title, Label(span), help="make the base real: `2.0 ^ -3`")


def not_constant(what: str, span: Span) -> Diagnostic:
    """E313: a constant expression without a value, such as log(0)."""
    return Diagnostic("E313", f"{what} has no finite value", Label(span))


def arithmetic(error: SpecError, span: Span) -> Diagnostic:
    """E330: a constant computation without a result."""
    found = error.diagnostics[0]
    where = found.primary.span if found.primary else span
    return Diagnostic("E330", found.title, Label(where, "in this computation"), help=found.help)


def missing_type(name: str, span: Span) -> Diagnostic:
    """E314: a parameter that says nothing about its values."""
    title = f"parameter `{name}` has no type"
    help_ = f"write `{name}: int`, `: real`, `: bool`, or a shape like `: real[H]`"
    return Diagnostic("E314", title, Label(span), help=help_)


def unknown_type(name: str, meant: str | None, known: tuple[str, ...], span: Span) -> Diagnostic:
    """E315: a type of no kind; `meant` is what another language's name stands for."""
    help_ = f"write `{meant}`" if meant else did_you_mean(name, known)
    help_ = help_ or f"the types are {listing(known)}"
    return Diagnostic("E315", f"unknown type `{clip(name)}`", Label(span), help=help_)


def bad_modifier(word: str, param: str, allowed: tuple[str, ...], misplaced: bool, span: Span) -> Diagnostic:
    """E316: a word after a type that is unknown, or belongs to another kind of parameter."""
    if misplaced:
        title = f"`{word}` does not apply to parameter `{param}`"
        help_ = "`dynamic` is for scalars and `learned` for tensors; both stand in the header of an `attention`"
    else:
        title = f"unknown modifier `{clip(word)}`"
        help_ = did_you_mean(word, allowed) or f"the modifiers are {listing(allowed)}"
    return Diagnostic("E316", title, Label(span), help=help_)


def clashing_modifiers(param: str, span: Span) -> Diagnostic:
    """E316: a modifier twice, or static and dynamic."""
    title = f"parameter `{param}` has modifiers that do not go together"
    return Diagnostic("E316", title, Label(span), help="a scalar is static unless it is `dynamic`")


def learned_table(param: str, span: Span) -> Diagnostic:
    """E316: a tensor that is known when compiling has no gradient."""
    title = f"parameter `{param}` has modifiers that do not go together"
    return Diagnostic("E316", title, Label(span), help="a `static` tensor has no gradient; leave one of the two out")


def bad_range(why: str, span: Span) -> Diagnostic:
    """E317: a range that allows no value."""
    return Diagnostic(
        "E317",
        f"bad range: {why}",
        Label(span),
        help="a range is written `in [low, high)`; a round bracket leaves its end out",
    )


def range_not_here(param: str, span: Span) -> Diagnostic:
    """E317: a range on a parameter that another declaration fills."""
    title = f"the range of `{param}` stands where it is given from outside"
    return Diagnostic("E317", title, Label(span), help="declare the range in the header of the `attention`")


def out_of_range(what: str, range_: str, span: Span) -> Diagnostic:
    """E318: a default outside of its own range."""
    return Diagnostic("E318", f"{what} is outside {range_}", Label(span))


def tensor_default(name: str, span: Span) -> Diagnostic:
    """E319: a tensor with a default."""
    return Diagnostic("E319", f"tensor `{name}` cannot have a default", Label(span))


def dynamic_dim(name: str, span: Span) -> Diagnostic:
    """E320: a dimension that changes from call to call."""
    title = f"a dimension cannot depend on the dynamic parameter `{name}`"
    return Diagnostic("E320", title, Label(span), help="make the parameter static, or use a size like `N`")


def no_feature(text: str, known: tuple[str, ...], span: Span) -> Diagnostic:
    """E321: something else where a feature map is wanted."""
    help_ = did_you_mean(text, known)
    help_ = help_ or "give the name of a `feature`, or of a builtin of one argument like `relu`"
    return Diagnostic("E321", f"`{clip(text)}` is not a feature map", Label(span), help=help_)


def reduction_not_here(reduction: str, place: str, span: Span) -> Diagnostic:
    """E322: a reduction where its axis is not run over."""
    help_ = "reductions over keys stand in a `normalizer`, or in a `let` that the score reads"
    return Diagnostic("E322", f"`{reduction}` cannot stand in {place}", Label(span), help=help_)


def bad_axis(op: str, span: Span) -> Diagnostic:
    """E323: a reduction over nothing that can be reduced."""
    title = f"`{op}` reduces over `[j]`, `[i]` or `[d]`"
    return Diagnostic("E323", title, Label(span), help=f"over the keys: `{op}[j](...)`")


def bad_group(span: Span) -> Diagnostic:
    """E323: something else than `[j by GROUP]`."""
    title = "keys are grouped by `[j by GROUP]`"
    return Diagnostic("E323", title, Label(span), help="for example `sum[j by j // 64](...)`")


def reduction_body(reduction: str, span: Span) -> Diagnostic:
    """E324: a reduction of none or of several expressions."""
    title = f"`{reduction}` reduces one expression"
    return Diagnostic("E324", title, Label(span), help=f"write `{reduction}(x)`")


def bad_grid(what: str, span: Span, help_: str | None = None) -> Diagnostic:
    """E325: a wrong grid, or a use of one that is not there."""
    return Diagnostic("E325", what, Label(span), help=help_)


def no_weights(name: str, last: str | None, span: Span) -> Diagnostic:
    """E326: a normalizer whose last binding is not `w`."""
    found = "has no bindings" if last is None else f"ends with `{last}`"
    return Diagnostic(
        "E326",
        f"normalizer `{name}` {found}",
        Label(span, "the last binding must be the weights `w`"),
        help="end it with `w = ...`; the output is `sum[j](w * v)`",
    )


def pair_statistic(name: str, span: Span) -> Diagnostic:
    """E327: an `aux` that would be a matrix."""
    return Diagnostic(
        "E327",
        f"aux `{name}` is one number per pair of query and key",
        Label(span, "depends on both i and j"),
        note="a statistic has one value per row or per column",
        help="reduce it, for example with `max[j](...)`",
    )


def late_token_map(token: str, span: Span, score: Span) -> Diagnostic:
    """E328: a map of a token below its first use."""
    return Diagnostic(
        "E328",
        f"`{token}` is mapped after it was read",
        Label(span),
        (Label(score, "read here"),),
        help="move the map above",
    )


def not_a_normalizer(span: Span) -> Diagnostic:
    """E329: an expression in the field `normalizer`."""
    help_ = "declare `normalizer NAME { ... w = ... }` and write `normalizer NAME`"
    return Diagnostic("E329", "the field `normalizer` takes the name of one", Label(span), help=help_)


def bad_member(title: str, span: Span, help_: str | None = None) -> Diagnostic:
    """E331: `x.y` where x has no members, or no such one."""
    return Diagnostic("E331", title, Label(span), help=help_)


def bad_exists_range(span: Span) -> Diagnostic:
    """E332: a range of `exists` that is not known when compiling."""
    title = "the range of `exists` is not known when compiling"
    label = Label(span, "must be made of literals and static parameters")
    return Diagnostic("E332", title, label, help="bound it by a constant and cut the rest with `and`")


def not_static(what: str, span: Span, made_of: str = "literals, static parameters, D and Dv") -> Diagnostic:
    """E333: an option that is not known when compiling."""
    label = Label(span, f"must be made of {made_of}")
    return Diagnostic("E333", f"{what} must be known when compiling", label)
