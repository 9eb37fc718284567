"""Cameras that move: what a change means, its gradients, and cameras found again from landmarks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.fitting import cameras as fitted
from jaxrecon.fitting import fit as fitting
from jaxrecon.fitting import latents
from jaxrecon.fitting.landmarks import fit_landmarks
from jaxrecon.fitting.problem import FitConfig, Hyper, default_rates
from jaxrecon.geometry import cameras as camera_ops
from jaxrecon.types import Cameras, Similarity
from tests.fitting import balls, linear_space

SPACE = linear_space.space()
ON_DEVICE = jax.tree.map(jnp.asarray, SPACE)
THREE = (-0.6, 0.05, 0.5)
HYPER = Hyper(landmark_noise=np.float32(0.02))  # exact data: the prior hardly counts
CANONICAL = Similarity(
    scale=np.float32(1 / 150), R=np.eye(3, dtype=np.float32), t=np.zeros(3, np.float32)
)


def canonical(angles=THREE) -> Cameras:
    """Three cameras about the head, canonical units."""
    return camera_ops.transform_cameras(
        jax.tree.map(jnp.asarray, linear_space.cameras(angles)), CANONICAL
    )


# ---------------------------------------------------------------- what a change is


def test_no_change_changes_nothing():
    cameras = canonical()
    still = fitted.move_cameras(cameras, jnp.zeros((3, 7)))
    jax.tree.map(np.testing.assert_array_equal, still, cameras)


def test_a_change_is_a_turn_of_the_head_a_shift_and_a_zoom(rng):
    cameras, change = canonical(), 0.2 * rng.standard_normal((3, 7)).astype(np.float32)
    moved = fitted.move_cameras(cameras, jnp.asarray(change))
    x = rng.uniform(-0.5, 0.5, (10, 3))
    pixels, _ = camera_ops.project_shared(moved, x.astype(np.float32))
    for i in range(3):
        R = np.float64(cameras.R[i]) @ linear_space.rotation(change[i, :3])
        a = np.exp(change[i, 6])
        t = np.float64(cameras.t[i]) + change[i, 3:6]
        y = x @ R.T + t
        depth = y[:, 2] + t[2] * (a - 1)
        K = np.float64(cameras.K[i])
        expected = a * K[0, 0] * y[:, :2] / depth[:, None] + K[:2, 2]
        np.testing.assert_allclose(pixels[i], expected, atol=2e-3)


def test_a_zoom_keeps_the_size_of_the_head():
    cameras = canonical()
    change = jnp.zeros((3, 7)).at[:, 6].set(0.3)
    moved = fitted.move_cameras(cameras, change)
    np.testing.assert_allclose(moved.K[:, 0, 0] / cameras.K[:, 0, 0], np.exp(0.3), rtol=1e-6)
    before, after = (c.K[:, 0, 0] / c.t[:, 2] for c in (cameras, moved))
    np.testing.assert_allclose(after, before, rtol=1e-6)
    np.testing.assert_array_equal(moved.K[:, :2, 2], cameras.K[:, :2, 2])


def test_gradients_of_a_change_agree_with_finite_differences(rng):
    with jax.enable_x64(True):
        cameras = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), canonical())
        x, at, along = (rng.standard_normal(s) for s in ((5, 3), (3, 7), (3, 7)))

        @jax.jit
        def pixels(change):
            return camera_ops.project_shared(fitted.move_cameras(cameras, change), 0.3 * x)[0]

        for start in (0.1 * at, np.zeros((3, 7))):  # where nothing has moved yet, too
            _, exact = jax.jvp(pixels, (jnp.asarray(start),), (jnp.asarray(along),))
            numeric = (pixels(start + 1e-6 * along) - pixels(start - 1e-6 * along)) / 2e-6
            np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-5)


def test_world_cameras_show_what_canonical_ones_do(rng):
    views, _ = linear_space.view_data(SPACE, THREE, *weights_of(0))
    change = 0.1 * rng.standard_normal((3, 7)).astype(np.float32)
    pose = Similarity(
        scale=jnp.float32(1 / 140),
        R=jnp.asarray(linear_space.rotation((0.2, -0.1, 0.4)), jnp.float32),
        t=jnp.array([0.1, 0.2, -0.1]),
    )
    inside = fitted.canonical_cameras(views, pose, jnp.asarray(change))
    world = fitted.world_cameras(views, pose, jnp.asarray(change))
    x = rng.uniform(-0.5, 0.5, (9, 3)).astype(np.float32)
    x_world = (x - np.asarray(pose.t)) @ np.asarray(pose.R) / float(pose.scale)
    a, _ = camera_ops.project_shared(inside, x)
    b, _ = camera_ops.project_shared(world, x_world)
    np.testing.assert_allclose(a, b, atol=5e-3)
    assert fitted.world_cameras(views, pose, None) is views.cameras


def test_deviations_are_turn_shift_and_zoom(rng):
    """A camera that turns about its own centre has only turned."""
    cameras = canonical()
    spread = jnp.asarray(np.linspace(0.01, 0.07, 7), jnp.float32)
    turn = linear_space.rotation((0.02, -0.03, 0.01))
    R, t = np.float64(cameras.R[0]), np.float64(cameras.t[0])
    change = np.zeros((3, 7), np.float32)
    change[0, :3] = R.T @ (0.02, -0.03, 0.01)
    change[0, 3:6] = turn @ t - t
    change[1, 3:6] = np.float64(cameras.R[1]) @ (
        0.1,
        0.2,
        -0.1,
    )  # of the head: the camera goes back
    change[2, 6] = 0.05
    off = np.asarray(fitted.deviations(cameras, jnp.asarray(change), spread)) * np.asarray(spread)
    np.testing.assert_allclose(off[0], [*change[0, :3], 0, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(off[1], [0, 0, 0, -0.1, -0.2, 0.1, 0], atol=1e-5)
    away = np.linalg.norm(cameras.t[2]) * (np.exp(0.05) - 1)
    np.testing.assert_allclose(np.linalg.norm(off[2, 3:6]), away, rtol=0.01)
    np.testing.assert_allclose(off[2, 6], 0.05, rtol=1e-5)


def test_own_noise_replaces_that_of_the_mode():
    own = np.linspace(0.1, 0.7, 7).astype(np.float32)
    np.testing.assert_array_equal(fitted.camera_noise("refine", Hyper(camera_noise=own)), own)
    assert (
        fitted.camera_noise("refine", Hyper())[0]
        < 0.1
        < fitted.camera_noise("estimate", Hyper())[0]
    )


# ---------------------------------------------------------------- cameras from landmarks


def weights_of(seed, expressions=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(linear_space.IDS), rng.standard_normal(
        (expressions, linear_space.EXPRESSIONS)
    )


def test_a_far_camera_is_found_by_scaled_orthography(rng):
    """Perspective of a head 150 units away is a thousandth."""
    cameras = linear_space.cameras((0.4,), distance=150.0, focal=33000.0)
    x = SPACE.landmarks_mean
    pixels = linear_space.project(cameras, 0, np.float64(x)).astype(np.float32)
    weights = (rng.random(68) < 0.7).astype(np.float32)
    pixels[weights == 0] = 1e4
    K = jnp.asarray(cameras.K[0])
    R, t = jax.jit(fitted.pose_from_landmarks)(K, pixels, weights, x)
    np.testing.assert_allclose(R, cameras.R[0], atol=5e-3)
    np.testing.assert_allclose(t, cameras.t[0], rtol=0.01, atol=0.02)


@functools.partial(jax.jit, static_argnums=2)
def solve(views, hyper, config):
    if config.cameras.startswith("estimate"):
        views = fitted.guess_cameras(views, ON_DEVICE, config.cameras)
    codes = latents.initial_codes(ON_DEVICE, config.expressions)
    pose, codes, rms = fit_landmarks(views, ON_DEVICE, config, hyper, codes)
    inside = fitted.canonical_cameras(views, pose, codes["cameras"])
    return inside, codes, rms


def forget(views, focal: float | None = None):
    """The same pictures from cameras that nothing is known of."""
    K = np.array(views.cameras.K)
    if focal is not None:
        K[:, [0, 1], [0, 1]] = focal
    eye = np.tile(np.eye(3, dtype=np.float32), (len(K), 1, 1))
    cameras = Cameras(K=K, R=eye, t=np.zeros((len(K), 3), np.float32))
    return dataclasses.replace(views, cameras=jax.tree.map(jnp.asarray, cameras))


def truth_of(views, truth) -> Cameras:
    """The true cameras in the head's frame, canonical units: x_world = UNIT R x + t."""
    R = np.float64(views.cameras.R)
    t = (R @ truth["t"] + np.float64(views.cameras.t)) / linear_space.UNIT
    return Cameras(K=np.asarray(views.cameras.K), R=R @ truth["R"], t=t)


