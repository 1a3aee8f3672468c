"""Calls of the masks of images and videos."""

from __future__ import annotations

from typing import Any

from tests.oracles.case import Case


def _neighborhoods() -> list[Case]:
    line = [
        (7, {"window": 3}),
        (8, {"window": 4}),
        (13, {"window": 4, "stride": 2}),
        (13, {"window": 5, "stride": 3}),
        (12, {"window": 4, "stride": 4}),
        (13, {"window": 3, "dilation": 3}),
        (15, {"window": 4, "stride": 2, "dilation": 3}),
        (13, {"window": 4, "causal": True}),
        (13, {"window": 4, "stride": 3, "causal": True}),
        (14, {"window": 4, "stride": 2, "dilation": 3, "causal": True}),
        (5, {"window": 5, "stride": 5}),
        (1, {"window": 1}),
    ]
    plane = [
        {"height": 4, "width": 6, "window_y": 3, "window_x": 4},
        {"height": 5, "width": 4, "window_y": 4, "window_x": 2, "stride_y": 2, "dilation_x": 2},
        {"height": 5, "width": 3, "window_y": 2, "window_x": 3, "causal_y": True, "stride_x": 3},
    ]
    space: list[dict[str, Any]] = [
        {"frames": 3, "height": 3, "width": 4, "window_t": 2, "window_y": 3, "window_x": 2},
        {
            "frames": 4, "height": 2, "width": 5, "window_t": 2, "window_y": 2, "window_x": 2,
            "stride_t": 2, "stride_x": 2, "dilation_x": 2, "causal_t": True,
        },
    ]  # fmt: skip
    cases = [Case("neighborhood_1d", {"length": n, **rest}, n, n) for n, rest in line]
    for params in (*plane, *space):
        n = params.get("frames", 1) * params["height"] * params["width"]
        name = "neighborhood_3d" if "frames" in params else "neighborhood_2d"
        cases.append(Case(name, params, n, n, batch=1))
    return cases


def _images() -> list[Case]:
    """Of one batch and head group each: these masks read neither."""
    found = [
        ("halo", 6, 9, {"block": 3, "halo": 1}),
        ("halo", 4, 4, {"block": 2, "halo": 3}),
        ("halo", 5, 7, {"block": 4, "halo": 0}),
        ("swin", 4, 6, {"window": 2}),
        ("swin", 6, 9, {"window": 3, "shift": 1}),
        ("swin", 4, 8, {"window": 4, "shift": 2}),
        ("maxvit_block", 6, 4, {"size": 2}),
        ("maxvit_grid", 6, 4, {"size": 2}),
        ("maxvit_grid", 3, 6, {"size": 3}),
        ("axial", 4, 5, {"axis": 0}),
        ("axial", 4, 5, {"axis": 1, "causal": True}),
        ("axial", 3, 5, {"axis": 2}),
        ("axial", 4, 3, {"axis": 2, "causal": True}),
    ]
    return [
        Case(name, {"height": height, "width": width, **rest}, height * width, height * width, batch=1)
        for name, height, width, rest in found
    ]


def _videos() -> list[Case]:
    tiles = [
        ((2, 4, 6), {"window_t": 1, "window_y": 1, "window_x": 3, "tile_t": 1, "tile_y": 2, "tile_x": 2}),
        ((4, 2, 8), {"window_t": 2, "window_y": 1, "window_x": 2, "tile_t": 1, "tile_y": 2, "tile_x": 2}),
    ]
    neighbors = [
        ((2, 3, 4), 7, 0, {"window_t": 1, "window_y": 3, "window_x": 2}),
        ((3, 2, 3), 4, 4, {"window_t": 2, "window_y": 1, "window_x": 3, "stride_t": 2}),
        ((2, 2, 3), 9, 5, {"window_t": 1, "window_y": 1, "window_x": 2, "stride_x": 2}),
    ]
    cases: list[Case] = []
    for extents, rest in tiles:
        frames, height, width = extents
        n = frames * height * width
        params = {"frames": frames, "height": height, "width": width, **rest}
        cases.append(Case("sliding_tile_3d", params, n, n, batch=1))
    for extents, text, start, rest in neighbors:
        frames, height, width = extents
        n = frames * height * width + text
        params = {"frames": frames, "height": height, "width": width, "start": start, **rest}
        cases.append(Case("neighborhood_3d_text", params, n, n, batch=1))
    return cases


def _radial() -> list[Case]:
    """Frames that begin inside of blocks, text behind the video; then blocks of two frames."""
    found: list[tuple[int, dict[str, Any]]] = [
        (17, {"frames": 3, "per_frame": 5, "block": 4, "thin": 2, "beside": True}),
        (25, {"frames": 7, "per_frame": 3, "block": 4, "thin": 2, "decay": 0.8, "sink": 0}),
    ]
    return [Case("radial", params, n, n, heads=1, batch=1) for n, params in found]


GRID_CASES = (*_neighborhoods(), *_images(), *_videos(), *_radial())
