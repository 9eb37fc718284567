"""Hostile .npz and .mat files, by what is wrong with them."""

import io
import struct
import zipfile
import zlib

import numpy as np
import scipy.io


def npy(shape, descr="<f4", data: bytes = b"\0" * 16) -> bytes:
    """An .npy whose header says what it likes."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(*members, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for member, data in members:
            info = zipfile.ZipInfo(member)
            info.compress_type = method
            file.writestr(info, data)
    return stream.getvalue()


def two_arrays() -> bytes:
    data = npz(("a.npy", npy((4,))), ("b.npy", npy((4,))))
    return data.replace(b"b.npy", b"a.npy")


def archive_of(size: int) -> bytes:
    """An .npz whose directory declares `size` bytes of its member."""
    data = bytearray(npz(("a.npy", npy((4,)))))
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, size)
    return bytes(data)


def growing() -> bytes:
    """A deflated member of 64 MiB that declares 200 bytes."""
    data = bytearray(npz(("a.npy", npy((1 << 24,), data=b"\0" * (64 << 20))), method=8))
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 200)
    return bytes(data)


ARRAYS = {
    "an array of 4 TiB": npz(("a.npy", npy((1 << 40,)))),
    "a negative shape": npz(("a.npy", npy((-4,)))),
    "two negative axes": npz(("a.npy", npy((-2, -2)))),
    "an empty array of 2^62 rows": npz(("a.npy", npy((1 << 62, 0)))),
    "a shape of text": npz(("a.npy", npy("('4',)"))),
    "a header that is called": npz(("a.npy", npy("__import__('os').system('id')"))),
    "a deep header": npz(("a.npy", npy("(" * 3000 + ")" * 3000))),
    "a header without an end": npz(("a.npy", b"\x93NUMPY\x01\x00\xff\xff{")),
    "objects": npz(("a.npy", npy((1,), "|O", b"cos\nsystem\n(S'id'\ntR."))),
    "records of objects": npz(("a.npy", npy((1,), [("a", "|O")], b"\0" * 8))),
    "elements of no size": npz(("a.npy", npy((1 << 40,), "|V0"))),
    "version 9": npz(("a.npy", b"\x93NUMPY\x09\x00" + bytes(64))),
    "two arrays of one name": two_arrays(),
    "a member of 4 GiB": archive_of(0xFFFFFFF0),
    "a member that grows": growing(),
    "no array": npz(("a.npy", b"words")),
    "an empty file": b"",
    "a cut archive": npz(("a.npy", npy((4,))))[:60],
}
"""Refused by `state_dicts.read_npz` and `object_arrays.read_npz_objects`."""


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(
    kind=6, shape=(2, 2), data=bytes(32), label=b"a", flags=0, data_type=9, more=()
) -> bytes:
    """A variable of a .mat file that says what it likes."""
    parts = [
        element(6, struct.pack("<II", kind | flags << 8, 0)),
        element(5, struct.pack(f"<{len(shape)}i", *shape)),
        element(1, label),
        *([] if data is None else [element(data_type, data)]),
        *more,
    ]
    return element(14, b"".join(parts))


def mat(*elements: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements)


def packed(data: bytes) -> bytes:
    data = zlib.compress(data)
    return struct.pack("<II", 15, len(data)) + data


def sound_mat() -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"a": np.arange(6.0), "b": np.ones((2, 2), "u1")}, do_compression=True)
    return stream.getvalue()


MATS = {
    "a function handle": mat(matrix(kind=16)),
    "an object": mat(matrix(kind=3)),
    "an opaque object": mat(matrix(kind=17)),
    "a struct": mat(matrix(kind=2)),
    "a cell array": mat(matrix(kind=1)),
    "an unknown class": mat(matrix(kind=99)),
    "16 GiB declared": mat(matrix(shape=(1 << 16, 1 << 15))),
    "2^62 elements": mat(matrix(shape=(1 << 30, 1 << 30, 4))),
    "an empty array of 2^60 rows": mat(matrix(shape=(1 << 30, 1 << 30, 0), data=b"")),
    "a negative shape": mat(matrix(shape=(-2, -2))),
    "one axis": mat(matrix(shape=(4,))),
    "forty axes": mat(matrix(shape=(1,) * 40)),
    "no data": mat(matrix(data=None)),
    "two parts of data": mat(matrix(more=(element(9, bytes(32)),))),
    "an imaginary part that is missing": mat(matrix(flags=8)),
    "a short imaginary part": mat(matrix(flags=8, more=(element(9, b""),))),
    "values beyond their class": mat(matrix(kind=7, data=struct.pack("<4d", *[1e300] * 4))),
    "fractions of a whole class": mat(matrix(kind=8, data=struct.pack("<4d", *[0.5] * 4))),
    "a name of SciPy": mat(matrix(label=b"__globals__")),
    "no name": mat(matrix(label=b"")),
    "a name that is no ASCII": mat(matrix(label=b"\xff\xfe")),
    "two variables of one name": mat(matrix(), matrix()),
    "an element longer than the file": mat(struct.pack("<II", 14, 1 << 31) + bytes(64)),
    "a small element that is too large": mat(struct.pack("<II", 9 | 60000 << 16, 0)),
    "a loose number": mat(element(9, bytes(8))),
    "a million elements": mat(struct.pack("<II", 1 | 1 << 16, 0) * 20_000),
    "zlib in zlib": mat(packed(packed(matrix()))),
    "zlib of two variables": mat(packed(matrix() + matrix(label=b"b"))),
    "zlib that is none": mat(struct.pack("<II", 15, 32) + b"\x55" * 32),
    "zlib that is truncated": mat(struct.pack("<II", 15, 20) + zlib.compress(matrix())[:20]),
    "a zlib bomb": mat(packed(matrix(shape=(1 << 12, 1 << 10), data=bytes(32 << 20)))),
    "a cut file": sound_mat()[:-20],
    "a cut header": sound_mat()[:100],
    "another order": sound_mat().replace(b"\x00\x01IM", b"\x00\x01MI", 1),
    "version 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(512),
    "nothing": b"",
}
