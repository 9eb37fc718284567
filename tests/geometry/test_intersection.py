"""Derivatives of the traced surface point against finite differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.geometry.cameras import pixel_rays
from jaxrecon.geometry.gradients import value_and_gradient
from jaxrecon.geometry.intersection import differentiable_intersection
from jaxrecon.geometry.sphere_tracing import TraceConfig, sphere_trace, trace_rays
from jaxrecon.geometry.transforms import rotation_from_axis_angle
from jaxrecon.types import Cameras, field
from tests.geometry import shapes

CONFIG = TraceConfig(radius=1.5, tolerance=1e-13, stages=1, steps=100, gap=2e-2)
K = np.array([[60.0, 0.5, 16.0], [0.0, 60.0, 16.0], [0.0, 0.0, 1.0]])


def camera_rays(pose, pixels):
    """Rays of a camera at pose = (axis-angle, t)."""
    camera = Cameras(K=jnp.asarray(K), R=rotation_from_axis_angle(pose[:3]), t=pose[3:])
    return pixel_rays(camera, pixels)


@pytest.fixture(scope="module")
def problem():
    """A tiny conditional network, a camera, 12 pixels on the object, and a scalar of the hit
    points."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        params, latent = shapes.mlp_parameters()
        variables = {
            "params": {k: jnp.asarray(v) for k, v in params.items()},
            "latent": jnp.asarray(latent),
            "pose": jnp.asarray([0.1, -0.2, 0.05, 0.03, -0.02, 2.5]),
        }
        pixels = jnp.asarray(rng.uniform(12.0, 20.0, (12, 2)))
        weight_x, weight_n = jnp.asarray(rng.standard_normal((2, 12, 3)))

        @jax.jit
        def hits(v):
            o, d = camera_rays(v["pose"], pixels)
            return sphere_trace(field(shapes.mlp, v["params"], v["latent"]), o, d, CONFIG)

        def scalar(v, depth):
            o, d = camera_rays(v["pose"], pixels)
            shape = field(shapes.mlp, v["params"], v["latent"])
            meeting = differentiable_intersection(shape, o, d, depth)
            return jnp.sum(weight_x * meeting.points) + 0.3 * jnp.sum(weight_n * meeting.gradients)

        @jax.jit
        def truth(v, depth):
            """The scalar at the traced points, no implicit derivative involved."""
            o, d = camera_rays(v["pose"], pixels)
            x = o + depth[:, None] * d
            _, g = value_and_gradient(field(shapes.mlp, v["params"], v["latent"]), x)
            return jnp.sum(weight_x * x) + 0.3 * jnp.sum(weight_n * g)

        return variables, hits, jax.jit(jax.grad(scalar)), truth


@pytest.mark.parametrize("which", ["params", "latent", "pose"])
def test_gradients_agree_with_finite_differences(problem, which):
    with jax.enable_x64(True):
        variables, hits, gradient, truth = problem
        trace = hits(variables)
        assert np.all(trace.converged)
        grads = gradient(variables, trace.depth)[which]
        rng = np.random.default_rng(2)
        step = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), variables[which])

        def value(h):
            moved = {
                **variables,
                which: jax.tree.map(lambda x, s: x + h * s, variables[which], step),
            }
            return float(truth(moved, hits(moved).depth))

        h = 1e-4
        # fourth order: 1e-6 relative needs more than plain central differences
        difference = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
        products = jax.tree.map(lambda g, s: jnp.sum(g * s), grads, step)
        np.testing.assert_allclose(float(sum(jax.tree.leaves(products))), difference, rtol=1e-6)


def test_value_is_the_traced_point_and_features_pass_through():
    o, d = shapes.rays_towards(0, 64, spread=0.3)
    shape = shapes.sphere_field()
    trace = trace_rays(shape, o, d, TraceConfig(radius=1.0, stages=1))
    plain = differentiable_intersection(shape, o, d, trace.depth)
    np.testing.assert_allclose(plain.points, trace.points, atol=1e-6)
    np.testing.assert_allclose(plain.gradients, 2.0 * plain.points, atol=1e-3)
    assert np.all(np.asarray(plain.cosine) < 0) and plain.aux is None
    both = differentiable_intersection(
        lambda x: (shape(x), 3.0 * x), o, d, trace.depth, has_aux=True, moving_gradients=False
    )
    np.testing.assert_allclose(both.aux, 3.0 * plain.points, rtol=1e-5)
    np.testing.assert_allclose(both.gradients, plain.gradients, atol=1e-6)


def flattened(radius, points):
    """A sphere of squared distances: its gradient vanishes at the centre."""
    return jnp.sum(points * points, axis=-1) - radius**2


def test_silhouettes_have_bounded_derivatives():
    # just inside the outline, exactly on it (n . v = 0), and through a point without gradient
    o = jnp.array([[0.4999, 0.0, -2.0], [0.5, 0.0, -2.0], [0.0, 0.0, -2.0]])
    d = jnp.array([[0.0, 0.0, 1.0]] * 3)
    depth = jnp.array([2.0, 2.0, 2.0])

    def total(radius, o):
        meeting = differentiable_intersection(field(flattened, radius), o, d, depth)
        return jnp.sum(meeting.points[:, 2] * jnp.array([1.0, 1.0, 0.0])), meeting.cosine

    gradient = jax.grad(total, argnums=(0, 1), has_aux=True)
    (by_radius, by_origin), cosine = gradient(jnp.asarray(0.5), o)
    np.testing.assert_allclose(cosine, 0.0, atol=1e-6)
    # each of the two points moves by -1 / smallest_cosine per unit of radius: towards the camera
    np.testing.assert_allclose(by_radius, -2 / 0.05, rtol=1e-3)
    np.testing.assert_allclose(by_origin[:2, 0], 1 / 0.05, rtol=1e-3)
    assert np.all(np.isfinite(by_origin))


def test_vmap_over_latents_equals_loop():
    params, latent = shapes.mlp_parameters(dtype=np.float32)
    params = {k: jnp.asarray(v) for k, v in params.items()}
    latents = jnp.stack([latent, -latent])
    o, d = shapes.rays_towards(0, 32, spread=0.2)
    config = TraceConfig(radius=1.2, stages=1)

    def total(z):
        shape = field(shapes.mlp, params, z)
        trace = sphere_trace(shape, o, d, config)
        meeting = differentiable_intersection(shape, o, d, trace.depth)
        return jnp.sum(jnp.where(trace.converged[:, None], meeting.points**2, 0.0))

    grad = jax.jit(jax.grad(total))
    batched = jax.jit(jax.vmap(jax.grad(total)))(latents)
    assert np.abs(batched).max() > 0.1
    for i in range(2):
        np.testing.assert_allclose(batched[i], grad(latents[i]), rtol=1e-3, atol=1e-3)
