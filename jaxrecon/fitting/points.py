"""Latent codes of a head from 3D points (a scan), by damped Gauss-Newton on PCA weights.

    d(p) = s(p) / |grad s(p)|        distance of a point to the surface, to first order
    n(p) = grad s(p) / |grad s(p)|   against the point's normal, where there is one

    minimise  a mean_p rho((d / sigma_d)^2 + |n - n_p|^2 / sigma_n^2) + |w|^2 + |r|^2 / sigma_r^2

over w and r of z = mean + w B + r (latents.py), one person with E expressions sharing z_id, and
optionally over a small similarity of each scan. Derivatives with respect to codes come from one
reverse pass a point, those of the normals from its three forward derivatives along x, y and z:
exact, and eight times the cost of the field however many codes there are. Points go in chunks;
only the normal equations are kept. Everything is pure, jittable and vmappable over subjects.
Deviation: the paper fits codes to pixels alone; errors of held-out scans need this.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxrecon.errors import InputError
from jaxrecon.fitting import latents
from jaxrecon.fitting.landmarks import POSE_WIDTH, apply_pose
from jaxrecon.fitting.latents import LatentSpace
from jaxrecon.fitting.problem import FieldFunctions
from jaxrecon.geometry import transforms
from jaxrecon.types import Similarity


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class PointConfig:
    """Sizes of a fit to points."""

    steps: int = 15
    """Gauss-Newton steps."""
    chunk: int = 500
    """Points differentiated at a time; memory grows with it."""
    residuals: bool = False
    """Whether codes may leave the span of the PCA (Eq. 15)."""
    pose: bool = False
    """Whether each scan moves by a small similarity (it was registered roughly)."""
    robust: bool = True
    """Huber's loss instead of squares: points that belong to nothing (hair, clothes) pull less."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PointHyper:
    """Standard deviations and weights, all traced: vmap over them."""

    distance: Any = 0.004
    """sigma_d of distances, canonical units"""
    normal: Any = 0.1
    """sigma_n of unit normals"""
    independent: Any = 1000.0
    """a: how many independent points all of them are worth (errors of a prior are smooth)"""
    residual: Any = 0.1
    """sigma_r of residual codes"""
    huber: Any = 1.0
    """standard deviations beyond which a point counts linearly"""
    rotation: Any = 0.1
    """of the similarity's rotation vector, radians"""
    shift: Any = 0.05
    """of its translation, canonical units"""
    scale: Any = 0.03
    """of the logarithm of its scale"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PointFit:
    """A subject fitted to points."""

    z_id: Any
    """(i,)"""
    z_exp: Any
    """(E, e)"""
    codes: Any
    """weights and residuals, as of `latents.initial_codes`"""
    S_canonical_points: Similarity
    """(E,) where each scan lies"""
    history: Any
    """(steps + 1,) the objective"""


def fit_points(
    functions: FieldFunctions,
    params: dict,
    space: LatentSpace,
    points: Float[Array | np.ndarray, "*shape"],
    normals: Float[Array | np.ndarray, "*shape_normals"] | None = None,
    weights: Float[Array | np.ndarray, "*shape_weights"] | None = None,
    config: PointConfig = PointConfig(),
    hyper: PointHyper | None = None,
    initial: Similarity | None = None,
) -> PointFit:
    """Codes of one person from scans of E expressions; jit and vmap freely.

    Args:
        functions: the conditional fields (static; keep one instance).
        params: their parameters.
        space: latent space of the prior.
        points: (E, n, 3), n points of each scan; those that are not finite do not count.
        normals: (E, n, 3) unit outward; rows that are zero do not count. None: points alone.
        weights: (E, n) of the points, >= 0; scans of fewer points are padded with weight 0.
        config: sizes (static).
        hyper: noise and priors (traced).
        initial: S_canonical_points of every scan, leading axis E; None where points are canonical.

    Returns:
        PointFit; `S_canonical_points` is `initial` (or the identity), refined with `config.pose`.

    Raises:
        InputError: shapes that do not belong together, or fewer than one step.
    """
    hyper = PointHyper() if hyper is None else hyper
    data = _data(points, normals, weights, initial, config)
    zero, gather = _unknowns(space, data[0].shape[0], config)
    precision, _ = ravel_pytree(
        {name: jnp.broadcast_to(_precision(name, hyper), x.shape) for name, x in zero.items()}
    )

    def system(x):
        """(objective, half its gradient, Gauss-Newton matrix) with the priors."""
        cost, vector, matrix = _data_system(
            functions, params, space, data, gather, config, hyper, x
        )
        prior = precision * x
        return cost + jnp.sum(prior * x), vector + prior, matrix + jnp.diag(precision)

    def step(carry, _):
        x, damping, (cost, vector, matrix) = carry
        damped = matrix + damping * jnp.diag(jnp.diag(matrix))
        new = x - jax.scipy.linalg.solve(damped, vector, assume_a="pos")
        proposed = system(new)
        better = proposed[0] < cost  # NaN is not better
        damping = jnp.clip(jnp.where(better, damping * 0.2, damping * 10.0), 1e-6, 1e4)
        kept = jax.tree.map(
            lambda a, b: jnp.where(better, a, b), (new, proposed), (x, (cost, vector, matrix))
        )
        return (kept[0], damping, kept[1]), kept[1][0]

    x, unravel = ravel_pytree(zero)
    begin = system(x)
    start = (x, jnp.asarray(1e-3, x.dtype), begin)
    (x, _, _), costs = jax.lax.scan(step, start, None, length=config.steps)
    history = jnp.concatenate([begin[0][None], costs])
    return _result(space, data, unravel(x), history, initial)


def _data(points, normals, weights, initial, config: PointConfig):
    """(points, normals, weights, weights of normals) with leading axis E, in canonical space."""
    points = jnp.asarray(points)
    if points.ndim != 3 or points.shape[-1] != 3 or 0 in points.shape:
        raise InputError(f"points of shape {points.shape}", "(expressions, points, 3), none empty")
    if normals is not None and normals.shape != points.shape:
        raise InputError(f"normals of shape {normals.shape}", f"{points.shape}, as the points")
    if weights is not None and weights.shape != points.shape[:2]:
        raise InputError(f"weights of shape {weights.shape}", f"{points.shape[:2]}, one a point")
    if config.steps < 1 or config.chunk < 1:
        raise InputError(f"steps {config.steps}, chunk {config.chunk}", "both at least 1")
    weights = jnp.ones(points.shape[:2], points.dtype) if weights is None else jnp.asarray(weights)
    weights = jnp.where(jnp.isfinite(points).all(-1), weights, 0.0)
    points = jnp.where((weights > 0)[..., None], points, 0.0)
    normals = jnp.zeros_like(points) if normals is None else jnp.asarray(normals)
    normals = jnp.where(jnp.isfinite(normals).all(-1, keepdims=True), normals, 0.0)
    if initial is not None:
        points = jax.vmap(transforms.apply_similarity)(initial, points)
        normals = jnp.einsum("eab,enb->ena", initial.R, normals, precision="highest")
    known = transforms.safe_norm(normals) > 0.5
    return points, normals, weights, jnp.where(known, weights, 0.0)


def _unknowns(space: LatentSpace, count: int, config: PointConfig):
    """(zero unknowns by name, indices (E, u) of each expression's own in the flat vector)."""
    codes = latents.initial_codes(space, count)
    names = ["w_id", "w_exp"] + (["r_id", "r_exp"] if config.residuals else [])
    zero = {name: codes[name] for name in names}
    if config.pose:
        zero["pose"] = jnp.zeros((count, POSE_WIDTH))
    sizes = np.cumsum([0, *(x.size for x in jax.tree.leaves(zero))])
    spans = [np.arange(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    where = dict(zip(sorted(zero), spans, strict=True))  # ravel_pytree sorts names
    rows = [where[n].reshape(count, -1) for n in ("pose", "r_exp", "w_exp") if n in where]
    common = [np.tile(where[n], (count, 1)) for n in ("r_id", "w_id") if n in where]
    return zero, jnp.asarray(np.sort(np.concatenate(rows + common, axis=1), axis=1))


def _precision(name: str, hyper: PointHyper):
    if name == "pose":
        sigma = [hyper.rotation] * 3 + [hyper.shift] * 3 + [hyper.scale]
        return jnp.stack([jnp.asarray(s, jnp.float32) for s in sigma])[None] ** -2
    return jnp.asarray(hyper.residual, jnp.float32) ** -2 if name[0] == "r" else jnp.ones(())


def _data_system(functions, params, space, data, gather, config, hyper, x):
    """Objective, half gradient and Gauss-Newton matrix of the data, over all expressions."""
    points, normals, weights, known = data
    one = {k: v[:1] if k in ("w_exp", "r_exp", "pose") else v
           for k, v in _unknowns(space, 1, config)[0].items()}  # fmt: skip
    unravel = ravel_pytree(one)[1]

    def level(local, p):
        parts = unravel(local)
        codes = latents.initial_codes(space, 1) | parts
        z_id, z_exp, _ = latents.compose_codes(space, codes)
        conditioning = functions.condition(params, z_id, z_exp[0])
        if not config.pose:
            return functions.level_set(conditioning, p[None])[0]
        change = apply_pose(_identity(p.dtype), parts["pose"][0])
        moved = transforms.apply_similarity(change, p[None])
        return functions.level_set(conditioning, moved)[0] / change.scale

    def expression(inputs):
        rows, *own = inputs
        local = x[rows]

        def terms(points, normals, weights, known):
            return point_terms(level, local, points, normals, weights, known, config, hyper)

        return _chunked(terms, own, config.chunk, local.size)

    costs, vectors, matrices = jax.lax.map(expression, (gather, points, normals, weights, known))
    vector = jnp.zeros_like(x).at[gather].add(vectors)
    square = jnp.zeros((x.size, x.size), x.dtype)
    matrix = square.at[gather[:, :, None], gather[:, None, :]].add(matrices)
    share = hyper.independent / jnp.maximum(jnp.sum(weights), 1e-9) * weights.shape[0]
    return share * jnp.sum(costs), share * vector, share * matrix


def _chunked(terms, arrays, chunk: int, size: int):
    """Sums of `terms` over chunks of points; the last is filled up with weight 0."""
    count = arrays[0].shape[0]
    chunk = min(chunk, count)
    parts = -(-count // chunk)

    def split(a):
        filled = jnp.concatenate([a, jnp.zeros((parts * chunk - count, *a.shape[1:]), a.dtype)])
        return filled.reshape(parts, chunk, *a.shape[1:])

    def body(total, own):
        return jax.tree.map(jnp.add, total, terms(*own)), None

    dtype = arrays[0].dtype
    zero = (jnp.zeros((), dtype), jnp.zeros(size, dtype), jnp.zeros((size, size), dtype))
    return jax.lax.scan(body, zero, tuple(split(a) for a in arrays))[0]


def point_terms(level, local, points, normals, weights, known, config, hyper):
    """Weighted sums over points of (rho, J^T r, J^T J), J exact.

    Args:
        level: (unknowns (u,), point (3,)) -> value of the field.
        local: (u,) unknowns.
        points, normals: (n, 3).
        weights, known: (n,) weights of points, and of their normals.
        config, hyper: robust loss, noise.
    """
    residuals, jacobian = jax.vmap(lambda p, n: _residuals(level, local, p, n))(points, normals)
    ratio = jnp.where(weights > 0, known / jnp.where(weights > 0, weights, 1.0), 0.0)
    spread = jnp.stack([jnp.broadcast_to(1.0 / hyper.distance, ratio.shape)]
                       + [ratio / hyper.normal] * 3, axis=1)  # fmt: skip
    residuals, jacobian = residuals * spread, jacobian * spread[..., None]
    squared = jnp.sum(residuals**2, axis=1)
    if config.robust:
        length = jnp.maximum(jnp.sqrt(squared + 1e-12), hyper.huber)
        rho = jnp.where(
            squared > hyper.huber**2, 2.0 * hyper.huber * length - hyper.huber**2, squared
        )
        factor = weights * hyper.huber / length
    else:
        rho, factor = squared, weights
    scaled = (residuals * factor[:, None]).reshape(-1)
    rows = jacobian.reshape(-1, jacobian.shape[-1])
    rooted = (jacobian * jnp.sqrt(factor)[:, None, None]).reshape(rows.shape)
    return (
        jnp.sum(weights * rho),
        jnp.matmul(scaled, rows, precision="highest"),
        jnp.matmul(rooted.T, rooted, precision="highest"),
    )


def _residuals(level, local, point, normal):
    """((4,) distance and difference of normals, (4, u) its derivatives by the unknowns)."""

    def at(p):
        value, (by_codes, by_point) = jax.value_and_grad(level, argnums=(0, 1))(local, p)
        return by_codes, (value, by_point)

    # The derivative of d s / d codes along an axis is that of d s / d axis by the codes.
    mixed, (by_codes, (value, gradient)) = _jacobian_with_value(at, point)
    norm = jnp.maximum(jnp.linalg.norm(gradient), 1e-6)
    unit = gradient / norm
    along = jnp.matmul(unit, mixed, precision="highest")
    distance = by_codes / norm - value / norm**2 * along
    turn = (mixed - unit[:, None] * along[None, :]) / norm
    residuals = jnp.concatenate([(value / norm)[None], unit - normal])
    return residuals, jnp.concatenate([distance[None], turn])


def _jacobian_with_value(at, point):
    """((3, u) derivatives of the first output along the axes, all outputs)."""
    outputs, push = jax.linearize(at, point)
    return jax.vmap(lambda t: push(t)[0])(jnp.eye(3, dtype=point.dtype)), outputs


def _identity(dtype) -> Similarity:
    return Similarity(jnp.ones((), dtype), jnp.eye(3, dtype=dtype), jnp.zeros(3, dtype))


def _result(space, data, found, history, initial) -> PointFit:
    count, dtype = data[0].shape[0], data[0].dtype
    pose = found.pop("pose", jnp.zeros((count, POSE_WIDTH), dtype))
    if initial is None:
        initial = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), _identity(dtype))
    codes = latents.initial_codes(space, count) | found
    z_id, z_exp, _ = latents.compose_codes(space, codes)
    return PointFit(z_id, z_exp, codes, jax.vmap(apply_pose)(initial, pose), history)
