"""Published face parsing as networks of `models.bisenet`. Sizes follow from the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxrecon.errors import InputError
from jaxrecon.interop.regressor_networks import Networks, import_resnet
from jaxrecon.interop.state_dicts import parameters_of, state_dict_in, subset
from jaxrecon.interop.torch_layers import Spec, batch_norm, conv, import_tree, matrix_shape
from jaxrecon.models.bisenet import BiSeNetHeadsConfig

_TRUNK = "cp.resnet."


def import_bisenet(checkpoint: Mapping[str, Any]) -> Networks:
    """BiSeNet of face-parsing.PyTorch (79999_iter.pth, a state dict alone): parts trunk and heads.

    The two auxiliary outputs, which only training uses, are imported like all else.

    Raises:
        InputError: keys or values that are not that network's.
    """
    state = parameters_of(state_dict_in(checkpoint, "state_dict"))
    trunk = import_resnet(subset(state, _TRUNK))
    rest = {k: v for k, v in state.items() if not k.startswith(_TRUNK)}
    classes, fused = matrix_shape(rest, "conv_out.conv_out.weight")[:2]
    context = matrix_shape(rest, "cp.conv_avg.conv.weight")[0]
    auxiliary = matrix_shape(rest, "conv_out16.conv.conv.weight")[0]
    config = BiSeNetHeadsConfig(classes, context, fused, auxiliary)
    if trunk[0].block != "basic" or fused % 4:
        raise InputError(
            f"a trunk of depth {trunk[0].depth} and {fused} fused channels",
            "a trunk of depth 18 or 34, and a multiple of four channels",
        )
    return {"trunk": trunk, "heads": (config, import_tree(rest, _heads(config, trunk[0].channels)))}


def _heads(config: BiSeNetHeadsConfig, channels: tuple[int, ...]) -> Spec:
    """Where the arrays of `BiSeNetHeads` are; `channels` of the trunk's four layers."""
    c, fused = config.context, config.fused
    _, at8, at16, at32 = channels
    spec = _block("conv_avg", "cp.conv_avg", 1, at32, c)
    for name, inputs in (("arm16", at16), ("arm32", at32)):
        spec |= _block(f"{name}/conv", f"cp.{name}.conv", 3, inputs, c)
        spec |= conv(f"{name}/conv_atten", f"cp.{name}.conv_atten", (1, 1), c, c, bias=False)
        spec |= batch_norm(f"{name}/bn_atten", f"cp.{name}.bn_atten", c)
    for name in ("conv_head16", "conv_head32"):
        spec |= _block(name, f"cp.{name}", 3, c, c)
    spec |= _block("ffm/convblk", "ffm.convblk", 1, at8 + c, fused)
    spec |= conv("ffm/conv1", "ffm.conv1", (1, 1), fused, fused // 4, bias=False)
    spec |= conv("ffm/conv2", "ffm.conv2", (1, 1), fused // 4, fused, bias=False)
    auxiliary = config.auxiliary
    outputs = (("", fused, fused), ("16", c, auxiliary), ("32", c, auxiliary))
    for suffix, inputs, hidden in outputs:
        name = f"conv_out{suffix}"
        spec |= _block(f"{name}/conv", f"{name}.conv", 3, inputs, hidden)
        spec |= conv(
            f"{name}/conv_out", f"{name}.conv_out", (1, 1), hidden, config.classes, bias=False
        )
    return spec


def _block(ours: str, theirs: str, size: int, inputs: int, outputs: int) -> Spec:
    """Convolution and batch normalisation."""
    spec = conv(f"{ours}/conv", f"{theirs}.conv", (size, size), inputs, outputs, bias=False)
    return spec | batch_norm(f"{ours}/bn", f"{theirs}.bn", outputs)


IMPORTERS: dict[str, Callable[[Mapping[str, Any]], Networks]] = {"bisenet": import_bisenet}
"""Name on the command line -> checkpoint -> {part: (configuration, variables)}."""
