"""Cameras of a views folder drawn in their world: frusta from above, from the side, aslant."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.pipelines import output
from jaxrecon.pipelines import views_drawing as drawing
from jaxrecon.pipelines.views import Views
from jaxrecon.pipelines.views_overlay import AXES, Reprojection, axes_length, unit_name

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Page = Callable[[np.ndarray], np.ndarray]
"""World points (*n, 3) to pixels of a panel (*n, 2)."""

_PANEL = 640
_MARGIN = 48
_HEAD = 30
_DEPTH = 0.25
"""Length of a frustum, as a share of the cameras' median distance."""
_MOST_POINTS = 4000
_COLOURS = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167),
    (86, 130, 233), (160, 120, 0), (120, 60, 160), (90, 90, 90),
)  # fmt: skip
# iBUG order: jaw, brows, nose, eyes, lips
_CURVES = (
    *(range(0, 17), range(17, 22), range(22, 27), range(27, 31), range(31, 36)),
    *([*range(36, 42), 36], [*range(42, 48), 42], [*range(48, 60), 48], [*range(60, 68), 60]),
)
_FACE = (8, 27, 30, 36, 45, 48, 54)
"""Chin, top and tip of the nose, outer corners of eyes and mouth."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """What is drawn, in world units."""

    centre: Float[np.ndarray, "3"]
    """What the cameras look at."""
    frame: Float[np.ndarray, "3 3"]
    """Rows: the subject's left, up, and forward towards the cameras."""
    frusta: Float[np.ndarray, "v 5 3"]
    """Centre of each camera, then the corners of its picture: upper left, upper right, lower
    right, lower left."""
    points: Float[np.ndarray, "n 3"]
    """Of the ground truth; none where there is no mesh."""
    landmarks: Float[np.ndarray, "68 3"] | None
    """Of the first expression that has any, NaN where unknown."""


