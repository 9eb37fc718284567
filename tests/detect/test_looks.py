"""Several looks as one answer, against closed forms."""

import numpy as np
import pytest

from jaxrecon.detect.crops import Crop
from jaxrecon.detect.looks import (
    ROOM,
    _within,
    canvas_around,
    labels_of,
    lay,
    points_of,
)
from jaxrecon.detect.network import Output

MIDDLE = np.array([150.0, 130.0])
SHAPE = (260, 300)


def places_of(crop):
    y, x = np.mgrid[: crop.size, : crop.size] + 0.5
    places = crop.to_photo(np.stack([x, y], -1).reshape(-1, 2))
    return places.reshape(crop.size, crop.size, 2)


def shares(places):
    """Probabilities of three labels that are linear in the place."""
    x, y = 0.2 + places[..., 0] / 600, places[..., 1] / 700
    return np.stack([1 - x - y, x, y], -1).astype(np.float32)


def seen(crop, labels):
    return crop, Output(None, None, None, None, labels, None)


@pytest.mark.parametrize("angle", [0.0, 0.8, -2.0])
def test_a_crop_within_the_canvas_shows_the_same_places(angle):
    canvas = Crop(MIDDLE, 120.0, angle, 184)
    crop = Crop(MIDDLE + [9.0, -7.0], 50.0, angle + 0.3, 64)
    pixels = np.random.default_rng(0).uniform(0, 64, (20, 2))
    there = canvas.to_photo(_within(crop, canvas).to_photo(pixels))
    np.testing.assert_allclose(there, crop.to_photo(pixels), atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_looks_that_agree_are_what_each_says(angle):
    wide = [Crop(MIDDLE, side, angle + turn, 64) for side, turn in ((150.0, 0.1), (120.0, -0.1))]
    close = [Crop(MIDDLE, 60.0, angle, 64)]
    layers = [([seen(c, shares(places_of(c))) for c in crops], 0.05) for crops in (wide, close)]
    canvas = canvas_around(Crop(MIDDLE, 150.0, angle, 64))
    assert canvas.size == round(ROOM * 128) and canvas.side == ROOM * 150.0
    values = lay(canvas, layers)
    np.testing.assert_allclose(values.sum(-1), 1.0, atol=1e-5)
    labels, mask = labels_of(values, canvas, SHAPE)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    truth = shares(np.stack([x, y], -1))
    away = np.hypot(x - MIDDLE[0], y - MIDDLE[1])
    np.testing.assert_allclose(mask[away < 60], 1 - truth[away < 60][:, 0], atol=2e-3)
    margin = np.sort(truth, -1)[..., 2] - np.sort(truth, -1)[..., 1]
    clear = (away < 60) & (margin > 0.01)
    np.testing.assert_array_equal(labels[clear], truth.argmax(-1)[clear])
    assert not labels[away > 130].any() and not mask[away > 130].any()
    assert labels.dtype == np.uint8 and mask.dtype == np.float32


def test_looks_that_differ_are_averaged_and_closer_ones_cover():
    def says(side, *values):
        return seen(Crop(MIDDLE, side, 0.0, 64), np.tile(np.float32(values), (64, 64, 1)))

    wide = [says(200.0, 0.2, 0.8, 0.0), says(200.0, 0.4, 0.0, 0.6)]
    canvas = canvas_around(wide[0][0])
    values = lay(canvas, [(wide, 0.01), ([says(50.0, 0.1, 0.2, 0.7)], 0.2)])
    labels, mask = labels_of(values, canvas, SHAPE)
    assert labels[130, 150] == 2 and mask[130, 150] == pytest.approx(0.9, abs=1e-5)
    assert labels[130, 200] == 1 and mask[130, 200] == pytest.approx(0.7, abs=1e-5)
    assert labels[130, 280] == 0 and mask[130, 280] == 0
    # Between the two the close one fades: 22 pixels out, 3 of the 10 of its rim are left.
    assert mask[130, 172] == pytest.approx(0.7 + 0.2 * 0.25, abs=0.02)


def test_points_are_weighted_by_their_precision():
    crops = [Crop(MIDDLE, 128.0, 0.0, 64), Crop(MIDDLE, 64.0, 0.5, 64)]
    rng = np.random.default_rng(1)
    points, logs, visible = (
        rng.uniform(10, 50, (2, 5, 2)),
        rng.normal(size=(2, 5)),
        rng.random((2, 5)),
    )
    looks = [
        (
            c,
            Output(
                None, p.astype(np.float32), s.astype(np.float32), v.astype(np.float32), None, None
            ),
        )
        for c, p, s, v in zip(crops, points, logs, visible, strict=True)
    ]
    sigma = np.exp(logs) * np.array([2.0, 1.0])[:, None]
    there = np.stack([c.to_photo(p) for c, p in zip(crops, points, strict=True)])
    weight = (sigma**-2 / (sigma**-2).sum(0))[..., None]
    got = points_of(looks)
    np.testing.assert_allclose(got.places, (weight * there).sum(0), rtol=1e-5)
    np.testing.assert_allclose(got.sigma, np.sqrt(sigma[0] * sigma[1]), rtol=1e-5)
    np.testing.assert_allclose(got.visible, visible.mean(0), rtol=1e-5)
