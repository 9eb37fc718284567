"""Zip archives from strangers: what they declare is bounded before it is believed."""

from __future__ import annotations

import pathlib
import re
import zipfile

MAX_BYTES = 1 << 30
"""Of a file that is read, and of what it unpacks to, where a reader does not say otherwise."""
_DIRECTORY = 16 << 20
_TAIL = 65_535 + 22 + 20 + 56  # a comment, and the two records of the directory's end
_SLACK = 128 << 20


def open_zip(path: pathlib.Path) -> zipfile.ZipFile:
    """The archive at `path`, whose directory (a Python object a member) is read when it is opened.

    Raises:
        ValueError: a directory of more than 16 MiB.
        zipfile.BadZipFile: no archive.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _TAIL, 0))
        tail = file.read(_TAIL)
    for mark, at, width in ((rb"PK\x05\x06", 12, 4), (rb"PK\x06\x06", 40, 8)):
        for found in re.finditer(mark, tail):
            field = tail[found.start() + at :][:width]
            # All ones stand for "see the longer record".
            if field != b"\xff" * width and int.from_bytes(field, "little") > _DIRECTORY:
                raise ValueError("an archive with a directory of more than 16 MiB")
    return zipfile.ZipFile(path)


def unpacked_limit(size: int, most: int = MAX_BYTES) -> int:
    """Bytes that a packed file of `size` bytes may hold: arrays shrink by less than 20."""
    return min(most, _SLACK + 20 * size)
