"""Bilinear values: exact for planes and at pixel centres, with their slope as gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.geometry.interpolation import bilinear


def plane(height=5, width=7):
    """Colours that are linear in the place of a pixel's centre."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([2 * x - y + 1, 0.5 * x + 3 * y], -1)


def test_planes_are_reproduced_with_their_slopes(rng):
    with jax.enable_x64(True):
        at = rng.uniform([0.5, 0.5], [6.5, 4.5], (3, 4, 2))
        values, slope = jax.jvp(
            lambda p: bilinear(plane(), p), (jnp.asarray(at),), (jnp.ones_like(at),)
        )
        expected = np.stack(
            [2 * at[..., 0] - at[..., 1] + 1, 0.5 * at[..., 0] + 3 * at[..., 1]], -1
        )
        np.testing.assert_allclose(values, expected, rtol=1e-12)
        np.testing.assert_allclose(slope, np.broadcast_to([1.0, 3.5], values.shape), rtol=1e-12)


def test_pixel_centres_have_their_own_value(rng):
    image = rng.uniform(0, 1, (4, 3, 3)).astype(np.float32)
    x, y = np.meshgrid(np.arange(3) + 0.5, np.arange(4) + 0.5)
    centres = np.stack([x, y], -1).astype(np.float32)
    np.testing.assert_array_equal(bilinear(image, centres), image)


@pytest.mark.parametrize("outside", [(-3.0, 0.5), (0.2, -1.0)])
def test_outside_is_the_border(rng, outside):
    image = rng.uniform(0, 1, (4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(bilinear(image, np.float32(outside)), image[0, 0], rtol=1e-6)
    np.testing.assert_allclose(bilinear(image, np.float32([99.0, 99.0])), image[-1, -1], rtol=1e-6)


def test_half_way_is_the_mean(rng):
    image = rng.uniform(0, 1, (2, 2, 1)).astype(np.float32)
    np.testing.assert_allclose(
        bilinear(image, np.float32([1.0, 1.0])), image.mean((0, 1)), rtol=1e-6
    )
