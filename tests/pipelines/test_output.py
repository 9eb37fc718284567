"""Results appear whole or not at all."""

import dataclasses
import errno
import json
import os
import pathlib

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.pipelines import output


def test_output_folder_is_made_and_left_empty(tmp_path):
    folder = output.output_folder(tmp_path / "a" / "b")
    assert folder.is_dir() and not list(folder.iterdir())
    assert output.output_folder(folder) == folder  # again is fine


def test_output_folder_refuses_a_file_and_what_lies_under_one(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="file"):
            output.output_folder(path)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_output_folder_refuses_what_it_cannot_write(tmp_path, monkeypatch, code):
    # permission bits do not stop root, so the system call is made to fail
    def touch(self, *args, **kwargs):
        raise OSError(code, "no", str(self))

    monkeypatch.setattr(pathlib.Path, "touch", touch)
    with pytest.raises(InputError, match="permission"):
        output.output_folder(tmp_path / "closed")


def test_write_bytes_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "x.bin"
    output.write_bytes(path, b"old")
    assert output.write_bytes(path, b"new") == path
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["x.bin"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.ply"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), output.atomic(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".ply"
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.ply"]


def test_a_full_disk_is_one_clear_message(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="disk is full"):
        output.write_bytes(tmp_path / "x.bin", b"data")
    assert os.listdir(tmp_path) == []


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError):
        output.write_bytes(tmp_path / "absent" / "x.bin", b"")


@dataclasses.dataclass(frozen=True)
class _Config:
    steps: int
    folder: pathlib.Path


def test_json_round_trip(tmp_path, key):
    value = {
        "config": _Config(3, pathlib.Path("a/b")),
        "array": np.arange(4, dtype=np.int16).reshape(2, 2),
        "scalar": np.float32(0.5),
        "flags": (True, None, np.bool_(False)),
        7: "seven",
    }
    path = output.write_json(tmp_path / "x.json", value)
    assert json.loads(path.read_text()) == {
        "config": {"steps": 3, "folder": "a/b"},
        "array": [[0, 1], [2, 3]],
        "scalar": 0.5,
        "flags": [True, None, False],
        "7": "seven",
    }


@pytest.mark.parametrize("bad", [float("nan"), np.float32("inf"), np.array([1.0, -np.inf])])
def test_json_refuses_what_is_not_finite_and_names_it(tmp_path, bad):
    with pytest.raises(ValueError, match=r"\$\.losses\[1\]"):
        output.write_json(tmp_path / "x.json", {"losses": [0.0, bad]})
    assert os.listdir(tmp_path) == []


def test_json_refuses_strangers(tmp_path):
    with pytest.raises(TypeError, match=r"\$\.f is a function"):
        output.write_json(tmp_path / "x.json", {"f": lambda: 0})


def test_npz_round_trip_without_pickle(tmp_path, rng):
    arrays = {"a": rng.normal(size=(3, 2)).astype(np.float32), "step": np.int64(4)}
    path = output.write_npz(tmp_path / "x.npz", arrays)
    with np.load(path, allow_pickle=False) as loaded:
        assert set(loaded) == {"a", "step"}
        np.testing.assert_array_equal(loaded["a"], arrays["a"])
        assert loaded["a"].dtype == np.float32 and loaded["step"] == 4


def test_npz_refuses_objects(tmp_path):
    with pytest.raises(TypeError, match="'a'"):
        output.write_npz(tmp_path / "x.npz", {"a": np.array([{}], dtype=object)})
    assert os.listdir(tmp_path) == []


def test_a_name_the_system_refuses(tmp_path):
    with pytest.raises(InputError, match="cannot make the folder"):
        output.output_folder(tmp_path / ("x" * 300))
