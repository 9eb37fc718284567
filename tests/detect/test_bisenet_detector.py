"""Imported face parsing as a detector: where it looks, what its classes become, where they land."""

import dataclasses
import typing

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.cli.import_checkpoint import ImportCheckpoint
from jaxrecon.cli.main import main
from jaxrecon.detect import bisenet
from jaxrecon.detect.bisenet import bisenet_detector, cut, paste, square_of, whole
from jaxrecon.detect.detections import Detections, Face, face_box
from jaxrecon.detect.parsing_labels import face_labels_of, state_of
from jaxrecon.errors import InputError
from jaxrecon.interop.checkpoints import NETWORKS
from jaxrecon.interop.weights import save_weights
from jaxrecon.models.bisenet import Logits
from jaxrecon.models.resnet import IMAGE_MEAN, IMAGE_STD
from jaxrecon.types import FACE_LABELS
from tests.models.test_bisenet import CONFIG, STATE, reference

STEP = 13  # of red, from one class to the next
TABLE = face_labels_of("bisenet")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """As the command writes them."""
    folder = tmp_path_factory.mktemp("weights")
    np.savez(folder / "79999_iter.npz", **STATE)
    arguments = ["--network", "bisenet", "--out", str(folder / "parser")]
    assert main(["import-checkpoint", str(folder / "79999_iter.npz"), *arguments]) == 0
    return folder / "parser"


class _ByRed:
    """A network that reads the class off the red channel."""

    def __init__(self, config):
        assert config == CONFIG

    def apply(self, variables, images):
        assert images.shape == (1, 512, 512, 3)
        red = 255 * (images[..., :1] * IMAGE_STD[0] + IMAGE_MEAN[0])
        logits = -jnp.abs(red - STEP * jnp.arange(19.0)[None, None, None, :])
        return Logits(logits, 0 * logits, 0 * logits)


def _blocks(height, width, side=40):
    """(picture, classes): squares of all classes."""
    i, j = np.arange(height)[:, None] // side, np.arange(width)[None, :] // side
    classes = (3 * i + 5 * j) % 19
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = STEP * classes
    return image, classes


def _within_blocks(height, width, side=40, rim=4):
    """Pixels that are not near the edge of a square."""
    i, j = np.arange(height)[:, None] % side, np.arange(width)[None, :] % side
    return (i >= rim) & (i < side - rim) & (j >= rim) & (j < side - rim)


@pytest.mark.parametrize("size", [(300, 200), (640, 900), (512, 512)])
def test_a_whole_picture(monkeypatch, weights, size):
    monkeypatch.setattr(bisenet, "BiSeNet", _ByRed)
    image, classes = _blocks(*size)
    found = bisenet_detector(weights)(image)
    inner = _within_blocks(*size)
    np.testing.assert_array_equal(found.parsing[inner], TABLE[classes][inner])
    np.testing.assert_array_equal(found.mask, found.parsing > 0)
    assert found.mask.dtype == np.float32 and found.size == size and not found.faces
    assert found.sources == {"parsing": "BiSeNet (parser)", "mask": "BiSeNet (parser)"}


def test_around_a_face(monkeypatch, weights):
    """Of the best face, whose landmarks are kept; outside of the square is background."""
    monkeypatch.setattr(bisenet, "BiSeNet", _ByRed)
    image, classes = _blocks(300, 400)
    five = np.array([[100, 60], [140, 60], [120, 80], [105, 100], [135, 100]], np.float32)
    seen = Detections((300, 400), (Face(face_box(five), 0.9, five=five),), sources={"five": "x"})
    found = bisenet_detector(weights, lambda picture: seen)(image)
    left, top, side = square_of(seen.face, seen.size)
    assert (left, top, side) == (40, -16, 160)  # eyes 40 apart, the mouth 40 below them
    inner = _within_blocks(300, 400)
    inside = np.zeros((300, 400), bool)
    inside[: top + side, left : left + side] = True
    np.testing.assert_array_equal(found.parsing[inner & inside], TABLE[classes][inner & inside])
    assert not found.parsing[~inside].any() and found.face is seen.face
    assert found.sources == {
        "five": "x",
        "parsing": "BiSeNet (parser)",
        "mask": "BiSeNet (parser)",
    }


def test_without_a_face_there_is_nothing_to_parse(monkeypatch, weights):
    monkeypatch.setattr(bisenet, "BiSeNet", _ByRed)
    nobody = Detections((30, 40))
    assert bisenet_detector(weights, lambda picture: nobody)(np.zeros((30, 40, 3), np.uint8)) is (
        nobody
    )


