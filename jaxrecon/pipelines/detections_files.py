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
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxrecon import images as image_files
from jaxrecon.detect import parsing_labels
from jaxrecon.detect.detections import Detections, Detector
from jaxrecon.detect.openpose import write_openpose
from jaxrecon.errors import InputError
from jaxrecon.pipelines.detections import (
    LABEL_NAMES,
    LEAST_WEIGHT,
    Found,
    complete_face,
    complete_person,
    labels_of,
    reduced,
    states_of,
)
from jaxrecon.pipelines.detections_drawing import write_detections
from jaxrecon.pipelines.output import atomic, explained, output_folder, write_json
from jaxrecon.pipelines.views import BESIDE, lies_beside, list_images, natural_order
from jaxrecon.pipelines.views_metadata import MIN_LANDMARKS

_LONGEST = 255
"""Bytes of a file's name, on nearly every system."""
_GIVEN = ("cameras.json", "landmarks.json")


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
    _check_headers(files)
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


def not_taken_over(path: pathlib.Path) -> list[str]:
    """Names of the files in a folder, or beside a photograph, that say something of the
    photographs and that `detect_photographs` does not look at: a fit of them does.
    """
    if not path.is_dir():
        ends = (f"{path.stem}{end}.png" for end in BESIDE)
        return [name for name in ends if os.path.lexists(path.with_name(name))]
    names = sorted(p.name for p in path.iterdir() if p.name in _GIVEN)
    files = (p for p in path.iterdir() if p.suffix.lower() == ".png")
    return names + [p.name for p in sorted(files, key=natural_order) if p.stem.endswith(BESIDE)]


