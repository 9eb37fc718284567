"""Cameras of COLMAP, NeRF programs and IDR into the `cameras.json` of a views folder."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import re
import shutil
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxrecon import images
from jaxrecon.errors import InputError
from jaxrecon.interop import camera_files, colmap
from jaxrecon.interop.camera_files import FileCamera
from jaxrecon.interop.idr_cameras import read_idr
from jaxrecon.interop.transforms_json import transforms_cameras
from jaxrecon.pipelines import output
from jaxrecon.pipelines import views_metadata as metadata
from jaxrecon.pipelines.views import list_images

Kind = Literal["auto", "colmap", "transforms", "idr"]
Units = Literal["millimetres", "metres", "unknown"]

_TRANSFORMS, _IDR = "transforms.json", "cameras.npz"
_EXPECTED = (
    "a sparse model of COLMAP (a folder with cameras and images, .bin or .txt), a transforms.json, "
    "or IDR's cameras.npz"
)


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import has done."""

    path: pathlib.Path
    """The cameras.json."""
    kind: Kind
    views: tuple[str, ...]
    """Names of the images, in the order of the views."""
    kept: pathlib.Path | None
    """Where the former cameras.json is now."""
    notes: tuple[str, ...]
    """What was left out, scaled or neglected, one sentence each."""


def import_cameras(
    source: pathlib.Path,
    folder: pathlib.Path,
    kind: Kind = "auto",
    units: Units = "unknown",
    scale: float = 1.0,
    overwrite: bool = False,
) -> Imported:
    """Write `folder/cameras.json` from the cameras of another program.

    The views keep the order of a former cameras.json, else the natural order of the names, so that
    landmarks.json stays right; expressions of a former cameras.json are kept, and the file itself
    as cameras.json.bak (.bak1, ...). Cameras without an image, and images without a camera, are
    left out.

    Args:
        source: see `Kind`; for a folder, `auto` looks for the three.
        folder: of the photographs.
        units: of the world after scaling; photographs alone do not tell, hence "unknown".
        scale: units for one unit of the file.
        overwrite: replace an existing cameras.json.

    Raises:
        InputError: whatever does not fit; nothing has been written then.
    """
    target = folder / "cameras.json"
    if not folder.is_dir():
        raise InputError(f"no folder {folder}", expected="the folder with the photographs")
    if not 0 < scale < math.inf:
        raise InputError(f"a scale of {scale:g}", expected="a positive number")
    if os.path.lexists(target) and not overwrite:
        raise InputError(
            f"{target} exists", remedy="--overwrite replaces it, and keeps it as cameras.json.bak"
        )
    kind, found = find_source(source, kind)
    cameras = read_cameras(found, kind)
    former = _former(target)
    places = _match(found, cameras, folder, numbered=kind == "idr")
    names, notes = _ordered(folder, former, places)
    notes = [*_source_notes(source, found), *_unused(cameras, places), *notes]
    entries = []
    for name in names:
        entry, more = _entry(found, folder, name, places[name], scale)
        entries.append(entry | former.get(name, {}))
        notes += more
    _check_landmarks(folder, len(entries))
    kept = _keep(target)
    output.write_json(target, {"units": units, "views": entries})
    return Imported(target, kind, tuple(names), kept, tuple(dict.fromkeys(notes)))


# ---------------------------------------------------------------- the source


def find_source(source: pathlib.Path, kind: Kind) -> tuple[Kind, pathlib.Path]:
    """The kind of a source, and the file or folder to read.

    Raises:
        InputError: nothing of that kind is there, or several kinds are.
    """
    if not source.exists():
        raise InputError(f"no such file or folder: {source}", expected=_EXPECTED)
    if source.is_file() and source.stem in ("cameras", "images") and source.suffix in (
        ".bin", ".txt"
    ):  # fmt: skip
        source = source.parent
    candidates: dict[Kind, pathlib.Path | None]
    if source.is_file():
        suffix = source.suffix.lower()
        candidates = {
            "transforms": source if suffix == ".json" or kind == "transforms" else None,
            "idr": source if suffix == ".npz" or kind == "idr" else None,
        }
    else:
        candidates = {
            "colmap": colmap.model_folder(source),
            "transforms": _if_file(source / _TRANSFORMS),
            "idr": _if_file(source / _IDR),
        }
    there: dict[Kind, pathlib.Path] = {
        k: p for k, p in candidates.items() if p is not None and kind in ("auto", k)
    }
    if not there:
        raise InputError(
            f"{source} holds no cameras" + ("" if kind == "auto" else f" of kind {kind}"),
            expected=_EXPECTED,
        )
    if len(there) > 1:
        raise InputError(
            f"{source} holds several: " + ", ".join(str(p) for p in there.values()),
            expected="one set of cameras",
            remedy="say which with --kind " + "|".join(there),
        )
    return next(iter(there.items()))


