"""A detector that knows the truth of a views folder, by the photograph's pixels; noise is added."""

import json
import pathlib

import numpy as np
from PIL import Image

import jaxrecon
from jaxrecon.detect.detections import Detections, Face, face_box
from jaxrecon.pipelines.views import Views, load_views
from jaxrecon.types import FACE_LABELS

SKIN, HAIR, CLOTHES = (FACE_LABELS.index(n) for n in ("skin", "hair", "clothes"))
SOURCE = "a fake"
DEMO = pathlib.Path(jaxrecon.__file__).parent / "assets" / "samples" / "demo"


def nothing(image: np.ndarray) -> Detections:
    """Finds nothing, anywhere."""
    return Detections(image.shape[:2])


def parsing_of(mask: np.ndarray, hair: int = 0) -> np.ndarray:
    """Skin on a mask, its upper `hair` rows hair."""
    rows = np.flatnonzero(mask.any(1))
    labels = np.where(mask > 0, SKIN, 0).astype(np.uint8)
    top = labels[: rows[0] + hair]
    top[top > 0] = HAIR
    return labels


class Truth:
    """Detector of the photographs of a folder; `calls` counts."""

    def __init__(self, views: Views, noise: float = 0.0, hair: int = 3, seed: int = 0):
        self.calls, self.known = 0, {}
        rng = np.random.default_rng(seed)
        for i, (height, width) in enumerate(views.sizes):
            image = np.round(views.images[i, :height, :width] * 255).astype(np.uint8)
            marks = views.landmarks2d[i] + noise * rng.normal(size=(68, 2))
            face = Face(
                box=face_box(marks), score=0.9, landmarks=marks.astype(np.float32),
                visible=np.where(views.landmark_weights[i] > 0, 1.0, 0.1).astype(np.float32),
                confidence=np.full(68, 0.8, np.float32),
            )  # fmt: skip
            labels = parsing_of(views.mask[i, :height, :width], hair)
            self.known[image.tobytes()] = Detections(
                image.shape[:2], (face,), parsing=labels,
                mask=(labels > 0).astype(np.float32),
                sources={"landmarks": SOURCE, "parsing": SOURCE, "mask": SOURCE},
            )  # fmt: skip

    def __call__(self, image: np.ndarray) -> Detections:
        self.calls += 1
        return self.known.get(image.tobytes(), nothing(image))


def bare(source: pathlib.Path, folder: pathlib.Path, cameras: bool = False) -> pathlib.Path:
    """The photographs of a views folder as a user has them: opaque, and nothing beside them."""
    folder.mkdir(parents=True)
    views = load_views(source)
    for i, name in enumerate(views.names):
        height, width = views.sizes[i]
        pixels = np.round(views.images[i, :height, :width] * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    if cameras:
        document = json.loads((source / "cameras.json").read_text())
        for view in document["views"]:
            view.pop("gt", None)
        (folder / "cameras.json").write_text(json.dumps(document))
    return folder


def same(views: Views, truth: Views, names: tuple[str, ...]) -> None:
    """Assert that some fields of two views are equal."""
    for name in names:
        np.testing.assert_array_equal(getattr(views, name), getattr(truth, name), err_msg=name)
