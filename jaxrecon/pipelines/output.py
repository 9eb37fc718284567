"""Writing results: to a temporary name, then a rename, so that no reader meets half a file."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxrecon.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def output_folder(path: str | os.PathLike) -> pathlib.Path:
    """The folder at `path`, made if need be, after trying to write in it.

    Raises:
        InputError: it is a file, cannot be made, or cannot be written.
    """
    folder = pathlib.Path(path)
    with explained(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"cannot write results to {folder}: it is, or lies under, a file",
                expected="a folder, or a name that is still free",
                remedy="choose another --out",
            ) from error
        except OSError as error:
            if error.errno in _FULL or error.errno in _REFUSED:
                raise
            raise InputError(
                f"cannot make the folder {folder}: {error.strerror or error}",
                expected="a name that the system accepts",
                remedy="choose another --out",
            ) from error
        probe = folder / f".{secrets.token_hex(4)}.tmp"
        probe.touch(exist_ok=False)
        probe.unlink()
    return folder


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`, with its suffix, that replaces it when the block ends well.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        with explained(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, data: bytes) -> pathlib.Path:
    """Write `data` to `path` at once.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    path = pathlib.Path(path)
    with atomic(path) as temporary, open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # else a power cut may keep the rename and lose the bytes
    return path


def write_json(path: str | os.PathLike, value: Any) -> pathlib.Path:
    """Write `value` as JSON; dataclasses, paths and arrays become objects, strings and lists.

    Raises:
        ValueError: a number is not finite (strict JSON has no NaN); the message names its place.
        TypeError: something has no JSON form.
        InputError: the disk is full or the folder cannot be written.
    """
    text = json.dumps(_plain(value, "$"), indent=1, allow_nan=False)
    return write_bytes(path, (text + "\n").encode())


def write_npz(path: str | os.PathLike, arrays: Mapping[str, Any]) -> pathlib.Path:
    """Write named arrays to a compressed `.npz` that loads without pickle.

    Raises:
        TypeError: an array holds Python objects.
        InputError: the disk is full or the folder cannot be written.
    """
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects; it would need pickle")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **plain)
    return write_bytes(path, buffer.getvalue())


def _plain(value: Any, place: str) -> Any:
    """`value` in terms of dict, list, str, int, float, bool and None."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not np.isfinite(value):
            raise ValueError(f"{place} is {value}; JSON holds finite numbers only")
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: _plain(getattr(value, f.name), f"{place}.{f.name}") for f in fields}
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{place}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{place}[{i}]") for i, v in enumerate(value)]
    if hasattr(value, "__array__"):  # NumPy and JAX, scalars too
        return _plain(np.asarray(value).tolist(), place)
    raise TypeError(f"{place} is a {type(value).__name__}, which has no JSON form")


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
    """Turn the errors of a disk that is full or closed to us, and of names that are too long, into
    messages for the user.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise InputError(
                f"the disk is full: {path} could not be written",
                remedy="free some space, or choose another --out, and run again",
            ) from error
        if error.errno in _REFUSED:
            raise InputError(
                f"no permission to write {path}",
                expected="a folder you may write in",
                remedy="choose another --out",
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(
                f"cannot write {path}: a name in it is too long",
                expected="a name that the system accepts",
                remedy="choose a shorter one",
            ) from error
        raise
