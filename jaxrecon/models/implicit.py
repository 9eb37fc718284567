"""Coordinate networks: one MLP brick for signed distances, deformations and colours.

`ImplicitNetwork` (Flax Linen) owns the parameters; `fold` and `evaluate` are the pure functions it
is made of. Folding computes weight norm and the projection of the latent code once, before a field
is traced, so that a query costs the plain matrix products only. With `skip`, layer norms and
`Encoding` set as in `idr_network` it is IDR's ImplicitNetwork.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.models.layers import ACTIVATIONS, Encoding, encode, weight_norm

Layers = list[dict[str, Array]]
"""Folded layers: [{kernel (i, o), bias (o,)}, ...]."""


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """An MLP on encoded coordinates, conditioned by an optional latent code."""

    hidden: tuple[int, ...] = (512,) * 8
    """Widths of the hidden layers; one linear output layer follows."""
    out: int = 257
    """Output channels."""
    encoding: Encoding = Encoding()
    """Encoding of the coordinates."""
    extra: int = 0
    """Further input channels, appended to the encoded coordinates as they are."""
    code: int = 0
    """Width of the latent code (0: none)."""
    code_layers: tuple[int, ...] = (0,)
    """Layers that see the code. (0,) is concatenation with the input; more layers cost nothing per
    point.
    """
    code_output: bool = False
    """Whether the code also modulates the output kernel (bilinear, like the basis of a linear
    shape model).
    """
    skip: tuple[int, ...] = ()
    """Layers whose input is concat(h, input) / sqrt(2); the layer before is narrower by the input
    (IDR).
    """
    activation: str = "softplus100"
    """Activation of the hidden layers (layers.ACTIVATIONS)."""
    output_activation: str = "none"
    """Activation of the output."""
    weight_norm: bool = True
    """Weight normalisation on every layer (IDR)."""
    initial: str = "torch"
    """`geometric` (IDR: roughly a sphere of `radius`), `zero_output` (deformations start at 0),
    `torch`, `he`.
    """
    radius: float = 0.6
    """Bias of the geometric initialisation; the zero level set starts near it."""

    def __post_init__(self):
        for name, table in (("activation", ACTIVATIONS), ("output_activation", ACTIVATIONS)):
            if getattr(self, name) not in table:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; expected one of {sorted(table)}"
                )
        if self.initial not in ("geometric", "zero_output", "torch", "he"):
            raise ValueError(
                f"initial is {self.initial!r}; expected geometric, zero_output, torch or he"
            )

    @property
    def input_width(self) -> int:
        """Channels that enter layer 0 (and every skip layer), without the code."""
        return self.encoding.width() + self.extra

    def shapes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of every layer, code excluded."""
        widths = [*self.hidden, self.out]
        shapes, incoming = [], self.input_width
        for i, out in enumerate(widths):
            if i in self.skip:
                incoming += self.input_width
            if i + 1 in self.skip:
                out -= self.input_width
            shapes.append((incoming, out))
            incoming = out
        return shapes


def _initial_kernel(config: MLPConfig, index: int, key, shape) -> Array:
    """Kernel of one layer under the configured scheme (facts of IDR's
    implicit_differentiable_renderer.py).
    """
    inputs, outputs = shape
    last = index == len(config.hidden)
    if config.initial == "geometric":
        if last:
            return np.sqrt(np.pi / inputs) + 1e-4 * jax.random.normal(key, shape)
        kernel = jax.random.normal(key, shape) * np.sqrt(2.0 / outputs)
        encoded = config.input_width
        # Only the (nearly) raw coordinates start connected, so that the field starts radial.
        # Without raw coordinates the lowest sine, monotone over the box, takes their place.
        if index == 0:
            return kernel.at[3:].set(0.0)
        if index in config.skip:
            return kernel.at[inputs - encoded + 3 :].set(0.0)
        return kernel
    if config.initial == "zero_output" and last:
        return 1e-5 * jax.random.normal(key, shape)
    if config.initial in ("he", "zero_output"):
        return jax.random.normal(key, shape) * np.sqrt(2.0 / inputs)
    bound = 1.0 / np.sqrt(inputs)
    return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


def _initial_bias(config: MLPConfig, index: int, inputs: int, key, outputs: int) -> Array:
    if config.initial == "geometric":
        return jnp.full((outputs,), -config.radius if index == len(config.hidden) else 0.0)
    if config.initial == "torch":
        bound = 1.0 / np.sqrt(inputs)
        return jax.random.uniform(key, (outputs,), minval=-bound, maxval=bound)
    return jnp.zeros((outputs,))


