"""State dicts as PyTorch would save them: names and shapes of public networks, random values."""

import zlib

import numpy as np

DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def recipe(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Weights from names, as the recordings of whole networks drew theirs."""
    state = {}
    for name, shape in shapes.items():
        rs = np.random.RandomState((zlib.crc32(name.encode()) + seed) & 0xFFFFFFFF)
        leaf = name.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            value = np.zeros(shape, np.int64)
        elif leaf == "running_var" or (leaf == "weight" and len(shape) <= 1):
            value = rs.uniform(0.5, 1.5, shape).astype(np.float32)
        elif leaf == "running_mean" or len(shape) <= 1:
            value = (0.1 * rs.standard_normal(shape)).astype(np.float32)
        else:
            value = rs.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
            value = value.astype(np.float32)
        state[name] = value
    return state


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a batch normalisation."""
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{n}": (channels,) for n in names} | {f"{name}.num_batches_tracked": ()}


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a linear layer."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def resnet(depth: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Shapes of torchvision's residual network without its classifier."""
    shapes = {"conv1.weight": (64, 3, 7, 7)} | norm("bn1", 64)
    incoming, expansion = 64, 1 if depth < 50 else 4
    for layer, (width, count) in enumerate(zip((64, 128, 256, 512), DEPTHS[depth], strict=True)):
        for i in range(count):
            name, out = f"layer{layer + 1}.{i}", width * expansion
            if expansion == 1:
                sizes = [(width, incoming, 3), (width, width, 3)]
            else:
                sizes = [(width, incoming, 1), (width, width, 3), (out, width, 1)]
            for j, (a, b, k) in enumerate(sizes, start=1):
                shapes |= {f"{name}.conv{j}.weight": (a, b, k, k)} | norm(f"{name}.bn{j}", a)
            if i == 0 and incoming != out:
                shapes |= {f"{name}.downsample.0.weight": (out, incoming, 1, 1)}
                shapes |= norm(f"{name}.downsample.1", out)
            incoming = out
    return {prefix + name: shape for name, shape in shapes.items()}


def _graph_linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.W": (outputs, inputs), f"{name}.b": (outputs,)}


def _graph_block(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    half = outputs // 2
    shapes = _graph_linear(f"{name}.lin1", inputs, half) | _graph_linear(
        f"{name}.lin2", half, outputs
    )
    shapes |= _graph_linear(f"{name}.skip_conv", inputs, outputs)
    shapes |= {f"{name}.conv.weight": (half, half), f"{name}.conv.bias": (half,)}
    for n, c in (("pre_norm", inputs), ("norm1", half), ("norm2", half)):
        shapes |= {f"{name}.{n}.weight": (c,), f"{name}.{n}.bias": (c,)}
    return shapes


def graph_cnn(
    features: int, channels: int, blocks: int, vertices: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of GraphCMR's GraphCNN without its trunk."""
    shapes = _graph_linear("gc.0", 3 + features, 2 * channels)
    shapes |= _graph_block("gc.1", 2 * channels, channels)
    for i in range(blocks):
        shapes |= _graph_block(f"gc.{i + 2}", channels, channels)
    shapes |= _graph_block("shape.0", channels, 64) | _graph_block("shape.1", 64, 32)
    shapes |= {"shape.2.weight": (32,), "shape.2.bias": (32,)} | _graph_linear("shape.4", 32, 3)
    shapes |= {"camera_fc.0.weight": (channels,), "camera_fc.0.bias": (channels,)}
    return shapes | _graph_linear("camera_fc.2", channels, 1) | linear("camera_fc.4", vertices, 3)


def param_regressor(vertices: int, hidden: int, joints: int = 24) -> dict[str, tuple[int, ...]]:
    """Shapes of GraphCMR's SMPLParamRegressor."""
    shapes = linear("layers.0.fc_block.0", 6 * vertices, hidden) | norm(
        "layers.0.fc_block.1", hidden
    )
    for i in (1, 2):
        for layer, after in ((0, 1), (3, 4)):
            shapes |= linear(f"layers.{i}.fc_block.{layer}", hidden, hidden)
            shapes |= norm(f"layers.{i}.fc_block.{after}", hidden)
    return shapes | linear("layers.3", hidden, 9 * joints + 10)
