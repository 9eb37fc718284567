"""The surface of a person as dense points: what a scan is to training, drawn on the device."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from data_pipelines import head_points
from data_pipelines.head_points import HeadSampler

POINTS = 860_000
"""Of a scan in Li et al. 2022, Sec. 4.1."""
CHUNK = 20_000
"""Points drawn at a time."""


@functools.partial(jax.jit, static_argnums=4)
def scan(
    sampler: HeadSampler,
    identity: Float[Array, "k"],
    expression: Float[Array, "e"],
    key: Array,
    points: int = POINTS,
) -> dict[str, Float[Array, "n 3"]]:
    """Random points of one person's surface, thrice as dense on the face.

    Args:
        sampler: of `head_points.make_sampler`, with as many modes as `identity` has.
        identity, expression: coefficients, such as those of an example of the data set.
        key: the same key draws the same points, so that a scan need not be stored.
        points: n, a multiple of CHUNK or less than one.

    Returns:
        points (n, 3) in canonical space (1 unit = 150 mm), unit normals (n, 3) outward, and
        reference_points (n, 3), the same points of the mean head.
    """
    vertices = head_points.canonical_vertices(sampler, identity, expression)
    size = min(points, CHUNK)
    if points % size:
        raise ValueError(f"{points} points; expected a multiple of {CHUNK}")
    sample = head_points.SampleConfig(heads=1, surface=size, volume=0)

    def chunk(key):
        drawn = head_points.sample_points(sampler, sample, key, vertices)
        return {name: drawn[name] for name in ("points", "normals", "reference_points")}

    chunks = jax.lax.map(chunk, jax.random.split(key, points // size))
    return jax.tree.map(lambda x: jnp.reshape(x, (-1, 3)), chunks)
