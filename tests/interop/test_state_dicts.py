"""State dicts: every key is used or named, layouts and prefixes, files that lie."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrecon.errors import InputError
from jaxrecon.interop.state_dicts import (
    import_linear_layers,
    linear_shapes,
    parameters_of,
    read_npz,
    resolve_weight_norm,
    subset,
)

SHAPES = {"lin0": (3, 4), "lin1": (4, 2)}


@pytest.fixture
def state_dict(rng):
    """A weight-normed layer 3 -> 4 and a plain one 4 -> 2, in torch's layout."""
    return {
        "lin0.weight_g": rng.uniform(1, 2, (4, 1)),
        "lin0.weight_v": rng.standard_normal((4, 3)),
        "lin0.bias": rng.standard_normal(4),
        "lin1.weight": rng.standard_normal((2, 4)),
        "lin1.bias": rng.standard_normal(2),
    }


def test_layers_are_transposed_and_compute_what_torch_does(state_dict, rng):
    layers = import_linear_layers(state_dict, SHAPES)
    assert set(layers["lin0"]) == {"kernel", "bias", "scale"}
    assert set(layers["lin1"]) == {"kernel", "bias"}
    assert all(v.dtype == np.float32 for layer in layers.values() for v in layer.values())
    np.testing.assert_array_equal(
        layers["lin1"]["kernel"], state_dict["lin1.weight"].T.astype("f4")
    )
    # y = x W^T + b, W = g v / |v| with one norm for each output
    v = state_dict["lin0.weight_v"]
    w = state_dict["lin0.weight_g"] * v / np.sqrt((v**2).sum(1, keepdims=True))
    plain = resolve_weight_norm(layers["lin0"])
    assert set(plain) == {"kernel", "bias"}
    x = rng.standard_normal((5, 3))
    np.testing.assert_allclose(
        x @ plain["kernel"] + plain["bias"], x @ w.T + state_dict["lin0.bias"], atol=1e-6
    )
    assert resolve_weight_norm(layers["lin1"])["kernel"] is layers["lin1"]["kernel"]


def test_prefixes_text_and_newer_names(state_dict):
    wrapped = {f"module.{k}": v for k, v in state_dict.items()}
    wrapped["specs"] = np.array('{"text": "is no parameter"}')
    new = "module.lin0.parametrizations.weight.original"
    wrapped[f"{new}0"] = wrapped.pop("module.lin0.weight_g")
    wrapped[f"{new}1"] = wrapped.pop("module.lin0.weight_v")
    parameters = parameters_of(wrapped)
    assert set(parameters) == set(state_dict)
    for name, value in state_dict.items():
        np.testing.assert_array_equal(parameters[name], value)
    assert set(parameters_of({"module.module.a": np.zeros(1)})) == {"a"}
    assert subset({"net.a.b": np.zeros(1), "other": np.ones(1)}, "net.").keys() == {"a.b"}


def test_shapes_are_read_off(state_dict):
    assert linear_shapes(state_dict, "lin") == list(SHAPES.values())
    with pytest.raises(InputError, match="no lin_sdf0.weight.*lin0.bias"):
        linear_shapes(state_dict, "lin_sdf")
    with pytest.raises(InputError, match="lin0.weight has shape"):
        linear_shapes({"lin0.weight": np.zeros((2, 2, 2))}, "lin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lin1.bias": None}, "lin1.bias is missing"),
        ({"lin0.weight_g": None}, "lin0.weight_g is missing"),
        ({"lin1.weight": None}, "lin1.weight is missing"),
        ({"lin2.weight": np.zeros((2, 2))}, "has lin2.weight, which"),
        ({"lin0.weight": np.zeros((4, 3))}, "has lin0.weight, which"),
        ({"lin1.weight": np.zeros((4, 2))}, r"lin1.weight is float64 of shape \(4, 2\)"),
        ({"lin0.weight_g": np.zeros(4)}, r"lin0.weight_g is float64 of shape \(4,\)"),
        ({"lin1.weight": np.zeros((2, 4), int)}, "lin1.weight is int64"),
        ({"lin1.bias": np.array([1.0, np.nan])}, "lin1.bias is not finite"),
        ({"lin1.bias": np.array([1.0, 1e39])}, "lin1.bias is not finite in float32"),
        ({"lin0.weight_v": np.zeros((4, 3))}, "lin0.weight_v has a row of zeros"),
    ],
)
def test_misfits_are_named(state_dict, change, message):
    state_dict |= change
    state_dict = {k: v for k, v in state_dict.items() if v is not None}
    with pytest.raises(InputError, match=message):
        import_linear_layers(state_dict, SHAPES)


