"""Tree to typed modules: types, conversions, uses put in place, the parts of an attention."""

from __future__ import annotations

import pytest

from attnc.ir.expr import Call, Const, Exists, Expr, GridCoord, Index, Lookup, Reduce, Ref, Size, Value
from attnc.ir.module import AttentionModule, Range
from attnc.ir.printer import print_expr
from attnc.ir.traverse import walk
from attnc.ir.types import BOOL, INT, REAL, VectorType
from tests.unit.frontend.texts import MemoryLoader, checked, codes_of, errors_of, module_of

HEADER = "n: int = 3, w: int, flag: bool = true, r: real = 2, dyn: int dynamic, "
HEADER += "t: real[B, H, M], g: real[H], u: real[H, D], ids: int[B, M], rows: int[N]"


def _module(body: str) -> AttentionModule:
    """The module of an attention with plenty of parameters, not bound."""
    return checked(f"attention a({HEADER}) {{\n{body}\n}}").modules[0]


def _score(text: str) -> Expr:
    return _module(f"score {text}").score


def _mask(text: str) -> Expr:
    return _module(f"mask {text}").mask


# ---------------------------------------------------------------------------------- milestone


def test_causal_softmax() -> None:
    module = checked(
        """
        # Causal softmax attention.
        mask causal = j <= i
        attention causal { mask causal }
        """
    ).modules[0]
    scalar_s = Value("s", REAL)
    assert module.name == "causal"
    assert module.doc == "Causal softmax attention."
    assert module.mask == Call("le", (Index("j"), Index("i")), BOOL)
    dot = Call("dot", (Value("q", VectorType(Size("D"))), Value("k", VectorType(Size("D")))), REAL)
    assert module.score == Call("mul", (dot, Value("scale", REAL)), REAL)
    assert [binding.name for binding in module.cascade] == ["m", "p", "w"]
    assert module.cascade[0].expr == Reduce("max", "j", scalar_s, None, REAL)
    assert module.cascade[1].expr == Call("exp", (Call("sub", (scalar_s, Ref("m", REAL)), REAL),), REAL)
    assert module.value == Value("v", VectorType(Size("Dv")))
    assert module.output == Value("o", VectorType(Size("Dv")))
    assert [binding.name for binding in module.aux] == ["lse"]
    assert module.reads_scale


# -------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("i + 1", "real(i + 1)"),
        ("1 + 2.5", "1.0 + 2.5"),
        ("i / 2", "real(i) / 2.0"),
        ("abs(i - j) * r", "real(abs(i - j)) * r"),
        ("max(i, 0.5)", "max(real(i), 0.5)"),
        ("where(flag, 1, 2.5)", "where(flag, 1.0, 2.5)"),
        ("where(i < j, i, j)", "real(where(i < j, i, j))"),
        ("exp(2)", "exp(2.0)"),
        ("2 ^ n", "real(2 ^ n)"),
        ("r ^ n", "r ^ n"),
        ("r ^ (i - j)", "r ^ real(i - j)"),
        ("n ^ -0.5", "real(n) ^ (-0.5)"),
        ("int(r)", "real(int(r))"),
        ("real(n)", "real(n)"),
        ("floor(i / 3)", "floor(real(i) / 3.0)"),
        ("log(M)", "log(real(M))"),
        ("-g[h]", "-g[h]"),
        ("ids[b, j] % n", "real(ids[b, j] % n)"),
        ("dot(q, u[h])", "dot(q, u[h])"),
        ("dot(q * g[h] + 1, k)", "dot(q * g[h] + 1.0, k)"),
        ("sum[d](q * k) - mean[d](q)", "sum[d](q * k) - mean[d](q)"),
        ("n_keys - 1", "real(n_keys - 1)"),
        ("-3", "-3.0"),
        ("dot(where(flag, q, k), k)", "dot(where(flag, q, k), k)"),
    ],
)
def test_conversions_are_written_out(text: str, printed: str) -> None:
    assert print_expr(_score(text)) == printed


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("0 <= i - j < w", "0 <= i - j and i - j < w"),
        ("j <= i", "j <= i"),
        ("(not flag) or j <= i", "not flag or j <= i"),
        ("where(flag, j <= i, true)", "where(flag, j <= i, true)"),
        ("ids[b, i] == ids[b, j]", "ids[b, i] == ids[b, j]"),
        ("(i - j) % n == 0", "(i - j) % n == 0"),
        ("i // (2 * n) != j // 2", "i // (2 * n) != j // 2"),
        ("i & 3 == j & 3", "i & 3 == j & 3"),
        ("bit_length(i) > 2.5", "real(bit_length(i)) > 2.5"),
        ("h < H // 2", "h < H // 2"),
        ("r > 0", "r > 0.0"),
        ("i < dyn", "i < dyn"),
    ],
)
def test_conditions(text: str, printed: str) -> None:
    assert print_expr(_mask(text)) == printed