def test_unknown_cameras_are_found_with_the_codes():
    views, truth = linear_space.view_data(SPACE, THREE, *weights_of(1, 2))
    config = FitConfig(landmark_steps=30, cameras="estimate", expressions=2)
    found, codes, rms = solve(forget(views), HYPER, config)
    expected = truth_of(views, truth)
    assert rms < 0.03
    np.testing.assert_allclose(found.R, expected.R, atol=0.01)
    np.testing.assert_allclose(found.t, expected.t, rtol=0.01, atol=0.02)
    np.testing.assert_allclose(codes["w_id"], truth["w_id"], atol=0.1)
    np.testing.assert_array_equal(found.K[:, 0, 2], views.cameras.K[:, 0, 2])
    np.testing.assert_allclose(found.K, views.cameras.K, rtol=1e-4)


def test_an_unknown_focal_length_is_found_too():
    views, truth = linear_space.view_data(SPACE, THREE, *weights_of(2))
    config = FitConfig(landmark_steps=40, cameras="estimate_focal")
    wrong = 1.35 * float(views.cameras.K[0, 0, 0])
    found, _, rms = solve(forget(views, wrong), HYPER, config)
    assert rms < 0.05
    np.testing.assert_allclose(found.K[:, 0, 0], views.cameras.K[:, 0, 0], rtol=0.06)
    np.testing.assert_allclose(found.R, truth_of(views, truth).R, atol=0.03)


