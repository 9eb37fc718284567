"""Where the head is, and roughly who it is, from landmarks: triangulation, then damped
Gauss-Newton.

The unknowns are the pose (a small similarity after the initial one) and PCA weights; landmarks are
linear in the codes (latents.landmarks). Everything is jitted and vmappable over subjects;
iteration counts are fixed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.fitting.latents import LatentSpace, compose_codes, landmarks
from jaxrecon.fitting.problem import FitConfig, Hyper, ViewData
from jaxrecon.geometry import cameras as camera_ops
from jaxrecon.geometry import transforms
from jaxrecon.geometry.registration import procrustes
from jaxrecon.types import Similarity

POSE_WIDTH = 7


def apply_pose(initial: Similarity, pose: Float[Array, "7"]) -> Similarity:
    """S_canonical_world of a pose vector: axis-angle, translation (canonical units), log scale,
    after the initial.
    """
    change = Similarity(
        scale=jnp.exp(pose[6]), R=transforms.rotation_from_axis_angle(pose[:3]), t=pose[3:6]
    )
    return transforms.compose_similarity(change, initial)


def project_landmarks(
    views: ViewData, S_canonical_world: Similarity, points: Float[Array, "n 68 3"]
) -> tuple[Float[Array, "v 68 2"], Float[Array, "v 68"]]:
    """(pixels, depth in canonical units) of each view's expression."""
    cameras = camera_ops.transform_cameras(views.cameras, S_canonical_world)
    return camera_ops.project(cameras, points[views.expression])


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
    """Scaled orthographic pose (POS) of the view with most landmarks, its depth from the size."""
    best = jnp.argmax(jnp.sum(views.landmark_weights, axis=1))
    camera = jax.tree.map(lambda x: x[best], views.cameras)
    weights, pixels = views.landmark_weights[best], views.landmarks[best]
    # Normalised image coordinates: K is undone, so that x = X / Z.
    ones = jnp.ones((pixels.shape[0], 1), pixels.dtype)
    rays = jnp.linalg.solve(camera.K, jnp.concatenate([pixels, ones], axis=1).T).T[:, :2]
    design = jnp.concatenate([mean, ones], axis=1) * weights[:, None]
    ridge = 1e-6 * jnp.eye(4, dtype=mean.dtype)
    solution = jnp.linalg.solve(design.T @ design + ridge, design.T @ (rays * weights[:, None]))
    first, second = solution[:3, 0], solution[:3, 1]
    size = jnp.sqrt(jnp.linalg.norm(first) * jnp.linalg.norm(second)) + 1e-9
    first = transforms.safe_normalise(first)
    second = transforms.safe_normalise(second - jnp.sum(first * second) * first)
    R_camera_canonical = jnp.stack([first, second, jnp.cross(first, second)])
    unit = jnp.where(views.unit > 0, views.unit, 1.0)
    depth = unit / size
    t = jnp.concatenate([solution[3] * depth, depth[None]])
    # x_camera = unit R x_canonical + t = R_cw x_world + t_cw
    R = R_camera_canonical.T @ camera.R
    shift = R_camera_canonical.T @ (camera.t - t)
    return Similarity(scale=1.0 / unit, R=R, t=shift / unit)


def fit_landmarks(
    views: ViewData, space: LatentSpace, config: FitConfig, hyper: Hyper, codes: dict[str, Array]
) -> tuple[Similarity, dict[str, Array], Float[Array, ""]]:
    """Pose and PCA weights that explain the landmarks.

    Args:
        views: with landmark_weights > 0 for at least a few landmarks.
        space: latent space.
        config: iteration count and number of expressions.
        hyper: landmark noise.
        codes: of `latents.initial_codes`.

    Returns:
        (S_canonical_world, codes with new weights, root mean square error in pixels).
    """
    initial = initial_pose(views, space)
    width, height = views.images.shape[-2], views.images.shape[-3]
    noise = hyper.landmark_noise * max(width, height) / 256.0
    shapes = {"pose": (POSE_WIDTH,), "w_id": codes["w_id"].shape, "w_exp": codes["w_exp"].shape}
    # Scale is free where the unit is unknown, and tied to 3 % where it is known.
    scale_precision = jnp.where(views.unit > 0, 1.0 / 0.03, 1e-2)

    def unpack(x):
        parts, start = {}, 0
        for name, shape in shapes.items():
            size = 1
            for s in shape:
                size *= s
            parts[name] = x[start : start + size].reshape(shape)
            start += size
        return parts

    def errors(x):
        parts = unpack(x)
        z_id, z_exp, _ = compose_codes(space, codes | {k: parts[k] for k in ("w_id", "w_exp")})
        pose = apply_pose(initial, parts["pose"])
        pixels, _ = project_landmarks(views, pose, landmarks(space, z_id, z_exp))
        return (pixels - views.landmarks) * views.landmark_weights[..., None]

    def residuals(x):
        data = errors(x) / noise
        # Huber by reweighting, at 2.5 standard deviations.
        length = jax.lax.stop_gradient(transforms.safe_norm(data))
        data = data * jnp.sqrt(jnp.minimum(1.0, 2.5 / jnp.maximum(length, 1e-6)))[..., None]
        parts = unpack(x)
        prior = jnp.concatenate([parts["w_id"], parts["w_exp"].ravel()])
        return jnp.concatenate([data.ravel(), prior, scale_precision * parts["pose"][6:]])

    def step(x, damping):
        r, J = residuals(x), jax.jacfwd(residuals)(x)
        normal = jnp.matmul(J.T, J, precision="highest")
        damped = normal + damping * jnp.diag(jnp.diag(normal) + 1e-6)
        change = jnp.linalg.solve(damped, -jnp.matmul(J.T, r, precision="highest"))
        better = jnp.sum(residuals(x + change) ** 2) < jnp.sum(r**2)
        damping = jnp.clip(jnp.where(better, damping * 0.2, damping * 10.0), 1e-6, 1e4)
        return jnp.where(better, x + change, x), damping

    size = POSE_WIDTH + codes["w_id"].size + codes["w_exp"].size
    start = (jnp.zeros(size), jnp.asarray(1e-2))
    x, _ = jax.lax.fori_loop(0, config.landmark_steps, lambda _, c: step(*c), start)
    parts = unpack(x)
    seen = jnp.maximum(jnp.sum(views.landmark_weights > 0), 1)
    rms = jnp.sqrt(jnp.sum(errors(x) ** 2) / seen)
    return (
        apply_pose(initial, parts["pose"]),
        codes | {"w_id": parts["w_id"], "w_exp": parts["w_exp"]},
        rms,
    )
