"""`jaxrecon fit` with bad masks, labels and landmarks."""

import json

import pytest
from PIL import Image

from tests.cli.bad_input import NAN, as_folder, label_image, picture, put, refuses_folder
from tests.pipelines.views_folder import edit, landmarks


def marks(**changes):
    return put("landmarks.json", json.dumps(landmarks(**changes)).encode())


def mark(value, place=(1, 5)):
    """One landmark of one view."""

    def change(document):
        document["landmarks2d"][place[0]][place[1]] = value

    return lambda folder: edit(folder / "landmarks.json", change)


def drop_alpha(folder):
    for path in folder.glob("view_*.png"):
        Image.open(path).convert("RGB").save(path)


ONE_PLACE = [[[3.0, 3.0]] * 68] * 3
FEW_SEEN = [[j < 19 for j in range(68)]] * 3

CASES = {
    # masks and labels
    "mask empty": (picture("view_000_mask.png"), "view_000_mask.png marks nothing"),
    "mask full": (picture("view_000_mask.png", colour=255), "marks every pixel"),
    "mask of 0 and 1": (picture("view_000_mask.png", colour=1), "128 of 255"),
    "mask of another size": (picture("view_000_mask.png", size=(4, 4)), "view_000_mask.png is 4"),
    "mask corrupt": (put("view_000_mask.png", b"\x89PNG\r\n\x1a\n12345"), "view_000_mask.png"),
    "mask a folder": (as_folder("view_000_mask.png"), "view_000_mask.png"),
    "masks of some views": (
        lambda f: Image.open(f / "view_002.png").convert("RGB").save(f / "view_002.png"),
        "view_002.png have no mask",
    ),
    "no masks": (drop_alpha, "masks"),
    "all ignored": (picture("view_002_ignore.png", colour=255), "view_002_ignore.png"),
    "labels unknown": (label_image(77), "view_000_labels.png holds the label 77"),
    "labels of another size": (label_image(1, size=(3, 3)), "view_000_labels.png is 3 x 3"),
    "labels ignore everything": (label_image(17), "view_000.png is ignored"),
    "labels without names": (
        lambda f: (label_image(1)(f), (f / "labels.json").unlink()),
        "no labels.json",
        "bisenet",
    ),
    "label names broken": (label_image(1, "{]"), "labels.json cannot be read"),
    "label names unknown": (label_image(1, '{"labels": ["x", "skin"]}'), 'label 0 is called "x"'),
    "labels corrupt": (
        lambda f: (label_image(1)(f), put("view_000_labels.png", b"GIF89a")(f)),
        "view_000_labels.png",
    ),
    # landmarks
    "landmarks absent": (lambda f: (f / "landmarks.json").unlink(), "landmarks"),
    "landmarks no JSON": (put("landmarks.json", b"0 0\n1 1\n"), "landmarks.json"),
    "landmarks without points": (put("landmarks.json", b"{}"), "landmarks.json", "68, 2)"),
    "landmarks of 67 points": (marks(landmarks2d=[[[1, 1]] * 67] * 3), "(3, 67, 2)"),
    "landmarks in 3D": (marks(landmarks2d=[[[1, 1, 1]] * 68] * 3), "(3, 68, 3)"),
    "landmarks of text": (mark(["1", "2"]), "landmarks.json"),
    "landmarks of two views": (
        put("landmarks.json", json.dumps({"landmarks2d": [[[1, 1]] * 68] * 2}).encode()),
        "(2, 68, 2)",
        "(3, 68, 2)",
    ),
    "landmarks visible and NaN": (mark([NAN, 1]), "landmark 5 of view 1", "[nan, 1.0]"),
    "landmarks visible and null": (mark([1, None]), "landmark 5 of view 1"),
    "landmarks visible beyond all": (mark([1, 1e12]), "landmark 5 of view 1"),
    "19 landmarks valid": (marks(valid=[True] * 19 + [False] * 49), "only 19 of 68"),
    "no landmark valid": (marks(valid=[False] * 68), "landmarks.json holds no valid"),
    "valid of numbers": (marks(valid=[0.5] * 68), "valid is"),
    "visible of text": (marks(visible=[["true"] * 68] * 3), "visible is"),
    "visible of one view": (marks(visible=[[True] * 68]), "visible is", "(3, 68)"),
    "19 landmarks seen": (marks(visible=FEW_SEEN), "only 19 landmarks are seen"),
    "landmarks in one place": (marks(landmarks2d=ONE_PLACE), "within a few pixels"),
    "landmarks all outside": (marks(landmarks2d=[[[99, 99]] * 68] * 3), "landmarks are seen"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_folder_is_refused_in_one_message(capsys, subject, name):
    refuses_folder(capsys, subject, *CASES[name])
