"""E3: types, shapes, arguments and the rules of each part of a spec."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.diagnostics import Diagnostic, Label, SpecError
from attnc.frontend.errors.wording import clip, did_you_mean, listing, plural
from attnc.source import Span


@dataclass(frozen=True, slots=True)
class WrongType:
    """`what` must be of one type and is of another."""

    what: str
    wanted: str
    found: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        helps = {
            ("int", "real"): "round it with `int(x)`",
            ("bool", "int"): "compare it: `x != 0`",
            ("bool", "real"): "compare it: `x > 0`",
            ("real", "bool"): "choose between numbers: `where(condition, 1, 0)`",
            ("int", "bool"): "choose between numbers: `where(condition, 1, 0)`",
        }
        help_ = helps.get((self.wanted, self.found))
        if help_ is None and self.found.startswith("real["):
            help_ = "reduce the vector: `dot(x, y)`, `sum[d](x)`"
        title = f"{self.what} must be {self.wanted}, not {self.found}"
        return Diagnostic("E301", title, Label(self.span, f"this is {self.found}"), help=help_)


@dataclass(frozen=True, slots=True)
class BadOperand:
    operator: str
    wanted: str
    found: str
    span: Span
    instead: str | None = None

    def diagnostic(self) -> Diagnostic:
        help_ = None if self.instead is None else f"to count where it holds use `{self.instead}(...)`"
        if help_ is None and (self.operator, self.found) in (("==", "bool"), ("!=", "bool")):
            help_ = "conditions are joined with `and`, `or`, `not`"
        elif help_ is None and self.operator in ("//", "%") and self.found == "real":
            help_ = "the real quotient is `/`"
        elif help_ is None and self.operator == "and" and self.found == "int":
            help_ = "bits are joined with `&`; a condition compares: `x != 0`"
        title = f"`{self.operator}` takes {_article(self.wanted)}, not {self.found}"
        return Diagnostic("E302", title, Label(self.span, f"this is {self.found}"), help=help_)


def _article(kind: str) -> str:
    return {"bool": "conditions", "int": "ints", "a number": "numbers"}.get(kind, kind)


@dataclass(frozen=True, slots=True)
class UnequalLengths:
    operator: str
    lengths: tuple[str, str]
    operands: tuple[Span, Span]
    span: Span

    def diagnostic(self) -> Diagnostic:
        a, b = self.lengths
        return Diagnostic(
            "E303",
            f"`{self.operator}` takes vectors of one length, not {a} and {b}",
            Label(self.operands[1], f"length {b}"),
            (Label(self.operands[0], f"length {a}"),),
        )


@dataclass(frozen=True, slots=True)
class UnequalBranches:
    then: str
    orelse: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"the branches of `where` are {self.then} and {self.orelse}"
        return Diagnostic("E304", title, Label(self.span), help="both must be conditions or both numbers")


@dataclass(frozen=True, slots=True)
class MissingArguments:
    called: str
    missing: tuple[str, ...]
    formals: tuple[str, ...]
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"`{self.called}` needs {plural(len(self.missing), 'more argument')}: {listing(self.missing)}"
        help_ = f"write `{self.called}({', '.join(self.formals)})`"
        return Diagnostic("E305", title, Label(self.span), help=help_)


@dataclass(frozen=True, slots=True)
class TooManyArguments:
    called: str
    formals: tuple[str, ...]
    given: int
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"`{self.called}` takes {plural(len(self.formals), 'argument')}, not {self.given}"
        help_ = f"they are {listing(self.formals)}" if self.formals else f"write `{self.called}` alone"
        return Diagnostic("E305", title, Label(self.span, "one too many"), help=help_)


@dataclass(frozen=True, slots=True)
class UnknownArgument:
    called: str
    name: str
    formals: tuple[str, ...]
    span: Span

    def diagnostic(self) -> Diagnostic:
        help_ = did_you_mean(self.name, self.formals)
        if help_ is None:
            help_ = f"its parameters are {listing(self.formals)}" if self.formals else "it has no parameters"
        title = f"`{self.called}` has no parameter `{clip(self.name)}`"
        return Diagnostic("E305", title, Label(self.span), help=help_)


@dataclass(frozen=True, slots=True)
class RepeatedArgument:
    called: str
    name: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E305", f"`{self.called}` is given `{self.name}` twice", Label(self.span, "again here"))


@dataclass(frozen=True, slots=True)
class NotCallable:
    name: str
    what: str
    span: Span
    help: str | None = None

    def diagnostic(self) -> Diagnostic:
        title = f"`{clip(self.name)}` is {self.what} and cannot be called"
        return Diagnostic("E306", title, Label(self.span), help=self.help)


@dataclass(frozen=True, slots=True)
class NotIndexable:
    name: str
    what: str
    span: Span
    help: str | None = None

    def diagnostic(self) -> Diagnostic:
        title = f"`{clip(self.name)}` is {self.what} and cannot be indexed"
        return Diagnostic("E307", title, Label(self.span), help=self.help)


@dataclass(frozen=True, slots=True)
class IndexCount:
    tensor: str
    shape: str
    dims: int
    given: int
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"`{self.tensor}: {self.shape}` takes {plural(self.dims, 'index' if self.dims == 1 else 'indice')}"
        return Diagnostic(
            "E308",
            f"{title}, not {self.given}",
            Label(self.span),
            note="one index less than dimensions reads a row of a real tensor as a vector",
        )


@dataclass(frozen=True, slots=True)
class WrongIndex:
    tensor: str
    dim: str
    index: str
    takes: tuple[str, ...]
    span: Span

    def diagnostic(self) -> Diagnostic:
        helps = {
            ("N", "j"): f"a tensor read at i and j is declared over M: `{self.tensor}: ...[..., M]`",
            ("Hk", "h"): "the key head of a query head is `hk`",
        }
        help_ = helps.get((self.dim, self.index), f"write `{self.takes[0]}`")
        title = f"dimension `{self.dim}` of `{self.tensor}` is not indexed by `{self.index}`"
        return Diagnostic("E309", title, Label(self.span), help=help_)


@dataclass(frozen=True, slots=True)
class WrongTensor:
    param: str
    wanted: str
    found: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"argument `{self.param}` must be {self.wanted}, not {self.found}"
        return Diagnostic("E310", title, Label(self.span, f"this is {self.found}"))


@dataclass(frozen=True, slots=True)
class DynamicDivisor:
    operator: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E311",
            f"the divisor of `{self.operator}` is not known when compiling",
            Label(self.span, "must be made of literals and static parameters"),
            help="make it a parameter of the attention that is not `dynamic`",
        )


@dataclass(frozen=True, slots=True)
class NegativeExponent:
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = "an int to a negative power is no int"
        return Diagnostic("E312", title, Label(self.span), help="make the base real: `2.0 ^ -3`")


@dataclass(frozen=True, slots=True)
class NotConstant:
    what: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E313", f"{self.what} must be a constant", Label(self.span), help="use literals only")


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A constant computation without a result."""

    title: str
    help: str | None
    span: Span

    @classmethod
    def of(cls, error: SpecError, span: Span) -> Arithmetic:
        found = error.diagnostics[0]
        return cls(found.title, found.help, found.primary.span if found.primary else span)

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E330", self.title, Label(self.span, "in this computation"), help=self.help)


