"""Sphere tracing of signed distance fields: pure, with fixed shapes, few evaluations, honest about
what it missed.

One loop serves marching and root finding, so that every active ray costs one evaluation per step:

* marching: the step is the largest that the Lipschitz bound can certify if the field goes on along
  the ray as it did (auto-relaxed sphere tracing, Bán and Valasek 2023), plus `gap`, and is not
  longer than the secant's root;
* a landing is accepted when all but `gap` of the step is covered by the two ends' empty (or full)
  spheres (the overlap test of Keinert et al. 2014); otherwise the ray takes the plain step f / L +
  gap instead;
* a sign change brackets the root; safeguarded false position (Illinois) then converges to |f| <=
  tolerance.

So no feature thicker than `gap` along the ray is stepped over while `field.lipschitz` holds. Rays
are compacted in stages: each stage's loop works on a buffer of half the size of the one before, and
runs until the unfinished rays fit into the next, so nothing overflows. Rays that the step budget
leaves unresolved are sampled in what remains of their interval, as in IDR (Yariv et al. 2020,
appendix), a fixed fraction of rays at most; `overflow` counts the rest.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.errors import InputError
from jaxrecon.geometry.ray_bounds import (  # noqa: F401 (ray_sphere_interval is used from here)
    outside_bounds,
    points_along,
    ray_interval,
    ray_sphere_interval,
)
from jaxrecon.types import Field

MARCHING, BRACKETED, CONVERGED, MISSED, INSIDE, STUCK = 0, 1, 2, 3, 4, 5


@dataclasses.dataclass(frozen=True)
class TraceConfig:
    """What a trace may cost and how exact it is; hashable, a static argument. Lengths are in the
    field's units."""

    radius: float = 1.7320508
    """Bounding sphere; rays are traced where it and `field.box` overlap. The default holds the unit
    cube."""
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Centre of the bounding sphere."""
    tolerance: float = 5e-5
    """A ray has converged where |f| <= tolerance."""
    steps: int = 64
    """Most evaluations a ray may use before it is sampled."""
    relaxation: float = 1.0
    """0: plain sphere tracing; 1: the longest certified steps."""
    gap: float = 1e-2
    """Longest stretch of a ray that a step may leave uncertified; also the least progress of a
    step."""
    samples: int = 100
    """Points on the remaining interval of an unresolved ray."""
    sampled_fraction: float = 0.125
    """Most rays that may be sampled, as a fraction of all."""
    secant_steps: int = 16
    """Root-finding steps after sampling."""
    stages: int = 6
    """Buffers of compaction, each half the size of the one before; each compiles the field once
    more."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
    """What a trace found, per ray (n rays). Nothing here carries gradients."""

    depth: Any
    """(n,) ray parameter of the surface; for rays without a hit, of `nearest_points`"""
    hit: Any
    """(n,) bool: the ray meets the solid (a sign change was found, or the ray starts inside)"""
    converged: Any
    """(n,) bool: |f(points)| <= tolerance; never true without `hit`"""
    points: Any
    """(n, 3) origin + depth direction"""
    nearest_points: Any
    """(n, 3) the visited point of least |f|; if the ray misses the bounds, its point nearest their
    centre"""
    nearest_values: Any
    """(n,) f there; if the ray misses the bounds, the distance to the bounds (positive)"""
    evaluations: Any
    """() int32, points at which the field was evaluated, padding included"""
    overflow: Any
    """() int32, rays left unresolved (neither hit nor miss is certain; reported as misses)"""


class _Rays(NamedTuple):
    """State of marching, one entry per ray; (a, fa) is the last accepted point, (b, fb) the inner
    end of a bracket."""

    origin: Any
    direction: Any
    far: Any
    t: Any  # where to evaluate next
    a: Any
    fa: Any
    b: Any  # (before there is a bracket: where the bounds begin)
    fb: Any
    side: Any  # which end of the bracket the last root step kept: +1 b, -1 a, 0 neither
    best_t: Any
    best_f: Any
    status: Any


def _active(rays: _Rays):
    return rays.status <= BRACKETED


def _false_position(a, fa, b, fb):
    """The secant's root in [a, b], kept off the ends by 1/1000 of the bracket."""
    width = b - a
    fraction = fa / jnp.maximum(fa - fb, jnp.finfo(fa.dtype).tiny)
    return a + width * jnp.clip(fraction, 1e-3, 1.0 - 1e-3)


