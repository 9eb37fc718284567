"""Wavefront OBJ text: vertices, texture coordinates and polygons, as model files hold them."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float, Int

from jaxrecon.errors import InputError

MAX_BYTES = 1 << 28
_TEXT = "a Wavefront OBJ (`v x y z`, `f v`, `f v/vt` or `f v/vt/vn`)"


@dataclasses.dataclass(frozen=True)
class Polygons:
    """Polygons of an OBJ, split into triangles that share their polygon's first corner."""

    triangles: Int[np.ndarray, "t 3"]
    """vertex ids"""
    triangles_uv: Int[np.ndarray, "t 3"]
    """texture coordinate ids, -1 where there is none"""
    polygon: Int[np.ndarray, "t"]
    """number of the polygon that a triangle is part of"""
    groups: tuple[str, ...]
    """name of each polygon's group (`g` lines), "" before the first"""


def read_lines(path: pathlib.Path, remedy: str) -> list[bytes]:
    """The lines of a text file, of which none is ever run or unpickled.

    Raises:
        InputError: absent, unreadable, or larger than 256 MiB.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", _TEXT, remedy)
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES >> 20} MiB", _TEXT, remedy)
    try:
        return path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}", _TEXT, remedy) from error


def parse_vectors(
    lines: list[bytes], keyword: bytes, width: int, name: str
) -> Float[np.ndarray, "n w"]:
    """The first `width` numbers of every line that starts with `keyword` (`v`, `vt`); further ones
    (weights, colours) are ignored.

    Raises:
        InputError: a line is too short, or holds something that is no finite number.
    """
    rows = [line.split()[1 : width + 1] for line in lines if _starts(line, keyword)]
    try:
        vectors = np.array(rows, float).reshape(len(rows), width)
    except ValueError as error:
        given = f"{name}: a `{keyword.decode()}` line without {width} numbers"
        raise InputError(given, _TEXT, "fetch the file again") from error
    if not np.isfinite(vectors).all():
        raise InputError(f"{name}: numbers that are not finite", _TEXT, "fetch the file again")
    return vectors


def parse_polygons(lines: list[bytes], name: str, vertices: int, uvs: int) -> Polygons:
    """The `f` lines.

    Args:
        lines: of the file.
        name: for messages.
        vertices, uvs: how many `v` and `vt` the file has: ids count from 1, negative ones from the
            end.

    Raises:
        InputError: a polygon has fewer than 3 corners, or a corner is no id of the file.
    """
    triangles, uv, polygon, groups = [], [], [], []
    group = ""
    try:
        for line in lines:
            if _starts(line, b"g"):
                group = b" ".join(line.split()[1:]).decode("utf-8", "replace")
            if not _starts(line, b"f"):
                continue
            corners = [corner.split(b"/") for corner in line.split()[1:]]
            ids = [_index(c[0], vertices) for c in corners]
            texture = [_index(c[1], uvs) if len(c) > 1 and c[1] else -1 for c in corners]
            if len(ids) < 3:
                raise ValueError(f"a polygon with {len(ids)} corners")
            for i in range(1, len(ids) - 1):
                triangles.append((ids[0], ids[i], ids[i + 1]))
                uv.append((texture[0], texture[i], texture[i + 1]))
                polygon.append(len(groups))
            groups.append(group)
    except ValueError as error:
        raise InputError(f"{name}: {error}", _TEXT, "fetch the file again") from error
    return Polygons(
        triangles=np.array(triangles, np.int64).reshape(-1, 3),
        triangles_uv=np.array(uv, np.int64).reshape(-1, 3),
        polygon=np.array(polygon, np.int64),
        groups=tuple(groups),
    )


def _starts(line: bytes, keyword: bytes) -> bool:
    return line.startswith(keyword) and line[len(keyword) : len(keyword) + 1] in (b" ", b"\t")


def _index(text: bytes, count: int) -> int:
    given = int(text)
    index = given - 1 if given > 0 else given + count
    if given == 0 or not 0 <= index < count:
        raise ValueError(f"a corner {given} of {count}")
    return index
