"""What a name means at a place of the text, and what the parts of the checker offer each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from attnc.diagnostics import Diagnostic
from attnc.frontend import ast
from attnc.frontend.resolve import Declared, Kind, Library, Scope
from attnc.ir.expr import Expr
from attnc.ir.module import Grid, TensorParam
from attnc.ir.types import ScalarType
from attnc.source import Span

# --------------------------------------------------------------------------------------- meanings


@dataclass(frozen=True, slots=True)
class Local:
    """A name that stands for a typed expression: a parameter, an argument, a binding, a `let`.

    `definition` is set for a `let`, whose text was checked in a laxer place than the one that uses it.
    """

    expr: Expr
    definition: Span | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A name that stands for a tensor parameter of the attention, perhaps under another name."""

    param: TensorParam


@dataclass(frozen=True, slots=True)
class Function:
    """A feature map given as an argument: a declared one, a builtin by its name, or None for any."""

    target: Declared | str | None


@dataclass(frozen=True, slots=True)
class Broken:
    """A name whose definition is wrong; using it is no further error."""


Meaning = Local | Tensor | Function | Broken

# ----------------------------------------------------------------------------------------- places

ReduceAxis = Literal["j", "i", "d"]
_EXPRESSIONS: tuple[Kind, ...] = ("score", "bias", "feature", "def", "mask")


@dataclass(frozen=True, slots=True)
class Place:
    """A role that an expression plays: what it may read and which declarations it may use."""

    title: str
    forbids: frozenset[str]
    reduces: frozenset[ReduceAxis] = frozenset()
    kinds: tuple[Kind, ...] = _EXPRESSIONS
    why: str | None = None

    @property
    def looks_up(self) -> bool:
        """Whether tensors can be read: not where nothing of the call is known yet."""
        return "b" not in self.forbids


def _place(
    title: str, forbids: str, reduces: str = "", why: str | None = None, kinds: tuple[Kind, ...] = _EXPRESSIONS
) -> Place:
    axes = frozenset[ReduceAxis](axis for axis in ("j", "i", "d") if axis in reduces)
    return Place(title, frozenset(forbids.split()), axes, kinds, why)


_EVERYTHING = "b h hk i j q k v o s scale n_keys"

MASK = _place(
    "a mask",
    "q k v o s scale n_keys",
    "",
    "a mask decides by positions, parameters and looked-up integers",
    ("mask", "def"),
)
SCORE = _place("a score", "v o s", "jd", "a score compares q and k")
BIAS = _place("a bias", "v o s", "jd", "a bias is a term of the score")
LET = _place("a let", "v o s", "jid")
NORMALIZER = _place("a normalizer", "v o", "jid", "a normalizer turns the logits `s` into weights")
AUX = _place("an aux statistic", "v o", "jid", "a statistic describes the weights")
Q_MAP = _place("the map of q", "j k v o s", "d", "it is applied once to every query, before any key is seen")
K_MAP = _place("the map of k", "i h q v o s n_keys", "d", "it is applied once to every key and key head: use `hk`")
V_MAP = _place("the map of v", "i h q k o s n_keys", "d", "it is applied once to every key and key head: use `hk`")
OUTPUT = _place("the output map", "j q k v s", "d", "it is applied once to every finished row `o`")
SIZE = _place("a size", _EVERYTHING, "", "sizes are known before any position", ("def",))
CONSTANT = _place("a constant", _EVERYTHING + " B H Hk N M D Dv", "", "it is known when the file is read", ("def",))
BOUND = _place(
    "a bound of a range",
    _EVERYTHING + " B H Hk N M D Dv",
    "",
    "it is made of literals and earlier static parameters",
    ("def",),
)
#: Where a definition is checked on its own, before its use says what it may read.
ANYWHERE = _place("a definition", "", "jid")

# ------------------------------------------------------------------------------------ environment


@dataclass(frozen=True, slots=True)
class Grids:
    """The grids of the two sides. `any_axis`: there is no attention yet, every axis name is taken."""

    q: Grid | None = None
    k: Grid | None = None
    any_axis: bool = False


@dataclass(frozen=True, slots=True)
class Env:
    """Everything that gives names a meaning at one place.

    `tokens` are q, k, v and o as mapped so far; `vars` the variables of enclosing `exists`;
    `used_at` the use, in the user's own field, that brought this text here.
    """

    names: Mapping[str, Meaning]
    scope: Scope
    place: Place
    tokens: Mapping[str, Expr] = field(default_factory=dict[str, Expr])
    grids: Grids = field(default_factory=Grids)
    vars: tuple[str, ...] = ()
    used_at: Span | None = None


class Elaborator(Protocol):
    """The checker as its parts see it. Each method answers None after an error that it has reported."""

    library: Library
    #: Dynamic scalars of the attention that is being checked.
    dynamic: set[str]
    #: Its tensors that are known when compiling.
    tables: set[str]

    def report(self, error: Diagnostic, env: Env) -> None:
        """Record an error at a place of the text."""
        ...

    def expr(self, node: ast.Expr, env: Env) -> Expr | None:
        """The typed expression of a piece of text."""
        ...

    def typed(self, node: ast.Expr, env: Env, kind: ScalarType, what: str) -> Expr | None:
        """The same, of a scalar kind; an int is made real where a real is wanted."""
        ...

    def sound(self, declared: Declared) -> bool:
        """Whether a declaration is right on its own; reports what is wrong with it once."""
        ...

    def reads(self, expr: Expr) -> frozenset[str]:
        """Names of the leaves of an expression, see `measures`."""
        ...


def all_or_none(items: Sequence[Expr | None]) -> tuple[Expr, ...] | None:
    """The expressions, unless one of them is an error."""
    found = tuple(item for item in items if item is not None)
    return found if len(found) == len(items) else None
