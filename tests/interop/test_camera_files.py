"""Cameras of transforms.json and IDR project as those programs do; broken files are refused."""

import json
import pathlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop import camera_files
from jaxrecon.interop.idr_cameras import decompose_projection, read_idr
from jaxrecon.interop.transforms_json import transforms_cameras
from tests.interop.camera_rigs import (
    HEIGHT,
    RIG,
    WIDTH,
    lenses,
    points_ahead,
    poses,
    project,
    rigs,
)

# ---------------------------------------------------------------- transforms.json


def _gl_pixels(T, lens, points):
    """NeRF's projection: camera axes x right, y up, looking along -z."""
    x, y, z = np.linalg.solve(T[:3, :3], (points - T[:3, 3]).T)
    fx, fy, cx, cy = lens
    return np.stack([cx + fx * x / -z, cy - fy * y / -z], -1)


def _gl_matrix(pose):
    """Camera to world of an OpenCV pose: columns right, up, backward, centre."""
    R, t = pose[0].as_matrix(), pose[1]
    T = np.eye(4)
    T[:3] = np.stack([R[0], -R[1], -R[2], -R.T @ t], -1)
    return T


def _frames(rig, **more):
    frames = []
    for i, (pose, (fx, fy, cx, cy)) in enumerate(rig):
        lens = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
        matrix = _gl_matrix(pose).tolist()
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": matrix, **lens})
    return {"w": WIDTH, "h": HEIGHT, "camera_model": "OPENCV", "frames": frames, **more}


@hypothesis.given(rig=rigs)
def test_transforms_project_as_nerf_does(tmp_path_factory, rig):
    path = tmp_path_factory.mktemp("nerf") / "transforms.json"
    document = json.loads(json.dumps(_frames(rig, fl_x=1.0, cx=-5.0)))  # frames go first
    cameras = transforms_cameras(path, document)
    for i, (camera, (pose, lens)) in enumerate(zip(cameras, rig, strict=True)):
        points = points_ahead(pose)
        expected = _gl_pixels(_gl_matrix(pose), lens, points)
        np.testing.assert_allclose(project(camera, points), expected, atol=1e-6)
        assert camera.name == f"images/{i}.png"


@hypothesis.given(rig=rigs, turn=poses(), scale=st.floats(0.01, 100))
def test_what_nerfstudio_applied_to_the_world_is_undone(tmp_path_factory, rig, turn, scale):
    path = tmp_path_factory.mktemp("nerf") / "transforms.json"
    A = np.concatenate([turn[0].as_matrix(), turn[1][:, None]], 1)
    moved = _frames(rig, applied_transform=A.tolist(), applied_scale=scale)
    for frame in moved["frames"]:
        T = np.array(frame["transform_matrix"])
        T[:3] = A[:, :3] @ T[:3] + np.outer(A[:, 3], [0, 0, 0, 1])
        T[:3, 3] *= scale
        frame["transform_matrix"] = T.tolist()
    plain = transforms_cameras(path, _frames(rig))
    for a, b in zip(transforms_cameras(path, moved), plain, strict=True):
        np.testing.assert_allclose(a.R, b.R, atol=1e-9)
        np.testing.assert_allclose(a.t, b.t, atol=1e-9)


