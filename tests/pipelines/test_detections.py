"""What is missing is found, what was given stays, and all of it is said."""

import dataclasses
import json
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxrecon.detect import parsing_labels
from jaxrecon.detect.detections import Detections, Face, Person, face_box, person_box
from jaxrecon.errors import InputError
from jaxrecon.pipelines import detections
from jaxrecon.pipelines.detections import complete_person, complete_views
from jaxrecon.pipelines.implicit_deformation_inputs import view_data
from jaxrecon.pipelines.priors import Prior
from jaxrecon.pipelines.views import check_needs, load_views
from jaxrecon.types import FACE_LABELS
from tests.pipelines.fake_detector import CLOTHES, DEMO, HAIR, SKIN, Truth, nothing, same

# ---------------------------------------------------------------- views


def test_everything_is_found_and_said(photos, truth):
    detector = Truth(truth, hair=20)
    views = complete_views(load_views(photos), [detector])
    np.testing.assert_array_equal(views.landmarks2d, truth.landmarks2d)
    seen = truth.landmark_weights > 0
    np.testing.assert_array_equal(views.landmark_weights > 0, seen)
    np.testing.assert_allclose(views.landmark_weights[seen], 0.8)
    assert views.landmark_valid.all()
    labels = np.stack([detector.known[k].parsing for k in detector.known])
    np.testing.assert_array_equal(views.mask, labels == SKIN)
    np.testing.assert_array_equal(views.valid, labels != HAIR)
    assert views.detections == ({"landmarks": "a fake", "mask": "a fake"},) * 3
    text = " | ".join(views.warnings)
    assert "landmarks were not given; found by a fake: view_000.png (mean confidence 0.80)" in text
    assert "masks were not given; found by a fake: view_000.png, view_001.png" in text


def test_what_is_given_stays(truth, tmp_path):
    """Every part alone; the cameras are never touched."""
    wrong = Truth(dataclasses.replace(truth, mask=np.roll(truth.mask, 9, 2)), noise=5.0)
    assert complete_views(truth, [wrong]) is truth and wrong.calls == 0
    without = dataclasses.replace(
        truth, landmarks2d=None, landmark_weights=None, landmark_valid=None
    )
    views = complete_views(without, [wrong])
    same(views, truth, ("images", "mask", "valid", "sizes"))
    assert np.abs(views.landmarks2d - truth.landmarks2d).max() > 5
    assert views.detections == ({"landmarks": "a fake"},) * 3
    views = complete_views(dataclasses.replace(truth, mask=None), [wrong])
    same(views, truth, ("landmarks2d", "landmark_weights", "images"))
    assert views.cameras is truth.cameras and views.detections == ({"mask": "a fake"},) * 3
    assert not np.array_equal(views.mask, truth.mask)


def test_masks_of_some_views_are_completed(truth, tmp_path):
    """Given masks stay, to the pixel; the loader says which are not there."""
    folder = tmp_path / "anna"
    shutil.copytree(DEMO, folder)
    Image.open(folder / "view_001.png").convert("RGB").save(folder / "view_001.png")
    with pytest.raises(InputError, match="view_001.png have no mask"):
        load_views(folder)
    some = load_views(folder, partial=True)
    assert some.has_mask.tolist() == [True, False, True] and not some.mask[1].any()
    # the picture is opaque now, with what it holds where it was transparent
    known = dataclasses.replace(some, mask=truth.mask)
    views = complete_views(some, [Truth(known, hair=20)])
    assert views.has_mask is None and views.detections == ({}, {"mask": "a fake"}, {})
    same(views, truth, ("landmarks2d", "landmark_weights"))
    np.testing.assert_array_equal(views.mask[[0, 2]], truth.mask[[0, 2]])
    assert views.valid[[0, 2]].all() and not views.valid[1].all() and views.mask[1].any()


def test_pictures_of_different_sizes(truth, photos, tmp_path):
    folder = tmp_path / "anna"
    shutil.copytree(photos, folder)
    Image.open(folder / "view_001.png").crop((0, 0, 140, 240)).save(folder / "view_001.png")
    sizes = np.array([[256, 256], [240, 140], [256, 256]])
    plain = load_views(folder)
    cut = dataclasses.replace(truth, images=plain.images, sizes=sizes)
    views = complete_views(plain, [Truth(cut)])
    assert not views.valid[1, 240:].any() and not views.mask[1, :, 140:].any()
    # landmarks beyond the picture are hidden
    outside = (truth.landmarks2d[1] > (140, 240)).any(-1)
    assert outside.any() and not views.landmark_weights[1, outside].any()
    # alone, the smaller one is padded no more
    only = complete_views(plain, [lambda im: Truth(cut)(im) if im.shape[0] == 240 else nothing(im)])
    assert only.names == ("view_001.png",) and only.images.shape == (1, 240, 140, 3)
    assert only.indices == (1,) and only.valid.shape == only.mask.shape == (1, 240, 140)