def _if_file(path: pathlib.Path) -> pathlib.Path | None:
    return path if path.is_file() else None


def read_cameras(source: pathlib.Path, kind: Kind) -> list[FileCamera]:
    """The cameras of a source that `find_source` has found, not yet matched with images."""
    if kind == "colmap":
        return colmap.read_colmap(source)
    if kind == "idr":
        return read_idr(source)
    return transforms_cameras(source, metadata.read_json(source) or {})


def _source_notes(source: pathlib.Path, found: pathlib.Path) -> list[str]:
    """Which model was taken, where COLMAP has made several."""
    others = [p.name for p in found.parent.glob("[0-9]*") if p != found and p.is_dir()]
    if found == source or found.name != "0" or not others:
        return []
    names = ", ".join(sorted(others))
    return [
        f"COLMAP has made several models; {found} is taken. The others ({names}) have other "
        "worlds; name one to take it."
    ]


# ---------------------------------------------------------------- cameras and images


def _match(
    source: pathlib.Path, cameras: list[FileCamera], folder: pathlib.Path, numbered: bool
) -> dict[str, FileCamera]:
    """The camera of each image, by the image's path in the folder."""
    pictures = _pictures(folder)
    if numbered:
        return _match_numbers(source, cameras, pictures)
    taken: dict[str, FileCamera] = {}
    for camera in cameras:
        name = _find(source, camera.name, folder, pictures)
        if name is None:
            continue
        if name in taken:
            raise InputError(
                f"{source}: cameras of {taken[name].name} and {camera.name} both fit the image "
                f"{name}",
                expected="one camera for an image",
                remedy="keep the photographs in the folders that the file names",
            )
        taken[name] = camera
    if not taken:
        some = ", ".join(camera.name[:80] for camera in cameras[:3])
        raise InputError(
            f"no image in {folder} belongs to a camera of {source}, which names {some}",
            expected="images of the same name: path, file name, or name without its ending",
            remedy="give --views the folder with the photographs that the cameras are of",
        )
    return taken


def _pictures(folder: pathlib.Path) -> list[str]:
    """Names of the images directly in a folder; none where they lie deeper."""
    if not any(path.suffix.lower() in images.SUFFIXES for path in folder.iterdir()):
        return []
    return [path.name for path in list_images(folder)]


def _find(source: pathlib.Path, name: str, folder: pathlib.Path, pictures: list[str]) -> str | None:
    """The image that a camera's name means: its path, else its file name, else its stem."""
    path = pathlib.PurePosixPath(name.replace("\\", "/"))
    if not path.is_absolute() and ".." not in path.parts and "\0" not in name:
        relative = path.as_posix()
        if relative not in pictures and path.suffix.lower() in images.SUFFIXES:
            if (folder / relative).is_file():
                return relative
    for key in (path.name, path.stem if path.suffix.lower() in images.SUFFIXES else path.name):
        same = [p for p in pictures if p == key or pathlib.PurePath(p).stem == key]
        exact = [p for p in same if p == path.name]
        if exact or len(same) == 1:
            return (exact or same)[0]
        if same:
            raise InputError(
                f"{source}: the camera of {name} fits several images: {', '.join(same)}",
                expected="one image of that name",
                remedy="remove the others from the folder",
            )
    return None


def _match_numbers(
    source: pathlib.Path, cameras: list[FileCamera], pictures: list[str]
) -> dict[str, FileCamera]:
    """IDR: the i-th image in order; where the counts differ, the image whose name ends with i."""
    if len(pictures) == len(cameras):
        return dict(zip(pictures, cameras, strict=True))
    by_number = {camera.name: camera for camera in cameras}
    ends = {p: re.search(r"(\d+)$", pathlib.PurePath(p).stem) for p in pictures}
    numbers = {p: str(int(m[1])) for p, m in ends.items() if m}
    taken = {p: by_number[n] for p, n in numbers.items() if n in by_number}
    if not taken or len(taken) < len(pictures) or len(set(numbers.values())) < len(numbers):
        raise InputError(
            f"{source} has {len(cameras)} cameras; the folder has {len(pictures)} images",
            expected="as many; or images whose names end with the cameras' numbers (view_003.png)",
        )
    return taken


