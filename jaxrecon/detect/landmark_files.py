"""Landmarks of one face from files of several kinds: 68 (iBUG order) or five points.

The kind follows from the name's ending, and so does where the file counts pixels from:

| ending | what is in it | its centre of the first pixel | we add |
|---|---|---|---|
| .json | `landmarks2d` of a views folder, `points`, or a bare list | 0.5 | 0 |
| .npy, .npz | one array; in .npz the only one, or `landmarks2d`, `landmarks`, `points` | 0.5 | 0 |
| .pts | iBUG's text, `n_points: 68` and lines between braces | 1 (Matlab) | -0.5 |
| .txt | "x y" a line, as of Deep3DFaceRecon, dlib and OpenCV | 0 | 0.5 |

In .json, `visible`, `valid` (true or false) and `confidence` (0 to 1) of each point may stand
beside the places. Five points are the centres of the right and the left eye (the subject's), the
tip of the nose, the right and the left corner of the mouth.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxrecon.errors import FAULTS, InputError, excerpt
from jaxrecon.interop.json_files import read_json_value

COUNTS = (68, 5)
KEYS = ("landmarks2d", "landmarks", "points")
_MAX_BYTES = 32_000_000
_MAX_TEXT = 1_000_000
_MAX_PIXEL = 1e6
_EXPECTED = (
    "68 points in iBUG order, or five (eyes, nose, corners of the mouth), each x and y in pixels: "
    '.json ({"points": [[x, y], ...]}, or landmarks.json of a views folder), .npy, .npz, .pts, .txt'
)


@dataclasses.dataclass(frozen=True)
class Points:
    """The landmarks of one face, in pixels whose first centre is (0.5, 0.5)."""

    places: Float[np.ndarray, "n 2"]
    """float32; 0 where not known."""
    known: Bool[np.ndarray, " n"]
    """False where the file gives no place."""
    visible: Bool[np.ndarray, " n"] | None = None
    """Whether the point is seen, where the file tells."""
    confidence: Float[np.ndarray, " n"] | None = None
    """float32 in [0, 1], 0 where not known; where the file tells."""


def read_points(path: str | pathlib.Path, index: int | None = None) -> Points:
    """The 68 or five points of one face in a file.

    Args:
        path: .json, .npy, .npz, .pts or .txt.
        index: which picture, where a file holds several; None where it holds one.

    Raises:
        InputError: absent, broken, of another kind or number of points, or several pictures and no
            `index`.
    """
    path = pathlib.Path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise InputError(f"{path}: landmarks in a file of this ending", _EXPECTED)
    if not path.is_file():
        raise InputError(f"no landmarks at {path}", "a file", "check the name")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path} is larger than {_MAX_BYTES // 10**6} MB", _EXPECTED)
    return read(path, index)


def points_in(path: pathlib.Path, document: Any, index: int | None = None) -> Points:
    """The points of one face in what a JSON file holds; errors as `read_points`."""
    fields = document if isinstance(document, dict) else {"points": document}
    key = next((k for k in KEYS if k in fields), None)
    if key is None:
        raise InputError(f"{path} has no landmarks; it has {excerpt(sorted(fields))}", _EXPECTED)
    places = _one(path, _array(path, key, fields[key], np.float64), 2, index)
    flags = {}
    for name in ("visible", "valid"):
        if fields.get(name) is not None:
            array = _array(path, name, fields[name], np.bool_)
            flags[name] = _one(path, array, 1, index if array.ndim == 2 else None)
            if len(flags[name]) != len(places):
                raise InputError(
                    f"{path}: {len(flags[name])} {name} for {len(places)} points", "one for each"
                )
    confidence = None
    if fields.get("confidence") is not None:
        confidence = _confidence(path, fields["confidence"], len(places), index)
    return _points(path, places, flags.get("valid"), flags.get("visible"), confidence)


def _confidence(path: pathlib.Path, value: Any, count: int, index: int | None) -> np.ndarray:
    """(count,) of one picture."""
    array = _array(path, "confidence", value, np.float64)
    if array.ndim in (1, 2):
        array = _one(path, array, 1, index if array.ndim == 2 else None)
    if array.shape != (count,) or not ((array >= 0) & (array <= 1)).all():
        raise InputError(
            f"{path}: confidence is {excerpt(value)}", f"{count} numbers from 0 to 1, one for each"
        )
    return array


def _one(path: pathlib.Path, array: np.ndarray, axes: int, index: int | None) -> np.ndarray:
    """The entry of one picture, where there is an axis of pictures before the others."""
    count = len(array) if array.ndim == axes + 1 else 1
    if (count != 1 and index is None) or not 0 <= (index or 0) < count:
        raise InputError(
            f"{path} holds landmarks of {count} pictures"
            + ("" if index is None else f"; number {index} is asked for"),
            "one picture, or the number of one, from 0",
            "say which" if index is None else "",
        )
    return array[index or 0] if array.ndim == axes + 1 else array


def _array(path: pathlib.Path, name: str, value: Any, dtype: type) -> np.ndarray:
    """Nested lists as an array; null is NaN. Text and uneven lists are refused."""
    kinds = {bool, int} if dtype is np.bool_ else {int, float, type(None)}
    try:
        array = np.asarray(value, object)  # float64 would parse strings
        if array.ndim in (1, 2, 3) and {type(x) for x in array.flat} <= kinds:
            if dtype is not np.bool_ or set(array.flat) <= {0, 1}:
                return array.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(
        f"{path}: {name} is {excerpt(value)}",
        "true or false for each point" if dtype is np.bool_ else _EXPECTED,
    )


def _points(
    path: pathlib.Path,
    places: np.ndarray,
    valid: np.ndarray | None = None,
    visible: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
) -> Points:
    """Checked points; a place may be absent (NaN) where the point is hidden or not valid, and a
    point of no confidence is not known.
    """
    if places.ndim != 2 or len(places) not in COUNTS or places.shape[1] != 2:
        raise InputError(f"{path} holds points of shape {places.shape}", _EXPECTED)
    with np.errstate(invalid="ignore"):
        sane = (np.abs(places) < _MAX_PIXEL).all(axis=1)  # False for NaN
    needed = [flags for flags in (valid, visible) if flags is not None]
    broken = np.flatnonzero(np.logical_and.reduce([~sane, *needed]))
    if len(broken):
        raise InputError(
            f"{path}: point {broken[0]} is {places[broken[0]].tolist()}",
            "finite pixels, or false in `visible` or `valid`",
        )
    known = np.asarray(sane if valid is None else sane & valid)
    if confidence is not None:
        known = known & (confidence > 0)
        confidence = np.where(known, confidence, 0).astype(np.float32)
    if not known.any():
        raise InputError(f"{path}: no point is known", _EXPECTED)
    places = np.where(known[:, None], places, 0).astype(np.float32)
    return Points(places, known, visible, confidence)


# ---------------------------------------------------------------- kinds


def _json(path: pathlib.Path, index: int | None) -> Points:
    return points_in(path, read_json_value(path), index)


def _numpy(path: pathlib.Path, index: int | None) -> Points:
    if path.suffix.lower() == ".npz":
        from jaxrecon.interop.state_dicts import read_npz

        arrays = read_npz(path)
        key = next((k for k in KEYS if k in arrays), next(iter(arrays), ""))
        if key not in KEYS and len(arrays) != 1:
            raise InputError(
                f"{path} holds {len(arrays)} arrays: {excerpt(sorted(arrays))}",
                f"one array, or one that is called {' or '.join(KEYS)}",
            )
        array = arrays[key]
    else:
        try:
            # Mapped, so that a header cannot ask for more memory than the file has bytes.
            array = np.lib.format.open_memmap(path, mode="r")
        except FAULTS:
            raise
        # A damaged header is Python text: tokenize.TokenError, MemoryError, RecursionError, ...
        except Exception as error:
            text = str(error)[:120] or type(error).__name__
            raise InputError(
                f"{path} cannot be read: {text}", "one plain array of numbers (.npy)"
            ) from error
    if array.dtype.kind not in "fiu" or array.size > 10**6:
        raise InputError(f"{path} holds no array of numbers of a sane size", _EXPECTED)
    if array.ndim not in (2, 3):
        raise InputError(f"{path} holds points of shape {array.shape}", _EXPECTED)
    with np.errstate(over="ignore"):  # of long doubles; infinite places are refused
        places = np.array(_one(path, array, 2, index), np.float64)
    return _points(path, places)


def _lines(path: pathlib.Path) -> list[str]:
    """Lines that say something; # begins a comment."""
    try:
        if path.stat().st_size > _MAX_TEXT:
            raise ValueError(f"over {_MAX_TEXT // 10**6} MB")
        text = path.read_text(encoding="utf-8-sig")
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {str(error)[:120]}", _EXPECTED) from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _numbers(path: pathlib.Path, lines: list[str]) -> np.ndarray:
    """(lines, 2) of "x y" lines; commas, semicolons and tabs part numbers as well."""
    rows = []
    for line in lines:
        try:
            row = [float(word) for word in re.split(r"[\s,;]+", line.strip(" ,;"))]
        except ValueError:
            row = []
        if len(row) != 2 or not all(map(math.isfinite, row)):
            raise InputError(f"{path}: the line {excerpt(line)}", 'lines of "x y", two numbers')
        rows.append(row)
    return np.array(rows, np.float64).reshape(-1, 2)


def _text(path: pathlib.Path, index: int | None) -> Points:
    return _points(path, _one(path, _numbers(path, _lines(path)) + 0.5, 2, index))


def _pts(path: pathlib.Path, index: int | None) -> Points:
    lines = _lines(path)
    if "{" not in lines or "}" not in lines[lines.index("{") :]:
        raise InputError(f"{path} has no points between braces", "iBUG's .pts text")
    first = lines.index("{")
    places = _numbers(path, lines[first + 1 : lines.index("}", first)])
    declared = [line.partition(":")[2].strip() for line in lines[:first] if "n_points" in line]
    if declared and declared[0] != str(len(places)):
        raise InputError(
            f"{path} declares {excerpt(declared[0])} points and holds {len(places)}", _EXPECTED
        )
    return _points(path, _one(path, places - 0.5, 2, index))


_READERS: dict[str, Callable[[pathlib.Path, int | None], Points]] = {
    ".json": _json,
    ".npy": _numpy,
    ".npz": _numpy,
    ".pts": _pts,
    ".txt": _text,
}
