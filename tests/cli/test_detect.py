"""Photographs alone: `jaxrecon detect`, and `jaxrecon fit` without masks and landmarks, with a
detector that knows the truth and tiny fits.
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxrecon.cli import main
from jaxrecon.pipelines import detections, fit_subjects
from jaxrecon.pipelines.views import load_views
from tests.cli.bad_input import refused
from tests.pipelines.fake_detector import Truth, bare, nothing
from tests.pipelines.queue_subjects import results


@pytest.fixture(scope="session")
def truth(photographs):
    return load_views(photographs)


@pytest.fixture
def detector(truth, monkeypatch):
    """Ours, as far as the commands know."""
    fake = Truth(truth, hair=2)
    monkeypatch.setattr(detections, "own_face_detector", lambda: fake)
    return fake


@pytest.fixture
def plain(copy, tmp_path):
    """Photographs without anything beside them; fits are tiny."""
    return bare(copy, tmp_path / "plain" / "anna")


def fit(weights, source, out, *more):
    argv = ["fit", source, "--out", out, "--weights", weights, *more]
    return main.main([str(a) for a in argv])


# ---------------------------------------------------------------- fit


def test_one_photograph_and_nothing_else(capsys, detector, plain, toy_weights, tmp_path):
    photo, out = plain / "view_000.png", tmp_path / "out"
    assert fit(toy_weights, photo, out) == 0
    captured = capsys.readouterr()
    assert captured.out == f"report: {out / 'view_000' / 'report.html'}\n"
    said = "landmarks were not given; found by a fake: view_000.png (mean confidence 0.80)"
    assert f"view_000: {said}" in captured.err and detector.calls == 1
    record = json.loads((out / "view_000" / "fit.json").read_text())
    assert record["detections"] == {"view_000.png": {"landmarks": "a fake", "mask": "a fake"}}
    assert said in record["warnings"] and record["landmark_stage_error_pixels"] < 2
    report = (out / "view_000" / "report.html").read_text()
    assert said in report and "dots: landmarks that were found" in report
    assert "view_000: a face from one photograph" in report


def test_resume_knows_what_was_found(capsys, detector, plain, toy_weights, tmp_path, monkeypatch):
    """The same again is done already; other detections are other inputs."""
    photo, out = plain / "view_000.png", tmp_path / "out"
    assert fit(toy_weights, photo, out) == 0
    before = results(out)
    detector.calls = 0
    assert fit(toy_weights, photo, out, "--resume") == 0
    assert "view_000: done already" in capsys.readouterr().err and detector.calls == 1
    assert results(out) == before
    assert fit(toy_weights, photo, tmp_path / "again") == 0
    assert results(tmp_path / "again") == before
    other = Truth(load_views(plain.parents[1] / "anna"), noise=0.5, hair=2)
    monkeypatch.setattr(detections, "own_face_detector", lambda: other)
    assert fit(toy_weights, photo, out, "--resume") == 0
    assert "fitted anew: view_000 (its inputs have changed)" in capsys.readouterr().err
    assert results(out) != before


def test_large_photographs_are_not_looked_at_again(
    detector, plain, toy_weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(fit_subjects, "KEPT_BYTES", 0)
    assert fit(toy_weights, plain / "view_000.png", tmp_path / "out") == 0
    assert detector.calls == 1


def test_what_is_given_is_used(capsys, detector, copy, toy_weights, tmp_path):
    """A complete folder asks no detector, and says so; landmarks alone are found beside masks."""
    out = tmp_path / "out"
    assert fit(toy_weights, copy, out, "--views", "0") == 0
    record = json.loads((out / "anna" / "fit.json").read_text())
    assert record["detections"] == {"view_000.png": {"landmarks": "given", "mask": "given"}}
    assert detector.calls == 0 and "found by" not in capsys.readouterr().err
    (copy / "landmarks.json").unlink()
    assert fit(toy_weights, copy, out, "--views", "0") == 0
    record = json.loads((out / "anna" / "fit.json").read_text())
    assert record["detections"] == {"view_000.png": {"landmarks": "a fake", "mask": "given"}}


def test_faces_that_are_not_found_are_told(capsys, monkeypatch, plain, toy_weights, tmp_path):
    monkeypatch.setattr(detections, "own_face_detector", lambda: nothing)
    argv = ["fit", plain / "view_000.png", "--out", tmp_path / "out", "--weights", toy_weights]
    refused(capsys, argv, "no face was found in", "view_000.png", "closer crop")
    (tmp_path / "two").mkdir()
    for name in "ab":
        shutil.copytree(plain, tmp_path / "two" / name)
    argv[1] = tmp_path / "two"
    assert main.main([str(a) for a in argv]) == 2
    assert "0 of 2 subjects done" in capsys.readouterr().out


def test_without_a_detector_it_is_as_before(capsys, monkeypatch, plain, toy_weights, tmp_path):
    def never():
        raise AssertionError("a detector was loaded")

    monkeypatch.setattr(detections, "own_face_detector", never)
    more = ["--out", tmp_path / "out", "--weights", toy_weights, "--detector", "none"]
    refused(capsys, ["fit", plain, *more], "has no masks", "jaxrecon detect")
    refused(capsys, ["fit", plain / "view_000.png", *more], "a photograph alone")


# ---------------------------------------------------------------- detect


def test_detect_writes_a_folder_to_fit(capsys, detector, plain, toy_weights, tmp_path):
    found, out = tmp_path / "found", tmp_path / "out"
    photo = plain / "view_000.png"
    assert main.main(["detect", str(photo), "--out", str(found)]) == 0
    captured = capsys.readouterr()
    assert "view_000.png: 68 landmarks, " in captured.out
    assert f"jaxrecon fit {found} --out DIR" in captured.out
    names = ("view_000.png", "view_000_labels.png", "view_000_overlay.png")
    files = {p.name for p in found.iterdir()}
    assert files == {*names, "landmarks.json", "labels.json"}
    detector.calls = 0
    assert fit(toy_weights, found, out) == 0
    assert detector.calls == 0
    # what a fit finds itself gives the same mesh, but for the rounding of the file's numbers
    assert fit(toy_weights, photo, out) == 0
    from jaxrecon.geometry.mesh_io import load_mesh

    a, b = (load_mesh(out / name / "mesh.ply").vertices for name in ("found", "view_000"))
    np.testing.assert_allclose(a.mean(0), b.mean(0), atol=0.1)
    np.testing.assert_allclose(np.ptp(a, axis=0), np.ptp(b, axis=0), atol=0.3)


def test_detect_people(capsys, detector, plain, tmp_path, truth, monkeypatch):
    from jaxrecon.detect.detections import Detections, Person, person_box

    points = truth.landmarks2d[0][:25].astype(np.float32)

    def person(image):
        return Detections(
            image.shape[:2], people=(Person(person_box(points), 1.0, points),), mask=truth.mask[0]
        )

    monkeypatch.setattr(detections, "own_person_detector", lambda: person)
    argv = ["detect", plain / "view_000.png", "--out", tmp_path / "found", "--person"]
    assert main.main([str(a) for a in argv]) == 0
    said = capsys.readouterr().out
    assert "25 keypoints, mask" in said and "jaxrecon fit" not in said and said.endswith("wrong\n")
    mask = np.asarray(Image.open(tmp_path / "found" / "view_000_mask.png"))
    np.testing.assert_array_equal(mask > 127, truth.mask[0] > 0)
    assert (tmp_path / "found" / "view_000_keypoints.json").is_file()


def test_detect_says_what_it_does_not_take_over(capsys, detector, plain, tmp_path):
    for name in ("landmarks.json", "view_001_ignore.png"):
        (plain / name).write_text("{}")
    assert main.main(["detect", str(plain), "--out", str(tmp_path / "found")]) == 0
    said = (
        f"{plain} holds landmarks.json, view_001_ignore.png: not taken over; `jaxrecon fit {plain}"
    )
    assert said in capsys.readouterr().err
    photo = plain / "view_001.png"
    assert main.main(["detect", str(photo), "--out", str(tmp_path / "one")]) == 0
    assert f"beside {photo} there is view_001_ignore.png: not" in capsys.readouterr().err
    photo = plain / "view_000.png"
    assert main.main(["detect", str(photo), "--out", str(tmp_path / "two")]) == 0
    assert "not taken over" not in capsys.readouterr().err


def test_detect_refuses(capsys, monkeypatch, detector, plain, tmp_path):
    out = tmp_path / "found"
    refused(capsys, ["detect", "--out", out], "no PHOTOS")
    refused(capsys, ["detect", tmp_path / "absent.jpg", "--out", out], "absent.jpg")
    refused(capsys, ["detect", plain, "--out", plain], "not an empty folder")
    (tmp_path / "me.jpg").write_bytes(b"no picture")
    refused(capsys, ["detect", tmp_path / "me.jpg", "--out", out], "me.jpg is not an image")
    monkeypatch.setattr(detections, "own_face_detector", lambda: nothing)
    refused(capsys, ["detect", plain, "--out", out], "nothing was found in")
    assert not out.exists() and not list(tmp_path.glob(".found*"))
