"""Linear head models: V = mean + sum_k w_k identity_k + sum_e a_e expression_e.

Frame and unit of the model file: right-handed, x to the subject's left, y up, z out of the face,
millimetres.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.errors import InputError

MAX_BYTES = 1 << 30
_KEYS = (
    "v_mean id_basis expr_names expr_ptr expr_idx expr_delta faces face_part part_names landmarks68"
).split()
SKIN_PARTS = ("face", "head_neck", "sclera_left", "sclera_right")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LinearFaceModel:
    """An immutable linear head model; arrays are leaves, names are static."""

    mean: Any
    """(v, 3) mm"""
    identity: Any
    """(k, v, 3) mm per standard deviation"""
    expression: Any
    """(e, v, 3) mm at full activation (1)"""
    faces: Any
    """(f, 3) vertex indices, counter-clockwise from outside"""
    landmarks: Any
    """(68,) vertex indices, Multi-PIE order"""
    expression_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    """Names of the expression shapes (ARKit style)."""

    def vertices(
        self,
        identity: Float[Array | np.ndarray, "k"],
        expression: Float[Array | np.ndarray, "e"],
    ) -> Float[Array, "v 3"]:
        """Vertices (mm) of one person; vmap for many."""
        offset = jnp.tensordot(identity, self.identity, axes=1)
        return self.mean + offset + jnp.tensordot(expression, self.expression, axes=1)


def load_face_model(
    path: str | pathlib.Path, parts: tuple[str, ...] | None = SKIN_PARTS
) -> LinearFaceModel:
    """Read a linear head model from an .npz in the layout of `ict_head.npz`.

    Args:
        path: file with v_mean, id_basis, sparse expressions (expr_ptr, expr_idx, expr_delta),
            faces, face_part, part_names, landmarks68. Read without pickles.
        parts: names of the face parts to keep (default: the outer skin with the eyeballs), or None
            for all. Unused vertices are dropped and indices remapped.

    Raises:
        InputError: the file is missing, no such .npz, or inconsistent.
    """
    raw = _read(pathlib.Path(path))
    faces, keep = _select(raw, path, parts)
    index = np.full(len(raw["v_mean"]), -1)
    index[keep] = np.arange(len(keep))
    return LinearFaceModel(
        mean=raw["v_mean"][keep].astype(np.float32),
        identity=raw["id_basis"][:, keep].astype(np.float32),
        expression=_dense_expressions(raw)[:, keep],
        faces=index[faces].astype(np.int32),
        landmarks=index[raw["landmarks68"].astype(np.int64)].astype(np.int32),
        expression_names=tuple(str(n) for n in raw["expr_names"]),
    )


def kept_vertices(
    path: str | pathlib.Path, parts: tuple[str, ...] | None = SKIN_PARTS
) -> np.ndarray:
    """Original vertex ids, in order, that `load_face_model(path, parts)` keeps (to carry
    per-vertex masks over).
    """
    return _select(_read(pathlib.Path(path)), path, parts)[1]


def _select(raw: dict[str, np.ndarray], path, parts) -> tuple[np.ndarray, np.ndarray]:
    """(faces of the parts, ids of the vertices that they and the landmarks use)."""
    faces = raw["faces"].astype(np.int64)
    if parts is not None:
        names = [str(n) for n in raw["part_names"]]
        unknown = sorted(set(parts) - set(names))
        if unknown:
            raise InputError(
                f"{path}: no face parts {unknown}", f"some of {names}", "name parts of the file"
            )
        faces = faces[np.isin(raw["face_part"], [names.index(p) for p in parts])]
    return faces, np.unique(np.concatenate([faces.ravel(), raw["landmarks68"].astype(np.int64)]))


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    remedy = "give a head model converted to .npz (see docs/how-to/models.md)"
    if not path.is_file():
        raise InputError(f"{path}: no such file", "a linear head model (.npz)", remedy)
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: larger than 1 GiB", "a linear head model (.npz)", remedy)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            raw = {key: archive[key] for key in _KEYS}
    except Exception as error:
        raise InputError(f"{path}: {error}", f".npz with {', '.join(_KEYS)}", remedy) from error
    try:
        sound = _sound(raw)
    except (TypeError, ValueError, IndexError):  # scalars, text, nothing at all
        sound = False
    if not sound:
        raise InputError(
            f"{path}: arrays disagree, or hold NaN", "consistent shapes and indices", remedy
        )
    return raw


def _sound(raw: dict[str, np.ndarray]) -> bool:
    """Whether shapes agree, indices are in range and numbers are finite."""
    count, indices = len(raw["v_mean"]), raw["expr_idx"]
    pointer = raw["expr_ptr"].astype(np.int64)
    whole = ("faces", "landmarks68", "expr_ptr", "expr_idx", "face_part")
    return (
        all(np.issubdtype(raw[name].dtype, np.integer) for name in whole)
        and raw["v_mean"].shape == (count, 3)
        and raw["id_basis"].ndim == 3
        and raw["id_basis"].shape[1:] == (count, 3)
        and raw["faces"].shape == (len(raw["face_part"]), 3)
        and bool(0 <= raw["faces"].min() <= raw["faces"].max() < count)
        and raw["landmarks68"].shape == (68,)
        and bool(0 <= raw["landmarks68"].min() <= raw["landmarks68"].max() < count)
        and pointer.shape == (len(raw["expr_names"]) + 1,)
        and bool((np.diff(pointer) >= 0).all())
        and 0 <= pointer[0] <= pointer[-1] <= len(indices)
        and raw["expr_delta"].shape == (len(indices), 3)
        and (len(indices) == 0 or bool(0 <= indices.min() <= indices.max() < count))
        and all(np.isfinite(raw[k]).all() for k in ("v_mean", "id_basis", "expr_delta"))
    )


def _dense_expressions(raw: dict[str, np.ndarray]) -> np.ndarray:
    pointer = raw["expr_ptr"].astype(np.int64)
    dense = np.zeros((len(raw["expr_names"]), *raw["v_mean"].shape), np.float32)
    for e in range(len(dense)):
        span = slice(pointer[e], pointer[e + 1])
        dense[e, raw["expr_idx"][span]] = raw["expr_delta"][span].astype(np.float32)
    return dense
