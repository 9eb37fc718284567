"""The Basel Face Model 2009, as Deep3DFaceRecon uses it, to our layout of head models.

Two sources: the authors' `BFM_model_front.mat` (35,709 vertices, 80 identity, 64 expression and 80
albedo modes), or a folder with what that file is made of: the model itself
(`01_MorphableModel.mat`), the expressions of Guo et al. (`Exp_Pca.bin`, `std_exp.txt`), and the
index files of the Deep3DFaceRecon repository. The folder gives the same arrays.

Units of the sources: micrometres (the model), decimetres (the authors' file); ours: millimetres.
Albedo is RGB over 255. Their indices count from 1 and are stored as floating-point numbers.
"""

from __future__ import annotations

import pathlib

import numpy as np

from jaxrecon.archives import MAX_BYTES
from jaxrecon.errors import InputError
from jaxrecon.interop.mat_files import read_mat
from jaxrecon.models.parametric.model_arrays import BROKEN

FRONT = "BFM_model_front.mat"
RAW = {
    "model": "01_MorphableModel.mat",
    "expressions": "Exp_Pca.bin",
    "deviations": "std_exp.txt",
    "trim": "BFM_exp_idx.mat",
    "front": "BFM_front_idx.mat",
    "info": "facemodel_info.mat",
}
"""The files that a folder holds where there is no `BFM_model_front.mat`."""
REMEDY = (
    f"give {FRONT}, or a folder with {', '.join(RAW.values())} "
    "(the Basel model and the expressions after signing; the rest from Deep3DFaceRecon_pytorch/BFM)"
)
IDENTITIES, EXPRESSIONS, ALBEDOS = 80, 64, 80
LICENCE = (
    "Basel Face Model 2009: research only, not to be passed on (University of Basel); expressions "
    "of Guo et al. after their own terms"
)
_DECIMETRES = 100.0
_MICROMETRES = 1e-5
_FRONT_KEYS = (
    "meanshape meantex idBase exBase texBase tri point_buf tri_mask2 keypoints frontmask2_idx "
    "skinmask"
).split()
_MODEL_KEYS = ("shapeMU", "shapePC", "shapeEV", "texMU", "texPC", "texEV")
_MAX_TEXT = 1 << 20


