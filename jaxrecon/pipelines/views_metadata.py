"""The JSON files of a views folder, `cameras.json` and `landmarks.json`: read, checked, as arrays.

All raise `InputError`, naming the file and the view.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.types import Cameras

UNITS = ("millimetres", "metres")
LANDMARKS = 68
MIN_LANDMARKS = 20
_MAX_JSON_BYTES = 32_000_000
_MAX_PIXEL = 1e6


def read_json(path: pathlib.Path) -> dict | None:
    """The object in a JSON file, or None when there is no file."""
    if not path.exists():
        return None
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"over {_MAX_JSON_BYTES // 10**6} MB")
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("it holds no object at the top")
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as JSON: {error}", expected="one JSON object { ... }"
        ) from error
    return document


def inside(folder: pathlib.Path, name: str, where: str) -> pathlib.Path:
    """`folder/name`, refusing names that lead out of the folder."""
    path = folder / name
    if "\0" in name or not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{where} of {folder} names {name!r}, which lies outside the folder",
            expected="names of files in the folder",
        )
    return path


# ---------------------------------------------------------------- cameras.json


def entries(path: pathlib.Path, document: dict) -> list[dict]:
    """The views that cameras.json lists, each with a file name."""
    views = document.get("views")
    if not isinstance(views, list) or not views or not all(map(_is_entry, views)):
        raise InputError(
            f"{path} lists no views",
            expected='"views": [{"file": NAME, "K": 3x3, "R": 3x3, "t": 3}, ...]',
        )
    return views


def _is_entry(view: Any) -> bool:
    return isinstance(view, dict) and isinstance(view.get("file"), str)


def units(path: pathlib.Path, document: dict) -> str:
    """The world unit that cameras.json names."""
    unit = document.get("units")
    if unit not in UNITS:
        raise InputError(
            f"{path}: units is {unit!r}",
            expected=" or ".join(f'"{u}"' for u in UNITS),
            remedy='add "units" to the top of the file: what t is measured in',
        )
    return unit


def expression(path: pathlib.Path, entry: dict, index: int) -> int:
    """The number of a view's expression, 0 unless given."""
    value = entry.get("expression", 0)
    if type(value) is not int or value < 0:
        raise InputError(
            f"{path}: expression of view {index} is {value!r}",
            expected="a whole number from 0, the same for views of the same expression",
        )
    return value


def ground_truth(folder: pathlib.Path, entry: dict) -> pathlib.Path | None:
    """The mesh that a view names as its ground truth, where the folder holds it."""
    name = entry.get("gt")
    if not isinstance(name, str):
        return None
    path = inside(folder, name, "cameras.json")
    return path if path.is_file() else None


def cameras(path: pathlib.Path, entries: list[dict], chosen: tuple[int, ...]) -> Cameras:
    """Cameras (NumPy, float64) of the chosen views; K must be a pinhole's, R a rotation."""
    K, R, t = [], [], []
    for i in chosen:
        where = f"{path}, view {i} ({entries[i]['file']})"
        K.append(_numbers(f"{where}: K", entries[i].get("K"), (3, 3)))
        R.append(_numbers(f"{where}: R", entries[i].get("R"), (3, 3)))
        t.append(_numbers(f"{where}: t", entries[i].get("t"), (3,)))
        _check_intrinsics(where, K[-1])
        _check_rotation(where, R[-1])
    return Cameras(K=np.stack(K), R=np.stack(R), t=np.stack(t))  # pyright: ignore[reportArgumentType]


def _check_intrinsics(where: str, K: np.ndarray) -> None:
    pinhole = np.allclose(K[2], (0, 0, 1), atol=1e-9) and abs(K[1, 0]) < 1e-9
    if not pinhole or min(K[0, 0], K[1, 1]) <= 0:
        raise InputError(
            f"{where}: K = {K.tolist()} is not a pinhole camera in pixels",
            expected="[[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0",
            remedy="undistort the images and give K for them",
        )


def _check_rotation(where: str, R: np.ndarray) -> None:
    error = np.abs(R @ R.T - np.eye(3)).max()
    if error > 1e-3 or np.linalg.det(R) < 0:
        what = "a reflection (determinant -1)" if error <= 1e-3 else f"off by {error:.2g}"
        raise InputError(
            f"{where}: R is not a rotation: {what}",
            expected="R R^T = 1 with determinant +1, OpenCV axes (x right, y down, z forward)",
            remedy="negate the y and z rows of an OpenGL camera; take scale out of R",
        )


def _numbers(where: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A finite float64 array of one shape from JSON lists."""
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if array.shape != shape or not np.isfinite(array).all():
        raise InputError(
            f"{where} is {json.dumps(value)[:120]}",
            expected=f"{' x '.join(map(str, shape))} finite numbers",
        )
    return array


# ---------------------------------------------------------------- landmarks.json


def read_landmarks(
    path: pathlib.Path, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Pixels (views, 68, 2), weights (views, 68) and valid (68,), or None without landmarks."""
    document = read_json(path)
    if document is None:
        return None
    valid = _flags(path, document, "valid", (LANDMARKS,))
    if not valid.any():
        return None
    visible = _flags(path, document, "visible", (count, LANDMARKS)) & valid[None]
    points = _floats(document.get("landmarks2d"))
    if points.shape != (count, LANDMARKS, 2):
        raise InputError(
            f"{path}: landmarks2d has shape {points.shape}",
            expected=f"({count}, {LANDMARKS}, 2): per view, 68 points in iBUG order, x and y",
        )
    sane = np.abs(points) < _MAX_PIXEL  # False for NaN
    if not sane[visible].all():
        raise InputError(
            f"{path}: landmarks2d has a visible point that is not a place in an image",
            expected="pixels, or visible: false",
        )
    if valid.sum() < MIN_LANDMARKS:
        raise InputError(
            f"{path}: only {int(valid.sum())} of {LANDMARKS} landmarks are valid",
            expected=f"at least {MIN_LANDMARKS}",
            remedy="mark more points",
        )
    known = valid[None, :, None] & sane
    return np.where(known, points, 0).astype(np.float32), visible.astype(np.float32), valid


def _floats(value: Any) -> np.ndarray:
    """JSON lists as float64, null as NaN; an empty array when they are ragged or not numbers."""
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.empty(0)


def _flags(path: pathlib.Path, document: dict, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Booleans of one shape; all True when the document does not mention them."""
    flags = np.ones(shape) if name not in document else _floats(document[name])
    if flags.shape != shape or not np.isin(flags, (0, 1)).all():
        raise InputError(f"{path}: {name} is not {shape} booleans", expected="true or false each")
    return flags.astype(np.bool_)
