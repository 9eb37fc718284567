"""Landmarks, masks and parsing maps from files: what is read is what was written, or refused."""

import json
import struct

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra.numpy import arrays
from PIL import Image

from jaxrecon.detect.files import (
    from_files,
    landmarks_from_file,
    mask_from_file,
    parsing_from_file,
)
from jaxrecon.detect.landmark_files import points_in, read_points
from jaxrecon.errors import InputError
from jaxrecon.types import FACE_LABELS

SIZE = (120, 160)
PLACES = st.floats(0, 100, width=32)
MARKS = np.stack([np.linspace(20, 90, 68), 60 + 30 * np.sin(np.arange(68))], axis=1).astype(
    np.float32
)


def _write(path, points):
    """A file in the convention of its kind, of points whose first centre is at 0.5."""
    kind, points = path.suffix, np.asarray(points, np.float64)
    if kind == ".json":
        path.write_text(json.dumps({"points": points.tolist()}))
    elif kind == ".npy":
        np.save(path, points)
    elif kind == ".npz":
        np.savez(path, landmarks=points, other=np.zeros(3))
    elif kind == ".txt":
        path.write_text("".join(f"{x:.9f}\t{y:.9f}\n" for x, y in points - 0.5))
    else:
        lines = "\n".join(f"{x:.9f} {y:.9f}" for x, y in points + 0.5)
        path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{lines}\n}}\n")
    return path


@pytest.mark.parametrize("kind", [".json", ".npy", ".npz", ".txt", ".pts"])
@hypothesis.given(
    points=st.sampled_from([5, 68]).flatmap(lambda n: arrays(np.float32, (n, 2), elements=PLACES))
)
@hypothesis.settings(max_examples=20)
def test_every_kind_gives_the_same_points(tmp_path_factory, kind, points):
    found = read_points(_write(tmp_path_factory.mktemp("p") / f"a{kind}", points))
    np.testing.assert_allclose(found.places, points, atol=1e-5)
    assert found.known.all() and found.visible is None


def test_the_first_pixel_of_each_kind(tmp_path):
    """A mark on the centre of the first pixel, as each kind of file counts it."""
    rest = "".join(f"{10 + i} {20 + i * i}\n" for i in range(4))
    (tmp_path / "a.txt").write_text("0, 0  # the centre\n" + rest)
    (tmp_path / "a.pts").write_text("version: 1\nn_points: 5\n{\n1 1\n" + rest + "}\n")
    for name in ("a.txt", "a.pts"):
        assert read_points(tmp_path / name).places[0].tolist() == [0.5, 0.5]


def test_68_landmarks(tmp_path):
    found = landmarks_from_file(_write(tmp_path / "a.pts", MARKS), SIZE)
    face = found.face
    np.testing.assert_allclose(face.landmarks, MARKS, atol=1e-5)
    assert face.score == 1 and face.five is None and face.confidence.tolist() == [1] * 68
    assert (MARKS > face.box[:2]).all() and (MARKS < face.box[2:]).all()
    assert dict(found.sources) == {"landmarks": "a.pts"} and found.size == SIZE


def test_five_points(tmp_path):
    """As Deep3DFaceRecon's detections are written: eyes, nose, mouth."""
    five = np.array([[40, 50], [60, 50], [50, 60], [42, 70], [58, 70]], np.float32)
    face = landmarks_from_file(_write(tmp_path / "a.txt", five), SIZE).face
    np.testing.assert_allclose(face.five, five, atol=1e-5)
    assert face.landmarks is None and face.confidence is None


def test_landmarks_of_a_views_folder(tmp_path):
    """Hidden points may have no place; flags are those of the picture asked for."""
    both = np.stack([MARKS, MARKS + 1])
    visible, valid = np.ones((2, 68), bool), np.ones(68, bool)
    visible[1, 3] = valid[5] = visible[1, 7] = False
    points = both.tolist()
    points[1][3] = [None, None]
    points[1][5] = [-1e9, 0]
    document = {"landmarks2d": points, "visible": visible.tolist(), "valid": valid.tolist()}
    (tmp_path / "landmarks.json").write_text(json.dumps(document))
    face = landmarks_from_file(tmp_path / "landmarks.json", SIZE, index=1).face
    known = np.ones(68)
    known[[3, 5]] = 0
    np.testing.assert_array_equal(face.confidence, known)
    np.testing.assert_array_equal(face.visible, visible[1])
    np.testing.assert_allclose(face.landmarks[10], MARKS[10] + 1)
    assert face.landmarks[3].tolist() == [0, 0]
    first = landmarks_from_file(tmp_path / "landmarks.json", SIZE, index=0).face
    assert first.visible.all() and first.confidence.sum() == 67
    with pytest.raises(InputError, match="landmarks of 2 pictures") as error:
        landmarks_from_file(tmp_path / "landmarks.json", SIZE)
    assert error.value.remedy
    with pytest.raises(InputError, match="number 2 is asked for"):
        landmarks_from_file(tmp_path / "landmarks.json", SIZE, index=2)


