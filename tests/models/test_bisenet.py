"""Face parsing against the authors' layers written out in NumPy, and the import of its weights."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop.checkpoints import import_network, left_out
from jaxrecon.interop.parsing_networks import import_bisenet
from jaxrecon.interop.weights import config_from_dict, load_weights, save_weights
from jaxrecon.models.batch_norm import apply_network
from jaxrecon.models.bisenet import (
    BiSeNet,
    BiSeNetConfig,
    BiSeNetHeadsConfig,
    resize_corners,
)
from jaxrecon.models.resnet import ResNetConfig
from tests.models import torch_states
from tests.models.test_resnet import _convolve, _normalise, _resnet18

CLASSES = 19
SIZE = (75, 70)  # maps of 10 x 9, 5 x 5 and 3 x 3: no step up is a doubling of both sides


def _shapes() -> dict[str, tuple[int, ...]]:
    """The published state dict: every name, every shape."""
    shapes = torch_states.resnet(18, "cp.resnet.")

    def block(name, inputs, outputs, k):
        return {f"{name}.conv.weight": (outputs, inputs, k, k)} | torch_states.norm(
            f"{name}.bn", outputs
        )

    for name, inputs in (("arm16", 256), ("arm32", 512)):
        shapes |= block(f"cp.{name}.conv", inputs, 128, 3)
        shapes |= {f"cp.{name}.conv_atten.weight": (128, 128, 1, 1)}
        shapes |= torch_states.norm(f"cp.{name}.bn_atten", 128)
    shapes |= block("cp.conv_head32", 128, 128, 3) | block("cp.conv_head16", 128, 128, 3)
    shapes |= block("cp.conv_avg", 512, 128, 1) | block("ffm.convblk", 256, 256, 1)
    shapes |= {"ffm.conv1.weight": (64, 256, 1, 1), "ffm.conv2.weight": (256, 64, 1, 1)}
    for name, inputs, hidden in (
        ("conv_out", 256, 256),
        ("conv_out16", 128, 64),
        ("conv_out32", 128, 64),
    ):
        shapes |= block(f"{name}.conv", inputs, hidden, 3)
        shapes |= {f"{name}.conv_out.weight": (CLASSES, hidden, 1, 1)}
    return shapes


STATE = torch_states.recipe(_shapes())
CONFIG = BiSeNetConfig(ResNetConfig(18), BiSeNetHeadsConfig())


@pytest.fixture(scope="module")
def imported():
    return import_network(STATE, "bisenet")


def _block(x, name):
    x = _normalise(_convolve(x, STATE[f"{name}.conv.weight"], 1), STATE, f"{name}.bn")
    return np.maximum(x, 0)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _attend(x, name):
    x = _block(x, f"cp.{name}.conv")
    mean = x.mean(axis=(2, 3), keepdims=True)
    weight = _convolve(mean, STATE[f"cp.{name}.conv_atten.weight"], 1)
    return x * _sigmoid(_normalise(weight, STATE, f"cp.{name}.bn_atten"))


def _up(x, like):
    """Nearest, one pixel after another."""
    height, width = like.shape[2:]
    out = np.empty((*x.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            out[:, :, i, j] = x[:, :, i * x.shape[2] // height, j * x.shape[3] // width]
    return out


def _stretch(x, size):
    """Bilinear with fixed corners, one pixel after another."""
    out = np.empty((*x.shape[:2], *size))
    for i in range(size[0]):
        for j in range(size[1]):
            y, z = (
                k * (n - 1) / (m - 1) for k, n, m in zip((i, j), x.shape[2:], size, strict=True)
            )
            a, b = int(y), int(z)
            c, d = min(a + 1, x.shape[2] - 1), min(b + 1, x.shape[3] - 1)
            top = (1 - (z - b)) * x[:, :, a, b] + (z - b) * x[:, :, a, d]
            low = (1 - (z - b)) * x[:, :, c, b] + (z - b) * x[:, :, c, d]
            out[:, :, i, j] = (1 - (y - a)) * top + (y - a) * low
    return out


def reference(images):
    """The three outputs, (b, h, w, classes)."""
    trunk = {k.removeprefix("cp.resnet."): v for k, v in STATE.items()}
    at8, at16, at32 = _resnet18(trunk, images)[2:5]
    mean = _block(at32.mean(axis=(2, 3), keepdims=True), "cp.conv_avg")
    up32 = _block(_up(_attend(at32, "arm32") + mean, at16), "cp.conv_head32")
    up16 = _block(_up(_attend(at16, "arm16") + up32, at8), "cp.conv_head16")
    fused = _block(np.concatenate([at8, up16], axis=1), "ffm.convblk")
    weight = _convolve(fused.mean(axis=(2, 3), keepdims=True), STATE["ffm.conv1.weight"], 1)
    weight = _sigmoid(_convolve(np.maximum(weight, 0), STATE["ffm.conv2.weight"], 1))
    outputs = []
    for name, x in (
        ("conv_out", fused * weight + fused),
        ("conv_out16", up16),
        ("conv_out32", up32),
    ):
        x = _convolve(_block(x, f"{name}.conv"), STATE[f"{name}.conv_out.weight"], 1)
        outputs.append(np.moveaxis(_stretch(x, images.shape[1:3]), 1, -1))
    return outputs


def test_the_network_is_the_authors(imported, rng):
    tree, configs = imported
    assert configs == {"trunk": CONFIG.trunk, "heads": CONFIG.heads}
    images = rng.normal(size=(1, *SIZE, 3)).astype(np.float32)
    apply = jax.jit(BiSeNet(CONFIG, precision="highest").apply)
    for ours, theirs in zip(apply(tree, images), reference(images), strict=True):
        assert theirs.std() > 0.05
        np.testing.assert_allclose(ours, theirs, atol=2e-4 * np.abs(theirs).max())


def test_corners_stay(rng):
    x = rng.normal(size=(1, 4, 3, 2)).astype(np.float32)
    for size in ((7, 9), (1, 5), (4, 3), (2, 2)):
        y = np.asarray(resize_corners(jax.numpy.asarray(x), size))
        if 1 not in size:
            expected = np.moveaxis(_stretch(np.moveaxis(x, -1, 1), size), 1, -1)
            np.testing.assert_allclose(y, expected, atol=1e-6)
        np.testing.assert_allclose(y[:, 0, 0], x[:, 0, 0], atol=1e-6)
        np.testing.assert_allclose(y[:, 0, -1], x[:, 0, -1], atol=1e-6)


def test_variables_are_those_of_an_import(imported):
    """Every array has a place, and none is left over."""
    shapes = jax.eval_shape(
        BiSeNet(CONFIG).init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32)
    )
    ours = jax.tree.map(lambda x: tuple(x.shape), dict(shapes))
    assert ours == jax.tree.map(lambda x: x.shape, imported[0])


def test_weights_survive_our_files(imported, tmp_path):
    tree, configs = imported
    header = {"config": {part: dataclasses.asdict(c) for part, c in configs.items()}}
    save_weights(tmp_path / "bisenet", tree, header)
    read, header = load_weights(tmp_path / "bisenet")
    assert jax.tree.all(jax.tree.map(np.array_equal, read, tree))
    assert config_from_dict(BiSeNetConfig, header["config"]) == CONFIG


def test_training_moves_every_statistic():
    """The batch is normalised by itself, in trunk and heads, in one abstract step."""

    def step(variables, images):
        return apply_network(BiSeNet(CONFIG), variables, images, train=True)[1]

    variables = jax.eval_shape(
        BiSeNet(CONFIG).init, jax.random.key(0), np.zeros((2, 64, 64, 3), np.float32)
    )
    new = jax.eval_shape(step, variables, jax.ShapeDtypeStruct((2, 64, 64, 3), np.float32))
    assert jax.tree.structure(new) == jax.tree.structure(dict(variables["batch_stats"]))


def test_wrapped_and_prefixed(imported):
    wrapped = {"state_dict": {f"module.{k}": v for k, v in STATE.items()}, "epoch": 3}
    assert left_out(wrapped, "bisenet") == ["epoch"] and left_out(STATE, "bisenet") == []
    again = import_network(wrapped, "bisenet")[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, again, imported[0]))


@pytest.mark.parametrize(
    "name",
    [n for n, v in STATE.items() if "resnet" not in n and v.ndim == 4]
    + [n for n in STATE if n.startswith("ffm.convblk.bn") and "num" not in n]
    + ["cp.resnet.layer4.1.bn2.bias", "cp.resnet.layer2.0.downsample.0.weight"],
)
def test_every_array_is_needed(name):
    rest = {k: v for k, v in STATE.items() if k != name}
    with pytest.raises(InputError):
        import_bisenet(rest)
    with pytest.raises(InputError):
        import_bisenet(rest | {f"{name}_of_another": STATE[name]})


@pytest.mark.parametrize(
    "checkpoint", [{}, {"model": 3}, {"a": {"b": {}}}, {"state": [1]}, {"state_dict": {}}]
)
def test_other_checkpoints_are_refused(checkpoint):
    with pytest.raises(InputError):
        import_bisenet(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": np.zeros(3, np.float32)}, "fc.weight, which this network does not"),
        ({"conv_out.conv_out.weight": np.zeros((19, 255, 1, 1), np.float32)}, "255"),
        ({"cp.resnet.layer1.0.conv3.weight": np.zeros(3, np.float32)}, "bottleneck"),
    ],
)
def test_nearly_the_right_network_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        import_bisenet(STATE | change)


def test_bottlenecks_are_no_trunk():
    with pytest.raises(ValueError, match="depth 50"):
        BiSeNetConfig(ResNetConfig(50))
