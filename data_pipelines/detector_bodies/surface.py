"""A body model made ready for clothed pictures: kept faces, fields on the skin, keypoints.

Fields say where on a body a point is (how far down the arm, how high between hips and shoulders),
so that garments are regions of them and fit every person. They are those of the mean body.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxrecon.errors import InputError
from jaxrecon.models.parametric import procedural_albedo
from jaxrecon.models.parametric.body_file import REMEDY, read_body
from jaxrecon.models.parametric.face_masks import MASKS
from jaxrecon.types import BODY_25

FIELDS = ("height", "arm", "arm_weight", "head_weight", "cover", "x", "y", "z")
"""Columns of `Surface.fields`: height is 0 at the hips, 1 at the shoulders, -1 at the ankles; arm
is 0 at the shoulder, 1 at the elbow, 2 at the wrist, -1 off the arms; shares of the skinning
weights of arms and of the head; 1 on the hairy scalp, falling to 0; mean position, metres."""
HEIGHT, ARM, ARM_WEIGHT, HEAD_WEIGHT, COVER, X, Y, Z = range(len(FIELDS))
HIDDEN_PARTS = ("tongue", "teeth")
SIDES = ("left", "right")
FINGERS = ("index", "middle", "ring", "pinky")
JOINTS = (
    *("pelvis", "spine1", "spine2", "spine3", "neck", "head"),
    *(f"{s}_{n}" for s in SIDES for n in ("hip", "knee", "ankle", "foot")),
    *(f"{s}_{n}" for s in SIDES for n in ("collar", "shoulder", "elbow", "wrist")),
    *(f"{s}_{f}{i}" for s in SIDES for f in FINGERS for i in (1, 2, 3)),
)
"""Joints that poses and garments name; the pelvis is the root."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Surface:
    """The drawn part of a body, v vertices; arrays on the device."""

    faces: Any
    """(f, 3)"""
    fields: Any
    """(v, 8), see `FIELDS`"""
    weights: Any
    """(v, j) skinning"""
    albedo: dict
    """leaves (v, ...) of `procedural_albedo.surface_from_arrays`"""
    foot: Any
    """(v, 3) metres, from the toes to the smooth hull that a shoe has"""
    around: Any
    """(2, 3) middle of the hairy scalp on the mean body, and half of its size; metres"""


@dataclasses.dataclass(frozen=True)
class Person:
    """A body model on the host: n vertices of the file, j joints."""

    surface: Surface
    used: Int[np.ndarray, " v"]
    """ids of the drawn vertices"""
    faces: Int[np.ndarray, "f 3"]
    """of the drawn vertices, in their own numbers"""
    template: Float[np.ndarray, "n 3"]
    shapes: Float[np.ndarray, "k n 3"]
    regressor: Float[np.ndarray, "j n"]
    weights: Float[np.ndarray, "n j"]
    fields: Float[np.ndarray, "n 8"]
    scalp: Int[np.ndarray, " s"]
    """ids of the hairy scalp's vertices"""
    names: tuple[str, ...]
    parents: tuple[int, ...]
    keypoints: tuple[Float[np.ndarray, "25 j"], Float[np.ndarray, "25 v"]]
    """BODY_25 as means of joints plus means of drawn vertices (rows of one of the two are 0)"""


def load_person(path: str | os.PathLike) -> Person:
    """Read a body model with semantic masks of its head.

    Args:
        path: .npz that `body_file.read_body` takes, with the 55 joints of SMPL-X and `mask_*`.

    Raises:
        InputError: no such file, or not all that is needed.
    """
    path = pathlib.Path(path)
    arrays = read_body(path)
    try:
        return person_of(arrays)
    except InputError as error:
        raise InputError(f"{path}: {error.given}", error.expected, error.remedy) from error


