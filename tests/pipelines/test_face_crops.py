"""Aligned face crops against recordings of Deep3DFaceRecon's, and their geometry."""

import pathlib

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.pipelines.face_crops import STANDARD_POINTS, align_face, five_points

RECORDED = np.load(pathlib.Path(__file__).parents[1] / "parity" / "deep3d_align.npz")
IMAGE = RECORDED["image_u8"]


def _pixels(points, height):
    """The authors' points (indices, y up) as ours (centres at + 0.5, y down)."""
    points = points.astype(np.float64)
    return np.stack([points[:, 0], height - 1 - points[:, 1]], axis=1) + 0.5


LANDMARKS = _pixels(RECORDED["landmarks5_yup"], len(IMAGE))


def test_crop_is_the_recorded_one():
    crop = align_face(IMAGE, LANDMARKS, RECORDED["lm3d_std"].astype(np.float64))
    np.testing.assert_array_equal(crop.image, RECORDED["out_image"])
    np.testing.assert_allclose(crop.landmarks, _pixels(RECORDED["out_landmarks"], 224), atol=1e-9)
    _, _, scale, tx, ty = RECORDED["out_trans_params"]
    assert crop.scale == pytest.approx(scale, rel=1e-12)
    centre = _pixels(np.array([[tx, ty]]), len(IMAGE))[0]
    np.testing.assert_allclose(crop.centre, centre, atol=1e-9)
    ours = align_face(IMAGE, LANDMARKS)
    np.testing.assert_array_equal(ours.image, crop.image)


def test_five_of_68_points():
    points = RECORDED["landmarks68"].astype(np.float64)
    np.testing.assert_allclose(five_points(points), RECORDED["out_five_points"], atol=1e-4)
    all_points = np.zeros((68, 2))
    all_points[[36, 39, 42, 45, 30, 48, 54]] = LANDMARKS[[0, 0, 1, 1, 2, 3, 4]]
    np.testing.assert_array_equal(align_face(IMAGE, all_points).image, RECORDED["out_image"])


@pytest.mark.parametrize("grow", [0.6, 1.9])
def test_the_map_shows_where_pixels_went(grow):
    """A smooth picture whose colours are its coordinates, read back in the crop."""
    h, w = 260, 310
    v, u = np.mgrid[:h, :w] + 0.5
    picture = np.stack([255 * u / w, 255 * v / h, np.full_like(u, 128)], axis=-1)
    points = (102 / grow * STANDARD_POINTS[:, :2]) * [1, -1] + [150.0, 140.0]
    crop = align_face(np.round(picture).astype(np.uint8), points)
    assert crop.scale == pytest.approx(grow, rel=1e-6)
    np.testing.assert_allclose(crop.centre, [150, 140], atol=1e-6)
    inside = crop.image[..., 2] > 0  # beyond the picture all is black
    rows, columns = np.nonzero(inside)
    A = crop.A_crop_image
    source = (np.stack([columns, rows], axis=1) + 0.5 - A[:, 2]) / np.diag(A)
    found = crop.image[rows, columns, :2] / 255 * [w, h]
    assert inside.mean() > 0.3 and np.abs(found - source).max() < 2.0
    np.testing.assert_allclose(
        crop.landmarks, points @ np.diag(np.diag(A)) + A[:, 2], atol=2.5
    )  # the authors' landmarks leave out that sizes and corners are rounded


def test_what_shows_no_face_is_refused(rng):
    nan = LANDMARKS.copy()
    nan[0, 0] = np.nan
    for points, message in (
        (nan, "5 landmarks"),
        (LANDMARKS[:4], "4 landmarks"),
        (np.full((5, 2), 100.0), "within 0 pixels"),
        (100 + LANDMARKS * 1e-5, "pixels of a picture of 260 x 300"),
        (LANDMARKS * 1e5, "pixels of a picture of 260 x 300"),
    ):
        with pytest.raises(InputError, match=message):
            align_face(IMAGE, points)