def init_mlp(key: Array, config: MLPConfig) -> dict:
    """Parameters {layer_i: {kernel, bias[, scale][, code][, code_kernel]}} as plain nested
    dicts.
    """
    parameters = {}
    for i, (inputs, outputs) in enumerate(config.shapes()):
        k_kernel, k_bias, k_code, k_output = jax.random.split(jax.random.fold_in(key, i), 4)
        layer = {
            "kernel": _initial_kernel(config, i, k_kernel, (inputs, outputs)),
            "bias": _initial_bias(config, i, inputs, k_bias, outputs),
        }
        if config.code and i in config.code_layers:
            last = i == len(config.hidden)
            std = 1.0 / np.sqrt(config.code + inputs)
            if (
                config.code_output
            ):  # starts unmodulated: the bilinear output learns the linear part first
                std = 0.0 if last else 0.02 * std
            layer["code"] = std * jax.random.normal(k_code, (config.code, outputs))
        if config.weight_norm:
            joint = _joint(layer)
            layer["scale"] = jnp.sqrt(jnp.sum(joint * joint, axis=0))
        if config.code and config.code_output and i == len(config.hidden):
            layer["code_kernel"] = 0.01 * jax.random.normal(
                k_output, (config.code, inputs, outputs)
            )
        parameters[f"layer_{i}"] = layer
    return parameters


def _joint(layer: dict) -> Array:
    return jnp.concatenate([layer["kernel"], layer["code"]]) if "code" in layer else layer["kernel"]


def fold(parameters: dict, code: Float[Array, "c"] | None = None) -> Layers:
    """Plain kernels and biases of a network whose weight norm and latent code are resolved.

    Args:
        parameters: of `init_mlp` (or an import).
        code: latent code of one instance; vmap over instances.
    """
    layers = []
    for i in range(len(parameters)):
        layer = parameters[f"layer_{i}"]
        joint = _joint(layer)
        if "scale" in layer:
            joint = weight_norm(joint, layer["scale"])
        inputs = layer["kernel"].shape[0]
        kernel, bias = joint[:inputs], layer["bias"]
        if code is not None and "code" in layer:
            bias = bias + jnp.matmul(code, joint[inputs:], precision="highest")
        if code is not None and "code_kernel" in layer:
            # Scaled by its fan-in, so that one learning rate suits it and the other kernels.
            change = jnp.einsum("c,cio->io", code, layer["code_kernel"], precision="highest")
            kernel = kernel + change * float(1.0 / np.sqrt(code.shape[0] * inputs))
        layers.append({"kernel": kernel, "bias": bias})
    return layers


def evaluate(
    config: MLPConfig,
    layers: Layers,
    points: Float[Array, "*n 3"],
    extra: Float[Array, "*n e"] | None = None,
    precision: str = "highest",
) -> Float[Array, "*n o"]:
    """Folded network at points.

    Args:
        config: architecture (static).
        layers: of `fold`.
        points: coordinates.
        extra: further channels (config.extra of them), or None.
        precision: matmul precision; fields that are traced or extracted need "highest" (tf32 loses
            7 % of rays).
    """
    inputs = encode(points, config.encoding)
    if extra is not None:
        inputs = jnp.concatenate([inputs, extra], axis=-1)
    activation, h = ACTIVATIONS[config.activation], inputs
    for i, layer in enumerate(layers):
        if i in config.skip:
            h = jnp.concatenate([h, inputs], axis=-1) * float(1.0 / np.sqrt(2.0))
        bias = layer["bias"].reshape((1,) * (h.ndim - 1) + (-1,))
        h = jnp.matmul(h, layer["kernel"], precision=precision) + bias
        if i + 1 < len(layers):
            h = activation(h)
    return ACTIVATIONS[config.output_activation](h)


class ImplicitNetwork(nn.Module):
    """Linen face of the MLP: `init(key, points, code)` and `apply(variables, points, code)`."""

    config: MLPConfig

    @nn.compact
    def __call__(self, points, code=None, extra=None):
        """The network at points (*n, 3), under a code (c,) where it has one: (*n, out)."""
        parameters = self.param("mlp", init_mlp, self.config)
        return evaluate(self.config, fold(parameters, code), points, extra)


def idr_network(
    hidden: tuple[int, ...] = (512,) * 8,
    features: int = 256,
    bands: int = 6,
    skip: tuple[int, ...] = (4,),
    weight_norm: bool = True,
    geometric: bool = True,
    radius: float = 0.6,
) -> MLPConfig:
    """IDR's ImplicitNetwork (lioryariv/idr): raw coordinates in the encoding, no pi,
    softplus(100).
    """
    return MLPConfig(
        hidden=hidden,
        out=1 + features,
        encoding=Encoding(bands=bands, include_input=True, scale=1.0),
        skip=skip,
        weight_norm=weight_norm,
        initial="geometric" if geometric else "torch",
        radius=radius,
    )


def count_parameters(parameters) -> int:
    """Number of scalars in a parameter tree."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(parameters))