def person_of(arrays: dict[str, np.ndarray]) -> Person:
    """As `load_person`, from the arrays of `body_file.body_arrays`."""
    missing = [k for k in (f"mask_{m}" for m in MASKS) if k not in arrays]
    names = tuple(str(n) for n in arrays["joint_names"])
    missing += [f"joint {n}" for n in JOINTS if n not in names]
    if len(arrays["landmark_corners"]) != 68:
        missing.append("68 landmarks")
    if missing:
        raise InputError(f"no {', '.join(missing)}", "the free body's layout", REMEDY)
    template = np.asarray(arrays["v_template"], np.float32)
    count = len(template)
    faces, parts = np.asarray(arrays["faces"], np.int64), np.zeros(len(arrays["faces"]), int)
    part_names = ["body"]
    if "face_part" in arrays and "part_names" in arrays:
        parts = np.asarray(arrays["face_part"], int)
        part_names = [str(n) for n in arrays["part_names"]]
    shown = ~np.isin(parts, [i for i, n in enumerate(part_names) if n in HIDDEN_PARTS])
    faces, parts = faces[shown], parts[shown]
    used = np.unique(faces)
    place = np.full(count, -1)
    place[used] = np.arange(len(used))

    masks = {m: _unit(arrays[f"mask_{m}"], count) for m in MASKS}
    weights = np.asarray(arrays["weights"], np.float32)
    regressor = np.asarray(arrays["joint_regressor"], np.float32)
    joints = dict(zip(names, regressor.astype(float) @ template, strict=True))
    cover = procedural_albedo.smooth_mask(masks["scalp"], faces, rounds=4)
    cover = np.clip(1.6 * cover - 0.5, 0.0, 1.0)
    fields = body_fields(template, weights, names, joints, cover)
    scalp = np.flatnonzero(masks["scalp"] > 0.5)
    hairy = template[scalp] if len(scalp) else template
    low, high = hairy.min(0), hairy.max(0)
    around = np.stack([(low + high) / 2, np.maximum((high - low) / 2, 1e-3)])
    # procedural skin knows parts by the beginning of their names, and thinks in millimetres
    heads = ["sclera" if n == "eyes" else "face" for n in part_names]
    albedo = procedural_albedo.surface_from_arrays(1000.0 * template, faces, parts, heads, masks)
    own = place[faces]
    surface = Surface(
        faces=jnp.asarray(own, jnp.int32),
        fields=jnp.asarray(fields[used]),
        weights=jnp.asarray(weights[used]),
        albedo={k: jnp.asarray(v)[used] for k, v in albedo.items()},
        foot=jnp.asarray(_shoe_hull(template[used], own, fields[used])),
        around=jnp.asarray(around, jnp.float32),
    )
    table = keypoint_table(arrays, joints, names, weights, fields, faces)
    return Person(
        surface=surface,
        used=used,
        faces=own,
        template=template,
        shapes=np.asarray(arrays["shapedirs"], np.float32),
        regressor=regressor,
        weights=weights,
        fields=fields,
        scalp=scalp,
        names=names,
        parents=tuple(int(p) for p in arrays["parents"]),
        keypoints=(table[0], table[1][:, used]),
    )


def _unit(mask, count: int) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.shape != (count,) or mask.dtype.kind not in "uifb":
        raise InputError(f"a mask of shape {mask.shape}", f"({count},)", REMEDY)
    return mask.astype(np.float32) / (255.0 if mask.dtype == np.uint8 else 1.0)


def body_fields(
    template: Float[np.ndarray, "n 3"],
    weights: Float[np.ndarray, "n j"],
    names: tuple[str, ...],
    joints: dict[str, np.ndarray],
    cover: Float[np.ndarray, " n"],
) -> Float[np.ndarray, "n 8"]:
    """Where on the body every vertex is, see `FIELDS`."""
    hip = (joints["left_hip"][1] + joints["right_hip"][1]) / 2
    shoulder = (joints["left_shoulder"][1] + joints["right_shoulder"][1]) / 2
    ankle = (joints["left_ankle"][1] + joints["right_ankle"][1]) / 2
    y = template[:, 1]
    height = np.where(y > hip, (y - hip) / (shoulder - hip), (y - hip) / (hip - ankle))

    def share(*roots: str) -> np.ndarray:
        return weights[:, [i for i, n in enumerate(names) if n.startswith(roots)]].sum(1)

    arm = np.full(len(template), -1.0)
    arm_weight = np.zeros(len(template))
    for side in SIDES:
        limb = ("shoulder", "elbow", "wrist")
        own = share(*(f"{side}_{k}" for k in (*limb, *FINGERS, "thumb")))
        a, b, c = (joints[f"{side}_{k}"] for k in limb)
        upper = ((template - a) @ (b - a)) / ((b - a) @ (b - a))
        fore = ((template - b) @ (c - b)) / ((c - b) @ (c - b))
        along = np.where(upper < 1, upper, 1 + np.maximum(fore, 0.0))
        arm = np.where(own > 0.05, np.maximum(along, -0.3), arm)
        arm_weight += own
    columns = [height, arm, arm_weight, share("head", "jaw"), cover, *template.T]
    return np.stack(columns, axis=1).astype(np.float32)


