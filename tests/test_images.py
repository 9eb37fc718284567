"""Photographs as cameras write them: EXIF turns and focal lengths, bit depths, colour modes."""

import numpy as np
import pytest
from PIL import Image

from jaxrecon import images
from jaxrecon.pipelines.views import load_views
from tests.pipelines.views_folder import K, write_cameras


def test_exif_rotation_is_applied(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate a quarter clockwise to see it upright
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = load_views(tmp_path).images[0]
    assert upright.shape == (16, 8, 3)
    assert upright[:7].mean() > 0.95 and upright[9:].mean() < 0.05


def write_film(path, focal, size=None, pixels=(16, 12)):
    """A photograph whose EXIF data tell a focal length on 35 mm film, and its size in pixels."""
    exif = Image.Exif()
    exif[0x010F] = "maker"  # Pillow leaves EXIF data without a first tag out of PNG files
    tags = exif.get_ifd(0x8769)
    tags[0xA405] = focal
    if size is not None:
        tags[0xA002], tags[0xA003] = size
    Image.new("RGB", pixels).save(path, exif=exif)


def test_exif_tells_focal_lengths_where_no_camera_does(tmp_path):
    write_film(tmp_path / "a.jpg", 26)
    write_film(tmp_path / "b.png", 50, (4000, 3000))  # scaled
    write_film(tmp_path / "c.jpg", 70, (3000, 4000))  # turned, and saved so
    assert load_views(tmp_path).film_focal.tolist() == [26, 50, 70]
    assert load_views(tmp_path, (2,)).film_focal.tolist() == [70]
    write_cameras(tmp_path, [{"file": "a.jpg", "K": K}])
    assert load_views(tmp_path).film_focal is None
    write_cameras(tmp_path, [{"file": "a.jpg"}])
    assert load_views(tmp_path).film_focal.tolist() == [26]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: Image.new("RGB", (16, 12)).save(path),
        lambda path: write_film(path, 0),  # unknown, says the standard
        lambda path: write_film(path, 30_000),
        lambda path: write_film(path, 26, (4000, 2000)),  # cropped
        lambda path: write_film(path, 26, (0, 0)),
    ],
)
def test_one_photograph_whose_exif_is_of_no_use_hides_the_others(tmp_path, write):
    write_film(tmp_path / "a.jpg", 26, (4032, 3024))
    assert load_views(tmp_path).film_focal.tolist() == [26]
    write(tmp_path / "b.jpg")
    assert load_views(tmp_path).film_focal is None


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_greyscale_keeps_its_depth(tmp_path, suffix):
    pixels = np.array([[0, 65535], [257, 258]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    colour, alpha = images.read_image(tmp_path / f"a{suffix}")
    assert alpha is None and colour.shape == (2, 2, 3)
    np.testing.assert_allclose(colour[..., 1], pixels / 65535, atol=1e-7)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_other_modes(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode).save(path)
    colour, alpha = images.read_image(path)
    np.testing.assert_array_equal(colour, np.ones((2, 3, 3)))
    assert (alpha is not None) == (mode in ("LA", "RGBA"))
