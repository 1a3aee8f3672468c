"""`attnc run`: one call on random data, compared with the oracle and timed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from attnc.cli.output import table
from attnc.cli.specs import (
    Scalar,
    attention_option,
    dtype_option,
    dynamic_values,
    param_option,
    read_spec,
    seed_option,
    spec_argument,
    tensor_option,
)
from attnc.diagnostics import CallError

if TYPE_CHECKING:
    from attnc.drawing import Case, Inputs
    from attnc.ir.module import AttentionModule
    from attnc.ops import Op

BACKENDS = ("auto", "triton", "interpret", "cpp", "torch")
#: Bytes that the dense oracle takes for a pair of a query and a key, roughly, and that it may take in all.
_PAIR_BYTES = 64
_ORACLE_BYTES = 8 << 30
_ROUNDS = 5
_ROUNDS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A result with the seconds that the first call and the median of the others took."""

    results: dict[str, Any]
    first: float
    median: float | None


def _shape(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in value.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 4 or any(size < 0 for size in sizes):
        raise click.BadParameter(f"expected four sizes B,H,N,D such as 1,8,1024,64, got {value!r}", ctx, param)
    return sizes


@click.command("run", short_help="Run on random data, compare, time.")
@spec_argument
@click.option("--shape", required=True, callback=_shape, metavar="B,H,N,D", help="Shape of q.")
@click.option("--kv-heads", type=click.IntRange(1), metavar="HK", help="Heads of k and v, when not those of q.")
@click.option("--keys", type=click.IntRange(0), metavar="M", help="Keys, when not as many as queries.")
@click.option("--value-dim", type=click.IntRange(1), metavar="DV", help="Features of v, when not those of q.")
@dtype_option
@click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True)
@param_option
@tensor_option
@attention_option
@seed_option
@click.option("--no-oracle", is_flag=True, help="Do not compare: the oracle needs memory for every pair.")
@click.pass_context
def command(ctx: click.Context, spec: str, backend: str, no_oracle: bool, **options: Any) -> None:
    """Run an attention on random data; print time, largest error and allowed error.

    --param takes static and dynamic parameters. The allowed error is twice that of the plain evaluation of the same
    formula in the same dtype, plus two units in the last place; exits with 1 when the error is larger.
    """
    module = read_spec(spec).select(options["attention"])
    with _enough_memory():
        op, inputs = _prepare(module, backend, dense=not no_oracle, **options)
        measured = _measure(op, inputs)
    click.echo(_title(op, inputs, options["seed"]))
    again = "" if measured.median is None else f", then {_seconds(measured.median)}"
    click.echo(f"  first call {_seconds(measured.first)}{again}")
    _say_empty_rows(op, inputs)
    if no_oracle:
        return
    from attnc.verify import compare

    with _enough_memory():
        comparisons = compare(op, inputs, measured.results)
    rows: list[tuple[object, ...]] = [("", "largest error", "allowed", "")]
    rows += [(c.name, f"{c.error:.3g}", f"{c.allowed:.3g}", "ok" if c.passed else "TOO LARGE") for c in comparisons]
    click.echo("\n".join(f"  {line}" for line in table(rows, right=(1, 2)).splitlines()))
    ctx.exit(0 if all(comparison.passed for comparison in comparisons) else 1)


@contextmanager
def _enough_memory() -> Generator[None]:
    """Raise CallError where torch finds no memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise CallError("--shape: there is not enough memory for tensors of this size") from error
        raise


def _prepare(module: AttentionModule, backend: str, *, dense: bool, **options: Any) -> tuple[Op, Inputs]:
    import torch

    from attnc.drawing import UndrawableError, draw
    from attnc.frontend.bind import bind
    from attnc.ops import Op

    given = dict(options["params"])
    dynamic = {p.name for p in module.scalars if p.dynamic}
    on_gpu = backend == "triton" or (backend == "auto" and torch.cuda.is_available())
    if on_gpu and not torch.cuda.is_available():
        raise CallError('--backend: "triton" needs a GPU; "interpret" runs the same kernels without one')
    chosen: Any = backend if backend != "auto" else "triton" if on_gpu else "auto"
    op = Op(bind(module, {name: value for name, value in given.items() if name not in dynamic}), chosen, None)
    case = _case(op.module, {name: value for name, value in given.items() if name in dynamic}, **options)
    if dense:
        _refuse_too_large(case)
    try:
        inputs = draw(op.module, case)
    except UndrawableError as error:
        raise CallError(str(error)) from None
    return op, inputs.to("cuda") if on_gpu else inputs


def _case(
    module: AttentionModule,
    dynamic: dict[str, Scalar],
    *,
    shape: tuple[int, ...],
    kv_heads: int | None,
    keys: int | None,
    value_dim: int | None,
    dtype: Any,
    seed: int,
    **_: object,
) -> Case:
    from attnc.drawing import Case

    batch, heads, queries, head_dim = shape
    keys = queries if keys is None else keys
    return Case(
        dtype=dtype,
        batch=batch,
        heads=heads,
        key_heads=kv_heads or heads,
        queries=queries,
        keys=keys,
        head_dim=head_dim,
        value_dim=value_dim or head_dim,
        dynamic=dynamic_values(module, dynamic),
        ints=(0, max(4, min(keys // 4, 64))),
        seed=seed,
    )


def _refuse_too_large(case: Case) -> None:
    heads = case.batch * case.heads
    needed = _PAIR_BYTES * heads * case.queries * case.keys
    if needed > _ORACLE_BYTES:
        raise CallError(
            f"the oracle would need some {needed / 2**30:.0f} GiB for {case.queries} x {case.keys} pairs in {heads} "
            "heads: take fewer tokens or heads, or --no-oracle to run without comparing"
        )


def _measure(op: Op, inputs: Inputs) -> Measured:
    from statistics import median
    from time import perf_counter

    import torch

    def call() -> tuple[float, Any, Any]:
        start = perf_counter()
        with torch.no_grad():
            out, aux = op(inputs.q, inputs.k, inputs.v, return_aux=True, **inputs.keywords)
        if inputs.q.is_cuda:
            torch.cuda.synchronize()
        return perf_counter() - start, out, aux

    first, out, aux = call()
    times: list[float] = []
    while len(times) < _ROUNDS and first + sum(times) < _ROUNDS_SECONDS:
        times.append(call()[0])
    return Measured({"out": out, **aux}, first, median(times) if times else None)


def _say_empty_rows(op: Op, inputs: Inputs) -> None:
    from attnc.row_watch import row_text

    (batch, heads, queries, _), (_, key_heads, keys, _) = inputs.q.shape, inputs.k.shape
    sizes = {"B": batch, "H": heads, "Hk": key_heads, "N": queries, "M": keys, "q_offset": 0, "k_offset": 0}
    text = row_text(op.module, sizes, inputs.params)
    if text is not None:
        click.secho(f"  warning: {text}", fg="yellow")


def _seconds(time: float) -> str:
    return f"{time:.2f} s" if time >= 1 else f"{1e3 * time:.2f} ms" if time >= 1e-3 else f"{1e6 * time:.0f} us"


def _title(op: Op, inputs: Inputs, seed: int) -> str:
    batch, heads, queries, head_dim = inputs.q.shape
    key_heads, keys, value_dim = inputs.v.shape[1:]
    dtype = str(inputs.q.dtype).removeprefix("torch.")
    sizes = f"B {batch}, H {heads}, Hk {key_heads}, N {queries}, M {keys}, D {head_dim}, Dv {value_dim}"
    return f"{op.module.name}: {sizes}, {dtype} on {inputs.q.device}, back end {op.backend}, seed {seed}"
