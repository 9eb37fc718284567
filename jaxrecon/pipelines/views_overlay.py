"""What cameras, masks and landmarks of a views folder mean, as numbers and drawn over each view."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxrecon.geometry.cameras import project_shared, triangulate
from jaxrecon.pipelines import output
from jaxrecon.pipelines import views_drawing as drawing
from jaxrecon.pipelines.views import Views
from jaxrecon.types import Cameras

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_SIDE = 1024
"""Longest side of a picture without its legend, pixels."""
_LEGEND = 28
_OUTLINE = (255, 0, 255)
_SEEN, _HIDDEN, _REPROJECTED, _ERROR = (0, 200, 0), (255, 140, 0), (0, 90, 255), (230, 0, 60)
_SEEN_TEXT, _HIDDEN_TEXT = (0, 100, 0), (170, 80, 0)
_HATCH = 16
"""Pixels between the lines over what is ignored."""
AXES = (("x", (230, 0, 0)), ("y", (0, 150, 0)), ("z", (0, 60, 230)))


@dataclasses.dataclass(frozen=True)
class Reprojection:
    """Landmarks triangulated from the views of one expression, seen again by their cameras."""

    points: Float[np.ndarray, "v 68 3"]
    """World units, of each view's expression; NaN where a landmark could not be triangulated."""
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
    points = np.full((*views.landmarks2d.shape[:2], 3), np.nan, np.float32)
    pixels = np.full(views.landmarks2d.shape, np.nan, np.float32)
    for expression in np.unique(views.expression):
        group = np.flatnonzero(views.expression == expression)
        if len(group) < 2:
            continue
        cameras = jax.tree.map(
            lambda x, group=group: np.asarray(x[group], np.float32), views.cameras
        )
        points[group], pixels[group] = _reproject(
            cameras, views.landmarks2d[group], views.landmark_weights[group]
        )
    errors = np.linalg.norm(pixels - views.landmarks2d, axis=-1)
    return Reprojection(points, pixels, np.where(views.landmark_weights > 0, errors, np.nan))


@jax.jit
def _reproject(
    cameras: Cameras, pixels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(v, p, 2) pixels -> their triangulation and its pixels, NaN where that is ill-posed."""
    points, known = triangulate(cameras, pixels, weights)
    again = jnp.where(known[None, :, None], project_shared(cameras, points)[0], jnp.nan)
    return jnp.where(known[:, None], points, jnp.nan), again


def axes_length(views: Views) -> float:
    """A power of ten, in world units, that spans a tenth of the image or more in the first view."""
    camera = _numpy_camera(views, 0)
    depth = max(float(np.linalg.norm(camera["t"])), 1e-9)
    return 10.0 ** math.floor(math.log10(0.5 * depth * views.sizes[0, 1] / camera["K"][0, 0]))


def write_overlays(
    views: Views, folder: pathlib.Path, reprojection: Reprojection | None
) -> list[pathlib.Path]:
    """Draw each view as `doctor_view_NNN.png` in a folder.

    Mask outline in magenta, ignored pixels hatched in grey, landmarks with their numbers (seen:
    green disc; hidden: orange ring), where their triangulation falls (blue cross, with a red line
    from the landmark), world axes (x red, y green, z blue) at the world's origin.
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
    fine = _ground(views, i, (drawing.FINE * size[0], drawing.FINE * size[1]))
    draw = ImageDraw.Draw(fine)
    if views.cameras is not None:
        _draw_axes(draw, views, i, scale)
    if views.landmarks2d is not None:
        _draw_landmarks(draw, views, i, scale, reprojection)
    picture = Image.new("RGB", (size[0], size[1] + _LEGEND), (255, 255, 255))
    picture.paste(drawing.smooth(fine))
    draw = ImageDraw.Draw(picture)
    taken: list[drawing.Box] = []
    if views.cameras is not None:
        _name_axes(draw, views, i, scale, taken)
    if views.landmarks2d is not None:
        _number_landmarks(draw, views, i, scale, taken)
    _write_legend(draw, size[1], views, i, reprojection)
    with output.atomic(path) as temporary:
        picture.save(temporary, format="PNG")
    return path


def _ground(views: Views, i: int, size: tuple[int, int]) -> Image.Image:
    """The photograph at some size, with the mask's outline and a hatch over what is ignored."""
    from PIL import Image

    height, width = (int(n) for n in views.sizes[i])
    pixels = np.round(views.images[i, :height, :width] * 255).astype(np.uint8)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)

    def enlarged(mask: np.ndarray) -> Bool[np.ndarray, "h w"]:
        image = Image.fromarray(np.where(mask[:height, :width] > 0, 255, 0).astype(np.uint8))
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR)) > 127

    colours = np.asarray(picture).copy()
    ignored = enlarged(~views.valid[i])
    colours[ignored] = colours[ignored] // 2 + 64
    row, column = np.ogrid[: size[1], : size[0]]
    lines = (row + column) % (_HATCH * drawing.FINE) < 2 * drawing.FINE
    colours[ignored & lines] = (90, 90, 90)
    if views.mask is not None:
        colours[drawing.outline(enlarged(views.mask[i]), 2 * drawing.FINE)] = _OUTLINE
    return Image.fromarray(colours)


