"""Photographs and what was found in them, as a views folder (`jaxrecon detect`).

The folder holds a copy of each photograph and, in the layout of `pipelines.views`,
`NAME_labels.png` with one `labels.json`, `landmarks.json`, and of people `NAME_mask.png` and
`NAME_keypoints.json` (OpenPose's BODY_25). `NAME_overlay.png` is for a look. It appears whole, or
not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxrecon import images as image_files
from jaxrecon.detect.detections import Detections, Detector
from jaxrecon.detect.openpose import write_openpose
from jaxrecon.errors import InputError
from jaxrecon.pipelines.detections import (
    LABEL_NAMES,
    complete_face,
    complete_person,
    labels_of,
    landmark_weights,
)
from jaxrecon.pipelines.detections_drawing import write_detections
from jaxrecon.pipelines.output import atomic, explained, output_folder, write_json
from jaxrecon.pipelines.views import BESIDE, list_images, natural_order


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was found in one photograph."""

    name: str
    """of the photograph"""
    words: str
    """one line for the user"""
    landmarks: Any = None
    """(68, 2) pixels, or None"""
    weights: Any = None
    """(68,) of `landmark_weights`, or None"""
    kept: bool = True
    """whether it is in the folder"""


def detect_photographs(
    photographs: Sequence[pathlib.Path],
    out: pathlib.Path,
    faces: Sequence[Detector],
    people: Sequence[Detector] = (),
    tell: Callable[[int, int, Seen], None] | None = None,
) -> list[Seen]:
    """Detect in each photograph and write a views folder.

    Args:
        photographs: image files, or folders of them.
        out: the folder; it must be new or empty, so that no correction is ever overwritten.
        faces: detectors of faces, asked in turn.
        people: detectors of people; none: masks and keypoints of people are not looked for.
        tell: called with (photographs done, all of them, what was found in the last).

    Returns:
        what was found, in the order of the folder. A photograph in which nothing was found is not
        in the folder (`kept` is False).

    Raises:
        InputError: photographs that cannot be read or have one name, a folder that holds files,
            or nothing found in any photograph.
    """
    files = _files(photographs)
    seen: list[Seen] = []
    with _new_folder(out) as folder:
        for number, file in enumerate(files):
            seen.append(_one(file, folder, faces, people))
            if tell is not None:
                tell(number + 1, len(files), seen[-1])
        kept = [one for one in seen if one.kept]
        if not kept:
            raise InputError(
                f"nothing was found in {', '.join(str(f) for f in files[:3])}"
                + (f" and {len(files) - 3} more" if files[3:] else ""),
                expected="a face" + (" or a person" if people else "") + " that is seen well, "
                "upright, and not too small in the picture",
                remedy="try a closer crop, or make landmarks.json and masks by other means",
            )
        if any(one.landmarks is not None for one in kept):
            write_json(folder / "landmarks.json", _landmarks(kept))
        if any(folder.glob("*_labels.png")):
            write_json(folder / "labels.json", {"labels": LABEL_NAMES})
    return seen


