"""What a fit is given, from a views folder: arrays, masks of the mouth, and early checks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxrecon.errors import InputError
from jaxrecon.fitting.fit import FitResult
from jaxrecon.fitting.problem import CameraMode, ViewData
from jaxrecon.pipelines.priors import Prior
from jaxrecon.pipelines.views import Views, check_all_masked
from jaxrecon.types import Cameras

UNIT_MM = {"millimetres": 1.0, "metres": 1000.0}
LIMIT = 512
"""Pixels that a fit looks at, along the longer side of a view, unless a preset says otherwise."""
LENS = 1.0
"""Guess of an unknown focal length over the longer side of a photograph: 36 mm on 35 mm film."""
FILM_DIAGONAL_MM = 43.27
"""Of 35 mm film; cameras state their equivalent focal length by the diagonal."""
CameraChoice = Literal["auto", "given", "refine", "estimate"]


def camera_mode(views: Views, choice: CameraChoice = "auto") -> CameraMode:
    """What a fit does with the cameras of these views.

    Args:
        views: loaded.
        choice: `auto` takes cameras that are there and estimates them where they are not; `given`
            and `refine` need them; `estimate` ignores R and t.

    Returns:
        `given`, `refine`, `estimate` (K is known), or `estimate_focal` (nothing is).

    Raises:
        InputError: cameras are needed and not there.
    """
    if choice == "auto":
        choice = "estimate" if views.cameras is None else "given"
    if choice == "estimate":
        return "estimate_focal" if views.intrinsics is None else "estimate"
    if views.cameras is None:
        raise InputError(
            f"{views.folder} has no cameras.json with R and t, and --cameras is {choice}",
            "cameras.json with K, R and t of each view",
            "--cameras estimate finds them; `jaxrecon import-cameras` brings them from elsewhere",
        )
    return choice


@dataclasses.dataclass(frozen=True)
class Crops:
    """The part of each photograph that a fit looks at, scaled and padded to one square size."""

    boxes: Int[np.ndarray, "v 4"]
    """left, top, right, bottom in the photograph, pixels"""
    sizes: Int[np.ndarray, "v 2"]
    """(height, width) of the part after scaling"""
    side: int
    """of the square that every part is padded to"""

    def scale(self) -> Float[np.ndarray, "v 2"]:
        """(x, y) pixels of the crop per pixel of the photograph."""
        return self.sizes[:, ::-1] / (self.boxes[:, 2:] - self.boxes[:, :2])

    def pixels(self, points: Float[np.ndarray, "v n 2"]) -> Float[np.ndarray, "v n 2"]:
        """Pixels of the photographs as pixels of the crops."""
        return (points - self.boxes[:, None, :2]) * self.scale()[:, None]

    def intrinsics(self, K: Float[np.ndarray, "v 3 3"], back: bool = False) -> np.ndarray:
        """K of the photographs as K of the crops, or `back` again."""
        S = np.tile(np.eye(3), (len(K), 1, 1))
        S[:, [0, 1], [0, 1]] = self.scale()
        S[:, :2, 2] = -self.boxes[:, :2] * self.scale()
        return np.linalg.solve(S, K) if back else S @ K


def crops(views: Views, limit: int = LIMIT) -> Crops:
    """Photographs up to `limit` pixels wide and high are taken whole, larger ones are cut to mask
    and landmarks and scaled down to `limit`; the square has the next power of two from 64.

    So few sizes exist that photographs of any size share compilations and batches.
    """
    count = len(views.names)
    boxes = np.concatenate([np.zeros((count, 2), np.int64), views.sizes[:, ::-1]], axis=1)
    sizes = views.sizes.copy()
    for i in np.flatnonzero(views.sizes.max(1) > limit):
        boxes[i] = _subject_box(views, int(i))
        extent = boxes[i, [3, 2]] - boxes[i, [1, 0]]
        scale = min(1.0, limit / extent.max())
        sizes[i] = np.maximum(np.round(extent * scale), 1)
    side = max(64, 1 << (int(sizes.max()) - 1).bit_length())
    return Crops(boxes, sizes, side)


def _subject_box(views: Views, i: int) -> np.ndarray:
    """Bounds of a view's mask and seen landmarks with a margin of 8 %."""
    assert views.mask is not None
    height, width = views.sizes[i]
    rows, columns = np.nonzero(views.mask[i, :height, :width])
    low = np.array([columns.min(), rows.min()], np.float64)
    high = np.array([columns.max() + 1, rows.max() + 1], np.float64)
    if views.landmarks2d is not None and views.landmark_weights is not None:
        seen = views.landmarks2d[i][views.landmark_weights[i] > 0]
        if len(seen):
            low, high = np.minimum(low, seen.min(0)), np.maximum(high, seen.max(0))
    margin = 0.08 * (high - low).max() + 2
    low = np.clip(np.floor(low - margin), 0, None)
    high = np.minimum(np.ceil(high + margin), (width, height))
    return np.concatenate([low, np.maximum(high, low + 1)]).astype(np.int64)


