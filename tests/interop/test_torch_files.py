"""Checkpoints of PyTorch without PyTorch: both containers, all types, views, recordings."""

import struct
import zipfile

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop.checkpoints import read
from jaxrecon.interop.torch_files import read_checkpoint
from tests.interop.foreign_files import (
    FALSE,
    NONE,
    TRUE,
    build,
    call,
    legacy_container,
    legacy_storage,
    mapping,
    name,
    number,
    row,
    storage,
    tensor,
    text,
    zip_container,
)

VALUES = np.arange(24, dtype="f4")


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_recordings_of_torch(shared, container):
    read = read_checkpoint(shared / "parity" / f"torch_ckpt_spin_small_{container}.pt")
    with np.load(shared / "parity" / "spin_hmr_head_small.npz") as recorded:
        states = {k.removeprefix("state/"): recorded[k] for k in recorded.files if "state/" in k}
        assert set(read["model"]) == set(states)
        for key, value in states.items():
            np.testing.assert_array_equal(read["model"][key], value)
            assert read["model"][key].dtype == value.dtype
    assert read["epoch"] == 1 and read["dataset_perm"] is None
    assert read["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)


def write(path, container, value, storages):
    """A file of either container; `storages` are (key, elements, bytes)."""
    if container == "zip":
        path.write_bytes(zip_container(value, [(key, data) for key, _, data in storages]))
    else:
        path.write_bytes(legacy_container(value, storages))
    return path


@pytest.mark.parametrize(
    ("container", "of"), [("zip", storage), ("legacy", legacy_storage)], ids=["zip", "legacy"]
)
def test_views_share_a_storage(tmp_path, container, of):
    """Transposed, sliced, expanded and empty tensors of one storage, parameters and devices."""
    flat = of("7", 24, device="cuda:3")
    value = mapping(
        whole=tensor(flat, (2, 3, 4)),
        transposed=tensor(flat, (4, 6), (1, 4)),
        sliced=tensor(flat, (3, 2), (8, 2), offset=1),
        expanded=tensor(flat, (5, 4), (0, 1), offset=20),
        scalar=tensor(flat, (), (), offset=9),
        empty=tensor(flat, (0, 3), (3, 1)),
        parameter=call(name("torch._utils", "_rebuild_parameter"), tensor(flat, (24,)), TRUE, NONE),
        first=call(
            name("torch._utils", "_rebuild_tensor"), flat, number(0), row(number(2)), row(number(1))
        ),
        typed=call(
            name("torch._tensor", "_rebuild_from_type_v2"),
            name("torch._utils", "_rebuild_tensor_v2"),
            name("torch.nn.parameter", "Parameter"),
            row(flat, number(0), row(number(2)), row(number(1)), FALSE, mapping()),
            mapping(),
        ),
        state=build(call(name("collections", "OrderedDict")), mapping(_metadata=mapping())),
        size=call(name("torch", "Size"), row(number(2), number(3))),
        device=call(name("torch", "device"), text("cuda"), number(0)),
        kind=name("torch", "float32"),
    )
    file = write(tmp_path / "a.pth", container, value, [("7", 24, VALUES.tobytes())])
    read = read_checkpoint(file)
    np.testing.assert_array_equal(read["whole"], VALUES.reshape(2, 3, 4))
    np.testing.assert_array_equal(read["transposed"], VALUES.reshape(6, 4).T)
    np.testing.assert_array_equal(read["sliced"], VALUES.reshape(3, 8)[:, 1:4:2])
    np.testing.assert_array_equal(read["expanded"], np.tile(VALUES[20:], (5, 1)))
    assert read["scalar"].shape == () and read["scalar"] == 9 and read["empty"].shape == (0, 3)
    np.testing.assert_array_equal(read["parameter"], VALUES)
    np.testing.assert_array_equal(read["first"], [0, 1])
    np.testing.assert_array_equal(read["typed"], [0, 1])
    assert read["state"] == {} and read["size"] == (2, 3) and read["device"] == "cuda"
    assert read["kind"] == "torch.float32"
    assert not read["whole"].flags.writeable


KINDS = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


@pytest.mark.parametrize("order", ["little", "big", None])
def test_types_of_storages(tmp_path, order):
    values = np.array([0, 1, 3, -2, 100])
    sign = ">" if order == "big" else "<"
    stored = {k: values.astype(code).astype(sign + code) for k, code in KINDS.items()}
    half = values.astype("f4").view("u4") >> 16  # bfloat16: the upper half of a float32
    parts = {k: tensor(storage(str(i), 5, k), (5,)) for i, k in enumerate(stored)}
    parts["BFloat16Storage"] = tensor(storage("99", 5, "BFloat16Storage"), (5,))
    untyped = storage("0", 40, "UntypedStorage")
    rebuild = name("torch._utils", "_rebuild_tensor_v3")
    sizes = (row(number(5)), row(number(1)), FALSE, mapping(), name("torch", "float64"))
    data = [(str(i), v.tobytes()) for i, v in enumerate(stored.values())]
    data.append(("99", half.astype(sign + "u2").tobytes()))
    code = None if order is None else order.encode()
    path = tmp_path / "a.pt"
    path.write_bytes(zip_container(mapping(**parts), data, order=code))
    read = read_checkpoint(path)
    for key, value in stored.items():
        np.testing.assert_array_equal(read[key], value)
        wide = "f4" if key == "HalfStorage" else KINDS[key]
        assert read[key].dtype == np.dtype(wide) and read[key].dtype.isnative
    np.testing.assert_array_equal(read["BFloat16Storage"], values.astype("f4"))
    assert read["BFloat16Storage"].dtype == np.float32
    path.write_bytes(
        zip_container(mapping(v=call(rebuild, untyped, number(0), *sizes)), data[:1], order=code)
    )
    np.testing.assert_array_equal(read_checkpoint(path)["v"], values)


def test_a_legacy_file_of_a_big_endian_machine(tmp_path):
    value = mapping(a=tensor(legacy_storage("1", 3), (3,)))
    data = legacy_container(value, [("1", 3, np.arange(3, dtype=">f4").tobytes())], little=FALSE)
    (tmp_path / "a.pt").write_bytes(data)
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "a.pt")["a"], [0, 1, 2])


