"""PyTorch state dicts, given as flat {name: array}, to layers in our layout.

An import either uses every parameter of a state dict or fails and names what is left: a network
that is nearly the right one must not load. torch keeps weights as (out, in) with y = x W^T + b; our
kernels are (in, out). Nothing is unpickled.
"""

from __future__ import annotations

import math
import pathlib
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.interop.weights import MAX_BYTES

# torch.nn.utils.weight_norm; torch.nn.utils.parametrizations.weight_norm names them differently.
_PARAMETRISED = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
}
_NOT_ARRAYS = "an .npz of plain arrays, one for each entry of the state dict"
_CONVERT = (
    "where PyTorch is installed: numpy.savez('weights.npz', **{name: value.numpy() for name, value "
    "in torch.load(FILE, map_location='cpu', weights_only=True)['model_state_dict'].items()})"
)


def read_npz(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz; object members are refused, and sizes are checked before reading.

    Raises:
        InputError: absent, not an .npz, damaged, larger than 1 GiB, or holding objects.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file", _NOT_ARRAYS)
    arrays = {}
    try:
        _refuse_pytorch(path)
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise InputError(f"{path}: larger than 1 GiB", _NOT_ARRAYS)
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise ValueError(f"two members are called {name}")
                arrays[name] = _read_member(archive, member)
    except InputError:
        raise
    # A hostile archive fails in many ways: zlib.error, KeyError, NotImplementedError, ...
    except Exception as error:
        raise InputError(f"{path}: {str(error)[:200]}", _NOT_ARRAYS) from error
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
        # The array is allocated before it is filled: its shape must be what the member can fill.
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename}: shape {shape} is larger than its data")
    with archive.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _refuse_pytorch(path: pathlib.Path) -> None:
    """Name a PyTorch container for what it is, by its content or else its suffix."""
    with path.open("rb") as file:
        start = file.read(2)
    torch = path.suffix.lower() in (".pth", ".pt", ".ckpt", ".tar", ".pkl", ".bin")
    if start == b"PK" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            torch |= any(name.endswith("data.pkl") for name in archive.namelist())
    if torch or start[:1] == b"\x80":
        raise InputError(
            f"{path}: PyTorch containers cannot be imported yet", _NOT_ARRAYS, _CONVERT
        )


def parameters_of(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The numeric arrays of a state dict, without `module.` prefixes (of torch's DataParallel).

    Text (configurations kept beside weights) holds no parameters and is left out; names of the
    newer weight normalisation become `weight_g` and `weight_v`.

    Raises:
        InputError: two names become one, or an entry is not an array of numbers.
    """
    parameters = {}
    for key, value in state_dict.items():
        name, array = key, np.asarray(value)
        if array.dtype.kind in "US":
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
            f"no {stem}0.weight or {stem}0.weight_v in the state dict; it has {_some(parameters)}",
            f"linear layers {stem}0, {stem}1, ...",
            "check that --network names what the file holds",
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
        arrays = {k.removeprefix(f"{name}."): _take(parameters, k, s) for k, s in wanted.items()}
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
            f"the state dict has {_some(unused)}, which this network does not",
            f"layers {', '.join(shapes)}",
            "check that --network, or the configuration, names what the file holds",
        )
    return layers


def resolve_weight_norm(layer: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The plain layer {kernel, bias} that a weight-normed one stands for."""
    if "scale" not in layer:
        return dict(layer)
    kernel = layer["kernel"].astype(np.float64)
    kernel = kernel * (layer["scale"] / np.linalg.norm(kernel, axis=0))[None, :]
    return {"kernel": kernel.astype(np.float32), "bias": layer["bias"]}


def _take(parameters: Mapping[str, np.ndarray], key: str, shape: Sequence[int]) -> np.ndarray:
    if key not in parameters:
        raise InputError(
            f"{key} is missing; the state dict has {_some(parameters)}",
            f"{key} of shape {tuple(shape)}",
            "check that --network, or the configuration, names what the file holds",
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


def _some(keys) -> str:
    """The first names of many."""
    keys = sorted(keys)
    text = ", ".join(keys[:6]) or "no arrays"
    return text + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
