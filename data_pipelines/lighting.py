"""Random lighting of a head, and the colour of a lit surface.

Albedo is display-encoded RGB in [0, 1] (what an image file stores); `shade` multiplies in linear
light.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from jaxrecon.geometry.shading import constant_lighting, directional_lighting, sh_basis, shading

GAMMA = 2.2


def sample_lighting(key: PRNGKeyArray) -> Float[Array, "9 3"]:
    """A plausible room or sky: ambient light, a key light in front or from a side, and a weak fill
    light.

    The exposure is such that the mean over the front hemisphere lies in 0.6 to 0.9 of the albedo.

    Args:
        key: a typed key.

    Returns:
        (9, 3) coefficients for `jaxrecon.geometry.shading.shading`, in the head's frame (+z out of
        the face).
    """
    k = jax.random.split(key, 8)

    def tint(key, strength):
        warm = strength * jax.random.normal(key, (1,))
        return jnp.exp(warm * jnp.asarray([1.0, 0.1, -1.0]))

    def direction(key, azimuth_range, low, high):
        ka, ke = jax.random.split(key)
        azimuth = jax.random.uniform(ka, (), minval=-azimuth_range, maxval=azimuth_range)
        elevation = jax.random.uniform(ke, (), minval=low, maxval=high)
        horizontal = jnp.cos(elevation)
        return jnp.stack(
            [horizontal * jnp.sin(azimuth), jnp.sin(elevation), horizontal * jnp.cos(azimuth)]
        )

    ambient = jnp.exp(jax.random.uniform(k[0], (), minval=-1.9, maxval=-0.2))
    fill = jax.random.uniform(k[1], (), minval=0.0, maxval=0.5)
    lighting = (
        constant_lighting(ambient * tint(k[2], 0.04))
        + directional_lighting(direction(k[3], 1.3, -0.1, 1.1), tint(k[4], 0.05))
        + directional_lighting(direction(k[5], 3.1, -0.5, 1.2), fill * tint(k[6], 0.05))
    )
    # Mean of the basis over the hemisphere z > 0: only (0,0) and (1,0) are left of it.
    c0, c1 = sh_basis(jnp.asarray([0.0, 0.0, 1.0]))[jnp.asarray([0, 2])]
    mean = jnp.mean(c0 * lighting[0] + 0.5 * c1 * lighting[2])
    exposure = jax.random.uniform(k[7], (), minval=0.6, maxval=0.9)
    return lighting * exposure / mean


def shade(
    albedo: Float[Array | np.ndarray, "*n 3"],
    normals: Float[Array | np.ndarray, "*n 3"],
    lighting: Float[Array | np.ndarray, "9 3"],
) -> Float[Array, "*n 3"]:
    """Display-encoded colour of a lit Lambertian surface; the product is taken in linear light
    (gamma 2.2).

    Args:
        albedo: (*n, 3) display-encoded RGB.
        normals: (*n, 3) unit normals in the frame of the lighting.
        lighting: (9, 3) coefficients.

    Returns:
        (*n, 3) display-encoded RGB in [0, 1].
    """
    # encode(decode(albedo) * s) = albedo * encode(s); the lower bound keeps the gradient of the
    # root finite.
    factor = jnp.maximum(shading(normals, lighting), 1e-3) ** (1 / GAMMA)
    return jnp.clip(jnp.asarray(albedo) * factor, 0.0, 1.0)
