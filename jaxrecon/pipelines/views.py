"""The views folder: photographs of one subject, and what is known of them.

Layout (only the images are needed):

- `cameras.json`: `width`, `height`, `units` ("millimetres" or "metres") and `views`, a list of
  `file`, `K`, `R`, `t` and optionally `expression` (int) and `gt` (mesh file); OpenCV axes,
  x_camera = R x_world + t, pixel centres at +0.5.
- Images named there, or without that file every image of the folder in natural order.
- The subject's mask: `NAME_mask.png` (white = subject), else the alpha channel.
- `NAME_ignore.png`: white where the picture has no opinion (another person, a hand).
- `landmarks.json`: `landmarks2d` (views, 68, 2) pixels, `visible` (views, 68), `valid` (68), in
  iBUG order.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrecon.errors import InputError
from jaxrecon.pipelines import images as image_files
from jaxrecon.pipelines import views_metadata as metadata
from jaxrecon.types import Cameras

MAX_TOTAL_PIXELS = 200_000_000
"""Of all padded views together: 2.4 GB of colour."""

Need = Literal["cameras", "masks", "landmarks"]


@dataclasses.dataclass(frozen=True)
class Views:
    """Photographs of one subject, on the host. Leading axis: the views chosen.

    Images of different sizes are padded at the right and the bottom to the largest height and
    width, with white, mask 0 and valid False: pixel coordinates, and so K and the landmarks, stay
    as they are in the files.
    """

    folder: pathlib.Path
    names: tuple[str, ...]
    """File name of each image."""
    indices: tuple[int, ...]
    """Number of each view in the folder."""
    sizes: Int[np.ndarray, "v 2"]
    """(height, width) before padding."""
    images: Float[np.ndarray, "v h w 3"]
    """float32 sRGB in [0, 1]."""
    mask: Float[np.ndarray, "v h w"] | None
    """float32, 1 on the subject and 0 elsewhere; None when no view has one."""
    valid: Bool[np.ndarray, "v h w"]
    """False where a pixel says nothing: ignored by the user, or padding."""
    cameras: Cameras | None
    """NumPy arrays, float64, batch axis v; world unit `units`."""
    units: str | None
    landmarks2d: Float[np.ndarray, "v 68 2"] | None
    """float32 pixels; 0 where not valid."""
    landmark_weights: Float[np.ndarray, "v 68"] | None
    """float32, 1 where the landmark is valid and seen in that view, else 0."""
    landmark_valid: Bool[np.ndarray, "68"] | None
    """Whether the subject's landmark is known at all (a hidden one still has coordinates)."""
    expression: Int[np.ndarray, " v"]
    ground_truth: tuple[pathlib.Path | None, ...]
    """Mesh of each view's expression, where the folder has it."""


def load_views(
    path: str | pathlib.Path,
    select: Sequence[int] | None = None,
    need: Collection[Need] = (),
) -> Views:
    """Read a views folder, a plain folder of photographs, or one photograph.

    Args:
        path: folder or image. One image is read alone, with its `NAME_mask.png`.
        select: numbers of the views to use, in this order; None for all.
        need: what the caller cannot do without.

    Raises:
        InputError: something is absent, broken or contradictory; the message names the file.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise InputError(
            f"no such folder or image: {path}",
            expected="a folder of photographs, or one photograph",
        )
    single = path.is_file()
    folder = path.parent if single else path
    document = None if single else metadata.read_json(folder / "cameras.json")
    if document is None:
        files = [path] if single else _list_images(folder)
        entries: list[dict] = [{} for _ in files]
    else:
        entries = metadata.entries(folder / "cameras.json", document)
        files = [metadata.inside(folder, entry["file"], "cameras.json") for entry in entries]
    chosen = _select(select, len(files), folder)
    landmarks = None if single else metadata.read_landmarks(folder / "landmarks.json", len(files))
    source = folder / "cameras.json"
    views = Views(
        folder=folder,
        names=tuple(files[i].name for i in chosen),
        indices=chosen,
        cameras=None if document is None else metadata.cameras(source, entries, chosen),
        units=None if document is None else metadata.units(source, document),
        landmarks2d=None if landmarks is None else landmarks[0][list(chosen)],
        landmark_weights=None if landmarks is None else landmarks[1][list(chosen)],
        landmark_valid=None if landmarks is None else landmarks[2],
        expression=np.array([metadata.expression(source, entries[i], i) for i in chosen], np.int64),
        ground_truth=tuple(metadata.ground_truth(folder, entries[i]) for i in chosen),
        **_read_pixels([files[i] for i in chosen], [entries[i] for i in chosen], document),
    )
    _check_needs(views, need)
    return views


def _check_needs(views: Views, need: Collection[Need]) -> None:
    remedies = {
        "cameras": (views.cameras, "cameras.json", "write it: the README shows the layout"),
        "masks": (
            views.mask,
            "masks",
            "save the photographs with a transparent background, or add NAME_mask.png files",
        ),
        "landmarks": (views.landmarks2d, "landmarks.json", "add 68 points per view"),
    }
    for what in need:
        value, name, remedy = remedies[what]
        if value is None:
            raise InputError(f"{views.folder} has no {name}", remedy=remedy)


# ---------------------------------------------------------------- files


def _list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Images of a folder without their masks, in natural order (view_2 before view_10)."""
    found = [
        p
        for p in folder.iterdir()
        if p.suffix.lower() in image_files.SUFFIXES
        and not p.name.startswith(".")
        and not p.stem.endswith(("_mask", "_ignore"))
        and p.is_file()
    ]
    if not found:
        raise InputError(
            f"no images in {folder}",
            expected="files that end in " + ", ".join(image_files.SUFFIXES),
            remedy="convert other formats (HEIC, RAW) to PNG or JPEG",
        )
    return sorted(found, key=_natural)


