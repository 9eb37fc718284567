"""MATLAB's .mat files of version 5 as plain arrays: numbers and text.

A reader of our own: SciPy's crashes the process (a segmentation fault) on some damaged files, as
random damage showed within a minute. Elements are unpacked piece by piece under a cap, and an array
is made only where its size is that of its data (MathWorks, "MAT-File Format", level 5).
"""

from __future__ import annotations

import itertools
import math
import pathlib
import struct
import zlib
from collections.abc import Collection, Iterator

import numpy as np

from jaxrecon.archives import MAX_BYTES, unpacked_limit
from jaxrecon.interop.pickle_values import Refused
from jaxrecon.interop.unpickling import read_bytes, refusing

_EXPECTED = "a .mat file of version 5 (MATLAB's save with -v7 or -v6) with numeric arrays and text"
_V7 = "get the file again; if its version is another, in MATLAB: load(FILE), save(FILE, '-v7')"
_MATRIX, _COMPRESSED, _UTF8 = 14, 15, 16
_CHAR = 4
_CLASSES = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
_STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
    17: "u2",
    18: "u4",
}
_REFUSED = {
    1: "a cell array",
    2: "a struct",
    3: "an object",
    5: "a sparse matrix",
    16: "a function handle",
    17: "an object",
}
_SKIPPED = {1, 2, 5}  # not read, but harmless beside what is
_COMPLEX, _LOGICAL = 0x0800, 0x0200
_MAX_ELEMENTS = 10_000
_PIECE = 1 << 20
_MAX_TEXT = 1 << 20