def _cut(array: np.ndarray, part: Crops, fill: float) -> np.ndarray:
    """(v, h, w, ...) photographs or masks as crops (v, side, side, ...), float32; masks keep their
    two values.
    """
    from PIL import Image

    out = np.full((len(array), part.side, part.side, *array.shape[3:]), fill, np.float32)
    for i, ((left, top, right, bottom), (height, width)) in enumerate(
        zip(part.boxes, part.sizes, strict=True)
    ):
        piece = array[i, top:bottom, left:right].astype(np.float32)
        if piece.shape[:2] != (height, width):
            channels = piece.reshape(*piece.shape[:2], -1)
            resized = [
                np.asarray(
                    Image.fromarray(channels[..., c]).resize(
                        (int(width), int(height)), Image.Resampling.BOX
                    )
                )
                for c in range(channels.shape[-1])
            ]
            piece = np.stack(resized, -1).reshape(height, width, *array.shape[3:])
            if array.ndim == 3:
                piece = (piece >= 0.5).astype(np.float32)
        out[i, :height, :width] = piece
    return out


def view_data(views: Views, prior: Prior, mode: CameraMode = "given", limit: int = LIMIT):
    """Views on the host as what a fit takes (`ViewData`, float32, square crops of one size); the
    mouth is the dilated hull of landmarks 48-67.

    Args:
        views: with masks and landmarks, and cameras where the mode needs them.
        prior: names the unit of the canonical space.
        mode: of `camera_mode`. Where cameras are estimated the world is in millimetres.
        limit: of `crops`.

    Raises:
        InputError: masks (of any view), landmarks or cameras are missing.
    """
    if views.mask is None or views.landmarks2d is None or views.landmark_weights is None:
        raise InputError(
            f"{views.folder}: masks or landmarks are missing",
            "a views folder with masks and landmarks.json, or `detections.complete_views` of it",
        )
    check_all_masked(views)
    part = crops(views, limit)
    single = functools.partial(np.asarray, dtype=np.float32)
    K, R, t = _cameras(views, mode)
    known = 1.0 if mode in ("estimate", "estimate_focal") else UNIT_MM.get(views.units or "", 0.0)
    data = ViewData(
        images=_cut(views.images, part, 1.0),
        subject=_cut(views.mask, part, 0.0),
        valid=_cut(views.valid, part, 0.0),
        still=1.0 - _cut(mouth_masks(views), part, 0.0),
        cameras=Cameras(K=single(part.intrinsics(K)), R=single(R), t=single(t)),
        landmarks=single(part.pixels(views.landmarks2d)),
        landmark_weights=single(views.landmark_weights),
        expression=np.unique(views.expression, return_inverse=True)[1].astype(np.int32),
        unit=np.float32(prior.unit_mm / known if known else 0.0),
    )
    return jax.tree.map(jnp.asarray, data)


