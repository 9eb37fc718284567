"""The detectors' network: its heads against NumPy, and what being convolutional means."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.detect.network import (
    FIND_STRIDE,
    FIRST_LOG_SPREAD,
    POINT_STRIDE,
    DetectorConfig,
    DetectorNetwork,
    _Pointwise,
    depth_to_space,
    double,
    mean_places,
    softmax_maps,
)

TINY = DetectorConfig(points=3, labels=4, size=64, widths=(4,) * 5, up_widths=(4,) * 4)


@pytest.fixture(scope="module")
def variables():
    return DetectorNetwork(TINY).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def test_shapes(variables):
    out = DetectorNetwork(TINY).apply(variables, jnp.zeros((2, 64, 96, 3)))
    assert out.maps.shape == (2, 64 // POINT_STRIDE, 96 // POINT_STRIDE, 3)
    assert out.points.shape == (2, 3, 2)
    assert out.log_spread.shape == out.visible.shape == (2, 3)
    assert out.labels.shape == (2, 64, 96, 4)
    assert out.found.shape == (2, 64 // FIND_STRIDE, 96 // FIND_STRIDE, 4)


def test_depth_to_space_and_double():
    x = np.arange(2 * 2 * 3 * 8, dtype=np.float32).reshape(2, 2, 3, 8)
    got = np.asarray(depth_to_space(jnp.asarray(x)))
    for i in range(4):
        for j in range(6):
            quarter = 2 * (i % 2) + j % 2
            np.testing.assert_array_equal(
                got[:, i, j], x[:, i // 2, j // 2, 2 * quarter : 2 * quarter + 2]
            )
    np.testing.assert_array_equal(double(jnp.asarray(x)), x.repeat(2, 1).repeat(2, 2))


def test_products_of_matrices_are_convolutions_of_one_pixel(variables):
    x = jax.random.normal(jax.random.key(1), (2, 5, 3, 4))
    heads = {name: p for name, p in variables["params"].items() if "kernel" in p}
    assert {"found", "maps", "readings", "labels", "up3_in", "up0_skip"} <= set(heads)
    for head in heads.values():
        width = head["kernel"].shape[-1]
        conv = nn.Conv(width, (1, 1))
        wanted = conv.apply({"params": head}, x[..., :1].repeat(head["kernel"].shape[2], -1))
        got = _Pointwise(width).apply(
            {"params": head}, x[..., :1].repeat(head["kernel"].shape[2], -1)
        )
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_places_are_means_under_the_softmax():
    maps = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    p = np.exp(maps) / np.exp(maps).sum((1, 2), keepdims=True)
    y, x = np.mgrid[:5, :7] + 0.5
    truth = np.stack([(p * x[..., None]).sum((1, 2)), (p * y[..., None]).sum((1, 2))], -1)
    got = softmax_maps(jnp.asarray(maps))
    np.testing.assert_allclose(got, p, rtol=1e-5)
    np.testing.assert_allclose(mean_places(got), truth, rtol=1e-5)


def test_a_peak_is_a_point_at_its_cell_s_centre():
    maps = np.full((1, 16, 16, 1), -40.0, np.float32)
    maps[0, 3, 9] = 40.0
    places = mean_places(softmax_maps(jnp.asarray(maps)))
    np.testing.assert_allclose(POINT_STRIDE * places[0, 0], [38.0, 14.0], atol=1e-4)


def test_it_sees_the_same_wherever_it_is(variables):
    # Moved by 32 pixels, the coarsest stride, all answers move with the picture.
    # (So far from the border that its padding does not reach the place.)
    image = np.full((1, 640, 640, 3), 0.5, np.float32)
    image[0, 288:320, 288:320] = np.random.default_rng(0).uniform(size=(32, 32, 3))
    moved = np.roll(image, 32, axis=2)
    network = DetectorNetwork(TINY)
    a, b = network.apply(variables, image), network.apply(variables, moved)
    here, there = np.s_[:, 288:320, 288:320], np.s_[:, 288:320, 320:352]
    np.testing.assert_allclose(b.labels[there], a.labels[here], atol=1e-4)
    here, there = np.s_[:, 18:20, 18:20], np.s_[:, 18:20, 20:22]
    np.testing.assert_allclose(b.found[there], a.found[here], atol=1e-4)
    assert np.ptp(a.labels[0, 288:320, 288:320], axis=(0, 1)).max() > 0.1


def test_an_untrained_network_is_unsure(variables):
    out = DetectorNetwork(TINY).apply(variables, jnp.full((1, 64, 64, 3), 0.3))
    assert np.abs(out.log_spread - FIRST_LOG_SPREAD).mean() < 2.5
    assert out.found[..., 0].mean() < -1


@pytest.mark.parametrize(
    "change",
    [
        {"size": 100},
        {"size": 32},
        {"widths": (4,) * 4},
        {"points": 0},
        {"labels": 1},
        {"blocks": (1,) * 4},
        {"up_blocks": (0, 0, 0, -1)},
    ],
)
def test_impossible_networks_are_refused(change):
    with pytest.raises(ValueError):
        DetectorConfig(**{"size": 64, **change})
