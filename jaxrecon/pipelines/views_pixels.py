"""The pictures of a views folder: colours, masks of three states, and sizes, padded to one size."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrecon import images as image_files
from jaxrecon.detect import parsing_labels
from jaxrecon.errors import InputError, excerpt
from jaxrecon.pipelines.views_metadata import inside

MAX_TOTAL_PIXELS = 200_000_000
"""Of all padded views together: 2.4 GB of colour."""


def read_pixels(
    files: Sequence[pathlib.Path],
    entries: Sequence[dict],
    document: dict | None,
    partial: bool = False,
) -> dict[str, Any]:
    """Sizes (v, 2), images (v, h, w, 3), mask (v, h, w) or None, and valid (v, h, w) of views; and
    has_mask (v,) where only some have one.

    Args:
        files: photographs, all in the folder that holds their masks and labels.
        entries: what cameras.json says of each.
        document: cameras.json, where there is one: its width and height.
        partial: whether masks of only some views are accepted.

    Raises:
        InputError: a file is absent, broken, of the wrong size or says nothing of the subject.
    """
    labels = [_beside(path, "labels") for path in files]
    table = None
    if any(labels):
        table = parsing_labels.read_table(files[0].with_name("labels.json"))
    colours, masks, valids, largest = [], [], [], (0, 0)
    for path, entry, label in zip(files, entries, labels, strict=True):
        colour, alpha = image_files.read_image(path)
        size = colour.shape[:2]
        _check_declared_size(path, {**(document or {}), **entry}, *size)
        largest = (max(largest[0], size[0]), max(largest[1], size[1]))
        _check_total(largest, len(files))
        mask, valid = _read_states(path, alpha, size, label, table)
        colours.append(colour)
        masks.append(mask)
        valids.append(valid)
    lacking = [f.name for f, m in zip(files, masks, strict=True) if m is None]
    some = 0 < len(lacking) < len(files)
    if some and not partial:
        raise InputError(
            f"{files[0].parent}: {', '.join(lacking)} have no mask, the other views have",
            expected="a mask for every view, or for none",
            remedy=f"add {pathlib.Path(lacking[0]).stem}_mask.png, white on the subject",
        )
    has_mask = np.array([m is not None for m in masks])
    masks = [
        np.zeros(c.shape[:2], np.bool_) if some and m is None else m
        for c, m in zip(colours, masks, strict=True)
    ]
    return {
        "sizes": np.array([c.shape[:2] for c in colours], np.int64),
        "images": _stack(colours, largest, 1.0, np.float32),
        "mask": None if not has_mask.any() else _stack(masks, largest, 0.0, np.float32),
        "has_mask": has_mask if some else None,
        "valid": _stack(valids, largest, 0.0, np.bool_),
    }


def _stack(arrays: list, size: tuple[int, int], fill: float, dtype: Any) -> np.ndarray:
    """Stack images, padded at the right and the bottom."""
    stacked = np.full((len(arrays), *size, *arrays[0].shape[2:]), fill, dtype)
    for target, array in zip(stacked, arrays, strict=True):
        target[: array.shape[0], : array.shape[1]] = array
    return stacked


def _check_total(largest: tuple[int, int], count: int) -> None:
    """Before the next is decoded, not after all are."""
    height, width = largest
    if height * width * count > MAX_TOTAL_PIXELS:
        raise InputError(
            f"{count} views of {width} x {height} pixels are too many at once",
            expected=f"at most {MAX_TOTAL_PIXELS // 10**6} million pixels in all",
            remedy="use fewer views (--views) or smaller images",
        )


def _check_declared_size(path: pathlib.Path, declared: dict, height: int, width: int) -> None:
    for name, actual in (("width", width), ("height", height)):
        if name in declared and declared[name] != actual:
            turned = image_files.is_turned(path)
            raise InputError(
                f"{path} is {width} x {height} pixels"
                + (" (upright: an EXIF tag turns what the file stores)" if turned else "")
                + f"; cameras.json says {name} {excerpt(declared[name])}",
                expected="images of the size that K was made for",
                remedy="save the photographs upright, without the tag, and make K, width and "
                "height for those"
                if turned
                else "use the original images, or scale K, width and height",
            )


# ---------------------------------------------------------------- masks


def _beside(path: pathlib.Path, kind: str) -> pathlib.Path | None:
    """`NAME_kind.png` beside a picture, or None."""
    file = path.with_name(f"{path.stem}_{kind}.png")
    return inside(file.parent, file.name, "a link") if os.path.lexists(file) else None


def _read_states(
    path: pathlib.Path,
    alpha: np.ndarray | None,
    size: tuple[int, int],
    label: pathlib.Path | None,
    table: np.ndarray | None,
) -> tuple[np.ndarray | None, np.ndarray]:
    """Subject (h, w), None where nothing tells it, and valid (h, w): not to be ignored."""
    if alpha is not None and label is not None and alpha.min() == 1:
        alpha = None  # opaque everywhere: no opinion, and the labels have one
    mask = _read_subject(path, alpha, size)
    ignored = _read_ignored(path, size)
    if label is not None and table is not None:
        states = parsing_labels.read_states(label, table)
        _check_size(label, states, size)
        ignored |= states == parsing_labels.IGNORE
        if mask is None:
            mask = states == parsing_labels.SUBJECT
            _check_both(mask, f"labels of {label} mark", path)
    if ignored.all() or (mask is not None and not (mask & ~ignored).any()):
        raise InputError(
            f"everything of the subject in {path} is ignored",
            expected=f"a part of the subject that neither {path.stem}_ignore.png nor a label hides",
            remedy="mark less, or leave the view out",
        )
    return mask, ~ignored


def _read_subject(
    path: pathlib.Path, alpha: np.ndarray | None, size: tuple[int, int]
) -> np.ndarray | None:
    """The subject's mask from its own file, else from alpha, else None."""
    file = _beside(path, "mask")
    if file is not None:
        mask, source = image_files.read_mask(file), f"mask {file} marks"
        _check_size(file, mask, size)
    elif alpha is not None:
        mask, source = image_files.binary(alpha), f"alpha channel of {path} marks"
    else:
        return None
    _check_both(mask, source, path)
    return mask


def _check_both(mask: np.ndarray, source: str, path: pathlib.Path) -> None:
    """Some pixels are the subject and some are not."""
    if mask.all() or not mask.any():
        raise InputError(
            f"the {source} {'every pixel' if mask.all() else 'nothing'} as the subject",
            expected="white (opaque) on the subject, black (transparent) around it; 128 of 255 and "
            "more is white",
            remedy=f"correct it, or add {path.stem}_mask.png",
        )


def _read_ignored(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    file = _beside(path, "ignore")
    if file is None:
        return np.zeros(size, np.bool_)
    ignored = image_files.read_mask(file)
    _check_size(file, ignored, size)
    if ignored.all():
        raise InputError(
            f"{file} ignores every pixel",
            expected="white on what to ignore only",
            remedy="correct it, or leave the view out",
        )
    return ignored


def _check_size(file: pathlib.Path, mask: np.ndarray, size: tuple[int, int]) -> None:
    if mask.shape != size:
        raise InputError(
            f"{file} is {mask.shape[1]} x {mask.shape[0]} pixels",
            expected=f"the size of its image, {size[1]} x {size[0]}",
        )