def _refine(rays: _Rays, f):
    """One Illinois step of bracketed rays: (a, b, fa, fb, side) after f was seen at t.

    When the same end is kept twice its value is halved, so that both ends move (superlinear, order
    1.44).
    """
    positive = f > 0
    fb_kept = jnp.where(rays.side == 1, 0.5 * rays.fb, rays.fb)
    fa_kept = jnp.where(rays.side == -1, 0.5 * rays.fa, rays.fa)
    return (
        jnp.where(positive, rays.t, rays.a),
        jnp.where(positive, f, fa_kept),
        jnp.where(positive, rays.b, rays.t),
        jnp.where(positive, fb_kept, f),
        jnp.where(positive, 1, -1),
    )


def _advance(rays: _Rays, f, lipschitz: float, config: TraceConfig) -> _Rays:
    """One step of every active ray, given f at `rays.t`; finished rays stay as they are."""
    marching = rays.status == MARCHING
    first = rays.fa < 0  # no accepted point yet: `_start` sets fa = -1
    empty, full = jnp.maximum(f, 0.0) / lipschitz, jnp.maximum(-f, 0.0) / lipschitz
    length = rays.t - rays.a
    # overlap test; the slack absorbs rounding, so that a plain step is always accepted
    slack = 1e-3 * config.gap + 8.0 * jnp.finfo(f.dtype).eps * jnp.abs(rays.t)
    accepted = first | (length - rays.fa / lipschitz - empty - full <= config.gap + slack)
    slope = jnp.where(first, -lipschitz, (f - rays.fa) / jnp.where(length > 0, length, 1.0))
    slope = jnp.clip(slope, -lipschitz, lipschitz)

    certified = f / lipschitz
    longest = 2.0 * f / jnp.maximum(lipschitz - slope, 1e-3 * lipschitz)
    step = certified + config.relaxation * (longest - certified) + config.gap
    root = f / jnp.maximum(-slope, 1e-3 * lipschitz)
    step = jnp.where(slope < 0, jnp.minimum(step, root), step)
    ahead = jnp.minimum(rays.t + step, rays.far)
    plain = jnp.minimum(rays.a + rays.fa / lipschitz + config.gap, rays.far)

    close = jnp.abs(f) <= config.tolerance
    converged = close & (accepted | ~marching)
    # a start within the solid: fall back to the bounds (kept in b until there is a bracket)
    restart = marching & first & (f < 0) & ~close & (rays.t > rays.b)
    inside = marching & first & (f < 0) & ~close & ~restart
    crossed = marching & accepted & (f < 0) & ~close & ~first
    onward = marching & accepted & (f > 0) & ~close
    # nothing but certified space (and at most a gap) is left
    missed = onward & (rays.t + certified + config.gap >= rays.far)
    retry = marching & ~accepted

    ra, rfa, rb, rfb, rside = _refine(rays, f)
    bracketed = ~marching
    a = jnp.where(onward, rays.t, jnp.where(bracketed, ra, rays.a))
    fa = jnp.where(onward, f, jnp.where(bracketed, rfa, rays.fa))
    b = jnp.where(crossed, rays.t, jnp.where(bracketed, rb, rays.b))
    fb = jnp.where(crossed, f, jnp.where(bracketed, rfb, rays.fb))
    side = jnp.where(bracketed, rside, 0)
    searching = crossed | bracketed
    t = jnp.where(searching, _false_position(a, fa, b, fb), jnp.where(retry, plain, ahead))
    t = jnp.where(restart, rays.b, t)
    # a bracket that holds no further number: a jump of the field, not a root
    stuck = bracketed & ((t <= a) | (t >= b)) & ~converged
    t = jnp.where(converged | inside | stuck, rays.t, t)
    status = jnp.where(searching, BRACKETED, MARCHING)
    for flag, value in ((missed, MISSED), (stuck, STUCK), (inside, INSIDE), (converged, CONVERGED)):
        status = jnp.where(flag, value, status)

    better = jnp.abs(f) < jnp.abs(rays.best_f)
    new = rays._replace(
        t=t, a=a, fa=fa, b=b, fb=fb, side=side.astype(rays.side.dtype),
        status=status.astype(rays.status.dtype),
        best_t=jnp.where(better, rays.t, rays.best_t), best_f=jnp.where(better, f, rays.best_f),
    )  # fmt: skip
    keep = _active(rays)
    return jax.tree.map(lambda x, y: jnp.where(keep, x, y) if x.ndim == 1 else x, new, rays)


def _evaluate(field: Field, rays: _Rays):
    return field(points_along(rays.origin, rays.direction, rays.t))


