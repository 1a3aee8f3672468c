"""What to say about a name that means nothing, or something that cannot stand where it is used."""

from __future__ import annotations

from attnc.frontend.environment import CONSTANT, Elaborator, Env
from attnc.frontend.errors import names as errors
from attnc.frontend.errors import support
from attnc.frontend.errors.wording import with_article
from attnc.frontend.names import CALL_KEYWORDS, INDICES, LIFTS, REDUCTIONS, SIZES, VALUES
from attnc.ir.builtins import CALLABLE
from attnc.source import Span

#: Names of the language that are not built yet, and the nearest thing that works.
_PLANNED: dict[str, tuple[str, str]] = {
    "dropout": ("dropout", "apply it to the values or the output in the model"),
    "top_k": ("selection by content", "choose the keys outside and pass their ids as an int tensor"),
    "own_block": ("selection by content", "the own block is `i // size == j // size`"),
    "outer": ("a recurrence", "linear attention without decay is a normalizer over `dot(phi(q), phi(k))`"),
    "rows": ("a recurrence", "linear attention without decay is a normalizer over `dot(phi(q), phi(k))`"),
    "cumsum": ("a running sum over keys", "compute it in the model and pass it as a tensor"),
}
#: What papers and libraries call what the language calls otherwise.
_SYNONYMS: dict[str, str] = {
    "q_idx": "i",
    "kv_idx": "j",
    "n": "N",
    "sqrt_d": "1 / scale",
    "gelu": "x * sigmoid(1.702 * x)",
    "silu": "x * sigmoid(x)",
    "ln": "log(x)",
    "pow": "x ^ y",
    "clip": "min(max(x, low), high)",
    "clamp": "min(max(x, low), high)",
    "norm": "sqrt(dot(x, x))",
    "logsumexp": "m + log(sum[j](exp(s - m)))",
    "inf": "`inf` bounds ranges only; a masked key does not exist, so no score needs it",
    "true_": "true",
    "True": "true",
    "False": "false",
    "and_": "and",
}


def report_unknown(el: Elaborator, env: Env, name: str, span: Span) -> None:
    """Report a name that has no meaning here, once, with what was probably meant."""
    if name in env.scope.silent or env.scope.broken:
        return
    planned = _PLANNED.get(name)
    if planned is not None:
        el.report(support.not_yet(planned[0], span, planned[1]), env)
        return
    kinds = el.library.kinds_of(env.scope, name)
    if kinds:
        usable = [with_article(kind) for kind in env.place.kinds]
        help_ = f"{env.place.title} may use {' or '.join(usable)}"
        el.report(errors.wrong_kind(name, kinds, f"something for {env.place.title}", span, help_), env)
        return
    if name in CALL_KEYWORDS:
        help_ = "positions `i` and `j` already include the offsets of the call"
        el.report(errors.unknown_name("name", name, span, help_=help_), env)
        return
    if env.place is CONSTANT:
        el.report(errors.unknown_name("name", name, span, help_="a constant is made of literals"), env)
        return
    meant = _SYNONYMS.get(name)
    help_ = None if meant is None else (f"write `{meant}`" if "`" not in meant else meant)
    predefined = (*INDICES, *SIZES, *VALUES, *REDUCTIONS, *LIFTS, *CALLABLE)
    known = (*env.names, *el.library.known(env.scope, env.place.kinds), *predefined)
    near_only = known if len(name) > 1 else ()
    el.report(errors.unknown_name("name", name, span, near_only, help_), env)
