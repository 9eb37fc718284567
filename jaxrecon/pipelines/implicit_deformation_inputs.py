"""What a fit is given, from a views folder: arrays, masks of the mouth, and early checks."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.fitting.problem import ViewData
from jaxrecon.pipelines.priors import Prior
from jaxrecon.pipelines.views import Views
from jaxrecon.types import Cameras

UNIT_MM = {"millimetres": 1.0, "metres": 1000.0}


def view_data(views: Views, prior: Prior) -> ViewData:
    """Views on the host as what a fit takes (float32); the mouth is the dilated hull of landmarks
    48-67.
    """
    if views.cameras is None or views.mask is None or views.landmarks2d is None:
        raise InputError(
            f"{views.folder}: cameras, masks or landmarks are missing",
            "a views folder with cameras.json, masks and landmarks.json",
        )
    single = functools.partial(np.asarray, dtype=np.float32)
    cameras = Cameras(*(single(getattr(views.cameras, n)) for n in ("K", "R", "t")))
    expression = np.unique(views.expression, return_inverse=True)[1]
    unit = prior.unit_mm / UNIT_MM[views.units] if views.units in UNIT_MM else 0.0
    data = ViewData(
        images=single(views.images),
        subject=single(views.mask),
        valid=single(views.valid),
        still=1.0 - mouth_masks(views),
        cameras=cameras,
        landmarks=single(views.landmarks2d),
        landmark_weights=single(views.landmark_weights),
        expression=expression.astype(np.int32),
        unit=np.float32(unit),
    )
    return jax.tree.map(jnp.asarray, data)


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


def remarks(views: Views) -> Iterator[str]:
    """What is unusual about views that can be fitted, one sentence each.

    Raises:
        InputError: too few landmarks are seen, or those of a view lie in one place.
    """
    seen = int((np.asarray(views.landmark_weights) > 0).any(0).sum())
    if seen < 20:
        raise InputError(
            f"{views.folder}/landmarks.json: only {seen} landmarks are seen in any view",
            "at least 20 of 68",
            "add landmarks, or choose other views",
        )
    points, weights = np.asarray(views.landmarks2d), np.asarray(views.landmark_weights)
    for name, own, weight, extent in zip(views.names, points, weights, views.sizes, strict=True):
        known = own[weight > 0]
        if len(known) > 1 and np.ptp(known, axis=0).max() < 0.04 * extent.max():
            raise InputError(
                f"{views.folder}/landmarks.json: the landmarks of {name} lie within a few pixels",
                "68 points over the face",
                "mend them, or leave the view out with --views",
            )
    if len(views.names) == 1:
        yield "one view only: depth comes from the prior"
    if views.units not in UNIT_MM:
        yield "cameras.json names no unit: the head's size is free"
