"""Weak-perspective cameras of body regressors: (scale, x, y) on a square crop, as pinhole cameras
of a long focal length, and the translation that explains detected keypoints.

Frame: the body's own axes with y down and z forward, as SPIN and its kin predict them, so that the
camera of a crop has R = identity and only a translation.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.types import Cameras

FOCAL = 5000.0
"""Pixels, on a crop of 224: what SPIN, GraphCMR and ExPose assume."""
CROP = 224


def weak_translation(
    weak: Float[Array | np.ndarray, "*n 3"], focal: float | int = FOCAL, size: float | int = CROP
) -> Float[Array, "*n 3"]:
    """The translation (x, y, 2 focal / (size scale)) whose pinhole projection is, near the origin,
    the weak one: crop coordinates in [-1, 1] = scale (X + (x, y)) (SPIN's train/trainer.py).

    Args:
        weak: (scale, x, y); units of length as the body's, scale in crops' halves a unit.
        focal: pixels.
        size: side of the crop, pixels.
    """
    weak = jnp.asarray(weak)
    depth = 2.0 * focal / (size * weak[..., 0] + 1e-9)
    return jnp.stack([weak[..., 1], weak[..., 2], depth], axis=-1)


def weak_cameras(
    weak: Float[Array | np.ndarray, "*n 3"], focal: float | int = FOCAL, size: float | int = CROP
) -> Cameras:
    """Pinhole cameras (see `types.Cameras`) of weak ones, in pixels of the crop.

    Args:
        weak: (scale, x, y), see `weak_translation`.
        focal: pixels.
        size: side of the crop, pixels; the principal point is its middle.
    """
    t = weak_translation(weak, focal, size)
    K = jnp.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], t.dtype)
    batch = t.shape[:-1]
    identity = jnp.eye(3, dtype=t.dtype)
    return Cameras(
        K=jnp.broadcast_to(K, (*batch, 3, 3)), R=jnp.broadcast_to(identity, (*batch, 3, 3)), t=t
    )


def estimate_translation(
    points: Float[Array | np.ndarray, "*b n 3"],
    pixels: Float[Array | np.ndarray, "*b n 2"],
    confidence: Float[Array | np.ndarray, "*b n"],
    focal: float | int = FOCAL,
    size: float | int = CROP,
) -> Float[Array, "*b 3"]:
    """The translation t that brings points onto pixels, in weighted linear least squares of
    focal (X + t_x, Y + t_y) - (pixel - centre) (Z + t_z) (SPIN's `estimate_translation`, which uses
    joints 25 to 48 of its 49).

    Args:
        points: in the camera's axes before the translation.
        pixels: of the crop; those of confidence 0 must be finite.
        confidence: >= 0, weights of the squared errors. Where fewer than two points have any, t is
            finite and meaningless.
        focal: pixels.
        size: side of the crop, pixels; the principal point is its middle.
    """
    points, weights = jnp.asarray(points), jnp.asarray(confidence)
    weights = (weights / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-12))[..., None]
    slopes = (jnp.asarray(pixels) - size / 2) / focal
    targets = slopes * points[..., 2:] - points[..., :2]
    # For any depth the best (x, y) is mean target + mean slope depth: centring eliminates them.
    slope = jnp.sum(weights * slopes, axis=-2)
    target = jnp.sum(weights * targets, axis=-2)
    centred = slopes - slope[..., None, :]
    spread = jnp.sum(weights * centred * centred, axis=(-2, -1))
    product = jnp.sum(weights * centred * (targets - target[..., None, :]), axis=(-2, -1))
    depth = -product / jnp.maximum(spread, 1e-12)
    return jnp.concatenate([target + slope * depth[..., None], depth[..., None]], axis=-1)
