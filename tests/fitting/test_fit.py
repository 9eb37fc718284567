"""The fit on balls whose radius and centre are codes: it finds them, deterministically, alike
under vmap, with one compilation, whatever loss or optimiser a user brings.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrecon.errors import InputError
from jaxrecon.fitting import fit as fitting
from jaxrecon.fitting import losses as fit_losses
from jaxrecon.fitting.problem import FitConfig, Hyper, default_rates, default_weights
from tests.fitting import balls

CONFIG = FitConfig(
    rays=64,
    landmark_steps=4,
    weight_steps=45,
    residual_steps=0,
    trace=balls.TRACE,
    neck=0.5,
    margin=4,
    lipschitz=1.0,
)
SPACE = balls.space()
TRACES = []


def _solve(params, views, key, hyper):
    TRACES.append(None)
    return fitting.fit(balls.FUNCTIONS, params, SPACE, views, key, CONFIG, hyper)


solve = jax.jit(_solve)


def hyper(**weights) -> Hyper:
    """Traced scalars, so that stacking and vmapping work."""
    rates = default_rates() | {"w_id": 0.05}
    value = Hyper(weights=default_weights() | weights, rates=rates)
    return jax.tree.map(jnp.float32, value)


def stack(*trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def radius(result) -> float:
    return float(0.5 + 0.1 * result.z_id[0])


@pytest.fixture(scope="module")
def result():
    return solve(balls.params(), balls.views(0.56, x=0.08), jax.random.key(1), hyper())


def test_the_radius_comes_from_the_pixels(result):
    """Landmarks know the centre, but nothing of the radius."""
    assert abs(radius(result) - 0.56) < 0.006
    pose = result.S_canonical_world
    centre = 0.1 * result.z_id[1] * jnp.array([1.0, 0, 0])
    world = (centre - pose.t) @ pose.R / pose.scale
    np.testing.assert_allclose(world, [150 * 0.08, 0, 0], atol=1.5)  # mm
    assert result.landmark_error < 0.1
    total = np.asarray(result.history["total"])
    assert total.shape == (45,) and total[-5:].mean() < 0.5 * total[:3].mean()
    assert set(result.history) == {*fit_losses.DEFAULT, "total", "evaluations"}
    weighted = sum(default_weights()[n] * np.asarray(result.history[n]) for n in fit_losses.DEFAULT)
    np.testing.assert_allclose(weighted, total, rtol=1e-4)


def test_a_key_gives_the_same_bits_and_another_key_others(result):
    views = balls.views(0.56, x=0.08)
    again = solve(balls.params(), views, jax.random.key(1), hyper())
    jax.tree.map(np.testing.assert_array_equal, again, result)
    other = solve(balls.params(), views, jax.random.key(2), hyper())
    assert not np.array_equal(other.z_id, result.z_id)
    assert abs(radius(other) - radius(result)) < 0.01


def test_subjects_seeds_and_hyper_parameters_vmap(result):
    subjects = [balls.views(0.56, x=0.08), balls.views(0.46, x=-0.05)]
    heavy = hyper(prior=0.3)
    rows = [
        (subjects[0], jax.random.key(1), hyper()),
        (subjects[1], jax.random.key(7), hyper()),
        (subjects[0], jax.random.key(1), heavy),
    ]
    many = jax.jit(jax.vmap(_solve, in_axes=(None, 0, 0, 0)))
    together = many(balls.params(), *(stack(*column) for column in zip(*rows, strict=True)))
    alone = [solve(balls.params(), *row) for row in rows]
    for i, one in enumerate(alone):
        np.testing.assert_allclose(together.z_id[i], one.z_id, atol=5e-3)
        # later a rounding decides which side of an edge a pixel is on
        for name in fit_losses.DEFAULT:
            many_values, values = together.history[name][i][:2], one.history[name][:2]
            np.testing.assert_allclose(many_values, values, rtol=2e-3, atol=1e-6, err_msg=name)
    assert abs(radius(alone[1]) - 0.46) < 0.006
    assert radius(alone[2]) < radius(alone[0]) - 0.01  # its prior holds it back


def test_parameters_share_one_compilation(result):
    before = len(TRACES)
    params = balls.params()
    params["geometry"]["scale"] = jnp.float32(1.1)
    slow = dataclasses.replace(hyper(), alpha=jnp.float32(50.0))
    bigger = solve(params, balls.views(0.55), jax.random.key(3), slow)
    assert len(TRACES) == before
    # the same pictures, another geometry network: another code
    assert abs(1.1 * radius(bigger) - 0.55) < 0.01


# ---------------------------------------------------------------- stages, expressions, own parts

TWO = dataclasses.replace(
    CONFIG, expressions=2, switch_steps=3, weight_steps=3, residual_steps=3, landmark_steps=6
)


def _probe(rendered):
    """Which shift each view shows: the offsets of `balls` hold it."""
    return rendered.offsets[:, 0, 1]


LOSSES = fit_losses.DEFAULT | {
    "own_0": lambda c: _probe(c.rendered)[0],
    "own_1": lambda c: _probe(c.rendered)[1],
    "switched_0": lambda c: jnp.zeros(()) if c.switched is None else _probe(c.switched)[0],
    "switched_1": lambda c: jnp.zeros(()) if c.switched is None else _probe(c.switched)[1],
}
PROBES = dict.fromkeys(("own_0", "own_1", "switched_0", "switched_1"), 0.0)


@functools.partial(jax.jit, static_argnames=("steps", "switch"))
def advance(setting, state, gates, steps, switch):
    return fitting.run_steps(
        balls.FUNCTIONS, balls.params(), SPACE, setting, state, gates, TWO, steps, switch, LOSSES
    )


@pytest.fixture(scope="module")
def staged():
    """State and history after every stage of a fit with two expressions."""
    views = balls.views(0.52, shifts=(0.08, -0.08), angles=(-0.5, 0.1))
    begin = jax.jit(
        lambda v, h: fitting.begin(
            balls.FUNCTIONS, balls.params(), SPACE, v, jax.random.key(0), TWO, h
        )
    )
    setting, state, error = begin(views, hyper(**PROBES))
    done = [("landmarks", state, {})]
    for plan in fitting.stages(TWO):
        gates = fitting.gates_of(plan)
        state, history = advance(setting, state, gates, plan.steps, plan.switch)
        done.append((plan.name, state, history))
    histories = [history for _, _, history in done[1:]]
    end = fitting.finish(balls.FUNCTIONS, balls.params(), SPACE, setting, state, histories, error)
    return done, end


def test_stages_follow_the_paper():
    names = [(p.name, p.steps, p.switch) for p in fitting.stages(TWO)]
    assert names == [("switch", 3, True), ("weights", 3, False), ("residuals", 3, False)]
    single = fitting.stages(dataclasses.replace(TWO, expressions=1))
    assert [p.name for p in single] == ["weights", "residuals"]


def test_each_stage_moves_its_variables_only(staged):
    done, _ = staged
    moving = {"w_id", "w_exp", "w_colour", "pose"}
    residuals = {"r_id", "r_exp", "r_colour", "params"}
    for (_, before, _), (name, after, _) in zip(done, done[1:], strict=False):
        free = moving | residuals if name == "residuals" else moving
        for variable, value in after.variables.items():
            old = jax.tree.leaves(before.variables[variable])
            same = all(map(np.array_equal, jax.tree.leaves(value), old))
            assert same == (variable not in free), (name, variable)
    assert done[-1][1].step == 9


def test_only_the_rendering_network_is_fine_tuned(staged):
    _, end = staged
    start = balls.params()
    np.testing.assert_array_equal(end.params["geometry"]["scale"], start["geometry"]["scale"])
    change = np.abs(end.params["rendering"]["tint"] - start["rendering"]["tint"])
    assert 1e-4 < change.max() < 0.01  # three steps of at most the learning rate
    assert end.z_exp.shape == (2, 1) and end.history["total"].shape == (9,)
    assert "params" not in end.variables


def test_every_expression_has_a_code_and_the_switch_uses_the_other(staged):
    done, end = staged
    assert end.landmark_error < 0.1
    z_exp = np.asarray(done[1][1].variables["w_exp"])[:, 0] * 0.1
    assert z_exp[0] > 0.05 > -0.05 > z_exp[1]
    switch, weights = done[1][2], done[2][2]
    for view, own in ((0, 1.0), (1, -1.0)):
        assert (np.sign(switch[f"own_{view}"]) == own).all()
        assert (np.sign(switch[f"switched_{view}"]) == -own).all()
        assert (np.asarray(weights[f"switched_{view}"]) == 0).all()
    assert (np.asarray(switch["switch"]) > 0).all()
    assert (np.asarray(weights["switch"]) == 0).all()


def test_own_loss_and_optimiser():
    """A quadratic loss under plain gradient descent, against its closed form."""
    config = dataclasses.replace(CONFIG, weight_steps=6, residual_steps=0, rays=4)
    target = 1.5
    losses = {"mine": lambda c: jnp.sum((c.variables["w_id"] - target) ** 2)}
    mine = dataclasses.replace(hyper(mine=2.0), rates=default_rates() | {"w_id": 0.1})
    run = jax.jit(
        lambda views, h: fitting.fit(
            balls.FUNCTIONS,
            balls.params(),
            SPACE,
            views,
            jax.random.key(0),
            config,
            h,
            losses=losses,
            optimiser=optax.sgd(1.0),
        )  # fmt: skip
    )
    found = run(balls.views(0.5), mine)
    history = np.asarray(found.history["mine"])
    assert set(found.history) == {"mine", "total", "evaluations"}
    decay = 0.1 + 0.45 * (1 + np.cos(np.pi * np.arange(6) / 6))
    left = np.concatenate([[1.0], np.cumprod(1 - 0.1 * decay * 2 * 2.0)])
    start = np.sqrt(history[0])
    np.testing.assert_allclose(history, (start * left[:-1]) ** 2, rtol=1e-4)
    end = np.sqrt(((np.asarray(found.variables["w_id"]) - target) ** 2).sum())
    np.testing.assert_allclose(end, start * left[-1], rtol=1e-4)


def test_a_loss_without_a_weight_is_refused():
    losses = fit_losses.DEFAULT | {"mine": lambda c: c.alpha}
    arguments = (balls.FUNCTIONS, balls.params(), SPACE, balls.views(0.5), jax.random.key(0))
    with pytest.raises(InputError, match="mine"):
        jax.eval_shape(lambda: fitting.fit(*arguments, CONFIG, hyper(), losses=losses))
