"""Published coordinate networks as MLPs of `models.implicit`: IDR's pair, i3DMM's reference.

Every import returns parameters in the layout of `init_mlp(key, config)`, so that an imported
network is evaluated, trained, traced and extracted like one of ours. All work in their authors'
own space: IDR's object lies in the unit sphere, i3DMM's head in the cube [-1, 1]^3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.errors import InputError
from jaxrecon.interop import state_dicts
from jaxrecon.models.implicit import MLPConfig, evaluate, fold
from jaxrecon.models.layers import Encoding, encode
from jaxrecon.types import UNIT_BOX, Box, Field, field

StateDict = Mapping[str, Any]
_MODEL = "model_state_dict"


def _layers(parameters: StateDict, config: MLPConfig) -> dict:
    """Layers lin0, lin1, ... of IDR's naming as parameters of `config`."""
    shapes = {f"lin{i}": shape for i, shape in enumerate(config.shapes())}
    layers = state_dicts.import_linear_layers(parameters, shapes)
    for name, layer in layers.items():
        if config.weight_norm != ("scale" in layer):
            found = "weight_g and weight_v" if "scale" in layer else "weight"
            raise InputError(
                f"{name} has {found}, but weight_norm is {config.weight_norm}",
                "weight normalisation on every layer or on none, as in the configuration",
            )
    named = {f"layer_{name.removeprefix('lin')}": layer for name, layer in layers.items()}
    return jax.tree.map(jnp.asarray, named)


def import_idr_implicit(state_dict: StateDict, config: MLPConfig) -> dict:
    """Parameters of IDR's `ImplicitNetwork` (lioryariv/idr) for an `idr_network` configuration.

    Args:
        state_dict: lin0.weight_g, lin0.weight_v (or lin0.weight), lin0.bias, lin1...
        config: of `models.implicit.idr_network`, or `idr_config(state_dict)`.

    Raises:
        InputError: keys or shapes do not fit the configuration.
    """
    return _layers(state_dicts.parameters_of(state_dict), config)


