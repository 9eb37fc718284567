"""COLMAP's models: what its own formulas wrote projects as before; broken files are refused."""

import struct

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop import colmap
from tests.interop.camera_rigs import HEIGHT, RIG, WIDTH, points_ahead, project, rigs

MODELS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4}


def _quaternion(rotation, factor):
    """(w, x, y, z) times a factor; any is a rotation's quaternion."""
    x, y, z, w = rotation.as_quat()
    return [factor * w, factor * x, factor * y, factor * z]


def _parameters(model, lens):
    fx, fy, cx, cy = lens
    return {
        "SIMPLE_PINHOLE": [fx, cx, cy],
        "PINHOLE": [fx, fy, cx, cy],
        "SIMPLE_RADIAL": [fx, cx, cy, 1e-9],
        "RADIAL": [fx, cx, cy, 1e-9, -1e-9],
        "OPENCV": [fx, fy, cx, cy, 1e-9, -1e-9, 2e-9, 1e-9],
    }[model]


def _write_text(folder, model, rig, factor):
    """cameras.txt and images.txt as COLMAP's documentation shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras, images = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]", ""], ["# IMAGE_ID, ..."]
    for i, ((rotation, t), lens) in enumerate(rig):
        numbers = " ".join(repr(float(x)) for x in _parameters(model, lens))
        cameras.append(f"{7 * i + 3} {model} {WIDTH} {HEIGHT} {numbers}")
        pose = " ".join(repr(float(x)) for x in [*_quaternion(rotation, factor), *t])
        images.append(f"{i + 1} {pose} {7 * i + 3} cam {i}/a b.png")
        images.append("1.5 2.5 -1 100 200 17" if i % 2 else "")
    (folder / "cameras.txt").write_text("\n".join(cameras) + "\n")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    return folder


def _write_binary(folder, model, rig, factor):
    """cameras.bin and images.bin: little-endian, ids uint32, sizes uint64, numbers double."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras = struct.pack("<Q", len(rig))
    images = struct.pack("<Q", len(rig))
    for i, ((rotation, t), lens) in enumerate(rig):
        p = _parameters(model, lens)
        cameras += struct.pack("<IiQQ", 7 * i + 3, MODELS[model], WIDTH, HEIGHT)
        cameras += np.array(p, "<f8").tobytes()
        pose = [*_quaternion(rotation, factor), *t]
        images += struct.pack("<I7dI", i + 1, *pose, 7 * i + 3)
        images += f"cam {i}/a b.png".encode() + b"\0"
        images += struct.pack("<Q", i) + struct.pack("<ddq", 1.5, 2.5, -1) * i
    (folder / "cameras.bin").write_bytes(cameras)
    (folder / "images.bin").write_bytes(images)
    return folder


@pytest.mark.parametrize("write", [_write_text, _write_binary])
@hypothesis.given(
    rig=rigs, model=st.sampled_from(sorted(MODELS)), factor=st.sampled_from([1.0, -1.0, 0.01, -30])
)
def test_colmap_projects_as_its_documentation_says(tmp_path_factory, write, rig, model, factor):
    folder = write(tmp_path_factory.mktemp("model"), model, rig, factor)
    cameras = colmap.read_colmap(folder)
    assert [c.name for c in cameras] == [f"cam {i}/a b.png" for i in range(len(rig))]
    for camera, (pose, lens) in zip(cameras, rig, strict=True):
        fx, fy, cx, cy = lens
        fy = fy if model in ("PINHOLE", "OPENCV") else fx
        points = points_ahead(pose)
        x, y, z = (pose[0].apply(points) + pose[1]).T
        expected = np.stack([fx * x / z + cx, fy * y / z + cy], -1)
        np.testing.assert_allclose(project(camera, points), expected, atol=1e-6)
        np.testing.assert_allclose(camera.R, pose[0].as_matrix(), atol=1e-12)
        assert camera.lens.size == (WIDTH, HEIGHT)


def test_binary_is_preferred_and_models_are_found_in_aproject(tmp_path):
    _write_text(tmp_path / "sparse" / "0", "PINHOLE", RIG[:1], 1.0)
    assert len(colmap.read_colmap(tmp_path / "sparse" / "0")) == 1
    _write_binary(tmp_path / "sparse" / "0", "PINHOLE", RIG, 1.0)
    (tmp_path / "sparse" / "0" / "rigs.bin").write_bytes(b"not read")
    assert colmap.model_folder(tmp_path) == tmp_path / "sparse" / "0"
    assert colmap.model_folder(tmp_path / "sparse" / "0") == tmp_path / "sparse" / "0"
    assert colmap.model_folder(tmp_path.parent) is None
    assert len(colmap.read_colmap(tmp_path / "sparse" / "0")) == 2


