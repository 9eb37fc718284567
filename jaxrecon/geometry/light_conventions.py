"""Lighting coefficients of other codes as lighting of `shading`, and back.

The codes shade a unit normal with nine spherical harmonics of order 2 as well, in another order and
with other factors; so each convention is a permutation and nine factors, and
`shading(normals, deep3d_lighting(gamma))` is exactly the code's own factor of the albedo. Normals
stay in the frame of the code.

Sources: Deep3DFaceRecon (Deng et al., "Accurate 3D Face Reconstruction with Weakly-Supervised
    Learning", 2019), DECA (Feng et al., "Learning an Animatable Detailed 3D Face Model from
    In-The-Wild Images", 2021): constants of the published codes.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

DEEP3D_AMBIENT = 0.8
"""Added to the first coefficient of each channel: gamma = 0 is an even light."""
_A1, _A2 = 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8)
DEEP3D_FACTORS = (math.pi, -_A1, _A1, -_A1, _A2, -_A2, _A2, -_A2, _A2)
"""Deep3D's functions (same order) over ours: Condon-Shortley signs, and factors of the bands."""
DECA_ORDER = (0, 3, 1, 2, 4, 7, 5, 8, 6)
"""Our index of each of DECA's functions: 1, x, y, z, xy, xz, yz, x² - y², 3z² - 1."""
DECA_FACTORS = (1.0, *3 * (2 * math.pi / 3,), *5 * (math.pi / 4,))
"""DECA's functions over ours, in DECA's order: Lambert's lobe, but for the band 0."""


def deep3d_lighting(gamma: Float[Array | np.ndarray, "*b 27"]) -> Float[Array, "*b 9 3"]:
    """Lighting of `shading` from Deep3D's gamma.

    Args:
        gamma: (*b, 27), nine numbers of red, nine of green, nine of blue.

    Returns:
        (*b, 9, 3) for normals in Deep3D's view frame (x right, y up, z to the camera).
    """
    gamma = jnp.asarray(gamma)
    channels = gamma.reshape(*gamma.shape[:-1], 3, 9)
    ambient = jnp.zeros((9,), gamma.dtype).at[0].set(DEEP3D_AMBIENT)
    factors = jnp.asarray(DEEP3D_FACTORS, gamma.dtype)
    scaled = (channels + jnp.broadcast_to(ambient, channels.shape)) * jnp.broadcast_to(
        factors, channels.shape
    )
    return jnp.swapaxes(scaled, -1, -2)


def deep3d_gamma(lighting: Float[Array | np.ndarray, "*b 9 3"]) -> Float[Array, "*b 27"]:
    """Deep3D's gamma of a lighting: the inverse of `deep3d_lighting`."""
    lighting = jnp.swapaxes(jnp.asarray(lighting), -1, -2)
    factors = jnp.broadcast_to(jnp.asarray(DEEP3D_FACTORS, lighting.dtype), lighting.shape)
    ambient = jnp.zeros((9,), lighting.dtype).at[0].set(DEEP3D_AMBIENT)
    gamma = lighting / factors - jnp.broadcast_to(ambient, lighting.shape)
    return gamma.reshape(*gamma.shape[:-2], 27)


def deca_lighting(coefficients: Float[Array | np.ndarray, "*b 9 3"]) -> Float[Array, "*b 9 3"]:
    """Lighting of `shading` from DECA's coefficients.

    Args:
        coefficients: (*b, 9, 3), nine functions by RGB (27 numbers of DECA's code, reshaped).

    Returns:
        (*b, 9, 3) for normals in the frame of FLAME (DECA does not turn them into the view).
    """
    coefficients = jnp.asarray(coefficients)
    factors = jnp.asarray(DECA_FACTORS, coefficients.dtype)[:, None]
    scaled = coefficients * jnp.broadcast_to(factors, coefficients.shape)
    return scaled[..., np.argsort(DECA_ORDER), :]
