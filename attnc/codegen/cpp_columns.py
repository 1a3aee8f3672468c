"""Sums over queries in C++: one number or vector for each key, beside the sums over keys of the same pass.

Units that run at the same time may not add to the same key, so units are dealt out to strands. The units of a strand
run one after the other and add to columns of their own, [key tiles][floats of a tile]; then strands are summed in
order. Sums into tables have one table for each strand in the same way. So results depend on the number of strands,
which depends on the number of threads, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attnc.codegen.context import Arg
from attnc.codegen.cpp_emitter import CppEmitter
from attnc.codegen.cpp_text import function_text, indented, padded_text, sequence_lines, tensor_arguments
from attnc.codegen.states import column_key, scatter_key
from attnc.codegen.token_loads import plain_name
from attnc.ir.expr import Expr
from attnc.ir.plan import Accumulator, Scatter, Sweep

#: What strands pass to a unit besides the rest.
STRAND = ", float* columns, int64_t strand"


def weight_buffers(sweep: Sweep) -> dict[str, str]:
    """The buffer of the weights of each weighted sum by its name: sums with the same weights share one."""
    first: dict[tuple[Expr, bool], str] = {}
    weighted = [acc for acc in (*sweep.accumulators, *sweep.columns) if acc.weighted]
    return {acc.name: first.setdefault((acc.body, acc.needs_mask), f"w_{acc.name}") for acc in weighted}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a sweep; `heads` is the C++ name of the head that they are kept for."""

    accumulators: tuple[Accumulator, ...]
    heads: str

    @property
    def size(self) -> str:
        """Floats of a key tile, as C++ text."""
        return " + ".join(map(_size, self.accumulators)) or "0"

    def places(self) -> list[str]:
        """Lines that tell where the columns of key tile `at` are."""
        lines: list[str] = []
        place = f"columns + at * ({self.size})"
        for acc in self.accumulators:
            lines.append(f"float* const {acc.name} = {place};")
            place = f"{acc.name} + {_size(acc)}"
        return lines

    def sums(self, buffers: Mapping[str, str], strides: Mapping[str, str]) -> list[str]:
        """Lines that add a tile's weighted sums; `strides` are floats from one query to the next."""
        return [
            f"column_sum<{padded_text(acc.dim)}, {strides[acc.by]}>({buffers[acc.name]}, left_{plain_name(acc.by)}, "
            f"used, {acc.name});"
            for acc in self.accumulators
            if acc.weighted
        ]

    def args(self) -> list[Arg]:
        """The results."""
        return [
            arg
            for acc in self.accumulators
            for arg in tensor_arguments(column_key(acc), f"out_{acc.name}", 4 if acc.weighted else 3, "float")
        ]

    def function(self, stage: str) -> str:
        """The function that adds the columns of key tile `at` of all strands of a head to the results."""
        return function_text(
            f"static void {stage}_columns(const Call& call, int64_t group, int64_t hk, int64_t h, int64_t at, "
            "const float* columns, int64_t strands, int64_t strand_size)",
            [
                "@ARGS@",
                "const int64_t* seq = call.seqs + 8 * (group * call.seqs_per_group + call.col_seq[at]);",
                *sequence_lines(),
                *(line.replace("float* const", "const float* const") for line in self.places()),
                "for (int j = 0; j < KB; j++) {",
                "  const int64_t c = call.cols[at * KB + j];",
                "  if (c < 0) continue;",
                *indented([line for acc in self.accumulators for line in self._merged(acc)], 2),
                "}",
            ],
        )

    def _merged(self, acc: Accumulator) -> list[str]:
        stem = f"out_{acc.name}"
        place = f"{stem}_ptr + b * {stem}_s0 + {self.heads} * {stem}_s1 + (k_start + c) * {stem}_s2"
        if not acc.weighted:
            return [f"for (int64_t n = 0; n < strands; n++) *({place}) += {acc.name}[n * strand_size + j];"]
        at = f"{acc.name}[n * strand_size + j * {padded_text(acc.dim)} + d]"
        step = f"({place})[d * {stem}_s3] += {at};"
        return [f"for (int64_t n = 0; n < strands; n++) for (int d = 0; d < {acc.dim}; d++) {step}"]


def scatter_lines(emitter: CppEmitter, scatter: Scatter, body: str) -> list[str]:
    """Lines that add the vector `body` of a tile's pairs to the table of the strand; what is 0 is not added."""
    stem = _scatter_stem(scatter)
    place = emitter.element(scatter.target, stem, first_axis=1)
    where = emitter.at(place.where, "pair", wide=True)
    return [f"scatter({stem}_ptr + strand * {stem}_s0, {where}, {body}, {place.exists});"]


def scatter_args(scatter: Scatter) -> list[Arg]:
    """The tables of the strands: [strands, dimensions of the tensor]."""
    rank = 1 + len(scatter.target.indices)
    return tensor_arguments(scatter_key(scatter), _scatter_stem(scatter), rank, "float")


def _scatter_stem(scatter: Scatter) -> str:
    return f"table_{scatter.name}"


def _size(acc: Accumulator) -> str:
    return f"KB * {padded_text(acc.dim)}" if acc.weighted else "KB"