def test_field_of_view_sizes_and_defaults():
    frame = {"file_path": "./train/r_0", "transform_matrix": np.eye(4).tolist()}
    (camera,) = transforms_cameras(
        pathlib.Path("t.json"), {"camera_angle_x": 0.7, "frames": [frame]}
    )
    K = camera_files.intrinsics("here", camera.lens, 800, 600)
    f = 400 / np.tan(0.35)
    np.testing.assert_allclose(K, [[f, 0, 400], [0, f, 300], [0, 0, 1]])
    np.testing.assert_allclose(camera.R, np.diag([1, -1, -1]))
    document = {"fl_x": 100.0, "w": 80, "h": 60, "frames": [frame | {"cx": 41.0}]}
    (camera,) = transforms_cameras(pathlib.Path("t.json"), document)
    # the picture is twice as large: a place at 41 of 80 pixels is at 82 of 160
    K = camera_files.intrinsics("here", camera.lens, 160, 120)
    np.testing.assert_allclose(K, [[200, 0, 82], [0, 200, 60], [0, 0, 1]])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d.update(frames=[]), "lists no frames"),
        (lambda d: d.update(frames={"a": 1}), "lists no frames"),
        (lambda d: d["frames"].__setitem__(1, 5), "frame 1 has no file_path"),
        (lambda d: d["frames"][0].pop("file_path"), "frame 0 has no file_path"),
        (lambda d: d["frames"][0].pop("transform_matrix"), "transform_matrix is null"),
        (lambda d: d["frames"][0]["transform_matrix"][1].pop(), "transform_matrix"),
        (lambda d: d["frames"][0]["transform_matrix"].append([0] * 4), "transform_matrix"),
        (lambda d: d["frames"][0]["transform_matrix"][0].__setitem__(3, np.nan), "finite numbers"),
        (lambda d: d["frames"][0]["transform_matrix"][3].__setitem__(3, 2.0), "last row"),
        (
            lambda d: d["frames"][0].update(transform_matrix=np.diag([2, 2, 2, 1]).tolist()),
            "off by",
        ),
        (
            lambda d: d["frames"][0].update(transform_matrix=np.diag([1, 1, -1, 1]).tolist()),
            "a reflection",
        ),
        (lambda d: d.update(camera_model="OPENCV_FISHEYE"), "camera model OPENCV_FISHEYE"),
        (lambda d: d.update(is_fisheye=True), "is_fisheye"),
        (lambda d: d.update(w=0), "0 x 480"),
        (lambda d: d.update(w=12.5), "12.5 x 480"),
        (lambda d: d["frames"][0].update(fl_x="wide"), "fl_x"),
        (lambda d: d["frames"][0].update(fl_x=None, fl_y=None), "no focal length"),
        (lambda d: d.update(camera_angle_x=4.0), "camera_angle_x is 4"),
        (lambda d: d.update(applied_transform=[[0, 0, 0, 0]] * 3), "applied_transform"),
        (lambda d: d.update(applied_scale=0), "applied_scale"),
    ],
)
def test_broken_transforms_are_refused(spoil, message):
    document = _frames(RIG)
    spoil(document)
    with pytest.raises(InputError, match=r"somewhere\.json") as error:
        transforms_cameras(pathlib.Path("somewhere.json"), document)
    assert message in str(error.value)


# ---------------------------------------------------------------- IDR


def _projection(pose, lens, skew=0.0):
    fx, fy, cx, cy = lens
    K = np.array([[fx, skew, cx], [0, fy, cy], [0, 0, 1.0]])
    return K @ np.concatenate([pose[0].as_matrix(), pose[1][:, None]], 1)


@hypothesis.given(rig=rigs, factor=st.sampled_from([1.0, -1.0, 1e-3, -250.0]))
def test_idr_pixels_are_half_a_pixel_from_its_whole_numbers(tmp_path_factory, rig, factor):
    path = tmp_path_factory.mktemp("idr") / "cameras.npz"
    arrays = {}
    for i, (pose, lens) in enumerate(rig):
        arrays[f"world_mat_{i}"] = np.eye(4)
        arrays[f"world_mat_{i}"][:3] = factor * _projection(pose, lens)
        arrays[f"scale_mat_{i}"] = np.diag([3.0, 3.0, 3.0, 1.0])  # not applied
    np.savez(path, **arrays)
    cameras = read_idr(path)
    assert [c.name for c in cameras] == [str(i) for i in range(len(rig))]
    for i, (camera, (pose, _)) in enumerate(zip(cameras, rig, strict=True)):
        points = points_ahead(pose)
        p = np.concatenate([points, np.ones((len(points), 1))], 1) @ arrays[f"world_mat_{i}"].T
        np.testing.assert_allclose(project(camera, points), p[:, :2] / p[:, 2:3] + 0.5, atol=1e-5)
        assert ((points @ camera.R.T + camera.t)[:, 2] > 0).all()  # before the camera
        np.testing.assert_allclose(camera.R, pose[0].as_matrix(), atol=1e-7)


