"""SMPL, SMPL-H, SMPL-X and FLAME, from their authors' files to our body layout.

Pickles (.pkl, of Python 2 with chumpy arrays and sparse matrices too) and .npz; read through the
allow-list, so that nothing of a file is run and neither chumpy nor SciPy's pickles are needed. The
models themselves are licensed: files stay with their users.
"""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.interop.anny import JOINTS
from jaxrecon.interop.object_arrays import read_npz_objects
from jaxrecon.interop.unpickling import read_pickle
from jaxrecon.models.parametric.body_file import body_arrays
from jaxrecon.models.parametric.body_joints import (
    SMPL_VERTEX_IDS,
    SMPLX_VERTEX_IDS,
    VERTEX_JOINTS,
)
from jaxrecon.models.parametric.model_arrays import BROKEN

_SMPLX = tuple(JOINTS)
_BODY = _SMPLX[: _SMPLX.index("jaw")]
_FACE = ("jaw", "left_eye", "right_eye")
JOINT_NAMES = {
    "smpl": (*_BODY, "left_hand", "right_hand"),
    "smplh": tuple(n for n in _SMPLX if n not in _FACE),
    "smplx": _SMPLX,
    "flame": ("root", "neck", *_FACE),
}
"""Joints of each kind, in the order of its files."""
LICENCES = {
    "smpl": "SMPL model licence (Max Planck): non-commercial research, not to be passed on",
    "smplh": "MANO / SMPL+H licence (Max Planck): non-commercial research, not to be passed on",
    "smplx": "SMPL-X model licence (Max Planck): non-commercial research, not to be passed on",
    "flame": "FLAME model licence (Max Planck) of the file's version: read it; most versions are "
    "for non-commercial research and not to be passed on",
}
_VERTEX_IDS = {6890: SMPL_VERTEX_IDS, 10475: SMPLX_VERTEX_IDS}
_SPLITS = {400: 300, 20: 10}
"""Columns of shapedirs -> how many are shape, the rest being expression (SMPL-X, FLAME)."""
_REQUIRED = ("v_template", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights", "f")
_HANDS = {
    "hand_components_left": "hands_componentsl",
    "hand_components_right": "hands_componentsr",
    "hand_mean_left": "hands_meanl",
    "hand_mean_right": "hands_meanr",
}
_LANDMARKS = {
    "landmarks_face": ("lmk_faces_idx", "lmk_face_idx"),
    "landmarks_bary": ("lmk_bary_coords", "lmk_b_coords"),
    "contour_face": ("dynamic_lmk_faces_idx",),
    "contour_bary": ("dynamic_lmk_bary_coords",),
}
_MAX_DENSE = 1 << 24
"""Entries of a joint regressor written out, or of indices: published models have half a million."""
_REMEDY = "give the .pkl or .npz of the model as its authors distribute it (docs/how-to/models.md)"


def convert_smpl(source: pathlib.Path, kind: str) -> dict[str, np.ndarray]:
    """The arrays of a body model in our layout (docs/how-to/models.md), metres, float32.

    Args:
        source: .pkl or .npz as distributed; `shapedirs` of SMPL-X and FLAME are 300 of shape and
            100 of expression, or 10 and 10 in older files.
        kind: `smpl`, `smplh`, `smplx` or `flame`.

    Raises:
        InputError: no such file, not of this kind, or its arrays disagree.
    """
    source = pathlib.Path(source)
    expected = f"a model file of kind {kind}: {', '.join(_REQUIRED)}"
    if kind not in JOINT_NAMES:
        raise InputError(f"kind {kind!r}", f"one of {', '.join(JOINT_NAMES)}", _REMEDY)
    if source.suffix not in (".pkl", ".npz"):
        raise InputError(f"{source}: neither .pkl nor .npz", expected, _REMEDY)
    raw = read_npz_objects(source) if source.suffix == ".npz" else read_pickle(source)
    missing = [key for key in _REQUIRED if key not in raw]
    if missing:
        raise InputError(f"{source}: no {', '.join(missing)}", expected, _REMEDY)
    try:
        arrays = _arrays(raw, kind)
        body_arrays(arrays)
    except InputError as error:
        raise InputError(f"{source}: {error.given}", error.expected, error.remedy) from error
    except BROKEN as error:
        raise InputError(f"{source}: {str(error)[:200]}", expected, _REMEDY) from error
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return arrays | {
        "unit": np.array("metres"),
        "source": np.array(f"{kind}: {source.name}, sha256 {digest}"),
        "licence": np.array(LICENCES[kind]),
    }


def _arrays(raw: dict[str, Any], kind: str) -> dict[str, np.ndarray]:
    template = _numbers(raw, "v_template")
    modes = _modes(raw, "shapedirs")
    count, names = len(template), JOINT_NAMES[kind]
    parents = _parents(_numbers(raw, "kintree_table", np.int64), len(names))
    regressor = _numbers(raw, "J_regressor")
    if regressor.shape != (len(names), count):
        raise ValueError(f"J_regressor has shape {regressor.shape}, not {(len(names), count)}")
    rows, columns = np.nonzero(regressor)
    arrays = {
        "v_template": template,
        "shapedirs": modes,
        "posedirs": _modes(raw, "posedirs"),
        "joint_regressor_data": regressor[rows, columns],
        "joint_regressor_indices": columns,
        "joint_regressor_indptr": np.searchsorted(rows, np.arange(len(names) + 1)),
        "parents": parents,
        "joint_names": np.array(names),
        "weights": _numbers(raw, "weights"),
        "faces": _numbers(raw, "f", np.int64),
    }
    if kind in ("smplx", "flame"):
        if len(modes) not in _SPLITS:
            raise ValueError(
                f"shapedirs of {len(modes)} columns, not of {' or '.join(map(str, _SPLITS))}"
            )
        split = _SPLITS[len(modes)]
        arrays |= {"shapedirs": modes[:split], "expr_basis": modes[split:]}
    if kind != "flame" and count in _VERTEX_IDS:
        arrays["vertex_joint_ids"] = np.array(_VERTEX_IDS[count])
        arrays["vertex_joint_names"] = np.array(VERTEX_JOINTS)
    if "hands_meanl" in raw:
        arrays |= {ours: _numbers(raw, theirs) for ours, theirs in _HANDS.items()}
    for ours, keys in _LANDMARKS.items():
        for key in (k for k in keys if k in raw):
            whole = np.int64 if ours.endswith("_face") else np.float32
            arrays[ours] = _numbers(raw, key, whole)
    return arrays


def _numbers(raw: dict[str, Any], key: str, dtype: Any = np.float32) -> np.ndarray:
    """A dense array of numbers; whole ones must be so in the file."""
    if key not in raw:
        raise ValueError(f"no {key}")
    value = raw[key]
    if hasattr(value, "toarray") and np.prod(value.shape, dtype=float) <= _MAX_DENSE:
        value = value.toarray()
    if not isinstance(value, np.ndarray):  # lists of text could grow to any size
        raise ValueError(f"{key} is a {type(value).__name__}, no array that is read")
    array = value
    if array.dtype.kind not in "iuf" or (dtype == np.int64 and array.dtype.kind == "f"):
        raise ValueError(f"{key} does not hold {'whole ' if dtype == np.int64 else ''}numbers")
    if dtype == np.int64 and array.size > _MAX_DENSE:  # of one byte each, they grow eightfold
        raise ValueError(f"{key} has {array.size:,} entries")
    return array.astype(dtype)


def _modes(raw: dict[str, Any], key: str) -> np.ndarray:
    """(v, 3, k) of the file as (k, v, 3)."""
    array = _numbers(raw, key)
    if array.ndim != 3 or array.shape[1] != 3:
        raise ValueError(f"{key} has shape {array.shape}, not (v, 3, k)")
    return np.ascontiguousarray(np.moveaxis(array, 2, 0))


def _parents(table: np.ndarray, joints: int) -> np.ndarray:
    """Parents of `joints` from kintree_table; its root is written -1, or the same as uint32."""
    if table.shape != (2, joints) or (table[1] != np.arange(joints)).any():
        raise ValueError(
            f"kintree_table has shape {table.shape}, not {(2, joints)}, or is unsorted"
        )
    parents = np.where(table[0] == 2**32 - 1, -1, table[0])
    return parents
