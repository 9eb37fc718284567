"""Whole poses from their parts: root, body, jaw, eyes, and hands by their principal modes.

Parts are found by the names of joints, so that one function serves SMPL (24 joints), SMPL-H (52),
SMPL-X and the free body (55) and FLAME (5).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.geometry.transforms import HIGHEST
from jaxrecon.models.parametric.body import BodyModel

FINGERS = ("index", "middle", "pinky", "ring", "thumb")
SIDES = ("left", "right")


def part_joints(model: BodyModel) -> dict[str, tuple[int, ...]]:
    """Joints of each part: root, body (all that no other part has, in order), jaw, left_eye,
    right_eye, left_hand, right_hand (three a finger, in the model's order); parts that the model
    lacks are empty.
    """
    fingers = {
        f"{side}_{f}{i}": f"{side}_hand" for side in SIDES for f in FINGERS for i in (1, 2, 3)
    }
    own = {"jaw": "jaw", "left_eye": "left_eye", "right_eye": "right_eye"}
    parts: dict[str, list[int]] = {
        part: [] for part in ("root", "body", *own, "left_hand", "right_hand")
    }
    for j, name in enumerate(model.joint_names):
        part = "root" if j == 0 else (fingers | own).get(name, "body")
        parts[part].append(j)
    return {part: tuple(ids) for part, ids in parts.items()}


def hand_pose(
    model: BodyModel,
    side: str,
    coefficients: Float[Array | np.ndarray, "*b h"],
    flat: bool = False,
) -> Float[Array, "*b n 3"]:
    """Rotation vectors (radians) of a hand's n joints from its first principal modes.

    Args:
        model: with modes of hands (SMPL-H, SMPL-X).
        side: `left` or `right`.
        coefficients: of the first modes; those left out are zero.
        flat: about the flat hand, zero pose, instead of the mean of hands (`flat_hand_mean` of the
            authors' code).

    Raises:
        ValueError: another side, a model without modes of hands, or more coefficients than modes.
    """
    if side not in SIDES or model.hands is None:
        raise ValueError(f"side {side!r} of a model {'with' if model.hands else 'without'} hands")
    modes = jnp.asarray(getattr(model.hands, f"{side}_components"))
    coefficients = jnp.asarray(coefficients)
    if coefficients.shape[-1] > len(modes):
        raise ValueError(f"{coefficients.shape[-1]} coefficients of {len(modes)} modes")
    pose = jnp.matmul(coefficients, modes[: coefficients.shape[-1]], precision=HIGHEST)
    if not flat:
        mean = jnp.asarray(getattr(model.hands, f"{side}_mean"))
        pose = pose + jnp.broadcast_to(mean, pose.shape)
    return pose.reshape((*pose.shape[:-1], -1, 3))


def full_pose(
    model: BodyModel,
    root: Float[Array | np.ndarray, "*b 3"],
    body: Float[Array | np.ndarray, "*b n 3"] | None = None,
    jaw: Float[Array | np.ndarray, "*b 3"] | None = None,
    left_eye: Float[Array | np.ndarray, "*b 3"] | None = None,
    right_eye: Float[Array | np.ndarray, "*b 3"] | None = None,
    left_hand: Float[Array | np.ndarray, "*b m 3"] | None = None,
    right_hand: Float[Array | np.ndarray, "*b m 3"] | None = None,
) -> Float[Array, "*b j 3"]:
    """The pose (rotation vectors, radians, in the model's order of joints) of its parts.

    Args:
        model: whose joints these are, see `part_joints`.
        root: orientation of the whole.
        body: joints that no other argument names.
        jaw, left_eye, right_eye: one joint each.
        left_hand, right_hand: see `hand_pose`; None: the mean hand where the model has one.

    Raises:
        ValueError: a part that the model lacks, or of another number of joints.
    """
    root = jnp.asarray(root)
    batch = root.shape[:-1]
    single = {"root": root, "jaw": jaw, "left_eye": left_eye, "right_eye": right_eye}
    given = {k: jnp.asarray(v)[..., None, :] for k, v in single.items() if v is not None}
    several = {"body": body, "left_hand": left_hand, "right_hand": right_hand}
    given |= {k: jnp.asarray(v) for k, v in several.items() if v is not None}
    parts = part_joints(model)
    if model.hands is not None:
        for side in SIDES:
            mean = getattr(model.hands, f"{side}_mean").reshape(-1, 3)
            given.setdefault(f"{side}_hand", jnp.broadcast_to(mean, (*batch, *mean.shape)))
    pose = jnp.zeros((*batch, len(model.parents), 3), root.dtype)
    for name, value in given.items():
        if value.shape[-2] != len(parts[name]):
            raise ValueError(
                f"{name} of {value.shape[-2]} joints; the model has {len(parts[name])}"
            )
        pose = pose.at[..., np.array(parts[name], int), :].set(value)
    return pose
