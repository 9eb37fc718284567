"""Procedural hair with volume: the scalp is pushed out along its normals by a smooth field.

Thickness and strands are functions of the mean position on the head and of a short vector of
parameters, hence the same in all views and expressions of a person.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PARAMETERS = 16
"""Length of the flat vector: thickness on top, sides, back (mm), amplitude of the waves (relative),
six wave coefficients, strand contrast, strands per turn, warp of the strands, side, curl, spare
phase.
"""
BALD = 0.5
"""Below this opacity of the scalp's albedo there is no volume, and the scalp counts as skin."""


def sample_hair(key: Array) -> Float[Array, "h"]:
    """Parameters of a random hair style, from cropped to bushy.

    Args:
        key: typed key.

    Returns:
        (16,) flat vector, see `PARAMETERS`.
    """
    k_style, k_waves, k_strands = jax.random.split(key, 3)
    u = jax.random.uniform(k_style, (5,))
    # Log-uniform from 2 to 45 mm: short styles are as frequent as long ones.
    volume = 2.0 * (22.5 ** u[0])
    top = volume * (0.6 + 0.6 * u[1])
    sides = volume * (0.25 + 0.6 * u[2])
    back = volume * (0.4 + 0.6 * u[3])
    waves = jax.random.normal(k_waves, (6,))
    s = jax.random.uniform(k_strands, (6,))
    strands = jnp.stack(
        [0.10 + 0.25 * s[0], 60.0 + 90.0 * s[1], 6.0 * s[2], s[3] - 0.5, s[4] ** 2, 6.2832 * s[5]]
    )
    return jnp.concatenate([jnp.stack([top, sides, back, 0.15 + 0.25 * u[4]]), waves, strands])


def hair_thickness(
    parameters: Float[Array, "h"],
    opacity: Float[Array, ""],
    cover: Float[Array, "v"],
    around: Float[Array, "v 3"],
    noise: Float[Array, "v w"],
) -> Float[Array, "v"]:
    """How far the hair stands off the scalp at every vertex.

    Args:
        parameters: of `sample_hair`.
        opacity: of the scalp's albedo; below `BALD` the thickness is 0.
        cover: (v,) 1 well inside the scalp, falling smoothly to 0 at the hair line.
        around: (v, 3) mean positions about the middle of the scalp, in units of the scalp's size.
        noise: (v, 6) smooth functions of the mean position.

    Returns:
        (v,) mm, not negative.
    """
    up = jax.nn.sigmoid(6.0 * (around[:, 1] - 0.25 + 0.3 * parameters[13] * around[:, 0]))
    back = (1.0 - up) * jax.nn.sigmoid(-5.0 * (around[:, 2] + 0.2))
    side = (1.0 - up) * (1.0 - jax.nn.sigmoid(-5.0 * (around[:, 2] + 0.2)))
    height = parameters[0] * up + parameters[1] * side + parameters[2] * back
    wave = jnp.sum(noise * parameters[4:10][None], axis=1) / 6.0**0.5
    height = height * jnp.clip(1.0 + parameters[3] * wave, 0.4, 1.4)
    return jnp.where(opacity < BALD, 0.0, height * cover)


def strand_shading(
    parameters: Float[Array, "h"], around: Float[Array, "*n 3"]
) -> Float[Array, "*n"]:
    """Factor on the albedo of hair: strands that run down from the crown, about 1 on average.

    Args:
        parameters: of `sample_hair`.
        around: (*n, 3) as for `hair_thickness`.

    Returns:
        (*n,) between 0.4 and 1.6.
    """
    contrast, count, warp, side, curl, phase = (parameters[i] for i in range(10, 16))
    x, y, z = around[..., 0] - 0.3 * side, around[..., 1], around[..., 2]
    azimuth = jnp.arctan2(x, z + 0.2)
    # Whole strands per turn, so that nothing jumps where the azimuth does (the warp is periodic).
    bend = warp * jnp.sin(2.0 * azimuth + phase + 2.0 * y) + 25.0 * curl * jnp.sin(9.0 * y + phase)
    value = jnp.zeros_like(azimuth)
    for i, octave in enumerate((1.0, 1.37, 1.83, 2.61, 3.3, 4.57)):
        turns = jnp.round(octave * count)
        wave = jnp.sin(turns * azimuth + octave * bend + 2.3 * i * i + phase)
        # No strand is visible all the way down.
        value = value + wave * (0.5 + 0.5 * jnp.sin((3.0 + i) * y + 5.0 * azimuth + 1.9 * i)) / 6.0
    return 1.0 + jnp.clip(4.0 * contrast * value, -0.6, 0.6)
