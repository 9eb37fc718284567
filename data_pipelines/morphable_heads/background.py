"""Procedural backgrounds: gradients, smooth clutter and straight edges in random colours."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EDGES = 6


def background(key: Array, size: int) -> Float[Array, "s s 3"]:
    """A random background, from a plain wall to clutter.

    Args:
        key: typed key.
        size: height and width, pixels.

    Returns:
        (size, size, 3) display-encoded RGB in [0, 1].
    """
    keys = jax.random.split(key, 8)
    image = jnp.broadcast_to(_colours(keys[0], 1)[None], (size, size, 3))
    # Value noise in octaves: the coarsest two are the gradient of a lit wall.
    clutter = jax.random.uniform(keys[1], (), minval=-1.0, maxval=1.0)
    for octave in range(6):
        count = 2 * 2**octave
        k_values, k_weight = jax.random.split(jax.random.fold_in(keys[2], octave))
        values = jax.random.normal(k_values, (count, count, 3))
        grey = jnp.mean(values, axis=-1, keepdims=True)
        values = 0.25 * values + 0.9 * jnp.broadcast_to(grey, values.shape)
        weight = jax.random.uniform(k_weight, (), maxval=0.22)
        # A third of the backgrounds or so have no clutter at all.
        shown = 1.0 if octave < 2 else jnp.clip(clutter + 0.3, 0.0, 1.0)
        weight = shown * weight * 0.8**octave
        image = image + weight * jax.image.resize(values, (size, size, 3), "cubic")
    # Edges of walls, frames and furniture: slabs between parallel lines.
    centre = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size - 0.5
    y, x = jnp.meshgrid(centre, centre, indexing="ij")
    shown = jax.random.uniform(keys[3], (EDGES,)) < jnp.clip(clutter + 0.2, 0.0, 0.8)
    turn = jnp.round(jax.random.uniform(keys[4], (EDGES,)) * 4.0) * (jnp.pi / 4)
    turn = turn + 0.1 * jax.random.normal(keys[5], (EDGES,))
    place = jax.random.uniform(keys[6], (EDGES, 2), minval=-0.5, maxval=0.5)
    colours = _colours(keys[7], EDGES)
    for i in range(EDGES):
        across = x * jnp.cos(turn[i]) + y * jnp.sin(turn[i]) - place[i, 0]
        width = 0.02 + 0.3 * jnp.abs(place[i, 1])
        inside = jnp.clip((width - jnp.abs(across)) * size + 0.5, 0.0, 1.0)
        opacity = (0.7 * shown[i] * inside)[..., None]
        image = image + opacity * (colours[i].reshape(1, 1, 3) - image)
    return jnp.clip(image, 0.0, 1.0)


def _colours(key, count):
    """(count, 3) RGB, mostly muted."""
    k_grey, k_tint, k_strength = jax.random.split(key, 3)
    grey = jax.random.uniform(k_grey, (count, 1), minval=0.08, maxval=0.95)
    tint = jax.random.uniform(k_tint, (count, 3), minval=-1.0, maxval=1.0)
    strength = 0.5 * jax.random.uniform(k_strength, (count, 1)) ** 2
    return jnp.clip(grey + strength * tint, 0.0, 1.0)
