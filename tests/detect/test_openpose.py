"""OpenPose's JSON: read as OpenPose means it, written so that it reads back."""

import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra.numpy import arrays

from jaxrecon.detect.detections import Face, Person, face_box
from jaxrecon.detect.files import landmarks_from_file
from jaxrecon.detect.openpose import read_openpose, write_openpose
from jaxrecon.errors import InputError
from jaxrecon.types import BODY_25

SIZE = (480, 640)


def _body(offset=0.0, confidence=0.5):
    """OpenPose's own numbers: x, y, confidence."""
    body = np.stack([np.arange(25) * 4 + offset, np.arange(25) * 7 + 3, np.full(25, confidence)], 1)
    return body


def _people(*people):
    """A document; each person is (body or None, face or None)."""
    return {
        "version": 1.3,
        "people": [
            {
                "pose_keypoints_2d": [] if body is None else np.ravel(body).tolist(),
                "face_keypoints_2d": [] if face is None else np.ravel(face).tolist(),
            }
            for body, face in people
        ],
    }


def _read(tmp_path, document):
    (tmp_path / "a.json").write_text(json.dumps(document))
    return read_openpose(tmp_path / "a.json", SIZE)


def test_places_and_confidence(tmp_path):
    body = _body()
    body[4] = 0  # not found
    face = np.concatenate([np.arange(140).reshape(70, 2) + 20, np.full((70, 1), 0.25)], 1)
    found = _read(tmp_path, _people((body, face)))
    (person,), (seen,) = found.people, found.faces
    known = np.arange(25) != 4
    np.testing.assert_array_equal(person.keypoints[known], body[known, :2] + 0.5)
    np.testing.assert_array_equal(person.confidence, np.float32(body[:, 2]))
    assert person.keypoints[BODY_25.index("right_wrist")].tolist() == [0, 0]
    np.testing.assert_array_equal(seen.landmarks, face[:68, :2] + 0.5)  # without the pupils
    assert person.score == 0.5 and seen.score == 0.25 and found.size == SIZE
    assert dict(found.sources) == {"keypoints": "a.json", "landmarks": "a.json"}


def test_the_surest_person_comes_first(tmp_path):
    document = _people((_body(0, 0.2), None), (_body(90, 0.9), None), (None, None))
    found = _read(tmp_path, document)
    assert [round(p.score, 3) for p in found.people] == [0.9, 0.2] and not found.faces
    assert found.person.keypoints[0, 0] == 90.5


@pytest.mark.parametrize("document", [{"people": []}, {"people": [{}]}, _people((None, None))])
def test_nobody_is_no_error(tmp_path, document):
    found = _read(tmp_path, document)
    assert not found.people and not found.faces and not found.sources
    with pytest.raises(InputError, match="holds no face"):
        landmarks_from_file(tmp_path / "a.json", SIZE)


def _numbers(count, value=1.5):
    return {"people": [{"pose_keypoints_2d": [value] * count}]}


BAD = {
    "no people": ({}, "no list of people"),
    "a list": ([], "no list of people"),
    "people that are none": ({"people": {"a": 1}}, "no list of people"),
    "a crowd": ({"people": [{}] * 1001}, "no list of people"),
    "a person that is none": ({"people": [3]}, "pose_keypoints_2d of person 0 is 0"),
    "text": (_numbers(75, "1"), "pose_keypoints_2d of person 0 is"),
    "truth": (_numbers(75, True), "pose_keypoints_2d of person 0 is"),
    "18 points": (_numbers(54), r"54 numbers \(18 points of COCO\)"),
    "15 points": (_numbers(45), r"45 numbers \(15 points of MPI\)"),
    "3D": (_numbers(100), "has 100 numbers"),
    "half a face": ({"people": [{"face_keypoints_2d": [1.0] * 204}]}, "has 204 numbers"),
    "confidence": (_numbers(75, 7), "confidence of 7"),
    "negative": (_numbers(75, -1), "confidence of -1"),
    "NaN": (_numbers(75, float("nan")), "confidence of nan"),
    "great digits": (_numbers(75, 10**400), "confidence of nan"),
    "nowhere": (_people((_body() * [1e9, 1, 1], None)), "places that are none"),
    "elsewhere": (_people((_body(5000), None)), "outside the picture of 640 x 480"),
    "scaled": (_people((_body() * [0.01, 0.005, 1], None)), "places from 0 to 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(tmp_path, name):
    document, message = BAD[name]
    with pytest.raises(InputError, match=message) as error:
        _read(tmp_path, document)
    assert error.value.expected and "a.json" in str(error.value)


def test_coco_says_how_to_mend_it(tmp_path):
    with pytest.raises(InputError) as error:
        _read(tmp_path, _numbers(54))
    assert "--model_pose BODY_25" in error.value.remedy


PLACES = st.floats(1, 470, width=32)
SHARES = st.one_of(st.just(0.0), st.floats(1 / 128, 1, width=16))


@hypothesis.given(
    keypoints=arrays(np.float32, (25, 2), elements=PLACES),
    confidence=arrays(np.float32, 25, elements=SHARES),
    landmarks=arrays(np.float32, (68, 2), elements=PLACES),
)
@hypothesis.settings(max_examples=40)
def test_what_is_written_is_read(tmp_path_factory, keypoints, confidence, landmarks):
    confidence[0] = 1
    keypoints[0], keypoints[1], confidence[1] = 470, 1, 1
    box = np.array([0.0, 0.0, 480.0, 480.0])
    path = tmp_path_factory.mktemp("w") / "a.json"
    write_openpose(path, [Person(box, 0.5, keypoints, confidence)], [Face(box, 0.5, landmarks)])
    assert len(json.loads(path.read_text())["people"]) == 1
    found = read_openpose(path, SIZE)
    known = confidence > 0
    np.testing.assert_allclose(found.person.keypoints[known], keypoints[known], atol=6e-4)
    np.testing.assert_allclose(found.person.confidence, confidence, atol=1e-6)
    np.testing.assert_allclose(found.face.landmarks, landmarks, atol=6e-4)
    assert found.face.confidence.tolist() == [1] * 68


def test_a_face_goes_with_its_person(tmp_path):
    """Two people and three faces: the third is nobody's; who has no points has none."""
    bodies = []
    for x in (100.0, 300.0):
        keypoints = np.full((25, 2), (x, 400.0), np.float32)
        for name in ("nose", "right_eye", "left_eye", "right_ear", "left_ear"):
            keypoints[BODY_25.index(name)] = (x, 60)
        bodies.append(Person(np.array([x - 50, 0, x + 50, 450.0]), 0.5, keypoints))
    faces = []
    for x in (300.0, 500.0, 100.0):
        marks = np.full((68, 2), (x, 60), np.float32)
        marks[:, 1] += np.arange(68) / 4
        faces.append(Face(face_box(marks), 0.5, marks))
    write_openpose(tmp_path / "a.json", [*bodies, Person(bodies[0].box + 900, 0.1)], faces)
    entries = json.loads((tmp_path / "a.json").read_text())["people"]
    assert len(entries) == 4
    seen = [(e["pose_keypoints_2d"][:1], e["face_keypoints_2d"][:1]) for e in entries]
    assert seen == [([99.5], [99.5]), ([299.5], [299.5]), ([], []), ([], [499.5])]
    assert entries[0]["face_keypoints_2d"][-6:] == [0] * 6  # pupils are unknown
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_no_folder_to_write_to(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        write_openpose(tmp_path / "no" / "a.json")