def _natural(path: pathlib.Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"([0-9]+)", path.name)
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]


def _select(select: Sequence[int] | None, count: int, folder: pathlib.Path) -> tuple[int, ...]:
    chosen = tuple(range(count)) if select is None else tuple(int(i) for i in select)
    bad = [i for i in chosen if not 0 <= i < count]
    if bad or not chosen or len(set(chosen)) < len(chosen):
        raise InputError(
            f"cannot use views {','.join(map(str, chosen)) or '(none)'} of {folder}",
            expected=f"different numbers from 0 to {count - 1}",
        )
    return chosen


# ---------------------------------------------------------------- pixels


def _read_pixels(
    files: list[pathlib.Path], entries: list[dict], document: dict | None
) -> dict[str, Any]:
    """Images, masks and valid pixels of the views, padded to one size."""
    colours, masks, valids = [], [], []
    for path, entry in zip(files, entries, strict=True):
        colour, alpha = image_files.read_image(path)
        height, width = colour.shape[:2]
        _check_declared_size(path, entry, document, height, width)
        colours.append(colour)
        masks.append(_read_subject(path, alpha, (height, width)))
        valids.append(_read_valid(path, (height, width)))
    lacking = [f.name for f, m in zip(files, masks, strict=True) if m is None]
    if lacking and len(lacking) < len(files):
        raise InputError(
            f"{files[0].parent}: {', '.join(lacking)} have no mask, the other views have",
            expected="a mask for every view, or for none",
            remedy=f"add {pathlib.Path(lacking[0]).stem}_mask.png, white on the subject",
        )
    sizes = np.array([c.shape[:2] for c in colours], np.int64)
    height, width = (int(n) for n in sizes.max(axis=0))
    if height * width * len(files) > MAX_TOTAL_PIXELS:
        raise InputError(
            f"{len(files)} views of {width} x {height} pixels are too many at once",
            expected=f"at most {MAX_TOTAL_PIXELS // 10**6} million pixels in all",
            remedy="use fewer views (--views) or smaller images",
        )
    return {
        "sizes": sizes,
        "images": _stack(colours, (height, width), 1.0, np.float32),
        "mask": None if lacking else _stack(masks, (height, width), 0.0, np.float32),
        "valid": _stack(valids, (height, width), 0.0, np.bool_),
    }


def _stack(arrays: list, size: tuple[int, int], fill: float, dtype: Any) -> np.ndarray:
    """Stack images, padded at the right and the bottom."""
    stacked = np.full((len(arrays), *size, *arrays[0].shape[2:]), fill, dtype)
    for target, array in zip(stacked, arrays, strict=True):
        target[: array.shape[0], : array.shape[1]] = array
    return stacked


def _check_declared_size(
    path: pathlib.Path, entry: dict, document: dict | None, height: int, width: int
) -> None:
    declared = {**(document or {}), **entry}
    for name, actual in (("width", width), ("height", height)):
        if name in declared and declared[name] != actual:
            raise InputError(
                f"{path} is {width} x {height} pixels; cameras.json says {name} {declared[name]}",
                expected="images of the size that K was made for",
                remedy="use the original images, or scale K, width and height",
            )


def _read_subject(
    path: pathlib.Path, alpha: np.ndarray | None, size: tuple[int, int]
) -> np.ndarray | None:
    """The subject's mask from its own file, else from alpha, else None."""
    file = path.with_name(f"{path.stem}_mask.png")
    if file.exists():
        mask = image_files.read_mask(file)
        _check_mask_size(file, mask, size)
        source = f"mask {file}"
    elif alpha is not None:
        mask = image_files.binary(alpha)
        source = f"alpha channel of {path}"
    else:
        return None
    if mask.all() or not mask.any():
        raise InputError(
            f"the {source} marks {'every pixel' if mask.all() else 'nothing'} as the subject",
            expected="white (opaque) on the subject, black (transparent) around it",
            remedy=f"correct it, or add {path.stem}_mask.png",
        )
    return mask


def _read_valid(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    file = path.with_name(f"{path.stem}_ignore.png")
    if not file.exists():
        return np.ones(size, np.bool_)
    ignored = image_files.read_mask(file)
    _check_mask_size(file, ignored, size)
    if ignored.all():
        raise InputError(f"{file} ignores every pixel", expected="white on what to ignore only")
    return ~ignored


def _check_mask_size(file: pathlib.Path, mask: np.ndarray, size: tuple[int, int]) -> None:
    if mask.shape != size:
        raise InputError(
            f"{file} is {mask.shape[1]} x {mask.shape[0]} pixels",
            expected=f"the size of its image, {size[1]} x {size[0]}",
        )
