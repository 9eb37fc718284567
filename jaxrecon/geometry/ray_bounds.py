"""Where rays are traced: the overlap of a bounding sphere and a field's box.

Rays are origins (n, 3) and unit directions (n, 3); `config` has `centre` and `radius`
(`sphere_tracing.TraceConfig`, `occupancy.MarchConfig`).
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxrecon.types import Field


def ray_sphere_interval(origins, directions, centre, radius):
    """Near and far ray parameters (n,) in a sphere, near clamped at 0; near > far on a miss."""
    offset = origins - jnp.broadcast_to(jnp.asarray(centre, origins.dtype), origins.shape)
    along = -jnp.sum(offset * directions, axis=-1)
    # the distance of the line from the centre, by the perpendicular itself: |c|² - (c.d)² cancels
    across = offset + along[..., None] * directions
    half_squared = radius * radius - jnp.sum(across * across, axis=-1)
    half = jnp.sqrt(jnp.maximum(half_squared, 0.0))
    near, far = jnp.maximum(along - half, 0.0), along + half
    return jnp.where(half_squared > 0, near, jnp.inf), jnp.where(half_squared > 0, far, -jnp.inf)


def ray_box_interval(origins, directions, box):
    """Near and far ray parameters (n,) in an axis-aligned box (slabs), near clamped at 0; near >
    far on a miss."""
    low = jnp.broadcast_to(jnp.asarray(box[0], origins.dtype), origins.shape)
    high = jnp.broadcast_to(jnp.asarray(box[1], origins.dtype), origins.shape)
    parallel = jnp.abs(directions) < 1e-12
    safe = jnp.where(parallel, 1.0, directions)
    first, second = (low - origins) / safe, (high - origins) / safe
    within = (origins >= low) & (origins <= high)
    near = jnp.where(parallel, jnp.where(within, -jnp.inf, jnp.inf), jnp.minimum(first, second))
    far = jnp.where(parallel, jnp.where(within, jnp.inf, -jnp.inf), jnp.maximum(first, second))
    return jnp.maximum(jnp.max(near, axis=-1), 0.0), jnp.min(far, axis=-1)


def ray_interval(field: Field, origins, directions, config):
    """The part of each ray within the bounding sphere and the box: near, far, inside (n,)."""
    near_s, far_s = ray_sphere_interval(origins, directions, config.centre, config.radius)
    near_b, far_b = ray_box_interval(origins, directions, field.box)
    near, far = jnp.maximum(near_s, near_b), jnp.minimum(far_s, far_b)
    inside = near < far
    return jnp.where(inside, near, 0.0), jnp.where(inside, far, 0.0), inside


def points_along(origins, directions, depth):
    """origin + depth direction: (n, 3), (n, 3), (n,) -> (n, 3)."""
    return origins + depth[..., None] * directions


def outside_bounds(field: Field, origins, directions, config):
    """For rays that miss the bounds: the depth of the point nearest the centre, and its distance to
    the bounds."""
    centre = jnp.broadcast_to(jnp.asarray(config.centre, origins.dtype), origins.shape)
    depth = jnp.maximum(jnp.sum((centre - origins) * directions, axis=-1), 0.0)
    points = points_along(origins, directions, depth)
    low = jnp.broadcast_to(jnp.asarray(field.box[0], points.dtype), points.shape)
    high = jnp.broadcast_to(jnp.asarray(field.box[1], points.dtype), points.shape)
    beyond = jnp.maximum(jnp.maximum(low - points, points - high), 0.0)
    to_sphere = jnp.linalg.norm(points - centre, axis=-1) - config.radius
    return depth, jnp.maximum(to_sphere, jnp.linalg.norm(beyond, axis=-1))
