"""Measure a detector on rendered people that it has never seen, as a user would run it: whole
pictures in, nothing else known.

    python -m experiments.detector.evaluate --subject face --data DATA/faces
    python -m experiments.detector.evaluate --subject face --views ../shared/data/faceviews/lps
    python -m experiments.detector.evaluate --subject person --data DATA/bodies

Landmark errors are of points that can be seen, in faces that were found (`missed` counts the
others, and what is found more than half a face away), relative to the distance of the eyes' outer
corners (36 and 45): by the face's true size (`error`), and by the distance in the picture itself
where the head is turned so little that it keeps 70 % of its length (`error_2d`). `within_4_percent`
is the share of all pictures, those missed included. PCK@0.1 is the share of visible keypoints
within 0.1 of the longer side of the person's bounds. Intersections over union of masks are means
over pictures; those of labels are over all pixels, then over classes.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time

import jax
import numpy as np

from data_pipelines.detector_augment import (
    AugmentConfig,
    body_example,
    face_example,
    photograph,
)
from experiments.command_line import parse, write_table
from experiments.detector.config import PRESETS
from experiments.detector.data import load_split
from jaxrecon.detect.detections import Detections, Face
from jaxrecon.detect.face import detect_faces
from jaxrecon.detect.finding import Network
from jaxrecon.detect.own import load_network
from jaxrecon.detect.person import detect_person
from jaxrecon.errors import InputError
from jaxrecon.types import BODY_25_MIRRORED, FACE_LABELS, LANDMARKS_MIRRORED


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure a detector."""

    subject: str = "face"
    """`face` or `person`."""
    data: pathlib.Path | None = None
    """Folder of shards; its test split is taken."""
    views: pathlib.Path | None = None
    """Or a views folder with masks and landmarks of a face."""
    weights: pathlib.Path | None = None
    """Of `release`; those that the package ships if not given."""
    count: int = 256
    """Pictures."""
    size: int = 256
    """Of the pictures made of shards, pixels (a multiple of 8)."""
    plain: bool = False
    """Nothing before the people, and no exposure, blur, noise or JPEG: people over clutter."""
    seed: int = 12345
    """Of backgrounds, crops, blur and noise; a training run has others."""
    out: pathlib.Path | None = None
    """JSON file to write the numbers to."""


def test_pictures(arguments: Arguments) -> list[dict]:
    """Pictures with their truth, as `photograph` makes them, subjects in the middle half."""
    subject = arguments.subject
    assert arguments.data is not None
    data = load_split(arguments.data / "test", subject, arguments.count)
    usual = PRESETS[subject].augment
    # The share of the picture that a subject takes is that of training, whatever the size.
    config = dataclasses.replace(
        usual,
        size=arguments.size,
        share_far=0.0,
        share_empty=0.0,
        share_framed=0.0,
        share_occluded=0.0 if arguments.plain else usual.share_occluded,
        degraded=not arguments.plain,
    )
    make = _picture(config, subject)
    keys = jax.random.split(jax.random.key(arguments.seed), len(data["image"]))
    pictures = []
    for i, key in enumerate(keys):
        item = {name: value[i] for name, value in data.items() if name != "seed"}
        picture = jax.device_get(make(item, key))
        picture["photo"] = np.round(255 * picture.pop("image")).astype(np.uint8)
        pictures.append(picture)
    return pictures


def _picture(config: AugmentConfig, subject: str):
    """Jitted (stored example, key) -> picture."""

    @jax.jit
    def make(item, key):
        if subject == "face":
            example = face_example(item["image"], item["labels"], item["points"], item["visible"])
            return photograph(config, example, key, LANDMARKS_MIRRORED)
        example = body_example(item["image"], item["points"], item["visible"])
        return photograph(config, example, key, BODY_25_MIRRORED)

    return make


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two sets of pixels; 1 where both are empty."""
    either = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / either) if either else 1.0


def confusion(labels: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) pixels: rows are the truth."""
    code = truth.astype(np.int64).ravel() * classes + labels.astype(np.int64).ravel()
    return np.bincount(code, minlength=classes**2).reshape(classes, classes)


