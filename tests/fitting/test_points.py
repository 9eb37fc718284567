"""Codes from points: balls whose radius and centre are the codes are found again."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.fitting import points as point_fit
from jaxrecon.fitting.points import PointConfig, PointHyper, fit_points
from jaxrecon.types import Similarity
from tests.fitting import balls

SPACE, PARAMS = balls.space(), balls.params()
EXACT = PointHyper(independent=np.float32(1e6))  # the prior hardly counts
CONFIG = PointConfig(steps=8, chunk=64)
COUNT = 200


@functools.partial(jax.jit, static_argnames="config")
def solve(points, normals, weights, config=CONFIG, hyper=EXACT, initial=None):
    return fit_points(
        balls.FUNCTIONS, PARAMS, SPACE, points, normals, weights, config, hyper, initial
    )


def scans(seed, radius=0.56, x=0.04, heights=(-0.05, 0.08), z=0.0):
    """Exact points and normals of one ball at several heights, canonical."""
    rng = np.random.default_rng(seed)
    normals = rng.standard_normal((len(heights), COUNT, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    centres = np.array([[x, y, z] for y in heights])[:, None]
    weights = np.ones((len(heights), COUNT), np.float32)
    single = np.float32
    return (centres + radius * normals).astype(single), normals.astype(single), weights


def check(fit, radius=0.56, x=0.04, heights=(-0.05, 0.08), atol=1e-4):
    np.testing.assert_allclose(0.5 + 0.1 * fit.z_id[0], radius, atol=atol)
    np.testing.assert_allclose(0.1 * fit.z_id[1], x, atol=atol)
    np.testing.assert_allclose(fit.z_exp[:, 0], heights, atol=atol)


@pytest.mark.parametrize("with_normals", [True, False])
def test_two_scans_give_one_person(with_normals):
    points, normals, weights = scans(0)
    fit = solve(points, normals if with_normals else None, weights)
    check(fit)
    history = np.asarray(fit.history)
    assert history.shape == (CONFIG.steps + 1,) and (np.diff(history) <= 0).all()
    assert history[-1] < 1e-2 * history[0]


def test_residual_codes_leave_the_components():
    # One component of two: the second channel is out of reach without residuals.
    narrow = dataclasses.replace(SPACE, id_basis=SPACE.id_basis[:1])
    points, normals, _ = scans(1)

    @functools.partial(jax.jit, static_argnums=0)
    def run(config):
        return fit_points(
            balls.FUNCTIONS, PARAMS, narrow, points, normals, config=config, hyper=EXACT
        )

    within = run(CONFIG)
    assert abs(float(within.z_id[1])) < 1e-6
    check(run(dataclasses.replace(CONFIG, residuals=True)), atol=5e-4)


def level(local, point):
    """A field that is no distance: its gradient's length and direction vary with the unknowns."""
    a, b, c = local
    x, y, z = point
    return a * x * x + b * x * y + (1 + c * c) * z + 0.3 * jnp.sin(2 * y * a)


@pytest.mark.parametrize("robust", [False, True])
def test_derivatives_are_those_of_finite_differences(rng, robust):
    with jax.enable_x64(True):
        local = jnp.array([0.7, -0.4, 0.5])
        points, normals = jnp.asarray(rng.normal(size=(2, 5, 3)))
        normals = normals / jnp.linalg.norm(normals, axis=1, keepdims=True)
        weights = jnp.asarray([1.0, 0.5, 2.0, 1.0, 0.0])
        known = weights.at[1].set(0.0)
        config, hyper = PointConfig(robust=robust), PointHyper(distance=0.5, normal=0.8)

        def terms(x):
            return point_fit.point_terms(level, x, points, normals, weights, known, config, hyper)

        def rows(x):
            one = functools.partial(point_fit._residuals, level, x)
            return jax.vmap(one)(points, normals)

        cost, vector, matrix = terms(local)
        residuals, jacobian = rows(local)
        step = 1e-6
        for i in range(3):
            change = jnp.zeros(3).at[i].set(step)
            slope = (terms(local + change)[0] - terms(local - change)[0]) / (2 * step)
            np.testing.assert_allclose(2 * vector[i], slope, rtol=1e-6, atol=1e-6)
            column = (rows(local + change)[0] - rows(local - change)[0]) / (2 * step)
            np.testing.assert_allclose(jacobian[..., i], column, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix).min() > 0 and cost > 0
        # A distance is the value over the gradient's length.
        gradient = jax.vmap(jax.grad(functools.partial(level, local)))(points)
        expected = jax.vmap(functools.partial(level, local))(points)
        np.testing.assert_allclose(
            residuals[:, 0], expected / jnp.linalg.norm(gradient, axis=1), rtol=1e-12
        )


