"""OpenPose's JSON of one picture: BODY_25 and 70 points of the face, read and written.

`people`, a list of objects with `pose_keypoints_2d` (25 times x, y, confidence) and
`face_keypoints_2d` (70 times: iBUG's 68, then the right and the left pupil); either may be empty.
Places are pixels of the picture (`--keypoint_scale 0`), counted from the centre of the first one:
we add half a pixel to read and take it away to write. Confidence 0 is unknown.

Source: OpenPose 1.7, doc/02_output.md.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrecon.detect.detections import Detections, Face, Person, face_box, overlap, person_box
from jaxrecon.errors import InputError, excerpt
from jaxrecon.interop.json_files import read_json_value
from jaxrecon.types import BODY_25

_PARTS = {"pose_keypoints_2d": len(BODY_25), "face_keypoints_2d": 70}
_HEAD = [BODY_25.index(n) for n in ("nose", "right_eye", "left_eye", "right_ear", "left_ear")]
_MAX_PEOPLE = 1000
_MAX_PIXEL = 1e6
_LANDMARKS = 68


def is_openpose(document: Any) -> bool:
    """Whether what a JSON file holds is meant as OpenPose's."""
    return isinstance(document, dict) and "people" in document


def read_openpose(path: str | pathlib.Path, size: tuple[int, int]) -> Detections:
    """People and faces of OpenPose's JSON, those of the largest summed confidence first.

    Args:
        path: the file; none in it is no error.
        size: (height, width) of the picture.

    Raises:
        InputError: absent, broken, other keypoints than BODY_25's, or places outside the picture.
    """
    path = pathlib.Path(path)
    return openpose_detections(path, read_json_value(path), size)


def openpose_detections(path: pathlib.Path, document: Any, size: tuple[int, int]) -> Detections:
    """As `read_openpose`, of what the file `path` holds."""
    people = document.get("people") if isinstance(document, dict) else None
    if not isinstance(people, list) or len(people) > _MAX_PEOPLE:
        raise InputError(
            f"{path} holds no list of people",
            '{"people": [{"pose_keypoints_2d": [x, y, confidence, ...]}]}, as OpenPose writes it',
        )
    arrays = [
        [_keypoints(path, i, person, name) for name in _PARTS] for i, person in enumerate(people)
    ]
    arrays.sort(key=lambda parts: -sum(float(c.sum()) for _, c in parts))
    _check_places(path, arrays, size)
    bodies = [_person(*body) for body, _ in arrays if (body[1] > 0).any()]
    faces = [_face(p[:_LANDMARKS], c[:_LANDMARKS]) for _, (p, c) in arrays]
    found = [face for face in faces if face is not None]
    sources = {"keypoints": path.name} if bodies else {}
    sources |= {"landmarks": path.name} if found else {}
    return Detections(size, tuple(found), tuple(bodies), sources=sources)


def _keypoints(
    path: pathlib.Path, number: int, person: Any, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 2) in our pixels, 0 where unknown, and confidence (n,); zeros where empty."""
    count = _PARTS[name]
    values = person.get(name) if isinstance(person, dict) else 0
    if values is None or values == []:
        values = [0] * (3 * count)
    where = f"{path}: {name} of person {number}"
    if not isinstance(values, list) or not {type(x) for x in values} <= {int, float}:
        raise InputError(f"{where} is {excerpt(values)}", f"{3 * count} numbers, or an empty list")
    if len(values) != 3 * count:
        other = {54: " (18 points of COCO)", 45: " (15 points of MPI)"}.get(len(values), "")
        raise InputError(
            f"{where} has {len(values)} numbers{other}",
            f"{3 * count}: {count} times x, y and confidence",
            "run OpenPose with --model_pose BODY_25" if name.startswith("pose") else "",
        )
    try:
        array = np.array(values, np.float64).reshape(count, 3)
    except OverflowError:
        array = np.full((count, 3), np.nan)
    places, confidence = array[:, :2], array[:, 2]
    known = confidence > 0
    odd = confidence[~((confidence >= 0) & (confidence <= 2))]  # NaN too; some exceed 1 a bit
    if len(odd):
        raise InputError(f"{where} has a confidence of {odd[0]}", "0 to 1")
    if not (np.abs(places[known]) < _MAX_PIXEL).all():
        raise InputError(f"{where} has places that are none of a picture", "finite pixels")
    places = np.where(known[:, None], places + 0.5, 0)
    return places.astype(np.float32), np.minimum(confidence, 1).astype(np.float32)


def _check_places(path: pathlib.Path, arrays: list, size: tuple[int, int]) -> None:
    """The best person's points lie in the picture, and are not scaled to 1."""
    known = [p[c > 0] for parts in arrays[:1] for p, c in parts]
    places = np.concatenate([*known, np.zeros((0, 2), np.float32)])
    if len(places) > 1 and places.max() <= 1.5 and max(size) > 4:  # 1, and the half we add
        raise InputError(
            f"{path} holds places from 0 to 1",
            "pixels of the picture",
            "run OpenPose with --keypoint_scale 0",
        )
    inside = ((places >= 0) & (places <= np.array(size[::-1]))).all(axis=1)
    if len(places) and not inside.any():
        raise InputError(
            f"{path}: all points lie outside the picture of {size[1]} x {size[0]} pixels",
            "detections of this picture at this size",
        )


