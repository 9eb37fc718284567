"""Published regressors as networks of `models.regressors`: Deep3DFaceRecon, SPIN, GraphCMR.

An importer takes what `torch_files.read_checkpoint` returns and gives {part: (configuration,
variables)}; `checkpoints.variables_of` joins the parts to the variables of the whole network. Sizes
follow from the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.interop.state_dicts import CHECK_NETWORK, parameters_of, some, subset
from jaxrecon.interop.torch_layers import (
    Entry,
    Spec,
    affine,
    batch_norm,
    conv,
    import_tree,
    linear,
    matrix_shape,
    pointwise,
)
from jaxrecon.models.regressors.coefficients import CoefficientsConfig
from jaxrecon.models.regressors.graph import SHAPE_HEAD, GraphConfig, ParamConfig
from jaxrecon.models.regressors.hmr import HMRHeadConfig
from jaxrecon.models.resnet import DEPTHS, WIDTHS, ResNetConfig, layers

Networks = dict[str, tuple[Any, dict]]
"""{part: (configuration, {collection: arrays})}."""
_TRUNK = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
_VERTEX = 6  # numbers of a vertex that ParamRegressor sees: its own place and the template's


def resnet_spec(config: ResNetConfig) -> Spec:
    """Where the arrays of a `models.resnet.ResNet` are in a state dict of torchvision's."""
    spec = conv("conv1", "conv1", (7, 7), 3, 64, bias=False) | batch_norm("bn1", "bn1", 64)
    incoming = 64
    for layer, project, _ in layers(config):
        width, out = WIDTHS[layer], config.channels[layer]
        bottleneck = [(1, incoming, width), (3, width, width), (1, width, out)]
        for i in range(config.blocks[layer]):
            ours, theirs = f"layer{layer + 1}_{i}", f"layer{layer + 1}.{i}"
            basic = [(3, incoming, width), (3, width, out)]
            convolutions = bottleneck if config.block == "bottleneck" else basic
            for j, (size, a, b) in enumerate(convolutions, start=1):
                first = incoming if j == 1 else a
                spec |= conv(
                    f"{ours}/conv{j}", f"{theirs}.conv{j}", (size, size), first, b, bias=False
                )
                spec |= batch_norm(f"{ours}/bn{j}", f"{theirs}.bn{j}", b)
            if project and i == 0:
                down = f"{theirs}.downsample"
                spec |= conv(
                    f"{ours}/downsample_conv", f"{down}.0", (1, 1), incoming, out, bias=False
                )
                spec |= batch_norm(f"{ours}/downsample_bn", f"{down}.1", out)
            incoming = out
    return spec


def resnet_config(parameters: Mapping[str, np.ndarray]) -> ResNetConfig:
    """The depth that the names of a torchvision state dict imply.

    Raises:
        InputError: no depth has these blocks.
    """
    blocks = tuple(
        sum(1 for j in range(100) if f"layer{i}.{j}.conv1.weight" in parameters)
        for i in range(1, 5)
    )
    kind = "bottleneck" if "layer1.0.conv3.weight" in parameters else "basic"
    for depth, layout in DEPTHS.items():
        if layout == (kind, blocks):
            return ResNetConfig(depth)
    raise InputError(
        f"{kind} blocks in layers of {blocks}; the state dict has {some(parameters)}",
        f"a residual network of depth {', '.join(map(str, DEPTHS))}",
    )


def import_resnet(
    parameters: Mapping[str, np.ndarray], dead: tuple[str, ...] = ()
) -> tuple[ResNetConfig, dict]:
    """Configuration and variables of a residual network in torchvision's names.

    Args:
        parameters: of `state_dicts.parameters_of`, of this network only.
        dead: regular expressions of keys that play no part.

    Raises:
        InputError: keys or values that are not such a network's.
    """
    config = resnet_config(parameters)
    return config, import_tree(parameters, resnet_spec(config), dead)