def test_vmapped_subjects_equal_the_loop():
    first, second = scans(2), scans(3, 0.45, -0.08, (0.1, 0.0))
    batch = jax.tree.map(lambda *a: np.stack(a), first, second)
    both = jax.jit(jax.vmap(lambda p, n, w: solve(p, n, w)))(*batch)
    check(jax.tree.map(lambda a: a[1], both), 0.45, -0.08, (0.1, 0.0))
    for i, own in enumerate((first, second)):
        alone = solve(*own)
        np.testing.assert_allclose(both.z_id[i], alone.z_id, atol=1e-5)
        np.testing.assert_allclose(both.z_exp[i], alone.z_exp, atol=1e-5)


def test_huber_bears_points_that_belong_to_nothing():
    points, normals, weights = scans(4)
    points[:, : COUNT // 5] += 0.3 * normals[:, : COUNT // 5]  # hair, all on the outside
    errors = {}
    for robust in (False, True):
        fit = solve(points, normals, weights, dataclasses.replace(CONFIG, robust=robust))
        errors[robust] = abs(0.5 + 0.1 * float(fit.z_id[0]) - 0.56)
    assert errors[False] > 0.02 and errors[True] < 0.2 * errors[False]


def test_rough_registration_is_refined():
    points, normals, weights = scans(5, z=0.03)
    stiff = dataclasses.replace(EXACT, shift=np.float32(1.0))
    refined = solve(points, normals, weights, dataclasses.replace(CONFIG, pose=True), stiff)
    assert refined.history[-1] < 0.05 * solve(points, normals, weights).history[-1]
    pose = refined.S_canonical_points
    for i, y in enumerate((-0.05, 0.08)):  # the true centre, where the codes put it
        centre = pose.scale[i] * pose.R[i] @ jnp.array([0.04, y, 0.03]) + pose.t[i]
        expected = [0.1 * refined.z_id[1], refined.z_exp[i, 0], 0.0]
        np.testing.assert_allclose(centre, expected, atol=1e-3)


def test_scans_in_another_frame_are_moved_first():
    points, normals, weights = scans(6)
    turn = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float32)
    shift = np.array([10, -20, 5], np.float32)
    elsewhere = 150 * points @ turn + shift  # x_canonical = turn (x - shift) / 150
    initial = Similarity(
        np.full(2, 1 / 150, np.float32), np.stack([turn] * 2), np.stack([-turn @ shift / 150] * 2)
    )
    fit = solve(elsewhere, normals @ turn, weights, initial=initial)
    check(fit)
    np.testing.assert_allclose(fit.S_canonical_points.scale, 1 / 150, rtol=1e-5)
    np.testing.assert_allclose(fit.S_canonical_points.R, initial.R, atol=1e-6)


def test_points_that_are_padding_or_not_finite_do_not_count():
    points, normals, weights = scans(7)
    spoiled, padded = points.copy(), weights.copy()
    spoiled[0, 150:], padded[1, 120:] = np.nan, 0.0
    spoiled[1, 120:] = 5.0
    fit = solve(spoiled, normals, padded)
    check(fit)
    # However they are cut into chunks.
    again = solve(spoiled, normals, padded, dataclasses.replace(CONFIG, chunk=37))
    np.testing.assert_allclose(again.z_id, fit.z_id, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.zeros((COUNT, 3), np.float32)}, "points of shape"),
        ({"points": np.zeros((2, 0, 3), np.float32)}, "points of shape"),
        ({"normals": np.zeros((2, 5, 3), np.float32)}, "normals of shape"),
        ({"weights": np.zeros((1, COUNT), np.float32)}, "weights of shape"),
        ({"config": PointConfig(steps=0)}, "steps 0"),
    ],
)
def test_shapes_that_do_not_belong_together(change, message):
    points, normals, weights = scans(8)
    inputs = {"points": points, "normals": normals, "weights": weights, "config": CONFIG} | change
    with pytest.raises(InputError, match=message):
        fit_points(balls.FUNCTIONS, PARAMS, SPACE, **inputs)