def _numpy_camera(views: Views, i: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(getattr(views.cameras, name)[i]) for name in ("K", "R", "t")}


# ---------------------------------------------------------------- axes


def _axes_pixels(views: Views, i: int, scale: float) -> np.ndarray | None:
    """Pixels (4, 2) of the world's origin and of the ends of its axes; None behind the camera."""
    camera = _numpy_camera(views, i)
    points = np.concatenate([np.zeros((1, 3)), axes_length(views) * np.eye(3)])
    x = points @ camera["R"].T + camera["t"]
    if x[0, 2] <= 0:
        return None
    return (x @ camera["K"].T)[:, :2] / np.maximum(x[:, 2:], 1e-6) * scale


def _draw_axes(draw: ImageDraw.ImageDraw, views: Views, i: int, scale: float) -> None:
    p = _axes_pixels(views, i, scale)
    for (_, colour), end in zip(AXES, [] if p is None else p[1:], strict=False):
        drawing.line(draw, [p[0], end], colour, 3)  # pyright: ignore[reportOptionalSubscript]


def _name_axes(
    draw: ImageDraw.ImageDraw, views: Views, i: int, scale: float, taken: list[drawing.Box]
) -> None:
    p = _axes_pixels(views, i, scale)
    if p is None:
        drawing.text(draw, (8, 8), "the world's origin is behind this camera", AXES[0][1], 15)
        return
    for (name, colour), end in zip(AXES, p[1:], strict=True):
        if (np.abs(end) < 1e5).all():
            at = drawing.label_place(end, (14, 18), taken, away=p[0])
            drawing.text(draw, at, name, colour, 18, "mm")
    unit = unit_name(views)
    drawing.text(
        draw, (8, 8), f"axes: {axes_length(views):g} {unit} from the origin", (0, 0, 0), 15
    )


def unit_name(views: Views) -> str:
    """The world's unit, short."""
    return {"millimetres": "mm", "metres": "m"}.get(views.units or "", "units")


# ---------------------------------------------------------------- landmarks


def _landmarks(views: Views, i: int, scale: float) -> list[tuple[int, np.ndarray, bool]]:
    """Number, place in the picture, and whether it is seen, of each known landmark."""
    marks: Any = views.landmarks2d
    weights: Any = views.landmark_weights
    valid: Any = views.landmark_valid
    return [(int(k), marks[i, k] * scale, bool(weights[i, k] > 0)) for k in np.flatnonzero(valid)]


def _draw_landmarks(
    draw: ImageDraw.ImageDraw,
    views: Views,
    i: int,
    scale: float,
    reprojection: Reprojection | None,
) -> None:
    for k, at, seen in _landmarks(views, i, scale):
        drawing.disc(draw, at, 3.5, _SEEN if seen else None, _SEEN if seen else _HIDDEN)
        if reprojection is None or not np.isfinite(reprojection.pixels[i, k]).all():
            continue
        again = reprojection.pixels[i, k] * scale
        if seen and np.linalg.norm(again - at) > 4:  # shorter ones are under the disc
            drawing.line(draw, [at, again], _ERROR)
        for step in ((5, 0), (0, 5)):
            drawing.line(draw, [again - step, again + step], _REPROJECTED)


def _number_landmarks(
    draw: ImageDraw.ImageDraw, views: Views, i: int, scale: float, taken: list[drawing.Box]
) -> None:
    marks = _landmarks(views, i, scale)
    taken += [(x - 4, y - 4, x + 4, y + 4) for _, (x, y), _ in marks]
    for k, at, seen in marks:
        if (np.abs(at) < 1e5).all():
            place = drawing.label_place(at, (15 if k > 9 else 8, 11), taken)
            drawing.text(draw, place, str(k), _SEEN_TEXT if seen else _HIDDEN_TEXT, 12, "mm")


def _write_legend(
    draw: ImageDraw.ImageDraw, top: int, views: Views, i: int, reprojection: Reprojection | None
) -> None:
    """One line below the picture that says what its signs mean."""
    words: list[tuple[str, drawing.Colour]] = []
    found = {} if not views.detections else views.detections[i]
    if views.mask is not None:
        words.append((f"outline: mask{_found(found, 'mask')}", (190, 0, 190)))
    if views.landmarks2d is not None:
        words.append((f"disc: landmark{_found(found, 'landmarks')}", _SEEN_TEXT))
        words.append(("ring: hidden landmark", _HIDDEN_TEXT))
    if reprojection is not None:
        words.append(("cross: where the cameras put it", _REPROJECTED))
    if not views.valid.all():
        words.append(("hatched: ignored", (90, 90, 90)))
    x = 8.0
    for word, colour in words:
        drawing.text(draw, (x, top + _LEGEND / 2), word, colour, 14, "lm")
        x += draw.textlength(word, font=drawing.font(14)) + 20


def _found(parts: Mapping[str, str], part: str) -> str:
    """A word where a part was not given."""
    return " (found, not given)" if part in parts else ""