def test_a_middle_term_of_a_comparison_is_shared() -> None:
    mask = _mask("0 <= i - j < w")
    assert isinstance(mask, Call)
    left, right = mask.args
    assert isinstance(left, Call)
    assert isinstance(right, Call)
    assert left.args[1] is right.args[0]


def test_vectors() -> None:
    module = _module("q = concat(q, u[h])\nk = concat(k, k)\nout = normalize(o) * 2")
    assert print_expr(module.score) == "dot(concat(q, u[h]), concat(k, k)) * scale"
    assert module.output.type == VectorType(Size("Dv"))
    assert codes_of("attention a(x: real[M]) { score dot(q, x) }") == ["E303"]
    assert checked("attention a(x: real[2 * M], y: real[M]) { score dot(x, concat(y, y)) }").modules


# ---------------------------------------------------------------------------------------- uses


def test_uses_are_put_in_place() -> None:
    text = """
        def clamp(x: int, lo: int, hi: int) = min(max(x, lo), hi)
        mask window(size: int) = 0 <= i - j < size
        bias relative(table: real[H, 2*L - 1] learned, L: int) = table[h, clamp(i - j, 1 - L, L - 1) + L - 1]
        score softcap(cap: real) = cap * tanh(dot(q, k) * scale / cap)
        attention a(L: int = 4, tab: real[H, L + L - 1] learned) {
          mask  window(size: L) and not window(2)
          score softcap(50)
          bias  relative(tab, L)
          bias  1
        }
    """
    module = checked(text).modules[0]
    assert print_expr(module.mask) == "0 <= i - j and i - j < L and not (0 <= i - j and i - j < 2)"
    bias = "tab[h, min(max(i - j, 1 - L), L - 1) + L - 1]"
    assert print_expr(module.score) == f"50.0 * tanh(dot(q, k) * scale / 50.0) + {bias} + 1.0"


def test_arguments_may_be_any_expression_of_the_kind() -> None:
    text = """
        mask seen(last: int) = j <= last
        attention a(P: int[B], u: real[H, D], n: int dynamic) { mask seen(max(P[b], i + n)) }
    """
    assert print_expr(checked(text).modules[0].mask) == "j <= max(P[b], i + n)"


def test_a_vector_can_be_an_argument() -> None:
    text = """
        def norm2(x: real[D]) = dot(x, x)
        attention a(u: real[H, D], w: real[D]) { score norm2(q) + norm2(u[h]) + norm2(w) }
    """
    assert print_expr(checked(text).modules[0].score) == "dot(q, q) + dot(u[h], u[h]) + dot(w[], w[])"


def test_default_arguments() -> None:
    text = (
        "mask near(size: int = 2 * 8, past: bool = true) = past and i - j < size\nattention a { mask near() or near }"
    )
    assert print_expr(checked(text).modules[0].mask) == "true and i - j < 2 * 8 or true and i - j < 2 * 8"


def test_kinds_have_their_own_names() -> None:
    text = """
        mask causal = j <= i
        bias causal = i - j
        normalizer causal { w = s }
        attention causal { mask causal; bias causal + where(causal > 0, 1, 0); normalizer causal }
    """
    module = checked(text).modules[0]
    assert print_expr(module.mask) == "j <= i"
    assert print_expr(module.score) == "dot(q, k) * scale + (real(i - j) + real(where(real(i - j) > 0.0, 1, 0)))"


def test_parameters_hide_declarations() -> None:
    text = "mask causal = j <= i\nattention a(causal: bool = true) { mask not causal or j <= i }"
    assert print_expr(checked(text).modules[0].mask) == "not causal or j <= i"


def test_a_quantifier_does_not_capture_an_outer_one() -> None:
    text = """
        mask twice(x: int) = exists d in 0..3: x == 2 * d
        attention a { mask exists d in 1..5: twice(d + i) }
    """
    outer = checked(text).modules[0].mask
    assert isinstance(outer, Exists)
    assert isinstance(outer.body, Exists)
    assert outer.var != outer.body.var
    assert print_expr(outer.body.body) == f"{outer.var} + i == 2 * {outer.body.var}"


