"""Released weights: round trip, atomic writes, and files that are damaged or lie."""

import dataclasses
import json
import os
import pathlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrecon.errors import InputError
from jaxrecon.interop.weights import (
    config_from_dict,
    flatten_tree,
    load_weights,
    save_weights,
    unflatten_tree,
)
from jaxrecon.models.implicit import MLPConfig
from jaxrecon.models.layers import Encoding

TREE = {
    "params": {
        "reference": {"layer_0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}},
        "table": np.arange(4, dtype=np.int32),
    },
    "half": np.array([0.5, -1.0], np.float16),
}
LOADED = TREE | {"half": TREE["half"].astype(np.float32)}  # halves load as float32


@pytest.fixture
def saved(tmp_path):
    """Path without suffix of sound weights."""
    save_weights(tmp_path / "net.v1", TREE, {"network": "x", "note": [1, None]})
    return tmp_path / "net.v1"


def _equal(a, b):
    a, b = flatten_tree(a), flatten_tree(b)
    assert set(a) == set(b)
    for name, value in a.items():
        assert value.dtype == b[name].dtype
        np.testing.assert_array_equal(value, b[name])


def test_round_trip(saved):
    for path in (saved, f"{saved}.safetensors", f"{saved}.json"):
        tree, header = load_weights(path)
        # half precision is of files alone
        _equal(tree, LOADED)
        assert header == {"format": "jaxrecon-weights-1", "network": "x", "note": [1, None]}
    assert sorted(p.name for p in saved.parent.iterdir()) == ["net.v1.json", "net.v1.safetensors"]


def test_arrays_that_are_not_contiguous(tmp_path, rng):
    kernel = rng.standard_normal((4, 3)).astype(np.float32).T
    save_weights(tmp_path / "a", {"kernel": kernel}, {})
    np.testing.assert_array_equal(load_weights(tmp_path / "a")[0]["kernel"], kernel)


def test_trees(saved):
    assert set(flatten_tree(TREE)) == {"params/reference/layer_0/kernel", "params/table", "half"}
    _equal(unflatten_tree(flatten_tree(TREE)), TREE)
    with pytest.raises(ValueError, match="slash"):
        flatten_tree({"a/b": np.zeros(1)})
    for names in (("a", "a/b"), ("a/b", "a"), ("/".join("a" * 100_000),)):
        with pytest.raises(ValueError, match="tree"):
            unflatten_tree(dict.fromkeys(names, np.zeros(1)))


def test_nothing_is_written_that_could_not_be_read(saved):
    for tree, header, error in (
        ({"a": np.array([np.nan])}, {}, ValueError),
        ({"a": np.array([np.inf])}, {}, ValueError),
        ({"a": np.zeros(1)}, {"loss": float("nan")}, ValueError),
        ({"a": np.zeros(1)}, {"object": object()}, TypeError),
    ):
        with pytest.raises(error):
            save_weights(saved, tree, header)
    _equal(load_weights(saved)[0], LOADED)  # the earlier files stand


@pytest.mark.parametrize("failing", ["first write", "second write", "replace"])
def test_a_failure_while_writing_leaves_the_old_files(saved, monkeypatch, failing):
    before = {p.name: p.read_bytes() for p in saved.parent.iterdir()}
    write, written = pathlib.Path.write_bytes, []

    def fail(*arguments):
        raise OSError("disk full")

    def write_or_fail(path, data):
        written.append(path)
        if failing == "first write" or (failing == "second write" and len(written) == 2):
            fail()
        return write(path, data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_or_fail)
    if failing == "replace":
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(saved, {"a": np.ones(3)}, {})
    monkeypatch.undo()
    assert len(written) == (1 if failing == "first write" else 2)
    assert {p.name: p.read_bytes() for p in saved.parent.iterdir()} == before


# ---------------------------------------------------------------- damaged files


def _safetensors(header, data=b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


EIGHT = b"\0" * 8


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        _safetensors({"a": _tensor()}, EIGHT)[:-1],  # truncated
        _safetensors({"a": _tensor(shape=(3,))}, EIGHT),  # shape and data differ
        _safetensors({"a": _tensor(shape=(1 << 60,), offsets=(0, 1 << 62))}, EIGHT),
        _safetensors({"a": _tensor(shape=(-2,))}, EIGHT),
        _safetensors({"a": _tensor(offsets=(8, 16))}, EIGHT),
        _safetensors({"a": _tensor(), "b": _tensor()}, EIGHT),  # overlapping
        _safetensors({"a": _tensor(dtype="PICKLE")}, EIGHT),
        _safetensors({"a": {"dtype": "F32"}}, EIGHT),
        _safetensors({"a": 1}, EIGHT),
        _safetensors([1, 2], EIGHT),
        _safetensors(b"not json"),
        struct.pack("<Q", 1 << 62) + b"{}",
        _safetensors({"a": _tensor()}, np.array([np.nan, 0], "<f4").tobytes()),
        _safetensors({"a": _tensor()}, np.array([0, np.inf], "<f4").tobytes()),
        _safetensors({"a": _tensor("BF16", (4,))}, b"\x80\x7f" * 4),  # infinity in bfloat16
        _safetensors({"a": _tensor("F64", (1,))}, np.array([1e300]).tobytes()),  # inf in float32
        _safetensors({"a": _tensor("F8_E4M3", (8,))}, EIGHT),
        # a name below another array
        _safetensors(
            {"a": _tensor("F32", (1,), (0, 4)), "a/b": _tensor("F32", (1,), (4, 8))}, EIGHT
        ),
        _safetensors(
            {"a/b": _tensor("F32", (1,), (0, 4)), "a": _tensor("F32", (1,), (4, 8))}, EIGHT
        ),
    ],
)
def test_damaged_arrays_are_refused(saved, data):
    saved.with_name("net.v1.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"net\.v1\.safetensors"):
        load_weights(saved)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": "jaxrecon-weights-0"}',
        '{"format": ["jaxrecon-weights-1"]}',
        '{"format": "jaxrecon-weights-1", "radius": NaN}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_damaged_headers_are_refused(saved, text):
    saved.with_name("net.v1.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"net\.v1\.(json|safetensors)"):
        load_weights(saved)


def test_absent_and_oversized_files(saved, monkeypatch):
    with pytest.raises(InputError, match="no such file"):
        load_weights(saved.with_name("absent"))
    with pytest.raises(InputError, match="a folder"):
        load_weights(".")
    monkeypatch.setattr("jaxrecon.interop.weights.MAX_BYTES", 10)
    with pytest.raises(InputError, match="larger"):
        load_weights(saved)
    monkeypatch.undo()
    saved.with_name("net.v1.json").unlink()
    with pytest.raises(InputError, match=r"net\.v1\.json: no such file"):
        load_weights(saved)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """(path without suffix, bytes of the arrays, bytes of the header)."""
    path = tmp_path_factory.mktemp("fuzz") / "a"
    save_weights(path, TREE, {"network": "x"})
    arrays, header = path.with_name("a.safetensors"), path.with_name("a.json")
    return path, arrays.read_bytes(), header.read_bytes()


@given(data=st.data())
def test_random_damage_is_refused_or_read(sound, data):
    path, *contents = sound
    which = data.draw(st.integers(0, 1))
    if data.draw(st.booleans()):
        spoilt = bytearray(contents[which])
        for _ in range(data.draw(st.integers(1, 4))):
            spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
        contents[which] = bytes(spoilt[: data.draw(st.integers(0, len(spoilt)))])
    else:
        contents[which] = data.draw(st.binary(max_size=200))
    path.with_name("a.safetensors").write_bytes(contents[0])
    path.with_name("a.json").write_bytes(contents[1])
    try:
        tree, header = load_weights(path)
    except InputError:
        return
    assert header["format"] == "jaxrecon-weights-1"
    assert all(np.isfinite(np.asarray(v, np.float32)).all() for v in flatten_tree(tree).values())


# ---------------------------------------------------------------- configurations


def test_configurations_survive_json():
    config = MLPConfig(hidden=(8, 4), encoding=Encoding(2, False, 0.5), code=3, skip=(1,))
    data = json.loads(json.dumps(dataclasses.asdict(config)))
    assert config_from_dict(MLPConfig, data) == config
    assert config_from_dict(MLPConfig, {}) == MLPConfig()
    assert config_from_dict(MLPConfig, {"radius": 1}).radius == 1.0


@dataclasses.dataclass(frozen=True)
class _Pair:
    name: str
    pair: tuple[int, float] = (1, 2.0)
    maybe: float | None = None
    flag: bool = False


def test_configurations_of_other_types():
    data = {"name": "a", "pair": [3, 4], "maybe": None, "flag": True}
    assert config_from_dict(_Pair, data) == _Pair("a", (3, 4.0), None, True)
    assert config_from_dict(_Pair, {"name": "a", "maybe": 2}).maybe == 2.0
    for wrong in ({}, {"name": 1}, {"name": "a", "pair": [1]}, {"name": "a", "pair": [1, 2, 3]}):
        with pytest.raises(InputError, match="^file"):
            config_from_dict(_Pair, wrong, "file")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "fields of MLPConfig"),
        (None, "fields of MLPConfig"),
        ({"depth": 3}, r"unknown \['depth'\]"),
        ({"encoding": {"octaves": 3}}, r"config.encoding: unknown \['octaves'\]"),
        ({"encoding": 3}, "config.encoding"),
        ({"hidden": 512}, "config.hidden"),
        ({"hidden": [512.5]}, "config.hidden"),
        ({"hidden": ["512"]}, "config.hidden"),
        ({"hidden": [True]}, "config.hidden"),
        ({"out": True}, "config.out"),
        ({"out": None}, "config.out"),
        ({"weight_norm": 1}, "config.weight_norm"),
        ({"radius": "0.6"}, "config.radius"),
        ({"radius": False}, "config.radius"),
        ({"radius": float("nan")}, "config.radius"),
        ({"radius": 10**400}, "config.radius"),
        ({"activation": "exec"}, "activation is 'exec'"),
    ],
)
def test_configurations_that_lie(data, message):
    with pytest.raises(InputError, match=message):
        config_from_dict(MLPConfig, data)