def test_the_network_itself(monkeypatch, weights, rng):
    """On a picture of its own size (made small here), label for label by the authors' layers."""
    monkeypatch.setattr(bisenet, "SIDE", 72)
    image = rng.integers(0, 256, size=(72, 72, 3), dtype=np.uint8)
    found = bisenet_detector(weights)(image)
    seen = (image / 255 - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
    logits = reference(seen[None])[0][0]
    top = np.sort(logits, axis=-1)
    clear = top[..., -1] - top[..., -2] > 1e-3  # ties may fall either way
    expected = TABLE[logits.argmax(axis=-1)]
    assert clear.mean() > 0.9 and len(np.unique(expected)) > 2
    np.testing.assert_array_equal(found.parsing[clear], expected[clear])


def test_classes_keep_their_state():
    """Our label of a class is subject, background or to be ignored as the class itself is."""
    from jaxrecon.detect.parsing_labels import ORDERS

    for order, names in ORDERS.items():
        ours = [FACE_LABELS[i] for i in face_labels_of(order)]
        assert [state_of(n) for n in ours] == [state_of(n) for n in names]
        assert dict(zip(names, ours, strict=True)) | {"nose": "skin", "u_lip": "lips"} == dict(
            zip(names, ours, strict=True)
        )


LABELS = st.integers(0, len(FACE_LABELS) - 1)


@hypothesis.given(
    left=st.integers(-40, 60), top=st.integers(-40, 40), side=st.integers(1, 90), label=LABELS
)
@hypothesis.settings(max_examples=40)
def test_pasting_one_label(left, top, side, label):
    labels = np.full((16, 16), label, np.uint8)
    out = paste(labels, (left, top, side), (30, 50))
    y, x = np.mgrid[:30, :50] + 0.5
    inside = (x > left) & (x < left + side) & (y > top) & (y < top + side)
    np.testing.assert_array_equal(out, np.where(inside, label, 0))


def test_what_is_cut_is_pasted(rng):
    """Squares beyond the picture, enlarged eight times and back, pixel for pixel."""
    labels = 9 * rng.integers(0, 2, size=(70, 80)).astype(np.uint8)
    image = np.repeat(20 * labels[..., None], 3, axis=2)
    for square in ((10, 3, 64), (-20, -7, 64), (40, 30, 64)):
        seen = cut(image, square)
        grid = 9 * (seen[4::8, 4::8, 0] > 90)  # near the centre of each pixel
        assert seen.shape == (512, 512, 3)
        small = np.kron(grid, np.ones((8, 8))).astype(np.uint8)
        out = paste(small, square, (70, 80))
        left, top, side = square
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, 80), min(top + side, 70)
        np.testing.assert_array_equal(out[y0:y1, x0:x1], labels[y0:y1, x0:x1])
    beyond = cut(image, (-20, -7, 64))[:50, :150]
    assert np.abs(beyond / 255 - np.array(IMAGE_MEAN)).max() < 0.003


@pytest.mark.parametrize("size", [(30, 50), (50, 31), (8, 8)])
def test_the_whole_square_holds_the_picture(size):
    left, top, side = whole(size)
    assert left <= 0 and top <= 0 and side == max(size)
    assert left + side >= size[1] and top + side >= size[0]
    assert abs(2 * left + side - size[1]) <= 1 and abs(2 * top + side - size[0]) <= 1


def test_squares_agree_whatever_is_known_of_a_face(shared):
    """By 68 landmarks, by five, or by the box alone, of a face from the front."""
    import json

    document = json.loads((shared / "data/faceviews/ict2/landmarks.json").read_text())
    marks = np.float32(document["landmarks2d"][0])
    eyes = [marks[36:42].mean(0), marks[42:48].mean(0)]
    five = np.stack([*eyes, marks[30], marks[48], marks[54]])
    box = face_box(marks)
    by_marks = np.array(square_of(Face(box, 1.0, marks), (256, 256)))
    by_five = np.array(square_of(Face(box, 1.0, five=five), (256, 256)))
    by_box = np.array(square_of(Face(box, 1.0), (256, 256)))
    assert np.abs(by_marks - by_five).max() <= 1
    assert np.abs(by_marks - by_box).max() < 0.12 * by_marks[2]


def test_the_command_line_knows_every_network():
    assert typing.get_args(typing.get_type_hints(ImportCheckpoint)["network"]) == tuple(NETWORKS)


def test_other_weights_are_refused(weights, tmp_path):
    with pytest.raises(InputError):
        bisenet_detector(tmp_path / "none")
    tree = {"params": {"a": np.zeros(2, np.float32)}}
    save_weights(tmp_path / "other", tree, {"network": "spin", "config": {}})
    with pytest.raises(InputError, match="no weights of BiSeNet") as error:
        bisenet_detector(tmp_path / "other")
    assert "import-checkpoint" in error.value.remedy
    config = dataclasses.asdict(CONFIG)
    config["heads"]["classes"] = 11
    save_weights(tmp_path / "few", tree, {"network": "bisenet", "config": config})
    with pytest.raises(InputError, match="11 classes"):
        bisenet_detector(tmp_path / "few")