def _pack(rays: _Rays):
    """Fixed (n, 7) and changing (n, 9) state as two matrices: one gather each."""
    fixed = jnp.concatenate([rays.origin, rays.direction, rays.far[:, None]], axis=1)
    return fixed, jnp.stack([x.astype(rays.t.dtype) for x in rays[3:]], axis=1)


def _unpack(fixed, state) -> _Rays:
    rays = _Rays(fixed[:, :3], fixed[:, 3:6], fixed[:, 6], *(state[:, k] for k in range(9)))
    return rays._replace(side=rays.side.astype(jnp.int32), status=rays.status.astype(jnp.int32))


def _take_active(fixed, state, size: int):
    """The first `size` active rays and their indices; padding is marked as missed."""
    n = state.shape[0]
    (index,) = jnp.nonzero(state[:, -1] <= BRACKETED, size=size, fill_value=n)
    fixed, part = fixed.at[index].get(mode="clip"), state.at[index].get(mode="clip")
    return fixed, part.at[:, -1].set(jnp.where(index < n, part[:, -1], MISSED)), index


def _march(field: Field, fixed, state, steps, spent, config: TraceConfig, leave: int):
    """Step all rays of a buffer until at most `leave` are active or the step budget is used."""

    def unfinished(carry):
        state, steps, _ = carry
        return (steps < config.steps) & (jnp.sum(state[:, -1] <= BRACKETED) > leave)

    def body(carry):
        state, steps, spent = carry
        rays = _unpack(fixed, state)
        rays = _advance(rays, _evaluate(field, rays), field.lipschitz, config)
        return _pack(rays)[1], steps + 1, spent + state.shape[0]

    return jax.lax.while_loop(unfinished, body, (state, steps, spent))