def test_long_lines_of_keypoints_are_passed_over(tmp_path):
    _write_text(tmp_path, "PINHOLE", RIG, 1.0)
    lines = (tmp_path / "images.txt").read_text().split("\n")
    lines[2] = "100.25 200.5 -1 " * 50_000
    (tmp_path / "images.txt").write_text("\n".join(lines))
    assert len(colmap.read_colmap(tmp_path)) == 2


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("cameras.txt", "PINHOLE 640", "OPENCV_FISHEYE 640", "camera model OPENCV_FISHEYE"),
        ("cameras.txt", "PINHOLE 640", "PINHOLE -640", "-640 x 480"),
        ("cameras.txt", "PINHOLE 640", "PINHOLE 1e12", "1e12 x 480"),
        ("cameras.txt", "PINHOLE 640", "PINHOLE many", "width and height"),
        ("cameras.txt", " 500.0", " nan", "parameters"),
        ("cameras.txt", " 500.0", " 1e999", "parameters"),
        ("cameras.txt", " 500.0", "", "parameters"),
        ("cameras.txt", " 500.0", " -500.0", "focal length -500"),
        ("cameras.txt", "3 PINHOLE", "three PINHOLE", "'three'"),
        ("cameras.txt", "3 PINHOLE", "10 PINHOLE", "two cameras have the number 10"),
        ("cameras.txt", "3 PINHOLE", "4 PINHOLE", "has camera 3"),
        (
            "cameras.txt",
            "3 PINHOLE 640 480 500.0 510.0 320.0 240.0",
            "3 PINHOLE",
            "CAMERA_ID MODEL",
        ),
        ("images.txt", " 0.1 2.0 3", " 0.1 nan 3", "its pose"),
        ("images.txt", " 0.1 2.0 3", " 0.1 two 3", "its pose"),
        ("images.txt", " 0.1 2.0 3", " 0.1 2.0 x", "'x'"),
        ("images.txt", " 0.1 2.0 3 cam 0/a b.png", " 0.1 2.0 3", "IMAGE_ID QW"),
        ("images.txt", "b.png\n\n2 ", "b.png\n2 ", "keypoints"),  # no second lines
        ("images.txt", "b.png\n\n", "b.png\n1 2 3 4\n", "keypoints"),
    ],
)
def test_broken_text_models_are_refused(tmp_path, name, old, new, message):
    _write_text(tmp_path, "PINHOLE", RIG, 1.0)
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as error:
        colmap.read_colmap(tmp_path)
    assert message in str(error.value)


def test_models_without_images_or_of_other_bytes_are_refused(tmp_path):
    with pytest.raises(InputError, match="not a sparse model"):
        colmap.read_colmap(tmp_path)
    _write_text(tmp_path, "PINHOLE", RIG, 1.0)
    (tmp_path / "images.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match=r"images\.txt holds no images"):
        colmap.read_colmap(tmp_path)
    (tmp_path / "images.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match=r"images\.txt cannot be read as text"):
        colmap.read_colmap(tmp_path)


@pytest.mark.parametrize(
    ("name", "at", "data", "message"),
    [
        ("cameras.bin", 0, struct.pack("<Q", 2**63), "9223372036854775808 records"),
        ("images.bin", 0, struct.pack("<Q", 10**6), "1000000 records"),
        ("images.bin", 0, struct.pack("<Q", 3), "holds 3 records"),
        ("cameras.bin", 12, struct.pack("<i", 5), "camera model OPENCV_FISHEYE"),
        ("cameras.bin", 12, struct.pack("<i", -9), "camera model number -9"),
        ("cameras.bin", 16, struct.pack("<Q", 2**60), "1152921504606846976 x 480"),
        ("cameras.bin", 32, struct.pack("<d", np.nan), "parameters"),
        ("cameras.bin", 32, struct.pack("<d", -5.0), "focal length -5"),
        ("images.bin", 12, struct.pack("<d", np.inf), "its pose"),
        ("images.bin", 12, struct.pack("<4d", 0, 0, 0, 0), "quaternion"),
        ("images.bin", 68, struct.pack("<I", 77), "camera 77"),
        ("images.bin", 86, struct.pack("<Q", 2**62), "ends too early"),
        ("images.bin", 72, b"x" * 6000, "has no end"),
    ],
)
def test_broken_binary_models_are_refused(tmp_path, name, at, data, message):
    _write_binary(tmp_path, "PINHOLE", RIG, 1.0)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:at] + data + whole[at + len(data) :])
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as error:
        colmap.read_colmap(tmp_path)
    assert message in str(error.value)


@hypothesis.given(data=st.data(), name=st.sampled_from(["cameras.bin", "images.bin"]))
def test_binary_models_cut_or_spoiled_anywhere_are_read_or_refused(tmp_path_factory, data, name):
    folder = _write_binary(tmp_path_factory.mktemp("model"), "OPENCV", RIG, 1.0)
    whole = bytearray((folder / name).read_bytes())
    cut = data.draw(st.booleans())
    at = data.draw(st.integers(0, len(whole) - 1))
    if cut:
        whole = whole[:at]
    else:
        whole[at] = data.draw(st.integers(0, 255))
    (folder / name).write_bytes(bytes(whole))
    try:
        cameras = colmap.read_colmap(folder)
    except InputError as error:
        assert str(folder) in str(error)
    else:
        assert not cut
        assert all(np.isfinite(c.t).all() and np.isfinite(c.R).all() for c in cameras)
