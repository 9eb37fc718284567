"""What the files of parametric models share: arrays of checked shape and content, expressions dense
or sparse. Errors are `ValueError`s that name the array; readers name the file.
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Callable, Collection, Sequence

import numpy as np

from jaxrecon.archives import MAX_BYTES, open_zip, unpacked_limit
from jaxrecon.errors import FAULTS, InputError

REMEDY = "give a model converted to .npz (see docs/how-to/models.md)"
REINSTALL = "install jaxrecon again: a file of its own is damaged"
UNITS = {"millimetres": 1.0, "centimetres": 10.0, "metres": 1000.0, "micrometres": 1e-3}
"""Millimetres of a unit."""
BROKEN = (TypeError, ValueError, LookupError, OverflowError, MemoryError, np.linalg.LinAlgError)
"""What arrays that disagree raise, of a file that fits into memory."""
_MAX_DENSE, _MAX_NAMES = 1 << 25, 100_000
_SPARSE = ("expr_ptr", "expr_idx", "expr_delta")


def npz_arrays(
    path: str | os.PathLike,
    choose: Callable[[list[str]], Collection[str]],
    expected: str,
    remedy: str = REMEDY,
) -> dict[str, np.ndarray]:
    """The arrays of an .npz; nothing is unpickled, and sizes are checked before reading.

    Args:
        path: the file.
        choose: names of the file to those that are read; ValueError: it is of another kind.
        expected: what the file should be, for errors.
        remedy: for errors.

    Raises:
        InputError: no such file, no .npz of plain arrays, larger than 1 GiB, or of another kind.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file", expected, remedy)
    try:
        open_zip(path).close()
        limit = unpacked_limit(path.stat().st_size, MAX_BYTES)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = choose(archive.files)
            sizes = {m.filename.removesuffix(".npy"): m.file_size for m in archive.zip.infolist()}
            if sum(sizes[name] for name in names) > limit:
                raise ValueError(f"unpacked, larger than {limit / 2**30:.3g} GiB")
            arrays = {name: archive[name] for name in names}
            if _as_used(arrays) > limit:
                raise ValueError(f"its whole numbers, as int64, take over {limit / 2**30:.3g} GiB")
            for name, array in arrays.items():
                if array.dtype.kind == "U" and _beyond_unicode(array):
                    raise ValueError(f"{name} holds text that is none")
            return arrays
    except FAULTS:
        raise
    except Exception as error:  # whatever a broken zip or header raises
        text = str(error)[:300] or type(error).__name__
        raise InputError(f"{path}: {text}", expected, remedy) from error


def _as_used(arrays: dict[str, np.ndarray]) -> int:
    """Bytes of arrays whose whole numbers `index_array` widens: zeros of one byte pack well."""
    return sum(8 * a.size if a.dtype.kind in "iu" else a.nbytes for a in arrays.values())


def _beyond_unicode(array: np.ndarray) -> bool:
    """Whether Python could not make text of an array's characters (it ends in a SystemError)."""
    codes = np.frombuffer(array.astype(array.dtype.newbyteorder("=")).tobytes(), np.uint32)
    return bool((codes > 0x10FFFF).any())


def require(names: Collection[str], wanted: Sequence[str]) -> None:
    """ValueError where one of the wanted names is absent."""
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ValueError(f"no {', '.join(missing)}")


def expression_modes(raw: dict[str, np.ndarray], count: int) -> tuple[np.ndarray, list[str]]:
    """(dense (e, v, 3) in the file's unit, names) of `count` vertices, from `expr_basis` or the
    sparse `expr_*`; unnamed ones are principal modes. No expressions: (0, v, 3).
    """
    given = [key for key in (*_SPARSE, "expr_names", "expr_basis") if key in raw]
    if not given:
        return np.zeros((0, count, 3), np.float32), []
    if "expr_basis" in raw:
        dense = finite_array(raw, "expr_basis", (-1, count, 3))
    elif all(key in raw for key in _SPARSE):
        dense = _dense(raw, count)
    else:
        raise InputError(
            f"expressions with {', '.join(given)} alone", f"{', '.join(_SPARSE)}, or none", REMEDY
        )
    if "expr_names" not in raw:
        return dense, [f"mode_{i:03d}" for i in range(len(dense))]
    names = words(raw, "expr_names")
    if len(names) != len(dense):
        raise ValueError(f"{len(names)} names of {len(dense)} expressions")
    return dense, names


def _dense(raw: dict[str, np.ndarray], count: int) -> np.ndarray:
    delta = finite_array(raw, "expr_delta", (-1, 3))
    index = index_array(raw, "expr_idx", (len(delta),), count)
    pointer = index_array(raw, "expr_ptr", (-1,), len(delta) + 1)
    if not 0 < len(pointer) <= _MAX_NAMES or (np.diff(pointer) < 0).any():
        raise ValueError("expr_ptr is no rising list")
    dense = zeros((len(pointer) - 1, count, 3))
    for e in range(len(dense)):
        span = slice(pointer[e], pointer[e + 1])
        dense[e, index[span]] = delta[span]
    return dense


def zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros for what a file gives sparsely: a short file could ask for any size.

    Raises:
        ValueError: more than 128 MiB.
    """
    if math.prod(shape) > _MAX_DENSE:
        raise ValueError(f"written out, arrays of shape {shape} are larger than 128 MiB")
    return np.zeros(shape, np.float32)


def words(raw: dict[str, np.ndarray], key: str) -> list[str]:
    """A list of names; ValueError where the array is none, or of more than 100,000 names."""
    array = np.atleast_1d(raw[key])
    if array.dtype.kind not in "US" or array.ndim != 1 or len(array) > _MAX_NAMES:
        raise ValueError(f"{key} is no list of names")
    return [str(name) for name in array.astype(str)]


def finite_array(raw: dict[str, np.ndarray], key: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array as float32, of a shape in which -1 stands for any length.

    Raises:
        ValueError: absent, of another shape or no numbers, or not all finite.
    """
    array = _taken(raw, key, shape, "fiu", "numbers").astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{key} holds NaN or infinity")
    return array


def index_array(
    raw: dict[str, np.ndarray], key: str, shape: tuple[int, ...], bound: int, least: int = 0
) -> np.ndarray:
    """An array of whole numbers in [least, bound) as int64; shape as for `finite_array`.

    Raises:
        ValueError: absent, of another shape, or beyond its bounds.
    """
    array = _taken(raw, key, shape, "iu", "whole numbers")
    if array.size and not least <= array.min() <= array.max() < bound:
        raise ValueError(f"{key} goes beyond {least} to {bound - 1}")
    return array.astype(np.int64)


def _taken(
    raw: dict[str, np.ndarray], key: str, shape: tuple[int, ...], kinds: str, what: str
) -> np.ndarray:
    """The array `key`, if its dtype is of these kinds and its shape fits; -1 is any length."""
    if key not in raw:
        raise ValueError(f"no {key}")
    array = raw[key]
    if array.dtype.kind not in kinds:
        raise ValueError(f"{key} does not hold {what}")
    fits = array.ndim == len(shape) and all(
        s in (-1, a) for s, a in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if s == -1 else str(s) for s in shape)
        raise ValueError(f"{key} has shape {array.shape}, not ({wanted})")
    return array


def word(raw: dict[str, np.ndarray], key: str, default: str) -> str:
    """A string of the file; `?` where the array is no single one."""
    if key not in raw:
        return default
    return str(raw[key]) if raw[key].ndim == 0 else "?"
