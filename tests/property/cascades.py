"""Random cascades whose number of sweeps is known, and rewritings of cascades that change nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from attnc.ir.build import call, mul, neg
from attnc.ir.expr import Call, Expr, Ref, real_const
from attnc.ir.module import AttentionModule, Binding
from attnc.ir.traverse import transform
from attnc.ir.types import REAL

# -- cascades that are built -----------------------------------------------------------------------------------------

#: Factors that are constant along the keys: they leave a sum, so nothing waits for them.
_DIVISIONS = ("{x} / sum[j]({x})", "{x} / (1 + sum[j]({x} * {x}))", "{x} * n_keys / (2 * sum[j]({x}))", "{x} / M")
_PLAIN = ("2 * {x}", "{x} * (1 + real(j % 3))", "{x} * scale")
#: Functions that are no products: what they read has to be finished.
_BENDS = ("relu({x} - 0.1)", "softplus({x})", "sigmoid({x}) + {x}", "sqrt(1 + {x} * {x})", "tanh({x} + 0.5)")


@dataclass(frozen=True)
class Built:
    """The text of a normalizer's cascade and the least number of sweeps."""

    text: str
    sweeps: int


@st.composite
def built(draw: st.DrawFn) -> Built:
    """A chain of steps. A sweep ends where a function bends what a sum has divided."""
    steps = ["x0 = softplus(s)"]
    finished, divided = 1, False
    for n in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["divide", "plain", "bend"]))
        choices = {"divide": _DIVISIONS, "plain": _PLAIN, "bend": _BENDS}[kind]
        text = draw(st.sampled_from(choices))
        steps.append(f"x{n + 1} = " + text.replace("{x}", f"x{n}"))
        if kind == "bend" and divided:
            finished, divided = finished + 1, False
        divided = divided or (kind == "divide" and "sum" in text)
    last = f"x{len(steps) - 1}"
    return Built("; ".join([*steps, f"w = {last} / sum[j]({last})"]), finished)


# -- cascades that are rewritten -------------------------------------------------------------------------------------


def renamed(module: AttentionModule) -> AttentionModule:
    """With other names for the steps; `w` is what the language calls the weight."""
    names = {binding.name: f"step_{n}" for n, binding in enumerate(module.cascade) if binding.name != "w"}

    def change(node: Expr) -> Expr:
        return replace(node, name=names.get(node.name, node.name)) if isinstance(node, Ref) else node

    return _with(module, lambda b: Binding(names.get(b.name, b.name), transform(b.expr, change), b.span))


@st.composite
def rewritten(draw: st.DrawFn, module: AttentionModule) -> AttentionModule:
    """With sums and products in another order and form, here and there."""

    def change(node: Expr) -> Expr:
        if not isinstance(node, Call) or node.type != REAL or not draw(st.booleans()):
            return node
        match node:
            case Call(fn="add" | "mul", args=(a, b)):
                return replace(node, args=(b, a))
            case Call(fn="sub", args=(a, b)):
                return draw(st.sampled_from([call("add", a, call("neg", b)), neg(call("sub", b, a))]))
            case Call(fn="div", args=(a, b)):
                return draw(
                    st.sampled_from(
                        [mul(a, call("div", real_const(1.0), b, type=REAL)), neg(replace(node, args=(neg(a), b)))]
                    )
                )
            case Call(fn="exp", args=(a,)):
                return replace(node, args=(call("neg", call("neg", a)),))
            case _:
                return node

    return _with(module, lambda b: Binding(b.name, transform(b.expr, change), b.span))


def _with(module: AttentionModule, change: object) -> AttentionModule:
    assert callable(change)
    return replace(module, cascade=tuple(map(change, module.cascade)), aux=tuple(map(change, module.aux)))
