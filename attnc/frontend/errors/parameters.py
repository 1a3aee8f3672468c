"""E5: what is given from outside, together with a spec."""

from __future__ import annotations

from attnc.diagnostics import Diagnostic, Label
from attnc.frontend.errors.wording import clip, did_you_mean, listing
from attnc.source import Span


def unknown_parameter(name: str, attention: str, known: tuple[str, ...], elsewhere: str | None = None) -> Diagnostic:
    """E501: a value for a parameter that is not there, or is given elsewhere."""
    help_ = elsewhere or did_you_mean(name, known)
    if help_ is None:
        help_ = f"its static parameters are {listing(known)}" if known else "it has no static parameters"
    return Diagnostic("E501", f"`{attention}` has no static parameter `{clip(name)}`", help=help_)


def missing_parameter(name: str, kind: str, attention: str, span: Span) -> Diagnostic:
    """E502: no value for a parameter without a default."""
    return Diagnostic(
        "E502",
        f"`{attention}` needs a value for `{name}`",
        Label(span, f"{kind}, without a default"),
        help=f'give it when compiling: `params={{"{name}": ...}}`',
    )


def wrong_parameter(name: str, wanted: str, found: str, span: Span) -> Diagnostic:
    """E503: a value of another kind than declared."""
    title = f"parameter `{name}` must be {wanted}, not {clip(found)}"
    return Diagnostic("E503", title, Label(span, "declared here"))


def parameter_out_of_range(name: str, value: str, range_: str, span: Span, sizes: str = "") -> Diagnostic:
    """E504: a value outside of the declared range. `sizes` are the parameters that its bounds read."""
    title = f"parameter `{name}` is {clip(value)}, outside {range_}"
    return Diagnostic("E504", title, Label(span, "declared here"), note=f"here {sizes}" if sizes else None)


def bad_constant(what: str, wanted: str, value: str, span: Span) -> Diagnostic:
    """E505: a value that is wrong once the parameters are known: a divisor, an exponent, an extent."""
    return Diagnostic("E505", f"{what} must be {wanted}, not {value}", Label(span))


def unknown_attention(name: str, file: str, known: tuple[str, ...]) -> Diagnostic:
    """E506: the name of an attention that the file does not hold."""
    help_ = did_you_mean(name, known)
    if help_ is None:
        help_ = f"it holds {listing(known)}" if known else "it holds no `attention`"
    return Diagnostic("E506", f"`{clip(file, 200)}` has no attention `{clip(name)}`", help=help_)


def ambiguous_attention(file: str, known: tuple[str, ...]) -> Diagnostic:
    """E507: no name, and not exactly one attention."""
    if not known:
        title = f"`{clip(file, 200)}` holds no `attention` to compile"
        return Diagnostic("E507", title, help="add `attention NAME { mask ... }`")
    title = f"`{clip(file, 200)}` holds several attentions"
    return Diagnostic("E507", title, help=f"choose one: {listing(known)}")


def unknown_standard(name: str, known: tuple[str, ...]) -> Diagnostic:
    """E508: the name of a file that the standard library does not hold."""
    help_ = did_you_mean(name, known) or "`attnc list` prints the standard library"
    return Diagnostic("E508", f"the standard library has no `{clip(name)}`", help=help_)


def missing_table(name: str, wanted: str, attention: str, span: Span) -> Diagnostic:
    """E509: no values for a static tensor."""
    return Diagnostic(
        "E509",
        f"`{attention}` needs the values of `{name}`",
        Label(span, f"{wanted}, known when compiling"),
        help=f'give them when compiling: `tensors={{"{name}": ...}}`, `--tensor {name}=...` on the command line',
    )


def wrong_table(name: str, wanted: str, found: str, span: Span) -> Diagnostic:
    """E510: values of another kind or shape than declared."""
    return Diagnostic("E510", f"tensor `{name}` must be {wanted}, not {clip(found)}", Label(span, "declared here"))


def large_table(name: str, count: int, limit: int, span: Span) -> Diagnostic:
    """E511: more values than a module holds."""
    title = f"tensor `{name}` has {count} elements, more than the {limit} of a static one"
    return Diagnostic("E511", title, Label(span, "declared here"), help="leave `static` out and give it at the call")


def unknown_table(name: str, attention: str, known: tuple[str, ...]) -> Diagnostic:
    """E512: values for a tensor that is not static."""
    help_ = did_you_mean(name, known)
    if help_ is None:
        help_ = f"its static tensors are {listing(known)}" if known else "it has none"
    return Diagnostic("E512", f"`{attention}` has no static tensor `{clip(name)}`", help=help_)
