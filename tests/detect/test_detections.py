"""Parts of one photograph's detections come together, and those of two people never do."""

import dataclasses

import numpy as np
import pytest

from jaxrecon.detect.detections import (
    Detections,
    Face,
    Person,
    face_box,
    merge,
    overlap,
    person_box,
)
from jaxrecon.errors import InputError

SIZE = (6, 8)
HERE, THERE = np.array([1.0, 1.0, 5.0, 5.0]), np.array([50.0, 1.0, 54.0, 5.0])


def _face(value, box=HERE, **parts):
    landmarks = np.full((68, 2), value, np.float32)
    return Face(box, 0.5, landmarks, confidence=np.full(68, 0.25, np.float32), **parts)


def _parsing(value):
    return np.full(SIZE, value, np.uint8)


def test_the_first_that_knows_a_part_wins():
    five = np.ones((5, 2), np.float32)
    mask = np.ones(SIZE, np.float32)
    files = Detections(SIZE, (Face(HERE, 1.0, five=five),), sources={"five": "a.txt"})
    own = Detections(
        SIZE,
        (_face(1, five=2 * five),),
        (Person(HERE, 0.7),),
        _parsing(3),
        sources={"landmarks": "network", "five": "network", "parsing": "network"},
    )
    bisenet = Detections(
        SIZE, (_face(2),), parsing=_parsing(4), mask=mask, sources={"mask": "bisenet"}
    )
    merged = merge(files, own, bisenet)
    assert merged.face.score == 1 and merged.face.five is five
    assert merged.face.landmarks is own.face.landmarks
    assert merged.face.confidence is own.face.confidence
    assert merged.parsing is own.parsing and merged.mask is mask
    assert merged.person is own.person and merged.size == SIZE
    assert dict(merged.sources) == {
        "five": "a.txt",
        "landmarks": "network",
        "parsing": "network",
        "mask": "bisenet",
    }
    assert dict(files.sources) == {"five": "a.txt"}  # the arguments stay


def test_landmarks_are_never_mixed_with_the_doubts_of_others():
    given = Face(HERE, 1.0, np.zeros((68, 2), np.float32))
    merged = merge(Detections(SIZE, (given,)), Detections(SIZE, (_face(1),)))
    assert merged.face.landmarks is given.landmarks and merged.face.confidence is None


def test_nobody_is_somebody_else():
    """A face elsewhere completes nothing, nor does its parsing; a second face there does."""
    given = Detections(SIZE, (Face(HERE, 1.0),))
    other = Detections(SIZE, (_face(1, THERE),), parsing=_parsing(1), mask=np.ones(SIZE, "f4"))
    merged = merge(given, other)
    assert merged.face.landmarks is None and merged.parsing is None and len(merged.faces) == 1
    assert merged.mask is other.mask
    both = dataclasses.replace(other, faces=(_face(1, THERE), _face(2, HERE)))
    merged = merge(given, both)
    assert merged.face.landmarks[0, 0] == 2 and merged.parsing is None


def test_a_parsing_without_faces_is_the_subjects():
    labels = Detections(SIZE, parsing=_parsing(1))
    faces = Detections(SIZE, (_face(1), _face(2, THERE)), parsing=_parsing(2))
    assert merge(faces, labels).parsing is faces.parsing
    assert merge(labels, faces).parsing is labels.parsing and len(merge(labels, faces).faces) == 2
    assert merge(Detections(SIZE, faces.faces), labels).parsing is labels.parsing
    assert merge(Detections(SIZE), faces).parsing is faces.parsing


def test_people():
    keypoints = np.ones((25, 2), np.float32)
    boxes = Detections(SIZE, people=(Person(HERE, 0.9), Person(THERE, 0.8)))
    points = Detections(
        SIZE,
        people=(Person(THERE + 0.5, 0.7, keypoints, np.ones(25, np.float32)),),
        sources={"keypoints": "network"},
    )
    merged = merge(boxes, points)
    assert merged.person.keypoints is None and merged.people[1].keypoints is keypoints
    assert merged.people[1].score == 0.8 and not merged.sources  # of the best person nothing
    assert merge(Detections(SIZE), points).sources == {"keypoints": "network"}
    assert merge(Detections(SIZE)).person is None and Detections(SIZE).face is None


def test_other_photographs_are_refused():
    with pytest.raises(InputError, match="8 x 6 pixels and of one of 6 x 8"):
        merge(Detections(SIZE), Detections(SIZE[::-1]))


def test_boxes(rng):
    points = rng.uniform(10, 50, size=(68, 2)).astype(np.float32)
    for box in (face_box(points), person_box(points), face_box(points[:5])):
        width, height = box[2:] - box[:2]
        assert abs(width - height) < 1e-9 and box.dtype == np.float64
        assert (points[:5] > box[:2]).all() and (points[:5] < box[2:]).all()
    assert np.ptp(face_box(np.full((5, 2), 3.0))) > 0  # of one place, still a box


def test_overlap_against_pixels(rng):
    """The share of whole cells."""
    for _ in range(20):
        a, b = rng.integers(0, 9, size=(2, 4))
        a[2:], b[2:] = a[:2] + 1 + a[2:], b[:2] + 1 + b[2:]
        cells = np.zeros((2, 20, 20), bool)
        for grid, (left, top, right, bottom) in zip(cells, (a, b), strict=True):
            grid[top:bottom, left:right] = True
        expected = cells.all(0).sum() / cells.sum((1, 2)).min()
        assert abs(overlap(a.astype(float), b.astype(float)) - expected) < 1e-12
    assert overlap(HERE, np.array([3.0, 3.0, 3.0, 9.0])) == 0
