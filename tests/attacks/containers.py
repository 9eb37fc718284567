"""Hostile checkpoints; each entry makes the bytes of one."""

import io
import struct
import zipfile

from tests.interop.foreign_files import (
    END,
    FALSE,
    NONE,
    START,
    call,
    legacy_container,
    legacy_storage,
    listing,
    mapping,
    name,
    number,
    row,
    storage,
    tensor,
    text,
    zip_container,
)

FOUR = [("0", b"\0" * 16)]
OLD_FOUR = [("0", 4, b"\0" * 16)]
SHORT = b"\0" * 8


def zipped(value: bytes, storages=FOUR, **options):
    return lambda command: zip_container(value, storages, **options)


def legacy(value: bytes, storages=OLD_FOUR, **options):
    return lambda command: legacy_container(value, storages, **options)


def of(shape, strides=None, offset: int = 0, flat: bytes | None = None):
    """A dict of one tensor on four float32 elements."""
    return mapping(w=tensor(flat or storage("0", 4), shape, strides, offset))


def identifier(*parts: bytes) -> bytes:
    return mapping(w=tensor(row(*parts) + b"Q", (4,)))


SOUND = of((4,))
OLD = mapping(w=tensor(legacy_storage("0", 4), (4,)))
FLOAT = name("torch", "FloatStorage")


def compressed(command: str) -> bytes:
    """A bomb: a storage of 64 MiB of zeros, deflated."""
    stream = io.BytesIO(zip_container(of((1 << 24,), flat=storage("0", 1 << 24)), []))
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", b"\0" * (64 << 20))
    return stream.getvalue()


def twice(command: str) -> bytes:
    """Two members of one name: readers differ in which they take."""
    data = zip_container(SOUND, [("0", b"\0" * 16), ("1", b"\1" * 16)])
    return data.replace(b"archive/data/1", b"archive/data/0")


def lying(field: int, value: int):
    """A sound container whose central directory says something else of its last member."""

    def make(command: str) -> bytes:
        data = bytearray(zip_container(SOUND, FOUR))
        at = data.rindex(b"PK\x01\x02")
        struct.pack_into("<I", data, at + field, value)
        return bytes(data)

    return make


def flagged(command: str) -> bytes:
    """A member that says it is encrypted."""
    data = bytearray(zip_container(SOUND, FOUR))
    for start, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        struct.pack_into("<H", data, data.rindex(start) + offset, 1)
    return bytes(data)


def cut(make, keep: float):
    return lambda command: make(command)[: int(len(make(command)) * keep)]


def count_of(value: int):
    """A legacy file whose storage says that it has another number of elements."""

    def make(command: str) -> bytes:
        return legacy_container(OLD, [("0", value, b"\0" * 16)])

    return make


def many_views(command: str) -> bytes:
    """Two hundred times the same view of one storage, expanded to 4 MiB."""
    view = tensor(storage("0", 4), (1 << 20,), (0,))
    return zip_container(mapping(w=view + b"q\x09", v=listing(b"h\x09" * 200)), FOUR)


def doubled(command: str) -> bytes:
    """Views of bfloat16 that are widened one by one."""
    flat = storage("0", 4, "BFloat16Storage")
    view = tensor(flat, (1 << 18,), (0,))
    return zip_container(mapping(v=listing(*[view] * 40)), [("0", SHORT)])


