"""Kinematic chains: poses to rotations, and rotations down the tree of joints."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.geometry.transforms import rotation_from_axis_angle, rotation_from_rot6d


def pose_rotations(
    pose: Float[Array | np.ndarray, "*p"], joints: int
) -> Float[Array, "*b {joints} 3 3"]:
    """Rotation matrices of a pose in any of three forms.

    Args:
        pose: (*b, j, 3) rotation vectors, radians; (*b, j, 3, 3) matrices; or (*b, j, 6), two
            columns interleaved (see `transforms.rotation_from_rot6d`).
        joints: j.

    Raises:
        ValueError: another shape.
    """
    pose = jnp.asarray(pose)
    if pose.shape[-3:] == (joints, 3, 3):
        return pose
    if pose.shape[-2:] == (joints, 3):
        return rotation_from_axis_angle(pose)
    if pose.shape[-2:] == (joints, 6):
        return rotation_from_rot6d(pose)
    raise ValueError(
        f"a pose of shape {pose.shape}; expected (..., {joints}, 3), (..., {joints}, 6) or "
        f"(..., {joints}, 3, 3)"
    )


def world_transforms(
    rotations: Float[Array, "*b j 3 3"], joints: Float[Array, "*b j 3"], parents: tuple[int, ...]
) -> Float[Array, "*b j 4 4"]:
    """The frame of every joint in space: the product of the transforms from the root down to it.

    All joints at once, in log2 of the tree's depth steps: in each, a joint's product is multiplied
    by that of the joint where it began, whose own beginning it then takes over (pointer jumping,
    Wyllie 1979). Four products of matrices for the eleven levels of SMPL-X.

    Args:
        rotations: of each joint against its parent.
        joints: rest places.
        parents: -1 for the root; parents come before their children.
    """
    count = len(parents)
    above = np.array([*(p if p >= 0 else count for p in parents), count])
    batch = joints.shape[:-2]
    origin = jnp.zeros((*batch, 1, 3), joints.dtype)
    # one frame more, the world's: every chain ends in it, and it is the identity
    places = jnp.concatenate([joints, origin], axis=-2)
    bones = joints - places[..., above[:-1], :]
    local = homogeneous(jnp.concatenate([rotations, bones[..., None]], axis=-1))
    identity = jnp.broadcast_to(jnp.eye(4, dtype=local.dtype), (*batch, 1, 4, 4))
    chain = jnp.concatenate([local, identity], axis=-3)
    while (above != count).any():
        chain = _product(chain[..., above, :, :], chain)
        above = above[above]
    return chain[..., :count, :, :]


def homogeneous(affine: Float[Array, "*b 3 4"]) -> Float[Array, "*b 4 4"]:
    """[A | t] with the row (0, 0, 0, 1) below."""
    last = jnp.broadcast_to(jnp.array([0, 0, 0, 1], affine.dtype), (*affine.shape[:-2], 1, 4))
    return jnp.concatenate([affine, last], axis=-2)


def moved(affine: Float[Array, "*b 3 4"], points: Float[Array, "*b 3"]) -> Float[Array, "*b 3"]:
    """A x + t of [A | t], one transform a point."""
    return _product(affine[..., :3], points[..., None])[..., 0] + affine[..., 3]


def affine_inverse(affine: Float[Array, "*b 3 4"]) -> Float[Array, "*b 3 4"]:
    """[A^-1 | -A^-1 t] of [A | t], by cofactors; |det A| < 1e-6 counts as 1e-6, so that the values
    and gradients of singular ones are finite (and meaningless).
    """
    a, b, c = (affine[..., :, i] for i in range(3))
    rows = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=-2)
    det = jnp.sum(a * rows[..., 0, :], axis=-1)
    det = jnp.where(jnp.abs(det) < 1e-6, jnp.where(det < 0, -1e-6, 1e-6), det)
    inverse = rows / det[..., None, None]
    return jnp.concatenate([inverse, -_product(inverse, affine[..., 3:])], axis=-1)


def _product(a: Array, b: Array) -> Array:
    """Products of many small matrices, unrolled: six times faster on a CPU than `jnp.matmul` of a
    batch (XLA fuses it), and in full precision everywhere.
    """
    terms = (a[..., :, k, None] * b[..., None, k, :] for k in range(a.shape[-1]))
    return functools.reduce(jnp.add, terms)
