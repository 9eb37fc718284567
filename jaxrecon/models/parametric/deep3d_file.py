"""Deep3D's model from the file of a head model."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.models.parametric.deep3d import MILLIMETRES, Deep3DModel, from_face_model
from jaxrecon.models.parametric.face import LinearFaceModel, load_face_model
from jaxrecon.models.parametric.head_file import REMEDY, stored_arrays
from jaxrecon.models.parametric.model_arrays import BROKEN, finite_array, index_array, word


def load_deep3d_model(path: str | os.PathLike) -> Deep3DModel:
    """Read a model for `deep3d.decode`.

    Args:
        path: .npz of the Basel Face Model that `jaxrecon import-model --kind bfm` wrote: the
            authors' model, exactly; or any head model with albedo, whose outer skin is taken into
            Deep3D's frame (its coefficients are its own, not those of the published network).

    Raises:
        InputError: no such file, no head model, without albedo, or its arrays disagree.
    """
    path = pathlib.Path(path)
    raw = stored_arrays(path)
    if "deep3d_vertex_faces" not in raw:
        try:
            return from_face_model(load_face_model(path))
        except InputError as error:
            if str(path) in error.given:
                raise
            raise InputError(f"{path}: {error.given}", error.expected, error.remedy) from error
    try:
        return _authors_model(raw)
    except BROKEN as error:
        raise InputError(
            f"{path}: arrays disagree ({str(error)[:200]})", "consistent shapes and indices", REMEDY
        ) from error


def _authors_model(raw: dict[str, np.ndarray]) -> Deep3DModel:
    if word(raw, "unit", "?") != "millimetres":
        raise ValueError(f"unit {word(raw, 'unit', '?')!r}, not millimetres")
    mean = finite_array(raw, "v_mean", (-1, 3)) / np.float32(MILLIMETRES)
    count = len(mean)
    faces = index_array(raw, "faces", (-1, 3), count)
    near = index_array(raw, "deep3d_vertex_faces", (count, -1), len(faces), least=-1)

    def modes(key: str) -> np.ndarray:
        return finite_array(raw, key, (-1, count, 3))

    return Deep3DModel(
        face=LinearFaceModel(
            mean=mean - mean.mean(0, keepdims=True),
            identity=modes("id_basis") / np.float32(MILLIMETRES),
            expression=modes("expr_basis") / np.float32(MILLIMETRES),
            faces=faces.astype(np.int32),
            landmarks=index_array(raw, "landmarks68", (68,), count).astype(np.int32),
            expression_names=(),
            albedo_mean=finite_array(raw, "albedo_mean", (count, 3)),
            albedo_basis=modes("albedo_basis"),
        ),
        vertex_faces=near.astype(np.int32),
        skin=finite_array(raw, "deep3d_skin", (count,)),
        front_faces=index_array(raw, "deep3d_front_faces", (-1, 3), count).astype(np.int32),
    )