def mean_overlap(table: np.ndarray) -> tuple[float, dict[str, float]]:
    """(mean, by name) intersection over union of the classes that occur in a confusion table."""
    both = np.diag(table)
    either = table.sum(0) + table.sum(1) - both
    each = {
        name: float(both[i] / either[i]) for i, name in enumerate(FACE_LABELS) if table[i].sum()
    }
    return float(np.mean(list(each.values()))), each


def landmark_errors(
    face: Face, points: np.ndarray, visible: np.ndarray, extent: float
) -> tuple[float, float | None]:
    """(mean distance over `extent`, over the distance of points 36 and 45 in the picture) of the
    visible landmarks, of which there is one at least; the second is None where the head is turned
    away.
    """
    assert face.landmarks is not None
    distance = np.linalg.norm(face.landmarks - points, axis=1)[visible].mean()
    eyes = float(np.linalg.norm(points[36] - points[45]))
    return float(distance / extent), float(distance / eyes) if eyes > 0.7 * extent else None


def measure_faces(network: Network, pictures: list[dict]) -> dict:
    """Numbers of the face network on pictures of `test_pictures`."""
    errors, errors_2d, masks, missed = [], [], [], 0
    seen_right: list[np.ndarray] = []
    classes = network.config.labels
    table = np.zeros((classes, classes), np.int64)
    for picture in pictures:
        found = detect_faces(network, picture["photo"])
        face = _matching(found, picture)
        if face is None or found.parsing is None or found.mask is None:
            missed += 1
            table += confusion(np.zeros_like(picture["labels"]), picture["labels"], classes)
            masks.append(0.0)
            continue
        visible = picture["visible"]
        if visible.any():
            error, error_2d = landmark_errors(
                face, picture["points"], visible, float(picture["extent"])
            )
            errors.append(error)
            errors_2d += [] if error_2d is None else [error_2d]
        assert face.visible is not None
        seen_right.append((face.visible > 0.5) == visible)
        masks.append(overlap(found.mask > 0.5, picture["labels"] > 0))
        table += confusion(found.parsing, picture["labels"], classes)
    mean, each = mean_overlap(table)
    return {
        "pictures": len(pictures),
        "missed": missed,
        "error": _mean(errors),
        "error_median": float(np.median(errors)) if errors else None,
        "error_2d": _mean(errors_2d),
        "within_4_percent": float(np.sum(np.array(errors) <= 0.04)) / len(pictures),
        "visibility_right": _mean(seen_right),
        "mask_iou": float(np.mean(masks)),
        "parsing_miou": mean,
        "parsing_iou": each,
    }


def _mean(values: list) -> float | None:
    return float(np.mean(values)) if values else None


def _matching(found: Detections, picture: dict) -> Face | None:
    """The best face, if it is the picture's."""
    face = found.face
    if face is None:
        return None
    centre = (face.box[:2] + face.box[2:]) / 2
    near = np.linalg.norm(centre - picture["centre"]) < 0.5 * picture["extent"]
    return face if near else None


def measure_people(network: Network, pictures: list[dict]) -> dict:
    """Numbers of the person network on pictures of `test_pictures`."""
    masks, right, count, missed = [], 0, 0, 0
    for picture in pictures:
        found = detect_person(network, picture["photo"])
        person = found.person
        covered = picture["labels"] > 0
        if person is None or person.keypoints is None or found.mask is None:
            missed += 1
            masks.append(0.0)
            count += int(picture["visible"].sum())
            continue
        masks.append(overlap(found.mask > 0.5, covered))
        rows, columns = np.nonzero(covered)
        if not len(rows):
            continue
        side = max(np.ptp(rows), np.ptp(columns)) + 1
        # Where the render ends below, its last row goes on: that is no part of the person.
        side = min(side, float(picture["extent"]))
        distance = np.linalg.norm(person.keypoints - picture["points"], axis=1)
        right += int((distance < 0.1 * side)[picture["visible"]].sum())
        count += int(picture["visible"].sum())
    return {
        "pictures": len(pictures),
        "missed": missed,
        "mask_iou": float(np.mean(masks)),
        "mask_iou_median": float(np.median(masks)),
        "pck_0.1": right / max(count, 1),
    }


