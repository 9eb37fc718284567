"""Detections of a photograph from files: landmarks, keypoints, masks and parsing maps."""

from __future__ import annotations

import pathlib

import numpy as np

from jaxrecon import images as image_files
from jaxrecon.detect import parsing_labels
from jaxrecon.detect.detections import Detections, Face, face_box, merge
from jaxrecon.detect.landmark_files import Points, points_in, read_points
from jaxrecon.detect.openpose import is_openpose, openpose_detections, read_openpose
from jaxrecon.errors import InputError
from jaxrecon.interop.json_files import read_json_value
from jaxrecon.types import FACE_LABELS

_MIN_KNOWN = 20
"""Of 68 landmarks: fewer place no face."""


def from_files(
    size: tuple[int, int],
    landmarks: str | pathlib.Path | None = None,
    keypoints: str | pathlib.Path | None = None,
    mask: str | pathlib.Path | None = None,
    parsing: str | pathlib.Path | None = None,
    index: int | None = None,
    labels: object = None,
) -> Detections:
    """All that files tell of one photograph.

    Args:
        size: (height, width) of the upright photograph.
        landmarks: see `landmarks_from_file`.
        keypoints: OpenPose's JSON, see `openpose.read_openpose`; its faces count where there is no
            other file of landmarks.
        mask: see `mask_from_file`; it goes before that of the parsing.
        parsing: see `parsing_from_file`.
        index: which picture, where the file of landmarks holds several.
        labels: what the numbers of the parsing mean, see `parsing_from_file`.

    Raises:
        InputError: a file is absent, broken, or not of this photograph.
    """
    found = Detections(size)
    if landmarks is not None:
        found = merge(found, landmarks_from_file(landmarks, size, index))
    if keypoints is not None:
        found = merge(found, read_openpose(keypoints, size))
    if mask is not None:
        found = merge(found, mask_from_file(mask, size))
    if parsing is not None:
        found = merge(found, parsing_from_file(parsing, size, labels))
    return found


def landmarks_from_file(
    path: str | pathlib.Path, size: tuple[int, int], index: int | None = None
) -> Detections:
    """One face with 68 landmarks or `five`; of OpenPose's JSON, its faces.

    Args:
        path: a file as of `landmark_files`, or OpenPose's JSON with `face_keypoints_2d`.
        size: (height, width) of the photograph.
        index: which picture, where the file holds several.

    Raises:
        InputError: absent, broken, or not of this photograph.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() != ".json":
        return _face(path, read_points(path, index), size)
    document = read_json_value(path)
    if not is_openpose(document):
        return _face(path, points_in(path, document, index), size)
    found = openpose_detections(path, document, size)
    if not found.faces:
        raise InputError(
            f"{path} holds no face",
            "people with face_keypoints_2d",
            "run OpenPose with --face, or leave the file out",
        )
    return Detections(size, found.faces, sources={"landmarks": path.name})


def _face(path: pathlib.Path, points: Points, size: tuple[int, int]) -> Detections:
    known = points.places[points.known]
    inside = ((known >= 0) & (known <= np.array(size[::-1], np.float32)[None])).all(axis=1)
    if not inside.any():
        raise InputError(
            f"{path}: all landmarks lie outside the picture of {size[1]} x {size[0]} pixels",
            "landmarks of this picture at this size",
        )
    if np.ptp(known, axis=0).max() < 4:
        raise InputError(
            f"{path}: all landmarks lie within {np.ptp(known, axis=0).max():.3g} pixels",
            "pixels of the picture",
            "multiply places from 0 to 1 by the width and height",
        )
    box = face_box(known)
    if len(points.places) == 5:
        if not points.known.all():
            raise InputError(f"{path}: {points.known.sum()} of five points are known", "all five")
        return Detections(size, (Face(box, 1.0, five=points.places),), sources={"five": path.name})
    if points.known.sum() < _MIN_KNOWN:
        raise InputError(
            f"{path}: only {points.known.sum()} of 68 landmarks are known",
            f"at least {_MIN_KNOWN}",
            "mark more points",
        )
    visible = None if points.visible is None else points.visible.astype(np.float32)
    sure = points.known.astype(np.float32) if points.confidence is None else points.confidence
    face = Face(box, 1.0, points.places, visible=visible, confidence=sure)
    return Detections(size, (face,), sources={"landmarks": path.name})


def mask_from_file(path: str | pathlib.Path, size: tuple[int, int]) -> Detections:
    """A mask: white (opaque) is the subject, and greys are edges.

    Args:
        path: an image; brightness times alpha counts.
        size: (height, width) of the photograph.

    Raises:
        InputError: absent, broken, of another size, or all black or all white.
    """
    path = pathlib.Path(path)
    colour, alpha = image_files.read_image(path)
    mask = colour.mean(axis=-1) * (np.float32(1) if alpha is None else alpha)
    _check_size(path, mask, size)
    subject = image_files.binary(mask)
    if subject.all() or not subject.any():
        raise InputError(
            f"the mask {path} marks {'every pixel' if subject.all() else 'nothing'} as the subject",
            "white (opaque) on the subject, black (transparent) around it",
        )
    return Detections(size, mask=mask.astype(np.float32), sources={"mask": path.name})


def parsing_from_file(
    path: str | pathlib.Path, size: tuple[int, int], labels: object = None
) -> Detections:
    """A parsing map in our labels, and the mask of what is not background in it.

    Args:
        path: a single-channel PNG of label numbers.
        size: (height, width) of the photograph.
        labels: what the numbers mean: `"bisenet"`, `"celebamask-hq"`, a list of names, or names by
            number; None: `labels.json` beside the file says it (see `parsing_labels`).

    Raises:
        InputError: absent, broken, of another size, all background, or numbers without a name.
    """
    path = pathlib.Path(path)
    names = path.with_name("labels.json") if labels is None else path
    table = parsing_labels.read_face_table(names, labels)
    parsing = parsing_labels.read_face_labels(path, table)
    _check_size(path, parsing, size)
    subject = parsing != FACE_LABELS.index("background")
    if not subject.any():
        raise InputError(f"{path} marks nothing but background", "labels of a face")
    sources = {"parsing": path.name, "mask": path.name}
    return Detections(size, parsing=parsing, mask=subject.astype(np.float32), sources=sources)


def _check_size(path: pathlib.Path, image: np.ndarray, size: tuple[int, int]) -> None:
    if image.shape != size:
        raise InputError(
            f"{path} is {image.shape[1]} x {image.shape[0]} pixels",
            f"the size of its photograph, {size[1]} x {size[0]}",
        )