def _files(photographs: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The photographs in the order in which the folder's reader will find them."""
    files: list[pathlib.Path] = []
    for path in photographs:
        if not os.path.exists(path):
            raise InputError(f"no such folder or image: {path}", remedy="check the name")
        files += list_images(path) if path.is_dir() else [path]
    if not files:
        raise InputError("no PHOTOS were given", expected="image files, or folders of them")
    for file in files:
        if file.suffix.lower() not in image_files.SUFFIXES or file.stem.endswith(BESIDE):
            raise InputError(
                f"{file} is not named like a photograph",
                expected=f"a name that ends in {', '.join(image_files.SUFFIXES)}, but not in "
                + ", ".join(f"{end}.png" for end in BESIDE),
                remedy="rename it",
            )
    stems = [file.stem for file in files]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise InputError(
            f"several photographs are called {', '.join(twice)}: their results would collide",
            remedy="rename them, or detect into different folders",
        )
    return sorted(files, key=natural_order)


@contextlib.contextmanager
def _new_folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside `out` that takes its name when the block ends well."""
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(
            f"{out} exists and is not an empty folder",
            expected="a new folder: your corrections are never overwritten",
            remedy="choose another --out, or remove it",
        )
    parent = output_folder(out.absolute().parent)
    new = parent / f".{out.name}.{secrets.token_hex(4)}.tmp"
    try:
        with explained(out):
            new.mkdir()
            yield new
            os.replace(new, out.absolute())
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _one(
    file: pathlib.Path,
    folder: pathlib.Path,
    faces: Sequence[Detector],
    people: Sequence[Detector],
) -> Seen:
    """Detect in one photograph and write all of it but its landmarks."""
    colour, alpha = image_files.read_image(file)
    image = np.round(colour * 255).astype(np.uint8)
    mask = None if alpha is None or alpha.min() == 1 else alpha.astype(np.float32)
    found = complete_face(image, mask, None, faces)
    body = None
    if people:
        marks = None if found.face is None else found.face.landmarks
        body = complete_person(image, mask, None, marks, people)
        found = dataclasses.replace(found, people=body.people, mask=body.mask)
    has_face = found.face is not None and found.face.landmarks is not None
    if not has_face and (body is None or not body.people):
        return Seen(file.name, f"{file.name}: nothing was found; left out", kept=False)
    with explained(folder):
        shutil.copyfile(file, folder / file.name)
    if has_face and found.parsing is not None:
        _write_grey(folder / f"{file.stem}_labels.png", labels_of(found.parsing))
    if body is not None and body.mask is not None and mask is None:
        grey = np.round(body.mask * 255).astype(np.uint8)
        _write_grey(folder / f"{file.stem}_mask.png", grey)
    if body is not None and body.people:
        write_openpose(folder / f"{file.stem}_keypoints.json", body.people[:1], found.faces[:1])
    write_detections(folder / f"{file.stem}_overlay.png", image, found)
    landmarks = weights = None
    if found.face is not None and found.face.landmarks is not None:
        landmarks, weights = found.face.landmarks, landmark_weights(found.face)
        height, width = image.shape[:2]
        outside = ((landmarks < 0) | (landmarks > np.array([[width, height]]))).any(axis=1)
        weights = np.where(outside, np.float32(0), weights)
    return Seen(file.name, _words(file.name, found, weights), landmarks, weights)


def _write_grey(path: pathlib.Path, values: np.ndarray) -> None:
    from PIL import Image

    with atomic(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")


def _words(name: str, found: Detections, weights: Any) -> str:
    """One line on a photograph."""
    parts = []
    if weights is not None and found.face is not None:
        sure = found.face.confidence
        trust = "" if sure is None else f", mean confidence {sure.mean():.2f}"
        parts.append(f"68 landmarks, {int((weights > 0).sum())} seen{trust}")
        if len(found.faces) > 1:
            parts.append(f"the best of {len(found.faces)} faces")
    if found.parsing is not None and weights is not None:
        parts.append("labels")
    if found.person is not None:
        known = found.person.confidence
        count = 25 if known is None else int((known > 0).sum())
        parts.append(f"{count} keypoints" + (", mask" if found.mask is not None else ""))
        if len(found.people) > 1:
            parts.append(f"the best of {len(found.people)} people")
    return f"{name}: {'; '.join(parts)}"


def _landmarks(kept: Sequence[Seen]) -> dict[str, Any]:
    """What landmarks.json holds; null where a photograph has no face."""
    none = [[None, None]] * 68
    return {
        "landmarks2d": [
            none if one.landmarks is None else np.round(one.landmarks.astype(float), 3).tolist()
            for one in kept
        ],
        "visible": [
            [False] * 68 if one.weights is None else (one.weights > 0).tolist() for one in kept
        ],
        "valid": [True] * 68,
        "confidence": [
            [0.0] * 68 if one.weights is None else np.round(one.weights.astype(float), 4).tolist()
            for one in kept
        ],
    }