def _state(checkpoint: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """The state dict under a name of a checkpoint, or the checkpoint where it is one."""
    inner = checkpoint.get(name, checkpoint)
    if not isinstance(inner, Mapping) or any(isinstance(v, Mapping) for v in inner.values()):
        raise InputError(
            f"no state dict {name!r} in the checkpoint; it has {some(checkpoint)}",
            f"a checkpoint whose {name!r} is a state dict, or a state dict alone",
            CHECK_NETWORK,
        )
    return parameters_of(inner)


def import_deep3d(checkpoint: Mapping[str, Any]) -> Networks:
    """`net_recon` of Deep3DFaceRecon_pytorch (epoch_20.pth): parts trunk and heads.

    Raises:
        InputError: keys or values that are not that network's.
    """
    state = _state(checkpoint, "net_recon")
    names, widths = CoefficientsConfig.names, CoefficientsConfig.widths
    trunk = subset(state, "backbone.")
    config = CoefficientsConfig(features=resnet_config(trunk).channels[-1])
    spec: Spec = {}
    for i, (name, width) in enumerate(zip(names, widths, strict=True)):
        spec |= pointwise(name, f"final_layers.{i}", config.features, width)
    rest = {k: v for k, v in state.items() if not k.startswith("backbone.")}
    heads = config, import_tree(rest, spec)
    return {"trunk": import_resnet(trunk), "heads": heads}


def import_spin(checkpoint: Mapping[str, Any]) -> Networks:
    """`model` of SPIN (model_checkpoint.pt): parts trunk and head.

    A state dict without any array of the trunk is a head on other features: part head alone.

    Raises:
        InputError: keys or values that are not that network's.
    """
    state = _state(checkpoint, "model")
    trunk = {k: v for k, v in state.items() if k.startswith(_TRUNK)}
    rest = {k: v for k, v in state.items() if k not in trunk}
    hidden, inputs = matrix_shape(rest, "fc1.weight")[:2]
    pose, betas = (matrix_shape(rest, f"{key}.weight")[0] for key in ("decpose", "decshape"))
    if pose % 6 or inputs <= pose + betas + 3:
        raise InputError(
            f"{pose} pose numbers, {betas} shape coefficients and {inputs} inputs of fc1",
            "six numbers for each joint, and fc1 on features, pose, shape and three of the camera",
        )
    config = HMRHeadConfig(inputs - pose - betas - 3, hidden, pose // 6, betas)
    spec = linear("fc1", "fc1", inputs, hidden) | linear("fc2", "fc2", hidden, hidden)
    for decoder, initial, width in (
        ("decpose", "init_pose", pose),
        ("decshape", "init_shape", betas),
        ("deccam", "init_cam", 3),
    ):
        spec |= linear(decoder, decoder, hidden, width)
        spec[f"constants/{initial}"] = Entry(initial, (1, width), reshape=(width,))
    head = (config, import_tree(rest, spec))
    if not trunk:
        return {"head": head}
    networks = {"trunk": import_resnet(trunk), "head": head}
    if networks["trunk"][0].channels[-1] != config.features:
        raise InputError(
            f"a head on {config.features} features after a trunk of "
            f"{networks['trunk'][0].channels[-1]}",
            "one network",
        )
    return networks


def import_graphcmr(checkpoint: Mapping[str, Any]) -> Networks:
    """`graph_cnn` and `smpl_param_regressor` of GraphCMR, and PaMIR's gcmr*.pt: parts trunk, graph
    and regressor.

    Raises:
        InputError: keys or values that are not these networks'.
    """
    parts = [checkpoint.get(name) for name in ("graph_cnn", "smpl_param_regressor")]
    if not all(isinstance(part, Mapping) for part in parts):
        raise InputError(
            f"the checkpoint has {some(checkpoint)}",
            "state dicts graph_cnn and smpl_param_regressor",
            CHECK_NETWORK,
        )
    graph, regressor = (parameters_of(part) for part in parts if part is not None)
    rest = {k: v for k, v in graph.items() if not k.startswith("resnet.")}
    config = _graph_config(rest)
    spec, dead = _graph_spec(config)
    small = {
        "graph": (config, import_tree(rest, spec, dead)),
        "regressor": _import_param_regressor(regressor),
    }
    trunk = import_resnet(subset(graph, "resnet."), dead=(r"fc\.(weight|bias)",))
    networks = {"trunk": trunk, **small}
    found = trunk[0].channels[-1], networks["regressor"][0].vertices
    if found != (config.features, config.vertices):
        raise InputError(
            f"a graph of {config.vertices} vertices with {config.features} features, a trunk of "
            f"{found[0]} and a regressor of {found[1]} vertices",
            "parts of one network",
        )
    return networks


def _graph_config(parameters: Mapping[str, np.ndarray]) -> GraphConfig:
    channels, inputs = matrix_shape(parameters, "gc.0.W")[:2]
    blocks = sum(1 for i in range(1, 100) if f"gc.{i}.lin1.W" in parameters)
    vertices = matrix_shape(parameters, "camera_fc.4.weight")[1]
    if inputs <= 3 or blocks < 1 or channels % 32:
        raise InputError(
            f"gc.0.W of shape {(channels, inputs)} and {blocks} blocks",
            "a layer on three coordinates and features, and blocks at half its channels, which are "
            "a multiple of 16",
        )
    return GraphConfig(inputs - 3, channels // 2, blocks - 1, vertices)


def _graph_linear(ours: str, theirs: str, inputs: int, outputs: int) -> Spec:
    return {
        f"params/{ours}/kernel": Entry(f"{theirs}.W", (outputs, inputs), (1, 0)),
        f"params/{ours}/bias": Entry(f"{theirs}.b", (outputs,)),
    }


def _graph_spec(config: GraphConfig) -> tuple[Spec, list[str]]:
    """The arrays of GraphCNN without its trunk, and patterns of its dead keys."""
    c, wide = config.channels, 2 * config.channels
    spec = {
        "params/input_kernel": Entry("gc.0.W", (wide, 3 + config.features), (1, 0)),
        "params/input_bias": Entry("gc.0.b", (wide,)),
    }
    first, second = SHAPE_HEAD
    blocks = [("block_0", "gc.1", wide, c)]
    blocks += [(f"block_{i}", f"gc.{i + 1}", c, c) for i in range(1, 1 + config.blocks)]
    blocks += [("shape_0", "shape.0", c, first), ("shape_1", "shape.1", first, second)]
    dead = []
    for ours, theirs, a, b in blocks:
        for name, channels in (("pre_norm", a), ("norm1", b // 2), ("norm2", b // 2)):
            spec |= affine(f"{ours}/{name}", f"{theirs}.{name}", channels)
        spec |= _graph_linear(f"{ours}/lin1", f"{theirs}.lin1", a, b // 2)
        # The weight of a graph convolution is (in, out) already.
        spec[f"params/{ours}/conv/linear/kernel"] = Entry(f"{theirs}.conv.weight", (b // 2, b // 2))
        spec[f"params/{ours}/conv/bias"] = Entry(f"{theirs}.conv.bias", (b // 2,))
        spec |= _graph_linear(f"{ours}/lin2", f"{theirs}.lin2", b // 2, b)
        if a != b:
            spec |= _graph_linear(f"{ours}/skip_conv", f"{theirs}.skip_conv", a, b)
        else:
            dead.append(theirs.replace(".", r"\.") + r"\.skip_conv\.(W|b)")
    spec |= affine("shape_norm", "shape.2", second)
    spec |= _graph_linear("shape_out", "shape.4", second, 3)
    spec |= affine("camera_norm", "camera_fc.0", c)
    spec |= _graph_linear("camera_mix", "camera_fc.2", c, 1)
    spec |= linear("camera_out", "camera_fc.4", config.vertices, 3)
    return spec, dead


def _import_param_regressor(parameters: Mapping[str, np.ndarray]) -> tuple[ParamConfig, dict]:
    hidden, inputs = matrix_shape(parameters, "layers.0.fc_block.0.weight")[:2]
    outputs = matrix_shape(parameters, "layers.3.weight")[0]
    config = ParamConfig(inputs // _VERTEX, hidden)
    if inputs % _VERTEX or outputs != 9 * config.joints + config.betas:
        raise InputError(
            f"a regressor from {inputs} to {outputs} numbers",
            f"six for each vertex, to {config.joints} matrices and {config.betas} coefficients",
        )
    spec = linear("fc", "layers.0.fc_block.0", inputs, hidden)
    spec |= batch_norm("fc_bn", "layers.0.fc_block.1", hidden)
    for i in range(2):
        for j, (layer, norm) in enumerate(((0, 1), (3, 4)), start=1):
            block = f"layers.{i + 1}.fc_block"
            spec |= linear(f"res{i}_fc{j}", f"{block}.{layer}", hidden, hidden)
            spec |= batch_norm(f"res{i}_fc{j}_bn", f"{block}.{norm}", hidden)
    spec |= linear("out", "layers.3", hidden, outputs)
    return config, import_tree(parameters, spec)


IMPORTERS: dict[str, Callable[[Mapping[str, Any]], Networks]] = {
    "deep3d": import_deep3d,
    "spin": import_spin,
    "graphcmr": import_graphcmr,
}
"""Name on the command line -> checkpoint -> {part: (configuration, variables)}."""
