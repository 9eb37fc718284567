"""PyTorch state dicts, given as flat {name: array}, to layers in our layout.

An import either uses every parameter of a state dict or fails and names what is left: a network
that is nearly the right one must not load. torch keeps weights as (out, in) with y = x W^T + b; our
kernels are (in, out). Containers of PyTorch are read by `torch_files`, layers other than linear
ones by `torch_layers`.
"""

from __future__ import annotations

import math
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrecon.archives import MAX_BYTES, open_zip, unpacked_limit
from jaxrecon.errors import FAULTS, InputError
from jaxrecon.interop.pickle_values import shown

# torch.nn.utils.weight_norm; torch.nn.utils.parametrizations.weight_norm names them differently.
_PARAMETRISED = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}
_MAX_NAME = 500
_VALUES = (np.ndarray, np.generic, str, bytes, bool, int, float)
CHECK_NETWORK = "check that --network, or the configuration, names what the file holds"
_NOT_ARRAYS = "an .npz of plain arrays, one for each entry of the state dict"
_OWN_READER = (
    "jaxrecon import-checkpoint reads both; in Python, jaxrecon.interop.torch_files.read_checkpoint"
)


def read_npz(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz; object members are refused, and sizes are checked before reading.

    Raises:
        InputError: absent, not an .npz, damaged, larger than 1 GiB, or holding objects (which
            `object_arrays.read_npz_objects` reads).
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file", _NOT_ARRAYS)
    arrays = {}
    try:
        _refuse_pytorch(path)
        with open_zip(path) as archive:
            limit = unpacked_limit(path.stat().st_size, MAX_BYTES)
            if sum(member.file_size for member in archive.infolist()) > limit:
                raise ValueError(f"unpacked, larger than {limit / 2**30:.3g} GiB")
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise ValueError(f"two members are called {name}")
                arrays[name] = _read_member(archive, member)
    except (InputError, *FAULTS):
        raise
    # A hostile archive fails in many ways: zlib.error, KeyError, NotImplementedError, ...
    except Exception as error:
        text = shown(str(error), 200) or type(error).__name__
        raise InputError(f"{path}: {text}", _NOT_ARRAYS) from error
    return arrays


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"{member.filename}: version {version} of the .npy format")
        shape, _, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects, which are not read")
        if dtype.itemsize == 0:
            raise ValueError(f"{member.filename} holds elements of no size")
        # The array is allocated before it is filled: its shape must be what the member can fill.
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename}: shape {shape} is larger than its data")
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _refuse_pytorch(path: pathlib.Path) -> None:
    """Name a PyTorch container for what it is, by its content."""
    with path.open("rb") as file:
        start = file.read(2)
    torch = start[:1] == b"\x80"
    if start == b"PK":
        with open_zip(path) as archive:
            torch = any(name.endswith("/data.pkl") for name in archive.namelist())
    if torch:
        raise InputError(f"{path}: a container of PyTorch, not an .npz", _NOT_ARRAYS, _OWN_READER)