def test_a_picture_of_a_near_face_gets_a_longer_lens():
    """Without a focal length nobody is photographed from a hand's breadth."""
    views, _ = linear_space.view_data(SPACE, THREE, *weights_of(3))
    short = forget(views, 60.0)
    guessed = fitted.guess_cameras(short, ON_DEVICE, "estimate_focal")
    np.testing.assert_allclose(guessed.cameras.t[:, 2] / 150, fitted.NEAREST, rtol=1e-3)
    kept = fitted.guess_cameras(short, ON_DEVICE, "estimate")
    np.testing.assert_array_equal(kept.cameras.K, short.cameras.K)
    assert (np.asarray(kept.cameras.t[:, 2]) / 150 < 2).all()


def perturbed(cameras: Cameras, degrees: float, distance: float, seed: int = 0) -> Cameras:
    """Each camera turned about its own centre and shifted, in random directions."""
    rng = np.random.default_rng(seed)
    R, t = [], []
    for i in range(len(cameras.R)):
        turn, shift = (x / np.linalg.norm(x) for x in rng.standard_normal((2, 3)))
        centre = -np.float64(cameras.R[i]).T @ np.float64(cameras.t[i]) + distance * shift
        R.append(linear_space.rotation(np.radians(degrees) * turn) @ np.float64(cameras.R[i]))
        t.append(-R[-1] @ centre)
    return Cameras(K=cameras.K, R=np.float32(R), t=np.float32(t))


@pytest.mark.parametrize("seed", range(3))
def test_rough_cameras_are_refined(seed):
    """A degree and five millimetres: most of the error of relative poses and codes goes."""
    views, truth = linear_space.view_data(SPACE, THREE, *weights_of(4))
    rough = dataclasses.replace(
        views, cameras=jax.tree.map(jnp.asarray, perturbed(views.cameras, 1.0, 5.0, seed))
    )
    hyper = Hyper(landmark_noise=np.float32(0.2))
    kept = solve(rough, hyper, FitConfig(landmark_steps=25))
    refined = solve(rough, hyper, FitConfig(landmark_steps=25, cameras="refine"))

    def wrong(cameras):
        """Degrees between the views' relative turns and the true ones."""
        own, true = np.float64(cameras.R), np.float64(views.cameras.R)
        angles = []
        for i, j in ((0, 1), (1, 2), (0, 2)):
            difference = (own[i] @ own[j].T).T @ true[i] @ true[j].T
            angles.append(np.arccos(np.clip((np.trace(difference) - 1) / 2, -1, 1)))
        return np.degrees(np.mean(angles))

    assert wrong(refined[0]) < 0.5 * wrong(kept[0]) and wrong(kept[0]) > 0.5
    error = [np.linalg.norm(c[1]["w_id"] - truth["w_id"]) for c in (kept, refined)]
    assert error[1] < 0.5 * error[0] and refined[2] < 0.5 * kept[2]


# ---------------------------------------------------------------- in a fit

FIT = FitConfig(
    rays=48, landmark_steps=8, weight_steps=40, residual_steps=0, trace=balls.TRACE, neck=0.5,
    margin=4, lipschitz=1.0,
)  # fmt: skip


def run(views, mode):
    fit = jax.jit(
        lambda v, k: fitting.fit(
            balls.FUNCTIONS, balls.params(), balls.space(), v, k,
            dataclasses.replace(FIT, cameras=mode), Hyper(rates=default_rates() | {"w_id": 0.05}),
        )
    )  # fmt: skip
    return fit(views, jax.random.key(0))


def test_given_cameras_stay():
    views = balls.views(0.56, x=0.05)
    result = run(views, "given")
    assert not np.any(result.variables["cameras"])
    np.testing.assert_allclose(result.cameras.R, views.cameras.R, atol=1e-6)
    np.testing.assert_allclose(result.cameras.t, views.cameras.t, atol=1e-2)


def test_pixels_of_unknown_cameras_tell_the_radius():
    """Landmarks give the cameras, silhouettes the radius; the history holds the cameras' prior."""
    views = balls.views(0.56, x=0.05)
    result = run(forget(views), "estimate")
    assert abs(0.5 + 0.1 * float(result.z_id[0]) - 0.56) < 0.012
    np.testing.assert_allclose(result.S_canonical_world.scale, 1 / 150, rtol=1e-6)
    np.testing.assert_array_equal(result.S_canonical_world.R, np.eye(3))
    # the same pictures: the ball's centre falls where it did
    centre = np.array([150 * 0.1 * float(result.z_id[1]), 150 * float(result.z_exp[0, 0]), 0.0])
    mine, _ = camera_ops.project_shared(result.cameras, np.float32(centre)[None])
    theirs, _ = camera_ops.project_shared(views.cameras, np.float32([[150 * 0.05, 0, 0]]))
    np.testing.assert_allclose(mine, theirs, atol=0.3)
    assert result.history["cameras"].shape == (40,) and float(result.history["cameras"][-1]) > 0