@dataclass(frozen=True, slots=True)
class MissingType:
    name: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"parameter `{self.name}` has no type"
        help_ = f"write `{self.name}: int`, `: real`, `: bool`, or a shape like `: real[H]`"
        return Diagnostic("E314", title, Label(self.span), help=help_)


@dataclass(frozen=True, slots=True)
class UnknownType:
    name: str
    meant: str | None
    known: tuple[str, ...]
    span: Span

    def diagnostic(self) -> Diagnostic:
        help_ = f"write `{self.meant}`" if self.meant else did_you_mean(self.name, self.known)
        help_ = help_ or f"the types are {listing(self.known)}"
        return Diagnostic("E315", f"unknown type `{clip(self.name)}`", Label(self.span), help=help_)


@dataclass(frozen=True, slots=True)
class BadModifier:
    word: str
    param: str
    allowed: tuple[str, ...]
    misplaced: bool
    span: Span

    def diagnostic(self) -> Diagnostic:
        if self.misplaced:
            title = f"`{self.word}` does not apply to parameter `{self.param}`"
            help_ = "`dynamic` is for scalars and `learned` for tensors; both stand in the header of an `attention`"
        else:
            title = f"unknown modifier `{clip(self.word)}`"
            help_ = did_you_mean(self.word, self.allowed) or f"the modifiers are {listing(self.allowed)}"
        return Diagnostic("E316", title, Label(self.span), help=help_)


@dataclass(frozen=True, slots=True)
class BadRange:
    why: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E317", f"bad range: {self.why}", Label(self.span), help="write `in [0, 32)`")


