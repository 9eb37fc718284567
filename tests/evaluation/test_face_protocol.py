"""The face protocol: spheres with known answers, and agreement with the reference program."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.evaluation import face_protocol as P
from jaxrecon.evaluation.metrics import compare_meshes
from jaxrecon.geometry.mesh_io import save_mesh
from jaxrecon.types import Mesh, Similarity


def sphere(radius, centre=(0.0, 0.0, 0.0), stretch=(1.0, 1.0, 1.0)):
    import trimesh

    m = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    vertices = np.asarray(m.vertices) * np.array([stretch]) + np.array([centre])
    return Mesh(vertices, np.asarray(m.faces, np.int64))


CENTRES = np.array([[0.0, 0.0, 600.0], [300.0, 0.0, 500.0]])
NOSE = np.array([0.0, 0.0, 100.0])


@pytest.fixture(scope="module")
def points():
    return P.visible_points(sphere(100.0), CENTRES, NOSE)


@pytest.fixture
def folder(tmp_path):
    """A views folder of a sphere of 100 mm with the nose at its front."""
    R = np.diag([1.0, -1.0, -1.0])  # looks along -z of the world
    views = [
        {"expression": 0, "gt": "gt.ply", "R": R.tolist(), "t": (-R @ c).tolist()} for c in CENTRES
    ]
    (tmp_path / "cameras.json").write_text(json.dumps({"units": "millimetres", "views": views}))
    angles = np.linspace(0, 1, 68)
    landmarks = 100 * np.stack(
        [np.sin(angles * 7) * 0.6, np.cos(angles * 5) * 0.6, np.zeros(68)], 1
    )
    landmarks[:, 2] = np.sqrt(100.0**2 - (landmarks**2).sum(1))
    landmarks[P.NOSE_TIP] = NOSE
    valid = [i != 3 for i in range(68)]
    stored = {"valid": valid, "landmarks3d": [landmarks.tolist()]}
    (tmp_path / "landmarks.json").write_text(json.dumps(stored))
    save_mesh(tmp_path / "gt.ply", sphere(100.0))
    return tmp_path, landmarks


def test_points_are_near_the_nose_and_seen(points):
    assert points.shape == (P.N_POINTS, 3)
    assert np.linalg.norm(points - NOSE[None], axis=1).max() < P.RADIUS
    radius = np.linalg.norm(points, axis=1)
    assert 99.5 < radius.min() and radius.max() < 100 + 1e-6
    normals = points / radius[:, None]
    towards = CENTRES[:, None] - points[None]
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    assert ((normals[None] * towards).sum(-1).max(0) > 0.05).all()
    np.testing.assert_array_equal(points, P.visible_points(sphere(100.0), CENTRES, NOSE))


def test_what_a_wall_hides_is_left_out():
    head, wall = sphere(100.0), sphere(30.0, (0.0, 60.0, 140.0))
    both = Mesh(
        np.concatenate([head.vertices, wall.vertices]),
        np.concatenate([head.faces, wall.faces + len(head.vertices)]),
    )
    points = P.visible_points(both, CENTRES[:1], NOSE)
    on_head = np.linalg.norm(points, axis=1) < 100.5
    ray = points - CENTRES[:1]
    along = ((np.array([[0.0, 60.0, 140.0]]) - CENTRES[:1]) * ray).sum(1) / (ray**2).sum(1)
    passes = np.linalg.norm(CENTRES[:1] + along[:, None] * ray - [[0.0, 60.0, 140.0]], axis=1)
    shadowed = on_head & (passes < 28) & (points[:, 2] < 120)
    assert shadowed.sum() == 0 and on_head.sum() > 2000


def test_concentric_sphere_has_the_difference_of_radii_as_error(points):
    score = P.score_points(sphere(103.0), points, align="none")
    np.testing.assert_allclose(
        [score.raw_mean, score.mean, score.median, score.p90], 3.0, atol=0.05
    )
    assert score.std < 0.05 and score.n_points == len(score.distances) == P.N_POINTS
    np.testing.assert_allclose(score.distances, score.raw_distances)
    assert json.loads(json.dumps(score.summary()))["unit"] == "mm"


def test_icp_removes_a_shift_but_not_a_size(points):
    shifted = P.score_points(sphere(100.0, (4.0, -3.0, 5.0)), points)
    assert shifted.raw_mean > 3.0 and shifted.mean < 0.05
    np.testing.assert_allclose(shifted.similarity.scale, 1.0)
    larger = sphere(110.0)
    rigid, similar = (
        P.score_points(larger, points),
        P.score_points(larger, points, align="similarity"),
    )
    assert rigid.mean > 0.5 and similar.mean < rigid.mean
    placed = P.score_points(
        larger, points, align="none", initial=Similarity(100 / 110, np.eye(3), np.zeros(3))
    )
    assert placed.mean < 0.05


def test_folder_scale_and_landmarks(folder):
    path, landmarks = folder
    assert P.score_face(sphere(0.103), path, scale=1000.0, align="none").mean == pytest.approx(
        3, abs=0.05
    )
    angle = np.pi / 2
    R = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    prediction = sphere(100.0)
    moved = Mesh((prediction.vertices @ R.T + 40) / 7, prediction.faces)
    score = P.score_face(moved, path, align="landmarks", landmarks=(landmarks @ R.T + 40) / 7)
    assert score.raw_mean < 0.05 and score.mean < 0.05
    np.testing.assert_allclose(score.similarity.scale, 7, rtol=1e-3)
    gt, centres, read = P.load_ground_truth(path)
    np.testing.assert_allclose(centres, CENTRES, atol=1e-9)
    assert np.isnan(read[3]).all() and np.isfinite(read[4]).all() and len(gt.faces) == 20480


def test_landmarks_are_valid_where_the_file_does_not_say(folder):
    path, _ = folder
    document = json.loads((path / "landmarks.json").read_text())
    del document["valid"]
    (path / "landmarks.json").write_text(json.dumps(document))
    assert np.isfinite(P.load_ground_truth(path)[2]).all()
    del document["landmarks3d"]
    (path / "landmarks.json").write_text(json.dumps(document))
    assert P.load_ground_truth(path)[2] is None


def test_without_landmarks_the_nose_is_the_point_nearest_the_first_camera(folder):
    path, _ = folder
    (path / "landmarks.json").unlink()
    score = P.score_face(sphere(101.0), path, align="none")
    assert np.linalg.norm(score.points - NOSE[None], axis=1).max() < P.RADIUS + 3
    with pytest.raises(InputError, match="landmarks.json"):
        P.score_face(sphere(1.0), path, align="landmarks", landmarks=np.zeros((68, 3)))


def test_bad_input_is_refused(folder, tmp_path):
    path, _ = folder
    head = sphere(100.0)
    with pytest.raises(InputError, match="align 'best'"):
        P.score_face(head, path, align="best")
    with pytest.raises(InputError, match="the prediction's 68 landmarks"):
        P.score_face(head, path, align="landmarks")
    with pytest.raises(InputError, match="no view of expression 4"):
        P.score_face(head, path, expression=4)
    with pytest.raises(InputError, match="no cameras.json"):
        P.score_face(head, path / "absent")
    with pytest.raises(InputError, match="a camera sees only 0"):
        P.visible_points(head, np.array([[0.0, 0.0, -600.0]]), NOSE)
    cameras = json.loads((path / "cameras.json").read_text())
    for change, message in (({"units": "metres"}, "metres"), ({"views": []}, "no view")):
        (path / "cameras.json").write_text(json.dumps(cameras | change))
        with pytest.raises(InputError, match=message):
            P.score_face(head, path)
    cameras["views"][0]["gt"] = "../../etc/passwd.ply"
    (path / "cameras.json").write_text(json.dumps(cameras))
    with pytest.raises(InputError, match="outside the folder"):
        P.score_face(head, path)
    (path / "cameras.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        P.score_face(head, path)


@pytest.mark.parametrize("subject", ["lps", "ict0"])
def test_agrees_with_the_reference_program(shared, subject):
    head = shared / "data" / "ict_head.npz"
    path = shared / "data" / "faceviews" / subject
    command = [
        sys.executable,
        str(shared / "eval" / "score_face.py"),
        "--mean-head",
        str(head),
        str(path),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    reference = json.loads(run.stdout)
    z = np.load(head, allow_pickle=False)
    vertices, faces = z["v_mean"].astype(np.float64), z["faces"].astype(np.int64)
    skin = Mesh(vertices, faces[(faces < 11248).all(1)])
    score = P.score_face(skin, path, align="landmarks", landmarks=vertices[z["landmarks68"]])
    for name in ("raw_mean", "mean", "std", "median", "p90"):
        assert score.summary()[name] == pytest.approx(reference[name], rel=0.02), name


def test_metrics_of_concentric_spheres_in_other_units():
    found = compare_meshes(sphere(1.02), sphere(1.0), n=4000, unit="cm", factor=100.0)
    for side in ("truth_to_prediction", "prediction_to_truth"):
        assert found[side]["mean"] == pytest.approx(2.0, abs=0.05)
        assert found[side]["max"] < 2.2
    assert found["chamfer"] == pytest.approx(2.0, abs=0.05) and found["unit"] == "cm"
    assert found["normal_consistency"] > 0.999
    json.dumps(found)


def test_metrics_alignment():
    truth = sphere(1.0, stretch=(0.5, 0.8, 1.2))
    moved = Mesh(1.1 * truth.vertices + np.array([[0.15, -0.12, 0.1]]), truth.faces)
    errors = {
        a: compare_meshes(moved, truth, align=a, n=3000)["chamfer"]
        for a in ("none", "icp", "similarity")
    }
    assert errors["none"] > 1.05 * errors["icp"] and errors["icp"] > 3 * errors["similarity"]
    assert compare_meshes(moved, truth, align="similarity", n=3000)["scale"] == pytest.approx(
        1 / 1.1, rel=0.02
    )
    with pytest.raises(InputError, match="align"):
        compare_meshes(moved, truth, align="landmarks")
