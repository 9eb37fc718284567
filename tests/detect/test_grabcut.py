"""The seeds of GrabCut against brute force and against true masks; the cut with a stand-in for
OpenCV that has its interface.
"""

import json
import sys
import types

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra.numpy import arrays
from PIL import Image

from jaxrecon.detect.detections import Detections, Face, Person, face_box, person_box
from jaxrecon.detect.grabcut import (
    PROBABLE_SUBJECT,
    SURE_BACKGROUND,
    SURE_SUBJECT,
    grabcut_mask,
    seeds,
    subject_box,
    within_hull,
)
from jaxrecon.errors import InputError
from jaxrecon.types import BODY_25

SIZE = (40, 50)
BOX = np.array([10.2, 5.0, 30.5, 35.7])


def _person(places, box=None):
    """A person of some keypoints by name."""
    keypoints, confidence = np.zeros((25, 2), np.float32), np.zeros(25, np.float32)
    for name, place in places.items():
        keypoints[BODY_25.index(name)], confidence[BODY_25.index(name)] = place, 0.8
    known = keypoints[confidence > 0]
    return Person(person_box(known) if box is None else box, 0.8, keypoints, confidence)


def test_a_box_pixel_by_pixel():
    trimap = seeds(SIZE, Detections(SIZE), BOX)
    for i in range(SIZE[0]):
        for j in range(SIZE[1]):
            x, y = j + 0.5, i + 0.5
            inside = BOX[0] < x < BOX[2] and BOX[1] < y < BOX[3]
            assert trimap[i, j] == (PROBABLE_SUBJECT if inside else SURE_BACKGROUND)
    assert trimap.dtype == np.uint8


