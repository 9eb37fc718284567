"""The loop: interruption and resumption without a trace, metrics, evaluation."""

import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrecon.training import loop
from jaxrecon.training.checkpoints import Checkpoints
from jaxrecon.training.state import create_state
from jaxrecon.training.step import train_step

OPTIMISER = optax.adam(optax.cosine_decay_schedule(0.05, 30))
SIZE = 257  # odd, so that buffers are not all of one kind


def loss(params, batch):
    value = jnp.mean((jnp.tanh(batch["x"] @ params["w"]) - params["b"]) ** 2)
    return value, {}


step = jax.jit(functools.partial(train_step, loss, OPTIMISER), donate_argnums=0)


def fresh():
    params = {"w": jnp.linspace(-1, 1, SIZE), "b": jnp.float32(0.3)}
    return create_state(params, OPTIMISER, jax.random.key(0))


def batches(start, interrupt_at=None, number=signal.SIGTERM):
    """Batches from a step on; a signal comes while batch `interrupt_at` is drawn."""
    count = start
    while True:
        if count == interrupt_at:
            os.kill(os.getpid(), number)
        x = np.random.default_rng(count).standard_normal((8, SIZE))
        yield {"x": x.astype(np.float32)}
        count += 1


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def uninterrupted():
    state, finished = loop.run(fresh(), step, batches, 30)
    assert finished and state.step == 30
    return state


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, uninterrupted, number, capfd):
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    arguments = {"save_every": 5, "log_every": 4, "metrics_file": tmp_path / "metrics.jsonl"}
    checkpoints = Checkpoints(tmp_path / "run")
    first = functools.partial(batches, interrupt_at=12, number=number)
    state, finished = loop.run(fresh(), step, first, 30, checkpoints=checkpoints, **arguments)
    # the step under way is finished, then the state is saved, at once
    assert not finished and state.step == 13
    checkpoints.close()
    assert handlers == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]

    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.latest() == 13
    state, finished = loop.run(fresh(), step, batches, 30, checkpoints=checkpoints, **arguments)
    checkpoints.close()
    assert finished
    same(state, uninterrupted)
    logged = lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in logged] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert all(line["stage"] == "train" and line["skipped"] == 0 for line in logged)
    assert "ETA" in capfd.readouterr().err


def test_a_state_saved_in_the_background_is_that_of_its_step(tmp_path, uninterrupted):
    """Steps donate their state while it is being written."""
    checkpoints = Checkpoints(tmp_path / "run", keep=40)
    loop.run(fresh(), step, batches, 30, checkpoints=checkpoints, save_every=1)
    checkpoints.close()
    short, _ = loop.run(fresh(), step, batches, 11)
    for later in sorted(int(p.name) for p in (tmp_path / "run").iterdir() if p.name.isdigit()):
        if later > 11:
            (tmp_path / "run" / str(later)).rename(tmp_path / str(later))
    again = Checkpoints(tmp_path / "run")
    assert again.latest() == 11
    same(again.restore(fresh()), short)
    again.close()


def test_a_finished_run_does_nothing(tmp_path, uninterrupted):
    checkpoints = Checkpoints(tmp_path / "run")
    loop.run(fresh(), step, batches, 30, checkpoints=checkpoints)

    def untouched(start):
        raise AssertionError("no batch is needed")
        yield

    state, finished = loop.run(fresh(), step, untouched, 30, checkpoints=checkpoints)
    checkpoints.close()
    assert finished
    same(state, uninterrupted)


def test_a_later_state_is_not_turned_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    loop.run(fresh(), step, batches, 5, checkpoints=checkpoints)
    ahead, _ = loop.run(fresh(), step, batches, 9)
    state, _ = loop.run(ahead, step, batches, 12, checkpoints=checkpoints)
    expected, _ = loop.run(fresh(), step, batches, 12)
    checkpoints.close()
    same(state, expected)


def test_evaluation_comes_at_its_own_pace(tmp_path):
    seen = []

    def evaluate(state):
        seen.append(int(state.step))
        return {"held_out": float(state.params["b"])}

    loop.run(
        fresh(), step, batches, 10, log_every=4, evaluate=evaluate, evaluate_every=3,
        metrics_file=tmp_path / "m.jsonl", name="stage",
    )  # fmt: skip
    assert seen == [3, 6, 9, 10]
    logged = lines(tmp_path / "m.jsonl")
    assert [line["step"] for line in logged] == [3, 4, 6, 8, 9, 10]
    assert [line["step"] for line in logged if "held_out" in line] == seen
    assert {line["stage"] for line in logged} == {"stage"}


def test_metrics_are_json_even_when_they_are_not_numbers(tmp_path):
    def spoiled(start):
        for batch in batches(start):
            yield {"x": np.full_like(batch["x"], np.nan)}

    loop.run(fresh(), step, spoiled, 2, log_every=1, metrics_file=tmp_path / "m.jsonl")
    text = (tmp_path / "m.jsonl").read_text()
    assert "NaN" not in text
    assert [(line["loss"], line["skipped"]) for line in lines(tmp_path / "m.jsonl")] == [
        (None, 1.0),
        (None, 1.0),
    ]
