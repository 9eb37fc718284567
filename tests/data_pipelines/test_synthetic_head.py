"""The synthetic head: closed, symmetric, plausible, and what the pipelines ask of a head model."""

import numpy as np
import pytest

from data_pipelines.synthetic_head import landmark_places, main, sphere, synthetic_head
from jaxrecon.geometry.mesh import is_closed, signed_volume
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.models.parametric.procedural_albedo import albedo_surface


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "made" / "head.npz"
    main(["--out", str(path)])
    return path


def test_the_skin_is_a_closed_head(path):
    model = load_face_model(path)
    mean, faces = np.float64(model.mean), np.int64(model.faces)
    assert len(mean) == 642 and is_closed(faces)
    assert 2e6 < signed_volume(mean, faces) < 4e6  # mm³, positive: faces look outward
    assert (np.abs((mean - [0, 10, 15]) / 150) < 0.9).all()


def test_it_is_symmetric_and_sides_are_named_rightly(path):
    model = load_face_model(path)
    mirrored = model.mean * [-1, 1, 1]
    twin = np.linalg.norm(mirrored[:, None] - model.mean[None], axis=-1).argmin(1)
    np.testing.assert_allclose(model.mean[twin], mirrored, atol=1e-3)
    names = model.expression_names
    assert {"jawOpen", "mouthClose"} < set(names)
    for name in names:
        shape = np.float64(model.expression[names.index(name)])
        moved = np.linalg.norm(shape, axis=1)
        assert 2 < moved.max() < 25
        if name.endswith("_L"):
            other = np.float64(model.expression[names.index(name[:-1] + "R")])
            np.testing.assert_allclose(other[twin] * [-1, 1, 1], shape, atol=0.06)
            assert (moved * model.mean[:, 0]).sum() / moved.sum() > 10  # +x is the subject's left


def test_landmarks_are_different_vertices_near_their_places(path):
    model = load_face_model(path)
    points = model.mean[model.landmarks]
    assert len(set(model.landmarks.tolist())) == 68
    away = np.linalg.norm(points[:, :2] - landmark_places(), axis=1)
    assert away.max() < 15 and np.median(away) < 5
    assert points[:, 2].argmax() == 30  # the tip of the nose
    assert points[8, 1] == points[:, 1].min()  # the chin
    assert points[36, 0] < 0 < points[45, 0]  # the subject's right eye comes first


def test_masks_suit_the_albedo(path):
    surface = albedo_surface(path)
    for name in ("lips", "brows", "scalp", "ears", "beard", "blush", "under_eye", "eye", "teeth"):
        assert 0 < np.asarray(surface[name]).mean() < 0.5, name


def test_the_sphere_is_round_and_the_file_repeatable(path):
    v, f = sphere(2)
    assert len(v) == 162 and len(f) == 320 and is_closed(f)
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1.0)
    again = synthetic_head()
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == set(again)
        for name in file.files:
            np.testing.assert_array_equal(file[name], again[name])
