"""Residual networks and batch normalisation against torch's rules, written out in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.interop.regressor_networks import import_resnet
from jaxrecon.models.batch_norm import BatchNorm, apply_network
from jaxrecon.models.resnet import Block, ResNet, ResNetConfig
from tests.models import slopes, torch_states

STATE = torch_states.recipe(torch_states.resnet(18))
CONFIG, VARIABLES = import_resnet(STATE)
SHAPE = (2, 35, 29, 3)  # odd sizes: padding "SAME" would differ from torch's


def _convolve(x, weight, stride):
    """torch's Conv2d without bias, padding (k - 1) / 2; x (b, c, h, w) in float64."""
    k = weight.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), *(2 * [((k - 1) // 2,) * 2])))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows[:, :, ::stride, ::stride], weight)


def _normalise(x, state, name):
    def of(leaf):
        return state[f"{name}.{leaf}"].astype(np.float64)[:, None, None]

    x = (x - of("running_mean")) / np.sqrt(of("running_var") + 1e-5)
    return x * of("weight") + of("bias")


def _resnet18(state, images):
    """The five feature maps, (b, c, h, w)."""
    x = np.moveaxis(images.astype(np.float64), -1, 1)
    x = np.maximum(_normalise(_convolve(x, state["conv1.weight"], 2), state, "bn1"), 0)
    maps = [x]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    x = windows[:, :, ::2, ::2].max(axis=(-1, -2))
    for layer in range(1, 5):
        for i in range(2):
            name, stride = f"layer{layer}.{i}", 2 if layer > 1 and i == 0 else 1
            y = _convolve(x, state[f"{name}.conv1.weight"], stride)
            y = np.maximum(_normalise(y, state, f"{name}.bn1"), 0)
            y = _normalise(_convolve(y, state[f"{name}.conv2.weight"], 1), state, f"{name}.bn2")
            if f"{name}.downsample.0.weight" in state:
                x = _convolve(x, state[f"{name}.downsample.0.weight"], stride)
                x = _normalise(x, state, f"{name}.downsample.1")
            x = np.maximum(x + y, 0)
        maps.append(x)
    return maps


def test_basic_blocks_match_numpy(rng):
    images = rng.normal(size=SHAPE).astype(np.float32)
    pyramid = jax.jit(ResNet(CONFIG, precision="highest").apply)(VARIABLES, images)
    maps = _resnet18(STATE, images)
    for ours, expected in zip(pyramid[:5], maps, strict=True):
        expected = np.moveaxis(expected, 1, -1)
        np.testing.assert_allclose(ours, expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_allclose(
        pyramid.pooled, maps[-1].mean(axis=(2, 3)), atol=2e-5 * np.abs(maps[-1]).max()
    )


@pytest.mark.parametrize(
    ("depth", "parameters"),
    # torchvision's published counts less their classifiers (512 or 2048 to 1000, with biases)
    [
        (18, 11_689_512 - 513_000),
        (34, 21_797_672 - 513_000),
        (50, 25_557_032 - 2_049_000),
        (101, 44_549_160 - 2_049_000),
    ],
)
def test_depths_have_the_published_sizes(depth, parameters, key):
    module = ResNet(ResNetConfig(depth))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    pyramid, variables = jax.eval_shape(module.init_with_output, key, images)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters
    channels = module.config.channels
    assert [f.shape for f in pyramid[1:5]] == [
        (1, 56 // 2**i, 56 // 2**i, c) for i, c in enumerate(channels)
    ]
    assert pyramid.stem.shape == (1, 112, 112, 64) and pyramid.pooled.shape == (1, channels[-1])


def test_other_depths_are_refused():
    with pytest.raises(ValueError, match="depth is 20"):
        ResNetConfig(20)


def _numpy_statistics(x, variables):
    """(normalised x, new mean, new variance) of a training step of torch's BatchNorm."""
    flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
    mean, var, n = flat.mean(axis=0), flat.var(axis=0), len(flat)
    y = (x - mean) / np.sqrt(var + 1e-5) * variables["params"]["scale"]
    old = variables["batch_stats"]
    running = 0.9 * old["mean"] + 0.1 * mean, 0.9 * old["var"] + 0.1 * var * n / (n - 1)
    return y + variables["params"]["bias"], *running


@pytest.fixture
def normalisation(rng):
    c = 5
    return {
        "params": {"scale": rng.normal(size=c), "bias": rng.normal(size=c)},
        "batch_stats": {"mean": rng.normal(size=c), "var": rng.uniform(0.5, 2.0, c)},
    }


@pytest.mark.parametrize("axis_name", [None, "data"])
def test_batch_statistics(rng, normalisation, axis_name):
    """The trained batch, whole or over devices, and the unbiased running variance."""
    x = rng.normal(size=(4, 3, 2, 5)) * 3 + 1
    with jax.enable_x64(True):
        variables = jax.tree.map(jnp.asarray, normalisation)
        step = functools.partial(apply_network, BatchNorm(axis_name), train=True)
        if axis_name is None:
            y, stats = step(variables, jnp.asarray(x))
        else:
            shards = jnp.asarray(x).reshape(4, 1, 3, 2, 5)
            mapped = jax.vmap(lambda s: step(variables, s), axis_name=axis_name)
            y, stats = mapped(shards)
            np.testing.assert_allclose(stats["mean"][0], stats["mean"][3], atol=1e-15)
            y, stats = y.reshape(x.shape), jax.tree.map(lambda s: s[0], stats)
    expected, mean, var = _numpy_statistics(x, normalisation)
    np.testing.assert_allclose(y, expected, atol=1e-12)
    np.testing.assert_allclose(stats["mean"], mean, atol=1e-12)
    np.testing.assert_allclose(stats["var"], var, atol=1e-12)


def test_evaluation_keeps_the_statistics(rng, normalisation):
    x = rng.normal(size=(1, 5)).astype(np.float32)
    y, stats = apply_network(BatchNorm(), normalisation, jnp.asarray(x))
    old = normalisation["batch_stats"]
    expected = (x - old["mean"]) / np.sqrt(old["var"] + 1e-5) * normalisation["params"]["scale"]
    np.testing.assert_allclose(y, expected + normalisation["params"]["bias"], rtol=1e-5, atol=1e-6)
    assert jax.tree.all(jax.tree.map(np.array_equal, stats, old))


def test_one_value_cannot_be_normalised(normalisation):
    with pytest.raises(ValueError, match="one value"):
        apply_network(BatchNorm(), normalisation, jnp.ones((1, 5)), train=True)


def test_training_updates_every_statistic(rng):
    images = rng.normal(size=SHAPE).astype(np.float32)
    step = jax.jit(functools.partial(apply_network, ResNet(CONFIG), train=True))
    pyramid, stats = step(VARIABLES, images)
    assert all(np.isfinite(feature).all() for feature in pyramid)
    old = VARIABLES["batch_stats"]
    assert jax.tree.structure(stats) == jax.tree.structure(old)
    assert all(
        not np.allclose(a, b)
        for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(old), strict=True)
    )
    first = _convolve(np.moveaxis(images.astype(np.float64), -1, 1), STATE["conv1.weight"], 2)
    mean = 0.9 * STATE["bn1.running_mean"] + 0.1 * first.mean(axis=(0, 2, 3))
    var = 0.9 * STATE["bn1.running_var"] + 0.1 * first.var(axis=(0, 2, 3), ddof=1)
    np.testing.assert_allclose(stats["bn1"]["mean"], mean, atol=1e-5)
    np.testing.assert_allclose(stats["bn1"]["var"], var, atol=1e-5)
    normalised = first - first.mean(axis=(0, 2, 3), keepdims=True)
    normalised /= np.sqrt(first.var(axis=(0, 2, 3), keepdims=True) + 1e-5)
    scale, bias = (STATE[f"bn1.{n}"][:, None, None] for n in ("weight", "bias"))
    stem = np.moveaxis(np.maximum(normalised * scale + bias, 0), 1, -1)
    np.testing.assert_allclose(pyramid.stem, stem, atol=1e-4)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_gradients_of_a_trained_block(kind, rng, key):
    """Through batch statistics, in float64, by parameters and input, against differences."""
    block = Block(kind, width=4, stride=2, project=True)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, 7, 6, 3)))
        variables = jax.tree.map(
            lambda a: jnp.asarray(rng.normal(size=a.shape)), block.init(key, x, False)
        )

        @jax.jit
        def loss(arguments):
            params, x = arguments
            y, _ = apply_network(
                block, {"params": params, "batch_stats": variables["batch_stats"]}, x, train=True
            )
            return jnp.sum(jnp.sin(3 * y))

        point = (variables["params"], x)
        direction = slopes.random_direction(rng, point)
        _, slope = jax.jvp(loss, (point,), (direction,))
        reverse = slopes.along(jax.grad(loss)(point), direction)
        difference = slopes.central_difference(loss, point, direction, 1e-7)
    np.testing.assert_allclose(slope, difference, rtol=1e-6)
    np.testing.assert_allclose(reverse, slope, rtol=1e-10)
