"""Static masks on a line, as their papers or published code build them; nothing of attnc.

Sources: Longformer, BigBird (ITC), Sparse Transformer, PowerAttention, dkernel (Phi-3-small), DuoAttention, MoA,
LongLoRA, BlockRank, NAAViT and SAISA, Region Attention Transformer, graphs. Layouts of blocks are tables, made as the
published code makes them and then looked up, and not the closed forms of stdlib/.
"""

from __future__ import annotations

from tests.oracles.dense import Mechanism, Problem


def _row(p: Problem, name: str, b: int, position: int) -> int:
    """tensor[b] at an absolute position."""
    return p.tensors[name][b, position - p.j[b][0]].item()


def _keys(p: Problem) -> int:
    return p.k.shape[2]


# ------------------------------------------------------------------------------ windows and global tokens


def longformer(p: Problem, b: int, i: int, j: int) -> bool:
    one_sided = p.params.get("window", 256)
    if _row(p, "is_global", b, i) or _row(p, "is_global", b, j):
        return True
    return j in range(i - one_sided, i + one_sided + 1)


def duo(p: Problem, _b: int, h: int, i: int, j: int) -> bool:
    past = list(range(i + 1))
    if not p.tensors["full"][h // p.group]:
        sink, recent = p.params.get("sink", 64), p.params.get("recent", 256)
        past = past[:sink] + past[max(sink, len(past) - recent) :]
    return j in past


def strided(p: Problem, _b: int, i: int, j: int) -> bool:
    stride = p.params["stride"]
    columns = set(range(i, -1, -stride))
    if p.params.get("merged", False):
        columns |= set(range(max(i - stride, 0), i + 1))  # the paper's A(1), from i - l on
    return j in columns


def power(p: Problem, _b: int, i: int, j: int) -> bool:
    jumps = {0, *(2**e for e in range(40))}
    near = range(i - p.params.get("window", 1) + 1, i + 1)
    return j <= i and (i - j in jumps or j in near or j < p.params.get("sink", 1))


def naavit(p: Problem, b: int, i: int, j: int) -> bool:
    from_image, of_image = bool(_row(p, "visual", b, i)), bool(_row(p, "visual", b, j))
    if from_image:
        return j <= i and not of_image and not p.params.get("frozen", False)
    return j <= i


def region(p: Problem, b: int, i: int, j: int) -> bool:
    return _row(p, "id", b, i) == _row(p, "id", b, j)


def graph(p: Problem, b: int, i: int, j: int) -> bool:
    first = p.j[b][0]
    table = p.tensors["adjacency"][b].clone()
    if p.params.get("self_loops", False):
        table.fill_diagonal_(True)
    return bool(table[i - first, j - first])


# ---------------------------------------------------------------------------------------------- blocks


def bigbird(p: Problem, _b: int, h: int, i: int, j: int) -> bool:
    block = p.params.get("block", 16)
    blocks = _keys(p) // block
    row = i // block
    if row in (0, blocks - 1):
        return True
    window = [row - 1, row, row + 1]
    return j // block in [0, blocks - 1, *window, *p.tensors["random_table"][h, row].tolist()]


def fixed(p: Problem, _b: int, h: int, i: int, j: int) -> bool:
    block, stride, num_verts, vertsize = (
        p.params.get(key, default) for key, default in (("block", 32), ("stride", 4), ("num_verts", 4), ("vertsize", 1))
    )
    backwards = list(range(stride - 1, -1, -1))
    groups = [backwards[start : start + vertsize] for start in range(0, stride, vertsize)]
    row, column = i // block, j // block
    first = row // stride * stride
    layout = {*range(first, first + stride)}
    for index in groups[h % num_verts]:
        layout |= set(range(index, row + 1, stride))
    if column > row or column not in layout:
        return False
    return column < row or j % block <= i % block


def power_block(p: Problem, _b: int, i: int, j: int) -> bool:
    block = p.params.get("block", 256)
    distance = i // block - j // block
    if distance < 0 or j > i:
        return False
    first, near = j // block < p.params.get("sink", 1), distance < p.params.get("window", 5)
    return first or near or bin(distance).count("1") <= 1


def s2(p: Problem, _b: int, h: int, i: int, j: int) -> bool:
    block, local, stride, step, offset, dense = (
        p.params.get(key, default)
        for key, default in (("block", 64), ("local", 4), ("stride", 4), ("step", 1), ("offset", 0), ("dense", 0))
    )
    sparse_heads = p.k.shape[1] - dense
    head, column, row = h // p.group, j // block, i // block
    vertical = (column + head * step + offset) % stride == 0 if head < sparse_heads else True
    return row >= column and (row - column < local or vertical) and j <= i


def moa(p: Problem, _b: int, h: int, i: int, j: int) -> bool:
    block = p.params.get("block", 64)
    blocks = _keys(p) // block
    band = int(p.tensors["alpha"][h].item() // block + p.tensors["beta"][h].item() * blocks)
    band = max(2 * band - 1, 1)  # the whole band, both sides; odd
    row, column = i // block, j // block
    in_band = column in range(row - band // 2, row + band // 2 + 1)
    return j <= i and (in_band or column == 0)


def long_lora(p: Problem, _b: int, h: int, i: int, j: int) -> bool:
    group, n = p.params["group"], _keys(p)
    if h < p.q.shape[1] // 2:
        return i // group == j // group and j <= i
    if p.params.get("rolled", False):
        rolled = [*range(group // 2, n), *range(group // 2)]  # torch.roll(tokens, -group // 2)
        row, column = rolled.index(i), rolled.index(j)
        return row // group == column // group and column <= row
    starts = [0, *range(group // 2, n + group, group)]
    ends = [*starts[1:], n + 2 * group]
    return any(start <= j <= i < end for start, end in zip(starts, ends, strict=True))


def block_rank(p: Problem, _b: int, i: int, j: int) -> bool:
    block, blocks = p.params["block"], p.params["blocks"]
    row, column = i // block, j // block
    same = row == column and i % block >= j % block
    to_instruction = row != 0 and column == 0
    from_query = row == blocks - 1 and column != blocks - 1
    return same or to_instruction or from_query


PATTERNS: dict[str, Mechanism] = {
    "longformer": Mechanism(longformer),
    "bigbird": Mechanism(keep_in_head=bigbird),
    "strided": Mechanism(strided),
    "fixed": Mechanism(keep_in_head=fixed),
    "power": Mechanism(power),
    "power_block": Mechanism(power_block),
    "s2": Mechanism(keep_in_head=s2),
    "duo": Mechanism(keep_in_head=duo),
    "moa": Mechanism(keep_in_head=moa),
    "long_lora": Mechanism(keep_in_head=long_lora),
    "block_rank": Mechanism(block_rank),
    "naavit": Mechanism(naavit),
    "region": Mechanism(region),
    "graph": Mechanism(graph),
}
