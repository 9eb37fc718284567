"""FaceScape's bilinear model, from the authors' .npz to our layout of head models.

`facescape_bm_v1.6_847_50_52_id_front.npz` holds a core of whole faces (vertex coordinates x 52
expressions x 50 identity weights), colours of the front of the face in BGR from 0 to 255, and index
tables. What is written serves twice: `load_bilinear_model` reads the bilinear model, `read_head`
the linear one about the mean identity.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.interop.object_arrays import read_npz_objects
from jaxrecon.models.parametric.bilinear import (
    BilinearFaceModel,
    linear_head,
    neutral_and_differences,
    stored_model,
    vertex_albedo,
)
from jaxrecon.models.parametric.model_arrays import BROKEN

KEYS = (
    "shape_bm_core",
    "color_bm_core",
    "color_bm_mean",
    "fv_indices",
    "v_indices_front",
    "vc_dict_front",
    "lm_list_v16",
    "id_mean",
    "id_var",
)
MAX_BYTES = 2 << 30
"""The core's 26,278 x 3 x 52 x 50 numbers are 1.6 GB in double precision."""
LICENCE = "FaceScape licence (Nanjing University): non-commercial research, not to be passed on"
REMEDY = (
    "give facescape_bm_v1.6_847_50_52_id_front.npz as its authors distribute it "
    "(docs/how-to/models.md)"
)


def convert_facescape(source: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a head model in our layout (docs/how-to/models.md), the bilinear one beside.

    The core takes 0.8 GB as it is written, and in memory as much again beside that of the file.

    Args:
        source: the authors' .npz, version 1.6 with identity and front parts.

    Returns:
        v_mean (v, 3), id_basis (50, v, 3) at one standard deviation, expr_basis (51, v, 3) named
        facescape_01..., mm; albedo_mean, albedo_basis (a, v, 3) a unit weight, black where the
        model has no colour; faces, landmarks68; bilinear_* of `bilinear.stored_model`; unit, frame,
        source, licence.

    Raises:
        InputError: no such file, or not this model.
    """
    source = pathlib.Path(source)
    raw = read_npz_objects(source, KEYS, MAX_BYTES)
    try:
        model = bilinear_model(raw)
        count = len(model.core)
        faces = _triangles(_whole(raw, "fv_indices") - 1, count)
        landmarks = _whole(raw, "lm_list_v16").ravel()
        if len(landmarks) != 68 or landmarks.min() < 0 or landmarks.max() >= count:
            raise ValueError("lm_list_v16 does not hold 68 vertices")
    except BROKEN as error:
        raise InputError(
            f"{source}: {str(error)[:200]}", f"{', '.join(KEYS)} of one model", REMEDY
        ) from error
    mean, basis = vertex_albedo(model)
    head = linear_head(model)
    names = [f"facescape_{i:02d}" for i in range(1, len(head["expr_basis"]) + 1)]
    return {
        **head,
        "expr_names": np.array(names),
        "albedo_mean": mean,
        "albedo_basis": basis,
        "faces": faces.astype(np.int32),
        "landmarks68": landmarks.astype(np.int32),
        **stored_model(model),
        "unit": np.array("millimetres"),
        "frame": np.array("any"),
        "source": np.array(f"FaceScape bilinear model: {source.name}"),
        "licence": np.array(LICENCE),
    }


def bilinear_model(raw: dict[str, Any]) -> BilinearFaceModel:
    """The model of the authors' arrays: shape_bm_core (3 v, e, k), color_bm_core (3 c, a),
    color_bm_mean (3 c,), v_indices_front (n,), vc_dict_front (n,), id_mean (k,), id_var (k,).

    Raises:
        ValueError: arrays that are absent or disagree.
    """
    core, colours = _numbers(raw, "shape_bm_core"), _numbers(raw, "color_bm_core")
    mean = _numbers(raw, "color_bm_mean").ravel()
    if core.ndim != 3 or core.shape[0] % 3 or core.shape[1] < 2 or colours.ndim != 2:
        raise ValueError(f"shape_bm_core has shape {core.shape}, color_bm_core {colours.shape}")
    if len(colours) != len(mean) or len(mean) % 3:
        raise ValueError("color_bm_core and color_bm_mean are of different points")
    core = core.reshape(-1, 3, *core.shape[1:])
    points = len(mean) // 3
    front, index = _whole(raw, "v_indices_front").ravel(), _whole(raw, "vc_dict_front").ravel()
    if front.size and not 0 <= front.min() <= front.max() < len(core):
        raise ValueError("v_indices_front goes beyond the mesh")
    if len(index) != len(front) or (index.size and not -1 <= index.min() <= index.max() < points):
        raise ValueError("vc_dict_front is of other points")
    id_mean, variance = _numbers(raw, "id_mean").ravel(), _numbers(raw, "id_var").ravel()
    if len(id_mean) != core.shape[3] or len(variance) != core.shape[3] or (variance < 0).any():
        raise ValueError("id_mean or id_var are of another model")
    return BilinearFaceModel(
        core=neutral_and_differences(core),
        id_mean=id_mean,
        id_variance=variance,
        colour_mean=mean.reshape(-1, 3)[:, ::-1] / 255.0,
        colour_modes=np.moveaxis(colours.reshape(points, 3, -1)[:, ::-1], 2, 0) / 255.0,
        front=front.astype(np.int32),
        front_colour=index.astype(np.int32),
    )


def _triangles(faces: np.ndarray, count: int) -> np.ndarray:
    """Triangles of triangles or quads."""
    if faces.ndim != 2 or faces.shape[1] not in (3, 4) or not len(faces):
        raise ValueError(f"fv_indices has shape {faces.shape}")
    if faces.min() < 0 or faces.max() >= count:
        raise ValueError(f"fv_indices goes beyond 1 to {count}")
    if faces.shape[1] == 4:
        faces = faces[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    return faces


def _numbers(raw: dict[str, Any], key: str) -> np.ndarray:
    array = raw.get(key)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"{key} does not hold numbers")
    if not np.isfinite(array).all():
        raise ValueError(f"{key} does not hold finite numbers")
    return array.astype(np.float32)


def _whole(raw: dict[str, Any], key: str) -> np.ndarray:
    array = raw.get(key)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"{key} does not hold whole numbers")
    if (array != np.floor(array)).any():
        raise ValueError(f"{key} does not hold whole numbers")
    return array.astype(np.int64)