def test_features() -> None:
    text = """
        feature elu1(x) = elu(x) + 1
        feature scaled(x, c: real = 2) = c * x
        normalizer linear(phi: feature = elu1) { a = dot(phi(q), phi(k)); w = a / sum[j](a) }
        attention a { normalizer linear }
        attention c { normalizer linear(scaled) }
        attention e { normalizer linear(phi: relu) }
    """
    first = [print_expr(module.cascade[0].expr) for module in checked(text).modules]
    assert first == [
        "dot(elu(q) + 1.0, elu(k) + 1.0)",
        "dot(2.0 * q, 2.0 * k)",
        "dot(relu(q), relu(k))",
    ]


# ---------------------------------------------------------------------------------- attentions


def test_lets_and_token_maps_apply_in_order() -> None:
    module = _module("let a = i + 1\nlet c = a * 2\nmask j < c\nq = q * 2\nq = normalize(q)\nv = v * r\nk = rope(k, j)")
    assert print_expr(module.mask) == "j < (i + 1) * 2"
    assert print_expr(module.score).startswith("dot(normalize(q * 2.0, 1e-12), rope(k, j, 10000.0, 0, D, false))")
    assert print_expr(module.value) == "v * r"


def test_rope_has_all_its_options() -> None:
    module = _module("q = rope(q, i, theta: 500, start: 4, interleaved: flag)\nk = rope(k, j, dims = n)")
    assert "rope(q, i, 500.0, 4, D - 4, flag)" in print_expr(module.score)
    assert "rope(k, j, 10000.0, 0, n, false)" in print_expr(module.score)


def test_a_let_may_reduce_over_keys_for_the_score() -> None:
    module = _module("let z = mean[j](dot(q, k))\nscore dot(q, k) - z")
    assert print_expr(module.score) == "dot(q, k) - mean[j](dot(q, k))"
    assert codes_of("attention a { let z = sum[j](1.0)\n mask z > 0 }") == ["E209"]


def test_grids() -> None:
    module = _module("grid (t: 30, y: n, x: dyn) at w\nmask i.t == j.t and abs(i.x - j.x) < grid.x and i in grid")
    assert module.grid_q == module.grid_k
    assert module.grid_q is not None
    assert module.grid_q.names == ("t", "y", "x")
    assert [print_expr(extent) for extent in module.grid_q.extents] == ["30", "n", "dyn"]
    assert print_expr(module.grid_q.start) == "w"
    coordinates = [node for node in walk(module.mask) if isinstance(node, GridCoord)]
    assert [(node.side, node.axis) for node in coordinates] == [("q", 0), ("k", 0), ("q", 2), ("k", 2)]
    assert Call("in_grid", (Index("i"),), BOOL) in list(walk(module.mask))


def test_grids_of_two_sides() -> None:
    module = _module("grid q (y: 4)\ngrid k (y: 4, x: 5)\nmask i.y == j.y and j.x < grid.x - grid.y")
    assert module.grid_q is not None
    assert module.grid_k is not None
    assert (module.grid_q.names, module.grid_k.names) == (("y",), ("y", "x"))
    assert print_expr(module.mask).endswith("< 5 - 4")


def test_a_mask_may_speak_of_the_grid_of_its_user() -> None:
    text = """
        mask nearby(size: int) = abs(i.y - j.y) < min(size, grid.y)
        attention a { grid (x: 2, y: 3); mask nearby(2) }
    """
    coordinates = [node.axis for node in walk(checked(text).modules[0].mask) if isinstance(node, GridCoord)]
    assert coordinates == [1, 1]


def test_parameters() -> None:
    text = """
        attention a(n: int in [1, 64] = 8, r: real dynamic in (-inf, 0], t: real[B, 2*n - 1] learned,
                    ids: int[M] in [0, 32)) { mask i < n + ids[j]; bias r + t[b, 0] }
    """
    module = checked(text).modules[0]
    n, r = module.scalars
    assert (n.dynamic, n.default, n.range) == (False, Const(8, INT), Range(1, 64, high_open=False))
    assert (r.dynamic, r.default, r.range) == (True, None, Range(None, 0, low_open=True, high_open=False))
    assert [(tensor.name, tensor.learned) for tensor in module.tensors] == [("t", True), ("ids", False)]
    assert [print_expr(dim) for dim in module.tensor("t").dims] == ["B", "2 * n - 1"]
    assert module.tensor("ids").range == Range(0, 32)


def test_lookups_leave_at_most_one_dimension_open() -> None:
    score = _score("dot(q, u[h]) + t[b, h, j] + g[0]")
    found = [
        (node.tensor, str(node.type) if node.type == REAL else "vector")
        for node in walk(score)
        if isinstance(node, Lookup)
    ]
    assert found == [("u", "vector"), ("t", "real"), ("g", "real")]


