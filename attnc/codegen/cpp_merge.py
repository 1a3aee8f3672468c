"""Split keys in C++: units leave the accumulators of a segment of their keys, and segments are merged in order."""

from __future__ import annotations

from attnc.codegen.cpp_emitter import CppEmitter
from attnc.codegen.cpp_levels import Val
from attnc.codegen.cpp_text import indented, padded_text
from attnc.ir.merge import merges, partial_ref
from attnc.ir.plan import Accumulator, Sweep


def state_size(sweep: Sweep) -> str:
    """Floats of the accumulators of all queries of a unit, as C++ text."""
    return " + ".join(_size(acc) for acc in sweep.accumulators)


def leave_lines(sweep: Sweep) -> list[str]:
    """Leave the accumulators of a segment."""
    lines = ["if (segment >= 0 && states) {", f"  float* to = states + segment * ({state_size(sweep)});"]
    for acc, place in _places(sweep):
        width = f" * {padded_text(acc.dim)}" if acc.weighted else ""
        lines.append(f"  memcpy(to + {place}, {acc.name}, 4 * used{width});")
    return [*lines, "  return;", "}"]


def merge_lines(sweep: Sweep, emitter: CppEmitter) -> list[str]:
    """Merge all segments into the accumulators, which are at the identity."""
    emitter.restart("run", "feature")
    stores: list[str] = []
    updates: list[str] = []
    for acc, place in _places(sweep):
        left, right = (partial_ref(acc, side).name for side in ("left", "right"))
        if acc.weighted:
            at = f"s * {padded_text(acc.dim)} + t * V"
            emitter.refs[left] = Val(f"ld({acc.name} + {at})", "feature", "real")
            emitter.refs[right] = Val(f"ldu(part + {place} + {at})", "feature", "real")
        else:
            emitter.refs[left] = Val(f"{acc.name}[s]", "run", "real")
            emitter.refs[right] = Val(f"part[{place} + s]", "run", "real")
    for merge in merges(sweep):
        acc = merge.accumulator
        value = emitter.emit(merge.value)
        if not acc.weighted:
            emitter.refs[acc.name] = value
            updates.append(f"{acc.name}[s] = {emitter.at(value, 'run')};")
            continue
        feature = emitter.restart("feature")[0]
        dim = padded_text(acc.dim)
        inside = [*feature.lines, f"st({acc.name} + s * {dim} + t * V, {emitter.at(value, 'feature')});"]
        stores += [f"for (int t = 0; t < {dim} / V; t++) {{", *indented(inside, 2), "}"]
    run = emitter.restart("run")[0]
    return [
        "for (int64_t n = 0; n < call.unit_states[2 * unit + 1]; n++) {",
        f"  const float* part = states + n * ({state_size(sweep)});",
        "  for (int s = 0; s < used; s++) {",
        *indented([*run.lines, *stores, *updates], 4),
        "  }",
        "}",
    ]


def _size(acc: Accumulator) -> str:
    return f"ROWS * {padded_text(acc.dim)}" if acc.weighted else "ROWS"


def _places(sweep: Sweep) -> list[tuple[Accumulator, str]]:
    """Accumulators and where they begin in a state."""
    found: list[tuple[Accumulator, str]] = []
    place = "0"
    for acc in sweep.accumulators:
        found.append((acc, place))
        place = f"{place} + {_size(acc)}"
    return found
