"""PyTorch layers in a state dict, to trees of ours: which array goes where, and how it turns.

A specification names every array of a network: {our path: `Entry` of theirs}. An import uses all of
the state dict or fails: what is known to be another name of an array (an alias) or to play no part
(dead) is listed by the network's importer, and anything else is an error. Ours are channels-last:
linear (in, out), convolutions (h, w, in, out).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.interop.state_dicts import CHECK_NETWORK, some, take
from jaxrecon.interop.weights import unflatten_tree


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where an array of ours comes from."""

    key: str
    """Its name in the state dict."""
    shape: tuple[int, ...]
    """Its shape there."""
    axes: tuple[int, ...] | None = None
    """Transposition from there to here; None: as it is."""
    reshape: tuple[int, ...] | None = None
    """Shape that it is given before `axes` apply."""
    positive: bool = False
    """Whether it is a variance, which must not be negative."""


Spec = dict[str, Entry]
"""{path below the variables ("params/conv1/kernel"): entry}."""


def linear(ours: str, theirs: str, inputs: int, outputs: int, bias: bool = True) -> Spec:
    """torch.nn.Linear: kernel (in, out), bias (out,)."""
    spec = {f"params/{ours}/kernel": Entry(f"{theirs}.weight", (outputs, inputs), (1, 0))}
    if bias:
        spec[f"params/{ours}/bias"] = Entry(f"{theirs}.bias", (outputs,))
    return spec


def pointwise(ours: str, theirs: str, inputs: int, outputs: int, dimensions: int = 2) -> Spec:
    """A convolution of kernel size 1 as a linear layer: kernel (in, out), bias (out,)."""
    shape = (outputs, inputs, *(1,) * dimensions)
    return {
        f"params/{ours}/kernel": Entry(f"{theirs}.weight", shape, (1, 0), (outputs, inputs)),
        f"params/{ours}/bias": Entry(f"{theirs}.bias", (outputs,)),
    }


def conv(
    ours: str, theirs: str, size: tuple[int, ...], inputs: int, outputs: int, bias: bool = True
) -> Spec:
    """torch.nn.Conv1d, 2d or 3d of kernel `size`: kernel (*size, in, out), bias (out,)."""
    axes = (*range(2, 2 + len(size)), 1, 0)
    spec = {f"params/{ours}/kernel": Entry(f"{theirs}.weight", (outputs, inputs, *size), axes)}
    if bias:
        spec[f"params/{ours}/bias"] = Entry(f"{theirs}.bias", (outputs,))
    return spec


def affine(ours: str, theirs: str, channels: int) -> Spec:
    """The scale and bias of torch.nn.GroupNorm or LayerNorm."""
    return {
        f"params/{ours}/scale": Entry(f"{theirs}.weight", (channels,)),
        f"params/{ours}/bias": Entry(f"{theirs}.bias", (channels,)),
    }


def batch_norm(ours: str, theirs: str, channels: int) -> Spec:
    """torch.nn.BatchNorm: `affine`, and running mean and variance in `batch_stats`."""
    return affine(ours, theirs, channels) | {
        f"batch_stats/{ours}/mean": Entry(f"{theirs}.running_mean", (channels,)),
        f"batch_stats/{ours}/var": Entry(f"{theirs}.running_var", (channels,), positive=True),
    }


def import_tree(
    parameters: Mapping[str, np.ndarray],
    spec: Mapping[str, Entry],
    dead: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> dict:
    """{collection: nested dict of float32 arrays} of one network.

    Args:
        parameters: of `state_dicts.parameters_of`; all of them must belong to this network.
        spec: where every array of ours comes from.
        dead: regular expressions of whole keys that play no part; counters of batch normalisation
            (`num_batches_tracked`) always are.
        aliases: {key: the key whose array it repeats}; may be absent, must not differ.

    Raises:
        InputError: keys that are missing or unused, wrong shapes, values that are not finite,
            negative variances, aliases that differ.
    """
    wanted = {entry.key for entry in spec.values()}
    ours = {path: _convert(parameters, entry) for path, entry in spec.items()}
    unused = []
    for key in sorted(set(parameters) - wanted):
        if aliases and key in aliases:
            _check_alias(parameters, key, aliases[key])
        elif key.rpartition(".")[2] != "num_batches_tracked":
            if not any(re.fullmatch(pattern, key) for pattern in dead):
                unused.append(key)
    if unused:
        raise InputError(
            f"the state dict has {some(unused)}, which this network does not",
            f"{len(wanted)} arrays: {some(wanted)}",
            CHECK_NETWORK,
        )
    return unflatten_tree(ours)


def _convert(parameters: Mapping[str, np.ndarray], entry: Entry) -> np.ndarray:
    value = take(parameters, entry.key, entry.shape)
    if entry.positive and (value < 0).any():
        raise InputError(f"{entry.key} has negative entries", "variances")
    if entry.reshape is not None:
        value = value.reshape(entry.reshape)
    if entry.axes is not None:
        value = value.transpose(entry.axes)
    return np.ascontiguousarray(value)


def _check_alias(parameters: Mapping[str, np.ndarray], key: str, original: str) -> None:
    a, b = parameters[key], parameters.get(original)
    if b is None or a.shape != b.shape or not np.array_equal(a, b):
        raise InputError(
            f"{key} is not {original}", "two names of one array, as the authors' network has"
        )


def matrix_shape(parameters: Mapping[str, np.ndarray], key: str) -> tuple[int, ...]:
    """The shape of a weight, from which sizes of a network follow.

    Raises:
        InputError: absent, or fewer than two axes.
    """
    value = parameters.get(key)
    if value is None or value.ndim < 2 or 0 in value.shape:
        found = "missing" if value is None else f"of shape {value.shape}"
        raise InputError(
            f"{key} is {found}; the state dict has {some(parameters)}", "a weight", CHECK_NETWORK
        )
    return value.shape
