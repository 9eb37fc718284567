"""Where the head is, and roughly who it is, from landmarks: triangulation, then damped
Gauss-Newton.

The unknowns are PCA weights, the pose (a small similarity after the initial one), and the cameras
where they are not exact; landmarks are linear in the codes (latents.landmarks). Everything is
jitted and vmappable over subjects; iteration counts are fixed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxrecon.fitting.cameras import (
    CAMERA_WIDTH,
    camera_noise,
    canonical_cameras,
    deviations,
    pixels_per_unit,
    pose_from_landmarks,
)
from jaxrecon.fitting.latents import LatentSpace, compose_codes, landmarks
from jaxrecon.fitting.problem import FitConfig, Hyper, ViewData
from jaxrecon.geometry import cameras as camera_ops
from jaxrecon.geometry import transforms
from jaxrecon.geometry.registration import procrustes
from jaxrecon.types import Cameras, Similarity

POSE_WIDTH = 7
PIXELS_AT_256 = 138.0
"""Pixels of a canonical unit (150 mm) where a head fills a picture of 256."""
HUBER = 2.5
"""Standard deviations beyond which a landmark counts linearly."""
EXACT = 0.3
"""Noise of landmarks that are trusted fully, in pixels where a head fills 256: about what the
latent space leaves unexplained of exact ones."""


def apply_pose(initial: Similarity, pose: Float[Array, "7"]) -> Similarity:
    """S_canonical_world of a pose vector: axis-angle, translation (canonical units), log scale,
    after the initial.
    """
    change = Similarity(
        scale=jnp.exp(pose[6]), R=transforms.rotation_from_axis_angle(pose[:3]), t=pose[3:6]
    )
    return transforms.compose_similarity(change, initial)


def initial_pose(views: ViewData, space: LatentSpace) -> Similarity:
    """S_canonical_world from triangulated landmarks, or from the view with most landmarks when too
    few triangulate.

    The scale is the known unit's where there is one.
    """
    mean = landmarks(space, space.id_mean, space.exp_mean[None])[0]
    many, valid = camera_ops.triangulate(views.cameras, views.landmarks, views.landmark_weights)
    weights = valid.astype(many.dtype)
    from_many = procrustes(many, mean, weights, scale=True)
    known = procrustes(many * _inverse_unit(views), mean, weights, scale=False)
    inverse = _inverse_unit(views)
    metric = Similarity(scale=inverse, R=known.R, t=known.t)
    from_many = _select(views.unit > 0, metric, from_many)
    single = _pose_from_one_view(views, mean)
    return _select(jnp.sum(weights) >= 6, from_many, single)


def _inverse_unit(views: ViewData) -> Array:
    return jnp.where(views.unit > 0, 1.0 / jnp.where(views.unit > 0, views.unit, 1.0), 1.0)


def _select(condition, a: Similarity, b: Similarity) -> Similarity:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def _pose_from_one_view(views: ViewData, mean: Float[Array, "68 3"]) -> Similarity:
    """Pose by the view with most landmarks, its depth from the size."""
    best = jnp.argmax(jnp.sum(views.landmark_weights, axis=1))
    camera = jax.tree.map(lambda x: x[best], views.cameras)
    R_camera_canonical, t = pose_from_landmarks(
        camera.K, views.landmarks[best], views.landmark_weights[best], mean
    )
    unit = jnp.where(views.unit > 0, views.unit, 1.0)
    # x_camera = unit (R x_canonical + t) = R_cw x_world + t_cw
    R = R_camera_canonical.T @ camera.R
    shift = R_camera_canonical.T @ (camera.t - unit * t)
    return Similarity(scale=1.0 / unit, R=R, t=shift / unit)


def known_pose(views: ViewData, space: LatentSpace, config: FitConfig) -> Similarity:
    """The pose that a fit starts from; where cameras are estimated the world is the canonical space
    times the unit.
    """
    if config.cameras in ("given", "refine"):
        return initial_pose(views, space)
    return Similarity(scale=_inverse_unit(views), R=jnp.eye(3), t=jnp.zeros(3))


def fit_landmarks(
    views: ViewData, space: LatentSpace, config: FitConfig, hyper: Hyper, codes: dict[str, Array]
) -> tuple[Similarity, dict[str, Array], Float[Array, ""]]:
    """Pose, cameras and PCA weights that explain the landmarks.

    Args:
        views: with landmark_weights > 0 for at least a few landmarks; where cameras are estimated,
            of `cameras.guess_cameras`. The noise of a landmark is `hyper.landmark_noise` / weight.
        space: latent space.
        config: iteration count, number of expressions, and what is known of the cameras.
        hyper: noise of landmarks and cameras.
        codes: of `latents.initial_codes`.

    Returns:
        (S_canonical_world, codes with new weights and `cameras` (v, 7), root mean square error in
        pixels).
    """
    given = config.cameras == "given"
    initial = known_pose(views, space, config)
    mean = landmarks(space, space.id_mean, space.exp_mean[None])[0]
    noise = hyper.landmark_noise * pixels_per_unit(views, mean) / PIXELS_AT_256
    still = {"pose": jnp.zeros(POSE_WIDTH), "cameras": jnp.zeros((len(views.images), CAMERA_WIDTH))}
    moving = {"w_id": codes["w_id"], "w_exp": codes["w_exp"]}
    if config.cameras in ("given", "refine"):
        moving["pose"] = still["pose"]
    if not given:
        moving["cameras"] = still["cameras"]
    # Scale is free where the unit is unknown, and tied to 3 % where it is known.
    scale_precision = jnp.where(views.unit > 0, 1.0 / 0.03, 1e-2)
    start, unpack = ravel_pytree(moving)

    def errors(x):
        parts = still | unpack(x)
        z_id, z_exp, _ = compose_codes(space, codes | {k: parts[k] for k in ("w_id", "w_exp")})
        pose = apply_pose(initial, parts["pose"])
        cameras = canonical_cameras(views, pose, None if given else parts["cameras"])
        points = landmarks(space, z_id, z_exp)[views.expression]
        pixels, _ = camera_ops.project(cameras, points)
        return (pixels - views.landmarks) * views.landmark_weights[..., None]

    def deviation(x):
        parts = still | unpack(x)
        scale = scale_precision * parts["pose"][6:]
        prior = [parts["w_id"], parts["w_exp"].ravel(), scale]
        if not given:
            still_there = canonical_cameras(views, apply_pose(initial, parts["pose"]), None)
            spread = camera_noise(config.cameras, hyper)
            prior.append(deviations(still_there, parts["cameras"], spread).ravel())
        return jnp.concatenate(prior)

    def residuals(x):
        data = errors(x) / noise
        # Huber by reweighting.
        length = jax.lax.stop_gradient(transforms.safe_norm(data))
        data = data * jnp.sqrt(jnp.minimum(1.0, HUBER / jnp.maximum(length, 1e-6)))[..., None]
        return jnp.concatenate([data.ravel(), deviation(x)])

    def cost(x):
        # Not the reweighted sum: its weights change with x, so that steps downhill may raise it.
        length = transforms.safe_norm(errors(x) / noise)
        data = jnp.where(length > HUBER, HUBER * (2.0 * length - HUBER), length**2)
        return jnp.sum(data) + jnp.sum(deviation(x) ** 2)

    def step(x, damping):
        r, J = residuals(x), jax.jacfwd(residuals)(x)
        normal = jnp.matmul(J.T, J, precision="highest")
        damped = normal + damping * jnp.diag(jnp.diag(normal) + 1e-6)
        change = jnp.linalg.solve(damped, -jnp.matmul(J.T, r, precision="highest"))
        better = cost(x + change) < cost(x)
        damping = jnp.clip(jnp.where(better, damping * 0.2, damping * 10.0), 1e-6, 1e4)
        return jnp.where(better, x + change, x), damping

    begin = (start, jnp.asarray(1e-2))
    x, _ = jax.lax.fori_loop(0, config.landmark_steps, lambda _, c: step(*c), begin)
    parts = still | unpack(x)
    # `errors` are weighted: by the sum of the weights' squares the mean stays one of pixels
    seen = jnp.maximum(jnp.sum(views.landmark_weights**2), 1e-6)
    rms = jnp.sqrt(jnp.sum(errors(x) ** 2) / seen)
    pose = apply_pose(initial, parts.pop("pose"))
    return pose, codes | parts, rms


def landmark_trust(
    views: ViewData, cameras: Cameras, points: Float[Array, "n 68 3"]
) -> Float[Array, ""]:
    """Weight in (0, 1] of landmarks after their stage: (`EXACT` / noise)^2, at most 1; ours.

    A normal likelihood weighs squared errors by one over the variance, which is told by the median
    distance (of a normal distribution in the plane) that the stage leaves; 1 where none is seen.

    Args:
        views: the subject's views.
        cameras: v fitted cameras in canonical space.
        points: landmarks of every expression, canonical.
    """
    pixels, _ = camera_ops.project(cameras, points[views.expression])
    length = transforms.safe_norm(pixels - views.landmarks)
    median = jnp.nanmedian(jnp.where(views.landmark_weights > 0, length, jnp.nan))
    noise = median / jnp.sqrt(2.0 * jnp.log(2.0))
    ratio = EXACT * pixels_per_unit(views, points[0]) / PIXELS_AT_256 / noise
    trust = jnp.where(jnp.isnan(ratio), 1.0, jnp.minimum(1.0, ratio**2))
    return jax.lax.stop_gradient(trust)