def test_confidence_of_a_views_folder(tmp_path):
    """It is kept, is 0 where no place is known, and a point of none places no box."""
    confidence = np.linspace(0.1, 1, 2 * 68).reshape(2, 68)
    confidence[1, 3] = 0
    points = np.stack([MARKS, MARKS])
    points[1, 3] = 9000
    valid = np.arange(68) != 5
    document = {
        "landmarks2d": points.tolist(),
        "valid": valid.tolist(),
        "confidence": confidence.tolist(),
    }
    (tmp_path / "landmarks.json").write_text(json.dumps(document))
    face = landmarks_from_file(tmp_path / "landmarks.json", SIZE, index=1).face
    np.testing.assert_allclose(face.confidence, confidence[1] * valid, rtol=1e-6)
    assert face.confidence.dtype == np.float32 and face.box.max() < 200


@pytest.mark.parametrize("subject", ["ict1"])
def test_the_shared_views(shared, subject):
    folder = shared / "data" / "faceviews" / subject
    document = json.loads((folder / "landmarks.json").read_text())
    with Image.open(sorted(folder.glob("view_???.png"))[0]) as image:
        size = image.size[::-1]
    face = landmarks_from_file(folder / "landmarks.json", size, index=0).face
    np.testing.assert_allclose(face.landmarks, np.float32(document["landmarks2d"][0]), atol=1e-4)


def _text(text):
    return lambda path: path.write_text(text)


def _save(array):
    return lambda path: np.save(path, array, allow_pickle=True)


def _savez(**named):
    return lambda path: np.savez(path, **named)


def _zip(path):
    np.savez(path.with_suffix(".npz"), a=MARKS)
    path.with_suffix(".npz").rename(path)


def _huge_header(path):
    np.save(path, MARKS)
    path.write_bytes(path.read_bytes().replace(b"(68, 2), ", b"(9999999999, 2), "))