@hypothesis.given(arrays(np.float32, (9, 2), elements=st.floats(2, 38, width=16)))
@hypothesis.settings(max_examples=25)
def test_hulls_against_triangles(points):
    """A place is in the hull where it is in a triangle of the points (Caratheodory)."""
    from itertools import combinations

    ours = within_hull(SIZE, points)
    x, y = np.meshgrid(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5)
    inside = np.zeros(SIZE, bool)
    near = np.zeros(SIZE, bool)
    for triangle in combinations(points.astype(np.float64), 3):
        side = []
        for a, b in zip(triangle, (*triangle[1:], triangle[0]), strict=True):
            cross = (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
            side.append(cross)
            near |= np.abs(cross) < 1e-6 + 1e-9 * np.abs(points).max()
        turn = (triangle[1][0] - triangle[0][0]) * (triangle[2][1] - triangle[0][1]) - (
            triangle[1][1] - triangle[0][1]
        ) * (triangle[2][0] - triangle[0][0])
        if turn != 0:
            inside |= np.all(np.array(side) * np.sign(turn) >= 0, axis=0)
    rank = np.linalg.matrix_rank(points - points.mean(0), tol=0.5)
    if rank < 2:
        assert not ours.any()
    else:
        np.testing.assert_array_equal(ours[~near], inside[~near])


def test_limbs_pixel_by_pixel():
    a, b = np.array([15.0, 10.0]), np.array([24.0, 30.0])
    person = _person({"right_elbow": a, "right_wrist": b}, np.array([0.0, 0.0, 150.0, 150.0]))
    trimap = seeds(SIZE, Detections(SIZE, people=(person,)), BOX)
    steps = np.linspace(0, 1, 2001)[:, None]
    path = a + steps * (b - a)
    for i in range(SIZE[0]):
        for j in range(SIZE[1]):
            distance = np.linalg.norm(path - (j + 0.5, i + 0.5), axis=1).min()
            if abs(distance - 1.5) > 1e-3:  # the radius: a hundredth of the box
                assert (trimap[i, j] == SURE_SUBJECT) == (distance < 1.5)


def test_nothing_is_sure_of_unknown_points():
    """Not of a limb with one end, nor of doubtful points, hidden landmarks or places outside."""
    doubtful = _person({"right_elbow": (15, 10), "right_wrist": (24, 30)})
    doubtful.confidence[:] *= 0.2
    one_end = _person({"right_elbow": (15, 10), "left_wrist": (24, 30)})
    for person in (doubtful, one_end):
        assert SURE_SUBJECT not in seeds(SIZE, Detections(SIZE, people=(person,)), BOX)
    marks = np.random.default_rng(0).uniform(15, 28, (68, 2)).astype(np.float32)
    half = np.where(np.arange(68) < 34, 1, 0).astype(np.float32)
    marks[34:] += 8
    both = [
        seeds(SIZE, Detections(SIZE, (Face(face_box(marks), 1.0, marks, **told),)), BOX)
        for told in ({"visible": half}, {"confidence": half}, {})
    ]
    np.testing.assert_array_equal(both[0], both[1])
    assert (both[2] == SURE_SUBJECT).sum() > (both[0] == SURE_SUBJECT).sum() > 20
    outside = (both[2] == SURE_SUBJECT) & (seeds(SIZE, Detections(SIZE), BOX) == SURE_BACKGROUND)
    assert not outside.any()


def test_boxes():
    marks = np.array([[20.0, 20.0], [30.0, 30.0]] * 34, np.float32)
    face = Detections(SIZE, (Face(np.array([10.0, 10.0, 20.0, 20.0]), 1.0, marks),))
    np.testing.assert_allclose(subject_box(face, 40), [2.5, 5, 27.5, 40])
    both = Detections(SIZE, face.faces, (Person(np.array([0.0, 10.0, 20.0, 20.0]), 1.0),))
    np.testing.assert_allclose(subject_box(both, 40), [-2, 9, 22, 21])


@pytest.mark.parametrize("box", [[-1, -1, 60, 60], [60, 60, 70, 70], [5, 5, 5, 5]])
def test_boxes_without_two_sides_are_refused(box):
    with pytest.raises(InputError, match="(every|no) pixel of the picture") as error:
        seeds(SIZE, Detections(SIZE), np.array(box, float))
    assert error.value.remedy


def test_no_box_at_all():
    with pytest.raises(InputError, match="no face, no person and no box"):
        seeds(SIZE, Detections(SIZE))


# ---------------------------------------------------------------- true masks


@pytest.mark.parametrize("subject", ["ict1", "ict3", "lps"])
def test_seeds_of_faces_against_true_masks(shared, subject):
    """What is surely the subject is, and the head lies in the box."""
    folder = shared / "data" / "faceviews" / subject
    document = json.loads((folder / "landmarks.json").read_text())
    for i, points in enumerate(np.float32(document["landmarks2d"])):
        with Image.open(folder / f"view_{i:03d}.png") as image:
            truth = np.asarray(image)[..., 3] > 127
        visible = np.float32(document["visible"][i]) * np.float32(document["valid"])
        known = points[visible > 0]
        if len(known) < 20:
            continue
        known = Detections(truth.shape, (Face(face_box(known), 1.0, points, visible=visible),))
        trimap = seeds(truth.shape, known, _clipped(subject_box(known, truth.shape[0]), truth))
        sure = trimap == SURE_SUBJECT
        assert sure.sum() > 0.1 * truth.sum() and truth[sure].mean() > 0.995
        head = truth.copy()
        head[int(points[:, 1].max()) :] = False  # above the chin
        assert (trimap[head] == SURE_BACKGROUND).mean() < 0.03


def _clipped(box, truth):
    """So that a rim of one pixel is background: pictures here end close to the head."""
    height, width = truth.shape
    return np.clip(box, 1, [width - 1, height - 1, width - 1, height - 1])


_NAMES = {
    **{f"{s}_{j}": f"{s}_{j}" for s in ("left", "right") for j in ("shoulder", "elbow", "wrist")},
    **{f"{s}_{j}": f"{s}_{j}" for s in ("left", "right") for j in ("hip", "knee", "ankle")},
    "neck": "neck",
    "mid_hip": "pelvis",
}


@pytest.mark.parametrize("subject", ["body00", "body02"])
def test_seeds_of_bodies_against_true_masks(shared, subject):
    folder = shared / "data" / "bodyviews" / subject
    params = json.loads((folder / "params.json").read_text())
    places = np.array(params["joints2d"])
    for i in range(4):
        with Image.open(folder / f"view_{i:03d}.png") as image:
            truth = np.asarray(image)[..., 3] > 127
        joints = {
            ours: places[i, params["joint_names"].index(theirs)] for ours, theirs in _NAMES.items()
        }
        known = Detections(truth.shape, people=(_person(joints),))
        sure = seeds(truth.shape, known, np.array([1.0, 1.0, 511.0, 511.0])) == SURE_SUBJECT
        assert sure.sum() > 0.05 * truth.sum() and truth[sure].mean() > 0.99


# ---------------------------------------------------------------- the cut


class _CvError(Exception):
    pass


def _fake_cv2(calls):
    """OpenCV's grabCut with its demands; decides by brightness."""

    def grab_cut(img, mask, rect, bgd, fgd, count, mode):
        assert img.dtype == np.uint8 and img.ndim == 3 and img.shape[2] == 3
        assert img.flags.c_contiguous and mask.dtype == np.uint8 and mask.shape == img.shape[:2]
        assert rect is None and mode == 1 and count > 0
        for model in (bgd, fgd):
            assert model.shape == (1, 65) and model.dtype == np.float64 and not model.any()
        subject = (mask == 1) | (mask == 3)
        if subject.all() or not subject.any():
            raise _CvError("(-215:Assertion failed) !bgdSamples.empty() && !fgdSamples.empty()")
        calls.append((img.copy(), mask.copy()))
        probable = mask >= 2
        mask[probable] = np.where(img.mean(axis=2) > 100, 3, 2)[probable]
        return mask, bgd, fgd

    module = types.ModuleType("cv2")
    vars(module).update(grabCut=grab_cut, GC_INIT_WITH_MASK=1, error=_CvError)
    return module


@pytest.fixture
def calls(monkeypatch):
    found = []
    monkeypatch.setitem(sys.modules, "cv2", _fake_cv2(found))
    return found


def _picture():
    image = np.zeros((*SIZE, 3), np.uint8)
    image[10:30, 15:25] = 200  # the subject
    image[20:22, 15:25] = 50  # with a dark belt
    image[:, 45:] = 220  # and something bright elsewhere
    return image


def test_the_cut(calls):
    person = _person({"neck": (20, 12), "mid_hip": (20, 28)})
    found = grabcut_mask(_picture(), Detections(SIZE, people=(person,)), BOX)
    expected = np.zeros(SIZE, np.float32)
    expected[10:30, 15:25] = 1
    belt = found.mask[20:22, 15:25]
    assert 0 < belt.sum() < belt.size  # where the limb runs over it
    expected[20:22, 15:25] = belt
    np.testing.assert_array_equal(found.mask, expected)
    assert found.mask.dtype == np.float32 and "GrabCut" in found.sources["mask"]
    assert not found.people and found.size == SIZE


def test_large_pictures_are_cut_small(calls):
    """And the seeds are those of the small picture, in its pixels."""
    image = np.kron(_picture(), np.ones((50, 50, 1), np.uint8))
    person = _person({"neck": (1000, 600), "mid_hip": (1000, 1400)})
    found = grabcut_mask(image, Detections(image.shape[:2], people=(person,)), 50 * BOX)
    (seen, trimap), mask = calls[0], found.mask
    assert seen.shape == (819, 1024, 3) and mask.shape == image.shape[:2]
    subject = mask[500:1500, 750:1250]
    assert subject.mean() > 0.9 and mask.sum() - subject.sum() < 0.01 * subject.size
    assert 0 <= mask.min() and mask.max() <= 1 and ((mask > 0) & (mask < 1)).any()
    zoom = 1024 / 2500
    rows, columns = np.nonzero(trimap == PROBABLE_SUBJECT)
    corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(corners, 50 * zoom * BOX, atol=1)


def test_opencv_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match="GrabCut needs the package cv2") as error:
        grabcut_mask(_picture(), box=BOX)
    assert 'pip install "jaxrecon[detect]"' in error.value.remedy


def test_other_pictures_are_refused(calls):
    with pytest.raises(InputError, match="detections of 40 x 50 pixels"):
        grabcut_mask(_picture(), Detections(SIZE[::-1]), BOX)
