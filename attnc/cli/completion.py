"""`attnc completion`: what a shell needs to complete commands, and what can stand for a spec, a target, a parameter.

Shells ask by running `attnc` with the variable _ATTNC_COMPLETE; nothing slow may be imported to answer them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

if TYPE_CHECKING:
    from attnc.ir.module import AttentionModule

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_ATTNC_COMPLETE"
_SUFFIX = ".attn"

_HELP = """Print the script that lets a shell complete verbs, options, specs, parameters and targets.

\b
bash, in ~/.bashrc:                 eval "$(attnc completion bash)"
zsh, in ~/.zshrc after compinit:    eval "$(attnc completion zsh)"
fish, once:  attnc completion fish > ~/.config/fish/completions/attnc.fish
"""

# bash ends words at `:` and `=`, too, and replaces the last such part of what was typed; click's own script does not
# know that, so that with it `std:ca` cannot be completed.
_BASH = r"""%(complete_func)s() {
    local line="${COMP_LINE:0:COMP_POINT}" typed before="" response completion type value
    typed="${line##*[[:space:]]}"
    [[ $typed == -*=* ]] && typed="${typed#*=}"
    [[ $COMP_WORDBREAKS == *:* ]] && before="${typed%%"${typed##*[:=]}"}"
    response=$(env COMP_LINE="$line" %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    while IFS=',' read -r type value; do
        if [[ $type == dir ]]; then
            compopt -o dirnames
        elif [[ $type == file ]]; then
            compopt -o default
        elif [[ $type == plain ]]; then
            value="${value#"$before"}"
            [[ $value == *[[:space:]]* ]] && printf -v value '%%q' "$value"
            COMPREPLY+=("$value")
        fi
    done <<< "$response"
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[/=] ]] && compopt -o nospace
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    name: ClassVar[str] = "bash"
    source_template: ClassVar[str] = _BASH

    def source(self) -> str:
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        return words[1:], incomplete


def register() -> None:
    """Make click answer bash by this module."""
    add_completion_class(_Bash)


@click.command("completion", short_help="Print a shell's completion script.", help=_HELP)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script."""
    register()
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(ctx.find_root().command, {}, "attnc", VARIABLE).source(), nl=False)


# -- what can be completed -------------------------------------------------------------------------------------------


def specs(incomplete: str) -> list[CompletionItem[str]]:
    """What a spec may be: std:NAME, an .attn file, a directory on the way to one."""
    from attnc.driver import stdlib_names

    names = [f"std:{name}" for name in stdlib_names()]
    return _starting([*names, *_paths(incomplete)], incomplete)


def _paths(incomplete: str) -> Iterator[str]:
    folder, slash, start = incomplete.rpartition("/")
    try:
        entries = sorted(Path(folder + slash or ".").expanduser().iterdir())
    except (OSError, RuntimeError):
        return
    for entry in entries:
        if entry.name.startswith(".") and not start.startswith("."):
            continue
        if entry.is_dir():
            yield f"{folder}{slash}{entry.name}/"
        elif entry.suffix == _SUFFIX:
            yield f"{folder}{slash}{entry.name}"


def targets(incomplete: str) -> list[CompletionItem[str]]:
    """The GPUs that kernels can be made for."""
    from attnc.codegen.config import SHARED_MEMORY

    return _starting(SHARED_MEMORY, incomplete)


def parameters(ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    """The parameters of the specs given so far, each with the sign after which its value is typed."""
    return _starting([f"{scalar.name}=" for module in _modules(ctx) for scalar in module.scalars], incomplete)


def attentions(ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    """The names of the attentions of the specs given so far."""
    return _starting([module.name for module in _modules(ctx)], incomplete)


def _modules(ctx: click.Context) -> list[AttentionModule]:
    from attnc.diagnostics import AttncError
    from attnc.driver import check, load_spec

    given: Any = ctx.params.get("specs") or ctx.params.get("spec") or ctx.args  # the latter while an option is open
    found: list[AttentionModule] = []
    for name in (given,) if isinstance(given, str) else given:
        try:
            found += check(load_spec(name)).modules if name != "-" else ()
        except AttncError:
            continue
    return found


def _starting(values: Iterable[str], incomplete: str) -> list[CompletionItem[str]]:
    return [CompletionItem(value) for value in dict.fromkeys(values) if value.startswith(incomplete)]
