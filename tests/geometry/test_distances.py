"""Distances against closed forms and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.geometry import distances as D
from jaxrecon.types import Mesh


def icosphere(radius, subdivisions=4):
    import trimesh

    m = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return Mesh(np.asarray(m.vertices, np.float64), np.asarray(m.faces, np.int64))


def triangle_distance(p, a, b, c):
    """Brute force by sampling the triangle densely (an upper bound, tight to the spacing)."""
    u, v = np.meshgrid(np.linspace(0, 1, 200), np.linspace(0, 1, 200))
    keep = u + v <= 1
    points = a + u[keep][:, None] * (b - a) + v[keep][:, None] * (c - a)
    return np.linalg.norm(points - p, axis=1).min()


def test_point_to_surface_against_brute_force(rng):
    triangles = rng.standard_normal((3, 3, 3))
    mesh = Mesh(triangles.reshape(-1, 3), np.arange(9).reshape(3, 3))
    points = 2 * rng.standard_normal((10, 3))
    distance, closest, face = D.point_to_surface(points, mesh)
    for p, d, c, f in zip(points, distance, closest, face, strict=True):
        brute = [triangle_distance(p, *t) for t in triangles]
        assert abs(min(brute) - d) < 0.02 and d <= min(brute) + 1e-9
        assert f == np.argmin(brute)
        np.testing.assert_allclose(np.linalg.norm(p - c), d, rtol=1e-9)


def test_no_points_no_distances():
    mesh = icosphere(1.0, 1)
    distance, closest, face = D.point_to_surface(np.empty((0, 3)), mesh)
    assert distance.shape == (0,) and closest.shape == (0, 3) and face.shape == (0,)
    assert D.winding_number(np.empty((0, 3)), mesh).shape == (0,)


def test_signed_distance_of_a_sphere(rng):
    points = rng.uniform(-2, 2, (500, 3))
    expected = np.linalg.norm(points, axis=1) - 1.0
    mesh = icosphere(1.0)
    np.testing.assert_allclose(D.signed_distance(points, mesh), expected, atol=4e-3)
    open_mesh = Mesh(mesh.vertices, mesh.faces[: int(0.97 * len(mesh.faces))])
    away = np.abs(expected) > 0.3
    wrong = np.sign(D.signed_distance(points, open_mesh)) != np.sign(expected)
    assert wrong[away].mean() < 0.02  # winding numbers survive a hole


def test_chamfer_and_normals_of_concentric_spheres():
    a, b = icosphere(1.0), icosphere(1.25)
    np.testing.assert_allclose(D.chamfer(a, b, n=4000), 0.25, atol=4e-3)
    np.testing.assert_allclose(D.normal_consistency(a, b, n=4000), 1.0, atol=2e-3)
    inside_out = Mesh(b.vertices, b.faces[:, ::-1])
    np.testing.assert_allclose(D.normal_consistency(a, inside_out, n=4000), -1.0, atol=2e-3)
    assert max(D.chamfer(a, a, n=1000)) < 1e-6


@pytest.mark.parametrize("n", [1, 7, 64, 65])
def test_nearest_points_against_brute_force(rng, n):
    queries, points = rng.standard_normal((n, 3)), rng.standard_normal((40, 3))
    table = np.linalg.norm(queries[:, None] - points[None], axis=-1)
    distance, index = D.nearest_points(queries, points, chunk=32)
    np.testing.assert_array_equal(index, table.argmin(1))
    np.testing.assert_allclose(distance, table.min(1), rtol=1e-5)


def test_nearest_points_gradient_is_the_unit_vector_and_finite_at_zero(rng):
    points = jnp.asarray(rng.standard_normal((20, 3)))
    queries = jnp.concatenate([points[:1], jnp.asarray(rng.standard_normal((4, 3)))])
    gradient = jax.grad(lambda q: jnp.sum(D.nearest_points(q, points)[0]))(queries)
    np.testing.assert_allclose(gradient[0], 0)
    np.testing.assert_allclose(jnp.linalg.norm(gradient[1:], axis=-1), 1, rtol=1e-5)
