"""Marching of occupancies: the same surfaces as the distances they were made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxrecon.errors import InputError
from jaxrecon.geometry.occupancy import MarchConfig, march, march_rays
from jaxrecon.types import field
from tests.geometry import shapes

CONFIG = MarchConfig(radius=1.0, tolerance=1e-3)
SPHERE = field(shapes.occupancy_of, 100.0, Partial(shapes.sphere, shapes.SPHERE), kind="occupancy")


def closed_form(o, d, radius=0.5):
    o, d = np.asarray(o, np.float64), np.asarray(d, np.float64)
    along = -np.sum(o * d, axis=-1)
    discriminant = along**2 - np.sum(o * o, axis=-1) + radius**2
    return discriminant > 0, along - np.sqrt(np.maximum(discriminant, 0))


def test_marching_finds_the_sphere_of_an_occupancy():
    o, d = shapes.rays_towards(0, 1024)
    trace = march_rays(SPHERE, o, d, CONFIG)
    truth, depth = closed_form(o, d)
    # a chord shorter than a step may fall between samples
    step = 2.0 / (CONFIG.samples - 1)
    sure = closed_form(o, d, np.sqrt(0.25 - (step / 2) ** 2))[0]
    hit = np.asarray(trace.hit)
    assert np.all(hit[sure]) and not np.any(hit & ~truth) and 0.1 < sure.mean() < 0.9
    converged = np.asarray(trace.converged)
    np.testing.assert_array_equal(converged, hit)
    assert np.abs(SPHERE(trace.points))[converged].max() <= CONFIG.tolerance
    cosine = np.abs(np.sum(np.asarray(trace.points) * np.asarray(d), axis=-1)) / 0.5
    assert np.all((np.abs(trace.depth - depth) * cosine)[hit] < 1e-4)
    assert int(trace.overflow) == 0
    values = np.asarray(SPHERE(trace.nearest_points))
    bounded = closed_form(o, d, 1.0)[0]
    np.testing.assert_allclose(
        values[bounded], np.asarray(trace.nearest_values)[bounded], atol=2e-3
    )


def test_early_stop_spends_less_when_every_ray_hits():
    o, d = shapes.rays_towards(0, 256, spread=0.2)
    trace = march_rays(SPHERE, o, d, CONFIG)
    assert np.all(trace.converged)
    assert int(trace.evaluations) < 0.8 * 256 * (CONFIG.samples + CONFIG.bisections + 1)


def test_the_first_of_two_surfaces_is_found():
    o = jnp.array([[0.9, 0.05, 0.0], [-0.9, -0.1, -0.1]])
    d = jnp.array([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    both = field(shapes.occupancy_of, 60.0, Partial(shapes.two_spheres), kind="occupancy")
    trace = march_rays(both, o, d, CONFIG)
    np.testing.assert_allclose(trace.points[:, 0], [0.65, -0.52], atol=1e-5)


def test_starting_inside_hits_without_converging():
    d = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    trace = march_rays(SPHERE, jnp.zeros((2, 3)), d, CONFIG)
    assert np.all(trace.hit) and not np.any(trace.converged)
    np.testing.assert_array_equal(trace.depth, 0.0)


def test_overflow_is_counted_and_keeps_the_sampled_depth():
    o, d = shapes.rays_towards(0, 256, spread=0.2)
    trace = march_rays(SPHERE, o, d, dataclasses.replace(CONFIG, hit_fraction=0.5))
    assert int(trace.overflow) == 128 and int(jnp.sum(trace.converged)) == 128
    truth, depth = closed_form(o, d)
    assert np.all(trace.hit) and np.all(truth)
    assert np.abs(trace.depth - depth).max() < 2.0 / (CONFIG.samples - 1)


def test_vmap_equals_loop():
    o, d = shapes.rays_towards(1, 64)
    radii = jnp.array([0.3, 0.6])

    def one(radius):
        params = {"centre": jnp.zeros(3), "radius": radius}
        shape = field(shapes.occupancy_of, 100.0, Partial(shapes.sphere, params), kind="occupancy")
        return march(shape, o, d, CONFIG)

    batched, single = jax.jit(jax.vmap(one))(radii), jax.jit(one)
    for i in range(2):
        alone = single(radii[i])
        np.testing.assert_array_equal(batched.hit[i], alone.hit)
        np.testing.assert_allclose(batched.depth[i], alone.depth, atol=1e-5)


def test_fields_that_are_not_pointwise_are_refused():
    o, d = shapes.rays_towards(0, 8)
    with pytest.raises(InputError, match="pointwise"):
        march(dataclasses.replace(SPHERE, pointwise=False), o, d, CONFIG)