def test_views_without_a_face_are_left_out(truth, photos):
    detector = Truth(truth)
    first = next(iter(detector.known))
    blind = Truth(truth)
    del blind.known[first]
    views = complete_views(load_views(photos), [blind])
    assert views.names == ("view_001.png", "view_002.png") and views.indices == (1, 2)
    np.testing.assert_array_equal(views.landmarks2d, truth.landmarks2d[1:])
    assert "view_000.png: no face was found in it" in " ".join(views.warnings)
    with_cameras = dataclasses.replace(truth, mask=None)
    kept = complete_views(with_cameras, [blind])
    np.testing.assert_array_equal(kept.cameras.R, truth.cameras.R[1:])
    np.testing.assert_array_equal(kept.intrinsics, truth.intrinsics[1:])
    assert kept.ground_truth == truth.ground_truth[1:]


def test_no_face_anywhere_is_an_error_that_names_the_file(photos):
    with pytest.raises(InputError) as raised:
        complete_views(load_views(photos / "view_001.png"), [nothing])
    assert str(photos / "view_001.png") in raised.value.given
    for words in ("landmarks.json", "closer crop", "jaxrecon doctor"):
        assert words in raised.value.remedy


def test_a_face_that_is_hardly_seen_is_none(truth, photos):
    """Nineteen landmarks place no head."""
    for seen, names in ((20, 3), (19, 2)):
        weights = truth.landmark_weights.copy()
        weights[0] = np.arange(68) < seen
        detector = Truth(dataclasses.replace(truth, landmark_weights=weights))
        assert len(complete_views(load_views(photos), [detector]).names) == names


def test_without_detectors_nothing_happens(photos):
    views = load_views(photos)
    assert complete_views(views, []) is views


def test_a_second_detector_is_asked_for_what_the_first_does_not_know(truth, photos):
    """The first knows points alone; the second's points do not count."""
    good, other = Truth(truth), Truth(truth, noise=9.0)

    def points(image):
        return dataclasses.replace(good(image), parsing=None, mask=None)

    views = complete_views(load_views(photos), [points, other, nothing])
    np.testing.assert_array_equal(views.landmarks2d, truth.landmarks2d)
    assert (views.mask.sum((1, 2)) > 1000).all() and other.calls == 3


def test_a_mask_without_parsing_ignores_nothing(truth, photos):
    detector = Truth(truth)

    def masks(image):
        return dataclasses.replace(detector(image), parsing=None)

    views = complete_views(load_views(photos), [masks])
    np.testing.assert_array_equal(views.mask, truth.mask)
    assert views.valid.all()


def test_what_was_found_once_need_not_be_found_again(truth, photos):
    detector, plain = Truth(truth), load_views(photos)
    found = detections.find(plain, [detector])
    assert detector.calls == 3
    once, again = detections.complete(plain, found), detections.complete(plain, found)
    same(once, again, ("landmarks2d", "landmark_weights", "mask", "valid"))
    assert once.warnings == again.warnings
    assert sum(len(one.states) for one in found) < 20_000  # of 200 kB


# ---------------------------------------------------------------- weights and labels


def face(**more):
    return Face(np.array([0.0, 0, 9, 9]), 1.0, np.zeros((68, 2), np.float32), **more)


def test_weights_are_visibility_times_confidence():
    assert (detections.landmark_weights(face()) == 1).all()
    visible, confidence = np.ones((2, 68), np.float32)
    visible[:4] = 0.49, 0.5, 0.9, 1.0
    confidence[:5] = 1.0, 0.3, 0.5, 0.19, 0.0
    weights = detections.landmark_weights(face(visible=visible, confidence=confidence))
    np.testing.assert_allclose(weights[:6], [0, 0, 0.45, 0, 0, 1], atol=1e-6)
    assert weights.dtype == np.float32


def test_every_label_has_a_state():
    found = dict(zip(FACE_LABELS, detections._table(), strict=False))
    S, B, ignored = parsing_labels.SUBJECT, parsing_labels.BACKGROUND, parsing_labels.IGNORE
    assert found == dict.fromkeys(FACE_LABELS, S) | {
        "background": B, "hair": ignored, "clothes": ignored,
    }  # fmt: skip


