""".npz files with object members: plain members as NumPy writes them, the others through the
allow-list of `pickle_names`, never through pickle.
"""

from __future__ import annotations

import math
import pathlib
import zipfile
from collections.abc import Collection
from typing import Any

import numpy as np

from jaxrecon.archives import MAX_BYTES, open_zip, unpacked_limit
from jaxrecon.interop.pickle_values import Budget, Refused
from jaxrecon.interop.unpickling import read_start, refusing, unpickle

_EXPECTED = "an .npz of arrays, also of lists and dicts of arrays"
_REMEDY = "get the file again from its authors; nothing of it was run"


def read_npz_objects(
    path: str | pathlib.Path,
    members: Collection[str] | None = None,
    max_bytes: int | None = None,
) -> dict[str, Any]:
    """The members of an .npz, with objects as `unpickling.read_pickle` gives them.

    Args:
        path: an .npz.
        members: read these only, where the file also holds what cannot be read
            (GraphCMR's mesh_downsampling.npz pickles a class of its own beside A, U and D).
        max_bytes: of the file, and of the members that are read; None: 1 GiB.

    Returns:
        plain members as arrays; an object member as its one object, or as a list of objects.

    Raises:
        InputError: absent, no .npz, larger than that, damaged, without one of `members`, or with
            names that are not read.
    """
    path = pathlib.Path(path)
    with refusing(path, _EXPECTED, _REMEDY):
        limit = MAX_BYTES if max_bytes is None else max_bytes
        if read_start(path, limit)[:2] != b"PK":
            raise Refused("no .npz")
        with open_zip(path) as archive:
            found: dict[str, zipfile.ZipInfo] = {}
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in found:
                    raise Refused(f"two members are called {name[:80]}")
                found[name] = member
            wanted = found if members is None else list(dict.fromkeys(members))
            missing = [name for name in wanted if name not in found]
            if missing:
                raise Refused(f"no member {missing[0]!r}; it has {', '.join(sorted(found))[:200]}")
            size = sum(found[name].file_size for name in wanted)
            limit = unpacked_limit(path.stat().st_size, limit)
            if size > limit:
                raise Refused(f"unpacked, larger than {limit / 2**30:.3g} GiB")
            values, budget = {}, Budget(size)
            for name in wanted:
                with archive.open(found[name]) as stream:
                    values[name] = read_member(stream, found[name].file_size, budget)
    return values


def read_npy_objects(path: str | pathlib.Path) -> Any:
    """The content of an .npy: an array, or the object or list of objects that it holds.

    Raises:
        InputError: as `read_npz_objects`.
    """
    path = pathlib.Path(path)
    with refusing(path, "an .npy of at most 1 GiB", _REMEDY):
        read_start(path)
        with path.open("rb") as stream:
            size = path.stat().st_size
            return read_member(stream, size, Budget(size))


def read_member(stream: Any, size: int, budget: Budget) -> Any:
    """One .npy of at most `size` bytes; Refused where it is damaged or larger than its data."""
    version = np.lib.format.read_magic(stream)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise Refused(f"version {version} of the .npy format")
    shape, fortran, dtype = headers[version](stream)
    if dtype.hasobject:
        return _read_objects(stream, size, shape, dtype, budget)
    if any(n < 0 for n in shape) or dtype.itemsize == 0:
        raise Refused(f"an array of {dtype} and shape {shape}")
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize > max(size, dtype.itemsize):
        if 0 not in shape or math.prod(max(n, 1) for n in shape) > MAX_BYTES:
            raise Refused(f"an array of shape {shape}, which is larger than its data")
    count = math.prod(shape) * dtype.itemsize
    raw = stream.read(count)
    if len(raw) != count:
        raise Refused(f"an array of shape {shape}, which is larger than its data")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


def _read_objects(stream: Any, size: int, shape: tuple, dtype: np.dtype, budget: Budget) -> Any:
    if dtype != np.dtype(object):
        raise Refused("records that hold objects, which are not read")
    value, _ = unpickle(stream.read(size), budget=budget)
    found = (len(value),) if isinstance(value, list) else ()
    if found != shape:
        raise Refused(f"objects of shape {shape} that are something else")
    return value
