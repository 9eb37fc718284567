"""FLAME with its landmarks: one file that is a body (five joints) and, at zero pose, a head model.

FLAME's own file has no landmarks. They are published beside it, as barycentric points on its faces:
`flame_static_embedding.pkl` (51) with `flame_dynamic_embedding.npy` (17 of the contour for each
degree that the head turns), or all 68 in one `landmark_embedding.npy`. Where such files lie in the
model's folder they are written with it, and `read_head` takes the result wherever a head model is
wanted: 300 identity and 100 expression modes, metres, neutral jaw, neck and eyes.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.interop.object_arrays import read_npy_objects
from jaxrecon.interop.smpl_files import convert_smpl
from jaxrecon.interop.unpickling import read_pickle

MODELS = ("generic_model.pkl", "FLAME_NEUTRAL.pkl", "flame2023.pkl", "flame2023_no_jaw.pkl")
"""Names under which the neutral model is distributed, in the order in which a folder is searched
for one."""
STATIC, DYNAMIC, FULL = (
    "flame_static_embedding.pkl",
    "flame_dynamic_embedding.npy",
    "landmark_embedding.npy",
)
_REMEDY = (
    f"put {STATIC} and {DYNAMIC}, or {FULL}, unchanged beside the model (docs/how-to/models.md)"
)


def convert_flame(source: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of FLAME in our body layout, with landmarks where they lie beside it.

    Args:
        source: the model's .pkl or .npz, or a folder that holds one of `MODELS`.

    Returns:
        as `smpl_files.convert_smpl`, and is_head for `read_head`; with the two files of landmarks,
        landmarks_face (51,), landmarks_bary, contour_face (r, 17), contour_bary, of which row 0 is
        the view from the front; with the one file, landmarks68_face and landmarks68_bary. Without
        any it is no head model.

    Raises:
        InputError: no such model, or landmarks that are damaged or of another mesh.
    """
    source = pathlib.Path(source)
    if source.is_dir():
        found = [source / name for name in MODELS if (source / name).is_file()]
        if not found:
            raise InputError(
                f"{source}: no FLAME model in it",
                f"one of {', '.join(MODELS)}",
                "give the model's file itself",
            )
        source = found[0]
    arrays = convert_smpl(source, "flame")
    landmarks = _landmarks(source.parent, len(arrays["faces"]))
    return arrays | {"is_head": np.array(True)} | landmarks


def _landmarks(folder: pathlib.Path, faces: int) -> dict[str, np.ndarray]:
    static, dynamic, full = (folder / name for name in (STATIC, DYNAMIC, FULL))
    if static.is_file() and dynamic.is_file():
        fixed, contour = read_pickle(static), _read_npy(dynamic)
        names = ("lmk_face_idx", "lmk_b_coords")
        return _embedding(static, fixed, names, "landmarks", (51,), faces) | _embedding(
            dynamic, contour, names, "contour", (-1, 17), faces
        )
    if full.is_file():
        names = ("full_lmk_faces_idx", "full_lmk_bary_coords")
        return _embedding(full, _read_npy(full), names, "landmarks68", (68,), faces)
    return {}


def _read_npy(path: pathlib.Path) -> dict[str, Any]:
    value = read_npy_objects(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: no dict", "an embedding of landmarks", _REMEDY)
    return value


def _embedding(
    path: pathlib.Path,
    raw: dict[str, Any],
    names: tuple[str, str],
    ours: str,
    shape: tuple[int, ...],
    faces: int,
) -> dict[str, np.ndarray]:
    """OURS_face and OURS_bary, of a given shape in which -1 is any length."""
    missing = [name for name in names if not isinstance(raw.get(name), np.ndarray)]
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)}", "arrays of these names", _REMEDY)
    index, weights = (np.asarray(raw[name]) for name in names)
    try:
        index, weights = index.reshape(shape), weights.reshape(*shape, 3)
    except ValueError:
        index, weights = np.zeros(0), np.zeros(0)
    numbers = index.dtype.kind in "iu" and weights.dtype.kind == "f"
    inside = index.size > 0 and 0 <= index.min() <= index.max() < faces
    whole = weights.size > 0 and float(np.abs(weights.sum(-1) - 1).max()) < 1e-2
    if not (numbers and inside and whole and weights.shape[:-1] == index.shape):
        raise InputError(
            f"{path}: {names[0]} and {names[1]} are no points on {faces:,} faces",
            f"faces {shape} with three weights that sum to one",
            _REMEDY,
        )
    return {
        f"{ours}_face": index.astype(np.int64),
        f"{ours}_bary": weights.astype(np.float32),
    }
