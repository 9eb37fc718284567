"""Drawing with Pillow: smooth lines by drawing larger, and labels that avoid each other."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

FINE = 2
"""Lines are drawn so many times larger and then averaged."""
_DIRECTIONS = [(math.cos(a * math.pi / 4), math.sin(a * math.pi / 4)) for a in range(8)]
_FAR = 1e5

Box = tuple[Any, Any, Any, Any]
"""left, top, right, bottom"""
Colour = tuple[int, int, int]
Point = Sequence[Any] | np.ndarray
"""(x, y) in pixels of the final picture."""


@functools.cache
def font(size: int) -> Any:
    """Pillow's own font at a height in pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def smooth(picture: Image.Image) -> Image.Image:
    """A picture that was drawn `FINE` times too large, averaged (flat colours stay exact)."""
    return picture.reduce(FINE)


def line(
    draw: ImageDraw.ImageDraw, points: Sequence[Point], colour: Colour, width: float | int = 1
) -> None:
    """A polyline in final pixels on a picture `FINE` times as large; none where a point is far
    outside, where drawing would take for ever."""
    flat = [(FINE * float(p[0]), FINE * float(p[1])) for p in points]
    if all(abs(x) < _FAR and abs(y) < _FAR for x, y in flat):
        draw.line(flat, fill=colour, width=max(1, round(FINE * width)), joint="curve")


def disc(
    draw: ImageDraw.ImageDraw,
    at: Point,
    radius: float | int,
    fill: Colour | None,
    outline: Colour | None = None,
) -> None:
    """A disc or a ring in final pixels on a picture `FINE` times as large."""
    x, y, r = FINE * float(at[0]), FINE * float(at[1]), FINE * radius
    if max(abs(x), abs(y)) < _FAR:
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill, outline=outline, width=FINE + 1)


def text(
    draw: ImageDraw.ImageDraw,
    at: Point,
    words: str,
    colour: Colour,
    size: int = 13,
    anchor: str = "la",
) -> None:
    """Words with a white rim, readable on any ground; on the final picture."""
    draw.text(
        (float(at[0]), float(at[1])),
        words,
        fill=colour,
        font=font(size),
        anchor=anchor,
        stroke_width=2,
        stroke_fill=(255, 255, 255),
    )


def label_place(
    at: Point,
    extent: tuple[float | int, float | int],
    taken: list[Box],
    away: Point | None = None,
    near: float = 5.0,
) -> tuple[float, float]:
    """The centre of a label of some (width, height) beside a point, clear of the boxes taken, to
    which it is added; the first choice where nothing is clear. It lies rather on the side that is
    farther from `away`, else on the right."""
    half_width, half_height = extent[0] / 2, extent[1] / 2
    side = (1.0, 0.0) if away is None else (float(at[0] - away[0]), float(at[1] - away[1]))
    directions = sorted(_DIRECTIONS, key=lambda d: -(d[0] * side[0] + d[1] * side[1]))
    choices = []
    for distance in (near, 2 * near, 3.5 * near, 6 * near):
        for dx, dy in directions:
            x = float(at[0]) + dx * (distance + half_width)
            y = float(at[1]) + dy * (distance + half_height)
            choices.append((x, y))
    boxes = [(x - half_width, y - half_height, x + half_width, y + half_height) for x, y in choices]
    clear = (i for i, box in enumerate(boxes) if not any(_overlap(box, b) for b in taken))
    best = next(clear, 0)
    taken.append(boxes[best])
    return choices[best]


def _overlap(a: Box, b: Box) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


def outline(inside: Bool[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """Pixels of a mask within some steps of its outside."""
    core = inside
    for _ in range(width):
        padded = np.pad(core, 1, mode="edge")
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core
