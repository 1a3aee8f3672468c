"""stdlib/: every file means what its paper says (see tests/oracles), in output, statistics and gradients."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attnc.driver import check, load_spec
from attnc.frontend.format import format_text
from attnc.reference import reference
from tests.oracles.cases import Case, Drawn, cases, draw
from tests.oracles.dense import Problem, attend, kept
from tests.oracles.grids import neighborhood, radial_blocks
from tests.oracles.mechanisms import MECHANISMS, t5_bucket
from tests.oracles.modules import module_of, standard

STDLIB = Path(__file__).resolve().parents[2] / "stdlib"
NAMES = sorted(path.stem for path in STDLIB.glob("*.attn"))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def test_every_file_has_an_oracle_and_cases() -> None:
    assert sorted(MECHANISMS) == NAMES
    assert set(Counter(case.name for case in cases())) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_explains_itself(name: str) -> None:
    lines = (STDLIB / f"{name}.attn").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    above = lines[next(n for n, line in enumerate(lines) if line.startswith(f"attention {name}")) - 1]
    assert above.startswith("## ")


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_formatted_and_free_of_warnings(name: str) -> None:
    source = load_spec(f"std:{name}")
    assert check(source).warnings == ()
    assert format_text(source) == source.text


def _gradients(loss: Tensor, drawn: Drawn) -> list[Tensor]:
    found = torch.autograd.grad(loss, drawn.leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, drawn.leaves, strict=True)]


@pytest.mark.parametrize("case", cases(), ids=str)
def test_meaning(case: Case) -> None:
    drawn = draw(case)
    module = standard(case.name, **case.params)
    call = {"tensors": drawn.tensors, "scale": case.scale, **drawn.offsets}
    out, aux = reference(module, drawn.q, drawn.k, drawn.v, return_aux=True, **call)
    expected, statistic = attend(MECHANISMS[case.name], drawn.problem)
    close(out, expected)
    if "lse" in aux:
        close(aux["lse"], statistic)
    direction = torch.randn_like(expected)
    for found, wanted in zip(
        _gradients((out * direction).sum(), drawn), _gradients((expected * direction).sum(), drawn), strict=True
    ):
        close(found, wanted)


# --------------------------------------------------------------------- properties of the papers

#: Those that read positions only through i - j.
RELATIVE = [
    Case("causal"),
    Case("sliding_window", {"size": 5}),
    Case("dilated_window", {"size": 4, "dilation": 2}),
    Case("alibi"),
    Case("relative_table", {"L": 4}),
    Case("t5"),
    Case("rope", {"causal": True}),
]


@pytest.mark.parametrize("case", RELATIVE, ids=str)
def test_only_distances_matter(case: Case) -> None:
    drawn, module = draw(case), standard(case.name, **case.params)
    near = reference(module, drawn.q, drawn.k, drawn.v, tensors=drawn.tensors)
    far = reference(module, drawn.q, drawn.k, drawn.v, tensors=drawn.tensors, q_offset=2**31, k_offset=2**31)
    if case.name == "rope":  # the angle of a position past 2^31 is rounded
        torch.testing.assert_close(far, near, rtol=0, atol=1e-5)
    else:
        assert torch.equal(near, far)


def _line(extent: int, **rule: int | bool) -> Tensor:
    positions = [list(range(extent))]
    tokens = torch.zeros(1, 1, extent, 1, dtype=torch.float64)
    params = {"length": extent, **rule}
    return kept(MECHANISMS["neighborhood_1d"], Problem(tokens, tokens, tokens, positions, positions, params))[0, 0]


def test_neighborhoods_have_exactly_the_window_and_the_query() -> None:
    for extent in range(1, 14):
        for window in range(1, extent + 1):
            for stride in range(1, window + 1):
                table = _line(extent, window=window, stride=stride)
                assert table.sum(-1).eq(window).all()
                assert table.diagonal().all()


def test_neighborhood_of_an_odd_window_is_that_of_the_nearest_keys() -> None:
    for extent, window in ((9, 3), (9, 5), (9, 9)):
        for x in range(extent):
            nearest = sorted(range(extent), key=lambda y: (abs(y - x), y))
            inside = [y for y in range(extent) if neighborhood(x, y, extent, window, 1, 1, False)]
            assert max(abs(y - x) for y in inside) >= abs(nearest[window - 1] - x)
            assert len(inside) == window


def test_all_rules_of_a_line_agree_with_the_oracle() -> None:
    """The mask alone, for every window, stride and dilation that fits a short line, both directions."""
    text = "attention a(length: int, window: int, stride: int, dilation: int, causal: bool) {"
    text += " grid (x: length); mask neighborhood_1d(window, stride, dilation, causal); normalizer n }\n"
    text += "normalizer n { w = 1.0 }"
    for extent in (1, 4, 7, 11):
        tokens = torch.eye(extent, dtype=torch.float64)[None, None]
        for dilation in (1, 2, 3):
            for window in range(1, extent // dilation + 1):
                for stride in range(1, window + 1):
                    for causal in (False, True):
                        rule = {"window": window, "stride": stride, "dilation": dilation, "causal": causal}
                        module = module_of(text, length=extent, **rule)
                        assert torch.equal(reference(module, tokens, tokens, tokens)[0, 0] > 0, _line(extent, **rule))


def test_blocks_of_a_video_are_kept_as_counted_one_by_one() -> None:
    """The closed form of std:radial against densities of columns, counted, for frames that fit blocks or do not."""
    text = "attention a(frames: int, per_frame: int, block: int, decay: real, sink: int, beside: bool, thin: int) {"
    text += (
        " mask radial(frames, per_frame, block, decay, sink, beside, thin); normalizer n }\nnormalizer n { w = 1.0 }"
    )
    names = ("frames", "per_frame", "block", "decay", "sink", "beside", "thin")
    for values in (
        (4, 10, 4, 1.0, 1, False, 8),
        (3, 16, 8, 1.0, 1, False, 128),
        (9, 5, 2, 0.8, 0, True, 2),
        (5, 8, 3, 0.5, 2, False, 4),
        (2, 13, 12, 2.0, 0, False, 1),
        (8, 1, 5, 1.0, 0, True, 1),
    ):
        module, counted = module_of(text, **dict(zip(names, values, strict=True))), radial_blocks(*values)
        block, blocks = values[2], len(counted)
        tokens = torch.eye(blocks * block + 2, dtype=torch.float64)[None, None]
        found = reference(module, tokens, tokens, tokens)[0, 0] > 0
        expected = torch.ones_like(found)
        expected[:-2, :-2] = torch.tensor(counted).repeat_interleave(block, 0).repeat_interleave(block, 1)
        assert torch.equal(found, expected), values


def test_t5_buckets_of_both_formulas() -> None:
    """Every distance up to 300 reads the bucket that Hugging Face's float formula computes."""
    n = 300
    one = torch.zeros(1, 1, n, 1, dtype=torch.float64)
    for causal in (False, True):
        module = module_of(
            "normalizer n { w = s }\n"
            "attention a(table: real[32, H], causal: bool) { "
            "score 0 * dot(q, k); bias t5(table, causal); normalizer n }",
            causal=causal,
        )
        table = torch.arange(32, dtype=torch.float64)[:, None]
        values = torch.eye(n, dtype=torch.float64)[None, None]
        found = reference(module, one, one, values, tensors={"table": table})[0, 0]
        relative = torch.arange(n) - torch.arange(n)[:, None]
        assert torch.equal(found.long(), t5_bucket(relative, not causal))