CHECKPOINTS = {
    "a storage beyond the folder": zipped(
        identifier(text("storage"), FLOAT, text("../../../etc/passwd"), text("cpu"), number(4))
    ),
    "an absolute storage": zipped(
        identifier(text("storage"), FLOAT, text("/etc/passwd"), text("cpu"), number(4))
    ),
    "a module as persistent id": zipped(
        identifier(text("module"), FLOAT, text("0"), text("cpu"), number(4))
    ),
    "a persistent id of text": zipped(mapping(w=text("0") + b"Q")),
    "a storage of a foreign type": zipped(
        identifier(
            text("storage"), name("collections", "Counter"), text("0"), text("cpu"), number(4)
        )
    ),
    "a storage of no type": zipped(
        identifier(text("storage"), text("FloatStorage"), text("0"), text("cpu"), number(4))
    ),
    "a negative storage": zipped(of((4,), flat=storage("0", -4))),
    "a storage of 2^60 elements": zipped(of((4,), flat=storage("0", 1 << 60))),
    "a storage that is not there": zipped(SOUND, []),
    "a storage that is too short": zipped(SOUND, [("0", SHORT)]),
    "a storage of two sizes": zipped(
        mapping(a=tensor(storage("0", 4), (4,)), b=tensor(storage("0", 2), (2,)))
    ),
    "a storage of two types": zipped(
        mapping(a=tensor(storage("0", 4), (4,)), b=tensor(storage("0", 4, "IntStorage"), (4,)))
    ),
    "a negative offset": zipped(of((2,), offset=-2)),
    "a negative stride": zipped(of((2,), (-1,), offset=2)),
    "a view beyond its storage": zipped(of((5,))),
    "an offset beyond its storage": zipped(of((1,), offset=4)),
    "an offset of 2^63": zipped(of((0,), offset=1 << 63)),
    "a stride of 2^62": zipped(of((2, 2), (1 << 62, 1))),
    "an expanded view of 4 TiB": zipped(of((1 << 20, 1 << 20), (0, 0))),
    "a huge empty view": zipped(of((0, 1 << 62), (1, 1))),
    "other strides than axes": zipped(of((4,), (1, 1))),
    "sizes that are no numbers": zipped(
        mapping(
            w=call(
                name("torch._utils", "_rebuild_tensor"),
                storage("0", 4),
                number(0),
                row(text("4")),
                row(number(1)),
            )
        )
    ),
    "a tensor of a list": zipped(
        mapping(
            w=call(
                name("torch._utils", "_rebuild_tensor"),
                listing(),
                number(0),
                row(number(4)),
                row(number(1)),
            )
        )
    ),
    "a tensor through a foreign function": zipped(
        mapping(
            w=call(
                name("torch._tensor", "_rebuild_from_type_v2"),
                name("_codecs", "encode"),
                name("torch", "Tensor"),
                row(text("a"), text("latin1")),
                NONE,
            )
        )
    ),
    "bytes through torch's own pickle": zipped(
        mapping(w=call(name("torch.storage", "_load_from_bytes"), text("a")))
    ),
    "hooks that run": lambda command: zip_container(
        mapping(
            w=call(
                name("torch._utils", "_rebuild_tensor_v2"),
                storage("0", 4),
                number(0),
                row(number(4)),
                row(number(1)),
                FALSE,
                call(name("posix", "system"), text(command)),
            )
        ),
        FOUR,
    ),
    "an untyped view of text": zipped(
        mapping(
            w=call(
                name("torch._utils", "_rebuild_tensor_v3"),
                storage("0", 16, "UntypedStorage"),
                number(0),
                row(number(4)),
                row(number(1)),
                FALSE,
                NONE,
                text("float32"),
            )
        )
    ),
    "many expanded views": many_views,
    "many widened views": doubled,
    "a deflated storage": compressed,
    "two members of one name": twice,
    "a member above its root": zipped(SOUND, extra=[("../evil", b"x")]),
    "a member with an absolute name": zipped(SOUND, extra=[("/tmp/evil", b"x")]),
    "a member with a backslash": zipped(SOUND, extra=[("a\\..\\evil", b"x")]),
    "a member larger than the file": lying(24, 0xFFFFFFF0),
    "a member at another place": lying(42, 0x7FFFFFFF),
    "a wrong checksum": lying(16, 0x12345678),
    "an encrypted member": flagged,
    "an unknown byte order": zipped(SOUND, order=b"middle"),
    "a zip cut in half": cut(zipped(SOUND), 0.5),
    "a zip without its directory": cut(zipped(SOUND), 0.8),
    "a zip of 30 bytes": lambda command: zip_container(SOUND, FOUR)[:30],
    # the older container
    "a legacy file in its head": cut(legacy(OLD), 0.1),
    "a legacy file in its object": cut(legacy(OLD), 0.5),
    "a legacy file in its storages": lambda command: legacy_container(OLD, OLD_FOUR)[:-3],
    "a legacy file without storages": lambda command: legacy_container(OLD, OLD_FOUR)[:-24],
    "a storage with another count": count_of(3),
    "a storage with a negative count": count_of(-1),
    "a storage with a huge count": count_of(1 << 62),
    "bytes behind the storages": lambda command: legacy_container(OLD, OLD_FOUR) + b"more",
    "a list without the storage": legacy(OLD, keys=[]),
    "a list with a foreign storage": legacy(OLD, keys=["0", "1"]),
    "a list with a storage twice": legacy(OLD, keys=["0", "0"]),
    "no byte order": legacy(OLD, little=NONE),
    "a view of a storage": lambda command: legacy_container(
        mapping(
            w=tensor(
                row(
                    text("storage"),
                    FLOAT,
                    text("0"),
                    text("cpu"),
                    number(4),
                    row(text("1"), number(0), number(4)),
                )
                + b"Q",
                (4,),
            )
        ),
        OLD_FOUR,
    ),
    "another magic": lambda command: START + number(1) + END + START + number(1001) + END,
    "a canary before the object": lambda command: (
        START + call(name("posix", "system"), text(command)) + END
    ),
    "a canary behind the object": lambda command: (
        legacy_container(OLD, [], keys=[])[: -len(START + listing() + END)]
        + START
        + call(name("posix", "system"), text(command))
        + END
    ),
}  # fmt: skip
