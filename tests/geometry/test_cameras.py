"""Cameras: hand-computed pixels, rays that project back, frames, triangulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.geometry import cameras as cam
from jaxrecon.geometry.transforms import apply_similarity, rotation_from_axis_angle
from jaxrecon.types import Cameras, Similarity

triangulate = jax.jit(cam.triangulate, static_argnames="reweightings")
K = np.array([[500.0, 3.0, 320.0], [0.0, 480.0, 240.0], [0.0, 0.0, 1.0]])


def ring(n=4, distance=700.0):
    angle = np.linspace(-0.6, 0.6, n)
    eyes = distance * np.stack([np.sin(angle), 0.1 * np.ones(n), np.cos(angle)], -1)
    return cam.look_at(jnp.asarray(eyes), jnp.zeros(3), jnp.asarray(K))


def test_projection_by_hand():
    one = Cameras(K=jnp.asarray(K), R=jnp.eye(3), t=jnp.array([0.0, 0.0, 10.0]))
    pixels, depth = cam.project(one, np.array([[1.0, -2.0, 0.0]]))
    # x / z = 0.1, y / z = -0.2; u = 500 * 0.1 + 3 * -0.2 + 320
    np.testing.assert_allclose(pixels, [[369.4, 144.0]], rtol=1e-6)
    np.testing.assert_allclose(depth, [10.0])


def test_pixel_centres_are_at_one_half():
    grid = cam.pixel_grid(2, 3)
    np.testing.assert_array_equal(grid[0], [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]])
    np.testing.assert_array_equal(grid[1, 2], [2.5, 1.5])
    middle = Cameras(K=cam.intrinsics(10.0, 2, 2), R=jnp.eye(3), t=jnp.zeros(3))
    _, directions = cam.pixel_rays(middle, cam.pixel_grid(2, 2))
    # the optical axis passes between the four pixels
    np.testing.assert_allclose(np.sum(np.asarray(directions), axis=(0, 1))[:2], 0.0, atol=1e-7)


def test_look_at_axes():
    one = cam.look_at(jnp.array([0.0, 0.0, 5.0]), jnp.zeros(3), jnp.asarray(K))
    np.testing.assert_allclose(cam.camera_centres(one), [0.0, 0.0, 5.0], atol=1e-6)
    # world up is image up (v falls), the viewer's right is +x for a camera on +z
    up, _ = cam.project(one, np.array([[0.0, 1.0, 0.0]]))
    right, _ = cam.project(one, np.array([[1.0, 0.0, 0.0]]))
    assert up[0, 1] < K[1, 2] and right[0, 0] > K[0, 2]
    np.testing.assert_allclose(np.linalg.det(one.R), 1.0, rtol=1e-6)


def test_rays_project_back_onto_their_pixels(rng):
    cameras = ring()
    pixels = jnp.asarray(rng.uniform(0, 480, (4, 2, 5, 2)), jnp.float32)
    origins, directions = cam.pixel_rays(cameras, pixels)
    assert origins.shape == directions.shape == (4, 2, 5, 3)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1.0, atol=1e-6)
    back, depth = cam.project(cameras, origins + 500.0 * directions)
    np.testing.assert_allclose(back, pixels, atol=5e-3)
    assert np.all(depth > 0)
    np.testing.assert_allclose(origins[:, 0, 0], cam.camera_centres(cameras), rtol=1e-6)


def test_transformed_cameras_see_the_same_images(rng):
    cameras = ring()
    S = Similarity(
        scale=jnp.asarray(1 / 150.0),
        R=rotation_from_axis_angle(jnp.array([0.3, -0.5, 0.2])),
        t=jnp.array([0.1, -0.2, 0.3]),
    )
    x = jnp.asarray(rng.uniform(-100, 100, (6, 3)), jnp.float32)
    moved = cam.transform_cameras(cameras, S)
    pixels, depth = cam.project_shared(cameras, x)
    pixels_new, depth_new = cam.project_shared(moved, apply_similarity(S, x))
    np.testing.assert_allclose(pixels_new, pixels, atol=1e-2)
    np.testing.assert_allclose(depth_new * 150.0, depth, rtol=1e-5)
    p = pixels[:, :1]
    o, d = cam.pixel_rays(cameras, p)
    o_new, d_new = cam.pixel_rays(moved, p)
    np.testing.assert_allclose(o_new[:, 0], apply_similarity(S, o[:, 0]), atol=1e-5)
    np.testing.assert_allclose(d_new[:, 0], np.asarray(d[:, 0]) @ np.asarray(S.R).T, atol=1e-6)


def test_wrong_batch_is_explained():
    with pytest.raises(InputError, match="project_shared"):
        cam.project(ring(4), np.zeros((5, 3)))


def test_triangulation_recovers_points(rng):
    cameras = ring()
    x = jnp.asarray(rng.uniform(-80, 80, (10, 3)), jnp.float32)
    pixels, _ = cam.project_shared(cameras, x)
    weights = np.ones((4, 10), np.float32)
    weights[2:, :3] = 0.0  # two views
    corrupted = np.array(pixels)
    corrupted[2:, :3] += 100.0  # unseen views do not matter
    points, valid = triangulate(cameras, corrupted, weights)
    assert np.all(valid)
    np.testing.assert_allclose(points, x, atol=0.02)


def test_triangulation_minimises_pixels(rng):
    with jax.enable_x64(True):
        cameras = ring()
        x = rng.uniform(-80, 80, (3, 3))
        pixels = np.asarray(cam.project_shared(cameras, x)[0]) + rng.normal(0, 1.0, (4, 3, 2))
        weights = rng.uniform(0.5, 1.0, (4, 3))
        points, _ = triangulate(cameras, pixels, weights, reweightings=5)

        def cost(p):
            return np.sum(
                weights[..., None] * (np.asarray(cam.project_shared(cameras, p)[0]) - pixels) ** 2
            )

        # within 1 % of the reprojection optimum: no nearby point is clearly better
        best = cost(np.asarray(points))
        for _ in range(50):
            assert cost(np.asarray(points) + rng.normal(0, 0.3, (3, 3))) > 0.99 * best


def test_ill_posed_points_are_flagged_and_finite(rng):
    cameras = ring(2)
    same = jax.tree.map(lambda a: jnp.stack([a[0], a[0]]), cameras)
    x = jnp.asarray(rng.uniform(-80, 80, (3, 3)), jnp.float32)
    pixels, _ = cam.project_shared(cameras, x)
    weights = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], np.float32)  # two, one and no view
    points, valid = triangulate(cameras, pixels, weights)
    np.testing.assert_array_equal(valid, [True, False, False])
    assert np.all(np.isfinite(points))
    points, valid = triangulate(
        same, jnp.stack([pixels[0], pixels[0]]), np.ones((2, 3), np.float32)
    )
    assert not np.any(valid) and np.all(np.isfinite(points))
    grad = jax.grad(lambda p: jnp.sum(triangulate(cameras, p, weights)[0]))(pixels)
    assert np.all(np.isfinite(grad))


def test_triangulation_vmaps_over_subjects(rng):
    cameras = ring(3)
    x = jnp.asarray(rng.uniform(-80, 80, (2, 4, 3)), jnp.float32)
    pixels = jnp.stack([cam.project_shared(cameras, s)[0] for s in x])
    weights = jnp.ones((2, 3, 4))
    points, valid = jax.vmap(triangulate, in_axes=(None, 0, 0))(cameras, pixels, weights)
    assert np.all(valid)
    np.testing.assert_allclose(points, x, atol=0.02)


def test_points_in_the_camera_plane_stay_finite():
    one = Cameras(K=jnp.asarray(K, jnp.float32), R=jnp.eye(3), t=jnp.zeros(3))
    x = jnp.array([[1.0, 2.0, 0.0]])
    assert np.all(np.isfinite(cam.project(one, x)[0]))
    assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(cam.project(one, x)[0]))(x)))
