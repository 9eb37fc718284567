"""PyTorch's checkpoints as plain arrays, without torch: the zip container and the one before 1.6.

Zip (torch >= 1.6): ROOT/data.pkl beside one stored member ROOT/data/KEY for each storage. Legacy
(torch 0.1.10 to 1.5): pickles of a magic number, a protocol, the machine and the object, then the
list of storage keys, then each storage as its length and its raw elements. The pickles go through
the allow-list of `pickle_names` and the few names below; storages are checked against the bytes
that are there before an array is made.
"""

from __future__ import annotations

import pathlib
import re
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrecon.archives import MAX_BYTES, open_zip
from jaxrecon.interop.pickle_machine import Machine
from jaxrecon.interop.pickle_names import NAMES, checked_shape, table
from jaxrecon.interop.pickle_values import (
    Budget,
    Global,
    Refused,
    StandIn,
    shown,
)
from jaxrecon.interop.unpickling import plain, read_bytes, read_start, refusing

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_MEMBERS = 200_000
_STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
    "UntypedStorage": "u1",
}
_DTYPES = {
    "float64": "f8",
    "double": "f8",
    "float32": "f4",
    "float": "f4",
    "float16": "f2",
    "half": "f2",
    "bfloat16": "bfloat16",
    "int64": "i8",
    "long": "i8",
    "int32": "i4",
    "int": "i4",
    "int16": "i2",
    "short": "i2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "b1",
}
_EXPECTED = "a checkpoint of torch.save: its zip container, or that of PyTorch before 1.6"
_AGAIN = "get the file again from its authors; nothing of it was run"
_WHERE_TORCH_IS = (
    "where PyTorch is installed: torch.save({name: value.cpu() for name, value in "
    "model.state_dict().items()}, 'weights.pth')"
)


class Storage(StandIn):
    """A flat run of elements, by its key; `raw` is set when its bytes are known."""

    def __init__(self, kind: str, size: int):
        self.kind, self.size = kind, size
        self.raw: bytes | memoryview | None = None
        self.big_endian = False

    def nbytes(self) -> int:
        """Bytes that its elements take."""
        return self.size * _width(self.kind)

    def resolve(self, resolve: Callable, budget: Budget) -> np.ndarray:
        """All of it, as an array of one axis."""
        return Tensor(self, 0, (self.size,), (1,)).resolve(resolve, budget)


class Tensor(StandIn):
    """A view of a storage: offset, sizes and strides in elements."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, kind: str | None = None):
        if not isinstance(storage, Storage):
            raise Refused("a tensor without a storage")
        self.storage, self.kind = storage, kind or storage.kind
        width = _width(self.kind)
        self.shape = checked_shape(tuple(size) if type(size) is list else size, width)
        strides = tuple(stride) if type(stride) is list else stride
        if type(strides) is not tuple or len(strides) != len(self.shape):
            raise Refused(f"a tensor of shape {self.shape} with other strides")
        if any(type(n) is not int or n < 0 for n in (offset, *strides)):
            raise Refused(f"a tensor with offset {shown(offset)} and strides {shown(strides)}")
        last = offset + sum((n - 1) * s for n, s in zip(self.shape, strides, strict=True))
        available = storage.nbytes() // width
        if (0 not in self.shape and last >= available) or offset > available:
            raise Refused(f"a tensor of shape {self.shape} that reaches beyond its storage")
        self.offset, self.strides = offset, strides

    def build(self, state: Any, budget: Budget) -> None:
        """Drop the attributes of a tensor's subclass (torch.nn.Parameter): a dict."""
        if type(state) is not dict:
            raise Refused("a tensor with a state that is none")

    def resolve(self, resolve: Callable, budget: Budget) -> np.ndarray:
        """The array, read-only, in this machine's byte order; bfloat16 and half as float32."""
        if self.storage.raw is None:
            raise Refused("a tensor whose storage is not in the file")
        element = np.dtype("u2" if self.kind == "bfloat16" else self.kind)
        element = element.newbyteorder(">" if self.storage.big_endian else "<")
        width = element.itemsize
        if 0 in self.shape:
            array = np.zeros(self.shape, element)
        else:
            flat = np.frombuffer(self.storage.raw, element, offset=self.offset * width)
            strides = tuple(s * width for s in self.strides)
            array = np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False)
        final = "f4" if self.kind in ("bfloat16", "f2") else element.newbyteorder("=")
        if array.dtype != np.dtype(final) or not array.flags.aligned:
            budget.take(2 * array.size * np.dtype(final).itemsize)
            array = (
                (array.astype(np.uint32) << 16).view(np.float32)
                if self.kind == "bfloat16"
                else array.astype(final)
            )
            array.flags.writeable = False
        return array