@pytest.mark.parametrize(
    "read", "H: h, Hk: hk, H: h // 2, M: i, M: j - 1, N: i - 1, B: b, 2*N: i - j + N, 3: h, D: 0".split(", ")
)
def test_indices_that_fit_their_dimension(read: str) -> None:
    dim, index = read.split(": ")
    assert checked(f"attention a(x: real[{dim}]) {{ score x[{index}] }}").modules


@pytest.mark.parametrize("read", "H: hk, Hk: h, N: j, N: i - j, B: h, M: b, H: i".split(", "))
def test_indices_of_another_dimension(read: str) -> None:
    dim, index = read.split(": ")
    assert codes_of(f"attention a(x: real[{dim}]) {{ score x[{index}] }}") == ["E309"]


# --------------------------------------------------------------------------------- normalizers


def test_statistics_of_the_normalizer() -> None:
    normalizer = "normalizer n { let c = 2.0\n z = sum[j](s)\n w = s / z * c\n aux z = z\n aux big = max[j](s) }\n"
    names = {
        "attention a { normalizer n }": ["z", "big"],
        "attention a { normalizer n; aux big }": ["big"],
        "attention a { normalizer n; aux twice = 2 * z; aux z }": ["twice", "z"],
        "attention a { normalizer n; aux keys = n_keys }": ["keys"],
    }
    for text, expected in names.items():
        assert [binding.name for binding in checked(normalizer + text).modules[0].aux] == expected


def test_columns_groups_and_counts() -> None:
    text = """
        normalizer n {
          c = max[i](s)
          e = exp(s - c)
          g = sum[j by j // 64](e)
          t = count[j] + count[j](s > 0)
          w = e / g * t
          aux column = c
        }
        attention a { normalizer n }
    """
    cascade = {binding.name: binding.expr for binding in checked(text).modules[0].cascade}
    assert print_expr(cascade["c"]) == "max[i](s)"
    assert isinstance(cascade["g"], Reduce)
    assert print_expr(cascade["g"].group or Const(0, INT)) == "j // 64"
    assert cascade["t"].type == INT
    assert print_expr(cascade["t"]) == "count[j](true) + count[j](s > 0.0)"


def test_vector_bindings_stand_for_their_text() -> None:
    text = "normalizer n { a = exp(q)\n w = dot(a, exp(k)) }\nattention a { normalizer n }"
    cascade = checked(text).modules[0].cascade
    assert [(binding.name, print_expr(binding.expr)) for binding in cascade] == [("w", "dot(exp(q), exp(k))")]


def test_scale_is_read_only_where_it_reaches_the_weights() -> None:
    linear = "normalizer n { a = dot(q, k)\n w = a / sum[j](a) }\n"
    assert not checked(linear + "attention a { normalizer n }").modules[0].reads_scale
    assert checked("attention a { out = o * scale\n score dot(q, k) }").modules[0].reads_scale
    assert not checked("attention a { score dot(q, k) }").modules[0].reads_scale


# --------------------------------------------------------------------------------------- errors


def test_every_error_is_reported_and_none_follows() -> None:
    text = """
        mask bad = missing_name
        attention a {
          mask  bad and bad and unknown_too
          score dot(q, k) * nothing
          let   x = nothing_else
          bias  x + x
        }
    """
    titles = [diagnostic.title for diagnostic in errors_of(text)]
    assert titles == [f"unknown name `{name}`" for name in ("missing_name", "unknown_too", "nothing", "nothing_else")]


def test_an_error_in_a_used_text_names_the_use() -> None:
    (error,) = errors_of("mask strided(n: int) = i % n == 0\nattention a(n: int dynamic) { mask strided(n) }")
    assert error.primary is not None
    assert error.primary.span.text == "n"
    assert [(label.span.text, label.text) for label in error.secondary] == [("strided(n)", "used here")]


def test_unused_names_are_warned_of() -> None:
    text = """
        import std.extra (spare)
        mask window(size: int) = j <= i
        attention a(n: int = 1, used: int = 2) {
          let c = 3
          mask window(used)
        }
    """
    warnings = checked(text, MemoryLoader({"extra": "mask spare = j <= i"})).warnings
    assert [warning.title.split("`")[1] for warning in warnings] == ["spare", "size", "n", "c"]
    assert {warning.severity for warning in warnings} == {"warning"}


def test_bound_modules_have_no_parameters_left() -> None:
    module = module_of("attention a(w: int = 3, c: bool = true) { mask not c or i - j < 2 * w }")
    assert print_expr(module.mask) == "i - j < 6"
    assert module.scalars == ()