def measure_views(network: Network, folder: pathlib.Path) -> dict:
    """Landmark errors and mask overlaps of a face on the photographs of a views folder, over
    grey.
    """
    from jaxrecon.pipelines.views import load_views

    views = load_views(folder, need=("landmarks", "masks"))
    assert views.landmarks2d is not None and views.landmark_weights is not None
    assert views.mask is not None
    document = json.loads((folder / "landmarks.json").read_text())
    points3d = np.asarray(document["landmarks3d"])[0]
    rows = []
    for i, name in enumerate(views.names):
        over = views.mask[i, ..., None] * (views.images[i] - 0.6) + 0.6
        photo = np.round(255 * over).astype(np.uint8)
        found = detect_faces(network, photo)
        if found.face is None:
            rows.append({"view": name, "missed": True})
            continue
        points = views.landmarks2d[i]
        extent = _true_size(views, i, points3d)
        visible = views.landmark_weights[i] > 0
        row: dict = {"view": name}
        if visible.any():
            error, error_2d = landmark_errors(found.face, points, visible, extent)
            row |= {"error": error, "error_2d": error_2d}
        assert found.mask is not None
        row["mask_iou"] = overlap(found.mask > 0.5, views.mask[i] > 0.5)
        rows.append(row)
    return {
        "views": rows,
        "missed": sum("missed" in row for row in rows),
        "error": _mean([row["error"] for row in rows if "error" in row]),
    }


def _true_size(views, i: int, points3d: np.ndarray) -> float:
    """Pixels of the distance of the eyes' outer corners if they were seen from the front."""
    if views.cameras is None:
        return float(np.linalg.norm(views.landmarks2d[i][36] - views.landmarks2d[i][45]))
    middle = points3d[[36, 45]].mean(0)
    depth = (views.cameras.R[i] @ middle + views.cameras.t[i])[2]
    return float(views.cameras.K[i][0, 0] / depth * np.linalg.norm(points3d[36] - points3d[45]))


def seconds_of(detect, network: Network, photo: np.ndarray, repeats: int = 5) -> float:
    """Median seconds of a picture scaled to 512 x 512, after compilation."""
    from PIL import Image

    large = np.asarray(Image.fromarray(photo).resize((512, 512)))
    detect(network, large)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        detect(network, large)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def evaluate(arguments: Arguments) -> dict:
    """All numbers that the arguments ask for.

    Raises:
        InputError: no data, or unknown subject.
    """
    if arguments.subject not in ("face", "person"):
        raise InputError(f"--subject {arguments.subject}", "face or person", "choose one")
    network = load_network(arguments.subject, arguments.weights)
    face = arguments.subject == "face"
    numbers: dict = {"subject": arguments.subject}
    if arguments.views is not None and face:
        return numbers | measure_views(network, arguments.views)
    if arguments.data is None or arguments.size % 8:
        raise InputError(
            f"--subject {arguments.subject}, --data {arguments.data}, --size {arguments.size}",
            "--data, or --views of a face; a size that is a multiple of 8",
            "change them",
        )
    pictures = test_pictures(arguments)
    numbers |= (measure_faces if face else measure_people)(network, pictures)
    detect = detect_faces if face else detect_person
    # Several, since what is found decides how much is looked at.
    times = [seconds_of(detect, network, picture["photo"]) for picture in pictures[:5]]
    return numbers | {"seconds_512": float(np.median(times)), "seconds_512_worst": max(times)}


def main(arguments: Arguments) -> int:
    """Print the numbers, and write them where `--out` says; exit code."""

    def shown(arguments: Arguments) -> dict:
        numbers = evaluate(arguments)
        print(json.dumps(numbers, indent=1))
        return numbers

    return write_table(shown, arguments, arguments.out)


if __name__ == "__main__":
    sys.exit(main(parse(Arguments)))
