"""Derivatives of optima: against closed forms, and against refits of the landmark stage."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxrecon.fitting import latents, uncertainty
from jaxrecon.fitting.implicit_gradient import implicit, implicit_least_squares
from jaxrecon.types import Cameras, Similarity
from tests.fitting import linear_space


def double(tree):
    def one(x):
        x = jnp.asarray(x)
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, tree)


def test_a_quadratic_has_its_closed_form(rng):
    A = rng.standard_normal((5, 3)).astype(np.float32)
    c = jnp.asarray(rng.standard_normal(5), jnp.float32)
    inverse = np.linalg.pinv(A)
    optimum = {"x": jnp.asarray(inverse @ np.asarray(c))}

    def residuals(x, c):
        return jnp.asarray(A) @ x["x"] - c

    def objective(x, c):
        return 0.5 * jnp.sum(residuals(x, c) ** 2)

    for by, function in ((implicit, objective), (implicit_least_squares, residuals)):
        value = by(function, optimum, c)["x"]
        np.testing.assert_array_equal(value, optimum["x"])
        for jacobian in (jax.jacfwd, jax.jacrev):
            found = jacobian(lambda c, by=by, f=function: by(f, optimum, c)["x"])(c)
            np.testing.assert_allclose(found, inverse, atol=2e-5)


def test_least_squares_are_exact_where_residuals_vanish():
    """x^3 = c, measured thrice: x = c^(1/3), dx/dc = 1 / (3 x^2); batches by vmap."""
    c = jnp.asarray([0.5, 1.0, 8.0])
    x = c ** (1 / 3)

    def residuals(x, c):
        return (x**3 - c) * jnp.asarray([1.0, 2.0, 3.0])

    derivative = jax.vmap(jax.grad(lambda c, x: implicit_least_squares(residuals, x, c)))(c, x)
    np.testing.assert_allclose(derivative, 1 / (3 * x**2), rtol=1e-5)


@pytest.fixture(scope="module")
def problem():
    """Noisy landmarks, some far off, of a head at the identity; float64."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        raw = linear_space.space()
        pose = ((0.0, 1e-6, 0.0), (0.0, 0.0, 0.0))
        w_id, w_exp = rng.standard_normal(4), rng.standard_normal((1, 2))
        views, _ = linear_space.view_data(raw, (-0.6, 0.05, 0.5), w_id, w_exp, pose)
        space, views = double(raw), double(views)
        noisy = np.array(views.landmarks) + 0.5 * rng.standard_normal((3, 68, 2))
        noisy[0, ::9] += 12.0
        views = dataclasses.replace(views, landmarks=jnp.asarray(noisy))
        start = uncertainty.Optimum(
            Similarity(jnp.asarray(1 / 150.0), jnp.eye(3), jnp.zeros(3)),
            double(latents.initial_codes(space, 1)) | {"w_id": w_id, "w_exp": w_exp},
        )
        zero = uncertainty.unknowns(views, start, ("pose", "w_id", "w_exp"))

        def objective(change, c):
            cameras = Cameras(views.cameras.K, views.cameras.R, views.cameras.t.at[0].add(c))
            moved = dataclasses.replace(views, cameras=cameras)
            return uncertainty.landmark_objective(change, moved, space, start, 0.7)

        flat, unravel = ravel_pytree(zero)

        def flat_objective(x, c):
            return objective(unravel(x), c)

        @jax.jit
        def solve(c):
            """Newton's steps from the truth: the optimum to rounding."""

            def step(x, _):
                H = jax.hessian(flat_objective)(x, c)
                return x - jnp.linalg.solve(H, jax.grad(flat_objective)(x, c)), None

            return jax.lax.scan(step, flat, None, length=12)[0]

        yield objective, flat_objective, unravel, solve


def test_landmark_optima_follow_the_camera_as_refits_do(problem):
    """Millimetres of one camera's translation; outliers count linearly on both sides."""
    objective, flat_objective, unravel, solve = problem
    with jax.enable_x64(True):
        zero = jnp.zeros(3)
        optimum = solve(zero)
        assert jnp.max(jnp.abs(jax.grad(flat_objective)(optimum, zero))) < 1e-8
        step = 1e-3
        refits = [solve(zero.at[i].add(s * step)) for i in range(3) for s in (1, -1)]
        differences = np.stack(
            [(refits[2 * i] - refits[2 * i + 1]) / (2 * step) for i in range(3)], 1
        )

        def fitted(c):
            return ravel_pytree(implicit(objective, unravel(optimum), c))[0]

        forward, reverse = jax.jit(jax.jacfwd(fitted))(zero), jax.jit(jax.jacrev(fitted))(zero)
        size = np.linalg.norm(differences)
        assert size > 1e-3
        assert np.linalg.norm(forward - differences) < 1e-6 * size
        np.testing.assert_allclose(reverse, forward, atol=1e-12)