def read_mat(
    path: str | pathlib.Path, keys: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """The variables of a MATLAB 5 file: numbers of the class that MATLAB shows, with two axes at
    least, and text as one string a row.

    Args:
        path: a .mat file.
        keys: read these variables only; others may then be cells, structs or sparse.

    Raises:
        InputError: absent, larger than 1 GiB (packed or not), damaged, of version 4 or 7.3, without
            one of `keys`, with objects or functions, or with cells, structs or sparse matrices
            among what is to be read.
    """
    path = pathlib.Path(path)
    with refusing(path, _EXPECTED, _V7):
        data = read_bytes(path)
        if data[:8] == b"\x89HDF\r\n\x1a\n" or data[:19] == b"MATLAB 7.3 MAT-file":
            raise Refused("a .mat file of version 7.3 (HDF5), which is not read")
        found: dict[str, np.ndarray | str] = {}
        limit = left = unpacked_limit(len(data), MAX_BYTES)
        for element, order in _variables(data, limit):
            name, kind, parts, flags = _description(element, order)
            if name in found:
                raise Refused(f"two variables are called {name[:60]}")
            if kind in _SKIPPED or (keys is not None and name not in keys):
                found[name] = _REFUSED.get(kind, "left out")
                continue
            shape = _shape(name, parts[1][1], order)
            left -= math.prod(max(n, 1) for n in shape) * 16
            if left < 0:
                raise Refused(f"{name[:60]} of shape {shape} is larger than is read")
            found[name] = _array(name, kind, shape, parts[3:], order, flags)
        arrays = {}
        for name in found if keys is None else dict.fromkeys(keys):
            value = found.get(name)
            if value is None:
                raise Refused(f"no variable {name}; it has {', '.join(found)}"[:200])
            if isinstance(value, str):
                raise Refused(f"{name[:60]} is {value}, which is not read")
            arrays[name] = value
    return arrays


def _variables(data: bytes, limit: int) -> Iterator[tuple[bytes, str]]:
    """(content, byte order) of the matrices of a file, unpacked."""
    if len(data) < 128 or data[126:128] not in (b"IM", b"MI"):
        raise Refused("no .mat file of version 5")
    order = "<" if data[126:128] == b"IM" else ">"
    if struct.unpack(order + "H", data[124:126])[0] != 0x0100:
        raise Refused("no .mat file of version 5")
    budget = [limit]
    for kind, element in _elements(data, 128, order):
        if kind == _COMPRESSED:
            inner = list(itertools.islice(_elements(_unpack(element, budget), 0, order), 2))
            if len(inner) != 1:
                raise Refused("a compressed variable that is none")
            kind, element = inner[0]
        if kind != _MATRIX:
            raise Refused(f"an element of type {kind} where a variable should be")
        yield element, order


def _elements(data: bytes, at: int, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, content) of the data elements from byte `at`."""
    for _ in range(_MAX_ELEMENTS):
        if at == len(data):
            return
        if at + 8 > len(data):
            raise Refused("it is truncated")
        kind, size = struct.unpack(order + "II", data[at : at + 8])
        if kind >> 16:  # small: the size lies beside the type, the content in the other half
            size, kind = kind >> 16, kind & 0xFFFF
            if size > 4:
                raise Refused("a small element that is too large")
            yield kind, data[at + 4 : at + 4 + size]
            at += 8
            continue
        if size > len(data) - at - 8:
            raise Refused("an element that is longer than the file")
        yield kind, data[at + 8 : at + 8 + size]
        # Compressed elements are not padded, and the last one may end with the file.
        at = at + 8 + size + (0 if kind == _COMPRESSED else -size % 8)
        at = min(at, len(data))
    raise Refused(f"more than {_MAX_ELEMENTS:,} elements")


def _unpack(packed: bytes, budget: list[int]) -> bytes:
    """What a compressed element holds, as far as the budget lets it."""
    machine = zlib.decompressobj()
    pieces = []
    while not machine.eof:
        piece = machine.decompress(packed, _PIECE)
        packed = machine.unconsumed_tail
        budget[0] -= len(piece)
        if budget[0] < 0:
            raise Refused("unpacked, it is larger than is read")
        if not piece and not packed and not machine.eof:
            raise Refused("a compressed variable that is truncated")
        pieces.append(piece)
    return b"".join(pieces)


def _description(content: bytes, order: str) -> tuple[str, int, list[tuple[int, bytes]], int]:
    """(name, class, parts, flags) of a variable of a class that is read, or read past."""
    parts = list(itertools.islice(_elements(content, 0, order), 8))
    if len(parts) < 3 or parts[0][0] != 6 or len(parts[0][1]) != 8 or parts[1][0] != 5:
        raise Refused("a variable without its description")
    flags = struct.unpack(order + "I", parts[0][1][:4])[0]
    name, kind = parts[2][1].decode("ascii"), flags & 0xFF
    if not name or name.startswith("__"):
        raise Refused(f"a variable called {name[:60]!r}")
    if kind != _CHAR and kind not in _CLASSES and kind not in _SKIPPED:
        what = _REFUSED.get(kind, f"of class {kind}")
        raise Refused(f"{name[:60]} is {what}, which is not read")
    return name, kind, parts, flags


def _shape(name: str, raw: bytes, order: str) -> tuple[int, ...]:
    if not 8 <= len(raw) <= 4 * 32:
        raise Refused(f"{name[:60]} has a shape of {len(raw):,} bytes")
    shape = struct.unpack(f"{order}{len(raw) // 4}i", raw)
    if any(n < 0 for n in shape):
        raise Refused(f"{name[:60]} has the shape {str(shape)[:60]}")
    return shape


def _array(
    name: str,
    kind: int,
    shape: tuple[int, ...],
    parts: list[tuple[int, bytes]],
    order: str,
    flags: int,
) -> np.ndarray:
    """The array of one variable from its real and imaginary parts."""
    imaginary = bool(flags & _COMPLEX)
    if len(parts) != 1 + imaginary:
        raise Refused(f"{name[:60]} has {len(parts)} parts of data")
    if kind == _CHAR:
        return _text(name, shape, *parts[0], order)
    real, *rest = (_numbers(name, shape, *part, order) for part in parts)
    if rest:
        return real + 1j * rest[0]
    if flags & _LOGICAL:
        return real.astype(bool)
    with np.errstate(all="ignore"):
        array = real.astype(_CLASSES[kind])  # from the narrowest type that holds the values
    if not np.array_equal(array, real, equal_nan=True):
        raise Refused(f"{name[:60]} holds values that are none of its class")
    return array


def _numbers(name: str, shape: tuple[int, ...], stored: int, raw: bytes, order: str) -> np.ndarray:
    if stored not in _STORED:
        raise Refused(f"{name[:60]} has data of type {stored}")
    dtype = np.dtype(order + _STORED[stored])
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise Refused(f"{name[:60]} of shape {shape} has {len(raw):,} bytes of {dtype.name}")
    return np.frombuffer(raw, dtype).reshape(shape, order="F")


def _text(name: str, shape: tuple[int, ...], stored: int, raw: bytes, order: str) -> np.ndarray:
    """One string for each row of a matrix of characters."""
    if len(shape) != 2:
        raise Refused(f"{name[:60]} is text of shape {shape}")
    if math.prod(shape) > _MAX_TEXT or len(raw) > 4 * _MAX_TEXT:
        raise Refused(f"{name[:60]} is text of more than a million characters")
    if stored == _UTF8:
        codes = np.array([ord(c) for c in raw.decode("utf-8")], np.int64)
        if len(codes) != math.prod(shape):
            raise Refused(f"{name[:60]} of shape {shape} has {len(codes):,} characters")
        codes = codes.reshape(shape, order="F")
    else:
        codes = _numbers(name, shape, stored, raw, order)
    return np.array(["".join(map(chr, row)) for row in codes.tolist()], dtype=str)