def _ordered(
    folder: pathlib.Path, former: dict[str, dict], places: dict[str, FileCamera]
) -> tuple[list[str], list[str]]:
    """Images in the order of the views, and notes on those that have no camera."""
    known = list(former) or _pictures(folder)
    order = [name for name in known if name in places]
    order += sorted(name for name in places if name not in known)
    lost = [name for name in known if name not in places]
    notes = [f"no camera for {', '.join(lost)}: left out"] if lost else []
    return order, notes


def _unused(cameras: list[FileCamera], places: dict[str, FileCamera]) -> list[str]:
    count = len(cameras) - len(places)
    used = {id(camera) for camera in places.values()}
    names = [camera.name[:80] for camera in cameras if id(camera) not in used]
    more = ", ..." if count > 3 else ""
    what = "camera has" if count == 1 else "cameras have"
    return [f"{count} {what} no image here: {', '.join(names[:3])}{more}"] if count else []


def _entry(
    source: pathlib.Path, folder: pathlib.Path, name: str, camera: FileCamera, scale: float
) -> tuple[dict, list[str]]:
    """A view of cameras.json, and notes on what was done to it."""
    where = f"{source}: camera of {name}"
    height, width = images.read_image(metadata.inside(folder, name, str(source)))[0].shape[:2]
    lens = camera.lens
    K = camera_files.intrinsics(where, lens, width, height)
    shift = camera_files.distortion_shift(lens, K, width, height)
    camera_files.check_distortion(where, shift)
    notes = []
    if lens.size not in (None, (width, height)):
        w, h = lens.size  # pyright: ignore[reportGeneralTypeIssues]
        notes.append(f"K is scaled from images of {w} x {h} to {width} x {height} pixels")
    if any(lens.distortion):
        notes.append(f"{name}: lens distortion of at most {shift:.2f} pixels is left out")
    if images.is_turned(folder / name):
        notes.append(
            f"{name} has an EXIF rotation, which is obeyed here; look at `jaxrecon doctor` if the "
            "program that made the cameras has not"
        )
    t = _in_range(where, scale * camera.t)
    size = {"width": width, "height": height}
    return {"file": name, **size, "K": K, "R": camera.R, "t": t}, notes


def _in_range(where: str, t: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    if not np.abs(t).max() < 1e9:
        raise InputError(f"{where}: t = {t.tolist()}", expected="less than 1e9 each")
    return t


# ---------------------------------------------------------------- the folder


def _former(target: pathlib.Path) -> dict[str, dict]:
    """Files of a cameras.json that is to be replaced, in order, each with what is kept of it; none
    where it is absent or cannot be read, which may be why it is replaced."""
    try:
        document = metadata.read_json(target)
        entries = [] if document is None else metadata.entries(target, document)
    except InputError:
        return {}
    return {e["file"]: {k: e[k] for k in ("expression",) if k in e} for e in entries}


def _check_landmarks(folder: pathlib.Path, count: int) -> None:
    """Landmarks are numbered as the views are: leaving a view out would shift them."""
    path = folder / "landmarks.json"
    document = metadata.read_json(path)
    marks = None if document is None else document.get("landmarks2d")
    if isinstance(marks, list) and len(marks) != count:
        raise InputError(
            f"{path} has landmarks of {len(marks)} views; there are cameras for {count}",
            expected="as many: they are numbered alike",
            remedy="move the images without a camera out of the folder, with their landmarks",
        )


def _keep(target: pathlib.Path) -> pathlib.Path | None:
    """Copy an existing file to the first free of NAME.bak, NAME.bak1, ..."""
    if not target.exists():
        return None
    number = 0
    while os.path.lexists(kept := target.with_name(f"{target.name}.bak{number or ''}")):
        number += 1
    with output.atomic(kept) as temporary:
        shutil.copyfile(target, temporary)
    return kept