def convert_bfm(source: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a head model in our layout (docs/how-to/models.md), with Deep3D's own beside.

    Args:
        source: `BFM_model_front.mat`, or a folder that holds it or the files of `RAW`.

    Returns:
        v_mean (v, 3), id_basis (80, v, 3), expr_basis (64, v, 3) float32 mm; albedo_mean (v, 3),
        albedo_basis (80, v, 3) float32 RGB; faces, landmarks68; deep3d_vertex_faces (v, 8) with -1
        where a vertex has fewer faces, deep3d_skin (v,), deep3d_front_faces (g, 3),
        deep3d_front_vertices; unit, frame, source, licence.

    Raises:
        InputError: a file is missing or damaged, or is another model.
    """
    source = pathlib.Path(source)
    if source.name == RAW["model"]:
        source = source.parent
    if source.is_dir() and not (source / FRONT).is_file():
        place, raw = source, _front_of_folder(source)
    else:
        place = source / FRONT if source.is_dir() else source
        raw = read_mat(place)
    try:
        return _converted(raw, f"BFM 2009 as in Deep3DFaceRecon: {place.name}")
    except BROKEN as error:
        raise InputError(
            f"{place}: {str(error)[:200]}", f"{', '.join(_FRONT_KEYS)} of one model", REMEDY
        ) from error


def _converted(raw: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    missing = [key for key in _FRONT_KEYS if key not in raw]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    mean = _numbers(raw, "meanshape").reshape(-1, 3)
    count, faces = len(mean), _indices(raw, "tri", count=len(mean))
    if faces.ndim != 2 or faces.shape[1] != 3 or not len(faces):
        raise ValueError(f"tri has shape {faces.shape}")
    near = _indices(raw, "point_buf", count=len(faces) + 1)
    if near.ndim != 2 or len(near) != count:
        raise ValueError(f"point_buf has shape {near.shape} for {count} vertices")
    landmarks = _indices(raw, "keypoints", count=count).ravel()
    skin = _numbers(raw, "skinmask").ravel()
    front = _indices(raw, "tri_mask2", count=count)
    albedo = _numbers(raw, "meantex").reshape(-1, 3)
    if len(landmarks) != 68 or len(skin) != count or albedo.shape != mean.shape:
        raise ValueError("keypoints, skinmask or meantex are of another mesh")
    if front.ndim != 2 or front.shape[1] != 3:
        raise ValueError(f"tri_mask2 has shape {front.shape}")
    return {
        "v_mean": (_DECIMETRES * mean).astype(np.float32),
        "id_basis": _modes(raw, "idBase", count, _DECIMETRES),
        "expr_basis": _modes(raw, "exBase", count, _DECIMETRES),
        "albedo_mean": (albedo / 255.0).astype(np.float32),
        "albedo_basis": _modes(raw, "texBase", count, 1 / 255.0),
        "faces": faces.astype(np.int32),
        "landmarks68": landmarks.astype(np.int32),
        "deep3d_vertex_faces": np.where(near == len(faces), -1, near).astype(np.int32),
        "deep3d_skin": skin.astype(np.float32),
        "deep3d_front_faces": front.astype(np.int32),
        "deep3d_front_vertices": _indices(raw, "frontmask2_idx", count=count)
        .ravel()
        .astype(np.int32),
        "unit": np.array("millimetres"),
        "frame": np.array("any"),
        "source": np.array(source),
        "licence": np.array(LICENCE),
    }


def _front_of_folder(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The variables of `BFM_model_front.mat`, made of the files of `RAW`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such file or folder", f"{FRONT}, or its folder", REMEDY)
    paths = {name: folder / file for name, file in RAW.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise InputError(f"{folder}: no {', '.join(missing)}", f"{FRONT} or all of these", REMEDY)
    model, info = read_mat(paths["model"], _MODEL_KEYS), read_mat(paths["info"])
    trim, front = read_mat(paths["trim"]), read_mat(paths["front"])
    try:
        vertices = _numbers(model, "shapeMU").size // 3
        kept_of_model = _indices(trim, "trimIndex", count=vertices).ravel()
        kept = _indices(front, "idx", count=len(kept_of_model)).ravel()
        of_model = kept_of_model[kept]
        expressions = _expressions(paths, len(kept_of_model))
        return info | {
            "meanshape": _MICROMETRES * _rows(_numbers(model, "shapeMU"), of_model),
            "idBase": _scaled(model, "shape", IDENTITIES, of_model) * _MICROMETRES,
            "meantex": _rows(_numbers(model, "texMU"), of_model),
            "texBase": _scaled(model, "tex", ALBEDOS, of_model),
            "exBase": _rows(expressions, kept) * _MICROMETRES,
        }
    except BROKEN as error:
        raise InputError(
            f"{folder}: {str(error)[:200]}", "the files of one model, unchanged", REMEDY
        ) from error


def _expressions(paths: dict[str, pathlib.Path], vertices: int) -> np.ndarray:
    """Expression modes (3 v, 64) at one standard deviation, micrometres.

    `Exp_Pca.bin` is an int32 count n, a mean of 3 v float32, and n modes of 3 v float32.
    """
    path, text = paths["expressions"], paths["deviations"]
    if path.stat().st_size > MAX_BYTES or text.stat().st_size > _MAX_TEXT:
        raise ValueError(f"{path.name} is larger than 1 GiB, or {text.name} than 1 MiB")
    data = np.fromfile(path, "<f4")
    count = int(data[:1].view("<i4")[0]) if len(data) else 0
    if count < EXPRESSIONS or len(data) != 1 + 3 * vertices * (1 + count):
        raise ValueError(f"{path.name}: {len(data)} numbers for {count} modes of {vertices} points")
    deviations = np.array([float(word) for word in text.read_text("ascii").split()])
    if len(deviations) != count or not np.isfinite(deviations).all():
        raise ValueError(f"{text.name}: {len(deviations)} deviations of {count} modes")
    modes = data[1 + 3 * vertices :].reshape(count, -1)[:EXPRESSIONS]
    return modes.T * deviations[None, :EXPRESSIONS]


def _scaled(model: dict[str, np.ndarray], what: str, modes: int, kept: np.ndarray) -> np.ndarray:
    """The first modes of the model on the kept vertices, at one standard deviation."""
    deviations = _numbers(model, f"{what}EV").ravel()[:modes]
    basis = _numbers(model, f"{what}PC")
    if basis.ndim != 2 or basis.shape[1] < modes or len(deviations) < modes:
        raise ValueError(f"{what}PC has shape {basis.shape}, {what}EV {len(deviations)} numbers")
    return _rows(basis[:, :modes], kept) * deviations[None]


def _rows(flat: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Coordinates (3 n, m) of the kept vertices of (3 v, m)."""
    flat = flat.reshape(-1, 3, flat.shape[1] if flat.ndim == 2 and min(flat.shape) > 1 else 1)
    return flat[kept].reshape(3 * len(kept), -1)


def _modes(raw: dict[str, np.ndarray], key: str, count: int, scale: float) -> np.ndarray:
    """(3 v, k) as (k, v, 3)."""
    flat = _numbers(raw, key)
    if flat.ndim != 2 or len(flat) != 3 * count:
        raise ValueError(f"{key} has shape {flat.shape} for {count} vertices")
    return np.ascontiguousarray((scale * flat).astype(np.float32).T).reshape(-1, count, 3)


def _numbers(raw: dict[str, np.ndarray], key: str) -> np.ndarray:
    if key not in raw:
        raise ValueError(f"no {key}")
    if raw[key].dtype.kind not in "fiu" or not np.isfinite(raw[key]).all():
        raise ValueError(f"{key} does not hold finite numbers")
    return raw[key]


def _indices(raw: dict[str, np.ndarray], key: str, count: int) -> np.ndarray:
    """Indices that count from 1, of any type of number, as int64 from 0."""
    given = _numbers(raw, key)
    index = given.astype(np.int64)
    if (index != given).any() or (index.size and not 1 <= index.min() <= index.max() <= count):
        raise ValueError(f"{key} does not hold whole numbers from 1 to {count}")
    return index - 1
