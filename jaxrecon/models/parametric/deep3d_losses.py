"""Losses of Deep3DFaceRecon's weakly supervised training, and their published weights.

Each takes a batch in its leading axes and is a scalar >= 0. Image losses take this package's layout
(height, width, channel).

Source: Deng et al., "Accurate 3D Face Reconstruction with Weakly-Supervised Learning" (2019), eqs.
    2-8; where the paper and the published code differ, the code.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.models.parametric.deep3d import Coefficients

WEIGHTS = {
    "perceptual": 0.2,
    "photo": 1.92,
    "landmarks": 1.6e-3,
    "coefficients": 3e-4,
    "gamma": 10.0,
    "reflectance": 5.0,
}
COEFFICIENT_WEIGHTS = (1.0, 0.8, 1.7e-2)
"""Of identity, expression and albedo."""
LANDMARK_WEIGHTS = np.ones(68, np.float32)
LANDMARK_WEIGHTS[28:31] = LANDMARK_WEIGHTS[60:] = 20.0
"""(68,) the bridge of the nose and the inner lips count twenty times."""


def landmark_loss(
    predicted: Float[Array, "*b 68 2"],
    target: Float[Array | np.ndarray, "*b 68 2"],
    weights: Float[Array | np.ndarray, "68"] = LANDMARK_WEIGHTS,
) -> Float[Array, ""]:
    """Eq. 6: mean over landmarks of the weighted squared distance, pixels squared.

    Args:
        predicted: of `deep3d.Face.landmarks`.
        target: in the same pixels.
        weights: a number a landmark.
    """
    squared = jnp.sum((predicted - target) ** 2, axis=-1)
    return jnp.mean(squared * jnp.broadcast_to(jnp.asarray(weights, squared.dtype), squared.shape))


def coefficient_loss(
    coefficients: Coefficients,
    weights: tuple[float, float, float] = COEFFICIENT_WEIGHTS,
) -> Float[Array, ""]:
    """Eq. 7: weighted squared norms of identity, expression and albedo, mean over the batch."""
    parts = (coefficients.identity, coefficients.expression, coefficients.albedo)
    return sum(
        (w * jnp.mean(jnp.sum(x**2, axis=-1)) for w, x in zip(weights, parts, strict=True)),
        jnp.zeros((), parts[0].dtype),
    )


def gamma_loss(gamma: Float[Array, "*b 27"]) -> Float[Array, ""]:
    """Mean squared deviation of the channels' light from their mean: light is nearly white."""
    channels = gamma.reshape(*gamma.shape[:-1], 3, 9)
    return jnp.mean((channels - jnp.mean(channels, axis=-2, keepdims=True)) ** 2)


def reflectance_loss(
    albedo: Float[Array, "*b v 3"], skin: Float[Array | np.ndarray, "v"]
) -> Float[Array, ""]:
    """Eq. 8: variance of the albedo over the skin, summed over RGB: skin has one colour.

    Args:
        albedo: RGB.
        skin: 1 on the skin, else 0, somewhere 1.
    """
    mask = jnp.broadcast_to(jnp.asarray(skin, albedo.dtype)[:, None], albedo.shape)
    total = jnp.sum(jnp.asarray(skin, albedo.dtype))
    mean = jnp.sum(mask * albedo, axis=-2, keepdims=True) / total
    squared = ((albedo - mean) * mask) ** 2
    return jnp.mean(jnp.sum(squared, axis=(-2, -1)) / total)


def photo_loss(
    predicted: Float[Array, "*b h w 3"],
    target: Float[Array | np.ndarray, "*b h w 3"],
    mask: Float[Array | np.ndarray, "*b h w"],
) -> Float[Array, ""]:
    """Eq. 3: masked mean over pixels of the distance of colours.

    The distance is sqrt(1e-6 + |c - c'|²), whose gradient is finite where colours agree. Where the
    mask sums to less than one the divisor is one.

    Args:
        predicted: RGB in [0, 1].
        target: RGB in [0, 1].
        mask: attention in [0, 1].
    """
    distance = jnp.sqrt(1e-6 + jnp.sum((predicted - target) ** 2, axis=-1))
    return jnp.sum(distance * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def perceptual_loss(
    predicted: Float[Array, "*b d"], target: Float[Array | np.ndarray, "*b d"]
) -> Float[Array, ""]:
    """Eq. 4: mean of 1 - cosine of two faces' recognition features.

    Args:
        predicted: unit vectors.
        target: unit vectors.
    """
    return jnp.mean(1.0 - jnp.sum(predicted * target, axis=-1))