def state_dict_in(checkpoint: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The state dict at the path `names` of a nested checkpoint, or the checkpoint if it is flat.

    Raises:
        InputError: nothing is at that path, and the checkpoint holds other dicts.
    """
    inner: Any = checkpoint
    for name in names:
        inner = inner.get(name) if isinstance(inner, Mapping) else None
    inner = checkpoint if inner is None else inner
    if not isinstance(inner, Mapping) or any(isinstance(v, Mapping) for v in inner.values()):
        raise InputError(
            f"no state dict at {'.'.join(names)} of the checkpoint; it has {some(checkpoint)}",
            f"a checkpoint with its state dict at {'.'.join(names)}, or a state dict alone",
            CHECK_NETWORK,
        )
    return inner


def parameters_of(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The numeric arrays of a state dict, without `module.` prefixes (of torch's DataParallel).

    Text (configurations kept beside weights) holds no parameters and is left out, as are batch
    normalisation's counters (`num_batches_tracked`); names of the newer weight normalisation become
    `weight_g` and `weight_v`.

    Raises:
        InputError: two names become one, or an entry is not an array of numbers.
    """
    parameters = {}
    for key, value in state_dict.items():
        if not isinstance(key, str) or not isinstance(value, _VALUES):
            raise InputError(
                f"{shown(key, 80)}: a {type(value).__name__} in a state dict", "arrays of numbers"
            )
        if len(key) > _MAX_NAME or not key.isprintable():
            raise InputError(f"{shown(key)}...: a name in a state dict", "names of torch's modules")
        if isinstance(value, str | bytes):
            continue
        name, array = key, np.asarray(value)
        if array.dtype.kind in "US" or key.rpartition(".")[2] == "num_batches_tracked":
            continue
        while name.startswith("module."):
            name = name.removeprefix("module.")
        for new, old in _PARAMETRISED.items():
            name = name.removesuffix(new) + old if name.endswith(new) else name
        if array.dtype.kind not in "fiub":
            raise InputError(f"{key}: {array.dtype} in a state dict", "arrays of numbers")
        if name in parameters:
            raise InputError(f"{key}: a second {name} in the state dict", "one array for each name")
        parameters[name] = array
    return parameters


def subset(parameters: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Entries below `prefix` (with its dot), named without it."""
    return {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}


def linear_shapes(parameters: Mapping[str, np.ndarray], stem: str) -> list[tuple[int, int]]:
    """(inputs, outputs) of the linear layers `stem`0, `stem`1, ..., as far as they are numbered.

    Raises:
        InputError: there is no `stem`0, or a weight is not a matrix.
    """
    shapes = []
    while True:
        name = f"{stem}{len(shapes)}"
        keys = [k for k in (f"{name}.weight_v", f"{name}.weight") if k in parameters]
        if not keys:
            break
        if parameters[keys[0]].ndim != 2:
            raise InputError(
                f"{keys[0]} has shape {parameters[keys[0]].shape}", "a matrix (outputs, inputs)"
            )
        outputs, inputs = parameters[keys[0]].shape
        shapes.append((int(inputs), int(outputs)))
    if not shapes:
        raise InputError(
            f"no {stem}0.weight or {stem}0.weight_v in the state dict; it has {some(parameters)}",
            f"linear layers {stem}0, {stem}1, ...",
            CHECK_NETWORK,
        )
    return shapes


def import_linear_layers(
    parameters: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, int]]
) -> dict[str, dict[str, np.ndarray]]:
    """Linear layers, {name: {kernel (i, o), bias (o,)[, scale (o,)]}} in float32.

    A layer is weight-normed (`weight_g`, `weight_v`) or plain (`weight`); the first has a `scale`
    and its kernel is normalised over the inputs of each output, W = scale * kernel / |kernel|.

    Args:
        parameters: of `parameters_of`; all of them must belong to these layers.
        shapes: {name: (inputs, outputs)} of every layer.

    Raises:
        InputError: keys that are missing or unused, wrong shapes, values that are not finite.
    """
    layers, used = {}, set()
    for name, (inputs, outputs) in shapes.items():
        normed = f"{name}.weight_g" in parameters or f"{name}.weight_v" in parameters
        wanted = {f"{name}.bias": (outputs,)}
        if normed:
            wanted |= {f"{name}.weight_g": (outputs, 1), f"{name}.weight_v": (outputs, inputs)}
        else:
            wanted |= {f"{name}.weight": (outputs, inputs)}
        arrays = {k.removeprefix(f"{name}."): take(parameters, k, s) for k, s in wanted.items()}
        used |= set(wanted)
        layer = {"kernel": arrays["weight_v" if normed else "weight"].T, "bias": arrays["bias"]}
        if normed:
            if not (layer["kernel"] != 0).any(axis=0).all():
                raise InputError(
                    f"{name}.weight_v has a row of zeros", "rows that can be normalised"
                )
            layer["scale"] = arrays["weight_g"][:, 0]
        layers[name] = {k: np.ascontiguousarray(v) for k, v in layer.items()}
    unused = sorted(set(parameters) - used)
    if unused:
        raise InputError(
            f"the state dict has {some(unused)}, which this network does not",
            f"layers {', '.join(shapes)}",
            CHECK_NETWORK,
        )
    return layers


def resolve_weight_norm(layer: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The plain layer {kernel, bias} that a weight-normed one stands for."""
    if "scale" not in layer:
        return dict(layer)
    kernel = layer["kernel"].astype(np.float64)
    kernel = kernel * (layer["scale"] / np.linalg.norm(kernel, axis=0))[None, :]
    return {"kernel": kernel.astype(np.float32), "bias": layer["bias"]}


def take(parameters: Mapping[str, np.ndarray], key: str, shape: Sequence[int]) -> np.ndarray:
    """The float32 array of a key.

    Raises:
        InputError: absent, of another shape, not of floats, or not finite.
    """
    if key not in parameters:
        raise InputError(
            f"{key} is missing; the state dict has {some(parameters)}",
            f"{key} of shape {tuple(shape)}",
            CHECK_NETWORK,
        )
    value = parameters[key]
    if value.shape != tuple(shape) or value.dtype.kind != "f":
        raise InputError(
            f"{key} is {value.dtype} of shape {value.shape}", f"floats of shape {tuple(shape)}"
        )
    with np.errstate(over="ignore"):
        value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise InputError(f"{key} is not finite in float32", "finite weights")
    return value


def some(keys) -> str:
    """The first names of many, for messages."""
    keys = sorted(shown(k, 80) for k in keys)
    text = ", ".join(keys[:6]) or "no arrays"
    return text + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