def test_strays_are_ignored():
    labels = np.zeros((40, 50), np.uint8)
    labels[5:25, 5:25] = SKIN
    labels[2:5, 5:25] = HAIR
    labels[25:40, 0:30] = CLOTHES  # larger than the face, but joined to it
    labels[0:39, 40:50] = CLOTHES  # somebody else, larger still
    labels[30, 35] = SKIN
    clean = detections.labels_of(labels)
    assert (clean[0:39, 40:50] == detections.STRAY).all() and clean[30, 35] == detections.STRAY
    np.testing.assert_array_equal(clean[:, :35], labels[:, :35])
    states = detections.states_of(Detections((40, 50), parsing=labels))
    assert (states[:, 40:][:39] == parsing_labels.IGNORE).all()
    assert (states == parsing_labels.SUBJECT).sum() == 400
    hair = np.where(labels == SKIN, HAIR, labels).astype(np.uint8)
    assert detections.states_of(Detections((40, 50), parsing=hair)) is None


def test_a_found_subject_that_is_all_ignored_is_refused(truth, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "in")
    ignored = Image.fromarray(np.uint8(255 * (truth.mask[1] > 0)))
    ignored.save(tmp_path / "in" / "view_001_ignore.png")
    with pytest.raises(InputError, match=r"found in .*view_001.png is ignored"):
        complete_views(load_views(tmp_path / "in"), [Truth(truth)])


def test_views_without_a_mask_are_no_input_of_a_fit(truth):
    some = dataclasses.replace(truth, has_mask=np.array([True, False, False]))
    words = r"view_001.png, view_002.png have no mask"
    with pytest.raises(InputError, match=words):
        check_needs(some, ("masks",))
    with pytest.raises(InputError, match=words):
        view_data(some, Prior.__new__(Prior))  # refused before it is looked at


def test_a_single_photograph_says_what_it_leaves(tmp_path):
    shutil.copytree(DEMO, tmp_path / "in")
    (said,) = load_views(tmp_path / "in" / "view_000.png").warnings
    assert said.startswith("landmarks.json and cameras.json beside view_000.png are not used")
    (tmp_path / "in" / "cameras.json").unlink()
    (said,) = load_views(tmp_path / "in" / "view_000.png").warnings
    assert said.startswith("landmarks.json beside view_000.png is not used") and "--views" in said


def test_confidence_of_landmarks_weighs_them(tmp_path, truth):
    folder = tmp_path / "anna"
    shutil.copytree(DEMO, folder)
    path = folder / "landmarks.json"
    document = json.loads(path.read_text())
    document["confidence"] = np.full((3, 68), 0.25).tolist()
    path.write_text(json.dumps(document))
    np.testing.assert_array_equal(
        load_views(folder).landmark_weights, 0.25 * truth.landmark_weights
    )
    for bad in (1.5, -0.1, None, "1", True):
        document["confidence"][1][5] = bad
        path.write_text(json.dumps(document))
        with pytest.raises(InputError, match="confidence is"):
            load_views(folder)


def test_states_are_kept_exactly(truth, photos):
    found = detections.find(load_views(photos), [Truth(truth)])
    states = np.frombuffer(zlib.decompress(found[0].states), np.uint8).reshape(256, 256)
    np.testing.assert_array_equal(states == parsing_labels.BACKGROUND, truth.mask[0] == 0)


# ---------------------------------------------------------------- who is meant


def two_faces(image):
    """The better one on the left, with the parsing; the other on the right."""
    points = np.random.default_rng(0).uniform(0, 20, (68, 2)).astype(np.float32)
    left, right = points + 10, points + np.float32([60, 10])
    faces = tuple(Face(face_box(p), s, p) for p, s in ((left, 0.9), (right, 0.8)))
    labels = np.zeros(image.shape[:2], np.uint8)
    labels[8:32, 8:32] = SKIN
    return Detections(image.shape[:2], faces, parsing=labels, sources={"landmarks": "x"})


IMAGE = np.zeros((50, 100, 3), np.uint8)


def half(left: bool) -> np.ndarray:
    mask = np.zeros((50, 100), np.float32)
    mask[:, :50] = left
    mask[:, 50:] = not left
    return mask


def test_of_several_faces_the_best_is_taken_and_told(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "us.png")
    views = complete_views(load_views(tmp_path / "us.png"), [two_faces])
    assert (views.landmarks2d[0, :, 0] < 50).all()
    assert "us.png: 2 faces were found; the one at pixel (20, 20) is taken" in views.warnings