def _person(places: np.ndarray, confidence: np.ndarray) -> Person:
    known = confidence > 0
    return Person(person_box(places[known]), float(confidence[known].mean()), places, confidence)


def _face(places: np.ndarray, confidence: np.ndarray) -> Face | None:
    known = confidence > 0
    if not known.any():
        return None
    score = float(confidence[known].mean())
    return Face(face_box(places[known]), score, landmarks=places, confidence=confidence)


# ---------------------------------------------------------------- writing


def write_openpose(
    path: str | pathlib.Path, people: Sequence[Person] = (), faces: Sequence[Face] = ()
) -> None:
    """Write people and faces as OpenPose does, for tools that read its files.

    A face goes with the person whose nose, eyes and ears lie in its box, else it is a person of its
    own. Points of confidence 0 are written as zeros; landmarks without confidence have 1. Pupils
    are unknown. Places are rounded to a thousandth of a pixel.

    Raises:
        InputError: the folder does not exist.
    """
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: no folder {path.parent}", "a folder that exists")
    left = [face for face in faces if face.landmarks is not None]
    entries = []
    for person in people:
        face = max(left, key=lambda one: _share(person, one), default=None)
        if face is not None and _share(person, face) > 0:
            left = [one for one in left if one is not face]
        else:
            face = None
        entries.append(_entry(person, face))
    entries += [_entry(None, face) for face in left]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps({"version": 1.3, "people": entries}), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _share(person: Person, face: Face) -> float:
    """Share of a person's head points that lie in the box of a face."""
    if person.keypoints is None:
        return overlap(person.box, face.box)
    points = person.keypoints[_HEAD]
    if person.confidence is not None:
        points = points[person.confidence[_HEAD] > 0]
    inside = ((points >= face.box[None, :2]) & (points <= face.box[None, 2:])).all(axis=1)
    return float(inside.mean()) if len(points) else 0.0


def _entry(person: Person | None, face: Face | None) -> dict[str, Any]:
    body, pupils = None if person is None else person.keypoints, np.zeros(2, np.float32)
    entry = {"person_id": [-1], "pose_keypoints_2d": [], "face_keypoints_2d": []}
    if person is not None and body is not None:
        entry["pose_keypoints_2d"] = _flat(body, person.confidence)
    if face is not None and face.landmarks is not None:
        confidence = np.ones(_LANDMARKS) if face.confidence is None else face.confidence
        places = np.concatenate([face.landmarks, np.zeros((2, 2))])
        entry["face_keypoints_2d"] = _flat(places, np.concatenate([confidence, pupils]))
    rest = ("hand_left", "hand_right")
    entry |= {f"{part}_keypoints_2d": [] for part in rest}
    return entry | {f"{part}_keypoints_3d": [] for part in ("pose", "face", *rest)}


def _flat(places: np.ndarray, confidence: np.ndarray | None) -> list[float]:
    """x, y, confidence, x, ..."""
    confidence = np.ones(len(places)) if confidence is None else confidence
    known = confidence > 0
    table = np.concatenate([places - 0.5, confidence[:, None]], axis=1, dtype=np.float64)
    table = np.where(known[:, None], table, 0)
    # A confidence that rounds to 0 would become unknown.
    table[:, 2] = np.where(known, np.maximum(np.round(table[:, 2], 6), 1e-6), 0)
    return [round(float(x), 6 if i % 3 == 2 else 3) for i, x in enumerate(table.flat)]
