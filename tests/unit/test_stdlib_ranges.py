"""Sizes that the masks of the standard library do not have: windows beyond their axis, strides above windows."""

from __future__ import annotations

from typing import Any

import pytest

from attnc.diagnostics import SpecError
from tests.oracles.modules import standard

PLANE = {"height": 12, "width": 16, "window_y": 5, "window_x": 4}
SPACE = {"frames": 6, "window_t": 3, **PLANE}
TILES = {"frames": 12, "height": 32, "width": 32}


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("neighborhood_1d", {"length": 12, "window": 13}, "`window` is 13, outside [1, length] = [1, 12]"),
        ("neighborhood_1d", {"length": 12, "window": 8, "stride": 9}, "`stride` is 9, outside [1, window] = [1, 8]"),
        ("neighborhood_1d", {"length": 12, "window": 5, "dilation": 3}, "outside [1, length // window] = [1, 2]"),
        ("neighborhood_2d", {**PLANE, "stride_y": 6}, "`stride_y` is 6, outside [1, window_y] = [1, 5]"),
        ("neighborhood_2d", {**PLANE, "window_x": 17}, "`window_x` is 17, outside [1, width] = [1, 16]"),
        ("neighborhood_2d", {**PLANE, "dilation_x": 5}, "`dilation_x` is 5, outside [1, width // window_x] = [1, 4]"),
        ("neighborhood_3d", {**SPACE, "stride_t": 4}, "`stride_t` is 4, outside [1, window_t] = [1, 3]"),
        ("neighborhood_3d", {**SPACE, "window_t": 7}, "`window_t` is 7, outside [1, frames] = [1, 6]"),
        ("neighborhood_3d_text", {**SPACE, "stride_x": 5}, "`stride_x` is 5, outside [1, window_x] = [1, 4]"),
        (
            "sliding_tile_3d",
            {**TILES, "tile_y": 5},
            "`height` is 32, outside [tile_y, inf) in steps of tile_y = [5, inf)",
        ),
        ("sliding_tile_3d", TILES, "`window_t` is 3 by default, outside [1, frames // tile_t] = [1, 2]"),
        ("swin", {"height": 14, "width": 14, "shift": 7}, "`shift` is 7, outside [0, window) = [0, 7)"),
        (
            "swin",
            {"height": 14, "width": 20},
            "`width` is 20, outside [window, inf) in steps of window = [7, inf) in steps",
        ),
        (
            "maxvit_grid",
            {"height": 14, "width": 6},
            "`width` is 6, outside [size, inf) in steps of size = [7, inf) in steps",
        ),
        ("maxvit_block", {"height": 15, "width": 7}, "`height` is 15, outside [size, inf) in steps of size = [7, inf)"),
        ("radial", {"frames": 4, "per_frame": 1}, "`block` is 128 by default, outside [1, 63 * per_frame] = [1, 63]"),
        ("fixed", {"vertsize": 5}, "`vertsize` is 5, outside [1, stride] = [1, 4]"),
        ("fixed", {"vertsize": 2, "num_verts": 3}, "outside [1, stride // vertsize] = [1, 2]"),
        ("sliding_window", {"size": 0}, "`size` is 0, outside [1, inf)"),
        ("streaming", {"window": 0}, "`window` is 0, outside [1, inf)"),
        ("dilated_window", {"size": 0, "dilation": 1}, "`size` is 0, outside [1, inf)"),
        ("softcap", {"cap": 0.0}, "`cap` is 0.0, outside (0, inf)"),
    ],
)
def test_sizes_that_do_not_fit_are_errors_with_the_sizes(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        standard(name, **params)
    assert message in caught.value.diagnostics[0].title


def test_windows_as_large_as_their_axis_are_fine() -> None:
    standard("neighborhood_1d", length=12, window=12, stride=12)
    standard("neighborhood_1d", length=12, window=4, dilation=3)
    standard("swin", height=14, width=14, shift=6)