def _npy(header):
    """A .npy of version 1 with this header, whatever it says."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def _header(text):
    return lambda path: path.write_bytes(_npy(text))


LINES = "1 2\n" * 68
BAD = {
    "an ending": ("a.csv", _text(LINES), "of this ending"),
    "nothing": ("a.npy", lambda path: None, "no landmarks at"),
    "a folder": ("a.pts", lambda path: path.mkdir(), "no landmarks at"),
    "broken json": ("a.json", _text("{"), "cannot be read as JSON"),
    "json without points": ("a.json", _text('{"marks": []}'), "has no landmarks"),
    "json of text": ("a.json", _text('{"points": ["1", "2"]}'), "points is"),
    "json of unequal lists": ("a.json", _text("[[1, 2], [3]]"), "points is"),
    "json of nothing": ("a.json", _text("[]"), "points of shape"),
    "json of a number": ("a.json", _text("7"), "points is 7"),
    "json of null": ("a.json", _text(f"[{', '.join(['[null, 1]'] * 68)}]"), "point 0 is"),
    "json of huge numbers": ("a.json", _text(f"[{', '.join(['[1e400, 1]'] * 68)}]"), "point 0 is"),
    "json of great digits": ("a.json", _text(f"[[{'9' * 400}, 1]]"), "points is"),
    "flags of another length": (
        "a.json",
        _text(json.dumps({"points": MARKS.tolist(), "visible": [True] * 5})),
        "5 visible for 68",
    ),
    "flags that are none": (
        "a.json",
        _text(json.dumps({"points": MARKS.tolist(), "valid": [2] * 68})),
        "valid is",
    ),
    "all hidden": (
        "a.json",
        _text(json.dumps({"points": MARKS.tolist(), "valid": [False] * 68})),
        "no point is known",
    ),
    "too few": (
        "a.json",
        _text(json.dumps({"points": MARKS.tolist(), "valid": [True] * 19 + [False] * 49})),
        "only 19 of 68",
    ),
    "98 points": ("a.npy", _save(np.zeros((98, 2))), r"shape \(98, 2\)"),
    "three axes": ("a.npy", _save(np.zeros((68, 3))), r"shape \(68, 3\)"),
    "two pictures": ("a.npy", _save(np.zeros((2, 68, 2))), "landmarks of 2 pictures"),
    "no picture": ("a.npz", _savez(points=np.zeros((0, 68, 2))), "landmarks of 0 pictures"),
    "objects": ("a.npy", _save(np.array([None, 1])), "cannot be read"),
    "objects in a zip": ("a.npz", _savez(points=np.array([None, 1])), "Python objects"),
    "text": ("a.npy", _save(np.array(["1", "2"])), "no array of numbers"),
    "NaN": ("a.npy", _save(np.full((68, 2), np.nan)), "point 0 is"),
    "no npy": ("a.npy", _text("123"), "cannot be read"),
    "a zip called npy": ("a.npy", _zip, "cannot be read"),
    "a huge header": ("a.npy", _huge_header, "cannot be read"),
    "a broken header": (
        "a.npy",
        _header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (68, 2"),
        "cannot be read",
    ),
    "a deep header": ("a.npy", _header(b"-" * 9000 + b"1"), "cannot be read"),
    "confidence above 1": (
        "a.json",
        _text(json.dumps({"points": MARKS.tolist(), "confidence": [1.5] * 68})),
        "confidence is",
    ),
    "confidence of other points": (
        "a.json",
        _text(json.dumps({"points": MARKS.tolist(), "confidence": [0.5] * 5})),
        "confidence is",
    ),
    "confidence of nothing": (
        "a.json",
        _text(json.dumps({"points": MARKS.tolist(), "confidence": [None] * 68})),
        "confidence is",
    ),
    "many arrays": ("a.npz", _savez(a=MARKS, b=MARKS), "holds 2 arrays"),
    "no npz": ("a.npz", _text("123"), "a.npz"),
    "words": ("a.txt", _text("1 2\nright eye\n"), 'the line "right eye"'),
    "three numbers": ("a.txt", _text("1 2 3\n" * 68), "the line"),
    "not finite": ("a.txt", _text("nan 2\n" * 68), "the line"),
    "67 lines": ("a.txt", _text("1 2\n" * 67), r"shape \(67, 2\)"),
    "empty": ("a.txt", _text(""), r"shape \(0, 2\)"),
    "not text": ("a.txt", lambda path: path.write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "no braces": ("a.pts", _text(LINES), "no points between braces"),
    "an open brace": ("a.pts", _text("{\n" + LINES), "no points between braces"),
    "another count": ("a.pts", _text("n_points: 5\n{\n" + LINES + "}\n"), 'declares "5" points'),
    "outside": ("a.npy", _save(MARKS + 500), "outside the picture of 160 x 120"),
    "from 0 to 1": ("a.npy", _save(MARKS / 160), "lie within"),
    "large": ("a.txt", _text("#" * 1_000_001), "over 1 MB"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_landmarks_are_refused(tmp_path, name):
    file, spoil, message = BAD[name]
    spoil(tmp_path / file)
    with pytest.raises(InputError, match=message) as error:
        landmarks_from_file(tmp_path / file, SIZE)
    assert file in str(error.value) and error.value.expected


PYTHON = st.text("{}()[]-'\",: <f8|descrfortanshp_0123", max_size=200)
HEADERS = st.binary(max_size=300) | PYTHON.map(str.encode)


def test_points_in_lists_in_lists_are_refused(tmp_path):
    """JSON may nest as deep as is read but no longer written."""
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for document in (deep, {"points": MARKS.tolist(), "confidence": deep}):
        with pytest.raises(InputError, match="is list"):
            points_in(tmp_path / "a.json", document)


@hypothesis.given(
    st.binary(max_size=300) | HEADERS.map(_npy),
    st.sampled_from([".json", ".npy", ".pts", ".txt"]),
)
@hypothesis.settings(max_examples=100)
def test_whatever_a_file_holds(tmp_path_factory, content, kind):
    path = tmp_path_factory.mktemp("f") / f"a{kind}"
    path.write_bytes(content)
    with pytest.raises(InputError):
        landmarks_from_file(path, SIZE)


# ---------------------------------------------------------------- masks and parsing


def _grey(path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def test_masks_keep_soft_edges(tmp_path):
    values = np.arange(0, 240, 20).reshape(3, 4)
    found = mask_from_file(_grey(tmp_path / "m.png", values), (3, 4))
    np.testing.assert_allclose(found.mask, values / 255, atol=1e-6)
    assert found.mask.dtype == np.float32 and found.sources == {"mask": "m.png"}


def test_a_cut_out_photograph_on_white_is_a_mask(tmp_path):
    rgba = np.full((3, 4, 4), 255, np.uint8)
    rgba[:, :2, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "m.png")
    found = mask_from_file(tmp_path / "m.png", (3, 4))
    np.testing.assert_array_equal(found.mask, [[0, 0, 1, 1]] * 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 4)), "marks nothing"),
        (np.full((3, 4), 255), "marks every pixel"),
        (np.eye(4) * 255, "is 4 x 4 pixels"),
    ],
)
def test_bad_masks_are_refused(tmp_path, values, message):
    with pytest.raises(InputError, match=message):
        mask_from_file(_grey(tmp_path / "m.png", values), (3, 4))


def test_parsing_in_our_labels(tmp_path):
    labels = np.array([[0, 1, 13, 14], [15, 16, 17, 18], [6, 2, 11, 7]])
    path = _grey(tmp_path / "a_labels.png", labels)
    found = parsing_from_file(path, (3, 4), "bisenet")
    names = [[FACE_LABELS[i] for i in row] for row in found.parsing]
    assert names == [
        ["background", "skin", "lips", "neck"],
        ["clothes", "clothes", "hair", "clothes"],
        ["clothes", "brows", "mouth", "ears"],
    ]
    np.testing.assert_array_equal(found.mask, labels > 0)
    (tmp_path / "labels.json").write_text('{"labels": {"0": "bg", "1": "hair"}}')
    with pytest.raises(InputError, match="holds the label 2 and 9 others"):
        parsing_from_file(path, (3, 4))
    (tmp_path / "labels.json").write_text('{"labels": "bisenet"}')
    np.testing.assert_array_equal(parsing_from_file(path, (3, 4)).parsing, found.parsing)
    # From Python: numbers as numbers, and our own names, which are a tuple.
    path = _grey(tmp_path / "b_labels.png", np.arange(12).reshape(3, 4) % 10)
    for labels in (FACE_LABELS, dict(enumerate(FACE_LABELS))):
        ours = parsing_from_file(path, (3, 4), labels).parsing
        np.testing.assert_array_equal(ours, np.arange(12).reshape(3, 4) % 10)


@pytest.mark.parametrize(
    ("labels", "size", "message"),
    [
        (None, (3, 4), "no labels.json says"),
        (["background", "nosering"], (3, 4), 'label 1 is called "nosering"'),
        ("celeba", (3, 4), 'labels is "celeba"'),
        (["background", "skin"], (4, 4), "is 4 x 3 pixels"),
        (["background", "background"], (3, 4), "nothing but background"),
        ({-1: "background", 1: "skin"}, (3, 4), "labels is"),
        ({(0,): "background"}, (3, 4), "labels is dict"),
    ],
)
def test_bad_parsing_is_refused(tmp_path, labels, size, message):
    path = _grey(tmp_path / "a_labels.png", np.eye(4)[:3])
    with pytest.raises(InputError, match=message):
        parsing_from_file(path, size, labels)


def test_all_files_of_one_photograph(tmp_path):
    body = np.zeros((25, 3))
    body[:, :2], body[:, 2] = np.linspace(5, 100, 25)[:, None], 0.5
    face = np.concatenate(
        [np.full((70, 2), 50.0) + np.arange(70)[:, None] / 4, np.ones((70, 1))], 1
    )
    person = {
        "pose_keypoints_2d": body.ravel().tolist(),
        "face_keypoints_2d": face.ravel().tolist(),
    }
    (tmp_path / "op.json").write_text(json.dumps({"people": [person]}))
    mask, labels = np.zeros(SIZE), np.zeros(SIZE)
    mask[:60], labels[30:70] = 255, 1
    found = from_files(
        SIZE,
        landmarks=_write(tmp_path / "a.pts", MARKS),
        keypoints=tmp_path / "op.json",
        mask=_grey(tmp_path / "m.png", mask),
        parsing=_grey(tmp_path / "p.png", labels),
        labels=["background", "skin"],
    )
    assert dict(found.sources) == {
        "landmarks": "a.pts",
        "keypoints": "op.json",
        "mask": "m.png",
        "parsing": "p.png",
    }
    np.testing.assert_allclose(found.face.landmarks, MARKS, atol=1e-5)
    np.testing.assert_array_equal(found.mask, mask / 255)
    alone = landmarks_from_file(tmp_path / "op.json", SIZE)
    assert not alone.people and np.allclose(alone.face.landmarks[4], 51.5)
    assert from_files(SIZE).sources == {}
