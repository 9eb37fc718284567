"""SPIN's iterative regressor against recordings of the original."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.interop.checkpoints import variables_of
from jaxrecon.interop.regressor_networks import import_spin
from jaxrecon.models.batch_norm import apply_network
from jaxrecon.models.regressors.hmr import (
    IMAGE_SIZE,
    Guess,
    HMRConfig,
    HMRHead,
    HMRHeadConfig,
)
from jaxrecon.models.resnet import ResNet, normalise_image
from tests.models import slopes, torch_states

PARITY = pathlib.Path(__file__).parents[1] / "parity"
SMALL = np.load(PARITY / "spin_hmr_head_small.npz")
CONFIG, VARIABLES = import_spin(
    {k.removeprefix("state/"): SMALL[k] for k in SMALL.files if k.startswith("state/")}
)["head"]
HEAD = HMRHead(CONFIG, precision="highest")


def _check(estimate, fixture, suffix, relative=1e-5):
    fields = (estimate.rotations, estimate.betas, estimate.camera)
    for name, ours in zip(("rotmat", "betas", "cam"), fields, strict=True):
        expected = fixture[f"out_{name}{suffix}"]
        np.testing.assert_allclose(ours, expected, atol=relative * np.abs(expected).max())


@functools.partial(jax.jit, static_argnames="iterations")
def _head(variables, features, initial=None, iterations=None):
    return HEAD.apply(variables, features, initial, iterations=iterations)


def test_sizes_come_from_the_weights():
    assert CONFIG == HMRHeadConfig(features=48, hidden=32)


@pytest.mark.parametrize(("iterations", "suffix"), [(None, ""), (3, ""), (2, "_iter2")])
def test_head_after_iterations(iterations, suffix):
    _check(_head(VARIABLES, SMALL["features"], iterations=iterations), SMALL, suffix)


def test_head_from_another_start():
    initial = Guess(*(SMALL[f"custom_init_{n}"] for n in ("pose", "shape", "cam")))
    _check(_head(VARIABLES, SMALL["features"], initial), SMALL, "_custom")


def test_one_start_serves_all_and_estimates_go_on():
    features = SMALL["features"]
    shared = Guess(*(SMALL[f"custom_init_{n}"][1] for n in ("pose", "shape", "cam")))
    each = Guess(*(np.repeat(x[None], len(features), axis=0) for x in shared))
    a, b = (_head(VARIABLES, features, start) for start in (shared, each))
    np.testing.assert_allclose(a.rotations, b.rotations, atol=1e-6)
    one = _head(VARIABLES, features, iterations=1)
    two = _head(VARIABLES, features, Guess(one.pose, one.betas, one.camera), iterations=2)
    _check(two, SMALL, "")


def test_gradient_by_features():
    def loss(features):
        estimate = _head(VARIABLES, features)
        squares = jnp.sum(estimate.betas**2) + jnp.sum(estimate.camera**2)
        return jnp.sum(estimate.rotations * SMALL["cotangent_rotmat"]) + squares

    expected = SMALL["grad_features"]
    gradient = jax.grad(loss)(jnp.asarray(SMALL["features"]))
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


def test_gradient_by_parameters_is_a_difference(rng):
    def loss(variables):
        estimate = HEAD.apply(variables, features)
        return jnp.sum(jnp.sin(estimate.rotations)) + jnp.sum(estimate.camera**3)

    with jax.enable_x64(True):
        point = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), VARIABLES)
        features = jnp.asarray(SMALL["features"], jnp.float64)
        direction = slopes.random_direction(rng, point)
        loss = jax.jit(loss)
        slope = slopes.along(jax.grad(loss)(point), direction)
        difference = slopes.central_difference(loss, point, direction, 1e-6)
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


def test_dropout_is_active_in_training_only_and_without_bias():
    """The head is linear up to its rotations, so the mean over dropouts is the evaluation."""
    features = SMALL["features"][:1]

    @functools.partial(jax.jit, static_argnames="train")
    def cameras(keys, train):
        def one(key):
            estimate, stats = apply_network(HEAD, VARIABLES, features, None, train=train, key=key)
            assert stats == {}  # nothing here has batch statistics
            return estimate.camera[0], estimate.betas[0]

        return jax.vmap(one)(keys)

    keys = jax.random.split(jax.random.key(1), 4000)
    camera, betas = cameras(keys, True)
    again, _ = cameras(keys, True)
    np.testing.assert_array_equal(camera, again)
    assert (np.std(camera, axis=0) > 1e-3).all()
    exact = HEAD.apply(VARIABLES, features)
    for drawn, expected in ((camera, exact.camera[0]), (betas, exact.betas[0])):
        standard_error = np.std(drawn, axis=0) / np.sqrt(len(keys))
        assert (np.abs(np.mean(drawn, axis=0) - expected) < 5 * standard_error).all()
    quiet, _ = cameras(keys[:2], False)
    np.testing.assert_allclose(quiet[0], exact.camera[0], atol=1e-6)


def test_a_fresh_head_starts_at_rest(key):
    """Its mean body stands, and small initial corrections keep it near."""
    head = HMRHead(HMRHeadConfig(features=6, hidden=4, joints=3, betas=2))
    estimate, variables = head.init_with_output(key, jnp.zeros((2, 6)))
    assert set(variables) == {"params", "constants"}
    np.testing.assert_allclose(estimate.rotations, np.tile(np.eye(3), (2, 3, 1, 1)), atol=0.1)
    np.testing.assert_allclose(estimate.camera, [[0.9, 0, 0]] * 2, atol=0.1)


def test_normalised_images():
    rgb = jnp.asarray([[[0.485, 0.456, 0.406], [1.0, 1.0, 0.0]]])
    expected = [[[0, 0, 0], [0.515 / 0.229, 0.544 / 0.224, -0.406 / 0.225]]]
    np.testing.assert_allclose(normalise_image(rgb), expected, atol=1e-5)


def full_network():
    """The recorded ResNet-50 network: (fixture, {part: (config, variables)})."""
    fixture = np.load(PARITY / "spin_hmr_full_recipe.npz")
    keys = json.loads(str(fixture["keys_json"]))
    state = torch_states.recipe({k: tuple(s) for k, s, _ in keys}, int(fixture["seed"]))
    for name in ("init_pose", "init_shape", "init_cam"):
        state[name] = fixture[name][None]
    for name in ("decpose", "decshape", "deccam"):
        state[f"{name}.weight"] = state[f"{name}.weight"] * fixture["decoder_scale"]
    return fixture, import_spin({"model": state, "epoch": 3})


def test_whole_network_on_a_crop():
    """ResNet-50 and head, weights drawn from names: pooled features, one and three iterations."""
    fixture, networks = full_network()
    config = HMRConfig(networks["trunk"][0], networks["head"][0])
    assert config == HMRConfig()
    images = normalise_image(jnp.asarray(fixture["image_u8"][None] / 255.0, jnp.float32))
    assert images.shape == (1, IMAGE_SIZE, IMAGE_SIZE, 3)
    head = HMRHead(config.head, precision="highest")

    @jax.jit
    def run(variables, images):
        parts = [
            {c: tree[part] for c, tree in variables.items() if part in tree}
            for part in ("trunk", "head")
        ]
        pooled = ResNet(config.trunk, precision="highest").apply(parts[0], images).pooled
        return pooled, head.apply(parts[1], pooled), head.apply(parts[1], pooled, iterations=1)

    features, three, one = run(variables_of(networks), images)
    expected = fixture["features"]
    np.testing.assert_allclose(features, expected, atol=1e-5 * np.abs(expected).max())
    _check(three, fixture, "")
    _check(one, fixture, "_iter1")
