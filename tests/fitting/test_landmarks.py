"""Pose and codes from landmarks: exact projections of a linear space are explained exactly."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxrecon.fitting import latents, uncertainty
from jaxrecon.fitting.cameras import canonical_cameras, pixels_per_unit
from jaxrecon.fitting.landmarks import (
    EXACT,
    PIXELS_AT_256,
    fit_landmarks,
    initial_pose,
    landmark_trust,
)
from jaxrecon.fitting.problem import FitConfig, Hyper
from tests.fitting import linear_space

SPACE = linear_space.space()
HYPER = Hyper(landmark_noise=np.float32(0.02))  # exact data: the prior hardly counts
THREE = (-0.6, 0.05, 0.5)


@functools.partial(jax.jit, static_argnums=2)
def solve(views, hyper, config):
    codes = latents.initial_codes(SPACE_ON_DEVICE, config.expressions)
    return fit_landmarks(views, SPACE_ON_DEVICE, config, hyper, codes)


SPACE_ON_DEVICE = jax.tree.map(jax.numpy.asarray, SPACE)
CONFIG = FitConfig(landmark_steps=25)


def weights_of(seed, expressions=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(linear_space.IDS), rng.standard_normal(
        (expressions, linear_space.EXPRESSIONS)
    )


def world_error(pose, codes, truth):
    """Greatest distance (mm) of the landmarks, taken back to the world, from where they are."""
    points = linear_space.landmarks(SPACE, np.asarray(codes["w_id"]), np.asarray(codes["w_exp"]))
    world = (points - np.asarray(pose.t)) @ np.asarray(pose.R) / float(pose.scale)
    return np.linalg.norm(world - truth["world"], axis=-1).max()


@pytest.mark.parametrize("unit", [linear_space.UNIT, 0.0], ids=["known", "unknown"])
def test_three_views_give_pose_and_codes(unit):
    views, truth = linear_space.view_data(SPACE, THREE, *weights_of(1), unit=unit)
    pose, codes, rms = solve(views, HYPER, CONFIG)
    assert rms < 0.02 and world_error(pose, codes, truth) < 0.3
    np.testing.assert_allclose(codes["w_id"], truth["w_id"], atol=0.03)
    np.testing.assert_allclose(codes["w_exp"], truth["w_exp"], atol=0.03)
    # S_canonical_world of x_world = UNIT R x + t
    np.testing.assert_allclose(1 / pose.scale, linear_space.UNIT, rtol=2e-3)
    np.testing.assert_allclose(pose.R, truth["R"].T, atol=3e-3)
    head = (np.zeros(3) - pose.t) @ pose.R / pose.scale
    np.testing.assert_allclose(head, truth["t"], atol=0.5)


@pytest.mark.parametrize("unit", [linear_space.UNIT, 0.0], ids=["known", "unknown"])
def test_one_view_explains_its_landmarks(unit):
    views, truth = linear_space.view_data(SPACE, (0.1,), *weights_of(2), unit=unit)
    pose, codes, rms = solve(views, HYPER, CONFIG)
    assert rms < 0.05
    if unit:  # 3 % of scale are open along the ray: distances, not the shape
        np.testing.assert_allclose(1 / pose.scale, linear_space.UNIT, rtol=0.03)
        np.testing.assert_allclose(codes["w_id"], truth["w_id"], atol=0.25)
        assert world_error(pose, codes, truth) < 40
    # shape and direction are fixed whatever the unit
    np.testing.assert_allclose(pose.R, truth["R"].T, atol=0.05)


def test_outliers_and_unseen_landmarks_do_little_harm(rng):
    views, truth = linear_space.view_data(SPACE, THREE, *weights_of(3))
    landmarks = np.array(views.landmarks)
    weights = np.ones((3, 68), np.float32)
    unseen = rng.random((3, 68)) < 0.3
    landmarks[unseen], weights[unseen] = 3e4, 0.0
    wrong = np.argwhere(~unseen)[:: 3 * 68 // 10]
    for i, j in wrong:
        landmarks[i, j] += rng.choice([-1, 1], 2) * 15
    spoiled = dataclasses.replace(
        views, landmarks=jax.numpy.asarray(landmarks), landmark_weights=jax.numpy.asarray(weights)
    )
    pose, codes, _ = solve(spoiled, HYPER, CONFIG)
    assert len(wrong) >= 6 and world_error(pose, codes, truth) < 2.0
    np.testing.assert_allclose(codes["w_id"], truth["w_id"], atol=0.15)
    # what is unseen is not read at all
    elsewhere = np.where(unseen[..., None], -7e3, landmarks).astype(np.float32)
    again, *_ = solve(
        dataclasses.replace(spoiled, landmarks=jax.numpy.asarray(elsewhere)), HYPER, CONFIG
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), again, pose)


def test_the_first_pose_is_near(rng):
    views, truth = linear_space.view_data(SPACE, THREE, *weights_of(4))
    first = jax.jit(initial_pose)(views, SPACE_ON_DEVICE)
    np.testing.assert_allclose(1 / first.scale, linear_space.UNIT, rtol=1e-5)
    cosine = (np.trace(np.asarray(first.R) @ truth["R"]) - 1) / 2
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))) < 8


def test_weights_stay_near_the_mean_where_landmarks_are_noisy():
    views, truth = linear_space.view_data(SPACE, THREE, *weights_of(5))
    _, exact, _ = solve(views, HYPER, CONFIG)
    _, shy, _ = solve(views, Hyper(landmark_noise=np.float32(100.0)), CONFIG)
    assert np.linalg.norm(shy["w_id"]) < 0.7 * np.linalg.norm(exact["w_id"])


def test_a_weight_divides_the_noise(rng):
    """Weights of a half and half the noise: the same fit, and the same error in pixels."""
    views, _ = linear_space.view_data(SPACE, THREE, *weights_of(5))
    noisy = views.landmarks + np.float32(rng.normal(size=views.landmarks.shape))
    views = dataclasses.replace(views, landmarks=noisy)
    whole = solve(views, Hyper(landmark_noise=np.float32(1.0)), CONFIG)
    half = dataclasses.replace(views, landmark_weights=0.5 * views.landmark_weights)
    halved = solve(half, Hyper(landmark_noise=np.float32(0.5)), CONFIG)
    np.testing.assert_allclose(halved[1]["w_id"], whole[1]["w_id"], atol=2e-3)
    np.testing.assert_allclose(halved[2], whole[2], rtol=1e-3)
    assert whole[2] > 0.5


def test_subjects_vmap_and_expressions_have_their_own_codes():
    config = FitConfig(landmark_steps=25, expressions=2)
    subjects = [linear_space.view_data(SPACE, THREE, *weights_of(6 + i, 2)) for i in range(2)]
    many = jax.tree.map(lambda *x: jax.numpy.stack(x), *(views for views, _ in subjects))
    together = jax.jit(jax.vmap(lambda v, h: solve.__wrapped__(v, h, config), in_axes=(0, None)))(
        many, HYPER
    )
    for i, (views, truth) in enumerate(subjects):
        alone = solve(views, HYPER, config)
        np.testing.assert_allclose(alone[1]["w_exp"], truth["w_exp"], atol=0.05)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=5e-3),
            together[:2],
            alone[:2],
        )


@functools.partial(jax.jit, static_argnums=1)
def slope(views, steps):
    """Gradient of the objective of Huber's loss where so many steps of the stage end."""
    hyper, codes = Hyper(landmark_noise=np.float32(1.0)), latents.initial_codes(SPACE_ON_DEVICE, 1)
    pose, codes, _ = fit_landmarks(
        views, SPACE_ON_DEVICE, FitConfig(landmark_steps=steps), hyper, codes
    )
    means = (SPACE_ON_DEVICE.id_mean, SPACE_ON_DEVICE.exp_mean[None])
    mean = latents.landmarks(SPACE_ON_DEVICE, *means)[0]
    optimum = uncertainty.Optimum(pose, codes)
    gradient = jax.grad(uncertainty.landmark_objective)(
        uncertainty.unknowns(views, optimum, ("pose", "w_id", "w_exp")),
        views, SPACE_ON_DEVICE, optimum, pixels_per_unit(views, mean) / PIXELS_AT_256,
    )  # fmt: skip
    return jax.numpy.linalg.norm(jax.flatten_util.ravel_pytree(gradient)[0])


