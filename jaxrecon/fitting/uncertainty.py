"""How sure a fit is: Laplace's approximation over pose and PCA weights, at the fit's optimum.

    p(u | data) ~ N(0, Lambda^-1),    Lambda = J^T J + P

u are changes from the optimum: of the pose (7, `landmarks.apply_pose`), w_id, w_exp, w_colour, and
cameras (v, 7, `cameras.move_cameras`) where they are not exact. J is the Jacobian of residuals over
the standard deviations of their noise (landmarks; pixels if asked for). P is the prior: PCA weights
are N(0, I) by construction, the scale is known to 3 % where the unit is known, cameras by their
noise; the rest of the pose is free. What holds for the codes alone is marginal: everything else
unknown is integrated out. Residual codes and networks are taken as known. All is pure, jittable
and vmappable over subjects.

Deviation: the paper has no uncertainty. The noise model is this module's; the weights of a fit's
losses are no log-likelihood.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxrecon.errors import InputError
from jaxrecon.fitting import latents, render
from jaxrecon.fitting.cameras import CAMERA_WIDTH, canonical_cameras, deviations
from jaxrecon.fitting.landmarks import HUBER, POSE_WIDTH, apply_pose
from jaxrecon.fitting.latents import LatentSpace
from jaxrecon.fitting.problem import FieldFunctions, FitConfig, ViewData
from jaxrecon.geometry import cameras as camera_ops
from jaxrecon.geometry import transforms
from jaxrecon.types import Similarity

UNKNOWNS = ("pose", "w_id", "w_exp", "w_colour", "cameras")
SCALE_DEVIATION = 0.03
"""Of the logarithm of the head's scale, where the unit is known; 100 where it is not."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Optimum:
    """A fit to expand about: `Optimum(result.S_canonical_world, result.variables)`."""

    S_canonical_world: Similarity
    """where the head is"""
    codes: Any
    """w_id, w_exp, w_colour, r_id, r_exp, r_colour; more entries are not read"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PixelNoise:
    """What pixels are worth; all traced."""

    colour: Any = 0.1
    """standard deviation of a channel in [0, 1]: noise, light, and what the network misses"""
    alpha: Any = 400.0
    """sharpness of outlines, per canonical unit: sigmoid(-alpha s), as in the mask loss"""
    independent: Any = 300.0
    """how many independent pixels all of them are worth: the errors of neighbours are alike"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """A Gaussian over changes u from an optimum."""

    factor: Any
    """(u, u) F with covariance F F^T, rows in the order of `ravel_pytree(zero)`"""
    zero: Any
    """the unknowns, all zero: names, shapes, order"""
    optimum: Optimum
    """the mean"""


# ---------------------------------------------------------------- unknowns and residuals


def unknowns(
    views: ViewData, optimum: Optimum, free: Collection[str] = UNKNOWNS[:4]
) -> dict[str, Array]:
    """Zero changes of the unknowns named in `free` (default: all but the cameras).

    Raises:
        InputError: a name that is no unknown, or none at all.
    """
    if not free or set(free) - set(UNKNOWNS):
        raise InputError(f"unknowns {tuple(free)}", f"some of {UNKNOWNS}")
    like = {name: optimum.codes[name] for name in UNKNOWNS[1:4]}
    like["pose"] = jnp.zeros(POSE_WIDTH, like["w_id"].dtype)
    like["cameras"] = jnp.zeros((views.landmarks.shape[0], CAMERA_WIDTH), like["w_id"].dtype)
    return {name: jnp.zeros_like(like[name]) for name in free}


def moved(optimum: Optimum, change: dict) -> tuple[Similarity, dict[str, Array]]:
    """(S_canonical_world, codes) after a change of the unknowns."""
    codes = dict(optimum.codes)
    for name in set(UNKNOWNS[1:4]) & set(change):
        codes[name] = codes[name] + change[name]
    pose = optimum.S_canonical_world
    return (apply_pose(pose, change["pose"]) if "pose" in change else pose), codes


def landmark_residuals(
    change: dict, views: ViewData, space: LatentSpace, optimum: Optimum, noise: Any = 1.0
) -> Float[Array, "v 68 2"]:
    """Reprojection errors after a change, over their standard deviation; 0 for unseen landmarks.

    Args:
        change: some of `unknowns`.
        views: cameras and landmarks; cameras are those of the result.
        space: latent space.
        optimum: what is changed.
        noise: standard deviation of a coordinate, pixels of the views.
    """
    pose, codes = moved(optimum, change)
    z_id, z_exp, _ = latents.compose_codes(space, codes)
    cameras = canonical_cameras(views, pose, change.get("cameras"))
    pixels, _ = camera_ops.project(cameras, latents.landmarks(space, z_id, z_exp)[views.expression])
    return (pixels - views.landmarks) * views.landmark_weights[..., None] / noise


def prior_residuals(
    change: dict,
    views: ViewData,
    optimum: Optimum,
    camera_noise: Float[Array | np.ndarray, "7"] | None = None,
) -> Float[Array, "k"]:
    """PCA weights, log scale and cameras after a change, in standard deviations of their priors.

    Args:
        change: some of `unknowns`.
        views: the unit; cameras, which the prior is about.
        optimum: what is changed.
        camera_noise: (7,) of `cameras.camera_noise`; needed where cameras are unknown.

    Raises:
        InputError: unknown cameras without their noise.
    """
    pose, codes = moved(optimum, change)
    parts = [jnp.ravel(codes[name]) for name in UNKNOWNS[1:4] if name in change]
    if "pose" in change:
        known = views.unit > 0
        unit = jnp.where(known, views.unit, 1.0 / optimum.S_canonical_world.scale)
        spread = jnp.where(known, SCALE_DEVIATION, 100.0)
        parts.append((jnp.log(pose.scale * unit) / spread)[None])
    if "cameras" in change:
        if camera_noise is None:
            raise InputError("cameras are unknown, but not how far", "camera_noise, (7,)")
        before = canonical_cameras(views, pose, None)
        parts.append(deviations(before, change["cameras"], jnp.asarray(camera_noise)).ravel())
    return jnp.concatenate(parts)


def landmark_objective(
    change: dict,
    views: ViewData,
    space: LatentSpace,
    optimum: Optimum,
    noise: Any = 1.0,
    camera_noise: Float[Array | np.ndarray, "7"] | None = None,
) -> Float[Array, ""]:
    """Minus the log posterior given landmarks (Huber's loss), the objective of `fit_landmarks`.

    Twice differentiable in the change and in cameras, landmarks and space. Arguments as of
    `landmark_residuals` and `prior_residuals`.
    """
    residuals = landmark_residuals(change, views, space, optimum, noise)
    squared = jnp.sum(residuals**2, axis=-1)
    far = squared > HUBER**2
    length = jnp.sqrt(jnp.where(far, squared, 1.0))
    data = jnp.sum(jnp.where(far, 2.0 * HUBER * length - HUBER**2, squared))
    known = prior_residuals(change, views, optimum, camera_noise)
    return 0.5 * (data + jnp.sum(known**2))


def pixel_residuals(
    change: dict,
    functions: FieldFunctions,
    params: dict,
    config: FitConfig,
    views: ViewData,
    space: LatentSpace,
    optimum: Optimum,
    samples: render.Samples,
    noise: PixelNoise | None = None,
) -> Float[Array, "v p 4"]:
    """Errors of three colour channels where a ray hits the subject, and distance to the outline of
    other rays, in standard deviations. First derivatives only are right.

    Args:
        change: some of `unknowns`.
        functions: the conditional fields (static).
        params: their parameters, of the result.
        config: tracing (static).
        views, space, optimum: as of `landmark_residuals`.
        samples: pixels, of `render.draw_samples`.
        noise: what they are worth.
    """
    noise = PixelNoise() if noise is None else noise
    pose, codes = moved(optimum, change)
    codes = latents.compose_codes(space, codes)
    cameras = canonical_cameras(views, pose, change.get("cameras"))
    seen = render.render_samples(
        functions, config, params, codes, views.expression, cameras, samples
    )
    covered = seen.hit * samples.subject * samples.valid
    colour = (seen.colours - samples.colours) * covered[..., None] / noise.colour
    # Fisher information of a coin with logit -alpha s: alpha^2 p (1 - p) of s.
    logit = jax.lax.stop_gradient(noise.alpha * seen.least)
    steep = noise.alpha * jnp.sqrt(jax.nn.sigmoid(logit) * jax.nn.sigmoid(-logit))
    outline = steep * seen.least * samples.valid * (1.0 - seen.hit * samples.subject)
    share = jnp.sqrt(jnp.minimum(1.0, noise.independent / seen.hit.size))
    return share * jnp.concatenate([colour, outline[..., None]], axis=-1)


# ---------------------------------------------------------------- the posterior


def information(residuals: Callable, zero: dict, at_once: int = 16) -> Float[Array, "u u"]:
    """J^T J of residuals at no change, in the order of `ravel_pytree(zero)`.

    Args:
        residuals: change -> array, in standard deviations.
        zero: of `unknowns`.
        at_once: directions pushed forward together; memory grows with it.
    """
    flat, unravel = ravel_pytree(zero)
    _, push = jax.linearize(lambda x: jnp.ravel(residuals(unravel(x))), flat)
    rows = jax.lax.map(push, jnp.eye(flat.size, dtype=flat.dtype), batch_size=at_once)
    return jnp.matmul(rows, rows.T, precision="highest")


def landmark_information(
    views: ViewData, space: LatentSpace, optimum: Optimum, zero: dict, noise: Any = 1.0
) -> Float[Array, "u u"]:
    """What landmarks tell; outliers beyond `HUBER` deviations weigh less. Arguments as of
    `landmark_residuals`.
    """

    def residuals(change):
        errors = landmark_residuals(change, views, space, optimum, noise)
        length = jax.lax.stop_gradient(transforms.safe_norm(errors))
        return errors * jnp.sqrt(jnp.minimum(1.0, HUBER / jnp.maximum(length, 1e-6)))[..., None]

    return information(residuals, zero)


def prior_information(
    views: ViewData,
    optimum: Optimum,
    zero: dict,
    camera_noise: Float[Array | np.ndarray, "7"] | None = None,
) -> Float[Array, "u u"]:
    """What is known before any data. Arguments as of `prior_residuals`."""
    return information(lambda change: prior_residuals(change, views, optimum, camera_noise), zero)


def posterior(optimum: Optimum, zero: dict, precision: Float[Array, "u u"]) -> Posterior:
    """The Gaussian of summed informations.

    Args:
        optimum: the mean.
        zero: of `unknowns`.
        precision: sum of `prior_information`, `landmark_information`, and what else is known.

    Returns:
        Posterior; NaN where the sum does not determine an unknown.
    """
    # Unit diagonal: turns in radians and weights differ by 10^6 in precision.
    scale = jax.lax.rsqrt(jnp.diag(precision))
    lower = jnp.linalg.cholesky(precision * scale[:, None] * scale[None, :])
    identity = jnp.eye(len(scale), dtype=scale.dtype)
    inverse = jax.scipy.linalg.solve_triangular(lower, identity, lower=True)
    return Posterior(scale[:, None] * inverse.T, zero, optimum)


def laplace(
    views: ViewData,
    space: LatentSpace,
    optimum: Optimum,
    noise: Any = 1.0,
    free: Collection[str] = UNKNOWNS[:4],
    camera_noise: Float[Array | np.ndarray, "7"] | None = None,
) -> Posterior:
    """The posterior given landmarks alone; pixels can be added with `posterior`.

    Args:
        views, space, optimum, noise: as of `landmark_residuals`.
        free: what is unknown, of `UNKNOWNS` (static).
        camera_noise: (7,) prior standard deviations, where cameras are unknown.
    """
    zero = unknowns(views, optimum, free)
    prior = prior_information(views, optimum, zero, camera_noise)
    data = landmark_information(views, space, optimum, zero, noise)
    return posterior(optimum, zero, prior + data)


# ---------------------------------------------------------------- what it says


def covariance(gaussian: Posterior, name: str) -> Float[Array, "k k"]:
    """Marginal covariance of one unknown, flattened: the others are integrated out."""
    mask = jax.tree.map(lambda x: np.zeros(x.shape, bool), gaussian.zero)
    mask[name] = np.ones(gaussian.zero[name].shape, bool)
    leaves = [np.ravel(mask[k]) for k in sorted(mask)]  # ravel_pytree sorts names
    rows = gaussian.factor[np.flatnonzero(np.concatenate(leaves))]
    return jnp.matmul(rows, rows.T, precision="highest")


def sample(gaussian: Posterior, key: Array, count: int) -> tuple[Similarity, dict[str, Array]]:
    """`count` draws: (S_canonical_world, codes), every array with a leading axis of draws."""
    unravel = ravel_pytree(gaussian.zero)[1]
    noise = jax.random.normal(key, (count, gaussian.factor.shape[0]), gaussian.factor.dtype)
    draws = jnp.matmul(noise, gaussian.factor.T, precision="highest")

    def one(u):
        return moved(gaussian.optimum, unravel(u))

    return jax.vmap(one)(draws)


def landmark_deviation(
    gaussian: Posterior, space: LatentSpace, unit: float = 150.0, world: bool = False
) -> Float[Array, "n 68"]:
    """Root of the summed variances of x, y and z of each expression's landmarks.

    Args:
        gaussian: the posterior.
        space: latent space.
        unit: of the result, per canonical unit: 150 for millimetres and heads.
        world: whether the head's pose counts too (static), or only its shape.
    """
    flat, unravel = ravel_pytree(gaussian.zero)

    def points(x):
        change = unravel(x)
        _, codes = moved(gaussian.optimum, change)
        z_id, z_exp, _ = latents.compose_codes(space, codes)
        found = latents.landmarks(space, z_id, z_exp)
        if not world or "pose" not in change:
            return found
        back = transforms.invert_similarity(
            apply_pose(transforms.identity_similarity(flat.dtype), change["pose"])
        )
        return transforms.apply_similarity(back, found)

    _, push = jax.linearize(points, flat)
    spread = jax.vmap(push)(gaussian.factor.T)
    return unit * jnp.sqrt(jnp.sum(spread**2, axis=(0, -1)))


def surface_deviation(
    gaussian: Posterior,
    functions: FieldFunctions,
    params: dict,
    space: LatentSpace,
    points: Float[Array | np.ndarray, "p 3"],
    expression: int = 0,
    unit: float = 150.0,
    world: bool = False,
    chunk: int = 256,
) -> Float[Array, "p"]:
    """Standard deviation of the surface along its normal: dx . n = -(ds/du du) / |grad s|.

    Args:
        gaussian, space, unit, world: as of `landmark_deviation`.
        functions: the conditional fields (static).
        params: their parameters, of the result.
        points: (p, 3) on the surface, such as a mesh's vertices; canonical space.
        expression: row of w_exp that the surface shows.
        chunk: points differentiated at once; memory grows with it (static).
    """
    flat, unravel = ravel_pytree(gaussian.zero)

    def level(x, point):
        change = unravel(x)
        _, codes = moved(gaussian.optimum, change)
        z_id, z_exp, _ = latents.compose_codes(space, codes)
        conditioning = functions.condition(params, z_id, z_exp[expression])
        point = point[None]
        if world and "pose" in change:
            point = transforms.apply_similarity(
                apply_pose(transforms.identity_similarity(flat.dtype), change["pose"]), point
            )
        return functions.level_set(conditioning, point)[0]

    def one(point):
        by_change, by_point = jax.grad(level, argnums=(0, 1))(flat, point)
        along = jnp.matmul(by_change, gaussian.factor, precision="highest")
        return transforms.safe_norm(along) / jnp.maximum(transforms.safe_norm(by_point), 1e-6)

    return unit * jax.lax.map(one, jnp.asarray(points), batch_size=chunk)
