"""Laplace's approximation: exact where the posterior is Gaussian, calibrated where it is not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxrecon.errors import InputError
from jaxrecon.fitting import latents, render, uncertainty
from jaxrecon.fitting.landmarks import apply_pose, fit_landmarks
from jaxrecon.fitting.problem import FitConfig, Hyper
from jaxrecon.geometry.transforms import apply_similarity, invert_similarity
from jaxrecon.types import Cameras, Similarity
from tests.fitting import balls, linear_space

RAW = linear_space.space()
SPACE = jax.tree.map(jnp.asarray, RAW)
CODES = ("w_id", "w_exp")
THREE = (-0.6, 0.05, 0.5)
laplace = jax.jit(uncertainty.laplace, static_argnames="free")


def at_identity(space, **weights) -> uncertainty.Optimum:
    codes = latents.initial_codes(space, 1)
    codes |= {k: jnp.asarray(v, jnp.float32) for k, v in weights.items()}
    pose = Similarity(jnp.float32(1 / 150.0), jnp.eye(3), jnp.zeros(3))
    return uncertainty.Optimum(pose, codes)


def plane_problem():
    """A flat head before a frontal camera, where pixels are linear in the weights."""
    flat = np.array([1.0, 1.0, 0.0], np.float32)
    space = dataclasses.replace(
        SPACE,
        landmarks_mean=jnp.asarray(RAW.landmarks_mean * flat),
        landmarks_id=jnp.asarray(RAW.landmarks_id * flat),
        landmarks_exp=jnp.asarray(RAW.landmarks_exp * flat),
    )
    views, _ = linear_space.view_data(RAW, (0.0,), np.zeros(4), np.zeros((1, 2)))
    R = jnp.asarray(np.diag([1.0, -1.0, -1.0])[None], jnp.float32)
    cameras = Cameras(views.cameras.K, R, jnp.asarray([[0.0, 0.0, 900.0]]))
    return space, dataclasses.replace(views, cameras=cameras)


def test_a_linear_problem_has_its_exact_covariance():
    space, views = plane_problem()
    noise, pixels = 0.8, 330.0 * 150.0 / 900.0  # pixels of a canonical unit
    z_id = np.einsum("mi,ipx->mpx", RAW.id_basis, np.asarray(space.landmarks_id))
    z_exp = np.einsum("mi,ipx->mpx", RAW.exp_basis, np.asarray(space.landmarks_exp))
    modes = np.concatenate([z_exp, z_id])  # w_exp before w_id, as names sort
    A = pixels * modes[:, :, :2].reshape(6, -1).astype(float) / noise
    exact = np.linalg.inv(A @ A.T + np.eye(6))
    optimum = at_identity(space)
    # landmarks as the optimum has them: none is an outlier
    errors = uncertainty.landmark_residuals({}, views, space, optimum, 1.0)
    views = dataclasses.replace(views, landmarks=views.landmarks + errors)
    gaussian = laplace(views, space, optimum, noise, free=CODES)
    found = gaussian.factor @ gaussian.factor.T
    np.testing.assert_allclose(found, exact, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(uncertainty.covariance(gaussian, "w_id"), exact[2:, 2:], rtol=2e-3)
    # the same in millimetres, landmark by landmark
    spread = np.einsum("mpx,mn,npx->p", modes, exact, modes)
    np.testing.assert_allclose(
        uncertainty.landmark_deviation(gaussian, space)[0], 150 * np.sqrt(spread), rtol=2e-3
    )


def test_errors_of_refits_are_as_large_as_said():
    """Truth from the prior, noisy landmarks, 200 refits: e^T Sigma^-1 e has a mean of 6."""
    rng = np.random.default_rng(2)
    count, noise = 200, 1.5
    # what fit_landmarks takes for the noise of these pictures (330 / 6 pixels a canonical unit)
    hyper = Hyper(landmark_noise=jnp.float32(noise * 138.0 / 55.0))
    truths = rng.standard_normal((count, 6))
    made = [linear_space.view_data(RAW, THREE, t[:4], t[4:][None])[0] for t in truths]
    landmarks = np.stack([m.landmarks for m in made])
    landmarks = landmarks + noise * rng.standard_normal(landmarks.shape)
    views = made[0]

    @jax.jit
    @jax.vmap
    def one(pixels, truth):
        own = dataclasses.replace(views, landmarks=pixels)
        codes = latents.initial_codes(SPACE, 1)
        pose, codes, _ = fit_landmarks(own, SPACE, FitConfig(landmark_steps=15), hyper, codes)
        gaussian = uncertainty.laplace(own, SPACE, uncertainty.Optimum(pose, codes), noise)
        error = codes["w_id"] - truth[:4]
        errors = jnp.concatenate([error, codes["w_exp"][0] - truth[4:]])
        identity = uncertainty.covariance(gaussian, "w_id")
        scaled = error @ jnp.linalg.solve(identity, error)
        deviations = jnp.sqrt(jnp.diag(gaussian.factor @ gaussian.factor.T))
        return scaled, errors, deviations[-8:][jnp.array([4, 5, 6, 7, 2, 3])]

    scaled, errors, deviations = one(jnp.asarray(landmarks, jnp.float32), jnp.asarray(truths))
    # mean of chi squared with 4 degrees of freedom, 200 draws: 4 +- 0.2
    assert 3.2 < float(jnp.mean(scaled)) < 4.8
    ratio = np.sqrt(np.mean((np.asarray(errors) / np.asarray(deviations)) ** 2, 0))
    assert np.all((ratio > 0.8) & (ratio < 1.25)), ratio


def _three_views():
    rng = np.random.default_rng(3)
    w_id, w_exp = rng.standard_normal(4), rng.standard_normal((1, 2))
    pose = ((0.0, 1e-6, 0.0), (0.0, 0.0, 0.0))
    views, _ = linear_space.view_data(RAW, THREE, w_id, w_exp, pose)
    return views, at_identity(SPACE, w_id=w_id, w_exp=w_exp)


def test_fewer_views_unknown_cameras_and_more_noise_are_less_sure():
    views, optimum = _three_views()

    def spread(views, noise=1.0, **options):
        gaussian = laplace(views, SPACE, optimum, noise, **options)
        return np.asarray(uncertainty.landmark_deviation(gaussian, SPACE)[0])

    three = spread(views)
    two, one = (
        spread(
            dataclasses.replace(views, landmark_weights=views.landmark_weights.at[count:].set(0.0))
        )
        for count in (2, 1)
    )
    assert np.all(three < two) and np.all(two < one) and three.max() < 15
    assert np.all(spread(views, 2.0) > 1.2 * three)
    free = ("pose", "w_id", "w_exp", "cameras")
    roughly = np.array([0.02, 0.02, 0.02, 0.05, 0.05, 0.05, 1e-4], np.float32)
    unsure = spread(views, free=free, camera_noise=roughly)
    assert np.all(unsure > three)
    exact = spread(views, free=free, camera_noise=1e-6 * roughly)
    np.testing.assert_allclose(exact, three, rtol=1e-2)


def test_draws_spread_as_the_covariance_says():
    views, optimum = _three_views()
    gaussian = laplace(views, SPACE, optimum, 1.0)
    pose, codes = uncertainty.sample(gaussian, jax.random.key(0), 4000)
    assert codes["w_id"].shape == (4000, 4) and codes["r_id"].shape == (4000, 4)
    said = uncertainty.covariance(gaussian, "w_id")
    deviation = np.sqrt(np.diag(said))
    drawn = np.cov(np.asarray(codes["w_id"]).T)
    assert np.max(np.abs(drawn - said) / np.outer(deviation, deviation)) < 0.1

    @jax.vmap
    def world(pose, w_id, w_exp):
        own = optimum.codes | {"w_id": w_id, "w_exp": w_exp}
        z_id, z_exp, _ = latents.compose_codes(SPACE, own)
        points = latents.landmarks(SPACE, z_id, z_exp)[0]
        return apply_similarity(invert_similarity(pose), points)

    points = np.asarray(world(pose, codes["w_id"], codes["w_exp"]))
    expected = uncertainty.landmark_deviation(gaussian, SPACE, world=True)[0]
    np.testing.assert_allclose(np.sqrt(points.var(0).sum(-1)), expected, rtol=0.06)


def test_subjects_vmap():
    views, optimum = _three_views()
    other = dataclasses.replace(views, landmark_weights=views.landmark_weights.at[2].set(0.0))
    many = jax.tree.map(lambda *x: jnp.stack(x), views, other)
    together = jax.vmap(lambda v: laplace(v, SPACE, optimum).factor)(many)
    for i, own in enumerate((views, other)):
        alone = laplace(own, SPACE, optimum).factor
        np.testing.assert_allclose(together[i], alone, atol=1e-3 * float(jnp.abs(alone).max()))


# ---------------------------------------------------------------- surfaces and pixels


@pytest.fixture(scope="module")
def ball():
    """Landmarks know the centre of the ball; only pixels know its radius, 84 mm."""
    space = balls.space()
    optimum = at_identity(space, w_id=[0.6, 0.8])
    return space, balls.views(0.56, x=0.08), optimum


def test_surface_deviations_have_their_closed_form(ball):
    space, views, optimum = ball
    free = ("w_id", "w_exp")
    gaussian = laplace(views, space, optimum, 1.0, free=free)
    shape = np.asarray(uncertainty.covariance(gaussian, "w_id"))
    up = np.asarray(uncertainty.covariance(gaussian, "w_exp"))
    assert shape[0, 0] == pytest.approx(1.0, abs=1e-4) and shape[1, 1] < 0.05
    normals = balls.DIRECTIONS[::5].astype(np.float32)
    points = np.array([0.08, 0, 0], np.float32) + 0.56 * normals
    found = uncertainty.surface_deviation(
        gaussian, balls.FUNCTIONS, balls.params(), space, points, chunk=5
    )
    # dr = 0.1 dw_0, dx = 0.1 dw_1, dy = 0.1 dw_exp; 150 mm a canonical unit
    moves = 0.1 * np.stack([np.ones(len(points)), normals[:, 0]], 1)
    variance = np.einsum("pi,ij,pj->p", moves, shape, moves) + (0.1 * normals[:, 1]) ** 2 * up[0, 0]
    np.testing.assert_allclose(found, 150 * np.sqrt(variance), rtol=1e-3)


def test_pixels_tell_what_landmarks_do_not(ball):
    space, views, optimum = ball
    config = FitConfig(rays=80, trace=balls.TRACE, lipschitz=1.0, margin=4)
    zero = uncertainty.unknowns(views, optimum)
    prior = uncertainty.prior_information(views, optimum, zero)
    data = uncertainty.landmark_information(views, space, optimum, zero)
    cumulative = render.pixel_density(views, views.valid, config.margin)
    samples = render.draw_samples(views, views.valid, cumulative, jax.random.key(0), config.rays)

    @jax.jit
    def by_pixels(samples, noise):
        def residuals(change):
            return uncertainty.pixel_residuals(
                change, balls.FUNCTIONS, balls.params(), config, views, space, optimum, samples,
                noise,
            )  # fmt: skip

        return uncertainty.information(residuals, zero, at_once=4)

    def radius(data):
        gaussian = uncertainty.posterior(optimum, zero, data + prior)
        assert float(uncertainty.covariance(gaussian, "pose")[6, 6]) <= 0.03**2 * 1.001
        return float(jnp.sqrt(uncertainty.covariance(gaussian, "w_id")[0, 0]))

    blind = radius(data)
    assert blind == pytest.approx(1.0, abs=1e-3)
    seen = radius(data + by_pixels(samples, uncertainty.PixelNoise()))
    assert seen < 0.5
    noisy = radius(data + by_pixels(samples, uncertainty.PixelNoise(colour=1.0, alpha=100.0)))
    assert seen < noisy < blind
    few = radius(data + by_pixels(samples, uncertainty.PixelNoise(independent=10.0)))
    assert seen < few < blind


def test_a_posterior_is_about_the_optimum_of_its_objective():
    """The precision is the Hessian of the objective where residuals vanish."""
    views, optimum = _three_views()
    zero = uncertainty.unknowns(views, optimum, ("pose", "w_id"))
    flat, unravel = ravel_pytree(zero)

    def objective(x):
        return uncertainty.landmark_objective(unravel(x), views, SPACE, optimum, 1.0)

    hessian = jax.jit(jax.hessian(objective))(flat)
    factor = laplace(views, SPACE, optimum, 1.0, free=("pose", "w_id")).factor
    np.testing.assert_allclose(factor.T @ hessian @ factor, np.eye(len(flat)), atol=2e-2)
    outlier = dataclasses.replace(views, landmarks=views.landmarks.at[0, 0].add(500.0))
    value = uncertainty.landmark_objective(zero, outlier, SPACE, optimum, 1.0)
    linear = 0.5 * (5 * 500 * np.sqrt(2) - 6.25)  # Huber's, not 500^2
    assert float(value - objective(flat)) == pytest.approx(linear, rel=1e-3)
    assert apply_pose(optimum.S_canonical_world, zero["pose"]).scale == pytest.approx(1 / 150)


def test_misuse_is_named():
    views, optimum = _three_views()
    with pytest.raises(InputError, match="unknowns"):
        uncertainty.unknowns(views, optimum, ("w_id", "gaze"))
    with pytest.raises(InputError, match="camera"):
        uncertainty.laplace(views, SPACE, optimum, free=("w_id", "cameras"))
