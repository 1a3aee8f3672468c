"""Emitted modules: what of a spec's text may reach them, how they are laid out, and what templates may read."""

from __future__ import annotations

import ast
import dataclasses
import re
import string

import jinja2.meta
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from attnc.codegen.context import EntryText, KernelContext, KernelText, SweepText, Variant, VisitText
from attnc.codegen.provenance import describe
from attnc.codegen.render import environment, plain_line
from attnc.codegen.triton_module import lower_triton
from attnc.diagnostics import SpecError
from attnc.driver import stdlib_names
from attnc.ir.expr import Lookup
from attnc.ir.traverse import walk
from attnc.passes.pipeline import PlanOptions, make_plan
from tests.oracles.cases import cases
from tests.oracles.modules import last_stage, module_of, standard
from tests.property.specs import Spec, specs

EVERYTHING = Variant(aux=True)
HOSTILE = """
# \"\"\" + __import__("os").system("true") # {{ 1 }} {% raw %}
attention evil(os_system: int[B, M], subprocess: int dynamic, tl: real[H], triton: real[H], q_ptr: bool[B, M]) {
  mask os_system[b, j] < subprocess and q_ptr[b, j]  # \"\"\"
  score dot(q,
            k) * scale + tl[h] - triton[h]  # ''' \\
}
"""


def source_of(text: str, variant: Variant = EVERYTHING) -> str:
    return lower_triton(make_plan(module_of(text), PlanOptions(16, 16)), variant).source


def source_of_drawn(spec: Spec) -> str:
    """The source of a drawn spec; another one is drawn when it has a meaning but no kernel, and the message says so."""
    try:
        return source_of(spec.text)
    except SpecError as error:
        if {diagnostic.code for diagnostic in error.diagnostics} <= {"E401"}:
            reject()
        raise


def names(source: str) -> set[str]:
    """Every name and attribute that code, as opposed to comments and docstrings, mentions."""
    found = set[str]()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.FunctionDef(name=name):
                found.add(name)
            case ast.keyword(arg=str(name)) | ast.alias(name=name):
                found.add(name)
            case _:
                pass
    return found


def test_identifiers_and_comments_of_a_spec_never_become_code() -> None:
    source = source_of(HOSTILE)
    assert names(source).isdisjoint({"os_system", "subprocess", "evil", "os", "system", "__import__"})
    assert "__import__" not in source
    assert "{{" not in source


def test_names_that_the_kernel_uses_itself_are_no_trouble() -> None:
    """Tensors called `tl`, `triton` and `q_ptr` are renamed like all others."""
    plain = HOSTILE
    for name in ("os_system", "subprocess", "triton", "q_ptr"):
        plain = plain.replace(name, f"{name}_x")
    plain = re.sub(r"\btl\b", "tl_x", plain)
    code = [ast.dump(ast.parse(_without_docstrings(source_of(text)))) for text in (HOSTILE, plain)]
    assert code[0] == code[1]


def _without_docstrings(source: str) -> str:
    return re.sub(r'"""[\s\S]*?"""', '""', source)


@pytest.mark.parametrize("variant", [Variant(), EVERYTHING, Variant(packed=True), Variant(q_offset="end"),
                                     Variant(q_offset="tensor", k_offset="tensor", wide=True)], ids=str)  # fmt: skip
@pytest.mark.parametrize("name", stdlib_names())
def test_the_standard_library_emits_python(name: str, variant: Variant) -> None:
    case = next(case for case in cases() if case.name == name)
    source = lower_triton(make_plan(last_stage(standard(name, **case.params)), PlanOptions(64, 64)), variant).source
    tree = ast.parse(source)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions[-1].name == "attention"
    assert all(ast.get_docstring(function) for function in functions)
    assert "\t" not in source
    assert not any(line != line.rstrip() for line in source.splitlines())
    assert source.isascii()


