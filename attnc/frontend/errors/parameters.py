"""E5: what is given from outside, together with a spec."""

from __future__ import annotations

from dataclasses import dataclass

from attnc.diagnostics import Diagnostic, Label
from attnc.frontend.errors.wording import clip, did_you_mean, listing
from attnc.source import Span


@dataclass(frozen=True, slots=True)
class UnknownParameter:
    name: str
    attention: str
    known: tuple[str, ...]
    elsewhere: str | None = None

    def diagnostic(self) -> Diagnostic:
        help_ = self.elsewhere or did_you_mean(self.name, self.known)
        if help_ is None:
            help_ = f"its static parameters are {listing(self.known)}" if self.known else "it has no static parameters"
        return Diagnostic("E501", f"`{self.attention}` has no static parameter `{clip(self.name)}`", help=help_)


@dataclass(frozen=True, slots=True)
class MissingParameter:
    name: str
    kind: str
    attention: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic(
            "E502",
            f"`{self.attention}` needs a value for `{self.name}`",
            Label(self.span, f"{self.kind}, without a default"),
            help=f'give it when compiling: `params={{"{self.name}": ...}}`',
        )


@dataclass(frozen=True, slots=True)
class WrongParameter:
    name: str
    wanted: str
    found: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"parameter `{self.name}` must be {self.wanted}, not {clip(self.found)}"
        return Diagnostic("E503", title, Label(self.span, "declared here"))


@dataclass(frozen=True, slots=True)
class ParameterOutOfRange:
    name: str
    value: str
    range: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        title = f"parameter `{self.name}` is {clip(self.value)}, outside {self.range}"
        return Diagnostic("E504", title, Label(self.span, "declared here"))


@dataclass(frozen=True, slots=True)
class BadConstant:
    """A value that is wrong once the parameters are known: a divisor, an exponent, an extent."""

    what: str
    wanted: str
    value: str
    span: Span

    def diagnostic(self) -> Diagnostic:
        return Diagnostic("E505", f"{self.what} must be {self.wanted}, not {self.value}", Label(self.span))


@dataclass(frozen=True, slots=True)
class UnknownAttention:
    name: str
    file: str
    known: tuple[str, ...]

    def diagnostic(self) -> Diagnostic:
        help_ = did_you_mean(self.name, self.known)
        if help_ is None:
            help_ = f"it holds {listing(self.known)}" if self.known else "it holds no `attention`"
        return Diagnostic("E506", f"`{clip(self.file, 200)}` has no attention `{clip(self.name)}`", help=help_)


@dataclass(frozen=True, slots=True)
class AmbiguousAttention:
    file: str
    known: tuple[str, ...]

    def diagnostic(self) -> Diagnostic:
        if not self.known:
            title = f"`{clip(self.file, 200)}` holds no `attention` to compile"
            return Diagnostic("E507", title, help="add `attention NAME { mask ... }`")
        title = f"`{clip(self.file, 200)}` holds several attentions"
        return Diagnostic("E507", title, help=f"choose one: {listing(self.known)}")


@dataclass(frozen=True, slots=True)
class UnknownStandard:
    name: str
    known: tuple[str, ...]

    def diagnostic(self) -> Diagnostic:
        help_ = did_you_mean(self.name, self.known) or "`attnc list` prints the standard library"
        return Diagnostic("E508", f"the standard library has no `{clip(self.name)}`", help=help_)