def test_a_given_mask_tells_which_face(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "us.png")
    for left in (True, False):
        mask = Image.fromarray(np.uint8(255 * half(left)))
        mask.save(tmp_path / "us_mask.png")
        views = complete_views(load_views(tmp_path / "us.png"), [two_faces])
        assert ((views.landmarks2d[0, :, 0] < 50) == left).all()
        np.testing.assert_array_equal(views.mask[0], half(left))
    Image.fromarray(np.uint8(255 * (np.arange(50) > 45)[:, None] * np.ones((1, 100)))).save(
        tmp_path / "us_mask.png"
    )
    with pytest.raises(InputError, match="no face was found"):
        complete_views(load_views(tmp_path / "us.png"), [two_faces])


def test_given_landmarks_take_no_mask_of_another_face():
    _, right = two_faces(IMAGE).faces
    found = detections.complete_face(IMAGE, None, right.landmarks, [two_faces])
    np.testing.assert_array_equal(found.face.landmarks, right.landmarks)
    assert found.parsing is None and found.sources["landmarks"] == "given"
    left, _ = two_faces(IMAGE).faces
    assert detections.complete_face(IMAGE, None, left.landmarks, [two_faces]).parsing is not None


def test_given_landmarks_of_another_face_ask_for_a_mask(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "us.png")
    marks = two_faces(IMAGE).faces[1].landmarks
    (tmp_path / "landmarks.json").write_text(json.dumps({"landmarks2d": marks[None].tolist()}))
    with pytest.raises(InputError) as raised:
        complete_views(load_views(tmp_path), [two_faces])
    assert raised.value.given.startswith("the face at the given landmarks was not parsed: ")
    assert "give us_mask.png" in raised.value.remedy and "landmarks.json" not in str(raised.value)


# ---------------------------------------------------------------- people


def two_people(image):
    """The better one on the left, with the mask; the other on the right."""
    points = np.random.default_rng(1).uniform(2, 46, (25, 2)).astype(np.float32)
    sure = np.linspace(0.2, 1, 25).astype(np.float32)
    people = tuple(
        Person(person_box(p), 0.9, p, sure) for p in (points, points + np.float32([50, 0]))
    )
    sources = {"keypoints": "a fake", "mask": "a fake"}
    return Detections(image.shape[:2], people=people, mask=half(True), sources=sources)


def test_a_person_is_found():
    found = complete_person(IMAGE, None, None, None, [two_people, two_faces])
    assert found.sources == {"keypoints": "a fake", "mask": "a fake", "landmarks": "x"}
    np.testing.assert_array_equal(found.mask, half(True))
    assert (found.person.keypoints[:, 0] < 50).all() and (found.face.landmarks[:, 0] < 50).all()


def test_what_is_given_of_a_person_stays_and_tells_who_is_meant():
    """The right one, each time: by mask, by keypoints, by the face."""
    right = two_people(IMAGE).people[1]
    keypoints = np.concatenate([right.keypoints + 0.5, right.confidence[:, None]], axis=1)
    marks = two_faces(IMAGE).faces[1].landmarks
    detectors = [two_people, two_faces]

    found = complete_person(IMAGE, half(False), None, None, detectors)
    np.testing.assert_array_equal(found.mask, half(False))
    assert (found.person.keypoints[:, 0] > 50).all() and found.sources["mask"] == "given"
    assert (found.face.landmarks[:, 0] > 50).all() and found.parsing is None

    found = complete_person(IMAGE, None, keypoints, None, detectors)
    np.testing.assert_array_equal(found.person.keypoints, keypoints[:, :2])
    assert found.mask is None and found.sources["keypoints"] == "given"
    assert (found.face.landmarks[:, 0] > 50).all()

    found = complete_person(IMAGE, None, None, marks, detectors)
    np.testing.assert_array_equal(found.face.landmarks, marks)
    assert (found.person.keypoints[:, 0] > 50).all() and found.mask is None

    everything = complete_person(IMAGE, half(False), keypoints, marks, [nothing_may_be_asked])
    assert set(everything.sources.values()) == {"given"}


def nothing_may_be_asked(image):
    raise AssertionError("asked, though nothing is missing")


def test_a_person_refuses():
    with pytest.raises(InputError, match="3 x 4 pixels"):
        complete_person(IMAGE, np.zeros((4, 3), np.float32), None, None, [])
    bad = np.full((68, 2), np.nan, np.float32)
    with pytest.raises(InputError, match="landmarks that are not finite"):
        complete_person(IMAGE, None, None, bad, [])
    empty = complete_person(IMAGE, None, None, None, [nothing])
    assert empty.people == () and empty.mask is None and empty.sources == {}
