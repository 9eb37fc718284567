"""Pickles and checkpoints assembled opcode by opcode: what torch, chumpy and Python 2 would write,
and what nobody should.
"""

import io
import struct
import zipfile

MAGIC = 0x1950A86A20F9469CFC6C
END = b"."


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def old_text(value: bytes) -> bytes:
    """BINSTRING, a str of Python 2."""
    return b"T" + struct.pack("<i", len(value)) + value


def raw(value: bytes) -> bytes:
    """BINBYTES."""
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    """LONG1."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def row(*values: bytes) -> bytes:
    """TUPLE."""
    return b"(" + b"".join(values) + b"t"


def listing(*values: bytes) -> bytes:
    """A list."""
    return b"](" + b"".join(values) + b"e"


def mapping(**values: bytes) -> bytes:
    """A dict with names as keys."""
    return b"}(" + b"".join(text(k) + v for k, v in values.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE."""
    return function + row(*arguments) + b"R"


def build(target: bytes, state: bytes) -> bytes:
    """BUILD."""
    return target + state + b"b"


TRUE, FALSE, NONE = b"\x88", b"\x89", b"N"
START = b"\x80\x02"
RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
NDARRAY = name("numpy", "ndarray")


def dtype(code: str, order: str = "<") -> bytes:
    """numpy.dtype with its state."""
    state = row(number(3), text(order), NONE, NONE, NONE, number(-1), number(-1), number(0))
    return build(call(name("numpy", "dtype"), text(code), FALSE, TRUE), state)


def array(shape, code: str, content: bytes, fortran: bytes = FALSE) -> bytes:
    """numpy.ndarray; `content` is the opcodes of its bytes."""
    empty = call(RECONSTRUCT, NDARRAY, row(number(0)), raw(b"b"))
    state = row(number(1), row(*map(number, shape)), dtype(code), fortran, content)
    return build(empty, state)


def storage(key: str, size: int, kind: str = "FloatStorage", device: str = "cpu") -> bytes:
    """A persistent id of torch."""
    parts = (text("storage"), name("torch", kind), text(key), text(device), number(size))
    return row(*parts) + b"Q"


def legacy_storage(key: str, size: int, kind: str = "FloatStorage", device: str = "cpu") -> bytes:
    """The same of the older container."""
    parts = (text("storage"), name("torch", kind), text(key), text(device), number(size), NONE)
    return row(*parts) + b"Q"


def tensor(of: bytes, shape, strides=None, offset: int = 0) -> bytes:
    """torch._utils._rebuild_tensor_v2."""
    if strides is None:
        strides = [1] * len(shape)
        for i in range(len(shape) - 2, -1, -1):
            strides[i] = strides[i + 1] * shape[i + 1]
    hooks = call(name("collections", "OrderedDict"))
    sizes = row(*map(number, shape)), row(*map(number, strides))
    function = name("torch._utils", "_rebuild_tensor_v2")
    return call(function, of, number(offset), *sizes, FALSE, hooks)


def zip_container(value: bytes, storages, extra=(), root: str = "archive", order=b"little"):
    """The bytes of torch >= 1.6's container; `storages` and `extra` are (name, bytes)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(f"{root}/data.pkl", START + value + END)
        if order is not None:
            file.writestr(f"{root}/byteorder", order)
        file.writestr(f"{root}/version", b"3\n")
        for key, data in storages:
            file.writestr(f"{root}/data/{key}", data)
        for path, data in extra:
            file.writestr(path, data)
    return stream.getvalue()


def legacy_container(value: bytes, storages, keys=None, little: bytes = TRUE) -> bytes:
    """The bytes of the container before torch 1.6; `storages` are (key, elements, bytes)."""
    machine = mapping(protocol_version=number(1001), little_endian=little)
    keys = [key for key, _, _ in storages] if keys is None else keys
    parts = (number(MAGIC), number(1001), machine, value, listing(*map(text, keys)))
    data = b"".join(START + part + END for part in parts)
    return data + b"".join(struct.pack("<q", count) + piece for _, count, piece in storages)
