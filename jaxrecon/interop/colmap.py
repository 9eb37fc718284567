"""COLMAP's sparse models, text and binary (colmap.github.io/format.html): cameras and images.

`rigs`, `frames` and `points3D` are not needed: the images hold whole poses. Conventions are ours
already: world to camera, x right, y down, z forward, the upper left pixel's centre at (0.5, 0.5);
quaternions have w first. All errors are `InputError`s that name the file.
"""

from __future__ import annotations

import pathlib
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.interop.camera_files import (
    FileCamera,
    Lens,
    finite,
    image_size,
    rotation_from_quaternion,
)

# binary number, name, number of parameters; the first five are read
_MODELS = (
    (0, "SIMPLE_PINHOLE", 3),
    (1, "PINHOLE", 4),
    (2, "SIMPLE_RADIAL", 4),
    (3, "RADIAL", 5),
    (4, "OPENCV", 8),
)
_OTHERS = {
    5: "OPENCV_FISHEYE",
    6: "FULL_OPENCV",
    7: "FOV",
    8: "SIMPLE_RADIAL_FISHEYE",
    9: "RADIAL_FISHEYE",
    10: "THIN_PRISM_FISHEYE",
    11: "RAD_TAN_THIN_PRISM_FISHEYE",
}
_LENGTH = {name: length for _, name, length in _MODELS}
_MAX_NAME = 4096
_MAX_HEADER = 65_536
"""Characters of a line that we parse; lines of keypoints, which we skip, may be longer."""


def model_folder(source: pathlib.Path) -> pathlib.Path | None:
    """The folder with cameras and images, text or binary: `source`, or its `sparse/0` or `sparse`;
    None where there is none."""
    places = (source, source / "sparse" / "0", source / "sparse", source / "0")
    return next((p for p in places if _suffix(p) is not None), None)


def read_colmap(folder: pathlib.Path) -> list[FileCamera]:
    """The cameras of a sparse model, in the order of its images; binary files are preferred, as
    COLMAP does.

    Raises:
        InputError: a file is broken, or a camera has a model other than SIMPLE_PINHOLE, PINHOLE,
            SIMPLE_RADIAL, RADIAL and OPENCV.
    """
    suffix = _suffix(folder)
    if suffix is None:
        raise InputError(
            f"{folder} is not a sparse model of COLMAP",
            expected="cameras.bin and images.bin, or cameras.txt and images.txt",
        )
    binary = suffix == ".bin"
    path = folder / f"cameras{suffix}"
    lenses: dict[int, Lens] = {}
    for number, lens in _binary_cameras(path) if binary else _text_cameras(path):
        if number in lenses:
            raise InputError(f"{path}: two cameras have the number {number}")
        lenses[number] = lens
    path = folder / f"images{suffix}"
    found = []
    for name, pose, number in _binary_images(path) if binary else _text_images(path):
        if number not in lenses:
            raise InputError(
                f"{path}: image {name} has camera {number}, which cameras{suffix} lacks",
                expected="the two files of one model",
            )
        where = f"{path}: image {name}"
        values = finite(f"{where}: its pose", pose, (7,))
        R = rotation_from_quaternion(where, values[:4])
        found.append(FileCamera(name, lenses[number], R, values[4:]))
    if not found:
        raise InputError(
            f"{path} holds no images", remedy="check that COLMAP has registered the photographs"
        )
    return found


def _suffix(folder: pathlib.Path) -> str | None:
    for suffix in (".bin", ".txt"):
        if all((folder / f"{name}{suffix}").is_file() for name in ("cameras", "images")):
            return suffix
    return None


def _lens(where: str, model: str, width: object, height: object, values: object) -> Lens:
    """A lens from the parameters of a camera model."""
    if model not in _LENGTH:
        raise InputError(
            f"{where}: camera model {model}",
            expected=", ".join(_LENGTH),
            remedy="undistort: `colmap image_undistorter` writes PINHOLE cameras and new images",
        )
    size = image_size(where, width, height)
    p = [float(x) for x in finite(f"{where}: parameters", values, (_LENGTH[model],))]
    two = model in ("PINHOLE", "OPENCV")
    fx, fy, cx, cy, *lens = p if two else [p[0], *p]
    k1, k2, p1, p2 = (lens + [0.0] * 4)[:4]
    if min(fx, fy) <= 0:
        raise InputError(f"{where}: focal length {fx:g} x {fy:g}", expected="positive numbers")
    return Lens(fx, fy, cx, cy, size=size, distortion=(k1, k2, 0.0, 0.0, p1, p2))


