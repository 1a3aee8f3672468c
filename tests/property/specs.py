"""Random attentions as text: every construct of the language that has a kernel, in random company.

What is drawn is well conditioned on purpose (no differences of nearly equal sums, no comparison of rounded numbers),
so that the rule for errors applies to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from attnc.drawing import Case, Layout
from tests.property.masks import GRID, affine_masks, masks

#: Parameters by name: a header declares those that its attention reads.
PARAMETERS = {
    "p": "p: int dynamic",
    "w": "w: int dynamic",
    "temper": "temper: real dynamic",
    "flag": "flag: bool dynamic",
    "cap": "cap: real = 4",
    "L": "L: int = 6",
    "len": "len: int[B] in [0, 40)",
    "seg": "seg: int[B, M]",
    "bucket": "bucket: int[N] in [0, 7)",
    "drop": "drop: bool[B, M]",
    "table": "table: int[H, 7]",
    "slope": "slope: real[H] in (0, 1]",
    "sink": "sink: real[H] learned",
    "rel": "rel: real[H, 2*L - 1] learned",
    "bias_k": "bias_k: real[B, M]",
    "bias_qk": "bias_qk: real[B, H, N, M]",
    "short": "short: real[7]",
    "u": "u: real[H, D] learned",
    "uk": "uk: real[Hk, D] learned",
    "e": "e: real[M, D]",
    "r": "r: real[H, 9, D]",
    "x": "x: real[B, H, N, 3]",
    "y": "y: real[B, Hk, M, 3]",
    "gain": "gain: real[B, Hk, M] in [0.5, 2]",
    "gate": "gate: real[B, H, N, Dv]",
    "gate_row": "gate_row: real[B, H, N]",
    "shift": "shift: real[H, Dv]",
}
_NEAR = "min(max(i - j, -4), 4) + 4"
_CLIPPED = "min(max(i - j, 1 - L), L - 1) + L - 1"


@dataclass(frozen=True)
class Spec:
    """A file with one attention."""

    text: str

    def __repr__(self) -> str:
        return f"\n{self.text}\n"

    def reads(self, *names: str) -> bool:
        """Whether one of these names occurs in the attention."""
        body = self.text[self.text.index("attention") :]
        return any(re.search(rf"\b{name}\b", body) for name in names)


# -- scores ----------------------------------------------------------------------------------------------------------

_products = st.sampled_from(
    [
        "dot(q, k) * scale",
        "scale * dot(k, q)",
        "dot(q, k) / 4",
        "temper * dot(q, k) * scale",
        "dot(q * 0.5, k + k) * scale",
        "dot(normalize(q), normalize(k)) * 3",
        "sum[d](q * k) * scale",
    ]
)
_EXTRAS = [
    "dot(u[h], k) * scale",
    "dot(q, u[h]) * scale",
    "dot(u[h], e[j]) * scale",
    "dot(q, e[j]) * scale",
    "-slope[h] * abs(i - j)",
    "slope[h] * (i - j) / 8",
    "rel[h, " + _CLIPPED + "]",
    "bias_k[b, j]",
    "bias_qk[b, h, i, j]",
    "short[bucket[i]]",
    "real(bucket[i] - 3) / (1 + abs(j))",
    f"dot(q, r[h, {_NEAR}]) * scale",
    f"dot(k, r[h, {_NEAR}]) * scale",
    f"dot(r[h, {_NEAR}], u[h]) / 4",
    "dot(rope(q, i - j, theta: 100), k) * scale",
    "max[d](k) / 4",
    "0.1 * sum[d](q)",
]
_around = st.sampled_from(
    [
        "cap * tanh({} / cap)",
        "-{}",
        "max({}, -1.5)",
        "softplus({})",
        "elu({})",
        "sin({})",
        "{} ^ 2 / 8",
        "sqrt(1 + {} ^ 2)",
        "log1p(abs({}))",
        "{} / (1 + abs({}))",
        "where({} > 0, {}, 0.1 * {})",
        "where(i == j, 0.5, {})",
        "where((i - j) % 2 == 0, {}, 0.7 * {})",
        "where(flag, {}, 0.5 * {})",
        "{} * log(1 + n_keys) / 2",
        "{} * (1 + real((i + j) % 3)) / 2",
    ]
)


@st.composite
def scores(draw: st.DrawFn, *, longer: bool) -> str:
    """A real per pair: inner products, biases, functions of them. `longer`: q and k have D + 3 features."""
    extras = [term for term in _EXTRAS if not (longer and re.search(r"\b(u|e|r|rope)\b", term))]
    text = " + ".join([draw(_products), *draw(st.lists(st.sampled_from(extras), max_size=2))])
    for around in draw(st.lists(_around, max_size=2)):
        text = around.replace("{}", f"({text})") if len(text) < 300 else text
    return text


# -- normalizers -----------------------------------------------------------------------------------------------------

_softmaxes = st.sampled_from(
    [
        "m = max[j](s); p = exp(s - m); w = p / sum[j](p); aux lse = m + log(sum[j](p))",
        "w = exp(s) / sum[j](exp(s))",
        "top = max[j](s); total = sum[j](exp(s - top)); w = exp(s - top) / total; aux total = total; aux top = top",
        "m = max[j](s); l = m + log(sum[j](exp(s - m))); w = exp(s - l); aux lse = l",
        "e = exp(-(max[j](s) - s)); w = e * (1 / sum[j](e))",
        "m = max[j](s); w = exp2(s - m) / sum[j](exp2(s - m))",
        "m = max[j](s / 2); p = exp(s / 2 - m); w = p / sum[j](p)",
        "m = max[j](2 * s + 1); p = exp(2 * s + 1 - m); w = p / sum[j](p); aux m = m",
        "m = min[j](s); p = exp(m - s); w = p / sum[j](p); aux m = m",
        "m = max[j](s); p = exp(s - m); z = sum[j](p); n = p / z; w = n * (1 + tanh(m)) + 0.25 / n_keys",
    ]
)
_sinks = st.sampled_from(
    [
        "m = max(max[j](s), sink[h]); p = exp(s - m); z = sum[j](p) + exp(sink[h] - m); w = p / z; aux l = m + log(z)",
        "m = max(max[j](s), 0); p = exp(s - m); w = p / (sum[j](p) + exp(-m))",
        "m = max[j](s); p = exp(s - m); w = p / (1 + sum[j](p))",
    ]
)
_elementwise = [
    "sigmoid(s)",
    "softplus(s)",
    "relu(s) + 0.1",
    "elu(s) + 1.1",
    "s ^ 2 + 0.1",
    "sqrt(s ^ 2 + 1)",
    "exp2(min(s, 4))",
]
_positive = st.sampled_from(_elementwise)
_sums = st.sampled_from(
    [
        "a = {}; w = a / sum[j](a)",
        "a = {}; w = a / sqrt(sum[j](a * a))",
        "a = {}; w = a / M",
        "a = {}; w = a / n_keys; aux mean = mean[j](a)",
        "a = {}; z = sum[j](a); w = (1 + 1 / z) * a - z / (4 * n_keys); aux z = z",
        "a = {}; w = 2 * a / sum[j](a + 1) + 1 / n_keys; aux n = real(n_keys)",
        "a = {}; w = a / max[j](a) / n_keys; aux low = min[j](a)",
        "a = {}; w = where(n_keys > 3, a / sum[j](a), a)",
        "a = {}; w = a / (1 + count[j](j <= i - 2))",
        "a = {}; w = a / (sum[j](a) + sum[j](real(j % 3)))",
    ]
)
_linear = st.sampled_from(
    ["w = s / n_keys; aux total = sum[j](s)", "w = s / (1 + sum[j](abs(s)))", "w = sigmoid(s - log(M))"]
)
_two_sweeps = st.sampled_from(
    [
        "a = softplus(s); n = a / sum[j](a); x = relu(n_keys * n - 0.5); y = (x / max[j](x)) ^ 3; w = y / sum[j](y)",
        "m = max[j](s); p = exp(s - m); n = p / sum[j](p); y = n ^ 2; w = y / sum[j](y)",
        "c = s - mean[j](s); z = c / sqrt(mean[j](c * c) + 1); m = max[j](z); p = exp(z - m); w = p / sum[j](p)",
        "m = max[j](s); p = exp(s - m); n = p / sum[j](p); y = exp(3 * n); w = y / sum[j](y); aux z = sum[j](p)",
        "a = sigmoid(s); z = sum[j](a); w = tanh(a / z) + a / (1 + z)",
    ]
)  # fmt: skip


def _filled(template: str, body: str) -> str:
    return template.replace("{}", body)


cascades = st.one_of(_softmaxes, _sinks, st.builds(_filled, _sums, _positive), _linear, _two_sweeps)

# -- fields ----------------------------------------------------------------------------------------------------------

_plain_masks = st.sampled_from(
    [
        "",
        "j <= i",
        "0 <= i - j < w",
        "abs(i - j) <= 3",
        "j < len[b] and j <= i",
        "j < len[b] or j <= i",
        "j <= i and (j < 3 or i - j < w)",
        "drop[b, j]",
        "seg[b, i] == seg[b, j]",
        "seg[b, i] == seg[b, j] and j <= i",
        "i // 5 == j // 5",
        "i.y == j.y",
        "h % 2 == 0 or j <= i",
        "flag or j <= i",
        "len[b] > 20 or j <= i",
    ]
)
_all_masks = st.one_of(_plain_masks, _plain_masks, affine_masks.map(str), masks.map(str))
_LONGER = "q = concat(q, x[b, h, i]); k = concat(k, y[b, hk, j])"
_token_maps = st.lists(
    st.sampled_from(
        [
            "q = rope(q, i, theta: 100); k = rope(k, j, theta: 100)",
            "q = rope(q, i, theta: 50, dims: 2); k = rope(k, j, theta: 50, dims: 2)",
            "q = rope(q, i, interleaved: true); k = rope(k, j, interleaved: true)",
            "q = normalize(q)",
            "k = normalize(k)",
            "q = q + u[h]",
            "k = k * uk[hk]",
            "k = k + e[j]",
            "q = elu(q) + 1; k = elu(k) + 1",
        ]
    ),
    max_size=2,
    unique=True,
)
_value_maps = st.sampled_from(
    ["", "", "v = relu(v)", "v = v * gain[b, hk, j]", "v = v / (1 + abs(j) % 3)", "v = tanh(v)"]
)
_outputs = st.sampled_from(
    [
        "",
        "",
        "out = o * sigmoid(gate[b, h, i])",
        "out = o * gate_row[b, h, i]",
        "output o + shift[h]",
        "out = 2 * tanh(o)",
        "out = o / (1 + n_keys)",
        "out = where(i % 2 == 0, o, -o)",
    ]
)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """A file with a normalizer and an attention."""
    cascade = draw(cascades)
    fields = draw(st.one_of(_token_maps, st.just([_LONGER])))
    value = draw(_value_maps)
    score, mask, output = draw(scores(longer=_LONGER in fields)), draw(_all_masks), draw(_outputs)
    lines = [*fields, value, f"score {score}", f"mask {mask}" if mask else "", _normalizer_use(cascade), output]
    body = "".join(f"  {line}\n" for line in "; ".join(filter(None, lines)).split("; "))
    return Spec(f"{_normalizer(cascade)}\nattention a({_header(body)}) {{\n{_grid(body)}{body}}}\n")


def _normalizer(cascade: str) -> str:
    lines = "".join(f"  {line}\n" for line in cascade.split("; "))
    params = "(sink: real[H])" if "sink" in cascade else ""
    return f"normalizer n{params} {{\n{lines}}}"


def _normalizer_use(cascade: str) -> str:
    return "normalizer n(sink)" if "sink" in cascade else "normalizer n"


def _header(body: str) -> str:
    read = [name for name in PARAMETERS if re.search(rf"\b{name}\b", body)]
    if "rel" in read and "L" not in read:
        read.append("L")
    return ", ".join(PARAMETERS[name] for name in read)


def _grid(body: str) -> str:
    extents = ", ".join(f"{name}: {extent}" for name, extent in GRID.items())
    return f"  grid ({extents}) at 0\n" if re.search(r"\b[ij]\.[xy]\b", body) else ""


# -- calls -----------------------------------------------------------------------------------------------------------

_heads = st.sampled_from([(1, 1), (2, 1), (2, 2), (3, 1), (4, 2)])
_layouts: st.SearchStrategy[Layout] = st.sampled_from(["contiguous", "transposed", "expanded", "sliced", "stepped"])
_lengths = st.one_of(st.integers(1, 40), st.sampled_from([1, 2, 15, 16, 17, 33]))


@st.composite
def cases(draw: st.DrawFn, spec: Spec) -> Case:
    """A small call of a spec."""
    sizes = _sizes(draw, spec)
    packed = draw(st.sampled_from([False, False, False, True]))
    heads, key_heads = draw(_heads)
    batch = 1 if packed else draw(st.sampled_from([1, 1, 2]))
    layouts = tuple(draw(_layouts) for _ in range(3)) if draw(st.booleans()) else ("contiguous",) * 3
    options: dict[str, Any] = _packing(draw, spec) if packed else _positions(draw, spec, batch)
    return Case(
        dtype=draw(st.sampled_from(["fp32", "fp32", "fp16"])),
        batch=batch,
        heads=heads,
        key_heads=key_heads,
        layouts=layouts,  # type: ignore[arg-type]
        scale=0.3 if spec.reads("scale") and draw(st.booleans()) else None,
        dynamic=_dynamic(draw, spec),
        ints=(-3, 4),
        ordered=draw(st.booleans()),
        wide=draw(st.booleans()),
        seed=draw(st.integers(0, 3)),
        **sizes,
        **options,
    )


def _sizes(draw: st.DrawFn, spec: Spec) -> dict[str, int]:
    """Head dimensions; vectors that depend on both positions cost a loop over the features, rotations need pairs."""
    dims = [2, 8] if spec.reads("r", "rope") else [1, 5, 8, 16, 24]
    return {"head_dim": draw(st.sampled_from(dims)), "value_dim": draw(st.sampled_from([1, 4, 16, 20]))}


def _positions(draw: st.DrawFn, spec: Spec, batch: int) -> dict[str, Any]:
    n = draw(_lengths)
    if spec.reads("seg"):  # read at positions of queries: they are some of the keys
        start = draw(st.integers(-3, 3))
        return {"queries": n, "keys": n + 4, "q_offset": start + draw(st.integers(0, 4)), "k_offset": start}
    m = n if draw(st.booleans()) else draw(st.one_of(_lengths, st.just(0)))
    places: list[Any] = [0, 0, draw(st.integers(-20, 40)), tuple(draw(st.integers(-9, 9)) for _ in range(batch))]
    return {
        "queries": n,
        "keys": m,
        "q_offset": draw(st.sampled_from([*places, "end"])),
        "k_offset": draw(st.sampled_from(places)),
    }


def _packing(draw: st.DrawFn, spec: Spec) -> dict[str, Any]:
    alike = spec.reads("seg", "bias_qk") or draw(st.booleans())
    rows = draw(st.lists(st.integers(0, 20), min_size=1, max_size=4))
    documents = tuple((n, n if alike else draw(st.integers(0, 20))) for n in rows)
    options = {} if spec.reads("seg") else {"q_offset": draw(st.sampled_from([0, 0, 3, "end"]))}
    return {
        "documents": documents,
        "queries": sum(n for n, _ in documents),
        "keys": sum(m for _, m in documents),
        **options,
    }


def _dynamic(draw: st.DrawFn, spec: Spec) -> tuple[tuple[str, bool | int | float], ...]:
    values: dict[str, st.SearchStrategy[Any]] = {
        "p": st.integers(-10, 30),
        "w": st.integers(-2, 30),
        "temper": st.sampled_from([0.25, 1.0, 1.7]),
        "flag": st.booleans(),
    }
    return tuple((name, draw(value)) for name, value in values.items() if spec.reads(name))
