"""The JSON files of a views folder, `cameras.json` and `landmarks.json`: read, checked, as arrays.

All raise `InputError`, naming the file and the view.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrecon.errors import InputError, excerpt
from jaxrecon.interop.camera_files import check_finite, check_rotation
from jaxrecon.interop.json_files import read_json
from jaxrecon.types import Cameras

UNITS = ("millimetres", "metres", "unknown")
LANDMARKS = 68
MIN_LANDMARKS = 20
_MAX_PIXEL = 1e6
_MAX_LENGTH = 1e9
_MAX_EXPRESSION = 2**31


def inside(folder: pathlib.Path, name: str, where: str) -> pathlib.Path:
    """`folder/name`, refusing names that lead out of the folder or that no file can have."""
    path = folder / name
    try:
        contained = path.resolve().is_relative_to(folder.resolve())
        path.is_file()  # raises where the name is too long or has no encoding
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise InputError(
            f"{where} of {folder} names {excerpt(name)}: {str(error)[:80]}",
            expected="names of files in the folder",
        ) from error
    if not contained:
        raise InputError(
            f"{where} of {folder} names {excerpt(name)}, which lies outside the folder",
            expected="names of files in the folder",
            remedy="copy the file into the folder (a link does not do)",
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
    """The world unit that cameras.json names; "unknown" for an arbitrary scale."""
    unit = document.get("units")
    if unit not in UNITS:
        raise InputError(
            f"{path}: units is {excerpt(unit)}",
            expected=" or ".join(f'"{u}"' for u in UNITS),
            remedy='add "units" to the top of the file: what t is measured in',
        )
    return unit


def expression(path: pathlib.Path, entry: dict, index: int) -> int | None:
    """The number of a view's expression: 0 unless given, None when given as unknown."""
    value = entry.get("expression", 0)
    if value is None or value == "unknown":
        return None
    if type(value) is not int or not 0 <= value < _MAX_EXPRESSION:
        raise InputError(
            f"{path}: expression of view {index} is {excerpt(value)}",
            expected="a whole number from 0, the same for views of the same expression",
            remedy='write "unknown" where you do not know',
        )
    return value


def expressions(
    path: pathlib.Path, entries: Sequence[dict], chosen: Sequence[int]
) -> tuple[list[int], tuple[str, ...]]:
    """The expression of each chosen view, and what to warn about.

    Without any number in the file all views show one expression. A view of unknown expression (said
    so, or silent while others have one) gets a number of its own: two looks taken for one would
    bend the head between them, one look taken for two only costs it some evidence.
    """
    some = any("expression" in entry for entry in entries)
    numbers = [
        None if some and "expression" not in entry else expression(path, entry, i)
        for i, entry in enumerate(entries)
    ]
    free = 1 + max((n for n in numbers if n is not None), default=-1)
    found = [free + i if (number := numbers[i]) is None else number for i in chosen]
    unknown = [str(entries[i]["file"]) for i in chosen if numbers[i] is None]
    if not unknown or len(chosen) == 1:  # of one view it does not matter
        return found, ()
    names = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if unknown[5:] else "")
    return found, (
        f"the expression of {names} is unknown: each is fitted as an expression of its own; give "
        f'views of the same look the same "expression" in {path.name}',
    )


def ground_truth(folder: pathlib.Path, entry: dict) -> pathlib.Path | None:
    """The mesh that a view names as its ground truth, where the folder holds it."""
    name = entry.get("gt")
    if not isinstance(name, str):
        return None
    path = inside(folder, name, "cameras.json")
    return path if path.is_file() else None


def cameras(
    path: pathlib.Path, entries: Sequence[dict], chosen: Sequence[int]
) -> tuple[Cameras | None, np.ndarray | None]:
    """Cameras and K (views, 3, 3) of the chosen views, NumPy, float64.

    Each has K, R and t, or each has K alone (None for the cameras), or none has any (None twice).
    K must be a pinhole's, R a rotation.
    """
    has = {n: [entries[i].get(n) is not None for i in chosen] for n in ("K", "R", "t")}
    for name, present in has.items():
        if any(present) and not all(present):
            lacking = entries[chosen[present.index(False)]]["file"]
            raise InputError(
                f"{path}: view {chosen[present.index(False)]} ({excerpt(lacking)}) has no {name}, "
                "other views have",
                expected="K, R and t for every view; or K alone for every view; or none",
                remedy="leave the view out with --views, or complete it",
            )
    K, R, t = (all(has[n]) for n in ("K", "R", "t"))
    if R != t or (R and not K):
        raise InputError(
            f"{path}: the views have {' and '.join(n for n in has if all(has[n]))} only",
            expected="K, R and t for every view; or K alone, when the poses are unknown",
        )
    if not K:
        return None, None
    where = {i: f"{path}, view {i} ({entries[i]['file'][:80]})" for i in chosen}
    intrinsics = np.stack([_intrinsics(where[i], entries[i]["K"]) for i in chosen])
    if not R:
        return None, intrinsics
    rotations = np.stack([_rotation(where[i], entries[i]["R"]) for i in chosen])
    offsets = np.stack([_numbers(f"{where[i]}: t", entries[i]["t"], (3,)) for i in chosen])
    for i, offset in zip(chosen, offsets, strict=True):
        if np.abs(offset).max() > _MAX_LENGTH:
            raise InputError(
                f"{where[i]}: t is {offset.tolist()}", expected=f"at most {_MAX_LENGTH:g} each"
            )
    return Cameras(K=intrinsics, R=rotations, t=offsets), intrinsics  # pyright: ignore[reportArgumentType]


