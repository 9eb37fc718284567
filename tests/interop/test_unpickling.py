"""The allow-list unpickler gives what pickle would for plain data, in every dialect."""

import argparse
import collections
import io
import pickle

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from jaxrecon.errors import InputError
from jaxrecon.interop.object_arrays import read_npy_objects, read_npz_objects
from jaxrecon.interop.pickle_values import Refused
from jaxrecon.interop.state_dicts import read_npz
from jaxrecon.interop.unpickling import read_pickle, refusing, unpickle
from jaxrecon.models.parametric.model_arrays import npz_arrays
from tests.interop.foreign_files import (
    END,
    NONE,
    START,
    array,
    build,
    call,
    listing,
    mapping,
    name,
    number,
    old_text,
    raw,
    row,
)

PROTOCOLS = range(6)
_WHOLE = st.integers(2 - 2**61, 2**61 - 2)  # beyond, many have one hash
_KEYS = st.one_of(st.text(), _WHOLE, st.booleans(), st.none(), st.binary(max_size=5))
_PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(_KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


@given(value=_PLAIN, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data(value, protocol):
    data = pickle.dumps(value, protocol)
    assert unpickle(data) == (value, len(data))
    assert unpickle(b"front" + data + b"behind", 5) == (value, 5 + len(data))


ARRAYS = {
    "float32": np.arange(6, dtype="f4").reshape(2, 3),
    "Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(6, dtype=">i4").reshape(3, 2),
    "strided": np.arange(20.0)[::3],
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "text": np.array(["ab", "cde"]),
    "bytes": np.array([b"ab", b"cde"]),
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 4), "u1"),
    "uint64": np.array([2**64 - 1], "u8"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("which", ARRAYS)
def test_arrays(which, protocol):
    (read, again), _ = unpickle(pickle.dumps((ARRAYS[which],) * 2, protocol))
    np.testing.assert_array_equal(read, ARRAYS[which])
    assert read.shape == ARRAYS[which].shape and read.dtype.isnative
    assert read.dtype == ARRAYS[which].dtype.newbyteorder("=")
    assert again is read and not read.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_that_are_known(protocol):
    value = {
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "counter": collections.Counter({10: 1}),
        "default": collections.defaultdict(list, {"k": [1]}),
        "options": argparse.Namespace(lr=0.1, names=["x"]),
        "set": {1},
        "scalars": [np.float32(0.5), np.int64(-3), np.bool_(True), np.float64(2.0)],
        "objects": np.array([np.arange(3), None, "x"], dtype=object),
        "one": np.array({"inner": 1}, dtype=object),
        "bytes": bytearray(b"ab"),
    }
    read, _ = unpickle(pickle.dumps(value, protocol))
    assert list(read["ordered"].items()) == [("b", 1), ("a", 2)]
    assert read["counter"] == {10: 1} and read["default"] == {"k": [1]}
    assert read["options"] == {"lr": 0.1, "names": ["x"]}
    assert read["set"] == [1] and read["scalars"] == [0.5, -3, True, 2.0]
    np.testing.assert_array_equal(read["objects"][0], np.arange(3))
    assert read["objects"][1:] == [None, "x"] and read["one"] == {"inner": 1}
    assert read["bytes"] == b"ab"
    assert all(type(v) in (dict, list, bytes) for v in read.values())


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("form", ["csc", "csr", "coo"])
def test_sparse_matrices(form, protocol, rng):
    dense = np.where(rng.random((5, 7)) < 0.4, rng.standard_normal((5, 7)), 0)
    for kind in ("matrix", "array"):
        matrix = getattr(scipy.sparse, f"{form}_{kind}")(dense)
        read, _ = unpickle(pickle.dumps(matrix, protocol))
        assert isinstance(read, scipy.sparse.csc_matrix)
        np.testing.assert_array_equal(read.toarray(), dense)


def test_the_old_spelling_of_sparse_matrices():
    parts = {
        "_shape": row(number(3), number(2)),
        "indptr": array((3,), "i4", raw(np.array([0, 1, 2], "i4").tobytes())),
        "indices": array((2,), "i4", raw(np.array([2, 0], "i4").tobytes())),
        "data": array((2,), "f8", raw(np.array([4.0, 5.0]).tobytes())),
        "maxprint": number(50),
    }
    for module in ("scipy.sparse.csc", "scipy.sparse._csc"):
        matrix = build(name(module, "csc_matrix") + b")\x81", mapping(**parts))
        read, _ = unpickle(START + matrix + END)
        np.testing.assert_array_equal(read.toarray(), [[0, 5], [0, 0], [4, 0]])


def test_python_2_in_protocol_0():
    content = np.array([1.5, -2.0]).tobytes()
    quoted = "'" + "".join(f"\\x{byte:02x}" for byte in content) + "'"
    data = f"""(dp0
S'shapes'
p1
cnumpy.core.multiarray
_reconstruct
p2
(cnumpy
ndarray
p3
(I0
tp4
S'b'
p5
tp6
Rp7
(I1
(I2
tp8
cnumpy
dtype
p9
(S'f8'
p10
I0
I1
tp11
Rp12
(I3
S'<'
p13
NNNI-1
I-1
I0
tp14
bI00
S{quoted}
p15
tp16
bsS'long'
L123456789012345678901L
sS'flag'
I01
sS'umlaut'
S'\\xfc'
sS'object'
ccopy_reg
_reconstructor
(cchumpy.ch
Ch
c__builtin__
object
NtR(dS'x'
g7
sbs.""".encode()
    read, _ = unpickle(data)
    np.testing.assert_array_equal(read["shapes"], [1.5, -2.0])
    assert read["long"] == 123456789012345678901 and read["flag"] is True
    assert read["umlaut"] == "ü"
    np.testing.assert_array_equal(read["object"], [1.5, -2.0])


def test_python_2_in_protocol_2():
    content = np.array([[1.0, 2.0], [3.0, 4.0]], ">f4").tobytes()
    state = row(number(3), old_text(b">"), NONE, NONE, NONE, number(-1), number(-1), number(0))
    kind = build(call(name("numpy", "dtype"), old_text(b"f4"), number(0), number(1)), state)
    empty = call(
        name("numpy.core.multiarray", "_reconstruct"),
        name("numpy", "ndarray"),
        row(number(0)),
        old_text(b"b"),
    )
    whole = build(
        empty, row(number(1), row(number(2), number(2)), kind, b"\x89", old_text(content))
    )
    read, _ = unpickle(START + whole + END)
    np.testing.assert_array_equal(read, [[1, 2], [3, 4]])


def _leaf(values) -> bytes:
    values = np.asarray(values, "f8")
    return build(
        name("chumpy.ch", "Ch") + b")\x81",
        mapping(
            x=array(values.shape, "f8", raw(values.tobytes())),
            _dirty_vars=call(name("__builtin__", "set"), listing()),
            _itr=NONE,
        ),
    )


def test_chumpy(rng):
    values = rng.standard_normal((4, 3, 5))
    index = np.arange(60).reshape(4, 3, 5)[..., :2].ravel()
    selected = build(
        name("chumpy.reordering", "Select") + b")\x81",
        mapping(
            a=_leaf(values),
            idxs=array(index.shape, "i8", raw(index.astype("i8").tobytes())),
            preferred_shape=row(number(4), number(3), number(2)),
        ),
    )
    other = build(name("chumpy.ch_ops", "add") + b")\x81", mapping(a=_leaf([1.0]), b=_leaf([2.0])))
    read, _ = unpickle(START + mapping(leaf=_leaf(values), some=selected, sum=other) + END)
    np.testing.assert_array_equal(read["leaf"], values)
    np.testing.assert_array_equal(read["some"], values[..., :2])
    assert read["sum"] is None


def test_the_layout_of_public_bodies(shared):
    model = read_pickle(shared / "parity" / "smpl_synthetic_chumpy_layout.pkl")
    with np.load(shared / "parity" / "smplx_lbs_synthetic.npz") as recorded:
        for key in ("v_template", "shapedirs", "posedirs", "weights", "kintree_table", "f"):
            np.testing.assert_allclose(model[key], recorded[f"smpl/model/{key}"], rtol=1e-6)
        regressor = recorded["smpl/model/J_regressor"]
    np.testing.assert_allclose(model["J_regressor"].toarray(), regressor, rtol=1e-6)
    assert model["bs_style"] == "lbs"


def test_npz_with_objects(tmp_path):
    matrices = np.empty(2, object)
    matrices[:] = [scipy.sparse.csc_matrix(np.eye(3)), scipy.sparse.csr_matrix(np.ones((2, 3)))]
    plain = np.arange(4).reshape(2, 2, order="F")
    path = tmp_path / "a.npz"
    np.savez_compressed(path, A=matrices, b=plain, c=np.array({"x": 1}, object), alien=_Alien())
    read = read_npz_objects(path, ("A", "b", "c"))
    assert list(read) == ["A", "b", "c"] and read["c"] == {"x": 1}
    np.testing.assert_array_equal(read["A"][1].toarray(), np.ones((2, 3)))
    np.testing.assert_array_equal(read["b"], plain)
    with pytest.raises(InputError, match=r"a\.npz.*_Alien"):
        read_npz_objects(path)
    with pytest.raises(InputError, match=r"a\.npz: no member 'D'; it has A, alien, b, c"):
        read_npz_objects(path, ("A", "D"))
    np.save(tmp_path / "one.npy", {"ids": np.arange(3)}, allow_pickle=True)
    np.testing.assert_array_equal(read_npy_objects(tmp_path / "one.npy")["ids"], np.arange(3))
    np.save(tmp_path / "plain.npy", plain)
    np.testing.assert_array_equal(read_npy_objects(tmp_path / "plain.npy"), plain)


class _Alien:
    """A class that only this test knows."""


def test_the_file_must_hold_a_dict(tmp_path):
    path = tmp_path / "list.pkl"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match=r"list\.pkl: its pickle is a list, not a dict"):
        read_pickle(path)
    with pytest.raises(InputError, match="no such file"):
        read_pickle(tmp_path / "absent.pkl")
    with pytest.raises(InputError, match="not a file"):
        read_pickle(tmp_path)


def test_shared_parts_stay_shared():
    inner = {"a": [1, 2]}
    read, _ = unpickle(pickle.dumps({"x": inner, "y": [inner, inner]}))
    assert read["x"] is read["y"][0] is read["y"][1]


def test_out_of_band_buffers_are_refused():
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, 5, buffer_callback=lambda buffer: None)
    pickler.dump(np.arange(300.0))
    with pytest.raises(Refused, match=r"opcode b'\\x97'"):
        unpickle(stream.getvalue())


@pytest.mark.parametrize("fault", [AssertionError, AttributeError, NameError])
def test_our_own_faults_are_not_blamed_on_the_file(fault, tmp_path, monkeypatch):
    path = tmp_path / "arrays.npz"
    np.savez(path, a=np.ones(2))

    def broken(*arguments, **options):
        raise fault("ours")

    with pytest.raises(fault, match="ours"), refusing(path, "a file"):
        broken()
    with pytest.raises(fault, match="ours"):
        npz_arrays(path, broken, "arrays")
    monkeypatch.setattr("jaxrecon.interop.state_dicts._read_member", broken)
    with pytest.raises(fault, match="ours"):
        read_npz(path)
