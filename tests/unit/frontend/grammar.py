"""Texts of the language, drawn at random: every construct, odd spaces, comments and line breaks."""

from __future__ import annotations

from hypothesis import strategies as st

NAMES = st.sampled_from(("x", "size", "table", "m", "phi", "at", "by", "learned", "state", "q", "i", "j", "h"))
GAPS = st.sampled_from(("", " ", "  "))
#: Between tokens inside brackets: a line end and a comment change nothing there.
WIDE_GAPS = st.sampled_from(("", " ", "\n", "  # why\n ", "\n\n"))
OPERATORS = st.sampled_from(("+", "-", "*", "/", "//", "%", "^", "&", "@"))
COMPARISONS = st.sampled_from(("<", "<=", ">", ">=", "==", "!="))


def _join(*parts: object) -> st.SearchStrategy[str]:
    """The parts with random gaps; a part is a text or a strategy of texts."""
    strategies = [part if isinstance(part, st.SearchStrategy) else st.just(str(part)) for part in parts]
    interleaved = [strategies[0], *(each for part in strategies[1:] for each in (GAPS, part))]
    return st.tuples(*interleaved).map("".join)


def _words(*parts: object) -> st.SearchStrategy[str]:
    """The parts with a space between them: keywords must not run into names."""
    strategies = [part if isinstance(part, st.SearchStrategy) else st.just(str(part)) for part in parts]
    return st.tuples(*strategies).map(" ".join)


def _listed(items: st.SearchStrategy[str], least: int = 1) -> st.SearchStrategy[str]:
    return st.tuples(st.lists(items, min_size=least, max_size=3), WIDE_GAPS).map(
        lambda pair: f",{pair[1]}".join(pair[0])
    )


LEAVES = st.one_of(NAMES, st.sampled_from(("0", "1", "42", "2.5", "1e-3", "true", "false", "grid.t", "i.t", "scale")))


def _compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    argument = st.one_of(inner, _join(NAMES, st.sampled_from((":", "=")), inner))
    return st.one_of(
        _join("(", WIDE_GAPS, inner, WIDE_GAPS, ")"),
        _join("(", inner, OPERATORS, inner, ")"),
        _join("-", NAMES),
        st.tuples(inner, OPERATORS, inner).map(lambda t: f"({t[0]}) {t[1]}({t[2]})"),
        st.tuples(LEAVES, COMPARISONS, LEAVES, COMPARISONS, LEAVES).map(" ".join).map("({})".format),
        st.tuples(inner, st.sampled_from(("and", "or")), inner).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
        inner.map("(not {})".format),
        _join(NAMES, "(", WIDE_GAPS, _listed(argument), ")"),
        _join(NAMES, "[", _listed(inner), "]"),
        _join("sum[j](", inner, ")"),
        _join("sum[j by ", inner, "](", inner, ")"),
        inner.map("(exists d in 0 .. 4:{})".format),
        st.just("i in grid"),
    )


EXPRESSIONS = st.recursive(LEAVES, _compound, max_leaves=8)
TYPES = st.one_of(
    st.sampled_from(("int", "real", "bool", "feature")),
    _join(
        st.sampled_from(("int", "real")),
        "[",
        _listed(st.sampled_from(("B", "H", "2*L - 1", "2 * L-1", "(N + 1) // 2"))),
        "]",
    ),
)
RANGES = st.sampled_from(("", " in [0, 32)", " in (-inf , 0]", " in [1, n]", " in [a - 1,min( n,2*n ) )"))
MODIFIERS = st.sampled_from(("", " learned", " dynamic", " static"))
PARAMS = st.tuples(NAMES, TYPES, MODIFIERS, RANGES, st.sampled_from(("", " = 3", "=-1.5"))).map(
    lambda t: f"{t[0]}:{t[1]}{t[2]}{t[3]}{t[4]}"
)
HEADERS = st.one_of(st.just(""), _join("(", WIDE_GAPS, _listed(PARAMS, 0), ")"))
STATEMENTS = st.one_of(
    _words(
        st.sampled_from(("mask", "score", "bias", "normalizer", "output", "aux x =", "let y =", "q =")), EXPRESSIONS
    ),
    st.sampled_from(
        ("aux lse", "grid (t: 3 , y:n)", "grid q(t : 3) at 4", "grid k (t: 3)at(4)", "state S: real[D] = 0")
    ),
    _words("a =", EXPRESSIONS, "over", EXPRESSIONS),
)
COMMENTS = st.sampled_from(("", "", "  # note", " ##doc", " #x"))
ENDS = st.tuples(COMMENTS, st.sampled_from(("\n", "\n\n", "\n\n\n", "\n# own line\n", "\n\n## own\n\n"))).map("".join)
SEPARATORS = st.one_of(ENDS, st.sampled_from((";", " ; ", ";\n")))
BODIES = st.lists(st.tuples(STATEMENTS, SEPARATORS).map("".join), max_size=4).map("".join)
BLOCKS = st.tuples(
    st.sampled_from(("attention", "normalizer", "recurrence", "select")),
    st.just(" n"),
    HEADERS,
    st.sampled_from((" {", "{\n", "\n{ # open\n")),
    BODIES,
    st.just("}"),
).map("".join)
DEFINITIONS = st.tuples(
    st.sampled_from(("mask", "bias", "score", "feature", "def")), st.just(" n"), HEADERS, st.just(" = "), EXPRESSIONS
).map("".join)
IMPORTS = st.sampled_from(("import std.masks(a,b)", 'import "./x.attn" ( f )', "import std . causal (causal)"))
TEXTS = st.lists(st.tuples(st.one_of(BLOCKS, DEFINITIONS, IMPORTS), ENDS).map("".join), max_size=3).map("".join)
