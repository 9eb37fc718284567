"""One device, eight under jit, and eight under pmap train the same; and the traps of each way."""

import functools
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrecon.errors import InputError
from jaxrecon.training import parallel
from jaxrecon.training.checkpoints import Checkpoints
from jaxrecon.training.state import create_state
from jaxrecon.training.step import train_step

BATCH, WIDTH, STEPS = 32, 16, 20
SGD, ADAM = optax.sgd(0.05, momentum=0.9), optax.adam(1e-2)
SCRIPT = pathlib.Path(__file__).with_name("two_processes.py")


def predict(params, x):
    def layer(hidden, _):
        return jnp.tanh(x @ params["in"] + hidden @ params["hidden"]), None

    # A carry made here, not of the inputs: a trap of shard_map, which checks how values vary.
    hidden, _ = jax.lax.scan(layer, jnp.zeros((x.shape[0], WIDTH)), length=3)
    return hidden @ params["out"]


def loss(params, batch):
    """Mean over examples, each with its own noise, drawn from its own key."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (1,)))(batch["key"])
    error = predict(params, batch["x"]) - batch["y"] + 0.01 * noise
    return jnp.mean(error**2), {"largest_target": jnp.mean(jnp.abs(batch["y"]))}


def first_params():
    keys = jax.random.split(jax.random.key(1), 3)
    shapes = {"in": (3, WIDTH), "hidden": (WIDTH, WIDTH), "out": (WIDTH, 1)}
    return {
        name: jax.random.normal(key, shape) / np.sqrt(shape[0])
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def batch_of(step: int) -> dict:
    rng = np.random.default_rng(step)
    x = rng.normal(size=(BATCH, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(2), step), BATCH)
    return {"x": x, "y": np.sin(x.sum(1, keepdims=True)), "key": keys}


def first_state(optimiser):
    return create_state(first_params(), optimiser, jax.random.key(0))


def one_step(optimiser, axis_name=None):
    return functools.partial(train_step, loss, optimiser, axis_name=axis_name)


def train(state, step, prepare=lambda batch: batch):
    losses = []
    for i in range(STEPS):
        state, metrics = step(state, prepare(batch_of(i)))
        losses.append(float(metrics["loss"]))
    return jax.device_get(state.params), np.array(losses)


@pytest.mark.parametrize("optimiser", [SGD, ADAM], ids=["sgd", "adam"])
def test_eight_devices_are_one_device_are_pmap(optimiser):
    """Adam hides a gradient that is eight times too large; SGD does not."""
    mesh = parallel.make_mesh(8)
    runs = {
        "one": train(first_state(optimiser), jax.jit(one_step(optimiser))),
        "jit": train(
            parallel.replicate(first_state(optimiser), mesh),
            parallel.jitted(one_step(optimiser), mesh),
        ),
        "pmap": train(
            first_state(optimiser),
            parallel.pmapped(one_step(optimiser, parallel.AXIS), 8),
            lambda batch: parallel.split_batch(batch, 8),
        ),
    }
    params, losses = runs.pop("one")
    assert losses[-1] < 0.5 * losses[0]
    for name, (other, other_losses) in runs.items():
        np.testing.assert_allclose(other_losses, losses, rtol=1e-5, atol=1e-6, err_msg=name)
        for key in params:
            np.testing.assert_allclose(other[key], params[key], rtol=0, atol=3e-6, err_msg=name)


def test_a_batch_lies_split_over_the_devices():
    """A host array given to a sharded jit may silently be computed whole on every device."""
    mesh = parallel.make_mesh(8)
    batch = parallel.shard_batch(batch_of(0), mesh)
    for leaf, source in zip(jax.tree.leaves(batch), jax.tree.leaves(batch_of(0)), strict=True):
        assert leaf.sharding == NamedSharding(mesh, PartitionSpec("data"))
        rows = [shard.data.shape[0] for shard in leaf.addressable_shards]
        assert rows == [BATCH // 8] * 8
        assert (leaf == source).all()
    again = parallel.shard_batch(batch, mesh)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(batch), strict=True))


def test_a_jitted_step_places_host_batches_itself():
    """Passing them on to jit as they are would be an implicit transfer, which is forbidden here."""
    mesh = parallel.make_mesh(8)
    step = parallel.jitted(one_step(SGD), mesh)
    state = parallel.replicate(first_state(SGD), mesh)
    batch = batch_of(0)
    with jax.transfer_guard_host_to_device("disallow"):
        with pytest.raises(Exception, match="host-to-device"):
            jax.jit(lambda batch: batch["x"] + batch["y"])(batch)
        state, _ = step(state, batch)
    assert int(state.step) == 1


@pytest.mark.parametrize("form", ["jit", "pmap"])
def test_donation_deletes_the_state_given_and_no_other(form):
    source = first_state(SGD)
    before = jax.device_get(source.params)
    if form == "jit":
        mesh = parallel.make_mesh(8)
        given = parallel.replicate(source, mesh)
        parallel.jitted(one_step(SGD), mesh)(given, batch_of(0))
    else:
        given = create_state(source.params, SGD, source.key)
        step = parallel.pmapped(one_step(SGD, parallel.AXIS), 8)
        step(given, parallel.split_batch(batch_of(0), 8))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given.params))
    for key, value in source.params.items():
        assert not value.is_deleted()
        np.testing.assert_array_equal(value, before[key])


def test_axes_are_auto_so_that_any_operation_may_cross_the_batch():
    mesh = parallel.make_mesh(8)
    assert mesh.axis_types == (AxisType.Auto,)

    def cross(state, batch):
        x = batch["x"]
        mixed = jnp.cumsum(jnp.sort(x, axis=0), axis=0)[jnp.array([3, 17])]
        return state, {"mixed": mixed, "flat": x.reshape(-1)[:5]}

    step = parallel.jitted(cross, mesh, donate=False)
    x = batch_of(0)["x"]
    _, values = step({}, {"x": x})
    np.testing.assert_allclose(
        values["mixed"], np.cumsum(np.sort(x, axis=0), axis=0)[[3, 17]], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(values["flat"], x.reshape(-1)[:5])


@pytest.mark.parametrize("form", ["jit", "pmap"])
def test_results_are_read_without_gathering(form):
    """Whole on every device, and not stacked."""
    if form == "jit":
        mesh = parallel.make_mesh(8)
        step = parallel.jitted(one_step(SGD), mesh)
        results = step(parallel.replicate(first_state(SGD), mesh), batch_of(0))
    else:
        step = parallel.pmapped(one_step(SGD, parallel.AXIS), 8)
        results = step(first_state(SGD), parallel.split_batch(batch_of(0), 8))
    expected = jax.eval_shape(one_step(SGD), first_state(SGD), batch_of(0))
    for leaf, like in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        assert leaf.shape == like.shape and leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == 8
        assert leaf.addressable_shards[0].data.shape == like.shape


def test_one_bad_example_skips_the_step_on_every_device():
    batch = batch_of(0)
    batch["x"][5] = np.nan
    mesh = parallel.make_mesh(8)
    first = first_params()
    state, metrics = parallel.jitted(one_step(SGD), mesh)(
        parallel.replicate(first_state(SGD), mesh), batch
    )
    other, others = parallel.pmapped(one_step(SGD, parallel.AXIS), 8)(
        first_state(SGD), parallel.split_batch(batch, 8)
    )
    assert metrics["skipped"] == others["skipped"] == 1.0
    for key, value in first.items():
        for result in (state, other):
            for shard in result.params[key].addressable_shards:
                np.testing.assert_array_equal(shard.data, value)


def test_a_step_may_take_a_key():
    def noisy(state, batch, key):
        mean = jnp.mean(batch["x"])
        return state + jax.random.normal(key, ()), {"mean": mean}

    def noisy_share(state, batch, key):
        state, metrics = noisy(state, batch, key)
        return state, jax.lax.pmean(metrics, parallel.AXIS)

    mesh, key = parallel.make_mesh(8), jax.random.key(3)
    batch = {"x": batch_of(0)["x"]}
    jitted, pmapped = parallel.jitted(noisy, mesh, True), parallel.pmapped(noisy_share, 8, True)
    state, metrics = jitted(parallel.replicate(jnp.ones(()), mesh), batch, key)
    other, others = pmapped(jnp.ones(()), parallel.split_batch(batch, 8), key)
    np.testing.assert_allclose([state, other], 1.0 + jax.random.normal(key, ()), rtol=1e-5)
    np.testing.assert_allclose(metrics["mean"], others["mean"], rtol=1e-6)


def test_a_checkpoint_of_eight_devices_goes_on_with_two(tmp_path):
    eight, two = parallel.make_mesh(8), parallel.make_mesh(2)
    step = parallel.jitted(one_step(ADAM), eight)
    state, _ = step(parallel.replicate(first_state(ADAM), eight), batch_of(0))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, wait=True)
    restored = checkpoints.restore(parallel.replicate(first_state(ADAM), two))
    checkpoints.close()
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert a.sharding == NamedSharding(two, PartitionSpec())
        assert (jax.device_get(a) == jax.device_get(b)).all()
    after, _ = parallel.jitted(one_step(ADAM), two)(restored, batch_of(1))
    expected, _ = step(state, batch_of(1))
    for key, value in jax.device_get(expected.params).items():
        np.testing.assert_allclose(after.params[key], value, rtol=0, atol=1e-6)


def test_two_processes_are_one_process():
    """Four devices in two processes, each with its own half of every batch."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, str(SCRIPT), str(port)]
    workers = [
        subprocess.Popen([*arguments, str(i)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for i in range(2)
    ]
    try:
        ends = [worker.communicate(timeout=240) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], ends
    first, second = (np.array(stdout.split()[-2:], float) for stdout, _ in ends)
    np.testing.assert_array_equal(first, second)
    mesh = parallel.make_mesh(4)
    step, state = parallel.jitted(one_step(SGD), mesh), parallel.replicate(first_state(SGD), mesh)
    for i in range(3):
        state, metrics = step(state, batch_of(i))
    total = sum(float(jnp.sum(jnp.abs(value))) for value in state.params.values())
    np.testing.assert_allclose(first, [float(metrics["loss"]), total], rtol=1e-6)


@pytest.mark.parametrize(
    "batch", [{"x": np.zeros((12, 3), np.float32)}, {"x": np.zeros((), np.float32)}]
)
def test_a_batch_that_does_not_divide_is_refused(batch):
    mesh = parallel.make_mesh(8)
    for place in (parallel.split_batch, lambda b, _: parallel.shard_batch(b, mesh)):
        with pytest.raises(InputError, match=r"batch\['x'\] of shape .* for 8 devices"):
            place(batch, 8)


@pytest.mark.parametrize("count", [0, 9])
def test_more_devices_than_there_are_is_refused(count):
    with pytest.raises(InputError, match=f"{count} devices"):
        parallel.make_mesh(count)
