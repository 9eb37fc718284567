"""MATLAB 5 files: what SciPy writes comes back as it reads it; other classes are named."""

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from jaxrecon.errors import InputError
from jaxrecon.interop.mat_files import read_mat
from tests.attacks.arrays import mat, matrix, packed

VALUES = {
    "a": np.arange(6.0).reshape(2, 3),
    "single": np.arange(24, dtype="f4").reshape(2, 3, 4),
    "empty": np.zeros((0, 3)),
    "complex": np.array([[1 + 2j, 3.0]]),
    "flag": np.array([[True, False]]),
    "index": np.array([[1, 2**31]], "i8"),
    "small": np.array([[200]], "u1"),
    "word": np.array(["front"]),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_round_trip(tmp_path, compressed):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, VALUES, do_compression=compressed)
    read = read_mat(path)
    assert list(read) == list(VALUES)
    for key, value in VALUES.items():
        np.testing.assert_array_equal(read[key], value)
        assert read[key].dtype == value.dtype and read[key].shape == value.shape
    assert list(read_mat(path, ["flag", "a"])) == ["flag", "a"]
    with pytest.raises(InputError, match=r"a\.mat: no variable b; it has a, single"):
        read_mat(path, ["b"])


def test_text_and_narrow_storage(tmp_path):
    """MATLAB stores doubles that are whole as bytes, and text in three encodings."""
    codes = "hütte\U0001f600"
    for data_type, data in ((16, codes.encode()), (18, codes.encode("utf-32-le"))):
        text = matrix(kind=4, shape=(1, 6), data=data, data_type=data_type)
        narrow = matrix(shape=(2, 3), data=bytes(range(6)), data_type=2, label=b"n")
        (tmp_path / "a.mat").write_bytes(mat(text, packed(narrow)))
        read = read_mat(tmp_path / "a.mat")
        assert read["a"].tolist() == [codes]
        np.testing.assert_array_equal(read["n"], [[0, 2, 4], [1, 3, 5]])
        assert read["n"].dtype == np.float64
    rows = matrix(kind=4, shape=(2, 2), data=b"acbd", data_type=2)
    (tmp_path / "a.mat").write_bytes(mat(rows))
    assert read_mat(tmp_path / "a.mat")["a"].tolist() == ["ab", "cd"]
    swapped = mat(matrix()).replace(b"\x00\x01IM", b"\x01\x00MI")
    (tmp_path / "a.mat").write_bytes(swapped)
    with pytest.raises(InputError):  # a big-endian file in little-endian numbers
        read_mat(tmp_path / "a.mat")


def test_the_face_model_of_deep3d(shared):
    path = shared / "parity" / "tiny_BFM_model_front.mat"
    read, expected = read_mat(path), scipy.io.loadmat(path)
    assert set(read) == {key for key in expected if not key.startswith("__")}
    for key, value in read.items():
        np.testing.assert_array_equal(value, expected[key])


OTHERS = {
    "a cell array": np.array([np.ones(2), "x"], object),
    "a struct": {"field": np.ones(2)},
    "a sparse matrix": scipy.sparse.csc_matrix(np.eye(3)),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("what", OTHERS)
def test_other_classes_are_read_past(tmp_path, what, compressed):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"x": OTHERS[what], "y": np.ones((1, 2))}, do_compression=compressed)
    with pytest.raises(InputError, match=rf"a\.mat: x is {what}, which is not read"):
        read_mat(path)
    np.testing.assert_array_equal(read_mat(path, ["y"])["y"], [[1, 1]])


def test_other_versions_are_named(tmp_path):
    path = tmp_path / "a.mat"
    for start in (b"\x89HDF\r\n\x1a\n", b"MATLAB 7.3 MAT-file, Platform: GLNXA64"):
        path.write_bytes(start + bytes(600))
        with pytest.raises(InputError, match=r"7\.3 \(HDF5\), which is not read") as error:
            read_mat(path)
        assert "save(FILE, '-v7')" in error.value.remedy
    scipy.io.savemat(path, {"a": np.ones(3)}, format="4")
    with pytest.raises(InputError, match="no .mat file of version 5"):
        read_mat(path)
