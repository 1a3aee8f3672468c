"""The plan: what every back end executes. Nothing in it names a mechanism.

Expressions of a plan read besides the usual leaves: Index r and c (rows as stored), Value "q_offset" and
"k_offset", Ref "i0" and "i1" (first and last position of the query tile), Ref to a dot term (a pair value), to an
accumulator (a row value; a vector when it is weighted) and, in a rescale factor only, to "NAME.old".
Tensor look-ups are by stored rows; sizes D and Dv are constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attnc.ir.expr import Expr, Lookup, Ref, Value, int_const
from attnc.ir.module import AttentionModule, Binding
from attnc.ir.traverse import walk
from attnc.ir.types import REAL, VectorType

AccOp = Literal["sum", "max", "min"]


@dataclass(frozen=True, slots=True)
class Tile:
    """Size of one unit of work: `rows` queries by `keys` keys."""

    rows: int
    keys: int


#: Whether row r of the queries and of the keys is position r, and N == M. On a grid: of all its points, and no others;
#: or "beside" others, before the grid's first point and behind its last.
Alignment = Literal[False, True, "beside"]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a plan is made for. `tile` overrides the choice of the tiling pass (tests, tuning)."""

    head_dim: int
    value_dim: int
    itemsize: int = 2
    tile: Tile | None = None
    #: Calls whose tiles may follow a grid.
    aligned: Alignment = False
    #: Calls of many tiles whose offsets the host knows: what depends on data may be listed before the kernels run.
    listed: bool = False
    #: Such calls, where the host knows everything that the mask reads: what has no closed form may be listed.
    numbered: bool = False
    #: Calls that will be differentiated: the forward leaves what the backward reads.
    training: bool = False
    #: Calls long enough for full tiles to go through states where they can. The host knows their offsets.
    states: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Key tiles low, low + step, ..., up to and including high; none unless `guard` holds."""

    guard: Expr
    low: Expr
    high: Expr
    step: int = 1


@dataclass(frozen=True, slots=True)
class Visit:
    """Key tiles that one query tile reads. Full: every stored pair of the tile is kept, no mask code needed.

    The pieces of a visit, and the visits of a part, never name a tile twice.
    """

    kind: Literal["full", "partial"]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class TileAxis:
    """One axis of a tile map: coordinates x from 0 to `extent` - 1, `stride` stored rows apart.

    A tile holds one class, `rows` queries by `keys` keys along y, and a query meets keys of its own class only:
    x = class + modulus * y, or with `block` (then the modulus is 1) x = block * class + y for y below `block`.
    `query` and `key` are the coordinates as the plan's expressions have them. `relation` is what the mask asks along
    this axis, of Index i and j read as coordinates; `visits` are its tiles as closed forms in y (in Ref i0 and i1,
    Value class, and Size M, the number of y), empty when they have to be counted out.
    """

    extent: Expr
    stride: Expr
    rows: int
    keys: int
    modulus: int
    query: Expr
    key: Expr
    relation: Expr
    visits: tuple[Visit, ...] = ()
    block: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """Key tiles per query tile in a list that is made at the call, from what the mask looks up in tiles of positions.

    There is one list for all batches and heads, or one for each batch (`batches`) and each query head or key head.
    `of_numbers`: the mask looks nothing up, so calls of the same sizes, offsets and parameters have the same list.
    """

    batches: bool
    heads: Literal["", "h", "hk"]
    of_numbers: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A tile map with its visits. `why` tells how the visits were found, for `explain`.

    Without axes tiles are ranges of positions and the visits closed forms. With axes a tile is a box: it is visited
    where every axis visits it, and full where every axis is full and the mask says no more than its axes do; which
    tiles those are, a table per axis tells at the call. The visits have no pieces then. With a `listing` tiles are
    ranges of positions, the call lists those that are visited, and the visits are what it could list at most.

    `origin`: the stored row of the first point of a grid beside which there are other rows. Those before it and behind
    the last point are query tiles, too, after all boxes: ranges of rows that visit nothing.

    `covers`: the visits are more than the live tiles, which have no short closed form. `mask` is what the part keeps,
    where a plan has several or its tiles are listed from numbers: together they keep what the plan's mask keeps, no two
    of them the same pair. `descending`: later query tiles have more work, so they start first.
    """

    tile: Tile
    visits: tuple[Visit, ...]
    exact: bool
    why: str
    axes: tuple[TileAxis, ...] = ()
    listing: Listing | None = None
    mask: Expr | None = None
    descending: bool = False
    first_live: bool = False
    covers: bool = False
    origin: int | None = None


@dataclass(frozen=True, slots=True)
class Derived:
    """A value per token that is computed once, before the attention itself, and stored.

    `side` q: tokens are queries, expr reads i; k: keys, expr reads j. `heads` tells which head count it is stored
    for. A vector is stored in the dtype of q, a number in float32.
    """

    name: str
    side: Literal["q", "k"]
    heads: Literal["H", "Hk"]
    expr: Expr


@dataclass(frozen=True, slots=True)
class DotTerm:
    """Inner products of a query-side and a key-side vector: the name of a derived value, or "q" / "k" as passed."""

    name: str
    left: str
    right: str
    dim: int


@dataclass(frozen=True, slots=True)
class PairDot:
    """An inner product whose operands depend on both positions: summed feature by feature."""

    name: str
    left: Expr
    right: Expr
    dim: int


