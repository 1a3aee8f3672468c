"""`attnc bench`: times of an attention beside those of other implementations of the same spec."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from attnc.cli.output import plural, print_json, table
from attnc.cli.specs import (
    DTYPES,
    Scalar,
    attention_option,
    dynamic_values,
    head_dim_option,
    json_option,
    param_option,
    read_spec,
    seed_option,
    spec_argument,
    tensor_option,
    value_dim_option,
)
from attnc.diagnostics import CallError

if TYPE_CHECKING:
    from attnc.benchmark.measure import Row
    from attnc.drawing import Case
    from attnc.ir.module import AttentionModule
    from attnc.ops import Op

PEERS = ("sdpa", "flex")
BACKENDS = ("auto", "triton", "interpret", "torch")
_PASSES = ("forward", "backward")


def _sizes(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        sizes = tuple(int(part) for part in value.split(","))
    except ValueError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise click.BadParameter(f"expected sizes with commas such as 1024,4096, got {value!r}", ctx, param)
    return sizes


def _peers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    for name in names:
        if name not in PEERS:
            raise click.BadParameter(f"unknown implementation {name!r}; known are {', '.join(PEERS)}", ctx, param)
    return names


def _offset(ctx: click.Context, param: click.Parameter, value: str) -> int | str:
    try:
        return value if value == "end" else int(value)
    except ValueError:
        raise click.BadParameter(f'expected an int or "end", got {value!r}', ctx, param) from None


@click.command("bench", short_help="Time it beside torch's own attention.")
@spec_argument
@click.option("--vs", callback=_peers, default="sdpa,flex", show_default=True, help="What to time beside it.")
@click.option("-N", "queries", callback=_sizes, default="1024,4096", show_default=True, help="Queries.")
@click.option("-M", "keys", callback=_sizes, metavar="SIZES", help="Keys, when not as many as queries.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="B")
@click.option("--heads", type=click.IntRange(1), default=8, show_default=True, metavar="H")
@click.option("--kv-heads", type=click.IntRange(1), metavar="HK", help="Heads of k and v, when not those of q.")
@head_dim_option
@value_dim_option
@click.option("--dtype", type=click.Choice(DTYPES), help="Default: bf16 on a GPU, fp32 on a CPU.")
@click.option("--q-offset", callback=_offset, default="0", metavar="INT|end", help="Position of the first query.")
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Rounds; medians are shown.")
@click.option("--backward/--no-backward", default=True, show_default=True, help="Time the gradients of q, k, v, too.")
@param_option
@tensor_option
@attention_option
@seed_option
@json_option
def command(spec: str, vs: tuple[str, ...], as_json: bool, backward: bool, repeats: int, **options: Any) -> None:
    """Time an attention on random data beside torch's scaled_dot_product_attention and FlexAttention.

    Both are given the spec's own mask and score: SDPA as a dense mask or bias, FlexAttention as functions of the
    indices. First the op is compared with the oracle and they with the op, at a small size: what computes something
    else gets no ratio. Then all run in turn in one process. `setup` is everything up to the end of the first call.
    """
    sizes = _pairs(options["queries"], options["keys"])
    module = read_spec(spec).select(options["attention"])
    from attnc.benchmark.measure import benchmark

    op, device = _op(module, options["backend"], dict(options["params"]))
    cases = [_case(op.module, device, size, **options) for size in sizes]
    head = {**_head(op, cases[0], device), "repeats": repeats, "seed": options["seed"]}
    passes: Any = _PASSES if backward else _PASSES[:1]
    if not as_json:
        click.echo(_title(head))
    found: list[dict[str, Any]] = []
    for case in cases:
        with _readable_errors():
            rows = benchmark(op, case, vs, device=device, repeats=repeats, passes=passes)
        found.append({"N": case.queries, "M": case.keys, "rows": [_entry(row) for row in rows]})
        if not as_json:
            click.echo(f"\n{_table(case, rows, passes)}")
    if as_json:
        print_json({**head, "sizes": found})


@contextmanager
def _readable_errors() -> Generator[None]:
    from attnc.drawing import UndrawableError

    try:
        yield
    except UndrawableError as error:
        raise CallError(str(error)) from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise CallError("there is not enough memory for tensors of this size") from error
        raise


# -- what is timed ---------------------------------------------------------------------------------------------------


def _pairs(queries: tuple[int, ...], keys: tuple[int, ...] | None) -> list[tuple[int, int]]:
    keys = queries if keys is None else keys
    if len(queries) == 1:
        return [(queries[0], size) for size in keys]
    if len(keys) == 1:
        return [(size, keys[0]) for size in queries]
    if len(queries) != len(keys):
        raise click.UsageError(f"-N has {len(queries)} sizes, -M {len(keys)}: give as many, or one")
    return list(zip(queries, keys, strict=True))


def _op(module: AttentionModule, backend: str, params: dict[str, Scalar]) -> tuple[Op, str]:
    import torch

    from attnc.frontend.bind import bind
    from attnc.ops import Op

    on_gpu = backend == "triton" or (backend == "auto" and torch.cuda.is_available())
    if on_gpu and not torch.cuda.is_available():
        raise CallError('--backend: "triton" needs a GPU; "interpret" runs the same kernels without one')
    chosen: Any = backend if backend != "auto" else "triton" if on_gpu else "torch"
    dynamic = {param.name for param in module.scalars if param.dynamic}
    static = {name: value for name, value in params.items() if name not in dynamic}
    return Op(bind(module, static), chosen, None), "cuda" if on_gpu else "cpu"


def _case(
    module: AttentionModule, device: str, size: tuple[int, int], *, params: Any, heads: int, **options: Any
) -> Case:
    from attnc.drawing import Case

    key_heads = options["kv_heads"] or heads
    if heads % key_heads:
        raise click.UsageError(f"--heads: {heads} is not a multiple of --kv-heads {key_heads}")
    return Case(
        dtype=options["dtype"] or ("bf16" if device == "cuda" else "fp32"),
        batch=options["batch"],
        heads=heads,
        key_heads=key_heads,
        queries=size[0],
        keys=size[1],
        head_dim=options["head_dim"],
        value_dim=options["value_dim"] or options["head_dim"],
        q_offset=options["q_offset"],
        dynamic=dynamic_values(module, dict(params)),
        ints=(0, max(4, min(size[1] // 4, 64))),
        seed=options["seed"],
    )


# -- the report ------------------------------------------------------------------------------------------------------


def _head(op: Op, case: Case, device: str) -> dict[str, Any]:
    import torch

    from attnc import __version__

    return {
        "attention": op.module.name,
        "backend": op.backend,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "dtype": case.dtype,
        **{name: size for name, size in case.sizes.items() if name not in ("N", "M")},
        "q_offset": case.q_offset,
        "threads": torch.get_num_threads(),
        "versions": {"attnc": __version__, "torch": torch.__version__, "triton": _version_of_triton()},
    }


def _version_of_triton() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def _title(head: dict[str, Any]) -> str:
    sizes = ", ".join(f"{name} {head[name]}" for name in ("B", "H", "Hk", "D", "Dv"))
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items() if version)
    return (
        f"{head['attention']}: {sizes}, {head['dtype']} on {head['device']}, back end {head['backend']}\n"
        f"{versions}; {plural(head['threads'], 'thread')}; medians of {plural(head['repeats'], 'round')}, all in turn"
    )


def _entry(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "pass": row.which,
        "status": row.status,
        "seconds": row.seconds,
        "rounds": list(row.rounds),
        "ratio": row.ratio,
        "difference": row.difference,
        "setup_seconds": row.setup,
        "note": row.note,
    }


def _table(case: Case, rows: list[Row], passes: tuple[str, ...]) -> str:
    title = f"N = {case.queries}, M = {case.keys}"
    lines: list[tuple[object, ...]] = [(title, "time", "time / attnc", "difference", "setup", "")]
    for which in passes:
        lines += [(f"  {row.name} {which}", *_cells(row)) for row in rows if row.which == which]
    return table(lines, right=(1, 2, 3, 4))


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    difference = "-" if row.difference is None else f"{row.difference:.1e}"
    return _time(row.seconds), ratio, difference, _time(row.setup), row.note


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return (
        f"{seconds:.2f} s"
        if seconds >= 1
        else f"{1e3 * seconds:.3g} ms"
        if seconds >= 1e-3
        else f"{1e6 * seconds:.0f} us"
    )