def _check_headers(files: Sequence[pathlib.Path]) -> None:
    """Refuse what is no photograph before the first is looked at, not after an hour."""
    from PIL import Image

    for file in files:
        fine = False
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if file.is_file():
                with Image.open(file, formats=image_files.FORMATS) as image:
                    fine = image.width * image.height <= image_files.MAX_PIXELS
        if not fine:
            image_files.read_image(file)  # says what is wrong with it


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
        unlike = file.suffix.lower() not in image_files.SUFFIXES or file.name.startswith(".")
        if unlike or lies_beside(file):
            raise InputError(
                f"{file} is not named like a photograph",
                expected=f"a name that ends in {', '.join(image_files.SUFFIXES)}, begins with no "
                f"dot and has none of {', '.join(BESIDE)} before it, nor _overlay before .png",
                remedy="rename it",
            )
        if len(os.fsencode(f".{file.stem}_keypoints.{'0' * 8}.tmp.json")) > _LONGEST:
            raise InputError(
                f"the name of {file} is too long: what is found is called after it",
                expected="a name of up to 200 letters",
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
    named = out
    try:
        out = out.resolve()  # what a link leads to is replaced, not the link
    except (OSError, RuntimeError) as error:  # links in a circle
        raise InputError(f"no folder can be {named}: {error}", "a new folder") from error
    if out == pathlib.Path.cwd():
        raise InputError(
            f"--out {named} is the current directory",
            expected="a new folder, which appears whole or not at all",
            remedy="choose another --out, such as found",
        )
    with explained(named):
        if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
            raise InputError(
                f"{named} exists and is not an empty folder",
                expected="a new folder: your corrections are never overwritten",
                remedy="choose another --out, or remove it",
            )
    parent = output_folder(out.parent)
    new = parent / f".{out.name}.{secrets.token_hex(4)}.tmp"
    try:
        with explained(named):
            new.mkdir()
            yield new
            os.replace(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _one(
    file: pathlib.Path,
    folder: pathlib.Path,
    faces: Sequence[Detector],
    people: Sequence[Detector],
) -> Seen:
    """Detect in one photograph and write all of it but its landmarks.

    What is kept is what a fit would take (`reduced`): one of the folder refuses nothing that was
    written here.
    """
    colour, alpha = image_files.read_image(file)
    image = np.round(colour * 255).astype(np.uint8)
    mask = None if alpha is None or alpha.min() == 1 else alpha.astype(np.float32)
    found = complete_face(image, mask, None, faces)
    body = None
    if people:
        marks = None if found.face is None else found.face.landmarks
        body = complete_person(image, mask, None, marks, people)
        found = dataclasses.replace(found, people=body.people, mask=body.mask)
    drawn = None  # the mask of a person, as it is written
    if body is not None and body.mask is not None and mask is None:
        grey = np.round(body.mask * 255).astype(np.uint8)
        drawn = grey if 0 < (grey >= 128).sum() < grey.size else None
    subject = None if mask is None else image_files.binary(mask)
    subject = subject if drawn is None else drawn >= 128
    labels = _labels(found, subject)
    face, weights = reduced(found), None
    # Without a mask a fit looks for one as well, and where a parsing shows no face it finds none.
    if subject is not None or face.states is not None or found.parsing is None:
        weights = _weights(face, image.shape[:2])
    if weights is None and (body is None or not body.people):
        return Seen(file.name, f"{file.name}: nothing was found; left out", kept=False)
    with explained(folder):
        shutil.copyfile(file, folder / file.name)
    if weights is not None and labels is not None:
        _write_grey(folder / f"{file.stem}_labels.png", labels)
    if drawn is not None:
        _write_grey(folder / f"{file.stem}_mask.png", drawn)
    if body is not None and body.people:
        write_openpose(folder / f"{file.stem}_keypoints.json", body.people[:1], found.faces[:1])
    write_detections(folder / f"{file.stem}_overlay.png", image, found)
    parts = {"labels": labels is not None, "mask": drawn is not None or mask is not None}
    words = _words(file.name, found, weights, face.confidence, parts)
    return Seen(file.name, words, None if weights is None else face.landmarks, weights)


def _labels(found: Detections, subject: Any) -> np.ndarray | None:
    """The parsing as the folder's reader accepts it: some pixels are the subject and some are not,
    and not all of the subject (h, w), where a mask tells it, is ignored. Else None.
    """
    states = None if found.parsing is None else states_of(found)
    if states is None or found.parsing is None:
        return None
    own = states == parsing_labels.SUBJECT
    left = (own if subject is None else subject) & (states != parsing_labels.IGNORE)
    return labels_of(found.parsing) if left.any() and not (subject is None and own.all()) else None


def _weights(face: Found, size: tuple[int, int]) -> np.ndarray | None:
    """Weights of landmarks, 0 outside of the picture; None where too few are seen."""
    if face.landmarks is None or face.weights is None:
        return None
    outside = ((face.landmarks < 0) | (face.landmarks > np.array([size[::-1]]))).any(axis=1)
    weights = np.where(outside, np.float32(0), face.weights)
    return weights if (weights > 0).sum() >= MIN_LANDMARKS else None


def _write_grey(path: pathlib.Path, values: np.ndarray) -> None:
    from PIL import Image

    with atomic(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")


def _words(
    name: str, found: Detections, weights: Any, sure: float | None, there: dict[str, bool]
) -> str:
    """One line on a photograph; `sure` is the mean confidence of the seen landmarks."""
    parts = []
    if weights is not None:
        trust = "" if sure is None else f", mean confidence {sure:.2f}"
        parts.append(f"68 landmarks, {int((weights > 0).sum())} seen{trust}")
        if len(found.faces) > 1:
            parts.append(f"the best of {len(found.faces)} faces")
    if there["labels"] and weights is not None:
        parts.append("labels")
    if found.person is not None:
        known = found.person.confidence
        count = 25 if known is None else int((known >= LEAST_WEIGHT).sum())
        parts.append(f"{count} keypoints" + (", mask" if there["mask"] else ""))
        if len(found.people) > 1:
            parts.append(f"the best of {len(found.people)} people")
    return f"{name}: {'; '.join(parts)}"


def _landmarks(kept: Sequence[Seen]) -> dict[str, Any]:
    """What landmarks.json holds; null where a photograph has no face. The confidence of a hidden
    landmark is 1: `visible` says that it is hidden, and who moves it and shows it trusts it.
    """
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
            [1.0] * 68
            if one.weights is None
            else np.round(np.where(one.weights > 0, one.weights, 1).astype(float), 4).tolist()
            for one in kept
        ],
    }
