"""One train step: plain gradient descent by hand, what a bad gradient does, and eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrecon.training.state import create_state
from jaxrecon.training.step import train_step

OPTIMISER = optax.sgd(0.1, momentum=0.5)


def loss(params, batch):
    predicted = batch["x"] @ params["w"] + params["b"]
    value = jnp.mean((predicted - batch["y"]) ** 2)
    return value, {"largest": jnp.max(jnp.abs(predicted))}


@pytest.fixture
def problem(rng):
    params = {"w": rng.standard_normal(3).astype(np.float32), "b": np.float32(0.5)}
    batch = {"x": rng.standard_normal((16, 3)), "y": rng.standard_normal(16)}
    batch = {k: jnp.asarray(v, jnp.float32) for k, v in batch.items()}
    return create_state(jax.tree.map(jnp.asarray, params), OPTIMISER, jax.random.key(3)), batch


step = jax.jit(functools.partial(train_step, loss, OPTIMISER))


def test_a_step_is_gradient_descent(problem):
    state, batch = problem
    after, metrics = step(state, batch)
    x, y = (np.float64(batch[k]) for k in "xy")
    w, b = np.float64(state.params["w"]), np.float64(state.params["b"])
    error = x @ w + b - y
    gradient = {"w": 2 * x.T @ error / 16, "b": 2 * error.mean()}
    np.testing.assert_allclose(after.params["w"], w - 0.1 * gradient["w"], rtol=1e-5)
    np.testing.assert_allclose(after.params["b"], b - 0.1 * gradient["b"], rtol=1e-5)
    assert after.step == 1 and metrics["skipped"] == 0
    np.testing.assert_allclose(metrics["loss"], (error**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["largest"], np.abs(x @ w + b).max(), rtol=1e-5)
    norm = np.sqrt((gradient["w"] ** 2).sum() + gradient["b"] ** 2)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_only_the_count(problem, bad):
    state, batch = problem
    moving, _ = step(state, batch)
    after, metrics = step(moving, batch | {"y": batch["y"].at[0].set(bad)})
    assert after.step == 2 and metrics["skipped"] == 1 and not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, after.params, moving.params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, moving.opt_state)


def test_eight_devices_take_the_step_of_one(problem):
    state, batch = problem
    many = jax.pmap(
        functools.partial(train_step, loss, OPTIMISER, axis_name="data"),
        axis_name="data",
        in_axes=(None, 0),
        out_axes=None,
    )
    shards = jax.tree.map(lambda x: x.reshape(8, 2, *x.shape[1:]), batch)
    together, metrics = many(state, shards)
    alone, expected = step(state, batch)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), together.params, alone.params
    )
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)


def test_a_fresh_state_survives_donation(problem):
    state, batch = problem
    again = create_state(state.params, OPTIMISER, state.key)
    donating = jax.jit(functools.partial(train_step, loss, OPTIMISER), donate_argnums=0)
    donating(again, batch)
    assert np.isfinite(state.params["w"]).all() and state.step == 0