@pytest.mark.parametrize("seed", [8, 10])
def test_the_stage_does_not_stop_short_of_its_optimum_with_noisy_landmarks(seed):
    """Five deviations of noise: most landmarks lie beyond Huber's kink, where weights move. A stage
    that compares reweighted sums stops at slopes of 201 and 90 here.
    """
    rng = np.random.default_rng(seed)
    codes = rng.standard_normal(linear_space.IDS), rng.standard_normal((1, 2))
    views, _ = linear_space.view_data(SPACE, THREE, *codes)
    noisy = views.landmarks + rng.normal(0, 2.0, views.landmarks.shape).astype(np.float32)
    views = dataclasses.replace(views, landmarks=noisy)
    before, after = slope(views, 0), slope(views, 25)
    assert after < 3e-3 * before, (before, after)


def test_trust_is_the_inverse_of_the_variance(rng):
    views, truth = linear_space.view_data(SPACE, THREE, *weights_of(9))
    pose = initial_pose(views, SPACE_ON_DEVICE)
    pose = dataclasses.replace(
        pose, scale=1 / linear_space.UNIT, R=truth["R"].T,
        t=-truth["R"].T @ truth["t"] / linear_space.UNIT,
    )  # fmt: skip
    pose = jax.tree.map(lambda x: jax.numpy.asarray(x, np.float32), pose)
    points = linear_space.landmarks(SPACE, truth["w_id"], truth["w_exp"])
    cameras, points = canonical_cameras(views, pose, None), jax.numpy.asarray(points, np.float32)

    def trust(landmarks, weights=views.landmark_weights):
        given = dataclasses.replace(views, landmarks=landmarks, landmark_weights=weights)
        return float(landmark_trust(given, cameras, points))

    assert trust(views.landmarks) == 1.0
    noise = rng.standard_normal(views.landmarks.shape).astype(np.float32)
    exact = EXACT * float(pixels_per_unit(views, points[0])) / PIXELS_AT_256
    for sigma in (0.5, 2.0, 8.0):  # 204 distances: the median is known to 6 %
        found = trust(views.landmarks + sigma * noise)
        np.testing.assert_allclose(found, min(1.0, (exact / sigma) ** 2), rtol=0.25)
    # a tenth of wrong landmarks counts little, unseen ones not at all
    noisy = views.landmarks + 2 * noise
    wrong = noisy.at[:, ::10].add(300.0)
    np.testing.assert_allclose(trust(wrong), trust(noisy), rtol=0.3)
    seen = views.landmark_weights.at[:, ::10].set(0.0)
    assert trust(wrong, seen) == trust(noisy, seen)
    assert trust(wrong, jax.numpy.zeros_like(seen)) == 1.0
