"""`attnc explain`: tiles, operations, bytes and passes of a plan for given sizes."""

from __future__ import annotations

import click

from attnc.cli.output import print_json
from attnc.cli.specs import (
    Scalar,
    attention_option,
    dtype_option,
    head_dim_option,
    json_option,
    param_option,
    read_spec,
    spec_argument,
    target_option,
    tensor_option,
    value_dim_option,
)

ITEMSIZE = {"fp32": 4, "fp16": 2, "bf16": 2}


@click.command("explain", short_help="Say what a plan does for given sizes, and why.")
@spec_argument
@click.option("-n", "--n", type=click.IntRange(0), required=True, metavar="N", help="Queries.")
@click.option("-m", "--m", type=click.IntRange(0), metavar="M", help="Keys; as many as queries when not given.")
@target_option
@attention_option
@param_option
@tensor_option
@head_dim_option
@value_dim_option
@dtype_option
@json_option
def command(
    spec: str,
    n: int,
    m: int | None,
    target: str,
    attention: str | None,
    params: tuple[tuple[str, Scalar], ...],
    head_dim: int,
    value_dim: int | None,
    dtype: str,
    as_json: bool,
) -> None:
    """Say what a plan does: key tiles visited and skipped, pairs that the mask keeps, FLOPs, bytes, roofline, passes
    over the keys, and why; and what is known of the mask. Of a call at offset 0; --param takes static and dynamic
    parameters.
    """
    from attnc.explain import bind_all, explain
    from attnc.ir.dependence import is_aligned
    from attnc.ir.long_calls import is_long
    from attnc.passes.block_tensors import measure_blocks
    from attnc.passes.pipeline import PlanOptions, make_plan

    module, dynamic = bind_all(read_spec(spec).select(attention), dict(params))
    m = n if m is None else m
    widths = (head_dim, value_dim or head_dim)
    aligned, long = is_aligned(module, n, m), is_long(n, m, max(widths))
    options = PlanOptions(*widths, ITEMSIZE[dtype], None, aligned, numbered=True, states=long)
    report = explain(make_plan(measure_blocks(module).module, options), n, m, target, dynamic, with_facts=True)
    if as_json:
        print_json(report.to_json())
    else:
        click.echo(str(report))
