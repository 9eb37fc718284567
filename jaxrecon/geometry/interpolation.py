"""Values of images between their pixels."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def bilinear(
    image: Float[Array | np.ndarray, "h w c"], pixels: Float[Array | np.ndarray, "*n 2"]
) -> Float[Array, "*n c"]:
    """Bilinear values of an image, differentiable in image and place.

    Args:
        image: (h, w, c), h and w at least 2.
        pixels: (*n, 2) as (x, y), pixel centres at integer + 0.5; places outside take the nearest
            value of the border.
    """
    image, pixels = jnp.asarray(image), jnp.asarray(pixels)
    height, width = image.shape[:2]
    x = jnp.clip(pixels[..., 0] - 0.5, 0.0, width - 1.0)
    y = jnp.clip(pixels[..., 1] - 0.5, 0.0, height - 1.0)
    column = jnp.clip(jnp.floor(x), 0, width - 2).astype(jnp.int32)
    row = jnp.clip(jnp.floor(y), 0, height - 2).astype(jnp.int32)
    right, below = (x - column)[..., None], (y - row)[..., None]
    upper = (1.0 - right) * image[row, column] + right * image[row, column + 1]
    lower = (1.0 - right) * image[row + 1, column] + right * image[row + 1, column + 1]
    return (1.0 - below) * upper + below * lower
