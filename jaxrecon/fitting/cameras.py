"""Cameras that a fit moves: a first guess from landmarks, and a small change of each camera.

A view's change is seven numbers in canonical units (`move_cameras`); `FitConfig.cameras` says which
may move, `camera_noise` how far. The focal length and the distance of a face nearly trade off, so
the last number moves both and leaves the size of the picture.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.fitting.latents import LatentSpace, landmarks
from jaxrecon.fitting.problem import CameraMode, Hyper, ViewData
from jaxrecon.geometry import cameras as camera_ops
from jaxrecon.geometry import transforms
from jaxrecon.types import Cameras, Similarity

CAMERA_WIDTH = 7
NEAREST = 5.0
"""Canonical units (0.75 m for heads) from which a face is photographed, where nothing is known."""
_FIXED, _FREE = 1e-4, 10.0
NOISE: dict[str, tuple[float, ...]] = {
    # A degree and 5 mm in any direction, and something to spare.
    "refine": (0.015,) * 3 + (0.025,) * 3 + (_FIXED,),
    "estimate": (_FREE,) * 6 + (_FIXED,),
    "estimate_focal": (_FREE,) * 6 + (0.3,),
}
"""Standard deviations: turn (radians), shift of the camera's centre (canonical units, 150 mm for
heads), log focal length.
"""


def camera_noise(mode: CameraMode, hyper: Hyper) -> Float[Array, "7"]:
    """Standard deviations of a camera: `hyper.camera_noise`, else those of the mode."""
    own = hyper.camera_noise
    return jnp.asarray(NOISE[mode] if own is None else own, jnp.float32)


def move_cameras(cameras: Cameras, change: Float[Array, "v 7"]) -> Cameras:
    """Cameras in canonical space after a change of each.

    Args:
        cameras: v cameras in canonical space (the head is at the origin).
        change: (v, 7): axis-angle of a turn of the head (R' = R exp(w)), translation in the
            camera's axes, log of the focal length with the distance following:
            f' = f e^a, t_z' = (t_z + d_z) e^a, so that the head keeps its size in the picture.
    """
    turn = jax.vmap(transforms.rotation_from_axis_angle)(change[:, :3])
    zoom = jnp.exp(change[:, 6])
    t = cameras.t + change[:, 3:6]
    return Cameras(
        K=_zoomed(jnp.asarray(cameras.K), zoom),
        R=jnp.matmul(cameras.R, turn, precision="highest"),
        t=jnp.asarray(t).at[:, 2].multiply(zoom),
    )


def _zoomed(K: Float[Array, "*v 3 3"], zoom: Float[Array, "*v"]) -> Float[Array, "*v 3 3"]:
    return K.at[..., :2, :2].multiply(zoom[..., None, None])


def deviations(
    cameras: Cameras, change: Float[Array, "v 7"], spread: Float[Array, "7"]
) -> Float[Array, "v 7"]:
    """How far a change moves each camera, in standard deviations: its turn, the shift of its centre
    and the log of its focal length; their squares are the cameras' log prior.

    Args:
        cameras: v cameras in canonical space, before the change.
        change: of `move_cameras`.
        spread: of `camera_noise`.
    """
    centres = camera_ops.camera_centres(move_cameras(cameras, change))
    shift = centres - camera_ops.camera_centres(cameras)
    return jnp.concatenate([change[:, :3], shift, change[:, 6:]], axis=1) / spread[None, :]


def canonical_cameras(
    views: ViewData, S_canonical_world: Similarity, change: Float[Array, "v 7"] | None
) -> Cameras:
    """The views' cameras in canonical space, moved by `change` (None: not at all)."""
    cameras = camera_ops.transform_cameras(views.cameras, S_canonical_world)
    return cameras if change is None else move_cameras(cameras, change)


def world_cameras(
    views: ViewData, S_canonical_world: Similarity, change: Float[Array, "v 7"] | None
) -> Cameras:
    """The views' cameras in the world after a fit."""
    if change is None:
        return views.cameras
    moved = canonical_cameras(views, S_canonical_world, change)
    return camera_ops.transform_cameras(moved, transforms.invert_similarity(S_canonical_world))


def pose_from_landmarks(
    K: Float[Array, "3 3"],
    pixels: Float[Array, "p 2"],
    weights: Float[Array, "p"],
    points: Float[Array, "p 3"],
) -> tuple[Float[Array, "3 3"], Float[Array, "3"]]:
    """(R, t) of a camera that sees points at pixels: scaled orthography, depth from the size (POS,
    DeMenthon and Davis 1995).

    Args:
        K: intrinsics.
        pixels: (p, 2).
        weights: (p,) 0 for unseen.
        points: (p, 3); t is in their unit.
    """
    ones = jnp.ones((pixels.shape[0], 1), pixels.dtype)
    # Normalised image coordinates: K is undone, so that x = X / Z.
    rays = jnp.linalg.solve(K, jnp.concatenate([pixels, ones], axis=1).T).T[:, :2]
    design = jnp.concatenate([points, ones], axis=1) * weights[:, None]
    ridge = 1e-6 * jnp.eye(4, dtype=points.dtype)
    solution = jnp.linalg.solve(design.T @ design + ridge, design.T @ (rays * weights[:, None]))
    first, second = solution[:3, 0], solution[:3, 1]
    size = jnp.sqrt(jnp.linalg.norm(first) * jnp.linalg.norm(second)) + 1e-9
    first = transforms.safe_normalise(first)
    second = transforms.safe_normalise(second - jnp.sum(first * second) * first)
    R = jnp.stack([first, second, jnp.cross(first, second)])
    return R, jnp.append(solution[3], 1.0) / size


def guess_cameras(views: ViewData, space: LatentSpace, mode: CameraMode) -> ViewData:
    """The views with each camera's R and t from its landmarks and the mean face; the world is the
    canonical space times `views.unit`.

    Where the focal length is unknown too, it is K's, or so long that the head is `NEAREST` away.
    """
    mean = landmarks(space, space.id_mean, space.exp_mean[None])[0]

    def one(K, pixels, weights):
        R, t = pose_from_landmarks(K, pixels, weights, mean)
        if mode != "estimate_focal":
            return K, R, t
        zoom = jnp.maximum(1.0, NEAREST / t[2])
        K = _zoomed(K, zoom)
        return K, *pose_from_landmarks(K, pixels, weights, mean)

    K, R, t = jax.vmap(one)(jnp.asarray(views.cameras.K), views.landmarks, views.landmark_weights)
    cameras = Cameras(K=K, R=R, t=t * views.unit)
    return dataclasses.replace(views, cameras=cameras)


def pixels_per_unit(views: ViewData, mean: Float[Array, "68 3"]) -> Float[Array, ""]:
    """How many pixels a canonical unit measures at the head, from the landmarks' size alone: mean
    over views, each counted by the landmarks it shows.
    """
    seen = jnp.sum(views.landmark_weights > 0, axis=1).astype(mean.dtype)

    def one(pixels, weights):
        return 1.0 / pose_from_landmarks(jnp.eye(3), pixels, weights, mean)[1][2]

    size = jax.vmap(one)(views.landmarks, views.landmark_weights)
    return jnp.sum(seen * size) / jnp.maximum(jnp.sum(seen), 1.0)