@hypothesis.given(
    pose=poses(), lens=lenses, skew=st.floats(-20, 20), factor=st.sampled_from([1.0, -3.0, 1e-4])
)
def test_a_projection_comes_apart_into_what_it_was_made_of(pose, lens, skew, factor):
    K, R, t = decompose_projection("here", factor * _projection(pose, lens, skew))
    fx, fy, cx, cy = lens
    np.testing.assert_allclose(K, [[fx, skew, cx], [0, fy, cy], [0, 0, 1]], rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(R, pose[0].as_matrix(), atol=1e-9)
    np.testing.assert_allclose(t, pose[1], atol=1e-9)


def test_cameras_of_ten_and_more_are_in_the_order_of_numbers(tmp_path):
    P = _projection(*RIG[0])
    np.savez(tmp_path / "c.npz", **{f"world_mat_{i}": P.astype(np.float32) for i in (10, 9, 2)})
    cameras = read_idr(tmp_path / "c.npz")
    assert [c.name for c in cameras] == ["2", "9", "10"]
    np.testing.assert_allclose(cameras[0].R, RIG[0][0][0].as_matrix(), atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"camera_mat_0": np.eye(4)}, "holds no cameras: camera_mat_0"),
        ({"world_mat_x": np.eye(4)}, "holds no cameras"),
        ({"world_mat_0": np.eye(3)}, "world_mat_0"),
        ({"world_mat_0": np.full((4, 4), np.nan)}, "finite numbers"),
        ({"world_mat_0": np.zeros((4, 4))}, "not a projection"),
        ({"world_mat_0": np.ones((3, 4))}, "not a projection"),
        ({"world_mat_0": np.array([["a"] * 4] * 3)}, "finite numbers"),
        ({"world_mat_0": np.array([[{}] * 4] * 3)}, "objects"),
    ],
)
def test_broken_npz_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "c.npz", allow_pickle=True, **arrays)
    with pytest.raises(InputError, match=r"c\.npz") as error:
        read_idr(tmp_path / "c.npz")
    assert message in str(error.value)


def test_what_is_no_npz_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.npz"):
        read_idr(tmp_path / "absent.npz")
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(InputError, match=r"c\.npz"):
        read_idr(tmp_path / "c.npz")


# ---------------------------------------------------------------- lenses


@hypothesis.given(d=st.lists(st.floats(-0.02, 0.02), min_size=6, max_size=6), lens=lenses)
def test_distortion_is_opencvs_at_every_place(d, lens):
    fx, fy, cx, cy = lens
    hypothesis.assume(min(fx, fy) > 300)
    k1, k2, k3, k4, p1, p2 = d
    K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    given = camera_files.Lens(distortion=tuple(d))
    longest = camera_files.distortion_shift(given, K, WIDTH, HEIGHT)
    for u, v in [(0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (100, 30)]:
        x, y = (u - cx) / fx, (v - cy) / fy
        r2 = x**2 + y**2
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
        x_distorted = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
        y_distorted = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
        shift = np.hypot(fx * x_distorted + cx - u, fy * y_distorted + cy - v)
        assert shift <= 1.01 * longest + 1e-9


def test_distortion_is_refused_from_half_a_pixel():
    K = np.array([[500.0, 0, 320], [0, 500.0, 240], [0, 0, 1]])
    # at the corner r = 0.8, so that k1 moves it by 500 k1 r³ = 256 k1
    for k1, refused in ((0.4 / 256, False), (0.6 / 256, True)):
        lens = camera_files.Lens(distortion=(k1, 0.0, 0.0, 0.0, 0.0, 0.0))
        shift = camera_files.distortion_shift(lens, K, WIDTH, HEIGHT)
        np.testing.assert_allclose(shift, 256 * k1)
        if refused:
            with pytest.raises(InputError, match="image_undistorter"):
                camera_files.check_distortion("here", shift)
        else:
            camera_files.check_distortion("here", shift)
    with pytest.raises(InputError, match="nan"):
        camera_files.check_distortion("here", float("nan"))


@pytest.mark.parametrize(
    ("size", "message"),
    [((480, 640), "turned"), ((640, 640), "crop"), ((320, 243), "crop")],
)
def test_images_of_another_shape_are_refused(size, message):
    lens = camera_files.Lens(fx=500.0, size=(WIDTH, HEIGHT))
    with pytest.raises(InputError, match=f"640 x 480 pixels; the image has {size[0]}") as error:
        camera_files.intrinsics("here", lens, *size)
    assert message in str(error.value)


def test_rounded_sizes_are_scaled_copies():
    lens = camera_files.Lens(fx=500.0, size=(641, 481))
    K = camera_files.intrinsics("here", lens, 160, 120)
    np.testing.assert_allclose(K[:2, 2], (80, 60))
