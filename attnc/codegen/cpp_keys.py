"""How a unit of emitted C++ reads keys and values: packed tile by tile, or, for few queries, where they lie.

Both ways give lines that make one tile ready, the call that multiplies all queries with its keys, and the one
that sums its values. Keys that the mask removes by themselves count as zeros and are never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from attnc.codegen.cpp_text import function_text, indented, padded_text, sequence_lines
from attnc.codegen.token_loads import plain_name
from attnc.ir.plan import Accumulator, DotTerm


@dataclass(frozen=True, slots=True)
class Operand:
    """Vectors of keys: their number of features, C++ element type, tensor, and the address of key `c`."""

    name: str
    dim: int
    type: str
    stem: str
    address: str


class Keys(Protocol):
    """A way to read the operands of a stage: first those of inner products, then what weights sums."""

    @property
    def operands(self) -> tuple[Operand, ...]:
        """All of them."""
        ...

    @property
    def sizes(self) -> tuple[str, ...]:
        """Floats per packed tile of each operand; none where nothing is packed."""
        ...

    def prepare(self, alive: list[str]) -> str:
        """The function that makes a tile ready; `alive` are lines that tell whether key `c` takes part."""
        ...

    def left_stride(self, dim: int) -> str:
        """Floats from one query to the next."""
        ...

    def buffers(self) -> list[str]:
        """What a unit declares."""
        ...

    def ready(self, head: str) -> list[str]:
        """Lines that make tile `at` ready."""
        ...

    def dot(self, term: DotTerm, spans: str, /) -> str:
        """Inner products of all queries, at least of the columns in `spans`."""
        ...

    def sums(self, acc: Accumulator, weights: str, by: str, spans: str, /) -> str:
        """Weighted sums for all queries: of the values `by`."""
        ...


def _number(operands: tuple[Operand, ...], name: str) -> int:
    return next(n for n, operand in enumerate(operands) if operand.name == name)


def _value_number(operands: tuple[Operand, ...], name: str, rights: int) -> int:
    return rights + _number(operands[rights:], name)


def _over_keys(absent: list[str], alive: list[str], present: list[str]) -> list[str]:
    return [
        "for (int j = 0; j < KB; j++) {",
        "  const int64_t c = call.cols[tile * KB + j];",
        "  if (c < 0) {",
        *indented([*absent, "continue;"], 4),
        "  }",
        *indented([*alive, *present], 2),
        "}",
    ]


_OF_TILE = (
    "const Call& call, int64_t group, int64_t hk, int64_t h, int64_t tile",
    "const int64_t* seq = call.seqs + 8 * (group * call.seqs_per_group + call.col_seq[tile]);",
)


@dataclass(frozen=True)
class PackedKeys:
    """Blocks of [D][NR] for inner products, of [KB][NR] for sums, all in float32.

    The first `rights` operands are those of inner products. `padded`: queries are rows of whole vectors too.
    """

    stage: str
    operands: tuple[Operand, ...]
    rights: int
    padded: bool

    @property
    def sizes(self) -> tuple[str, ...]:
        return tuple(f"KB * {x.dim if n < self.rights else padded_text(x.dim)}" for n, x in enumerate(self.operands))

    def prepare(self, alive: list[str]) -> str:
        rights = self.operands[: self.rights]
        values = [(x, f"packed[{n}]") for n, x in enumerate(self.operands)][self.rights :]
        zeros = [f"memset(rows{n} + j * {x.dim}, 0, 4 * {x.dim});" for n, x in enumerate(rights)]
        zeros += [
            f"read_values<{padded_text(x.dim)}>({to}, j, ({x.type}*)nullptr, 1, {x.dim}, false);" for x, to in values
        ]
        loads = [f"read_row(rows{n} + j * {x.dim}, {x.address}, {x.stem}_s3, {x.dim}, {x.dim}, alive);"
                 for n, x in enumerate(rights)]  # fmt: skip
        loads += [f"read_values<{padded_text(x.dim)}>({to}, j, {x.address}, {x.stem}_s3, {x.dim}, alive);"
                  for x, to in values]  # fmt: skip
        return function_text(
            f"static void {self.stage}_pack({_OF_TILE[0]}, float* const* packed)",
            [
                "@ARGS@",
                _OF_TILE[1],
                *sequence_lines(),
                *(f"alignas(64) float rows{n}[KB * {x.dim}];" for n, x in enumerate(rights)),
                *_over_keys(zeros, alive, loads),
                *(f"pack_keys<{x.dim}>(packed[{n}], rows{n});" for n, x in enumerate(rights)),
            ],
        )

    def left_stride(self, dim: int) -> str:
        return padded_text(dim) if self.padded else str(dim)

    def buffers(self) -> list[str]:
        own = ", ".join(f"own{n}" for n in range(len(self.operands)))
        return [*(f"alignas(64) float own{n}[{size}];" for n, size in enumerate(self.sizes)),
                f"float* const own[] = {{{own}}};"]  # fmt: skip

    def ready(self, head: str) -> list[str]:
        return [
            f"float* const* packed = own; float* tiles[{len(self.operands)}];",
            "if (call.shared) {",
            *(f"  tiles[{n}] = shared[{n}] + at * {size};" for n, size in enumerate(self.sizes)),
            "  packed = tiles;",
            f"}} else {self.stage}_pack(call, group, hk, {head}, at, own);",
        ]

    def _next(self, number: int) -> str:
        """What is read after an operand: the next one, or, after the last, the first of the next tile."""
        after = (number + 1) % len(self.operands)
        dim = self.sizes[after].removeprefix("KB * ")
        tile = f"packed[{after}]" if after else f"packed[0] + (call.shared ? run[2] * {self.sizes[0]} : 0)"
        return f"Ahead{{{tile}, {dim}}}"

    def dot(self, term: DotTerm, spans: str, /) -> str:
        stride, number = self.left_stride(term.dim), _number(self.operands, term.right)
        return (f"inner_products<MR, {term.dim}, {stride}>(left_{plain_name(term.left)}, packed[{number}], "
                f"s_{term.name}, used, {self._next(number)}, {spans});")  # fmt: skip

    def sums(self, acc: Accumulator, weights: str, by: str, spans: str, /) -> str:
        dim = padded_text(acc.dim)
        number = _value_number(self.operands, by, self.rights)
        return (f"weighted_sum<MR, {dim}>({weights}, packed[{number}], f_{acc.name}, {acc.name}, used, "
                f"{self._next(number)}, {spans});")  # fmt: skip


@dataclass(frozen=True)
class StridedKeys:
    """Rows of tensors whose features are next to each other; `rows` queries at a time meet every key once."""

    stage: str
    operands: tuple[Operand, ...]
    rights: int
    rows: int
    sizes: tuple[str, ...] = ()

    @property
    def _group(self) -> str:
        """Queries that are multiplied at a time, as C++ text."""
        return f"({self.rows} < V ? {self.rows} : V)"

    @property
    def _groups(self) -> str:
        return f"for (int first = 0; first < used; first += {self._group}) "

    def prepare(self, alive: list[str]) -> str:
        parameters = "".join(f", const {x.type}** rows{n}" for n, x in enumerate(self.operands))
        nothing = [f"rows{n}[j] = (const {x.type}*)zeros;" for n, x in enumerate(self.operands)]
        found = [f"rows{n}[j] = alive ? {x.address} : (const {x.type}*)zeros;" for n, x in enumerate(self.operands)]
        longest = max(x.dim for x in self.operands)
        return function_text(
            f"static void {self.stage}_rows({_OF_TILE[0]}{parameters})",
            [
                "@ARGS@",
                f"static const float zeros[{longest}] = {{}};",
                _OF_TILE[1],
                *sequence_lines(),
                *_over_keys(nothing, alive, found),
            ],
        )

    def left_stride(self, dim: int) -> str:
        return padded_text(dim)

    def buffers(self) -> list[str]:
        return []

    def ready(self, head: str) -> list[str]:
        names = "".join(f", rows{n}" for n in range(len(self.operands)))
        return [
            *(f"const {x.type}* rows{n}[KB];" for n, x in enumerate(self.operands)),
            f"{self.stage}_rows(call, group, hk, {head}, at{names});",
        ]

    def dot(self, term: DotTerm, _spans: str, /) -> str:
        number = _number(self.operands, term.right)
        after = number + 1
        return (f"{self._groups}row_products<{self._group}, {term.dim}, {self.operands[after].dim}>"
                f"(left_{plain_name(term.left)} + first * {padded_text(term.dim)}, rows{number}, rows{after}, "
                f"s_{term.name} + first * KB);")  # fmt: skip

    def sums(self, acc: Accumulator, weights: str, by: str, _spans: str, /) -> str:
        first, number = self.operands[0], _value_number(self.operands, by, self.rights)
        return (
            f"{self._groups}row_sums<{self._group}, {acc.dim}, {first.dim}>"
            f"({weights} + first * KB, rows{number}, rows0, "
            f"KB * {first.stem}_s2, f_{acc.name} + first, {acc.name} + first * {padded_text(acc.dim)});"
        )