# ---------------------------------------------------------------- text


def _text_cameras(path: pathlib.Path) -> Iterator[tuple[int, Lens]]:
    for where, line in _lines(path):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 5:
            raise InputError(
                f"{where} reads {line[:80]!r}", expected="CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]"
            )
        yield _whole(where, words[0]), _lens(where, words[1], words[2], words[3], words[4:])


def _text_images(path: pathlib.Path) -> Iterator[tuple[str, list[str], int]]:
    """Name, pose and camera of each image: two lines each, of which the second is passed over."""
    lines = _lines(path)
    for where, line in lines:
        words = line.split(maxsplit=9)
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 10:
            raise InputError(
                f"{where} reads {line[:80]!r}",
                expected="IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME",
            )
        yield words[9].strip(), words[1:8], _whole(where, words[8])
        _check_keypoints(*next(lines, (where, "")))


def _check_keypoints(where: str, line: str) -> None:
    """Where the second line is left out, every other image would be lost in silence."""
    words = line.split()
    cut = len(line) > _MAX_HEADER
    try:
        [float(word) for word in words[:-1] + words[-1:] * (not cut)]
        whole = cut or len(words) % 3 == 0
    except ValueError:
        whole = False
    if not whole:
        raise InputError(
            f"{where} reads {line[:80]!r}",
            expected="the image's keypoints as X Y POINT3D_ID, or an empty line",
        )


def _lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """(place, text) of each line, the text cut at `_MAX_HEADER` characters and one more."""
    try:
        with path.open(encoding="utf-8") as file:
            number = 0
            while line := file.readline(_MAX_HEADER + 1):
                number += 1
                rest = line
                while rest and not rest.endswith("\n"):
                    rest = file.readline(_MAX_HEADER)
                yield f"{path}, line {number}", line
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error


def _whole(where: str, word: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise InputError(f"{where} has {word[:40]!r}", expected="a whole number there") from error


# ---------------------------------------------------------------- binary


def _binary_cameras(path: pathlib.Path) -> Iterator[tuple[int, Lens]]:
    names = {number: (name, length) for number, name, length in _MODELS}
    with _open(path) as file:
        for _ in range(_count(path, file, 24)):
            number, model, width, height = _unpack(path, file, "<IiQQ")
            where = f"{path}: camera {number}"
            name, length = names.get(model, (_OTHERS.get(model, f"number {model}"), 0))
            yield number, _lens(where, name, width, height, _unpack(path, file, f"<{length}d"))


def _binary_images(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray, int]]:
    with _open(path) as file:
        size = path.stat().st_size
        for _ in range(_count(path, file, 73)):
            _, *pose, camera = _unpack(path, file, "<I7dI")
            name = _name(path, file)
            (keypoints,) = _unpack(path, file, "<Q")
            if keypoints * 24 > size - file.tell():
                raise _short(path)
            file.seek(keypoints * 24, 1)  # x, y, POINT3D_ID: not needed
            yield name, np.array(pose), camera


def _open(path: pathlib.Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _count(path: pathlib.Path, file: BinaryIO, smallest: int) -> int:
    """The number of records, which the file must be able to hold."""
    (count,) = _unpack(path, file, "<Q")
    if count * smallest > path.stat().st_size:
        raise InputError(
            f"{path} says it holds {count} records; it has {path.stat().st_size} bytes",
            expected="a whole binary model of COLMAP",
            remedy="export the model again",
        )
    return count


def _unpack(path: pathlib.Path, file: BinaryIO, form: str) -> tuple:
    data = file.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise _short(path)
    return struct.unpack(form, data)


def _name(path: pathlib.Path, file: BinaryIO) -> str:
    """A string that ends with a zero byte."""
    data = file.read(_MAX_NAME)
    name, end, _ = data.partition(b"\0")
    if not end:
        raise InputError(f"{path}: the name of an image has no end", expected="a whole file")
    file.seek(len(name) + 1 - len(data), 1)
    return name.decode("utf-8", errors="replace")


def _short(path: pathlib.Path) -> InputError:
    return InputError(
        f"{path} ends too early", expected="a whole file", remedy="export the model again"
    )
