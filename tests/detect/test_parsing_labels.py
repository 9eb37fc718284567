"""Face parsing becomes masks of three states, whatever way a file stores the numbers."""

import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines.morphable_heads import head
from jaxrecon import images
from jaxrecon.detect import parsing_labels
from jaxrecon.detect.parsing_labels import BACKGROUND, IGNORE, ORDERS, SUBJECT, UNKNOWN
from jaxrecon.errors import InputError
from jaxrecon.pipelines.views import load_views
from tests.pipelines.views_folder import HEIGHT, WIDTH, rgba

LABELS = np.array([[0, 1, 13, 14], [15, 16, 17, 18], [6, 2, 0, 0]], np.uint8)


def _write(folder, labels=LABELS, names="bisenet"):
    """One photograph without a mask, its labels and what they mean."""
    Image.new("RGB", labels.shape[::-1]).save(folder / "a.png")
    Image.fromarray(labels).save(folder / "a_labels.png")
    (folder / "labels.json").write_text(json.dumps({"labels": names}))
    return folder


def test_states_of_names():
    expected = {
        SUBJECT: ("skin", "nose", "l_brow", "r_ear", "Upper Lip", "left-eye", "mouth", "neck"),
        BACKGROUND: ("background", "Background "),
        IGNORE: ("hair", "hat", "cloth", "eye_g", "ear_r", "neck_l", "hand", "left hand", "other"),
        UNKNOWN: ("", "l_", "nosering", "l_l_eye", "background2"),
    }
    for state, names in expected.items():
        for name in names:
            assert parsing_labels.state_of(name) == state, name


@pytest.mark.parametrize("order", ORDERS)
def test_the_two_orders_hold_the_same_classes_elsewhere(order):
    names = ORDERS[order]
    assert len(set(names)) == 19 and sorted(names) == sorted(ORDERS["bisenet"])
    states = [parsing_labels.state_of(n) for n in names]
    assert states.count(IGNORE) == 6 and states[0] == BACKGROUND and states.count(SUBJECT) == 12
    assert names[{"bisenet": 17, "celebamask-hq": 13}[order]] == "hair"


def test_the_heads_of_our_own_builder(tmp_path):
    labels = np.arange(9, dtype=np.uint8)[None].repeat(2, 0)
    views = load_views(_write(tmp_path, labels, list(head.LABELS)))
    hair = head.LABELS.index("hair")
    np.testing.assert_array_equal(views.valid[0, 0], np.arange(9) != hair)
    np.testing.assert_array_equal(views.mask[0, 0], [0, 1, 1, 1, 1, 1, 0, 1, 1])


def test_labels_alone_give_the_mask(tmp_path):
    views = load_views(_write(tmp_path))
    np.testing.assert_array_equal(views.mask[0], [[0, 1, 1, 1], [0] * 4, [0, 1, 0, 0]])
    np.testing.assert_array_equal(views.valid[0], [[1] * 4, [0] * 4, [0, 1, 1, 1]])


@pytest.mark.parametrize("alpha", [True, False])
def test_a_mask_decides_and_labels_only_ignore(tmp_path, alpha):
    _write(tmp_path)
    mask = np.zeros((3, 4), np.uint8)
    mask[1:] = 255  # the labels disagree nearly everywhere
    if alpha:
        picture = np.dstack([np.zeros((3, 4, 3), np.uint8), mask])
        Image.fromarray(picture).save(tmp_path / "a.png")
    else:
        Image.fromarray(mask).save(tmp_path / "a_mask.png")
    views = load_views(tmp_path)
    np.testing.assert_array_equal(views.mask[0], mask > 0)
    np.testing.assert_array_equal(views.valid[0], [[1] * 4, [0] * 4, [0, 1, 1, 1]])


def test_ignored_by_a_file_and_by_labels_and_an_opaque_picture(tmp_path):
    _write(tmp_path)
    Image.new("RGBA", (4, 3), (9, 9, 9, 255)).save(tmp_path / "a.png")
    ignore = np.zeros((3, 4), np.uint8)
    ignore[0] = 255
    Image.fromarray(ignore).save(tmp_path / "a_ignore.png")
    views = load_views(tmp_path)
    np.testing.assert_array_equal(views.valid[0], [[0] * 4, [0] * 4, [0, 1, 1, 1]])
    assert views.mask[0].sum() == 4