def test_what_it_is_is_told(tmp_path):
    """TorchScript, tar containers, npz files and others: one clear error each."""

    def refused(message, data):
        path = tmp_path / "a.pth"
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"a\.pth: ") as error:
            read_checkpoint(path)
        assert message in error.value.given and "Type-check" not in error.value.given

    script = zip_container(mapping(), [], extra=[("archive/constants.pkl", b"\x80\x02).")])
    refused("a TorchScript program", script)
    import io
    import tarfile

    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
            archive.addfile(tarfile.TarInfo("storages"), io.BytesIO(b""))
        refused("a tar container of PyTorch before 0.1.10", stream.getvalue())
    stream = io.BytesIO()
    np.savez(stream, a=np.ones(2))
    refused("a zip without one data.pkl", stream.getvalue())
    refused("no container of PyTorch", b"<html>404</html>")
    refused("no container of PyTorch", b"")
    refused(
        "not a dict of weights", zip_container(tensor(storage("0", 1), (1,)), [("0", b"\0" * 4)])
    )
    with pytest.raises(InputError, match="larger than 1e-07 GiB|larger than"):
        read_checkpoint(tmp_path / "a.pth", max_bytes=10)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("b/data.pkl", b"\x80\x02}.")
    refused("a zip without one data.pkl", stream.getvalue())


def test_a_file_of_more_than_a_gigabyte(tmp_path):
    """`read` takes one of 1.5 GiB, of which only what is named comes into memory; not of 2 GiB."""
    data = zip_container(mapping(w=tensor(storage("0", 4), (4,))), [("0", bytes(16))])
    at, hole = data.index(b"PK\x01\x02"), 3 << 29
    end = bytearray(data[at:])
    (start,) = struct.unpack_from("<I", end, len(end) - 6)
    struct.pack_into("<I", end, len(end) - 6, start + hole)
    path = tmp_path / "weights.pth"
    with path.open("wb") as file:
        file.write(data[:at])
        file.seek(hole, 1)
        file.write(end)
    np.testing.assert_array_equal(read(path)["w"], np.zeros(4))
    with path.open("r+b") as file:
        file.truncate((2 << 30) + 1)
    with pytest.raises(InputError, match="larger than 2 GiB"):
        read(path)
