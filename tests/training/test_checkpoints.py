"""Checkpoints: round trips, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrecon.errors import InputError
from jaxrecon.training.checkpoints import Checkpoints
from jaxrecon.training.state import TrainState, create_state

OPTIMISER = optax.adam(1e-2)


def state(step: int = 0, width: int = 3, **extra) -> TrainState:
    params = {"w": jnp.arange(width, dtype=jnp.float32) + step, **extra}
    fresh = create_state(params, OPTIMISER, jax.random.key(step))
    return TrainState(jnp.asarray(step, jnp.int32), fresh.params, fresh.opt_state, fresh.key)


@pytest.fixture
def folder(tmp_path):
    """Three states saved, two kept."""
    checkpoints = Checkpoints(tmp_path / "run", keep=2)
    assert checkpoints.latest() is None
    for step in (5, 10, 15):
        checkpoints.save(state(step), wait=True)
    checkpoints.close()
    return tmp_path / "run"


def test_the_newest_state_comes_back_as_it_was(folder):
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest() == 15
    restored, expected = checkpoints.restore(state()), state(15)
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    assert jax.random.uniform(restored.key) == jax.random.uniform(expected.key)
    for a, b in zip(
        jax.tree.leaves(restored.opt_state) + [restored.params["w"], restored.step],
        jax.tree.leaves(expected.opt_state) + [expected.params["w"], expected.step],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert not (folder / "5").exists() and (folder / "10").exists()
    checkpoints.save(state(15), wait=True)  # the same step again: nothing to do
    assert checkpoints.latest() == 15
    checkpoints.close()


@pytest.mark.parametrize(
    "other",
    [lambda: state(width=4), lambda: state(more=jnp.zeros(2)), lambda: state(w=jnp.zeros((3, 1)))],
    ids=["width", "structure", "rank"],
)
def test_a_state_of_another_configuration_is_refused(folder, other):
    checkpoints = Checkpoints(folder)
    with pytest.raises(InputError, match="configuration"):
        checkpoints.restore(other())
    checkpoints.close()


def test_an_empty_folder_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(InputError, match="no checkpoint"):
        checkpoints.restore(state())
    checkpoints.close()


def test_links_are_refused(folder, tmp_path):
    secret = tmp_path / "elsewhere"
    secret.write_text("not a checkpoint")
    (folder / "15" / "link").symlink_to(secret)
    with pytest.raises(InputError, match="link"):
        Checkpoints(folder)
