"""Random and damaged files: plain values or an InputError, in little time and memory."""

import io
import struct
import time
import tracemalloc

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrecon.errors import InputError
from jaxrecon.interop.checkpoints import read
from jaxrecon.interop.mat_files import read_mat
from jaxrecon.interop.object_arrays import read_npy_objects, read_npz_objects
from jaxrecon.interop.torch_files import read_checkpoint
from jaxrecon.interop.unpickling import read_pickle
from tests.attacks.pickles import ints, select, sparse
from tests.interop.foreign_files import (
    END,
    START,
    legacy_container,
    legacy_storage,
    mapping,
    storage,
    tensor,
    text,
    zip_container,
)

PLAIN = (dict, list, tuple, str, bytes, int, float, bool, type(None), complex)


def _saved(save, *arguments, **options) -> bytes:
    stream = io.BytesIO()
    save(stream, *arguments, **options)
    return stream.getvalue()


def _objects() -> dict:
    many = np.empty(2, object)
    many[:] = [scipy.sparse.csc_matrix(np.eye(3)), {"a": np.ones(3, ">f4"), "b": [1, "x"]}]
    return {"many": many, "plain": np.arange(6.0), "words": np.array(["a", "bc"])}


_TWO = tensor(storage("0", 6), (2, 3)), tensor(storage("1", 4, "HalfStorage"), (2,), (2,))
_OLD = tensor(legacy_storage("0", 6), (3, 2), (1, 3))
_MATLAB = {"a": np.arange(6.0).reshape(2, 3), "word": "front", "flags": np.ones((2, 2), bool)}
FILES = {
    "body.pkl": START + mapping(m=sparse(), s=select(ints(1, 0)), name=text("body")) + END,
    "sparse.pkl": START + sparse() + END,
    "zip.pth": zip_container(
        mapping(a=_TWO[0], b=_TWO[1], epoch=text("3")), [("0", bytes(24)), ("1", bytes(8))]
    ),
    "legacy.pth": legacy_container(mapping(a=_OLD, b=text("x")), [("0", 6, bytes(24))]),
    "objects.npz": _saved(np.savez, **_objects()),
    "packed.npz": _saved(np.savez_compressed, **_objects()),
    "object.npy": _saved(np.save, _objects()["many"], allow_pickle=True),
    "packed.mat": _saved(scipy.io.savemat, _MATLAB, do_compression=True),
    "plain.mat": _saved(scipy.io.savemat, _MATLAB),
}
READERS = {
    ".pkl": [read_pickle, read],
    ".pth": [read_checkpoint, read],
    ".npz": [read_npz_objects, read],
    ".npy": [read_npy_objects],
    ".mat": [read_mat],
}
_EXTREME = [b"\xff" * 8, b"\0" * 8, struct.pack("<q", 1 << 40), struct.pack("<I", 1 << 31)]


def _check_plain(value) -> None:
    """Only what the readers promise comes out of them."""
    if isinstance(value, np.ndarray):
        assert not value.dtype.hasobject and value.nbytes < 1 << 24
    elif isinstance(value, scipy.sparse.csc_matrix):
        value.check_format()
        value.toarray()
    else:
        assert type(value) in PLAIN
    if type(value) is dict:
        for part in value.values():
            _check_plain(part)
    elif type(value) in (list, tuple):
        for part in value:
            _check_plain(part)


def _read_or_refuse(reader, path, data: bytes) -> None:
    path.write_bytes(data)
    start = time.process_time()
    tracemalloc.start()
    try:
        value = reader(path)
    except InputError as error:
        assert path.name in error.given and "Type-check" not in error.given
    else:
        _check_plain(value)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 64e6 and time.process_time() - start < 10


@st.composite
def damaged(draw, sound: bytes) -> bytes:
    """A sound file with bytes flipped, overwritten, left out, repeated, or cut and joined."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        to = draw(st.integers(at, min(at + 64, len(data))))
        match draw(st.integers(0, 5)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                extreme = draw(st.sampled_from(_EXTREME))
                data[at : at + len(extreme)] = extreme
            case 2:
                del data[at:to]
            case 3:
                data[at:at] = data[at:to] * 3
            case 4:
                other = FILES[draw(st.sampled_from(sorted(FILES)))]
                data[at:] = other[draw(st.integers(0, len(other))) :]
            case _:
                del data[at:]
    return bytes(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def test_the_files_are_sound(folder):
    for name, data in FILES.items():
        for reader in READERS[name[-4:]]:
            if reader is read and name.endswith(".npz"):
                continue  # import-checkpoint takes no objects
            (folder / name).write_bytes(data)
            _check_plain(reader(folder / name))


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_files(folder, name, data):
    spoilt = data.draw(damaged(FILES[name]))
    for reader in READERS[name[-4:]]:
        _read_or_refuse(reader, folder / name, spoilt)


_STARTS = [b"", b"\x80\x02", b"\x80\x04", b"(", b"}(", b"PK\x03\x04", b"\x93NUMPY\x01\x00"]
_STARTS.append(FILES["plain.mat"][:128])


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(
    start=st.sampled_from(_STARTS), data=st.binary(max_size=200), end=st.sampled_from([b"", b"."])
)
def test_random_bytes(folder, start, data, end):
    for suffix, readers in READERS.items():
        _read_or_refuse(readers[0], folder / f"random{suffix}", start + data + end)


_OPCODES = [
    bytes([c]) for c in b"(.0123FIJKLMNPQRSTUVXabcdeghijlopqrstu}])\x81\x85\x86\x87\x88\x89"
]
_OPCODES += [bytes([c]) for c in range(0x8A, 0x98)]
_NAMES = [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cchumpy.ch\nCh\n", b"c_codecs\nencode\n"]
_NAMES += [b"ccollections\nOrderedDict\n", b"cscipy.sparse.csc\ncsc_matrix\n", b"X\2\0\0\0f8"]
_NAMES += [b"cnumpy.core.multiarray\n_reconstruct\n", b"K\1", b"K\0\x85", b"C\1b", b"N"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(parts=st.lists(st.sampled_from(_OPCODES + _NAMES * 4), max_size=40))
def test_random_opcodes(folder, parts):
    _read_or_refuse(read_pickle, folder / "opcodes.pkl", START + b"".join(parts) + END)
