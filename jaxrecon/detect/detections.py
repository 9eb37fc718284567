"""What is known of the people in one photograph, wherever it comes from: the one interface.

Readers of files (`files`, `openpose`), optional tools (`tools`), imported and own networks all give
`Detections`, on the host. Pixels are (x right, y down), the centre of pixel (row i, column j) at
(j + 0.5, i + 0.5). Left and right are the subject's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.errors import InputError

_GROUPS = {"landmarks": ("landmarks", "sigma", "visible", "confidence"), "five": ("five",)}
"""{part of a face: its fields}: they come from one source together."""
_BODY = {"keypoints": ("keypoints", "confidence")}
_FACE_BOX = 1.5
"""Side of the box of a face over the larger extent of its landmarks: forehead and chin fit."""
_PERSON_BOX = 1.2


@dataclasses.dataclass(frozen=True)
class Face:
    """One face. What is unknown is None."""

    box: Float[np.ndarray, "4"]
    """float64 [left, top, right, bottom] in pixels: a square around the face. It may leave the
    picture."""
    score: float
    """How surely it is a face, in [0, 1]."""
    landmarks: Float[np.ndarray, "68 2"] | None = None
    """float32 pixels, in iBUG order (the subject's right side first)."""
    sigma: Float[np.ndarray, "68"] | None = None
    """float32 pixels: standard deviation of each coordinate."""
    visible: Float[np.ndarray, "68"] | None = None
    """float32: probability of being seen, not hidden by the face itself or by something else."""
    confidence: Float[np.ndarray, "68"] | None = None
    """float32 in [0, 1]; 0 is unknown, whatever the coordinates say."""
    five: Float[np.ndarray, "5 2"] | None = None
    """float32 pixels: centres of the right and the left eye, tip of the nose, right and left corner
    of the mouth."""


@dataclasses.dataclass(frozen=True)
class Person:
    """One person. What is unknown is None."""

    box: Float[np.ndarray, "4"]
    """float64 [left, top, right, bottom] in pixels; it may leave the picture."""
    score: float
    """How surely it is a person, in [0, 1]."""
    keypoints: Float[np.ndarray, "25 2"] | None = None
    """float32 pixels, in the order of `types.BODY_25`."""
    confidence: Float[np.ndarray, "25"] | None = None
    """float32 in [0, 1]; 0 is unknown, whatever the coordinates say."""


@dataclasses.dataclass(frozen=True)
class Detections:
    """Everything known of one photograph. What is unknown is None, or an empty tuple."""

    size: tuple[int, int]
    """(height, width) of the upright photograph."""
    faces: tuple[Face, ...] = ()
    """Best first."""
    people: tuple[Person, ...] = ()
    """Best first."""
    parsing: UInt8[np.ndarray, "h w"] | None = None
    """Numbers of `types.FACE_LABELS`, of faces[0]."""
    mask: Float[np.ndarray, "h w"] | None = None
    """float32 in [0, 1]: how much of a pixel the subject covers."""
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Where each part comes from: landmarks, five, keypoints, parsing, mask -> words."""

    @property
    def face(self) -> Face | None:
        """The best face."""
        return self.faces[0] if self.faces else None

    @property
    def person(self) -> Person | None:
        """The best person."""
        return self.people[0] if self.people else None


Detector = Callable[[UInt8[np.ndarray, "h w 3"]], Detections]
"""An upright photograph, sRGB, to what is seen in it."""


def face_box(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "4"]:
    """The square box [left, top, right, bottom] of a face with these landmarks, in pixels.

    68 landmarks reach from the brows to the chin, five from the eyes to the mouth: the box is
    larger over fewer.
    """
    if len(points) < 10:
        return _square(points, 2.5)
    return _square(points, _FACE_BOX)


def person_box(keypoints: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "4"]:
    """The square box [left, top, right, bottom] around keypoints, in pixels."""
    return _square(keypoints, _PERSON_BOX)


def _square(points: np.ndarray, factor: float) -> np.ndarray:
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    half = factor / 2 * max(float((high - low).max()), 1.0)
    centre = (low + high) / 2
    return np.concatenate([centre - half, centre + half])


_Subject = TypeVar("_Subject", Face, Person)


def merge(first: Detections, *others: Detections) -> Detections:
    """Part by part, the first that knows it: landmarks, five, keypoints, parsing and mask.

    The faces (people) are those of the first source that has any. What such a face lacks comes from
    the face of a later source that overlaps it, and from no other: two people never become one. The
    same holds for the parsing, which belongs to the best face. `landmarks` includes sigma, visible
    and confidence; they are never mixed.

    Raises:
        InputError: detections of photographs of different sizes.
    """
    whole = first
    for other in others:
        if other.size != whole.size:
            raise InputError(
                f"detections of a photograph of {whole.size[1]} x {whole.size[0]} pixels and of "
                f"one of {other.size[1]} x {other.size[0]}",
                "detections of one photograph",
            )
        whole = _merge(whole, other)
    return whole


def _merge(first: Detections, other: Detections) -> Detections:
    sources = dict(first.sources)
    faces = _fill(first.faces, other.faces, _GROUPS, sources, other.sources)
    people = _fill(first.people, other.people, _BODY, sources, other.sources)
    parsing, mask = first.parsing, first.mask
    # `faces` are the other's where the first has none: then it is the same face.
    if parsing is None and (not faces or not other.faces or _same(faces[0], other.faces[0])):
        parsing = other.parsing
        _take(sources, other.sources, "parsing", parsing is not None)
    if mask is None:
        mask = other.mask
        _take(sources, other.sources, "mask", mask is not None)
    return Detections(first.size, faces, people, parsing, mask, sources)


def _take(sources: dict[str, str], other: Mapping[str, str], part: str, taken: bool) -> None:
    if taken and part in other:
        sources[part] = other[part]


def _fill(
    mine: tuple[_Subject, ...],
    theirs: tuple[_Subject, ...],
    groups: Mapping[str, tuple[str, ...]],
    sources: dict[str, str],
    other: Mapping[str, str],
) -> tuple[_Subject, ...]:
    """`mine`, completed by those of `theirs` that overlap; `theirs` where there are none."""
    if not mine:
        for part in groups:
            _take(sources, other, part, bool(theirs))
        return theirs
    filled = []
    for place, subject in enumerate(mine):
        match = max(theirs, key=lambda one: overlap(subject.box, one.box), default=None)
        if match is not None and _same(subject, match):
            for part, fields in groups.items():
                if getattr(subject, part) is None and getattr(match, part) is not None:
                    subject = _with(subject, {name: getattr(match, name) for name in fields})
                    _take(sources, other, part, place == 0)
        filled.append(subject)
    return tuple(filled)


def _with(subject: _Subject, fields: dict[str, Any]) -> _Subject:
    return dataclasses.replace(subject, **fields)


def _same(a: Face | Person, b: Face | Person) -> bool:
    """Whether two boxes hold one subject: one source may draw them twice as large as another."""
    return overlap(a.box, b.box) > 0.5


def overlap(a: Float[np.ndarray, "4"], b: Float[np.ndarray, "4"]) -> float:
    """Area common to two boxes over that of the smaller, in [0, 1]; 0 for an empty box."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    common = float(np.prod(np.maximum(high - low, 0)))
    smaller = float(min(np.prod(np.maximum(x[2:] - x[:2], 0)) for x in (a, b)))
    return common / smaller if smaller > 0 else 0.0