@dataclass(frozen=True, slots=True)
class RangeNotHere:
    param: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"the range of `{self.param}` stands where it is given from outside"
        return Diagnostic("E317", title, Label(self.span), help="declare the range in the header of the `attention`")


@dataclass(frozen=True, slots=True)
class OutOfRange:
    what: str
    range: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E318", f"{self.what} is outside {self.range}", Label(self.span))


@dataclass(frozen=True, slots=True)
class TensorDefault:
    name: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E319", f"tensor `{self.name}` cannot have a default", Label(self.span))


@dataclass(frozen=True, slots=True)
class DynamicDim:
    name: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"a dimension cannot depend on the dynamic parameter `{self.name}`"
        return Diagnostic("E320", title, Label(self.span), help="make the parameter static, or use a size like `N`")


@dataclass(frozen=True, slots=True)
class NoFeature:
    text: str
    known: tuple[str, ...]
    span: Span

    def diagnostic(self) -> Diagnostic:
        help_ = did_you_mean(self.text, self.known)
        help_ = help_ or "give the name of a `feature`, or of a builtin of one argument like `relu`"
        return Diagnostic("E321", f"`{clip(self.text)}` is not a feature map", Label(self.span), help=help_)


@dataclass(frozen=True, slots=True)
class ReductionNotHere:
    reduction: str
    place: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        help_ = "reductions over keys stand in a `normalizer`, or in a `let` that the score reads"
        return Diagnostic("E322", f"`{self.reduction}` cannot stand in {self.place}", Label(self.span), help=help_)


@dataclass(frozen=True, slots=True)
class BadAxis:
    op: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"`{self.op}` reduces over `[j]`, `[i]` or `[d]`"
        return Diagnostic("E323", title, Label(self.span), help=f"over the keys: `{self.op}[j](...)`")


@dataclass(frozen=True, slots=True)
class BadGroup:
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = "keys are grouped by `[j by GROUP]`"
        return Diagnostic("E323", title, Label(self.span), help="for example `sum[j by j // 64](...)`")


@dataclass(frozen=True, slots=True)
class ReductionBody:
    reduction: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"`{self.reduction}` reduces one expression"
        return Diagnostic("E324", title, Label(self.span), help=f"write `{self.reduction}(x)`")


@dataclass(frozen=True, slots=True)
class BadGrid:
    what: str
    span: Span
    help: str | None = None

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E325", self.what, Label(self.span), help=self.help)


@dataclass(frozen=True, slots=True)
class NoWeights:
    """A normalizer whose last binding is not `w`."""

    name: str
    last: str | None
    span: Span

    def diagnostic(self) -> Diagnostic:
        found = "has no bindings" if self.last is None else f"ends with `{self.last}`"
        return Diagnostic(
            "E326",
            f"normalizer `{self.name}` {found}",
            Label(self.span, "the last binding must be the weights `w`"),
            help="end it with `w = ...`; the output is `sum[j](w * v)`",
        )


@dataclass(frozen=True, slots=True)
class PairStatistic:
    name: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E327",
            f"aux `{self.name}` is one number per pair of query and key",
            Label(self.span, "depends on both i and j"),
            note="a statistic has one value per row or per column",
            help="reduce it, for example with `max[j](...)`",
        )


@dataclass(frozen=True, slots=True)
class LateTokenMap:
    token: str
    span: Span
    score: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E328",
            f"`{self.token}` is mapped after it was read",
            Label(self.span),
            (Label(self.score, "read here"),),
            help="move the map above",
        )


@dataclass(frozen=True, slots=True)
class NotANormalizer:
    span: Span

    def diagnostic(self) -> Diagnostic:
        help_ = "declare `normalizer NAME { ... w = ... }` and write `normalizer NAME`"
        return Diagnostic("E329", "the field `normalizer` takes the name of one", Label(self.span), help=help_)


@dataclass(frozen=True, slots=True)
class BadMember:
    """`x.y` where x has no members, or no such one."""

    title: str
    span: Span
    help: str | None = None

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E331", self.title, Label(self.span), help=self.help)


@dataclass(frozen=True, slots=True)
class BadExistsRange:
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = "the range of `exists` is not known when compiling"
        label = Label(self.span, "must be made of literals and static parameters")
        return Diagnostic("E332", title, label, help="bound it by a constant and cut the rest with `and`")


@dataclass(frozen=True, slots=True)
class NotStatic:
    what: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        label = Label(self.span, "must be made of literals, static parameters, D and Dv")
        return Diagnostic("E333", f"{self.what} must be known when compiling", label)
