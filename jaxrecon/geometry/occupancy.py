"""Marching of occupancy fields: fixed steps, the first sign change, bisection.

An occupancy probability is no distance (stepping by 0.5 - p misses most rays), so that a surface is
found only where two neighbouring samples differ in sign: solids thinner than a step along the ray
may be missed.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.errors import InputError
from jaxrecon.geometry.ray_bounds import outside_bounds, points_along, ray_interval
from jaxrecon.geometry.sphere_tracing import Trace
from jaxrecon.types import Field


@dataclasses.dataclass(frozen=True)
class MarchConfig:
    """What marching may cost and how exact it is; hashable, a static argument. Lengths are in the
    field's units."""

    radius: float = 1.7320508
    """Bounding sphere; rays are marched where it and `field.box` overlap. The default holds the
    unit cube."""
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Centre of the bounding sphere."""
    tolerance: float = 1e-3
    """A ray has converged where |0.5 - p| <= tolerance."""
    samples: int = 128
    """Samples between the near and far bounds of a ray, both included."""
    bisections: int = 20
    """Halvings of the first interval whose ends differ in sign; 20 reach float32's resolution."""
    hit_fraction: float = 1.0
    """Most rays that may be bisected, as a fraction of all; the rest are counted in `overflow` and
    keep the sampled interval's inner end."""
    chunk: int = 8
    """Samples per ray evaluated at once: a ray stops at the first block that holds its sign
    change."""


def _value(field: Field, origins, directions, t):
    """f at depths t (n, k) -> (n, k)."""
    n, k = t.shape
    points = origins[:, None, :] + t[..., None] * directions[:, None, :]
    return field(points.reshape(n * k, 3)).reshape(n, k)


def _first_sign_change(field, origins, directions, near, far, inside, config: MarchConfig):
    """Per ray: found, (a, b) around the first change, whether it starts inside, the visited t and f
    of least |f|.

    Blocks of samples are evaluated for all rays until every ray has its sign change.
    """
    k, last = config.chunk, config.samples - 1
    blocks = -(-config.samples // k)

    def unfinished(carry):
        block, found, *_ = carry
        return (block < blocks) & jnp.any(inside & ~found)

    def body(carry):
        block, found, a, b, start, previous, best_t, best_f, spent = carry
        index = jnp.minimum(block * k + jnp.arange(k), last).astype(near.dtype)
        t = near[:, None] + (far - near)[:, None] * (index / last)[None, :]
        f = _value(field, origins, directions, t)
        negative = f < 0
        first = jnp.argmax(negative, axis=1)

        def pick(x, i):
            return jnp.take_along_axis(x, i[:, None], axis=1)[:, 0]

        new = inside & ~found & jnp.any(negative, axis=1)
        before = jnp.where(first > 0, pick(t, jnp.maximum(first - 1, 0)), previous)
        a, b = jnp.where(new, before, a), jnp.where(new, pick(t, first), b)
        start = start | (new & (first == 0) & (block == 0))
        # samples behind the surface do not count as nearest
        visible = jnp.where(jnp.arange(k)[None, :] <= first[:, None], jnp.abs(f), jnp.inf)
        visible = jnp.where(new[:, None], visible, jnp.where(found[:, None], jnp.inf, jnp.abs(f)))
        least = jnp.argmin(visible, axis=1)
        better = pick(visible, least) < jnp.abs(best_f)
        best_t = jnp.where(better, pick(t, least), best_t)
        best_f = jnp.where(better, pick(f, least), best_f)
        return block + 1, found | new, a, b, start, t[:, -1], best_t, best_f, spent + f.size

    zero = jnp.sum(inside.astype(jnp.int32)) * 0
    none = jnp.zeros_like(inside)
    carry = (zero, none, near, far, none, near, near, jnp.full_like(near, jnp.inf), zero)
    _, found, a, b, start, _, best_t, best_f, spent = jax.lax.while_loop(unfinished, body, carry)
    return found, a, b, start, best_t, best_f, spent


def march(
    field: Field,
    origins: Float[Array, "n 3"],
    directions: Float[Array, "n 3"],
    config: MarchConfig = MarchConfig(),
) -> Trace:
    """Find where rays first enter the solid of an occupancy field (also of any level set with no
    usable bound).

    Pure and of fixed shapes: jit with `config` static, vmap over any argument. No gradients flow.
    Rays that start inside the solid have hit, but not converged.

    Args:
        field: pointwise; negative inside. Rays are clipped to `field.box`.
        origins: (n, 3), the field's frame and units.
        directions: (n, 3), unit.
        config: bounds, samples and budgets.

    Raises:
        InputError: the field is not pointwise.
    """
    if not field.pointwise:
        raise InputError(
            "a field that is not pointwise (a value depends on the other points)",
            "a pointwise field: rays are evaluated in blocks and padded groups",
            "extract a mesh in one chunk and rasterise it instead",
        )
    field, origins, directions = jax.lax.stop_gradient((field, origins, directions))
    n = origins.shape[0]
    with jax.default_matmul_precision("highest"):
        near, far, inside = ray_interval(field, origins, directions, config)
        found, a, b, start, best_t, best_f, spent = _first_sign_change(
            field, origins, directions, near, far, inside, config
        )
        size = max(1, min(n, round(n * config.hit_fraction)))
        crossing = found & ~start
        (index,) = jnp.nonzero(crossing, size=size, fill_value=n)
        o, d, lo, hi = (x.at[index].get(mode="clip") for x in (origins, directions, a, b))

        def halve(_, ends):
            low, high = ends
            middle = 0.5 * (low + high)
            outside = field(points_along(o, d, middle)) > 0
            return jnp.where(outside, middle, low), jnp.where(outside, high, middle)

        lo, hi = jax.lax.fori_loop(0, config.bisections, halve, (lo, hi))
        middle = 0.5 * (lo + hi)
        f = field(points_along(o, d, middle))
    spent = spent + size * (config.bisections + 1)
    depth = jnp.where(found, b, best_t).at[index].set(middle, mode="drop")
    value = jnp.where(found, jnp.inf, best_f).at[index].set(f, mode="drop")
    depth = jnp.where(start, near, depth)
    converged = crossing & (jnp.abs(value) <= config.tolerance)
    far_t, far_f = outside_bounds(field, origins, directions, config)
    nearest = jnp.where(converged, depth, jnp.where(inside, best_t, far_t))
    depth = jnp.where(found, depth, nearest)
    trace = Trace(
        depth=depth,
        hit=found,
        converged=converged,
        points=points_along(origins, directions, depth),
        nearest_points=points_along(origins, directions, nearest),
        nearest_values=jnp.where(converged, value, jnp.where(inside, best_f, far_f)),
        evaluations=spent,
        overflow=jnp.maximum(jnp.sum(crossing.astype(spent.dtype)) - size, 0),
    )
    return jax.lax.stop_gradient(trace)


march_rays = jax.jit(march, static_argnames=("config",))
