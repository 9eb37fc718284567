"""Files of linear head models, brought to one form: millimetres, head frame, 68 landmarks.

A file is an .npz in the layout of docs/how-to/models.md: our conversion of ICT-FaceKit, a
conversion of BFM, FLAME or FaceScape that a user wrote, or the free body (`v_template`,
`shapedirs`), of which the head is cut out. Nothing is unpickled.

Head frame: right-handed, x to the subject's left, y up, z out of the face, millimetres; origin and
pitch are those of ICT-FaceKit (`REFERENCE`).
"""

from __future__ import annotations

import os
import pathlib

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError

MAX_BYTES = 1 << 30
REMEDY = "give a head model converted to .npz (see docs/how-to/models.md)"
SKIN_PARTS = ("face", "head_neck", "sclera_left", "sclera_right")
UNITS = {"millimetres": 1.0, "centimetres": 10.0, "metres": 1000.0, "micrometres": 1e-3}
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
_BODY = "v_template shapedirs faces head_faces head_face_part head_part_names".split()
_LANDMARKS = "68 landmarks: landmarks68, or landmarks68_face with landmarks68_bary"
_SPARSE = ("expr_ptr", "expr_idx", "expr_delta")


def read_head(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a head model.

    Args:
        path: .npz in the layout of docs/how-to/models.md, of a head or of the free body.

    Returns:
        v_mean (v, 3) float32 mm; id_basis (k, v, 3) float32 mm per standard deviation; expression
        (e, v, 3) float32 mm; expr_names (e,); faces (f, 3); face_part (f,) into part_names;
        landmark_corners (68, 3) vertex ids with landmark_weights (68, 3); landmarks68 (68,) the
        nearest vertices; mask_* (v,) as in the file.

    Raises:
        InputError: no such file, no head model, or its arrays disagree.
    """
    path = pathlib.Path(path)
    raw = _arrays(path)
    try:
        body = "v_template" in raw
        head = _head_of_body(raw) if body else _head(raw)
    except InputError as error:
        raise InputError(f"{path}: {error.given}", error.expected, error.remedy) from error
    except (TypeError, ValueError, IndexError, np.linalg.LinAlgError) as error:
        raise InputError(
            f"{path}: arrays disagree ({str(error)[:200]})", "consistent shapes and indices", REMEDY
        ) from error
    return head


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


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    expected = f".npz with {', '.join(_REQUIRED)} and {_LANDMARKS}"
    if not path.is_file():
        raise InputError(f"{path}: no such file", "a linear head model (.npz)", REMEDY)
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: larger than 1 GiB", "a linear head model (.npz)", REMEDY)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            wanted = _BODY if "v_template" in archive.files else _REQUIRED
            missing = [key for key in wanted if key not in archive.files]
            if missing:
                raise KeyError(f"no {', '.join(missing)}")
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # whatever a broken zip or header raises
        raise InputError(f"{path}: {str(error)[:300]}", expected, REMEDY) from error


def _head(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The canonical arrays of a head file."""
    scale = UNITS.get(_word(raw, "unit", "millimetres"))
    frame = _word(raw, "frame", "head")
    if scale is None or frame not in FRAMES:
        raise InputError(
            f"unit {_word(raw, 'unit', 'millimetres')!r}, frame {frame!r}",
            f"unit among {', '.join(UNITS)}; frame among {', '.join(FRAMES)}",
            REMEDY,
        )
    mean = _finite(raw, "v_mean", (-1, 3))
    count = len(mean)
    faces = _indices(raw, "faces", (-1, 3), count)
    if not len(faces):
        raise ValueError("no faces")
    part, names = _parts(raw, len(faces))
    corners, weights = _landmarks(raw, faces, count)
    expression, expression_names = _expressions(raw, count)
    head = {
        "v_mean": scale * mean,
        "id_basis": scale * _finite(raw, "id_basis", (-1, count, 3)),
        "expression": scale * expression,
        "expr_names": np.array([sided_name(n) for n in expression_names], dtype=str),
        "faces": faces,
        "face_part": part,
        "part_names": names,
        "landmark_corners": corners,
        "landmark_weights": weights,
        "landmarks68": np.take_along_axis(corners, weights.argmax(1)[:, None], 1)[:, 0],
        **_masks(raw, count),
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
    faces = _indices(raw, "faces", (-1, 3), len(raw["v_template"]))
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
    }
    new_face = np.cumsum(keep) - 1
    marked = _indices(raw, "landmarks68_face", (68,), len(faces))
    if not keep[marked].all():
        raise ValueError("landmarks outside head_faces")
    crop["landmarks68_face"], crop["landmarks68_bary"] = new_face[marked], raw["landmarks68_bary"]
    dense, names = _expressions(raw, len(raw["v_template"]))
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
    names = raw["part_names"].astype(str)
    if names.ndim != 1:
        raise ValueError("part_names is no list")
    return _indices(raw, "face_part", (faces,), len(names)), names


def _landmarks(
    raw: dict[str, np.ndarray], faces: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(corners (68, 3), weights (68, 3)); a vertex is a corner of weight one."""
    if "landmarks68_face" in raw and "landmarks68_bary" in raw:
        corners = faces[_indices(raw, "landmarks68_face", (68,), len(faces))]
        weights = _finite(raw, "landmarks68_bary", (68, 3))
        if (weights < -1e-3).any() or np.abs(weights.sum(1) - 1).max() > 1e-3:
            raise ValueError("landmarks68_bary are no barycentric coordinates")
        return corners, weights
    if "landmarks68" not in raw:
        raise InputError("no landmarks", _LANDMARKS, REMEDY)
    ids = _indices(raw, "landmarks68", (68,), count)
    return np.repeat(ids[:, None], 3, 1), np.tile(np.array([[1, 0, 0]], np.float32), (68, 1))


def _expressions(raw: dict[str, np.ndarray], count: int) -> tuple[np.ndarray, list[str]]:
    """(dense (e, v, 3) in the file's unit, names); unnamed ones are principal modes."""
    given = [key for key in (*_SPARSE, "expr_names", "expr_basis") if key in raw]
    if not given:
        return np.zeros((0, count, 3), np.float32), []
    if "expr_basis" in raw:
        dense = _finite(raw, "expr_basis", (-1, count, 3))
    elif all(key in raw for key in _SPARSE):
        dense = _dense(raw, count)
    else:
        raise InputError(
            f"expressions with {', '.join(given)} alone", f"{', '.join(_SPARSE)}, or none", REMEDY
        )
    if "expr_names" not in raw:
        return dense, [f"mode_{i:03d}" for i in range(len(dense))]
    names = [str(n) for n in raw["expr_names"].astype(str)]
    if len(names) != len(dense):
        raise ValueError(f"{len(names)} names of {len(dense)} expressions")
    return dense, names


def _dense(raw: dict[str, np.ndarray], count: int) -> np.ndarray:
    delta = _finite(raw, "expr_delta", (-1, 3))
    index = _indices(raw, "expr_idx", (len(delta),), count)
    pointer = _indices(raw, "expr_ptr", (-1,), len(delta) + 1)
    if not len(pointer) or (np.diff(pointer) < 0).any():
        raise ValueError("expr_ptr is no rising list")
    dense = np.zeros((len(pointer) - 1, count, 3), np.float32)
    for e in range(len(dense)):
        span = slice(pointer[e], pointer[e + 1])
        dense[e, index[span]] = delta[span]
    return dense


def _masks(raw: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    masks = {k: v for k, v in raw.items() if k.startswith("mask_")}
    wrong = [k for k, v in masks.items() if v.shape != (count,) or v.dtype.kind not in "buif"]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not a number a vertex")
    return masks


def _finite(raw: dict[str, np.ndarray], key: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array as float32, of a shape in which -1 stands for any length."""
    array = raw[key]
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{key} does not hold numbers")
    _check_shape(key, array, shape)
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{key} holds NaN or infinity")
    return array


def _indices(
    raw: dict[str, np.ndarray], key: str, shape: tuple[int, ...], bound: int
) -> np.ndarray:
    """An array of whole numbers in [0, bound) as int64."""
    if key not in raw:
        raise ValueError(f"no {key}")
    array = raw[key]
    if array.dtype.kind not in "iu":
        raise ValueError(f"{key} does not hold whole numbers")
    _check_shape(key, array, shape)
    array = array.astype(np.int64)
    if array.size and not 0 <= array.min() <= array.max() < bound:
        raise ValueError(f"{key} goes beyond 0 to {bound - 1}")
    return array


def _check_shape(key: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    fits = array.ndim == len(shape) and all(
        s in (-1, a) for s, a in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if s == -1 else str(s) for s in shape)
        raise ValueError(f"{key} has shape {array.shape}, not ({wanted})")


def _word(raw: dict[str, np.ndarray], key: str, default: str) -> str:
    if key not in raw:
        return default
    return str(raw[key]) if raw[key].ndim == 0 else "?"
