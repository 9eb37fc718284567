"""Gradients of fields: exact distances have unit gradients; singular points stay finite."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.geometry import gradients
from jaxrecon.geometry.transforms import safe_norm
from jaxrecon.types import field
from tests.geometry import shapes


def with_features(points):
    return shapes.two_spheres(points), 2.0 * points


def test_values_gradients_and_features_in_one_pass(rng):
    points = jnp.asarray(rng.uniform(-1, 1, (4, 8, 3)), jnp.float32)
    values, grads, features = gradients.value_and_gradient(with_features, points, has_aux=True)
    np.testing.assert_allclose(values, shapes.two_spheres(points), atol=1e-6)
    np.testing.assert_array_equal(features, 2 * points)
    one = jax.vmap(jax.grad(shapes.two_spheres))(points.reshape(-1, 3)).reshape(points.shape)
    np.testing.assert_allclose(grads, one, atol=1e-6)
    same = gradients.value_and_gradient(shapes.two_spheres, points)
    np.testing.assert_allclose(same[1], grads, atol=1e-6)


def test_eikonal_of_exact_distances_vanishes(rng):
    with jax.enable_x64(False):
        points = jnp.asarray(rng.uniform(-1, 1, (2048, 3)), jnp.float32)
        for shape in (shapes.sphere_field(), field(shapes.torus, shapes.TORUS)):
            _, grads = gradients.value_and_gradient(shape, points)
            assert gradients.eikonal(grads) < 1e-6
            np.testing.assert_allclose(safe_norm(gradients.normals(shape, points)), 1.0, atol=1e-5)


def test_normals_point_outwards():
    points = jnp.array([[0.5, 0.0, 0.0], [0.0, 0.0, -0.7]])
    np.testing.assert_allclose(
        gradients.normals(shapes.sphere_field(), points), [[1, 0, 0], [0, 0, -1.0]], atol=1e-6
    )


def flat(points):
    return 0.0 * points[..., 0]


def test_vanishing_gradients_are_finite():
    points = jnp.zeros((3, 3))
    np.testing.assert_array_equal(gradients.normals(flat, points), 0.0)
    assert float(gradients.eikonal(points)) == 1.0
    np.testing.assert_array_equal(jax.grad(gradients.eikonal)(points), 0.0)


def test_eikonal_differentiates_through_the_field(rng):
    with jax.enable_x64(True):
        params, latent = shapes.mlp_parameters()
        points = jnp.asarray(rng.uniform(-1, 1, (32, 3)))

        def loss(w):
            _, grads = gradients.value_and_gradient(
                field(shapes.mlp, {**params, "w1": w}, latent), points
            )
            return gradients.eikonal(grads)

        direction = rng.standard_normal(params["w1"].shape)
        h = 1e-5
        difference = (loss(params["w1"] + h * direction) - loss(params["w1"] - h * direction)) / (
            2 * h
        )
        np.testing.assert_allclose(
            np.sum(jax.grad(loss)(params["w1"]) * direction), difference, rtol=1e-6
        )


def test_lipschitz_estimate_of_a_scaled_distance(rng):
    points = jnp.asarray(rng.uniform(-1, 1, (256, 3)), jnp.float32)
    tripled = field(shapes.scaled, 3.0, shapes.sphere_field().function)
    np.testing.assert_allclose(
        gradients.lipschitz_estimate(tripled, points, margin=1.0), 3.0, rtol=1e-5
    )