def idr_config(state_dict: StateDict) -> MLPConfig:
    """The configuration that the shapes of an IDR `ImplicitNetwork` imply.

    Raises:
        InputError: no such network has these shapes.
    """
    parameters = state_dicts.parameters_of(state_dict)
    shapes = state_dicts.linear_shapes(parameters, "lin")
    encoded = shapes[0][0]
    # A layer that sees the input again has that many inputs more than the layer before has outputs.
    skip = tuple(i for i in range(1, len(shapes)) if shapes[i][0] == shapes[i - 1][1] + encoded)
    outputs = [o + encoded * (i + 1 in skip) for i, (_, o) in enumerate(shapes)]
    config = MLPConfig(
        hidden=tuple(outputs[:-1]),
        out=outputs[-1],
        encoding=Encoding(bands=(encoded - 3) // 6, include_input=True),
        skip=skip,
        weight_norm="lin0.weight_g" in parameters,
        initial="geometric",
    )
    if config.shapes() != shapes:
        raise InputError(
            f"linear layers of (inputs, outputs) {shapes}",
            "an ImplicitNetwork: lin0 sees 3 + 6 n encoded coordinates, every other layer what the "
            "one before yields (and the input again where it skips)",
        )
    return config


def idr_rendering_network(
    hidden: tuple[int, ...] = (512,) * 4,
    features: int = 256,
    view_bands: int = 4,
    weight_norm: bool = True,
) -> MLPConfig:
    """IDR's `RenderingNetwork` in mode 'idr': the raw point, then `idr_rendering_inputs`."""
    return MLPConfig(
        hidden=hidden,
        out=3,
        encoding=Encoding(bands=0),
        extra=Encoding(view_bands).width() + 3 + features,
        activation="relu",
        output_activation="tanh",
        weight_norm=weight_norm,
    )


def idr_rendering_inputs(
    views: Float[Array | np.ndarray, "*n 3"],
    gradients: Float[Array | np.ndarray, "*n 3"],
    features: Float[Array | np.ndarray, "*n f"],
    view_bands: int = 4,
) -> Float[Array, "*n e"]:
    """The `extra` channels of IDR's rendering network; its output is RGB in [-1, 1].

    Args:
        views: unit directions from the point to the camera (minus the ray's direction).
        gradients: of the signed distance, as they are: IDR does not normalise them.
        features: outputs 1... of the implicit network.
        view_bands: bands of the directions' encoding.
    """
    encoded = encode(jnp.asarray(views), Encoding(view_bands))
    return jnp.concatenate([encoded, jnp.asarray(gradients), jnp.asarray(features)], axis=-1)


def import_idr_rendering(state_dict: StateDict, config: MLPConfig) -> dict:
    """Parameters of IDR's `RenderingNetwork` for an `idr_rendering_network` configuration.

    Raises:
        InputError: keys or shapes do not fit the configuration.
    """
    return _layers(state_dicts.parameters_of(state_dict), config)


def _idr_rendering_config(parameters: StateDict, features: int) -> MLPConfig:
    shapes = state_dicts.linear_shapes(parameters, "lin")
    config = idr_rendering_network(
        hidden=tuple(o for _, o in shapes[:-1]),
        features=features,
        view_bands=max(0, shapes[0][0] - 9 - features) // 6,
        weight_norm="lin0.weight_g" in parameters,
    )
    if config.shapes() != shapes:
        raise InputError(
            f"rendering layers of (inputs, outputs) {shapes}",
            f"a RenderingNetwork in mode 'idr' for {features} features: lin0 sees the point, the "
            "encoded view direction, the gradient and the features; three outputs",
        )
    return config


def import_i3dmm_reference(state_dict: StateDict) -> tuple[MLPConfig, dict]:
    """Configuration and parameters of i3DMM's reference network (tarun738/i3DMM, latest_ref.pth).

    tanh(f(x)) with f three ReLU layers of 512 on PE6(x), which the authors pad to 512 channels with
    zeros. Weight norm is resolved, since that of layer 0 runs over the padding's columns too; they
    meet zeros, so they are dropped afterwards.

    Args:
        state_dict: lin_sdf0.weight_g, ... lin_sdf3.weight, lin_sdf3.bias.

    Raises:
        InputError: keys or shapes are not that network's.
    """
    config = MLPConfig(
        hidden=(512,) * 3,
        out=1,
        encoding=Encoding(bands=6),
        activation="relu",
        output_activation="tanh",
        weight_norm=False,
    )
    shapes = {f"lin_sdf{i}": (512, 512) for i in range(3)} | {"lin_sdf3": (512, 1)}
    parameters = state_dicts.parameters_of(state_dict)
    layers = state_dicts.import_linear_layers(parameters, shapes)
    plain = [state_dicts.resolve_weight_norm(layer) for layer in layers.values()]
    plain[0]["kernel"] = plain[0]["kernel"][: config.input_width]
    return config, jax.tree.map(jnp.asarray, {f"layer_{i}": p for i, p in enumerate(plain)})


def _import_idr(state_dict: StateDict) -> dict[str, tuple[MLPConfig, dict]]:
    """An ImplicitNetwork alone, or IDR's whole model: implicit_network.*, rendering_network.*.

    Its latest.pth is {epoch, model_state_dict}; a state dict alone will do.
    """
    parameters = state_dicts.parameters_of(state_dicts.state_dict_in(state_dict, _MODEL))
    prefixes = ("implicit_network.", "rendering_network.")
    if not any(k.startswith(prefixes) for k in parameters):
        config = idr_config(parameters)
        return {"implicit": (config, import_idr_implicit(parameters, config))}
    geometry, colour = (state_dicts.subset(parameters, prefix) for prefix in prefixes)
    rest = sorted(k for k in parameters if not k.startswith(prefixes))
    if rest:
        raise InputError(f"the state dict has {rest[0]} beside {' and '.join(prefixes)}")
    config = idr_config(geometry)
    networks = {"implicit": (config, import_idr_implicit(geometry, config))}
    if colour:
        rendering = _idr_rendering_config(colour, config.out - 1)
        networks["rendering"] = (rendering, import_idr_rendering(colour, rendering))
    return networks


def _import_i3dmm_reference(state_dict: StateDict) -> dict[str, tuple[MLPConfig, dict]]:
    """latest_ref.pth, {epoch, model_state_dict}, or the state dict alone."""
    return {"reference": import_i3dmm_reference(state_dicts.state_dict_in(state_dict, _MODEL))}


IMPORTERS: dict[str, Callable[[StateDict], dict[str, tuple[MLPConfig, dict]]]] = {
    "idr": _import_idr,
    "i3dmm-reference": _import_i3dmm_reference,
}
"""Name on the command line -> checkpoint or state dict -> {part: (configuration, parameters)}."""


@dataclasses.dataclass(frozen=True)
class _LevelSet:
    """Output channel 0 of a folded network. Equal configurations are equal: jit compiles once."""

    config: MLPConfig

    def __call__(self, layers, points):
        *hidden, last = layers
        first = {"kernel": last["kernel"][:, :1], "bias": last["bias"][:1]}
        return evaluate(self.config, [*hidden, first], points)[..., 0]


def network_field(config: MLPConfig, parameters: dict, box: Box = UNIT_BOX) -> Field:
    """The signed distance (output channel 0) of an imported network, to trace or extract.

    Args:
        config: without a latent code.
        parameters: of an import.
        box: bounds of the surface, in the network's own space.
    """
    return field(_LevelSet(config), fold(parameters), box=box)