def _intrinsics(where: str, value: Any) -> np.ndarray:
    K = _numbers(f"{where}: K", value, (3, 3))
    pinhole = np.allclose(K[2], (0, 0, 1), atol=1e-9) and abs(K[1, 0]) < 1e-9
    if not pinhole or min(K[0, 0], K[1, 1]) <= 0:
        raise InputError(
            f"{where}: K = {K.tolist()} is not a pinhole camera in pixels",
            expected="[[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0",
            remedy="undistort the images and give K for them",
        )
    if np.abs(K).max() > _MAX_PIXEL or min(K[0, 0], K[1, 1]) < 1:
        raise InputError(
            f"{where}: K = {K.tolist()} is not in pixels",
            expected=f"fx and fy from 1, nothing over {_MAX_PIXEL:g}",
            remedy="multiply a normalised K by the width and height",
        )
    return K


def _rotation(where: str, value: Any) -> np.ndarray:
    R = _numbers(f"{where}: R", value, (3, 3))
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(R @ R.T - np.eye(3)).max()
    check_rotation(
        f"{where}: R", R, error,
        expected="R R^T = 1 with determinant +1, OpenCV axes (x right, y down, z forward)",
        remedy="negate the y and z rows of an OpenGL camera; take scale out of R",
    )  # fmt: skip
    return R


def _numbers(where: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A finite float64 array of one shape from JSON lists."""
    return check_finite(where, value, _floats(value), shape)


def _floats(value: Any, *more: type) -> np.ndarray:
    """JSON lists of numbers (or `more` types; None becomes NaN) as float64; an empty array when
    they are ragged or hold anything else.
    """
    try:
        array = np.asarray(value, object)  # float64 would parse strings
        if array.ndim < 4 and {type(x) for x in array.flat} <= {int, float, *more}:
            return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    return np.empty(0)


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
    points = _floats(document.get("landmarks2d"), type(None))
    if points.shape != (count, LANDMARKS, 2):
        found = f"shape {points.shape}" if points.size else "no numbers, or lists of unequal length"
        raise InputError(
            f"{path}: landmarks2d has {found}",
            expected=f"({count}, {LANDMARKS}, 2): per view, 68 points in iBUG order, x and y",
        )
    sane = np.abs(points) < _MAX_PIXEL  # False for NaN
    broken = np.argwhere(visible & ~sane.all(axis=-1))
    if len(broken):
        view, mark = broken[0].tolist()
        raise InputError(
            f"{path}: landmarks2d has visible points that are not a place in an image, the first "
            f"is landmark {mark} of view {view}: {points[view, mark].tolist()}",
            expected="finite pixels, or false in `visible`",
        )
    if valid.sum() < MIN_LANDMARKS:
        raise InputError(
            f"{path}: only {int(valid.sum())} of {LANDMARKS} landmarks are valid",
            expected=f"at least {MIN_LANDMARKS}",
            remedy="mark more points",
        )
    known = valid[None, :, None] & sane.all(axis=-1, keepdims=True)
    weights = visible * _confidence(path, document, (count, LANDMARKS))
    return np.where(known, points, 0).astype(np.float32), weights.astype(np.float32), valid


def _confidence(path: pathlib.Path, document: dict, shape: tuple[int, ...]) -> np.ndarray:
    """How much a seen landmark counts, in [0, 1]; 1 where the document does not say."""
    if "confidence" not in document:
        return np.ones(shape)
    found = _floats(document["confidence"])
    if found.shape != shape or not ((found >= 0) & (found <= 1)).all():
        raise InputError(
            f"{path}: confidence is {excerpt(document['confidence'])}",
            expected=f"numbers from 0 to 1 of shape {shape}, or no `confidence` at all",
        )
    return found


def hide_outside(
    points: np.ndarray, weights: np.ndarray, sizes: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Weights (v, 68), 0 for landmarks (v, 68, 2) outside their picture, and what to warn about.

    Nobody sees a point outside the picture: it was extrapolated, or marks a failure, as (-1, -1)
    does. `sizes` (v, 2) holds height and width.
    """
    outside = ((points < 0) | (points > sizes[:, None, ::-1])).any(axis=-1) & (weights > 0)
    warnings = tuple(
        f"{name}: {count} seen landmarks lie outside the image; they are taken as hidden"
        for name, count in zip(names, outside.sum(axis=-1).tolist(), strict=True)
        if count
    )
    return np.where(outside, np.float32(0), weights), warnings


def _flags(path: pathlib.Path, document: dict, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Booleans of one shape; all True when the document does not mention them."""
    flags = np.ones(shape) if name not in document else _floats(document[name], bool)
    if flags.shape != shape or not np.isin(flags, (0, 1)).all():
        raise InputError(
            f"{path}: {name} is {excerpt(document[name])}, not booleans of shape {shape}",
            expected="true or false for each landmark"
            + (" of each view of the folder" if len(shape) > 1 else ""),
        )
    return flags.astype(np.bool_)
