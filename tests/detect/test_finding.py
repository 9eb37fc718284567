"""The pyramid, with a grid that is computed from the picture instead of a network."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.detect import finding
from jaxrecon.detect.crops import Crop
from jaxrecon.detect.finding import Candidate, Network, distinct, find, read_grid
from jaxrecon.detect.network import FIND_STRIDE, OFFSET, DetectorConfig

CONFIG = DetectorConfig(points=2, labels=2, size=64, reference=30.0, widths=(4,) * 5)


def grid_of(config, variables, images):
    """A cell for every red disc whose diameter is between 0.64 and 1.57 of the reference."""
    image = np.asarray(images[0])
    h, w = image.shape[0] // FIND_STRIDE, image.shape[1] // FIND_STRIDE
    grid = np.full((1, h, w, 4), -9.0, np.float32)
    red = image[..., 0] - image[..., 1] > 0.5
    if red.sum() < 4:
        return jnp.asarray(grid)
    v, u = np.nonzero(red)
    centre, diameter = np.array([u.mean(), v.mean()]) + 0.5, 2 * np.sqrt(red.sum() / np.pi)
    size = np.log(diameter / config.reference)
    if abs(size) < 0.45:
        j, i = (centre / FIND_STRIDE).astype(int)
        offset = (centre - (np.array([j, i]) + 0.5) * FIND_STRIDE) / OFFSET
        grid[0, i, j] = [4.0, *offset, size]
    return jnp.asarray(grid)


@pytest.mark.parametrize("diameter", [14, 40, 120, 300])
@pytest.mark.parametrize("shape", [(400, 640), (500, 320)])
def test_a_disc_of_any_size_is_found_where_it_is(monkeypatch, diameter, shape):
    monkeypatch.setattr(finding, "run_grid", grid_of)
    photo = np.zeros((*shape, 3), np.uint8)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    centre = np.array([shape[1] * 0.45, shape[0] * 0.52])
    photo[np.hypot(x - centre[0], y - centre[1]) < diameter / 2] = [255, 0, 0]
    found = find(Network(CONFIG, {}), photo, (64, 128, 256, 512, 1024))
    assert len(found) == 1
    assert np.linalg.norm(found[0].centre - centre) < 0.1 * diameter + 1
    assert abs(np.log(found[0].extent / diameter)) < 0.15
    assert found[0].score > 0.9


def test_nothing_is_found_where_nothing_is(monkeypatch):
    monkeypatch.setattr(finding, "run_grid", grid_of)
    photo = np.full((100, 100, 3), 90, np.uint8)
    assert find(Network(CONFIG, {}), photo, (64, 128)) == []


def test_one_cell_speaks_for_its_neighbours():
    grid = np.full((4, 4, 4), -9.0, np.float32)
    grid[1, 1] = [2.0, 0.0, 0.0, 0.0]
    grid[1, 2] = [1.0, 0.0, 0.0, 0.0]
    crop = Crop(np.array([100.0, 100.0]), 128.0, 0.0, 64)
    (one,) = read_grid(CONFIG, grid, crop)
    np.testing.assert_allclose(one.centre, crop.to_photo(np.array([24.0, 24.0])))
    assert one.extent == pytest.approx(60.0)
    assert one.score == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_wild_grids_stay_within_bounds():
    grid = np.full((2, 2, 4), 1e9, np.float32)
    crop = Crop(np.array([16.0, 16.0]), 32.0, 0.0, 32)
    for one in read_grid(CONFIG, grid, crop):
        assert np.isfinite(one.centre).all() and np.isfinite(one.extent) and one.score <= 1


def test_the_better_of_two_at_one_place_stays():
    def candidate(x, extent, score):
        return Candidate(np.array([x, 0.0]), extent, score)

    far = candidate(100.0, 40.0, 0.4)
    kept = distinct([candidate(0.0, 40.0, 0.6), candidate(10.0, 30.0, 0.9), far])
    assert [c.score for c in kept] == [0.9, 0.4]


def test_looking_twice_unmirrors(monkeypatch):
    # A "network" whose point 0 is the brightest red pixel, and point 1 the brightest green one.
    def run(config, variables, images):
        points = []
        for image in np.asarray(images):
            place = [np.unravel_index(image[..., c].argmax(), image.shape[:2]) for c in (0, 1)]
            points.append([[j + 0.5, i + 0.5] for i, j in place])
        b, s = len(images), config.size
        labels = jnp.asarray(images)[..., :2]
        zeros = jnp.zeros((b, 2))
        # In the mirrored picture green is called 0, as right and left are.
        points = np.asarray(points, np.float32)
        points[1] = points[1][::-1]
        return finding.Output(
            jnp.zeros((b, s // 4, s // 4, 2)), points, zeros, zeros, labels, jnp.zeros((b, 4, 4, 4))
        )

    monkeypatch.setattr(finding, "run", run)
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[10, 20, 0] = 255
    photo[40, 50, 1] = 255
    crop = Crop(np.array([32.0, 32.0]), 64.0, 0.0, 64)
    out = finding.look(Network(CONFIG, {}), photo, crop, np.array([1, 0]))
    np.testing.assert_allclose(out.points, [[20.5, 10.5], [50.5, 40.5]], atol=1e-4)
    assert out.labels[10, 20, 0] == pytest.approx(1.0)
