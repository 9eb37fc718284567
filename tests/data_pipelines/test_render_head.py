"""The head renderer: layout, determinism, and agreement of its pictures, cameras, landmarks and
meshes.
"""

import json
import pathlib

import numpy as np
import pytest

import jaxrecon
from data_pipelines.render_head import RenderConfig, expression_weights, render_subject
from jaxrecon.errors import InputError
from jaxrecon.models.parametric.procedural_albedo import MASKS

SAMPLE = pathlib.Path(jaxrecon.__file__).parent / "assets" / "samples" / "demo"
CONFIG = RenderConfig(expressions=("neutral", "smile"), views=3, size=48, supersampling=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small head model: an ellipsoid with one smile, in the layout of a converted ICT-FaceKit."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=3)
    v = ball.vertices * np.array([75.0, 110, 95])
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(4, 1, 3)) * (v / 100)[None] * 3
    theta = np.arange(68) * 2 * np.pi / 68
    where = np.stack([50 * np.sin(theta), 60 * np.cos(theta), np.full(68, 90.0)], 1)
    where[30] = [0, 0, 95]
    where[:8, 2] = -90  # at the back of the head: never seen
    landmarks = np.linalg.norm(where[:, None] - v[None], axis=-1).argmin(1)
    moved = np.flatnonzero(v[:, 2] > 60)
    path = tmp_path_factory.mktemp("model") / "ball.npz"
    parts = ["face", "head_neck", "sclera_left", "sclera_right", "mouth_socket"]
    np.savez(
        path,
        v_mean=v.astype(np.float32),
        id_basis=basis.astype(np.float16),
        expr_names=np.array(["mouthSmile_L"]),
        expr_ptr=np.array([0, len(moved)]),
        expr_idx=moved.astype(np.uint16),
        expr_delta=np.full((len(moved), 3), 4, np.float16),
        faces=ball.faces.astype(np.uint16),
        face_part=np.where(v[ball.faces].mean(1)[:, 1] < -100, 4, 0).astype(np.uint8),
        part_names=np.array(parts),
        landmarks68=landmarks.astype(np.int32),
        licence=np.array("MIT, of the ball"),
        **{f"mask_{m}": np.zeros(len(v), np.uint8) for m in MASKS},
    )
    return path


@pytest.fixture(scope="module")
def subject(model, tmp_path_factory):
    return render_subject(model, 5, tmp_path_factory.mktemp("subject") / "a", CONFIG)


def check_folder(folder):
    """What any views folder must satisfy: the mesh's points and landmarks fall where
    cameras.json says.
    """
    import trimesh
    from PIL import Image

    cameras = json.loads((folder / "cameras.json").read_text())
    landmarks = json.loads((folder / "landmarks.json").read_text())
    assert cameras["units"] == "millimetres"
    for i, view in enumerate(cameras["views"]):
        image = np.asarray(Image.open(folder / view["file"]))
        assert image.shape == (cameras["height"], cameras["width"], 4)
        alpha = image[..., 3]
        assert (image[alpha == 0][:, :3] == 255).all() and 0.15 < (alpha > 127).mean() < 0.8
        K, R, t = (np.array(view[k]) for k in "KRt")
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-7)
        assert np.linalg.det(R) > 0

        points = np.array(landmarks["landmarks3d"][view["expression"]])
        x = (points @ R.T + t) @ K.T
        np.testing.assert_allclose(x[:, :2] / x[:, 2:], landmarks["landmarks2d"][i], atol=1e-3)
        mesh = trimesh.load(folder / view["gt"], process=False)
        assert mesh.visual.vertex_colors.shape[0] == len(mesh.vertices)
        x = (np.asarray(mesh.vertices) @ R.T + t) @ K.T
        column, row = np.floor(x[:, :2] / x[:, 2:]).astype(int).T
        inside = (
            (column >= 0) & (row >= 0) & (column < cameras["width"]) & (row < cameras["height"])
        )
        assert (alpha[row[inside], column[inside]] > 0).mean() > 0.95
        distance = np.linalg.norm(points[:, None] - np.asarray(mesh.vertices)[None], axis=-1).min(1)
        assert np.median(distance) < 2.0
    return cameras, landmarks


