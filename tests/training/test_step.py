"""One train step: plain gradient descent by hand, what a bad gradient does, and eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrecon.training import parallel
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


def test_chunks_take_the_step_of_the_whole_batch(problem):
    state, batch = problem
    whole, expected = step(state, batch)

    def mean_loss(params, batch):
        value, _ = loss(params, batch)
        return value, {"again": 2.0 * value}

    for chunks in (2, 4, 16):
        some = jax.jit(functools.partial(train_step, mean_loss, OPTIMISER, chunks=chunks))
        after, metrics = some(state, batch)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5), after.params, whole.params
        )
        for name in ("loss", "gradient_norm", "skipped"):
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(metrics["again"], 2.0 * expected["loss"], rtol=1e-5)
    with pytest.raises(ValueError, match="3 chunks"):
        train_step(mean_loss, OPTIMISER, state, batch, chunks=3)


def test_chunks_of_eight_devices_take_the_step_of_one(problem):
    """Every chunk holds an example of each device: nothing moves between them but gradients."""
    state, batch = problem
    whole, _ = step(state, batch)
    mesh = parallel.make_mesh(8)

    def mean_loss(params, batch):
        return loss(params, batch)[0], {}

    two = parallel.jitted(functools.partial(train_step, mean_loss, OPTIMISER, chunks=2), mesh)
    after, _ = two(parallel.replicate(state, mesh), batch)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), after.params, whole.params
    )


def normalised_loss(params, batch_stats, batch):
    """A batch-normalised linear fit, with its statistics running at a tenth."""
    mean = jnp.mean(batch["x"], axis=0)
    predicted = (batch["x"] - mean[None]) @ params["w"] + params["b"]
    running = 0.9 * batch_stats["mean"] + 0.1 * mean
    value = jnp.mean((predicted - batch["y"]) ** 2)
    return value, ({"offset": jnp.mean(predicted)}, {"mean": running})


def test_batch_statistics_run_along(problem):
    plain, batch = problem
    start = {"mean": jnp.array([1.0, 2.0, 3.0])}
    state = create_state(plain.params, OPTIMISER, plain.key, start)
    after, metrics = jax.jit(functools.partial(train_step, normalised_loss, OPTIMISER))(
        state, batch
    )
    expected = 0.9 * np.array([1.0, 2.0, 3.0]) + 0.1 * np.float64(batch["x"]).mean(0)
    np.testing.assert_allclose(after.batch_stats["mean"], expected, rtol=1e-6)
    assert {"loss", "offset", "gradient_norm", "skipped"} == set(metrics)
    assert np.abs(np.asarray(after.params["w"] - plain.params["w"])).max() > 0
    # a bad batch changes no statistics either
    bad, metrics = train_step(
        normalised_loss, OPTIMISER, state, batch | {"y": batch["y"].at[0].set(np.nan)}
    )
    assert metrics["skipped"] == 1
    np.testing.assert_array_equal(bad.batch_stats["mean"], start["mean"])
    with pytest.raises(ValueError, match="normalised by itself"):
        train_step(normalised_loss, OPTIMISER, state, batch, chunks=2)


def test_batch_statistics_are_averaged_over_devices(problem):
    plain, batch = problem
    state = create_state(plain.params, OPTIMISER, plain.key, {"mean": jnp.zeros(3)})
    many = parallel.pmapped(
        functools.partial(train_step, normalised_loss, OPTIMISER, axis_name=parallel.AXIS), 8,
        donate=False,
    )  # fmt: skip
    after, _ = many(state, parallel.split_batch(batch, 8))
    expected = 0.1 * np.float64(batch["x"]).mean(0)
    np.testing.assert_allclose(after.batch_stats["mean"], expected, atol=1e-6)
