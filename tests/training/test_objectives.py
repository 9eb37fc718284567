"""Objectives train what they name, in turn, and leave the rest alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrecon.errors import InputError
from jaxrecon.training import parallel
from jaxrecon.training.objectives import (
    Objective,
    create_objectives_state,
    merge,
    objectives_step,
    partition,
)
from jaxrecon.training.state import create_state
from jaxrecon.training.step import train_step

KEY = jax.random.key(0)
PARAMS = {
    "generator": {"mapping": {"w": jnp.array([0.3, -0.2])}, "out": jnp.array([1.5, -0.5])},
    "generator2": jnp.array([2.0, 1.0]),
    "critic": jnp.array([0.7, 0.4]),
}


def game(params, batch):
    """Generator and critic pull in opposite directions; every parameter has a gradient."""
    g = params["generator"]
    value = batch["x"] @ (g["mapping"]["w"] * g["out"] * params["generator2"] * params["critic"])
    return jnp.mean(value), {"value": jnp.mean(value)}


def against(params, batch):
    value, _ = game(params, batch)
    return -value, {}


def batch(count=4):
    return {"x": np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)}


def flat(tree):
    return {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize(
    ("prefixes", "chosen"),
    [
        (["generator"], {"['generator']['mapping']['w']", "['generator']['out']"}),
        (["generator/out", "critic"], {"['generator']['out']", "['critic']"}),
        (["generator", "generator/out"], {"['generator']['mapping']['w']", "['generator']['out']"}),
        (["generator2"], {"['generator2']"}),
        ([], set()),
    ],
)
def test_partition_takes_whole_names_and_merge_undoes_it(prefixes, chosen):
    part, rest = partition(PARAMS, prefixes)
    assert set(flat(part)) == chosen
    assert set(flat(rest)) == set(flat(PARAMS)) - chosen
    whole = merge(part, rest)
    assert jax.tree.structure(whole) == jax.tree.structure(PARAMS)
    assert all(a is b for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(PARAMS), strict=True))


def test_what_is_not_trained_stays_bit_equal_and_has_no_optimiser_state():
    """Weight decay and momentum would show at once."""
    objective = Objective("g", game, optax.adamw(0.1, weight_decay=0.5), ("generator/mapping",))
    state = create_objectives_state(PARAMS, [objective], KEY)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert [leaf.shape for leaf in moments] == [(2,), (2,)]
    step = jax.jit(functools.partial(objectives_step, [objective]))
    for _ in range(3):
        state, _ = step(state, batch())
    trained = "['generator']['mapping']['w']"
    for name, value in flat(state.params).items():
        equal = np.array_equal(value, flat(PARAMS)[name])
        assert equal == (name != trained), name
    assert int(state.step) == 3


def test_players_move_in_turn():
    """The second sees the first's move: gradient descent by hand."""
    players = [
        Objective("g", game, optax.sgd(0.1), ("generator/out",)),
        Objective("c", against, optax.sgd(0.2), ("critic",)),
    ]
    state = create_objectives_state(PARAMS, players, KEY)
    after, metrics = jax.jit(functools.partial(objectives_step, players))(state, batch())
    x = batch()["x"].mean(0)
    w, fixed = np.array(PARAMS["generator"]["mapping"]["w"]), np.array(PARAMS["generator2"])
    out, critic = np.array(PARAMS["generator"]["out"]), np.array(PARAMS["critic"])
    out = out - 0.1 * x * w * fixed * critic
    critic_after = critic + 0.2 * x * w * fixed * out
    np.testing.assert_allclose(after.params["generator"]["out"], out, rtol=1e-6)
    np.testing.assert_allclose(after.params["critic"], critic_after, rtol=1e-6)
    np.testing.assert_allclose(metrics["c/loss"], -np.sum(x * w * fixed * out * critic), rtol=1e-5)
    assert {"g/loss", "g/value", "g/gradient_norm", "c/skipped"} <= set(metrics)
    assert int(after.step) == 1


def test_one_objective_over_everything_is_the_train_step():
    optimiser = optax.adam(0.01)
    whole = [Objective("all", game, optimiser)]
    state = create_objectives_state(PARAMS, whole, KEY)
    plain = create_state(PARAMS, optimiser, KEY)
    after, metrics = jax.jit(functools.partial(objectives_step, whole))(state, batch())
    expected, others = jax.jit(functools.partial(train_step, game, optimiser))(plain, batch())
    assert metrics["loss"] == others["loss"]
    for name, value in flat(after.params).items():
        np.testing.assert_array_equal(value, flat(expected.params)[name])


def test_two_players_on_eight_devices():
    players = [
        Objective("g", game, optax.sgd(0.1), ("generator",)),
        Objective("c", against, optax.adam(0.1), ("critic",)),
    ]
    state = create_objectives_state(PARAMS, players, KEY)
    step = functools.partial(objectives_step, players)
    alone, _ = jax.jit(step)(state, batch(16))
    mesh = parallel.make_mesh(8)
    eight, _ = parallel.jitted(step, mesh)(parallel.replicate(state, mesh), batch(16))
    mapped, _ = parallel.pmapped(functools.partial(step, axis_name=parallel.AXIS), 8, donate=False)(
        state, parallel.split_batch(batch(16), 8)
    )
    for name, value in flat(alone.params).items():
        np.testing.assert_allclose(flat(eight.params)[name], value, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(flat(mapped.params)[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("prefix", ["gen", "generator/missing", "critic/w", ""])
def test_a_name_without_parameters_is_refused(prefix):
    with pytest.raises(InputError, match="no parameters"):
        create_objectives_state(PARAMS, [Objective("g", game, optax.sgd(0.1), (prefix,))], KEY)


@pytest.mark.parametrize("names", [("g", "g"), ()])
def test_names_are_unique_and_not_missing(names):
    objectives = [Objective(name, game, optax.sgd(0.1)) for name in names]
    with pytest.raises(InputError, match="objectives named"):
        create_objectives_state(PARAMS, objectives, KEY)


def test_objectives_pass_statistics_on():
    """The second objective normalises by what the first has left."""

    def counting(params, batch_stats, batch):
        value, metrics = game(params, batch)
        return value, (metrics | {"seen": batch_stats["n"]}, {"n": batch_stats["n"] + 1.0})

    players = [
        Objective("g", counting, optax.sgd(0.1), ("generator",)),
        Objective("c", counting, optax.sgd(0.1), ("critic",)),
    ]
    state = create_objectives_state(PARAMS, players, KEY, {"n": jnp.float32(5.0)})
    after, metrics = jax.jit(functools.partial(objectives_step, players))(state, batch())
    assert metrics["g/seen"] == 5 and metrics["c/seen"] == 6 and after.batch_stats["n"] == 7
