"""One person in a photograph: what is given is kept, the rest is filled in by detectors, and what
belongs to somebody else is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.detect.detections import (
    Detections,
    Detector,
    Face,
    Person,
    face_box,
    merge,
    overlap,
    person_box,
)
from jaxrecon.errors import InputError

_SAME = 0.5
"""Boxes that overlap more are of one subject; so is one with this share of its points in a mask."""


def complete_face(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Float[np.ndarray, "H W"] | None,
    landmarks: Float[np.ndarray, "n 2"] | None,
    detectors: Sequence[Detector],
) -> Detections:
    """The face that a mask or landmarks mark, or the best one, with landmarks and parsing.

    Args:
        image: upright photograph.
        mask: of the subject, if given; kept.
        landmarks: seen ones, if given: they tell which face, and are not part of the result unless
            there are 68.
        detectors: asked in turn, while landmarks or both of mask and parsing are missing.

    Returns:
        all that is known; `faces` is empty where no face is the subject's.
    """
    known = _known(image, mask, None, landmarks)

    def enough(d: Detections) -> bool:
        marked = d.face is not None and (d.face.landmarks is not None or landmarks is not None)
        return marked and (d.parsing is not None or d.mask is not None)

    return _completed(image, known, detectors, enough)


def complete_person(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Float[np.ndarray, "H W"] | None,
    keypoints: Float[np.ndarray, "25 3"] | None,
    landmarks: Float[np.ndarray, "68 2"] | None,
    detectors: Sequence[Detector],
) -> Detections:
    """Everything about one person in a photograph; what is given is kept, the rest is found.

    Args:
        image: upright photograph.
        mask: float32 in [0, 1], of the person. It tells which of several people is meant: the one
            with most of the keypoints in it.
        keypoints: x, y (pixels) and confidence of `types.BODY_25`.
        landmarks: 68 of the face, pixels.
        detectors: asked in turn, while mask, keypoints or landmarks are missing.

    Returns:
        `people[0]`, `faces[0]` and `mask` of the person, as far as they are known; `sources` says
        "given" of what was.

    Raises:
        InputError: a mask that has not the size of the photograph, or points that are not finite.
    """
    known = _known(image, mask, keypoints, landmarks)

    def enough(d: Detections) -> bool:
        body = d.person is not None and d.person.keypoints is not None
        return body and d.mask is not None and d.face is not None and d.face.landmarks is not None

    return _completed(image, known, detectors, enough)


def _known(image: np.ndarray, mask: Any, keypoints: Any, landmarks: Any) -> Detections:
    """What was given, as detections."""
    sources, faces, people = {}, (), ()
    if mask is not None:
        if mask.shape != image.shape[:2]:
            raise InputError(
                f"a mask of {mask.shape[1]} x {mask.shape[0]} pixels",
                f"the size of its image, {image.shape[1]} x {image.shape[0]}",
            )
        sources["mask"], mask = "given", mask.astype(np.float32)
    for points, name in ((keypoints, "keypoints"), (landmarks, "landmarks")):
        if points is not None and not np.isfinite(points).all():
            raise InputError(f"{name} that are not finite", "pixels")
    if landmarks is not None:
        marks = np.asarray(landmarks, np.float32) if len(landmarks) == 68 else None
        faces = (Face(face_box(landmarks), 1.0, marks),)
        sources["landmarks"] = "given"
    if keypoints is not None:
        xy, trust = keypoints[:, :2].astype(np.float32), keypoints[:, 2].astype(np.float32)
        known = xy[trust > 0] if (trust > 0).sum() > 1 else xy
        people = (Person(person_box(known), 1.0, xy, trust),)
        sources["keypoints"] = "given"
    return Detections(image.shape[:2], faces, people, None, mask, sources)


def _completed(
    image: np.ndarray,
    known: Detections,
    detectors: Sequence[Detector],
    enough: Callable[[Detections], bool],
) -> Detections:
    """`known`, filled in by the detectors' words about the same subject."""
    for detector in detectors:
        if enough(known):
            break
        known = merge(known, _of_subject(detector(image), known))
    return known


def _of_subject(found: Detections, known: Detections) -> Detections:
    """What was found, without what belongs to somebody else than is known: faces and people
    outside the known mask, faces away from the known person; people with the known face come
    first. Parsing and mask stay if they are of the best face and person that are left.
    """
    faces, people = found.faces, found.people
    if known.mask is not None:
        faces = tuple(f for f in faces if _inside(f.landmarks, known.mask) >= _SAME)
        bodies = [(_inside(p.keypoints, known.mask, p.confidence), p) for p in people]
        bodies = [(share, p) for share, p in bodies if share >= _SAME]
        people = tuple(p for _, p in sorted(bodies, key=lambda pair: -pair[0]))
    if known.people:
        faces = tuple(f for f in faces if _overlap(f, known.people[0]))
    elif known.faces:
        people = tuple(sorted(people, key=lambda p: not _overlap(p, known.faces[0])))
    parsing = found.parsing if _same_best(faces, found.faces) else None
    same = _same_best(faces, found.faces) and _same_best(people, found.people)
    for mine, theirs in ((known.people, people), (known.faces, faces)):
        same &= not mine or not theirs or _overlap(mine[0], theirs[0])
    mask = found.mask if same else None
    return dataclasses.replace(found, faces=faces, people=people, parsing=parsing, mask=mask)


def _same_best(left: Sequence[Face | Person], all_of_them: Sequence[Face | Person]) -> bool:
    return not all_of_them or (bool(left) and left[0] is all_of_them[0])


def _overlap(one: Face | Person, other: Face | Person) -> bool:
    return overlap(one.box, other.box) > _SAME


def _inside(points: Any, mask: np.ndarray, trust: Any = None) -> float:
    """Share of the points inside a mask; 1 where there are no points to judge by."""
    if points is None:
        return 1.0
    points = points if trust is None else points[trust > 0]
    if not len(points):
        return 1.0
    height, width = mask.shape
    columns, rows = np.floor(points).astype(int).T
    shown = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return float((mask[rows[shown], columns[shown]] >= 0.5).sum() / len(points))
