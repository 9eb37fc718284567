"""Files of linear head models, brought to one form: millimetres, head frame, 68 landmarks.

A file is an .npz in the layout of docs/how-to/models.md: a conversion of ICT-FaceKit, BFM or
FaceScape, one of FLAME (`v_template`, `shapedirs`: a body file that is a head), the free body, of
which the head is cut out, or what a user wrote. Nothing is unpickled.

Head frame: right-handed, x to the subject's left, y up, z out of the face, millimetres; origin and
pitch are those of ICT-FaceKit (`REFERENCE`).
"""

from __future__ import annotations

import os
import pathlib

import numpy as np
from jaxtyping import Float

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
)

REMEDY = "give a head model converted to .npz (see docs/how-to/models.md)"
SKIN_PARTS = ("face", "head_neck", "sclera_left", "sclera_right")
FRAMES = ("head", "any")
REFERENCE = {
    36: (-44.6, 34.3, 86.0),
    45: (44.6, 34.3, 86.0),
    30: (0.0, 4.1, 130.7),
    48: (-25.3, -35.2, 101.9),
    54: (25.3, -35.2, 101.9),
    8: (0.0, -75.7, 104.3),
}
"""Landmark -> place (mm) on the mean head of ICT-FaceKit: outer corners of the eyes, tip of the
nose, corners of the mouth, chin."""
SMALLEST_MODE_MM = 0.05
"""Modes of the body that move the head's skin less (rms) are left out."""
_REQUIRED = ("v_mean", "id_basis", "faces")
_BODY = ("v_template", "shapedirs", "faces")
_HEAD_OF_BODY = ("head_faces", "head_face_part", "head_part_names")
_NOT_OURS = ("posedirs", "bilinear_")
"""Large arrays of files that serve other readers as well."""
_MAX_MODES = 4096
_LANDMARKS = "68 landmarks: landmarks68, or landmarks68_face with landmarks68_bary"