def test_entries_that_cannot_be_parameters():
    with pytest.raises(InputError, match="a second a"):
        parameters_of({"module.a": np.zeros(1), "a": np.zeros(1)})
    with pytest.raises(InputError, match="object"):
        parameters_of({"a": np.array([None])})


# ---------------------------------------------------------------- files


def test_npz_round_trip(tmp_path, state_dict):
    state_dict["specs"] = np.array("{}")
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "a.npz", **state_dict)
        arrays = read_npz(tmp_path / "a.npz")
        assert set(arrays) == set(state_dict)
        for name, value in state_dict.items():
            np.testing.assert_array_equal(arrays[name], value)


def _member(shape, dtype="<f4", data=b"\0" * 16) -> bytes:
    """An .npy whose header says what it likes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue() + data


def _zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def test_files_that_lie(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    assert read_npz(_zip(path, [("a.npy", _member((4,)))]))["a"].shape == (4,)
    for shape in ((5,), (1 << 40,), (-1, -5), (-4,)):
        with pytest.raises(InputError, match=r"a\.npz"):
            read_npz(_zip(path, [("a.npy", _member(shape))]))
    with pytest.raises(InputError, match="objects"):
        read_npz(_zip(path, [("a.npy", _member((1,), "|O", b"cos\nsystem\n(S'true'\ntR."))]))
    with pytest.raises(InputError, match="two members"), pytest.warns(UserWarning):
        read_npz(_zip(path, [("a.npy", _member((4,)))] * 2))
    with pytest.raises(InputError, match="magic"):
        read_npz(_zip(path, [("a.txt", b"words that are no array")]))
    with pytest.raises(InputError, match="no such file"):
        read_npz(tmp_path / "absent.npz")
    monkeypatch.setattr("jaxrecon.interop.state_dicts.MAX_BYTES", 100)
    with pytest.raises(InputError, match="unpacked, larger than"):
        read_npz(_zip(path, [("a.npy", _member((4,)))]))


def test_pytorch_containers_are_named(tmp_path):
    zipped = _zip(tmp_path / "a.npz", [("archive/data.pkl", b"\x80\x02}q\0.")])
    legacy = tmp_path / "b.npz"
    legacy.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF")
    for path in (zipped, legacy):
        with pytest.raises(InputError, match="a container of PyTorch, not an .npz") as error:
            read_npz(path)
        assert "import-checkpoint" in error.value.remedy
    suffix = _zip(tmp_path / "c.pth", [("a.npy", _member((4,)))])  # the content decides
    assert read_npz(suffix)["a"].shape == (4,)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """(path to overwrite, bytes of a sound .npz)."""
    path = tmp_path_factory.mktemp("fuzz") / "a.npz"
    np.savez_compressed(path, a=np.arange(6.0).reshape(2, 3), b=np.ones(3, np.float16))
    return path, path.read_bytes()


@given(data=st.data())
def test_damaged_files_are_refused_or_read(archive, data):
    path, sound = archive
    if data.draw(st.booleans()):
        spoilt = bytearray(sound)
        for _ in range(data.draw(st.integers(1, 4))):
            spoilt[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
        spoilt = bytes(spoilt[: data.draw(st.integers(0, len(sound)))])
    else:
        spoilt = data.draw(st.binary(max_size=300))
    path.write_bytes(spoilt)
    try:
        arrays = read_npz(path)
    except InputError:
        return
    assert all(isinstance(a, np.ndarray) and not a.dtype.hasobject for a in arrays.values())