def test_folder_is_consistent(subject):
    cameras, landmarks = check_folder(subject)
    assert [v["expression"] for v in cameras["views"]] == [0, 0, 1]
    assert {p.name for p in subject.iterdir()} == {
        *("view_000.png", "view_001.png", "view_002.png", "gt.ply", "gt_e1.ply"),
        *("cameras.json", "landmarks.json", "meta.json"),
    }
    meta = json.loads((subject / "meta.json").read_text())
    assert meta["real"] is False and "MIT" in meta["licence"] and meta["seed"] == 5
    moved = np.subtract(*map(np.array, landmarks["landmarks3d"]))
    np.testing.assert_allclose(np.abs(moved).max(), 4 * 0.6, atol=1e-2)


def test_visibility_is_that_of_a_convex_body(subject, model):
    cameras = json.loads((subject / "cameras.json").read_text())
    landmarks = json.loads((subject / "landmarks.json").read_text())
    # On a convex surface the far side, and nothing else, is hidden; ellipsoid normals are near x /
    # radius^2.
    for view, visible in zip(cameras["views"], landmarks["visible"], strict=True):
        points = np.array(landmarks["landmarks3d"][view["expression"]])
        centre = -np.array(view["R"]).T @ np.array(view["t"])
        normal = points / np.array([75.0, 110, 95]) ** 2
        cosine = (normal * (centre - points)).sum(1) / np.linalg.norm(normal, axis=1)
        cosine = cosine / np.linalg.norm(centre - points, axis=1)
        assert (cosine < -0.3).sum() >= 8 and (cosine > 0.3).sum() > 40
        assert np.array(visible)[cosine > 0.3].all() and not np.array(visible)[cosine < -0.3].any()


def test_same_seed_same_files_other_seed_other_person(subject, model, tmp_path):
    again = render_subject(model, 5, tmp_path / "b", CONFIG)
    for path in subject.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    other = render_subject(model, 6, tmp_path / "c", CONFIG)
    assert (other / "view_000.png").read_bytes() != (subject / "view_000.png").read_bytes()


def test_crop_and_decimation(model, tmp_path):
    import trimesh

    config = RenderConfig(
        ("neutral",), views=1, size=32, supersampling=1, crop_radius=80, max_faces=200
    )
    folder = render_subject(model, 5, tmp_path / "d", config)
    mesh = trimesh.load(folder / "gt.ply", process=False)
    nose = np.array(json.loads((folder / "landmarks.json").read_text())["landmarks3d"][0][30])
    assert 150 < len(mesh.faces) <= 200
    assert np.linalg.norm(mesh.vertices - nose[None], axis=1).max() < 81


def test_bad_options(model, tmp_path):
    with pytest.raises(InputError, match="grimace"):
        expression_weights("grimace", ("jawOpen",))
    with pytest.raises(InputError, match="colour"):
        render_subject(model, 0, tmp_path / "e", RenderConfig(albedo={"colour": 1.0}))
    with pytest.raises(InputError, match="at least one view"):
        render_subject(model, 0, tmp_path / "e", RenderConfig(views=0))
    with pytest.raises(InputError, match="no such file"):
        render_subject(tmp_path / "none.npz", 0, tmp_path / "e", CONFIG)


def test_the_shipped_sample_is_sound_and_small():
    cameras, landmarks = check_folder(SAMPLE)
    assert len(cameras["views"]) == 3 and np.mean(landmarks["visible"]) > 0.6
    sizes = {p.name: p.stat().st_size for p in SAMPLE.iterdir()}
    assert sum(sizes.values()) < 400_000 and sizes["gt.ply"] <= 200_000
    assert "Copyright (c) 2020 USC" in (SAMPLE / "LICENSE.ICT-FaceKit.txt").read_text()


def test_shared_model_renders_a_person(shared, tmp_path):
    model = shared / "data" / "ict_head.npz"
    folder = render_subject(
        model, 1, tmp_path / "p", RenderConfig(("smile",), views=1, size=64, supersampling=2)
    )
    _, landmarks = check_folder(folder)
    assert np.mean(landmarks["visible"][0]) > 0.7