def _png(path, labels, bits):
    """A greyscale PNG of 1, 2, 4 bits, written by hand: Pillow only writes 1, 8 and 16."""
    import struct
    import zlib

    height, width = labels.shape
    rows = b""
    for row in labels:
        text = "".join(f"{v:0{bits}b}" for v in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + int(text, 2).to_bytes(len(text) // 8, "big")

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize("store", ["L", "P", "I;16", 1, 2, 4])
def test_numbers_are_read_as_they_are_stored(tmp_path, store):
    highest = 18 if isinstance(store, str) else 2**store - 1
    labels = np.minimum(LABELS, highest)
    path = tmp_path / "a_labels.png"
    if isinstance(store, int):
        _png(path, labels, store)
    elif store == "P":
        picture = Image.fromarray(labels).copy()
        picture.putpalette([(37 * i) % 256 for i in range(768)])
        assert picture.mode == "P"
        picture.save(path)
    else:
        Image.fromarray(labels.astype(np.uint16 if store == "I;16" else np.uint8)).save(path)
    np.testing.assert_array_equal(images.read_indices(path), labels)


def _save(picture, name="a_labels.png"):
    return lambda folder: picture.save(folder / name)


def _names(value):
    return lambda folder: (folder / "labels.json").write_text(json.dumps({"labels": value}))


def _text(name, text):
    return lambda folder: (folder / name).write_text(text)


BAD = {
    "no names": (lambda f: (f / "labels.json").unlink(), "no labels.json says what"),
    "names broken": (_text("labels.json", "{"), "labels.json cannot be read as JSON"),
    "names without labels": (_text("labels.json", "{}"), 'has no "labels"'),
    "names null": (_names(None), 'has no "labels"'),
    "order unknown": (_names("celeba"), 'labels is "celeba"'),
    "names empty": (_names([]), r"labels is \[\]"),
    "names not text": (_names(["background", 3]), "labels is"),
    "number too large": (_names({"0": "background", "256": "skin"}), "labels is"),
    "number no number": (_names({"zero": "background"}), "labels is"),
    "too many names": (_names(["skin"] * 257), "labels is"),
    "a name unknown": (_names(["background", "nosering"]), 'label 1 is called "nosering"'),
    "a label unnamed": (_names(["background", "skin"]), "a_labels.png holds the label 2 and 7 oth"),
    "a label of 16 bits": (_save(Image.fromarray(np.full((3, 4), 300, np.uint16))), "label 300"),
    "colours": (_save(Image.new("RGB", (4, 3), (1, 1, 1))), "pixels as RGB, not as one number"),
    "grey and alpha": (_save(Image.new("LA", (4, 3))), "pixels as LA"),
    "size": (_save(Image.new("L", (3, 4), 1)), "a_labels.png is 3 x 4 pixels"),
    "nothing": (_save(Image.new("L", (4, 3))), "labels of .*a_labels.png mark nothing"),
    "everything": (_save(Image.new("L", (4, 3), 1)), "labels of .* mark every pixel"),
    "all ignored": (_save(Image.new("L", (4, 3), 17)), "labels of .* mark nothing"),
    "not an image": (_text("a_labels.png", "12"), "a_labels.png is not an image"),
    "a folder": (
        lambda f: ((f / "a_labels.png").unlink(), (f / "a_labels.png").mkdir()),
        "no image at .*a_labels.png, which is not a file",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_labels_are_refused(tmp_path, name):
    spoil, message = BAD[name]
    spoil(_write(tmp_path))
    with pytest.raises(InputError, match=message) as error:
        load_views(tmp_path)
    assert error.value.expected


def test_jpeg_labels_are_refused(tmp_path):
    """Whatever their name: compression invents labels."""
    _write(tmp_path)
    Image.fromarray(LABELS).save(tmp_path / "a_labels.png", format="JPEG")
    with pytest.raises(InputError, match="not an image"):
        load_views(tmp_path)


def test_ignoring_all_of_the_subject_is_refused(tmp_path, rng):
    Image.fromarray(rgba(rng)).save(tmp_path / "a.png")
    ignore = np.zeros((HEIGHT, WIDTH), np.uint8)
    ignore[3:9, 4:12] = 255
    Image.fromarray(ignore).save(tmp_path / "a_ignore.png")
    with pytest.raises(InputError, match="everything of the subject in .*a.png is ignored"):
        load_views(tmp_path)


def test_labels_are_no_photographs(tmp_path):
    _write(tmp_path)
    assert load_views(tmp_path).names == ("a.png",)
    assert load_views(tmp_path / "a.png").mask.sum() == 4


# ---------------------------------------------------------------- black and white masks


def _mask(mode):
    """The right half white, in one way of storing it."""
    half = np.zeros((2, 4), bool)
    half[:, 2:] = True
    if mode == "P":  # white comes first in this palette
        picture = Image.fromarray((~half).astype(np.uint8))
        picture.putpalette([255, 255, 255, 0, 0, 0])
        return picture
    if mode == "I;16":
        return Image.fromarray(np.where(half, 65535, 300).astype(np.uint16))
    if mode == "transparent":  # white paper, cut out
        return Image.fromarray(np.dstack([np.full((2, 4, 3), 255), half * 255]).astype(np.uint8))
    grey = Image.fromarray((half * 255).astype(np.uint8))
    return grey.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "transparent"])
def test_masks_are_read_in_every_mode(tmp_path, mode):
    _mask(mode).save(tmp_path / "m.png")
    np.testing.assert_array_equal(
        images.read_mask(tmp_path / "m.png"), [[False, False, True, True]] * 2
    )