def _shoe_hull(vertices, faces, fields) -> np.ndarray:
    """Toes smoothed away: the mean of the neighbours, many times, below the ankles."""
    inside = (fields[:, HEIGHT] < -0.97) & (fields[:, ARM_WEIGHT] < 0.5)
    ids = faces[inside[faces].any(1)]
    start, smooth = vertices.astype(float), vertices.astype(float)
    edges = np.concatenate([ids[:, [0, 1]], ids[:, [1, 2]], ids[:, [2, 0]]])
    edges = np.concatenate([edges, edges[:, ::-1]])
    degree = np.maximum(np.bincount(edges[:, 0], minlength=len(start)), 1)[:, None]
    for _ in range(25):
        total = np.stack(
            [np.bincount(edges[:, 0], smooth[edges[:, 1], c], len(start)) for c in range(3)], 1
        )
        smooth = np.where(inside[:, None], total / degree, start)
    return (smooth - start).astype(np.float32)


def keypoint_table(
    arrays, joints, names, weights, fields, faces
) -> tuple[Float[np.ndarray, "25 j"], Float[np.ndarray, "25 n"]]:
    """BODY_25 as means of joints (25, j) and of vertices (25, n).

    Joints are the model's; neck and mid-hip are the middles of shoulders and of hips. The nose is
    landmark 30, eyes are the means of their six landmarks. Ears: the outermost half of the ear's
    vertices. Big toe: the foremost vertex of the inner half of the foot's width; small toe: that of
    its outer fifth; heel: the rearmost of the sole.
    """
    template = np.asarray(arrays["v_template"], float)
    by_joint = np.zeros((25, len(names)), np.float32)
    by_vertex = np.zeros((25, len(template)), np.float32)
    row = {name: i for i, name in enumerate(BODY_25)}
    for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        for side in SIDES:
            by_joint[row[f"{side}_{name}"], names.index(f"{side}_{name}")] = 1.0
    for name, of in (("neck", "shoulder"), ("mid_hip", "hip")):
        for side in SIDES:
            by_joint[row[name], names.index(f"{side}_{of}")] = 0.5
    corners, shares = arrays["landmark_corners"], arrays["landmark_weights"]
    marks = {"nose": [30], "right_eye": range(36, 42), "left_eye": range(42, 48)}
    for name, ids in marks.items():
        for i in ids:
            np.add.at(by_vertex[row[name]], corners[i], shares[i] / len(ids))
    ears = _unit(arrays["mask_ears"], len(template)) > 0.5
    drawn = np.zeros(len(template), bool)
    drawn[faces] = True
    for side, sign in (("left", 1.0), ("right", -1.0)):
        ear = np.flatnonzero(ears & drawn & (sign * template[:, 0] > 0))
        if len(ear):
            out = sign * template[ear, 0]
            ear = ear[out >= np.median(out)]
            by_vertex[row[f"{side}_ear"], ear] = 1.0 / len(ear)
        own = [names.index(f"{side}_{k}") for k in ("foot", "ankle")]
        foot = np.flatnonzero(drawn & (weights[:, own].sum(1) > 0.5))
        if not len(foot):
            continue
        outward, ahead, up = sign * template[foot, 0], template[foot, 2], template[foot, 1]
        # the toes are the front sixth of the foot
        front = ahead > ahead.max() - (ahead.max() - ahead.min()) / 6
        inner, outer = outward[front].min(), outward.max()
        middle = (inner + outer) / 2
        big = outward < middle
        small = outward > inner + 0.8 * (outer - inner)
        sole = up < up.min() + 0.35 * (up.max() - up.min())
        for name, chosen, value in (
            ("big_toe", big, ahead),
            ("small_toe", small, ahead),
            ("heel", sole, -ahead),
        ):
            index = foot[np.argmax(np.where(chosen, value, -np.inf))]
            by_vertex[row[f"{side}_{name}"], index] = 1.0
    return by_joint, by_vertex