def _width(kind: str) -> int:
    return 2 if kind == "bfloat16" else np.dtype(kind).itemsize


# ---------------------------------------------------------------------- the names of torch


def _tensor(budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    return Tensor(storage, offset, size, stride)


def _tensor_v3(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any,
    dtype: Any, *rest: Any,
) -> Any:  # fmt: skip
    kind = _DTYPES.get(dtype.text.removeprefix("torch.")) if type(dtype) is Global else None
    if kind is None:
        raise Refused("a tensor of a type that is not read")
    return Tensor(storage, offset, size, stride, kind)


def _parameter(budget: Budget, data: Any, *rest: Any) -> Any:
    if not isinstance(data, Tensor):
        raise Refused("a parameter that is no tensor")
    return data


def _of_type(budget: Budget, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with attributes of its own, which are dropped."""
    if type(function) is not Global or function.text not in _REBUILD:
        raise Refused("a tensor of a type that is not read")
    return function.call(arguments, budget)


def _size(budget: Budget, sizes: Any = ()) -> tuple:
    if not isinstance(sizes, list | tuple):
        raise Refused("a size that is none")
    budget.take(16 * len(sizes))
    return tuple(sizes)


def _device(budget: Budget, kind: Any, index: Any = None) -> str:
    if type(kind) is not str:
        raise Refused("a device that is none")
    return kind


_REBUILD = {
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
}
TORCH_NAMES: dict[tuple[str, str], Global] = NAMES | table(
    {("torch", name): None for name in (*_STORAGES, *_DTYPES, "Tensor")}
    | {
        ("torch.storage", "UntypedStorage"): None,
        ("torch.nn.parameter", "Parameter"): None,
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
        ("torch", "Size"): _size,
        ("torch", "device"): _device,
    }
)
"""What a checkpoint may name: what any pickle may, and torch's tensors."""


class _Storages:
    """The storages that a pickle mentions, by key."""

    def __init__(self, legacy: bool):
        self.found: dict[str, Storage] = {}
        self.legacy = legacy

    def __call__(self, identifier: Any) -> Storage:
        """The storage of a persistent id ('storage', type, key, device, size[, view])."""
        if type(identifier) is not tuple or len(identifier) not in (5, 6):
            raise Refused("a persistent id that names no storage")
        tag, kind, key, _, size, *view = identifier
        if type(key) is int:
            key = str(key)
        name = kind.text.rpartition(".")[2] if type(kind) is Global else None
        if tag != "storage" or name not in _STORAGES or not kind.text.startswith("torch."):
            raise Refused("a persistent id that names no storage")
        if type(key) is not str or not re.fullmatch(r"[0-9]{1,20}", key):
            raise Refused(f"a storage with the key {shown(key)}, which is no number")
        if type(size) is not int or not 0 <= size <= 4 * MAX_BYTES:
            raise Refused(f"a storage of {shown(size)} elements")
        if self.legacy and view and view[0] is not None:
            raise Refused("a view of a storage (PyTorch before 0.4), which is not read")
        storage = self.found.setdefault(key, Storage(_STORAGES[name], size))
        if (storage.kind, storage.size) != (_STORAGES[name], size):
            raise Refused(f"storage {key} with two types or sizes")
        return storage


# ---------------------------------------------------------------------- the containers


def read_checkpoint(path: str | pathlib.Path, max_bytes: int = MAX_BYTES) -> dict:
    """The dict that `torch.save` wrote: weights as NumPy arrays, the rest as it is.

    Args:
        path: a .pth, .pt, .ckpt, .tar or .bin file; its content decides on the container.
        max_bytes: the largest file that is read.

    Returns:
        nested dict, list, tuple, str, int, float, bool, None, bytes and read-only arrays (views of
        the file where possible). Types and sizes of torch become text and tuples; an
        argparse.Namespace, its dict; float16 and bfloat16, float32. Devices are ignored.

    Raises:
        InputError: absent, too large, truncated, of another kind, or with names that are not read.
    """
    path = pathlib.Path(path)
    with refusing(path, _EXPECTED, _AGAIN):
        start = read_start(path, max_bytes)
        # What is made beside the file itself does not grow with a larger limit.
        budget = Budget(path.stat().st_size, 2 * min(max_bytes, MAX_BYTES))
        if start[:4] == b"PK\x03\x04":
            value = _read_zip(path, budget)
        elif start[:1] == b"\x80":
            value = _read_legacy(read_bytes(path, max_bytes), budget)
        elif start[257:262] == b"ustar" or _old_tar(start):
            raise Refused(
                "a tar container of PyTorch before 0.1.10, which is not read; load it with a "
                "PyTorch of any version and save it again"
            )
        else:
            raise Refused("no container of PyTorch")
        if type(value) is not dict:
            raise Refused(f"it holds a {type(value).__name__}, not a dict of weights")
    return value


def _old_tar(data: bytes) -> bool:
    """Whether the file starts with the header of a tar without a magic: its checksum fits."""
    field = data[148:156].strip(b" \0")
    if len(data) < 512 or not re.fullmatch(rb"[0-7]{1,7}", field):
        return False
    return sum(data[:148]) + 8 * 32 + sum(data[156:512]) == int(field, 8)


def _read_zip(path: pathlib.Path, budget: Budget) -> Any:
    with open_zip(path) as archive:
        members = _members(archive, path.stat().st_size)
        pickles = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise Refused("a zip without one data.pkl, so no checkpoint")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in members:
            raise Refused(f"a TorchScript program, not a dict of weights; {_WHERE_TORCH_IS}")
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
        if order not in (b"little", b"big"):
            raise Refused(f"byte order {order[:20]!r}")
        storages = _Storages(legacy=False)
        machine = Machine(archive.read(pickles[0]), TORCH_NAMES, budget, persistent=storages)
        value = machine.run()
        for key, storage in storages.found.items():
            name = f"{root}data/{key}"
            if name not in members:
                raise Refused(f"storage {key} is not in the archive")
            if members[name].file_size < storage.nbytes():
                raise Refused(
                    f"storage {key} declares {storage.nbytes():,} bytes but has "
                    f"{members[name].file_size:,}"
                )
            storage.raw = archive.read(name)
            storage.big_endian = order == b"big"
    return plain(value, budget)


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Members by name: each once, below its root, stored as it is, together within the file."""
    members: dict[str, zipfile.ZipInfo] = {}
    infos = archive.infolist()
    if len(infos) > _MAX_MEMBERS:
        raise Refused(f"an archive of more than {_MAX_MEMBERS:,} members")
    for info in infos:
        name = info.filename
        if name in members:
            raise Refused(f"two members are called {name[:80]}")
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise Refused(f"a member leads out of the archive: {name[:80]}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise Refused(f"{name[:80]} is compressed or encrypted; torch.save stores as it is")
        members[name] = info
    if sum(info.file_size for info in infos) > size:
        raise Refused("its members declare more bytes than the file has")
    return members


def _read_legacy(data: bytes, budget: Budget) -> Any:
    head = []
    at = 0
    for expected in (_MAGIC, _PROTOCOL, None):
        machine = Machine(data, NAMES, budget, at)
        value, at = machine.run(), machine.at
        if expected is not None and (type(value) is not int or value != expected):
            raise Refused("a pickle, but none of torch.save")
        head.append(value)
    information = head[2]
    if type(information) is not dict or type(information.get("little_endian")) is not bool:
        raise Refused("a checkpoint that does not say its byte order")
    storages = _Storages(legacy=True)
    machine = Machine(data, TORCH_NAMES, budget, at, storages)
    value, at = machine.run(), machine.at
    machine = Machine(data, NAMES, budget, at)
    keys, at = machine.run(), machine.at
    listed = type(keys) is list and all(type(key) in (str, int) for key in keys)
    keys = [str(key) for key in keys] if listed else None
    if keys is None or len(set(keys)) != len(keys) or set(keys) != set(storages.found):
        raise Refused("its list of storages is not that of its tensors")
    view = memoryview(data)
    for key in keys:
        storage = storages.found[key]
        count = int.from_bytes(data[at : at + 8], "little", signed=True)
        at += 8
        if count != storage.size:
            raise Refused(f"storage {key} has {count:,} elements instead of {storage.size:,}")
        if at + storage.nbytes() > len(data):
            raise Refused(f"storage {key} is truncated")
        storage.raw = view[at : at + storage.nbytes()]
        storage.big_endian = not information["little_endian"]
        at += storage.nbytes()
    if at != len(data):
        raise Refused(f"{len(data) - at:,} bytes follow its last storage")
    return plain(value, budget)