def _cameras(views: Views, mode: CameraMode) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K, R, t) of the photographs; what is unknown is filled in."""
    count = len(views.names)
    if mode in ("given", "refine"):
        if views.cameras is None:
            raise InputError(f"{views.folder} has no cameras", "cameras.json with K, R and t")
        return tuple(np.asarray(getattr(views.cameras, n)) for n in ("K", "R", "t"))  # pyright: ignore[reportReturnType]
    if mode == "estimate" and views.intrinsics is not None:
        K = np.asarray(views.intrinsics)
    else:
        K = np.tile(np.eye(3), (count, 1, 1))
        focal = LENS * views.sizes.max(1)
        if views.film_focal is not None:
            focal = views.film_focal / FILM_DIAGONAL_MM * np.linalg.norm(views.sizes, axis=1)
        K[:, [0, 1], [0, 1]] = focal[:, None]
        K[:, :2, 2] = views.sizes[:, ::-1] / 2
    return K, np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 3))


def fitted_views(
    views: Views, result: FitResult, mode: CameraMode, prior: Prior, limit: int = LIMIT
) -> tuple[Views, FitResult]:
    """The views with the cameras that the fit found, and the result in their world.

    Where cameras were estimated, the world is the head's frame in millimetres: axes of the
    canonical space, origin of the head model (`canonical.centre_mm` in the header of the weights).
    """
    if mode == "given":
        return views, result
    found = {n: np.asarray(getattr(result.cameras, n), np.float64) for n in ("K", "R", "t")}
    K = crops(views, limit).intrinsics(found["K"], back=True)
    if mode != "estimate_focal":
        K = np.asarray(views.intrinsics)
    # float32 rounding of a product of rotations
    U, _, Vt = np.linalg.svd(found["R"])
    R, t = U @ Vt, found["t"]
    units, pose = views.units, result.S_canonical_world
    if mode in ("estimate", "estimate_focal"):
        units = "millimetres"
        centre = np.asarray(prior.header.get("canonical", {}).get("centre_mm", (0, 0, 0)), float)
        t = t - R @ centre
        shift = pose.t - jnp.asarray(pose.scale * centre, pose.t.dtype)
        pose = dataclasses.replace(pose, t=shift)
    cameras = Cameras(K=K, R=R, t=t)
    views = dataclasses.replace(views, cameras=cameras, intrinsics=K, units=units)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), cameras)
    return views, dataclasses.replace(result, cameras=single, S_canonical_world=pose)


def mouth_masks(views: Views, dilation: float = 0.15) -> np.ndarray:
    """(v, h, w) 1 inside the hull of landmarks 48-67, grown by `dilation` of its diagonal; 0 where
    none are seen.
    """
    from PIL import Image, ImageDraw
    from scipy.spatial import ConvexHull, QhullError

    if views.landmarks2d is None or views.landmark_weights is None:
        raise InputError(f"{views.folder}: no landmarks", "landmarks.json")
    count, height, width = views.images.shape[:3]
    masks = np.zeros((count, height, width), np.float32)
    for i in range(count):
        points = views.landmarks2d[i, 48:68][views.landmark_weights[i, 48:68] > 0]
        if len(points) < 3:
            continue
        try:
            hull = points[ConvexHull(points).vertices]
        except QhullError:  # all on one line
            continue
        centre, size = hull.mean(0), np.linalg.norm(np.ptp(hull, axis=0))
        outward = hull - centre
        outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-6)
        picture = Image.new("L", (width, height))
        polygon = [tuple(p) for p in hull + dilation * size * outward]
        ImageDraw.Draw(picture).polygon(polygon, fill=255)
        masks[i] = np.asarray(picture) > 0
    return masks


def landmarks_agree(views: Views, size: int, error: float) -> None:
    """Stop early when cameras and landmarks cannot belong together (pixels of a `size` image)."""
    if not error * 256.0 / size < 14.0:
        raise InputError(
            f"{views.folder}: no head fits the landmarks; they miss by {error:.0f} pixels",
            "landmarks.json and cameras.json of the same pictures, in the same order",
            "check `units` (metres or millimetres), OpenCV axes (x right, y down, z forward), the "
            "order of the views and left and right of the landmarks; `jaxrecon doctor` draws them",
        )


def _where(views: Views) -> str:
    """Of the landmarks."""
    found = any("landmarks" in parts for parts in views.detections)
    return f"{views.folder}, landmarks that were found" if found else (
        f"{views.folder}/landmarks.json"
    )  # fmt: skip


def remarks(views: Views) -> Iterator[str]:
    """What is unusual about views that can be fitted, one sentence each.

    Raises:
        InputError: too few landmarks are seen, or those of a view lie in one place.
    """
    seen = int((np.asarray(views.landmark_weights) > 0).any(0).sum())
    if seen < 20:
        raise InputError(
            f"{_where(views)}: only {seen} landmarks are seen in any view",
            "at least 20 of 68",
            "add landmarks, or choose other views",
        )
    points, weights = np.asarray(views.landmarks2d), np.asarray(views.landmark_weights)
    for name, own, weight, extent in zip(views.names, points, weights, views.sizes, strict=True):
        known = own[weight > 0]
        if len(known) > 1 and np.ptp(known, axis=0).max() < 0.04 * extent.max():
            raise InputError(
                f"{_where(views)}: the landmarks of {name} lie within a few pixels",
                "68 points over the face",
                "mend them, or leave the view out with --views",
            )
    yield from views.warnings
    if len(views.names) == 1:
        yield "one view only: depth comes from the prior"
    if views.cameras is not None and views.units not in UNIT_MM:
        yield "cameras.json names no unit: the head's size is free"
