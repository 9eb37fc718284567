"""Losses on pixels that training and test-time fitting share. Each is a mean over all pixels
given, and >= 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rgb_loss(
    predicted: Float[Array, "*n 3"], target: Float[Array, "*n 3"], weight: Float[Array, "*n"]
) -> Float[Array, ""]:
    """Implicit Neural Deformation Eq. 10: sum of |c - c_true|_1 over the number of pixels.

    Args:
        predicted: colours in [0, 1].
        target: colours in [0, 1].
        weight: 1 where the pixel counts (hit and inside the mask), else 0; the divisor is the
            number of all pixels.
    """
    error = jnp.sum(jnp.abs(predicted - target), axis=-1)
    return jnp.sum(weight * error) / weight.size


def mask_loss(
    least_values: Float[Array, "*n"],
    mask: Float[Array, "*n"],
    weight: Float[Array, "*n"],
    alpha: float | Float[Array, ""],
) -> Float[Array, ""]:
    """Eq. 11 with IDR's soft mask sigmoid(-alpha s): cross-entropy over alpha.

    Args:
        least_values: least level-set value along each ray.
        mask: 1 subject, 0 background.
        weight: 1 where the pixel counts; the divisor is the number of all pixels.
        alpha: sharpness, per canonical unit.
    """
    logits = -alpha * least_values
    entropy = jax.nn.softplus(logits) - mask * logits
    return jnp.sum(weight * entropy) / (alpha * weight.size)
