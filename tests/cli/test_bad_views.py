"""`jaxrecon fit` with bad pictures: absent, broken, of the wrong kind, or none at all."""

import struct
import zlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from tests.cli.bad_input import (
    SOME,
    as_folder,
    label_image,
    loads_or_is_refused,
    put,
    refuses_folder,
    replace,
)
from tests.pipelines.views_folder import HEIGHT, WIDTH


def link_out(folder):
    other = folder.parent / "elsewhere.png"
    (folder / "view_001.png").rename(other)
    (folder / "view_001.png").symlink_to(other)


def loop(folder):
    (folder / "view_001.png").unlink()
    (folder / "view_001.png").symlink_to("view_001.png")


def bomb(folder):
    """A PNG of 100,000 x 100,000 pixels in a few bytes."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header
    chunk += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = (folder / "view_001.png").read_bytes()
    (folder / "view_001.png").write_bytes(data[:8] + chunk + data[33:])


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def only(name):
    def spoil(folder):
        empty(folder)
        (folder / name).write_bytes(b"0123456789")

    return spoil


CASES = {
    "view missing": (lambda f: (f / "view_001.png").unlink(), "view_001.png"),
    "view corrupt": (replace("view_001.png", lambda d: d[:60] + bytes(40) + d[100:]), "view_001"),
    "view truncated": (replace("view_001.png", lambda d: d[: len(d) // 2]), "view_001.png"),
    "view is text": (put("view_001.png", b"<html>404</html>"), "view_001.png"),
    "view of zero bytes": (put("view_001.png", b""), "view_001.png"),
    "view a bomb": (bomb, "view_001.png is too large"),
    "view a folder": (as_folder("view_001.png"), "view_001.png, which is not a file"),
    "view links outside": (link_out, "view_001.png"),
    "view links to itself": (loop, "view_001.png"),
    "view a GIF": (lambda f: Image.new("L", (16, 12)).save(f / "view_001.png", "GIF"), "view_001"),
    "folder empty": (empty, "no images in"),
    "folder of other formats": (only("IMG_0001.HEIC"), "no images in", "HEIC"),
    "folder of hidden files": (only("._view.png"), "no images in"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_bad_folder_is_refused_in_one_message(capsys, subject, name):
    refuses_folder(capsys, subject, *CASES[name])


@pytest.mark.parametrize("name", ["view_001.png", "view_000_mask.png", "view_000_labels.png"])
@SOME
@hypothesis.given(data=st.data())
def test_any_damage_of_a_picture_loads_or_is_refused(subject, name, data):
    if not (subject / "view_000_mask.png").exists():
        label_image(1)(subject)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[2:9, 2:9] = 255
        Image.fromarray(mask).save(subject / "view_000_mask.png")
    good = (subject / name).read_bytes()
    damaged = bytearray(good[: data.draw(st.integers(0, len(good)) | st.just(len(good)))])
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        (subject / name).write_bytes(damaged)
        loads_or_is_refused(subject)
    finally:
        (subject / name).write_bytes(good)
