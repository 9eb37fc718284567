"""Lambertian shading by real spherical harmonics of order 2.

Basis: orthonormal over the unit sphere (integral of Y_i Y_j is 1 where i = j, else 0), without the
Condon-Shortley sign, ordered (0,0), (1,-1), (1,0), (1,1), (2,-2), (2,-1), (2,0), (2,1), (2,2), in
terms of the components x, y, z of the direction. Lighting is (9, 3): one coefficient per function
and RGB channel, of the *irradiance over pi* as a function of the normal, so that a constant
lighting of value c everywhere is `constant_lighting(c)` and a Lambertian surface shows albedo *
shading.

Source: Ramamoorthi & Hanrahan, "An Efficient Representation for Irradiance Environment Maps"
    (2001), eqs. 3-8.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

SH_CONSTANTS = (
    0.5 * math.sqrt(1 / math.pi),
    0.5 * math.sqrt(3 / math.pi),
    0.5 * math.sqrt(15 / math.pi),
    0.25 * math.sqrt(5 / math.pi),
    0.25 * math.sqrt(15 / math.pi),
)
COSINE_LOBE = (1.0, 2 / 3, 2 / 3, 2 / 3, 0.25, 0.25, 0.25, 0.25, 0.25)
"""Clamped cosine over pi per band (Ramamoorthi & Hanrahan 2001, eq. 8 divided by pi)."""


def sh_basis(directions: Float[Array | np.ndarray, "*n 3"]) -> Float[Array, "*n 9"]:
    """The nine real spherical harmonics up to order 2 at unit directions.

    Args:
        directions: (*n, 3) unit vectors.

    Returns:
        (*n, 9) values, in the order of this module's docstring.
    """
    d = jnp.asarray(directions)
    x, y, z = d[..., 0], d[..., 1], d[..., 2]
    c0, c1, c2, c3, c4 = SH_CONSTANTS
    return jnp.stack(
        [
            c0 * jnp.ones_like(x),
            c1 * y,
            c1 * z,
            c1 * x,
            c2 * x * y,
            c2 * y * z,
            c3 * (3 * z * z - 1),
            c2 * x * z,
            c4 * (x * x - y * y),
        ],
        axis=-1,
    )


def shading(
    normals: Float[Array | np.ndarray, "*n 3"], lighting: Float[Array | np.ndarray, "9 3"]
) -> Float[Array, "*n 3"]:
    """Irradiance over pi at unit normals; may be slightly negative (order 2 rings): clip where
    shown.

    Args:
        normals: (*n, 3) unit normals, in the frame of the lighting.
        lighting: (9, 3) coefficients.

    Returns:
        (*n, 3) factors of the albedo.
    """
    return sh_basis(normals) @ jnp.asarray(lighting)


def constant_lighting(value: Float[Array | np.ndarray, "3"]) -> Float[Array, "9 3"]:
    """The lighting whose `shading` is `value` for every normal."""
    value = jnp.asarray(value)
    first = (value / SH_CONSTANTS[0])[None]
    return jnp.concatenate([first, jnp.zeros((8, 3), value.dtype)], axis=0)


def directional_lighting(
    direction: Float[Array | np.ndarray, "3"], colour: Float[Array | np.ndarray, "3"]
) -> Float[Array, "9 3"]:
    """Order-2 approximation of max(n . direction, 0) * colour (a distant light; error below 0.1).

    Args:
        direction: (3,) unit vector towards the light.
        colour: (3,) RGB intensity: the factor of the albedo where the surface faces the light.

    Returns:
        (9, 3) coefficients (Ramamoorthi & Hanrahan 2001, eq. 7, with L = pi * delta(direction)).
    """
    basis = sh_basis(direction)
    lobe = math.pi * jnp.asarray(COSINE_LOBE, basis.dtype)
    return (lobe * basis)[:, None] * jnp.asarray(colour)[None]