def read_head(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a head model.

    Args:
        path: .npz in the layout of docs/how-to/models.md, of a head or of the free body.

    Returns:
        v_mean (v, 3) float32 mm; id_basis (k, v, 3) float32 mm per standard deviation; expression
        (e, v, 3) float32 mm; expr_names (e,); faces (f, 3); face_part (f,) into part_names;
        landmark_corners (68, 3) vertex ids with landmark_weights (68, 3); landmarks68 (68,) the
        nearest vertices; mask_* (v,) as in the file; where the model has colours, albedo_mean
        (v, 3) and albedo_basis (a, v, 3) float32, RGB.

    Raises:
        InputError: no such file, no head model, or its arrays disagree.
    """
    path = pathlib.Path(path)
    raw = stored_arrays(path)
    try:
        head = head_from_arrays(raw)
    except InputError as error:
        raise InputError(f"{path}: {error.given}", error.expected, error.remedy) from error
    except BROKEN as error:
        raise InputError(
            f"{path}: arrays disagree ({str(error)[:200]})", "consistent shapes and indices", REMEDY
        ) from error
    return head


def head_from_arrays(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As `read_head`, from the arrays of a file (what a converter is about to write).

    Raises:
        InputError, ValueError, TypeError, IndexError: no head model, or its arrays disagree.
    """
    if "v_template" not in raw:
        return _head(raw)
    return _head(_body_that_is_a_head(raw)) if "is_head" in raw else _head_of_body(raw)


def sided_name(name: str) -> str:
    """ARKit's `...Left` and `...Right` as `..._L` and `..._R`; jawLeft and the like, which are
    directions, stay.
    """
    if name.startswith(("jawLeft", "jawRight", "mouthLeft", "mouthRight")):
        return name
    for side in ("Left", "Right"):
        if name.endswith(side) and name != side:
            return f"{name[: -len(side)]}_{side[0]}"
    return name


def place_by_landmarks(
    marks: Float[np.ndarray, "68 3"],
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """(R, t) of the rigid motion x_head = R x + t that brings six landmarks (mm, any right-handed
    axes) nearest to `REFERENCE`, in least squares (Kabsch 1976); sizes stay.
    """
    a, b = marks[list(REFERENCE)].astype(float), np.array(list(REFERENCE.values()))
    u, _, vt = np.linalg.svd((b - b.mean(0)).T @ (a - a.mean(0)))
    R = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return R, b.mean(0) - R @ a.mean(0)


def stored_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a head model's file as they are stored, less those of other readers.

    Raises:
        InputError: no such file, too large, no .npz of plain arrays, or without what a head needs.
    """
    expected = f"a head model: .npz with {', '.join(_REQUIRED)} and {_LANDMARKS}"
    return npz_arrays(path, _chosen, expected, REMEDY)


def _chosen(names: list[str]) -> list[str]:
    wanted = _REQUIRED
    if "v_template" in names:
        wanted = _BODY if "is_head" in names else (*_BODY, *_HEAD_OF_BODY)
    require(names, wanted)
    return [name for name in names if not name.startswith(_NOT_OURS)]


def _head(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The canonical arrays of a head file."""
    scale = UNITS.get(word(raw, "unit", "millimetres"))
    frame = word(raw, "frame", "head")
    if scale is None or frame not in FRAMES:
        raise InputError(
            f"unit {word(raw, 'unit', 'millimetres')!r}, frame {frame!r}",
            f"unit among {', '.join(UNITS)}; frame among {', '.join(FRAMES)}",
            REMEDY,
        )
    mean = finite_array(raw, "v_mean", (-1, 3))
    count = len(mean)
    faces = index_array(raw, "faces", (-1, 3), count)
    if not len(faces):
        raise ValueError("no faces")
    part, names = _parts(raw, len(faces))
    corners, weights = _landmarks(raw, faces, count)
    expression, expression_names = expression_modes(raw, count)
    head = {
        "v_mean": scale * mean,
        "id_basis": scale * finite_array(raw, "id_basis", (-1, count, 3)),
        "expression": scale * expression,
        "expr_names": np.array([sided_name(n) for n in expression_names], dtype=str),
        "faces": faces,
        "face_part": part,
        "part_names": names,
        "landmark_corners": corners,
        "landmark_weights": weights,
        "landmarks68": np.take_along_axis(corners, weights.argmax(1)[:, None], 1)[:, 0],
        **_masks(raw, count),
        **_albedo(raw, count),
    }
    return _placed(head) if frame == "any" else head


def _placed(head: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same head, moved rigidly into the head frame."""
    marks = np.einsum(
        "lc,lcx->lx", head["landmark_weights"], head["v_mean"][head["landmark_corners"]]
    )
    R, t = place_by_landmarks(marks)
    turned = {k: (head[k] @ R.T).astype(np.float32) for k in ("id_basis", "expression")}
    return head | turned | {"v_mean": (head["v_mean"] @ R.T + t).astype(np.float32)}


def _body_that_is_a_head(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The layout of a head from that of a body which is nothing else (its file says `is_head`):
    FLAME at zero pose.

    Its 68 landmarks are the 17 of the contour as seen from the front and the 51 fixed ones, where
    it does not name all 68.
    """
    head = raw | {
        "unit": raw.get("unit", np.array("metres")),
        "frame": np.array("any"),
        "v_mean": raw["v_template"],
        "id_basis": raw["shapedirs"],
    }
    for what in ("face", "bary"):
        fixed, contour = raw.get(f"landmarks_{what}"), raw.get(f"contour_{what}")
        if f"landmarks68_{what}" in raw or fixed is None:
            continue
        if len(fixed) == 51 and contour is not None and contour.shape[1] == 17:
            fixed = np.concatenate([contour[0], fixed])
        if len(fixed) == 68:
            head[f"landmarks68_{what}"] = fixed
    return head


def _head_of_body(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The head of the free body as a head model of its own.

    Whole-body modes carry the head along; what is rigid of a mode (translation and small rotation,
    in least squares over the outer skin) is taken out, since the head frame moves with the head.
    The modes that remain are turned into principal ones over the skin (their coefficients stay
    independent and of unit variance), and small ones are left out.
    """
    keep = raw["head_faces"].astype(bool)
    if keep.shape != (len(raw["faces"]),) or not keep.any():
        raise ValueError("head_faces is no mask of the faces")
    faces = index_array(raw, "faces", (-1, 3), len(raw["v_template"]))
    ids, cropped = np.unique(faces[keep], return_inverse=True)
    crop = {
        "unit": raw.get("unit", np.array("metres")),
        "frame": np.array("any"),
        "v_mean": raw["v_template"][ids],
        "id_basis": raw["shapedirs"][:, ids],
        "faces": cropped.reshape(-1, 3),
        "face_part": raw["head_face_part"],
        "part_names": raw["head_part_names"],
        **{k: v[ids] for k, v in raw.items() if k.startswith("mask_")},
        **{k[5:]: v for k, v in raw.items() if k.startswith("head_albedo_")},
    }
    new_face = np.cumsum(keep) - 1
    marked = index_array(raw, "landmarks68_face", (68,), len(faces))
    if not keep[marked].all():
        raise ValueError("landmarks outside head_faces")
    crop["landmarks68_face"], crop["landmarks68_bary"] = new_face[marked], raw["landmarks68_bary"]
    dense, names = expression_modes(raw, len(raw["v_template"]))
    # The tongue alone tells nothing of the skin, and comes through closed lips.
    shown = [i for i, name in enumerate(names) if name != "tongueOut"]
    crop["expr_basis"] = dense[:, ids][shown]
    crop["expr_names"] = np.array([names[i] for i in shown], dtype=str)
    head = _head(crop)
    skin = np.isin(head["part_names"][head["face_part"]], SKIN_PARTS)
    outer = np.unique(head["faces"][skin])
    return head | {"id_basis": _principal(_without_rigid(head, outer), outer)}


def _without_rigid(head: dict[str, np.ndarray], outer: np.ndarray) -> np.ndarray:
    """Identity modes (k, v, 3) less their infinitesimal rigid motion over vertices `outer`."""
    mean = head["v_mean"].astype(float)
    centred = mean - mean[outer].mean(0)
    motions = np.stack(
        [np.broadcast_to(axis, mean.shape) for axis in np.eye(3)]
        + [np.cross(axis, centred) for axis in np.eye(3)]
    )
    modes = head["id_basis"].astype(float)
    rigid = np.linalg.lstsq(
        motions[:, outer].reshape(6, -1).T, modes[:, outer].reshape(len(modes), -1).T, rcond=None
    )[0]
    return modes - np.tensordot(rigid.T, motions, 1)


def _principal(modes: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Modes (k', v, 3) orthogonal over `outer`, largest first, in the span of the given ones: the
    coefficients are turned, so that they stay independent with unit variance.
    """
    if len(modes) > _MAX_MODES:  # their products with one another fill a matrix
        raise ValueError(f"{len(modes)} modes, of which {_MAX_MODES} are read")
    flat = modes[:, outer].reshape(len(modes), -1)
    variance, turn = np.linalg.eigh(flat @ flat.T)
    size = np.sqrt(np.maximum(variance, 0.0) / len(outer))
    order = np.argsort(-size)[: int((size > SMALLEST_MODE_MM).sum())]
    turn = turn[:, order]
    largest = np.abs(turn).argmax(0)
    turn = turn * np.sign(turn[largest, np.arange(turn.shape[1])])
    return np.tensordot(turn.T, modes, 1).astype(np.float32)


def _parts(raw: dict[str, np.ndarray], faces: int) -> tuple[np.ndarray, np.ndarray]:
    """(part of every face, names); without parts everything is the face."""
    if "face_part" not in raw and "part_names" not in raw:
        return np.zeros(faces, np.int64), np.array(["face"])
    if "face_part" not in raw or "part_names" not in raw:
        raise InputError("face_part or part_names alone", "both, or none", REMEDY)
    names = np.array(words(raw, "part_names"), dtype=str)
    return index_array(raw, "face_part", (faces,), len(names)), names


def _landmarks(
    raw: dict[str, np.ndarray], faces: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(corners (68, 3), weights (68, 3)); a vertex is a corner of weight one."""
    if "landmarks68_face" in raw and "landmarks68_bary" in raw:
        corners = faces[index_array(raw, "landmarks68_face", (68,), len(faces))]
        weights = finite_array(raw, "landmarks68_bary", (68, 3))
        if (weights < -1e-3).any() or np.abs(weights.sum(1) - 1).max() > 1e-3:
            raise ValueError("landmarks68_bary are no barycentric coordinates")
        return corners, weights
    if "landmarks68" not in raw:
        raise InputError("no landmarks", _LANDMARKS, REMEDY)
    ids = index_array(raw, "landmarks68", (68,), count)
    return np.repeat(ids[:, None], 3, 1), np.tile(np.array([[1, 0, 0]], np.float32), (68, 1))


def _masks(raw: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    masks = {k: v for k, v in raw.items() if k.startswith("mask_")}
    wrong = [k for k, v in masks.items() if v.shape != (count,) or v.dtype.kind not in "buif"]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not a number a vertex")
    return masks


def _albedo(raw: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    given = [key for key in ("albedo_mean", "albedo_basis") if key in raw]
    if not given:
        return {}
    if len(given) == 1:
        raise InputError(f"{given[0]} alone", "albedo_mean and albedo_basis, or none", REMEDY)
    return {
        "albedo_mean": finite_array(raw, "albedo_mean", (count, 3)),
        "albedo_basis": finite_array(raw, "albedo_basis", (-1, count, 3)),
    }
