"""Disturbances of cameras and landmarks are of the size they say, and errors ignore the frame."""

import dataclasses
import pathlib

import numpy as np
import pytest

from data_pipelines.render_head import render_subject
from experiments.implicit_deformation import robustness
from jaxrecon.errors import InputError
from jaxrecon.pipelines import implicit_deformation as pipeline
from jaxrecon.pipelines.views import load_views
from jaxrecon.types import Cameras
from tests.fitting import linear_space
from tests.pipelines import toy_prior
from tests.pipelines.fake_detector import Truth

THREE = linear_space.cameras((-0.5, 0.1, 0.6))


def centres(cameras):
    return np.stack([-np.float64(R).T @ t for R, t in zip(cameras.R, cameras.t, strict=True)])


def turned(cameras, seed=0, scale=1.0) -> Cameras:
    """The same cameras in another frame and scale."""
    G = linear_space.rotation(np.random.default_rng(seed).standard_normal(3))
    R = np.float64(cameras.R) @ G.T
    t = scale * np.float64(cameras.t) - R @ np.array([30.0, -20.0, 5.0])
    return Cameras(K=cameras.K, R=R, t=t)


@pytest.mark.parametrize("seed", range(3))
def test_rough_cameras_are_as_rough_as_asked(seed):
    rough = robustness.rough_cameras(THREE, 1.5, 7.0, seed)
    shift = np.linalg.norm(centres(rough) - centres(THREE), axis=1)
    np.testing.assert_allclose(shift, 7.0, rtol=1e-4)
    for a, b in zip(rough.R, THREE.R, strict=True):
        angle = np.arccos((np.trace(a @ np.float64(b).T) - 1) / 2)
        np.testing.assert_allclose(np.degrees(angle), 1.5, rtol=1e-3)
        np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-5)


def test_camera_errors_ignore_the_frame_and_see_the_rest():
    np.testing.assert_allclose(robustness.camera_errors(turned(THREE), THREE, False), 0, atol=0.02)
    larger = turned(THREE, scale=1.3)
    assert robustness.camera_errors(larger, THREE, False)[1] > 20
    np.testing.assert_allclose(robustness.camera_errors(larger, THREE, True), 0, atol=0.02)
    # one camera turned by two degrees: two of three pairs are wrong by it
    R = np.float64(THREE.R)
    R[1] = linear_space.rotation((np.radians(2.0), 0, 0)) @ R[1]
    t = np.float64(THREE.t)
    t[1] = R[1] @ R[1].T @ t[1]
    degrees, _ = robustness.camera_errors(Cameras(K=THREE.K, R=R, t=t), THREE, False)
    np.testing.assert_allclose(degrees, 2 * 2 / 3, rtol=1e-3)
    shifted = Cameras(K=THREE.K, R=THREE.R, t=THREE.t + np.array([[0, 0, 0], [9.0, 0, 0], [0] * 3]))
    degrees, distance = robustness.camera_errors(shifted, THREE, False)
    assert degrees < 0.05 and 2 < distance < 9
    assert np.isnan(robustness.camera_errors(*[first(THREE)] * 2, False)).all()


def first(cameras):
    return Cameras(K=cameras.K[:1], R=cameras.R[:1], t=cameras.t[:1])


@pytest.fixture(scope="module")
def subjects(toy_model, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("subjects")
    render_subject(toy_model, 3, folder / "anna", toy_prior.VIEWS)
    return folder


def test_every_row_disturbs_what_it_says(subjects, monkeypatch):
    views = load_views(subjects / "anna")
    spoiled = robustness.as_photographs(views, 3)
    seen = Truth(dataclasses.replace(views, images=spoiled.images))
    monkeypatch.setattr(robustness, "face_detector", lambda: seen)
    arguments = robustness.Arguments(subjects, pixels=2.0, seed=3)
    change = {row: robustness.disturbed(views, row, arguments) for row in robustness.CHOICES}
    for row in ("given", "estimate"):
        assert change[row] is views
    nothing = change["no cameras"]
    assert nothing.cameras is None and nothing.intrinsics is None
    noise = change["landmarks"].landmarks2d - views.landmarks2d
    assert abs(noise.std() - 2.0) < 0.2 and change["landmarks"].cameras is views.cameras
    inside = views.mask == 1
    np.testing.assert_allclose(spoiled.images[inside], views.images[inside], atol=1e-6)
    assert spoiled.images[views.mask == 0].std() > 0.05
    for row in ("found", "photographs"):
        assert change[row].detections and (change[row].mask == views.mask).mean() > 0.99
        np.testing.assert_allclose(change[row].landmarks2d, views.landmarks2d)
    assert change["found"].cameras is views.cameras and change["photographs"].cameras is None
    shift = centres(change["refine"].cameras) - centres(views.cameras)
    np.testing.assert_allclose(np.linalg.norm(shift, axis=1), 5.0, rtol=1e-6)
    metres = dataclasses.replace(views, units="metres")
    shift = centres(robustness.disturbed(metres, "rough", arguments).cameras)
    np.testing.assert_allclose(
        np.linalg.norm(shift - centres(views.cameras), axis=1), 0.005, rtol=1e-3
    )


def test_the_table_is_complete(subjects, toy_weights, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(
        pipeline.PRESETS, "fast",
        dataclasses.replace(pipeline.PRESETS["fast"], fit=toy_prior.FIT, resolution=32),
    )  # fmt: skip
    out = tmp_path / "table.json"
    arguments = robustness.Arguments(
        subjects, rows="given,rough,refine", weights=toy_weights, out=out, views="0,1"
    )
    assert robustness.main(arguments) == 0
    text = capsys.readouterr().out
    assert "of the loss, median" in text and out.exists()
    lines = [line for line in text.splitlines() if line.startswith("anna")]
    assert [line.split()[1] for line in lines] == ["given", "rough", "refine"]
    assert all(np.isfinite(float(x)) for line in lines for x in line.split()[2:])
    assert robustness.main(dataclasses.replace(arguments, rows="given,nonsense")) == 2
    assert robustness.main(dataclasses.replace(arguments, subjects=tmp_path / "empty")) == 2
    with pytest.raises(InputError, match="nonsense"):
        robustness.evaluate(dataclasses.replace(arguments, rows="nonsense"))