def _staged_march(field: Field, fixed, state, spent, config: TraceConfig):
    """March everything, moving the active rays into ever smaller buffers."""
    n = state.shape[0]
    sizes = sorted({max(1, -(-n // 2**k)) for k in range(config.stages)}, reverse=True)
    steps = jnp.zeros_like(spent)
    for size, following in zip(sizes, sizes[1:] + [0], strict=True):
        if size == n:
            state, steps, spent = _march(field, fixed, state, steps, spent, config, following)
            continue
        some, part, index = _take_active(fixed, state, size)
        part, steps, spent = _march(field, some, part, steps, spent, config, following)
        state = state.at[index].set(part, mode="drop")  # padding has index n: dropped
    return state, spent


def _sample(field: Field, rays: _Rays, config: TraceConfig) -> _Rays:
    """Bracket the first sign change of marching rays among equally spaced samples from the last
    accepted point."""
    m, count = rays.t.shape[0], config.samples
    fractions = jnp.arange(1, count + 1, dtype=rays.t.dtype) / count
    t = rays.a[:, None] + (rays.far - rays.a)[:, None] * fractions[None, :]
    points = rays.origin[:, None, :] + t[..., None] * rays.direction[:, None, :]
    f = field(points.reshape(m * count, 3)).reshape(m, count)
    negative = f < 0
    k = jnp.argmax(negative, axis=1)

    def pick(x, i):
        return jnp.take_along_axis(x, i[:, None], axis=1)[:, 0]

    before = jnp.maximum(k - 1, 0)
    a = jnp.where(k > 0, pick(t, before), rays.a)
    fa = jnp.where(k > 0, pick(f, before), rays.fa)
    b, fb = pick(t, k), pick(f, k)
    found = jnp.any(negative, axis=1)
    least = jnp.argmin(jnp.abs(f), axis=1)
    better = jnp.abs(pick(f, least)) < jnp.abs(rays.best_f)
    marching = rays.status == MARCHING
    new = rays._replace(
        a=a, fa=fa, b=b, fb=fb, t=_false_position(a, fa, b, fb), side=jnp.zeros_like(rays.side),
        best_t=jnp.where(better, pick(t, least), rays.best_t),
        best_f=jnp.where(better, pick(f, least), rays.best_f),
        status=jnp.where(found, BRACKETED, MISSED).astype(rays.status.dtype),
    )  # fmt: skip
    return jax.tree.map(lambda x, y: jnp.where(marching, x, y) if x.ndim == 1 else x, new, rays)


def _resolve(field: Field, fixed, state, spent, config: TraceConfig):
    """Sample the rays that marching left unresolved and find their roots, a small buffer of rays at
    a time."""
    n = state.shape[0]
    budget = max(1, round(n * config.sampled_fraction))
    size = min(budget, max(1, -(-n // 32)))
    rounds = -(-budget // size)

    def unfinished(carry):
        state, done, _ = carry
        return (done < rounds) & jnp.any(state[:, -1] <= BRACKETED)

    def body(carry):
        state, done, spent = carry
        some, part, index = _take_active(fixed, state, size)

        def root(_, part):
            rays = _unpack(some, part)
            return _pack(_advance(rays, _evaluate(field, rays), field.lipschitz, config))[1]

        part = _pack(_sample(field, _unpack(some, part), config))[1]
        part = jax.lax.fori_loop(0, config.secant_steps, root, part)
        status = part[:, -1]
        part = part.at[:, -1].set(jnp.where(status <= BRACKETED, STUCK, status))
        state = state.at[index].set(part, mode="drop")
        return state, done + 1, spent + size * (config.samples + config.secant_steps)

    state, _, spent = jax.lax.while_loop(unfinished, body, (state, jnp.zeros_like(spent), spent))
    return state, spent


def _start(field: Field, origins, directions, start, config: TraceConfig) -> _Rays:
    near, far, inside = ray_interval(field, origins, directions, config)
    begin = near if start is None else jnp.clip(start, near, far)
    unknown = jnp.full_like(near, -1.0)
    status = jnp.where(inside, MARCHING, MISSED).astype(jnp.int32)
    infinite = jnp.full_like(near, jnp.inf)
    return _Rays(
        origins, directions, far, t=begin, a=begin, fa=unknown, b=near, fb=unknown,
        side=jnp.zeros_like(status), best_t=begin, best_f=infinite, status=status,
    )  # fmt: skip


def sphere_trace(
    field: Field,
    origins: Float[Array, "n 3"],
    directions: Float[Array, "n 3"],
    config: TraceConfig = TraceConfig(),
    start: Float[Array, "n"] | None = None,
) -> Trace:
    """Find where rays first meet the zero level of a signed distance field.

    Pure and of fixed shapes: jit with `config` static, vmap over any argument. No gradients flow;
    give the depths to `intersection.differentiable_intersection`. Rays that start inside the solid
    have hit, but not converged.

    Args:
        field: of kind `sdf`, pointwise; steps are divided by `field.lipschitz`, rays clipped to
            `field.box`.
        origins: (n, 3), the field's frame and units; inside the bounds is fine.
        directions: (n, 3), unit.
        config: bounds, tolerance and budgets.
        start: (n,) depths to begin at, known to lie before the surface (e.g. the last fit step's
            depths less a margin); None begins at the bounds.

    Raises:
        InputError: the field is an occupancy or not pointwise.
    """
    if field.kind != "sdf":
        raise InputError(
            f"a field of kind {field.kind!r} for sphere tracing",
            "a signed distance field",
            "use jaxrecon.geometry.occupancy.march",
        )
    if not field.pointwise:
        raise InputError(
            "a field that is not pointwise (a value depends on the other points)",
            "a pointwise field: rays are evaluated in compacted, padded groups",
            "extract a mesh in one chunk and rasterise it instead",
        )
    field, origins, directions, start = jax.lax.stop_gradient((field, origins, directions, start))
    with jax.default_matmul_precision("highest"):
        rays = _start(field, origins, directions, start, config)
        # built from the rays, so that it varies over devices as they do inside shard_map
        spent = jnp.sum(rays.status * 0)
        bounded = rays.status == MARCHING
        fixed, state = _pack(rays)
        state, spent = _staged_march(field, fixed, state, spent, config)
        state, spent = _resolve(field, fixed, state, spent, config)
        rays = _unpack(fixed, state)
    return jax.lax.stop_gradient(_finish(field, rays, bounded, spent, config))


def _finish(field: Field, rays: _Rays, bounded, spent, config) -> Trace:
    status = rays.status
    converged = status == CONVERGED
    hit = converged | (status == INSIDE) | (status == STUCK) | (status == BRACKETED)
    far_t, far_f = outside_bounds(field, rays.origin, rays.direction, config)
    nearest = jnp.where(converged, rays.t, jnp.where(bounded, rays.best_t, far_t))
    depth = jnp.where(hit, rays.t, nearest)
    return Trace(
        depth=depth,
        hit=hit,
        converged=converged,
        points=points_along(rays.origin, rays.direction, depth),
        nearest_points=points_along(rays.origin, rays.direction, nearest),
        nearest_values=jnp.where(bounded, rays.best_f, far_f),
        evaluations=spent,
        overflow=jnp.sum(_active(rays)).astype(spent.dtype),
    )


trace_rays = jax.jit(sphere_trace, static_argnames=("config",))
