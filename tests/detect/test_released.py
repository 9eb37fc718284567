"""The weights that the package ships, on subjects whose truth is known.

The bounds are loose: that nobody has broken the weights, or what is done around them. How good they
are is measured by `experiments.detector.evaluate` and stands in their model cards.
"""

import json

import numpy as np
import pytest
from PIL import Image

from jaxrecon.detect import own
from jaxrecon.pipelines.views import load_views
from jaxrecon.types import BODY_25, FACE_LABELS

SIDED = [f"{side}_{joint}" for side in ("left", "right") for joint in ("shoulder", "hip", "knee")]


def overlap(a, b):
    return np.logical_and(a, b).sum() / np.logical_or(a, b).sum()


@pytest.fixture(scope="module")
def demo():
    return load_views(own.ASSETS / "samples" / "demo")


@pytest.fixture(scope="module")
def found(demo):
    """What is found in the sample's photographs over a grey wall."""
    detect = own.face_detector()
    walls = demo.mask[..., None] * (demo.images - 0.6) + 0.6
    return [detect(np.round(255 * wall).astype(np.uint8)) for wall in walls]


def test_they_are_small():
    files = [own.ASSETS / f"detector_{who}.safetensors" for who in ("face", "person")]
    assert sum(file.stat().st_size for file in files) <= 6e6
    for file in files:
        assert json.loads(file.with_suffix(".json").read_text())["notice"]
        assert file.with_suffix(".md").is_file()


def test_landmarks_and_sides(demo, found):
    for i, seen in enumerate(found):
        points, shown = demo.landmarks2d[i], demo.landmark_weights[i] > 0
        assert seen.face is not None and shown.sum() > 30
        eyes = 1.3 * np.linalg.norm(points[36:48].mean(0) - points[48:60].mean(0))
        error = np.linalg.norm(seen.face.landmarks - points, axis=1)[shown].mean() / eyes
        assert error < 0.05
        assert np.mean((seen.face.visible > 0.5) == shown) > 0.85


def test_parsing_and_mask(demo, found):
    for i, seen in enumerate(found):
        assert overlap(seen.mask > 0.5, demo.mask[i] > 0.5) > 0.98
        named = dict(enumerate(FACE_LABELS))
        points = demo.landmarks2d[i]
        tip, lip = np.floor(points[30]).astype(int), np.floor(points[[51, 57]]).astype(int)
        assert named[seen.parsing[tip[1], tip[0]]] == "skin"
        assert "lips" in {named[seen.parsing[y, x]] for x, y in [*lip, *(lip + [[0, 1], [0, -1]])]}


def test_nobody_in_noise():
    noise = np.random.default_rng(0).integers(0, 255, (160, 160, 3)).astype(np.uint8)
    assert own.face_detector()(noise).face is None
    assert own.person_detector()(noise).person is None


@pytest.mark.parametrize("body", ["body00", "body01", "body02", "body03"])
def test_people(shared, body):
    folder = shared / "data" / "bodyviews" / body
    people = json.loads((folder / "params.json").read_text())
    image = np.asarray(Image.open(folder / "view_000.png")).astype(np.float32) / 255
    alpha = image[..., 3:]
    over = alpha * (image[..., :3] - 0.6) + 0.6
    seen = own.person_detector()(np.round(255 * over).astype(np.uint8))
    assert overlap(seen.mask > 0.5, alpha[..., 0] > 0.5) > 0.93
    joints = np.asarray(people["joints2d"][0])[[people["joint_names"].index(n) for n in SIDED]]
    points = seen.person.keypoints[[BODY_25.index(n) for n in SIDED]]
    height = np.ptp(np.nonzero(alpha[..., 0] > 0.5)[0])
    assert np.mean(np.linalg.norm(points - joints, axis=1) < 0.1 * height) > 0.9
