"""`jaxrecon detect`: the folder says what was found, a fit takes it, and nothing is lost."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxrecon.detect.detections import Detections, Person, person_box
from jaxrecon.errors import InputError
from jaxrecon.pipelines.detections import complete_views
from jaxrecon.pipelines.detections_drawing import COLOURS
from jaxrecon.pipelines.detections_files import detect_photographs
from jaxrecon.pipelines.views import check_needs, load_views
from jaxrecon.types import FACE_LABELS
from tests.pipelines.fake_detector import HAIR, SKIN, Truth, nothing, parsing_of, same


def test_a_detected_folder_is_what_a_fit_would_find(truth, photos, tmp_path):
    """Landmarks, weights, masks: the same from the folder as from the photographs."""
    detector = Truth(truth, noise=1.0, hair=20)
    seen = detect_photographs([photos], tmp_path / "out", [detector])
    assert [one.name for one in seen] == list(truth.names)
    assert seen[0].words.startswith("view_000.png: 68 landmarks, ")
    files = {p.name for p in (tmp_path / "out").iterdir()}
    kinds = ("{}.png", "{}_labels.png", "{}_overlay.png")
    assert files == {"landmarks.json", "labels.json"} | {
        k.format(f"view_{i:03d}") for k in kinds for i in range(3)
    }
    direct = complete_views(load_views(photos), [detector])
    again = load_views(tmp_path / "out", need=("masks", "landmarks"))
    assert again.names == direct.names
    same(again, direct, ("images", "mask", "valid"))
    np.testing.assert_allclose(again.landmarks2d, direct.landmarks2d, atol=1e-3)
    np.testing.assert_allclose(again.landmark_weights, direct.landmark_weights, atol=1e-4)


def test_what_was_found_is_drawn(truth, photos, tmp_path):
    detector = Truth(truth, hair=40)
    detect_photographs([photos / "view_001.png"], tmp_path / "out", [detector])
    picture = np.asarray(Image.open(tmp_path / "out" / "view_001_overlay.png")).astype(int)
    assert picture.shape == (1024 + 28, 1024, 3)
    for (u, v), weight in zip(truth.landmarks2d[1], truth.landmark_weights[1], strict=True):
        u, v = round(4 * u), round(4 * v)
        patch = picture[v - 5 : v + 6, u - 5 : u + 6]
        colour = (0, 200, 0) if weight > 0 else (255, 140, 0)
        assert (abs(patch - colour).sum(-1) < 60).any()
    plain = np.asarray(Image.open(photos / "view_001.png").resize((1024, 1024))).astype(float)
    labels = parsing_of(truth.mask[1], 40).repeat(4, 0).repeat(4, 1)
    for label, share in ((SKIN, 0.45), (HAIR, 0.45), (0, 0.0)):
        colour = COLOURS.get(FACE_LABELS[label], (0, 0, 0))
        tinted = (1 - share) * plain + share * np.array(colour)
        error = abs(picture[:1024] - tinted).max(-1)[labels == label]
        assert np.quantile(error, 0.8) < 6


def test_people_are_written_too(truth, photos, tmp_path):
    from jaxrecon.detect.openpose import read_openpose

    def person(image):
        points = truth.landmarks2d[0][:25].astype(np.float32)
        sure = np.full(25, 0.5, np.float32)
        return Detections(
            image.shape[:2], people=(Person(person_box(points), 1.0, points, sure),),
            mask=truth.mask[0],
        )  # fmt: skip

    out = tmp_path / "out"
    detect_photographs([photos / "view_000.png"], out, [Truth(truth)], [person])
    found = read_openpose(out / "view_000_keypoints.json", (256, 256))
    np.testing.assert_allclose(found.person.keypoints, truth.landmarks2d[0][:25], atol=1e-3)
    views = load_views(out)
    np.testing.assert_array_equal(views.mask, truth.mask[:1])
    # people alone: no landmarks
    detect_photographs([photos / "view_000.png"], tmp_path / "body", [nothing], [person])
    assert load_views(tmp_path / "body").landmarks2d is None


def test_a_photograph_without_anything_is_left_out(truth, photos, tmp_path):
    detector = Truth(truth)
    del detector.known[next(iter(detector.known))]
    seen = detect_photographs([photos], tmp_path / "out", [detector])
    assert [one.kept for one in seen] == [False, True, True]
    views = load_views(tmp_path / "out", need=("masks", "landmarks"))
    assert views.names == ("view_001.png", "view_002.png")
    np.testing.assert_allclose(views.landmarks2d, truth.landmarks2d[1:], atol=1e-3)


def test_nothing_is_written_where_nothing_is_found_or_something_stands(photos, tmp_path):
    def refused(paths, out, match, detector=nothing):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=match):
            detect_photographs(paths, out, [detector])
        assert sorted(tmp_path.rglob("*")) == before

    out = tmp_path / "out"
    refused([photos], out, "nothing was found in")
    refused([tmp_path / "absent.png"], out, "no such folder or image")
    refused([], out, "no PHOTOS")
    (tmp_path / "b").mkdir()
    shutil.copy(photos / "view_000.png", tmp_path / "b" / "view_000.png")
    refused([photos, tmp_path / "b"], out, "several photographs are called view_000")
    shutil.copy(photos / "view_000.png", tmp_path / "b" / "me_mask.png")
    refused([tmp_path / "b" / "me_mask.png"], out, "not named like a photograph")
    refused([photos], tmp_path / "b", "exists and is not an empty folder")
    (tmp_path / "b" / "broken.png").write_bytes(b"\x89PNG")
    refused([tmp_path / "b" / "broken.png"], out, "broken.png is not an image")

    def fails(image):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect_photographs([photos], out, [fails])
    assert not out.exists() and not list(tmp_path.glob(".*"))


def changed(detector, **parts):
    """A detector whose best face or detections are others."""

    def detect(image):
        found = detector(image)
        face = {k: v for k, v in parts.items() if k in ("visible", "confidence")}
        rest = {k: v for k, v in parts.items() if k not in face}
        faces = tuple(dataclasses.replace(f, **face) for f in found.faces)
        return dataclasses.replace(found, faces=faces, **rest)

    return detect


def test_a_hidden_landmark_that_is_moved_and_shown_counts(truth, photos, tmp_path):
    visible = np.where(np.arange(68) < 30, 0.1, 1).astype(np.float32)
    confidence = np.where(np.arange(68) < 30, 0.2, 0.8).astype(np.float32)
    hidden = changed(Truth(truth), visible=visible, confidence=confidence)
    (seen,) = detect_photographs([photos / "view_000.png"], tmp_path / "out", [hidden])
    assert "68 landmarks, 38 seen, mean confidence 0.80" in seen.words
    path = tmp_path / "out" / "landmarks.json"
    document = json.loads(path.read_text())
    assert document["visible"][0] == [False] * 30 + [True] * 38
    document["visible"][0][3] = True
    path.write_text(json.dumps(document))
    weights = load_views(tmp_path / "out").landmark_weights[0]
    np.testing.assert_allclose(weights[[2, 3, 40]], [0, 1, 0.8], atol=1e-4)


@pytest.mark.parametrize(("seen", "kept"), [(20, True), (19, False)])
def test_detect_and_fit_agree_on_what_a_face_is(truth, photos, tmp_path, seen, kept):
    few = changed(Truth(truth), visible=(np.arange(68) < seen).astype(np.float32))
    assert _agree(few, photos, tmp_path) == kept


@pytest.mark.parametrize(("label", "kept"), [(HAIR, False), (SKIN, True)])
def test_detect_and_fit_agree_on_what_a_mask_is(truth, photos, tmp_path, label, kept):
    """No subject at all, or nothing else: labels.json could say neither."""
    parsing = np.full((256, 256), label, np.uint8)
    assert _agree(changed(Truth(truth), parsing=parsing), photos, tmp_path) == kept


def _agree(detector, photos, tmp_path):
    """Whether one photograph is kept; a fit takes what is kept, and refuses what is not."""
    photo, out = photos / "view_000.png", tmp_path / "out"
    try:
        detect_photographs([photo], out, [detector])
    except InputError as error:
        assert "nothing was found" in error.given
        with pytest.raises(InputError, match="no face was found"):
            complete_views(load_views(photo), [detector])
        return False
    views = complete_views(load_views(out, partial=True), [detector])
    check_needs(views, ("masks", "landmarks"))
    return True


def test_of_people_only_sure_keypoints_are_counted(photos, tmp_path):
    def person(image):
        points = np.random.default_rng(0).uniform(50, 200, (25, 2)).astype(np.float32)
        sure = np.where(np.arange(25) < 7, 0.3, 0.1).astype(np.float32)
        everything = np.ones(image.shape[:2], np.float32)
        people = (Person(person_box(points), 1.0, points, sure),)
        return Detections(image.shape[:2], people=people, mask=everything)

    out = tmp_path / "out"
    (seen,) = detect_photographs([photos / "view_000.png"], out, [nothing], [person])
    # a mask that is white everywhere tells nothing, and its reader refuses it
    assert seen.words == "view_000.png: 7 keypoints" and not list(out.glob("*_mask.png"))


def test_the_folder_is_where_a_link_leads_and_not_here(truth, photos, tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    detect_photographs([photos], tmp_path / "link", [Truth(truth)])
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "landmarks.json").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (".", "../here"):
        with pytest.raises(InputError, match="is the current directory"):
            detect_photographs([photos], pathlib.Path(name), [Truth(truth)])
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("circle", "x" * 300):
        with pytest.raises(InputError):
            detect_photographs([photos], tmp_path / name, [Truth(truth)])


def test_photographs_are_checked_before_the_first_is_looked_at(truth, photos, tmp_path):
    folder, detector = tmp_path / "in", Truth(truth)
    shutil.copytree(photos, folder)
    (folder / "view_009.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"view_009.png is not an image"):
        detect_photographs([folder], tmp_path / "out", [detector])
    for name, match in ((".hid.png", "not named like"), ("x" * 240 + ".png", "is too long")):
        shutil.copy(photos / "view_000.png", folder / name)
        with pytest.raises(InputError, match=match):
            detect_photographs([folder / name], tmp_path / "out", [detector])
    assert detector.calls == 0


def test_overlays_are_png(photos, tmp_path):
    for name in ("a.png", "a_overlay.png", "b_overlay.jpg", "c_mask.jpg"):
        Image.open(photos / "view_000.png").save(tmp_path / name)
    assert load_views(tmp_path).names == ("a.png", "b_overlay.jpg")
