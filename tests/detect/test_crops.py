"""Crops against the closed form: a picture whose colours are linear in the place."""

import numpy as np
import pytest

from jaxrecon.detect.crops import GREY, Crop, cut, feather, paste


def ramp(height, width):
    """Colours (x, y, x + y) / 512 of pixel centres."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.round(np.stack([x, y, x + y], -1) / 512 * 255).astype(np.uint8)


def at(points):
    x, y = points[..., 0], points[..., 1]
    return np.stack([x, y, x + y], -1) / 512


@pytest.mark.parametrize("side", [60.0, 120.0, 240.0])
@pytest.mark.parametrize("angle", [0.0, 0.5, -1.2])
def test_cut_shows_what_is_at_the_mapped_pixels(side, angle):
    crop = Crop(np.array([130.0, 120.0]), side, angle, 64)
    y, x = np.mgrid[:64, :64] + 0.5
    places = crop.to_photo(np.stack([x, y], -1).reshape(-1, 2)).reshape(64, 64, 2)
    inside = ((places > 8) & (places < [252, 232])).all(-1)
    assert inside.mean() > 0.5
    got = cut(ramp(240, 260), crop)
    assert np.abs(got - at(places))[inside].max() < 0.006  # 8 bits, rounded twice or thrice


def test_a_turned_crop_turns_the_axes():
    crop = Crop(np.array([50.0, 60.0]), 40.0, np.pi / 2, 20)
    # The crop's x axis points down the photograph.
    np.testing.assert_allclose(crop.to_photo(np.array([[20.0, 10.0]])), [[50.0, 80.0]])
    np.testing.assert_allclose(crop.to_photo(np.array([[10.0, 10.0]])), [[50.0, 60.0]])


def test_beyond_the_photograph_is_grey():
    crop = Crop(np.array([0.0, 50.0]), 100.0, 0.0, 50)
    got = cut(np.zeros((100, 100, 3), np.uint8), crop)
    assert (got[:, :24] == np.float32(GREY / 255)).all()
    assert (got[:, 26:] == 0).all()
    nowhere = Crop(np.array([-500.0, 50.0]), 100.0, 0.0, 50)
    assert (cut(np.zeros((100, 100, 3), np.uint8), nowhere) == np.float32(GREY / 255)).all()
    assert paste(np.ones((50, 50, 1), np.float32), nowhere, (100, 100))[0].size == 0


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_paste_brings_values_back_to_their_pixels(angle):
    crop = Crop(np.array([90.0, 70.0]), 80.0, angle, 160)
    y, x = np.mgrid[:160, :160] + 0.5
    places = crop.to_photo(np.stack([x, y], -1).reshape(-1, 2)).reshape(160, 160, 2)
    values, where = paste(at(places).astype(np.float32), crop, (150, 170))
    v, u = np.mgrid[where] + 0.5
    inside = values[..., 2] > 0
    assert 0.8 * 80**2 < inside.sum() <= 1.05 * 80**2
    # Away from the crop's rim, where values mix with nothing.
    core = np.linalg.norm(np.stack([u, v], -1) - crop.centre, axis=-1) < 36
    truth = at(np.stack([u, v], -1))
    assert np.abs(values - truth)[core].max() < 1e-3


def test_large_photographs_are_averaged_not_sampled():
    photo = np.zeros((800, 800, 3), np.uint8)
    photo[::2] = 255  # stripes finer than the crop's pixels
    for side in (180.0, 320.0, 640.0):  # 2.25, 4 and 8 pixels of the photograph for one
        got = cut(photo, Crop(np.array([400.0, 400.0]), side, 0.0, 80))
        assert np.abs(got - 0.5).max() < 0.15 and np.abs(got.mean() - 0.5) < 0.01


def test_feather_falls_to_the_rim_only():
    w = feather(100, 0.1)
    assert w[50, 50] == 1 and w[15, 15] == 1
    assert 0 < w[0, 50] < 0.1
    np.testing.assert_allclose(w, w[::-1].T)