@settings(max_examples=settings().max_examples // 2)
@given(spec=specs())
def test_every_name_is_defined_before_it_is_read(spec: Spec) -> None:
    """Per function, top to bottom; a loop's body may read what the loop itself defines before."""
    source = source_of_drawn(spec)
    for function in (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)):
        known = {arg.arg for arg in function.args.args} | {"tl", "triton", "range", "float", "True", "False"}
        known |= {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        _check_block(function.body[1:], known)


def _check_block(body: list[ast.stmt], known: set[str]) -> None:
    for statement in body:
        match statement:
            case ast.For(target=ast.Name(id=name), iter=counter):
                _check_reads(counter, known)
                known.add(name)
                _check_block(statement.body, known)
            case ast.If(test=test):
                _check_reads(test, known)
                _check_block(statement.body, set(known))
            case _:
                _check_reads(statement, known)
                known |= {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _check_reads(node: ast.AST, known: set[str]) -> None:
    read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    assert read <= known, f"{sorted(read - known)} in: {ast.unparse(node)}"


@settings(max_examples=settings().max_examples // 4)
@given(spec=specs())
def test_two_renders_are_identical(spec: Spec) -> None:
    assert source_of_drawn(spec) == source_of_drawn(spec)


def test_every_untrusted_index_is_clamped() -> None:
    """seg is a table of the caller, read at a computed row: minimum and maximum stand in the address."""
    text = "attention a(table: real[H, 9], seg: int[B, M]) { bias table[h, seg[b, j]] }"
    module = module_of(text)
    assert any(isinstance(node, Lookup) for node in walk(module.score))
    load = next(line for line in source_of(text).splitlines() if "t0_ptr +" in line)
    assert "tl.maximum(tl.minimum(" in source_of(text)
    assert "t0_s1" in load


# -- templates -------------------------------------------------------------------------------------------------------


def read_by(template: str) -> dict[str, set[str]]:
    """variable -> attributes that a template reads of it."""
    source = environment().loader.get_source(environment(), template)[0]  # type: ignore[union-attr]
    found: dict[str, set[str]] = {}
    for name, attribute in re.findall(r"\b(module|kernel|sweep|visit|arg)\.(\w+)", source):
        found.setdefault(name, set()).add(attribute)
    return found


FIELDS = {
    "module": KernelContext,
    "entry": EntryText,
    "kernel": KernelText,
    "sweep": SweepText,
    "visit": VisitText,
}


@pytest.mark.parametrize("template", environment().list_templates())
def test_templates_read_fields_that_exist(template: str) -> None:
    source = environment().loader.get_source(environment(), template)[0]  # type: ignore[union-attr]
    assert jinja2.meta.find_undeclared_variables(environment().parse(source)) <= {"module", "kernel", "entry"}
    for name, attributes in read_by(template).items():
        if name in FIELDS:
            assert attributes <= {field.name for field in dataclasses.fields(FIELDS[name])}


@pytest.mark.parametrize("template", environment().list_templates())
def test_templates_are_short_and_hold_no_logic(template: str) -> None:
    source = environment().loader.get_source(environment(), template)[0]  # type: ignore[union-attr]
    tags = re.findall(r"{%-?\s*(\w+)", source)
    assert set(tags) <= {
        "if",
        "else",
        "elif",
        "endif",
        "for",
        "endfor",
        "include",
        "macro",
        "endmacro",
        "import",
        "from",
    }
    assert source.count("\n") <= 200


def test_an_undefined_name_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        environment().from_string("{{ missing }}").render()


@given(text=st.text(st.sampled_from(string.printable + "é\u2028\x00"), max_size=40))
def test_text_of_a_spec_stays_inside_a_comment(text: str) -> None:
    shown = plain_line(text)
    assert shown.isascii()
    assert "\n" not in shown
    assert '"' not in shown
    assert len(ast.parse(f'"""{shown}"""').body) == 1
    assert ast.parse(f"# {shown}").body == []


def test_comments_say_where_the_text_stands() -> None:
    score = standard("softcap", cap=50.0).score
    assert describe(score) == "50.0 * tanh(dot(q, k) * scale / 50.0)  (std:softcap:9)"