def write_frusta(
    views: Views, folder: pathlib.Path, reprojection: Reprojection | None
) -> pathlib.Path | None:
    """Draw `doctor_cameras.png` in a folder: the cameras' frusta with the views' numbers, the
    triangulated landmarks, points of the ground truth where there is one, and the world's axes;
    None without cameras.

    Four panels: from above, from the subject's left, aslant, and the subject alone from the front;
    where no landmarks tell what its front is, the cameras do.
    """
    if views.cameras is None:
        return None
    from PIL import Image, ImageDraw

    scene = _scene(views, reprojection)
    left, up, forward = scene.frame
    slant = _unit(0.8 * left + 0.55 * up + 0.75 * forward)
    panels = (
        ("from above", left, -forward),
        ("from the side" if scene.landmarks is None else "from the subject's left", -forward, up),
        ("aslant", _unit(np.cross(up, slant)), np.cross(slant, _unit(np.cross(up, slant)))),
        ("the subject, from the front", left, up),
    )
    size = (2 * _PANEL, 2 * (_PANEL + _HEAD))
    picture = Image.new("RGB", size, (255, 255, 255))
    for k, (title, right, above) in enumerate(panels):
        corner = (k % 2 * _PANEL, k // 2 * (_PANEL + _HEAD))
        panel = _draw_panel(views, scene, np.stack([right, above]), close=k == 3)
        picture.paste(panel, (corner[0], corner[1] + _HEAD))
        draw = ImageDraw.Draw(picture)
        drawing.text(draw, (corner[0] + 12, corner[1] + 8), title, (0, 0, 0), 17)
    ImageDraw.Draw(picture).line([(_PANEL, 0), (_PANEL, size[1])], fill=(210, 210, 210))
    ImageDraw.Draw(picture).line([(0, size[1] // 2), (size[0], size[1] // 2)], fill=(210, 210, 210))
    path = folder / "doctor_cameras.png"
    with output.atomic(path) as temporary:
        picture.save(temporary, format="PNG")
    return path


# ---------------------------------------------------------------- the scene


def camera_centres(views: Views) -> Float[np.ndarray, "v 3"]:
    """Centres of the cameras, world."""
    assert views.cameras is not None
    R, t = np.asarray(views.cameras.R), np.asarray(views.cameras.t)
    return -np.einsum("vji,vj->vi", R, t)


def looked_at(views: Views, reprojection: Reprojection | None) -> Float[np.ndarray, "3"]:
    """The middle of the triangulated landmarks, else the point nearest to all optical axes."""
    if reprojection is not None and np.isfinite(reprojection.points).any():
        return np.nanmean(reprojection.points.reshape(-1, 3), axis=0).astype(np.float64)
    assert views.cameras is not None
    d = np.asarray(views.cameras.R)[:, 2]
    across = np.eye(3) - d[:, :, None] * d[:, None, :]
    centres = camera_centres(views)
    offset = np.einsum("vij,vj->i", across, centres)
    # a little of each camera's own distance to the origin, for one camera and for parallel axes
    distance = np.linalg.norm(np.asarray(views.cameras.t), axis=-1).mean()
    guess = (centres + distance * d).mean(axis=0)
    A = across.sum(axis=0) + 1e-3 * np.eye(3)
    return np.linalg.solve(A, offset + 1e-3 * guess)


def _scene(views: Views, reprojection: Reprojection | None) -> Scene:
    assert views.cameras is not None
    K, R = np.asarray(views.cameras.K), np.asarray(views.cameras.R)
    centre, eyes = looked_at(views, reprojection), camera_centres(views)
    depth = _DEPTH * float(np.median(np.linalg.norm(eyes - centre, axis=-1)))
    corners = np.zeros((len(eyes), 4, 3))
    for i, (height, width) in enumerate(views.sizes):
        pixels = [(0, 0, 1), (width, 0, 1), (width, height, 1), (0, height, 1)]
        rays = np.linalg.solve(K[i], np.array(pixels, np.float64).T).T  # depth 1
        corners[i] = eyes[i] + depth * rays @ R[i]
    landmarks = None
    if reprojection is not None:
        known = np.isfinite(reprojection.points[..., 0]).any(axis=-1)
        landmarks = (
            reprojection.points[np.argmax(known)].astype(np.float64) if known.any() else None
        )
    return Scene(
        centre=centre,
        frame=_frame(R, eyes - centre, landmarks),
        frusta=np.concatenate([eyes[:, None], corners], axis=1),
        points=_ground_truth(views),
        landmarks=landmarks,
    )


def _frame(R: np.ndarray, towards: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
    """Axes of the face where it is known, else those of the cameras."""
    up, forward = -R[:, 1].mean(axis=0), towards.mean(axis=0)
    if landmarks is not None and np.isfinite(landmarks[list(_FACE)]).all():
        chin, top, tip, *corners = landmarks[list(_FACE)]
        up, forward = top - chin, tip - np.mean(corners, axis=0)
    if np.linalg.norm(np.cross(up, forward)) < 1e-6 * np.linalg.norm(up) * np.linalg.norm(forward):
        up, forward = -R[0, 1], -R[0, 2]  # cameras all around cancel
    up = _unit(up)
    forward = _unit(forward - up * (up @ forward))
    return np.stack([np.cross(up, forward), up, forward])


def _unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.linalg.norm(x)), 1e-12)


def _ground_truth(views: Views) -> np.ndarray:
    """Some vertices of the first ground-truth mesh; none where it is absent or broken."""
    from jaxrecon.geometry.mesh_io import load_mesh

    path = next((p for p in views.ground_truth if p is not None), None)
    if path is None:
        return np.zeros((0, 3))
    try:
        vertices = np.asarray(load_mesh(path).vertices, np.float64)
    except InputError:
        return np.zeros((0, 3))  # a fit does not need it; `evaluate` says what is wrong
    return vertices[:: max(1, len(vertices) // _MOST_POINTS)]


# ---------------------------------------------------------------- a panel


def _draw_panel(views: Views, scene: Scene, plane: np.ndarray, close: bool) -> Image.Image:
    """One orthographic picture; `plane` (2, 3) holds the page's right and up in the world."""
    from PIL import Image, ImageDraw

    subject = scene.points if scene.landmarks is None else scene.landmarks
    subject = subject[np.isfinite(subject).all(axis=-1)]
    shown = subject if close and len(subject) > 2 else np.concatenate(
        [subject, scene.points, scene.frusta.reshape(-1, 3), scene.centre[None]]
    )  # fmt: skip
    length = axes_length(views)
    axes = np.concatenate([np.zeros((1, 3)), length * np.eye(3)])
    flat = (shown - scene.centre) @ plane.T
    low, high = flat.min(axis=0), flat.max(axis=0)
    span = max(float((high - low).max()), 1e-9)
    middle, zoom = (low + high) / 2, (_PANEL - 2 * _MARGIN) / span

    def page(x: np.ndarray) -> np.ndarray:
        p = ((x - scene.centre) @ plane.T - middle) * zoom
        return p * (1, -1) + _PANEL / 2

    fine = Image.new("RGB", (drawing.FINE * _PANEL, drawing.FINE * _PANEL), (255, 255, 255))
    draw = ImageDraw.Draw(fine)
    for point in page(scene.points):
        drawing.disc(draw, point, 0.6, (205, 205, 205))
    _draw_face(draw, scene, page, 2.2 if close else 1.3)
    for (_, colour), end in zip(AXES, page(axes)[1:], strict=True):
        drawing.line(draw, [page(axes)[0], end], colour, 2)
    if not close:
        for i, frustum in enumerate(scene.frusta):
            _draw_frustum(draw, page, frustum, scene.centre, _COLOURS[i % len(_COLOURS)])
    panel = drawing.smooth(fine)
    _write_names(ImageDraw.Draw(panel), views, scene, page, page(axes), zoom, close)
    return panel


def _draw_face(draw: ImageDraw.ImageDraw, scene: Scene, page: Page, radius: float) -> None:
    if scene.landmarks is None:
        return
    known = np.asarray(np.isfinite(scene.landmarks).all(axis=-1))
    p = page(np.where(known[:, None], scene.landmarks, scene.centre))
    for curve in _CURVES:
        steps = list(curve)
        for a, b in zip(steps[:-1], steps[1:], strict=True):
            if known[a] and known[b]:
                drawing.line(draw, [p[a], p[b]], (140, 140, 140))
    for k in np.flatnonzero(known):
        drawing.disc(draw, p[k], radius, (60, 60, 60))


def _draw_frustum(
    draw: ImageDraw.ImageDraw,
    page: Page,
    frustum: np.ndarray,
    centre: np.ndarray,
    colour: drawing.Colour,
) -> None:
    """A pyramid, thicker along the upper side of the picture, and its optical axis up to the
    subject's distance."""
    p = page(frustum)
    eye = frustum[0]
    axis = _unit(frustum[1:].mean(axis=0) - eye)
    far = page(eye + axis * np.linalg.norm(centre - eye))
    pale = tuple(int(0.35 * c + 0.65 * 255) for c in colour)
    drawing.line(draw, [p[0], far], pale)  # pyright: ignore[reportArgumentType]
    for corner in p[1:]:
        drawing.line(draw, [p[0], corner], colour)
    drawing.line(draw, [*p[1:], p[1]], colour)
    drawing.line(draw, [p[1], p[2]], colour, 3)


def _write_names(
    draw: ImageDraw.ImageDraw,
    views: Views,
    scene: Scene,
    page: Page,
    axes: np.ndarray,
    zoom: float,
    close: bool,
) -> None:
    """Numbers of views and landmarks, names of axes, and a measuring bar."""
    taken: list[drawing.Box] = []
    if close and scene.landmarks is not None:
        for k in (0, 8, 16, 27, 30, 36, 45, 48, 54):
            if np.isfinite(scene.landmarks[k]).all():
                at = drawing.label_place(page(scene.landmarks[k]), (16, 13), taken)
                drawing.text(draw, at, str(k), (60, 60, 60), 13, "mm")
    for i, number in enumerate(() if close else views.indices):
        eye, middle = page(scene.frusta[i, 0]), page(scene.frusta[i].mean(axis=0))
        at = drawing.label_place(eye, (10 + 9 * len(str(number)), 18), taken, middle)
        drawing.text(draw, at, str(number), _COLOURS[i % len(_COLOURS)], 18, "mm")
    inside = [(-1 < p).all() and (p < _PANEL + 1).all() for p in axes]
    apart = np.linalg.norm(axes[1:] - axes[0], axis=-1) > 8
    for k, (name, colour) in enumerate(AXES):
        if inside[k + 1] and apart[k]:
            at = drawing.label_place(axes[k + 1], (12, 15), taken, axes[0])
            drawing.text(draw, at, name, colour, 15, "mm")
    bar = 10.0 ** math.floor(math.log10((_PANEL - 2 * _MARGIN) / zoom / 2))
    y = _PANEL - 22
    draw.line([(12, y), (12 + bar * zoom, y)], fill=(0, 0, 0), width=3)
    drawing.text(draw, (16 + bar * zoom, y), f" {bar:g} {unit_name(views)}", (0, 0, 0), 14, "lm")
    if not close and not inside[0]:
        drawing.text(draw, (_PANEL - 12, y), "the origin is outside", (90, 90, 90), 14, "rm")
