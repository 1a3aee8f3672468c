"""The index map of a visit: one loop over all its pieces."""

from __future__ import annotations

from attnc.codegen.code import Block, Code
from attnc.codegen.emitter import Emitter
from attnc.ir.expr import TRUE, Expr
from attnc.ir.plan import Piece, Visit


def piece_lines(emitter: Emitter, visit: Visit) -> tuple[list[str], str, list[str]]:
    """Lines before the loop, the text of the number of tiles, lines that compute `key_tile` from the counter `t`."""
    outer = emitter.outer
    emitter.outer = Block(memo={**outer.memo, **emitter.pieces.memo})
    starts: list[str] = []
    counts: list[str] = []
    for n, piece in enumerate(visit.pieces):
        start, count = _piece(emitter, piece, f"{visit.kind}{n}")
        starts.append(start)
        counts.append(count)
    lines = emitter.outer.lines
    emitter.pieces.memo = emitter.outer.memo
    emitter.outer = outer
    return lines, _total(lines, visit.kind, counts), _index(visit, starts, counts)


def _piece(emitter: Emitter, piece: Piece, name: str) -> tuple[str, str]:
    low = _value(emitter, piece.low)
    high = _value(emitter, piece.high)
    step = "" if piece.step == 1 else f" // {piece.step}"
    start, count = f"{name}_low", f"{name}_count"
    emitter.outer.lines.append(f"{start} = {low.text}")
    length = f"({high.tight} - {start} + {piece.step}){step}"
    text = f"tl.maximum({length}, 0)"
    if piece.guard != TRUE:
        text = f"tl.where({emitter.emit(piece.guard).text}, {text}, 0)"
    emitter.outer.lines.append(f"{count} = {text}")
    return start, count


def _value(emitter: Emitter, expr: Expr) -> Code:
    code = emitter.emit(expr)
    return Code(f"{code.tight}.to(tl.int32)", wide=False) if code.wide else code


def _total(lines: list[str], kind: str, counts: list[str]) -> str:
    if len(counts) == 1:
        return counts[0]
    lines.append(f"{kind}_total = {' + '.join(counts)}")
    return f"{kind}_total"


def _index(visit: Visit, starts: list[str], counts: list[str]) -> list[str]:
    """t runs over the first piece, then the second, and so on."""

    def tile(n: int, done: str) -> str:
        t = f"(t - ({done}))" if done else "t"
        step = visit.pieces[n].step
        return f"{starts[n]} + {t}" + ("" if step == 1 else f" * {step}")

    text = tile(len(starts) - 1, " + ".join(counts[:-1]))
    for n in reversed(range(len(starts) - 1)):
        text = f"tl.where(t < {' + '.join(counts[: n + 1])}, {tile(n, ' + '.join(counts[:n]))}, {text})"
    return [f"key_tile = {text}"]
