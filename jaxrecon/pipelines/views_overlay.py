"""What cameras, masks and landmarks of a views folder mean, as numbers and as pictures."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrecon.geometry.cameras import project_shared, triangulate
from jaxrecon.pipelines import output
from jaxrecon.pipelines.views import Views
from jaxrecon.types import Cameras

if TYPE_CHECKING:
    from PIL import ImageDraw

_SIDE = 1024
"""Longest side of a picture, pixels."""
_OUTLINE = (255, 0, 255)
_SEEN, _HIDDEN, _REPROJECTED = (0, 200, 0), (255, 140, 0), (0, 90, 255)
_AXES = (("x", (230, 0, 0)), ("y", (0, 150, 0)), ("z", (0, 60, 230)))


@dataclasses.dataclass(frozen=True)
class Reprojection:
    """Landmarks triangulated from the views of one expression, seen again by their cameras."""

    pixels: Float[np.ndarray, "v 68 2"]
    """NaN where a landmark could not be triangulated."""
    errors: Float[np.ndarray, "v 68"]
    """Pixels; NaN where the landmark is not seen in that view or could not be triangulated."""


def reproject(views: Views) -> Reprojection | None:
    """Triangulate the seen landmarks of each expression and project them; None without cameras.

    A landmark needs two views of its expression. The errors tell whether K, R, t and the pixels
    belong together: hand-marked points give a few pixels, wrong conventions give tens.
    """
    if views.cameras is None or views.landmarks2d is None or views.landmark_weights is None:
        return None
    pixels = np.full(views.landmarks2d.shape, np.nan, np.float32)
    for expression in np.unique(views.expression):
        group = np.flatnonzero(views.expression == expression)
        if len(group) < 2:
            continue
        cameras = jax.tree.map(
            lambda x, group=group: np.asarray(x[group], np.float32), views.cameras
        )
        pixels[group] = _reproject(cameras, views.landmarks2d[group], views.landmark_weights[group])
    errors = np.linalg.norm(pixels - views.landmarks2d, axis=-1)
    return Reprojection(pixels, np.where(views.landmark_weights > 0, errors, np.nan))


@jax.jit
def _reproject(cameras: Cameras, pixels: jax.Array, weights: jax.Array) -> jax.Array:
    """(v, p, 2) pixels -> the pixels of their triangulation, NaN where that is ill-posed."""
    points, known = triangulate(cameras, pixels, weights)
    return jnp.where(known[None, :, None], project_shared(cameras, points)[0], jnp.nan)


def axes_length(views: Views) -> float:
    """A power of ten, in world units, that spans a tenth of the image or more in the first view."""
    camera = _numpy_camera(views, 0)
    depth = max(float(np.linalg.norm(camera["t"])), 1e-9)
    return 10.0 ** math.floor(math.log10(0.5 * depth * views.sizes[0, 1] / camera["K"][0, 0]))


def write_overlays(
    views: Views, folder: pathlib.Path, reprojection: Reprojection | None
) -> list[pathlib.Path]:
    """Draw each view as `doctor_view_NNN.png` in a folder.

    Mask outline in magenta, ignored pixels in grey, landmarks with their numbers (seen: green disc;
    hidden: orange ring), where their triangulation falls (blue cross), world axes (x red, y green,
    z blue) at the world's origin.
    """
    return [
        _write_overlay(views, i, folder / f"doctor_view_{number:03d}.png", reprojection)
        for i, number in enumerate(views.indices)
    ]


def _write_overlay(
    views: Views, i: int, path: pathlib.Path, reprojection: Reprojection | None
) -> pathlib.Path:
    from PIL import Image, ImageDraw

    height, width = (int(n) for n in views.sizes[i])
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = np.where(views.valid[i][..., None], views.images[i], 0.5)[:height, :width]
    picture = Image.fromarray(np.round(pixels * 255).astype(np.uint8))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    if views.mask is not None:
        mask = Image.fromarray(views.mask[i, :height, :width].astype(np.uint8))
        inside = np.asarray(mask.resize(size, Image.Resampling.NEAREST)) > 0
        picture = Image.fromarray(
            np.where(_outline(inside)[..., None], np.array(_OUTLINE, np.uint8), np.asarray(picture))
        )
    draw = ImageDraw.Draw(picture)
    if views.cameras is not None:
        _draw_axes(draw, views, i, scale)
    if views.landmarks2d is not None:
        _draw_landmarks(draw, views, i, scale, reprojection)
    with output.atomic(path) as temporary:
        picture.save(temporary, format="PNG")
    return path


def _outline(inside: np.ndarray) -> np.ndarray:
    """Pixels of a mask that touch its outside, two wide."""
    core = inside
    for _ in range(2):
        padded = np.pad(core, 1, mode="edge")
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def _numpy_camera(views: Views, i: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(getattr(views.cameras, name)[i]) for name in ("K", "R", "t")}


def _draw_axes(draw: ImageDraw.ImageDraw, views: Views, i: int, scale: float) -> None:
    camera = _numpy_camera(views, i)
    length = axes_length(views)
    points = np.concatenate([np.zeros((1, 3)), length * np.eye(3)])
    x = points @ camera["R"].T + camera["t"]
    if x[0, 2] <= 0:
        _text(draw, (8, 8), "the world's origin is behind this camera", _AXES[0][1])
        return
    p = (x @ camera["K"].T)[:, :2] / np.maximum(x[:, 2:], 1e-6) * scale
    if not (np.abs(p) < 1e5).all():
        return
    for (name, colour), end in zip(_AXES, p[1:], strict=True):
        draw.line([tuple(p[0]), tuple(end)], fill=colour, width=4)
        _text(draw, tuple(end + 4), name, colour)
    _text(draw, (8, 8), f"axes: {length:g} {views.units} from the world's origin", (0, 0, 0))


def _draw_landmarks(
    draw: ImageDraw.ImageDraw,
    views: Views,
    i: int,
    scale: float,
    reprojection: Reprojection | None,
) -> None:
    marks: Any = views.landmarks2d
    weights: Any = views.landmark_weights
    valid: Any = views.landmark_valid
    for k in np.flatnonzero(valid):
        u, v = marks[i, k] * scale
        seen = weights[i, k] > 0
        colour = _SEEN if seen else _HIDDEN
        draw.ellipse([u - 3, v - 3, u + 3, v + 3], outline=colour, fill=colour if seen else None)
        _text(draw, (u + 4, v - 5), str(k), colour)
        if reprojection is not None and np.isfinite(reprojection.pixels[i, k]).all():
            a, b = reprojection.pixels[i, k] * scale
            if max(abs(a), abs(b)) < 1e5:
                draw.line([a - 5, b, a + 5, b], fill=_REPROJECTED)
                draw.line([a, b - 5, a, b + 5], fill=_REPROJECTED)


def _text(draw: ImageDraw.ImageDraw, at: tuple, text: str, colour: tuple) -> None:
    draw.text(at, text, fill=colour, stroke_width=1, stroke_fill=(255, 255, 255))