@dataclass(frozen=True, slots=True)
class Accumulator:
    """A running reduction over the keys: an instance of the plan's monoid.

    Identity: 0 for sum, -inf for max, +inf for min. Lift: `body` of a pair (times the value vector when `weighted`).
    Combine: `op`. When a statistic that `body` reads moves, the sum so far is multiplied by `rescale`
    (new statistics as Ref name, old as Ref name.old); `rescale_guard` says that the factor has to be taken as 0
    while the old statistic is still the identity, because its formula is not finite there. `needs_mask`: a masked pair
    has to be replaced by the identity; otherwise a logit of -inf already makes `body` the identity.
    """

    name: str
    op: AccOp
    body: Expr
    weighted: bool = False
    rescale: Expr | None = None
    rescale_guard: bool = False
    needs_mask: bool = False
    dim: int = 0
    #: Key-side vectors that weight it; the plan's values if empty.
    by: str = ""

    @property
    def ref(self) -> Ref:
        """How expressions read it."""
        if not self.weighted:
            return Ref(self.name, REAL)
        return Ref(self.name, VectorType(int_const(self.dim)))


@dataclass(frozen=True, slots=True)
class Sweep:
    """One pass over the visits. Accumulators stand in the order in which a tile updates them.

    `columns` are sums over the queries, one for each key; what weights them is a vector of queries. They read the
    same pair values, so one pass over the pairs serves both sides. Their names are their own.
    """

    accumulators: tuple[Accumulator, ...]
    why: str
    columns: tuple[Accumulator, ...] = ()

    @property
    def reads_logit(self) -> bool:
        """Whether an accumulator of this sweep reads Value("s")."""
        logit = Value("s", REAL)
        return any(node == logit for acc in (*self.accumulators, *self.columns) for node in walk(acc.body))


@dataclass(frozen=True, slots=True)
class StateTerm:
    """What a pair adds to a sum: `row`, of the query, times an inner product (none: 1) times `column`, of the key."""

    row: Expr
    dot: str
    column: Expr


@dataclass(frozen=True, slots=True)
class StateSum:
    """A sum of such terms. An extremum has none: what it is after any key is `row`, which all pairs share."""

    accumulator: str
    terms: tuple[StateTerm, ...]
    row: Expr | None = None


Moves = Literal["low", "high", "none"]


@dataclass(frozen=True, slots=True)
class Run:
    """Key tiles of a query tile that a state stands for: all `chunk` or none where both ends stay, else a number of
    chunks, counted from the end that stays. `moves`: the end that depends on the query tile.
    """

    tiles: Piece
    moves: Moves


@dataclass(frozen=True, slots=True)
class States:
    """Sums over the keys of full tiles without their pairs: a sum of f(q) . g(k) v is f(q) . (the sum of g(k) v).

    The sums begin at what the `runs` give, one state for each `chunk` of key tiles, and the visits are what is left.
    """

    runs: tuple[Run, ...]
    sums: tuple[StateSum, ...]
    chunk: int


@dataclass(frozen=True, slots=True)
class Stage:
    """Sweeps over one part. `resumes`: from what states or the part before left; else from the identity.

    One that `finishes` computes output and statistics, another leaves its accumulators. Continuing from what others
    accumulated is the monoid's combination, one tile after the other.
    """

    part: Part
    sweeps: tuple[int, ...]
    resumes: bool
    finishes: bool


@dataclass(frozen=True, slots=True)
class Scatter:
    """A reduction over pairs into a tensor: `body` of each pair is added at the element that `target` reads."""

    name: str
    target: Lookup
    body: Expr


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """Everything a back end needs to know about one op for one D, Dv and dtype of `itemsize` bytes.

    Without an `output` its result are the accumulators of the last sweep (and `scatters`). `saves` names accumulators
    that are results besides the output. Operands of inner products, and what weights an accumulator, are "q", "k",
    "v", derived values or tensors [B, H or Hk, N or M, dim]. Columns are kept for each query head with
    `columns_per_head`, else for each key head.
    """

    module: AttentionModule
    head_dim: int
    value_dim: int
    itemsize: int
    parts: tuple[Part, ...]
    derived: tuple[Derived, ...]
    dots: tuple[DotTerm, ...]
    pair_dots: tuple[PairDot, ...]
    values: str
    score: Expr
    mask: Expr
    log2_score: bool
    sweeps: tuple[Sweep, ...]
    empty: Expr | None
    output: Expr | None
    aux: tuple[Binding, ...]
    facts: tuple[str, ...]
    saves: tuple[str, ...] = ()
    scatters: tuple[Scatter, ...] = ()
    columns_per_head: bool = False
    states: States | None = None
    #: Why full tiles cannot go through states; "" where they can.
    no_states: str = ""

    @property
    def columns(self) -> tuple[Accumulator, ...]:
        """The sums over queries of all sweeps."""
        return tuple(acc for sweep in self.sweeps for acc in sweep.columns)

    @property
    def saved(self) -> tuple[Accumulator, ...]:
        """The accumulators that are results besides the output."""
        return tuple(acc for acc in self.accumulators if acc.name in self.saves)

    def values_of(self, acc: Accumulator) -> str:
        """The key-side vectors that weight an accumulator."""
        return acc.by or self.values

    @property
    def accumulators(self) -> tuple[Accumulator, ...]:
        """Those of all sweeps."""
        return tuple(acc for sweep in self.sweeps for acc in sweep.accumulators)

    def mask_of(self, part: Part) -> Expr:
        """What a part keeps."""
        return self.mask if part.mask is None else part.mask

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The kernels that make up the attention: one, or one for each sweep of each part."""
        ends = self.output is not None
        if len(self.parts) == 1:
            sweeps = tuple(range(len(self.sweeps)))
            return (Stage(self.parts[0], sweeps, resumes=self.states is not None, finishes=ends),)
        last = (len(self.sweeps) - 1, len(self.parts) - 1)
        return tuple(
            Stage(part, (sweep,), resumes=number > 0, finishes=ends and (sweep, number) == last)
            for sweep in range(len(self.sweeps))
            for number, part in enumerate(self.parts)
        )
