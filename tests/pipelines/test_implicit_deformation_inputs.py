"""What a fit is given: which cameras move, which part of a photograph it sees, and the cameras it
found in the world of the photographs.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.head_points import HEAD_SCALE_MM
from data_pipelines.render_head import render_subject
from jaxrecon.errors import InputError
from jaxrecon.fitting import cameras as fitted_cameras
from jaxrecon.fitting.fit import FitResult
from jaxrecon.fitting.problem import Hyper
from jaxrecon.geometry.cameras import project_shared
from jaxrecon.geometry.extraction import ExtractionStats
from jaxrecon.pipelines import fit_subjects
from jaxrecon.pipelines import implicit_deformation as pipeline
from jaxrecon.pipelines import implicit_deformation_inputs as inputs
from jaxrecon.pipelines.priors import Prior, load_prior
from jaxrecon.pipelines.views import Views, load_views
from jaxrecon.types import Cameras, Mesh, Similarity
from tests.pipelines import toy_prior


@pytest.fixture(scope="module")
def prior(toy_weights) -> Prior:
    prior = load_prior(toy_weights)
    header = prior.header | {
        "canonical": {"unit_mm": HEAD_SCALE_MM, "centre_mm": [1.0, 10.0, 15.0]}
    }
    return dataclasses.replace(prior, header=header)


@pytest.fixture(scope="module")
def views(toy_model, tmp_path_factory) -> Views:
    folder = tmp_path_factory.mktemp("views")
    return load_views(render_subject(toy_model, 3, folder / "anna", toy_prior.VIEWS))


def without_cameras(views: Views, K: bool) -> Views:
    return dataclasses.replace(
        views, cameras=None, units=None, intrinsics=views.intrinsics if K else None
    )


# ---------------------------------------------------------------- modes


def test_cameras_are_used_where_they_are(views):
    modes = {
        choice: [
            inputs.camera_mode(v, choice)
            for v in (views, without_cameras(views, True), without_cameras(views, False))
        ]
        for choice in ("auto", "estimate")
    }
    assert modes == {
        "auto": ["given", "estimate", "estimate_focal"],
        "estimate": ["estimate", "estimate", "estimate_focal"],
    }
    assert inputs.camera_mode(views, "refine") == "refine"
    for choice in ("given", "refine"):
        with pytest.raises(InputError, match="--cameras estimate"):
            inputs.camera_mode(without_cameras(views, True), choice)


# ---------------------------------------------------------------- crops


def enlarged(views: Views, size: tuple[int, int], at: tuple[int, int], scale: int) -> Views:
    """The views pasted into larger pictures at (x, y), every pixel a block."""
    count, (height, width) = len(views.names), size

    def paste(array, fill):
        big = np.full((count, height, width, *array.shape[3:]), fill, array.dtype)
        blocks = array.repeat(scale, 1).repeat(scale, 2)
        big[:, at[1] : at[1] + blocks.shape[1], at[0] : at[0] + blocks.shape[2]] = blocks
        return big

    S = np.array([[scale, 0, at[0]], [0, scale, at[1]], [0, 0, 1.0]])
    K = S @ views.intrinsics
    return dataclasses.replace(
        views,
        images=paste(views.images, 1.0),
        mask=paste(views.mask, 0.0),
        valid=paste(views.valid, True),
        sizes=np.tile(np.array([[height, width]]), (count, 1)),
        landmarks2d=np.float32(views.landmarks2d * scale + np.array(at)),
        cameras=dataclasses.replace(views.cameras, K=K),
        intrinsics=K,
    )


def test_small_photographs_are_taken_whole(views, prior):
    data = inputs.view_data(views, prior)
    np.testing.assert_array_equal(data.images, views.images)
    np.testing.assert_array_equal(data.subject, views.mask)
    np.testing.assert_allclose(data.cameras.K, views.cameras.K, rtol=1e-6)
    assert inputs.crops(views).side == 64
    wide = dataclasses.replace(views, sizes=np.array([[64, 64], [40, 64], [64, 30]]))
    assert inputs.crops(wide).side == 64
    # one pixel more needs the next square
    assert inputs.crops(enlarged(views, (65, 70), (3, 0), 1)).side == 128


def test_a_large_photograph_shows_the_same_head(views, prior):
    """Blown up four times, in a corner of a picture with much around it: the crop shows it as the
    small picture does, cameras and landmarks with it.
    """
    big = enlarged(views, (400, 900), (500, 90), 4)
    limit = 64
    part = inputs.crops(big, limit)
    assert part.side == 64 and (part.sizes.max(1) <= limit).all() and (part.boxes[:, 0] > 400).all()
    data, small = inputs.view_data(big, prior, limit=limit), inputs.view_data(views, prior)
    assert data.images.shape == small.images.shape
    # a point of space falls where its colour is, in both
    x = np.random.default_rng(0).uniform(-60, 60, (200, 3))
    for i in range(3):
        p, q = (project_one(d.cameras, i, x) for d in (data, small))
        a, b = (np.asarray(d.subject)[i][rows_columns(at, 64)] for d, at in ((data, p), (small, q)))
        assert (a == b).mean() > 0.95 and 0.2 < b.mean()
        colours = [
            np.asarray(d.images)[i][rows_columns(at, 64)] for d, at in ((data, p), (small, q))
        ]
        inside = (a == 1) & (b == 1)
        assert np.abs(colours[0] - colours[1])[inside].mean() < 0.06
    for i, at in enumerate(np.asarray(data.landmarks)):
        scale = part.scale()[i] * 4
        np.testing.assert_allclose(at, (views.landmarks2d[i] * 4 + (500, 90) - part.boxes[i, :2])
                                   * scale / 4, atol=1e-3)  # fmt: skip
    assert set(np.unique(data.subject)) == {0.0, 1.0}


def project_one(cameras, i, x):
    y = (x @ np.float64(cameras.R[i]).T + np.float64(cameras.t[i])) @ np.float64(cameras.K[i]).T
    return y[:, :2] / y[:, 2:]


def rows_columns(pixels, size):
    index = np.clip(np.floor(pixels).astype(int), 0, size - 1)
    return index[:, 1], index[:, 0]


@settings(max_examples=40)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(64, 1024), st.integers(0, 2**32 - 1))
def test_crops_hold_the_subject_and_keep_rays(height, width, limit, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((1, height, width), np.float32)
    rows, columns = np.sort(rng.integers(0, [[height], [width]], (2, 2)), axis=1)
    mask[0, rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = 1
    views = Views(
        folder=pathlib.Path('x'), names=("a",), indices=(0,), sizes=np.array([[height, width]]),
        images=np.broadcast_to(np.float32(0), (1, height, width, 3)), mask=mask,
        valid=mask > -1, cameras=None, units=None, landmarks2d=None,
        landmark_weights=None, landmark_valid=None, expression=np.zeros(1, int),
        ground_truth=(None,),
    )  # fmt: skip
    part = inputs.crops(views, limit)
    left, top, right, bottom = part.boxes[0]
    assert 0 <= left <= columns[0] and columns[1] < right <= width
    assert 0 <= top <= rows[0] and rows[1] < bottom <= height
    assert part.sizes.max() <= max(limit, 1) and part.sizes.min() >= 1
    assert part.side >= part.sizes.max() and part.side & (part.side - 1) == 0
    K = np.array([[[900.0, 3.0, 200.0], [0, 800.0, 100.0], [0, 0, 1]]])
    there = part.intrinsics(K)
    np.testing.assert_allclose(part.intrinsics(there, back=True), K, atol=1e-9)
    # K of the crop shows a point where `pixels` puts it
    x = np.array([0.1, -0.2, 1.0])
    of_photo, of_crop = (K[0] @ x)[:2], (there[0] @ x)[:2]
    np.testing.assert_allclose(part.pixels(of_photo[None, None])[0, 0], of_crop, atol=1e-9)


def test_missing_parts_are_named(views, prior):
    for change in ({"mask": None}, {"landmarks2d": None}):
        with pytest.raises(InputError, match="missing"):
            inputs.view_data(dataclasses.replace(views, **change), prior)
    with pytest.raises(InputError, match="no cameras"):
        inputs.view_data(without_cameras(views, True), prior)


def test_unknown_cameras_leave_the_unit_of_the_head(views, prior):
    known = inputs.view_data(without_cameras(views, True), prior, "estimate")
    np.testing.assert_allclose(known.cameras.K, views.intrinsics, rtol=1e-6)
    assert float(known.unit) == HEAD_SCALE_MM
    unknown = inputs.view_data(without_cameras(views, False), prior, "estimate_focal")
    K = np.asarray(unknown.cameras.K)
    np.testing.assert_allclose(K[:, :2, 2], 32.0)
    np.testing.assert_allclose(K[:, 0, 0], 64 * inputs.LENS)
    told = dataclasses.replace(without_cameras(views, False), film_focal=np.array([26, 50, 85.0]))
    K = np.asarray(inputs.view_data(told, prior, "estimate_focal").cameras.K)
    # 50 mm on film of 36 x 24 mm, and the same part of the diagonal of a square
    np.testing.assert_allclose(K[1, 0, 0], 50 / np.hypot(36, 24) * 64 * np.sqrt(2), rtol=1e-3)
    np.testing.assert_allclose(K[:, 0, 0] / K[1, 1, 1], [26 / 50, 1, 85 / 50], rtol=1e-6)


# ---------------------------------------------------------------- cameras found


def result_of(views: Views, prior: Prior, limit: int) -> FitResult:
    """What a fit would return that found the true cameras of a head turned in the world."""
    scale = 1 / HEAD_SCALE_MM
    pose = Similarity(scale=jnp.float32(scale), R=jnp.eye(3), t=jnp.zeros(3))
    K = inputs.crops(views, limit).intrinsics(views.cameras.K)
    centre = np.array([1.0, 10.0, 15.0])
    t = views.cameras.t + views.cameras.R @ centre  # of a world whose origin is the cube's centre
    cameras = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32), Cameras(K=K, R=views.cameras.R, t=t)
    )
    return FitResult(None, None, None, None, pose, cameras, None, None, None)


def test_a_preset_says_how_many_pixels_a_fit_looks_at(views, prior, monkeypatch):
    """What a fit is given, and the way back to the cameras of the photographs."""
    assert [pipeline.PRESETS[name].limit for name in ("fast", "quality")] == [512, 1024]
    sides = {"fast": 64, "quality": 128}
    true = enlarged(views, (400, 900), (500, 90), 4)
    big = without_cameras(true, False)
    for name, side in sides.items():
        preset = dataclasses.replace(pipeline.PRESETS[name], fit=toy_prior.FIT, limit=side)
        monkeypatch.setitem(pipeline.PRESETS, name, preset)
    mesh = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    stats = ExtractionStats((1, 1, 1), (1.0, 1.0, 1.0), 1, 1, 1.0, 1.0, 1, 0, 0)
    monkeypatch.setattr(pipeline, "extract_mesh", lambda *arguments: (mesh, stats))
    compared = set()
    for name, side in sides.items():
        options = pipeline.Options(preset=name, colours="network")
        case = pipeline.prepare(big, options, prior)
        assert case.data.images.shape == (3, side, side, 3)
        assert case.size == side == case.limit and case.config.cameras == "estimate_focal"
        found = dataclasses.replace(
            result_of(true, prior, side), history={"total": np.zeros(3)}, landmark_error=np.ones(())
        )
        done = pipeline.conclude(prior, case, found, {}, options)
        np.testing.assert_allclose(done.views.cameras.K, true.cameras.K, rtol=1e-5)
        compared.add(fit_subjects.settings_of(options, prior, Hyper())["sizes"])
    assert len(compared) == 2  # by --resume


@pytest.mark.parametrize("mode", ["estimate", "estimate_focal"])
def test_estimated_cameras_see_a_head_in_millimetres(views, prior, mode):
    big = enlarged(views, (400, 900), (500, 90), 4)
    limit = 64
    unknown = without_cameras(big, mode == "estimate")
    found, result = inputs.fitted_views(unknown, result_of(big, prior, limit), mode, prior, limit)
    assert found.units == "millimetres" and unknown.cameras is None
    x = np.random.default_rng(0).uniform(-80, 80, (20, 3))
    for i in range(3):
        np.testing.assert_allclose(
            project_one(found.cameras, i, x), project_one(big.cameras, i, x), atol=0.02
        )
        np.testing.assert_allclose(found.cameras.R[i] @ found.cameras.R[i].T, np.eye(3), atol=1e-12)
    pose = result.S_canonical_world
    centre = np.array([1.0, 10.0, 15.0])
    np.testing.assert_allclose(pose.scale * (pose.R @ centre) + pose.t, 0, atol=1e-6)
    assert result.cameras.K.dtype == jnp.float32


def test_given_cameras_come_back_untouched_and_refined_ones_keep_K(views, prior):
    result = result_of(views, prior, 512)
    assert inputs.fitted_views(views, result, "given", prior) == (views, result)
    moved = dataclasses.replace(
        result, cameras=dataclasses.replace(result.cameras, K=7 * result.cameras.K)
    )
    found, _ = inputs.fitted_views(views, moved, "refine", prior)
    np.testing.assert_array_equal(found.cameras.K, views.intrinsics)
    np.testing.assert_allclose(found.cameras.t, np.asarray(result.cameras.t), rtol=1e-6)
    assert found.units == views.units
    p, _ = project_shared(jax.tree.map(jnp.asarray, found.cameras), np.zeros((1, 3)))
    assert np.isfinite(p).all() and fitted_cameras.CAMERA_WIDTH == 7
