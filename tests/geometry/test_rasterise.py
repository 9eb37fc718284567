"""The rasteriser against ray casting, closed forms and its own invariances."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrecon
from jaxrecon.geometry.rasterise import downsample, interpolate, rasterise, scale_camera
from jaxrecon.types import Cameras

SIZE = 64


def camera(focal=70.0, distance=3.0, turn=0.4):
    c, s = np.cos(turn), np.sin(turn)
    R = np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1.0]]) @ np.array(
        [[c, 0, -s], [0, 1, 0], [s, 0, c]]
    )
    K = np.array([[focal, 0, SIZE / 2 + 1.3], [0, focal * 1.1, SIZE / 2 - 2.1], [0, 0, 1]])
    return Cameras(K=K, R=R, t=np.array([0.05, -0.1, distance]))


def rays(cam, height=SIZE, width=SIZE):
    """Origins and directions (n, 3) of pixel centres, with camera z component 1, float64."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3)
    directions = pixels @ np.linalg.inv(cam.K).T @ cam.R
    return np.broadcast_to(-cam.R.T @ cam.t, directions.shape), directions


def brute_force(vertices, faces, cam):
    """Depth (n,) of the first hit (inf: none), nearest face, and the margin of the closest call
    at an edge.
    """
    origins, directions = rays(cam)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    e1, e2 = b - a, c - a
    p = np.cross(directions[:, None], e2[None])
    determinant = (p * e1[None]).sum(-1)
    offset = origins[:, None] - a[None]
    u = (offset * p).sum(-1) / determinant
    q = np.cross(offset, e1[None])
    v = (directions[:, None] * q).sum(-1) / determinant
    depth = (q * e2[None]).sum(-1) / determinant
    margin = np.minimum(np.minimum(u, v), 1 - u - v)
    depth = np.where((margin >= 0) & (depth > 0), depth, np.inf)
    return depth.min(1), depth.argmin(1), np.abs(margin).min(1)


def soup(rng, count=60):
    """Triangles of all sizes that intersect each other."""
    centres = rng.uniform(-1, 1, (count, 1, 3))
    corners = centres + rng.normal(size=(count, 3, 3)) * np.exp(rng.uniform(-4, 0.3, (count, 1, 1)))
    return corners.reshape(-1, 3).astype(np.float32), np.arange(3 * count).reshape(-1, 3)


@pytest.mark.parametrize("turn", [0.4, -1.1])
def test_triangle_soup_matches_brute_force(rng, turn):
    vertices, faces = soup(rng)
    cam = camera(turn=turn, distance=4.0)
    depth, face, margin = brute_force(vertices.astype(np.float64), faces, cam)
    got = rasterise(vertices, faces, cam, SIZE, SIZE, chunk=1024)
    clear = (margin > 1e-4).reshape(SIZE, SIZE)
    assert 0.2 < np.isfinite(depth).mean() < 0.95 and clear.mean() > 0.9
    expected = depth.reshape(SIZE, SIZE)
    np.testing.assert_array_equal(np.asarray(got.mask)[clear], np.isfinite(expected)[clear])
    both = clear & np.isfinite(expected)
    # Triangles seen edge-on have steep depths: their share of pixels is small, their error relative
    # to the slope.
    error = np.abs(np.asarray(got.depth)[both] - expected[both])
    assert np.quantile(error, 0.99) < 1e-4 and error.max() < 5e-3
    assert (np.asarray(got.face)[both] == face.reshape(SIZE, SIZE)[both]).mean() > 0.999


def test_sample_head_matches_embree():
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("embreex")
    path = pathlib.Path(jaxrecon.__file__).parent / "assets" / "samples" / "demo" / "gt.ply"
    mesh = trimesh.load(path, process=False)
    vertices = (np.asarray(mesh.vertices) - mesh.centroid) / 100
    mesh.vertices = vertices
    cam = camera(focal=75.0)
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    origins, directions = rays(cam)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    face = RayMeshIntersector(mesh, scale_to_box=False).intersects_first(origins, unit)
    corners = vertices[mesh.faces[face]]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    depth = ((corners[:, 0] - origins) * normal).sum(1) / (directions * normal).sum(1)
    hit = (face >= 0).reshape(SIZE, SIZE)
    got = rasterise(vertices, mesh.faces, cam, SIZE, SIZE)

    different = np.asarray(got.mask) != hit
    assert hit.mean() > 0.2
    assert different.sum() <= 2  # rays through edges
    both = np.asarray(got.mask) & hit
    error = np.abs(np.asarray(got.depth) - depth.reshape(SIZE, SIZE))[both]
    assert np.quantile(error, 0.999) < 1e-4
    assert (np.asarray(got.face) == face.reshape(SIZE, SIZE))[both].mean() > 0.995


def test_interpolated_positions_reproject_to_their_pixels(rng):
    vertices, faces = soup(rng)
    cam = camera(distance=4.0)
    raster = rasterise(vertices, faces, cam, SIZE, SIZE, chunk=1024)
    points = np.asarray(interpolate(raster, faces, vertices), np.float64)
    mask = np.asarray(raster.mask)
    x = (points[mask] @ cam.R.T + cam.t) @ cam.K.T
    row, column = np.nonzero(mask)
    np.testing.assert_allclose(x[:, :2] / x[:, 2:], np.stack([column, row], 1) + 0.5, atol=2e-3)
    np.testing.assert_allclose(x[:, 2], np.asarray(raster.depth)[mask], atol=2e-3)
    np.testing.assert_allclose(np.asarray(raster.barycentric)[mask].sum(1), 1, atol=1e-6)
    assert (np.asarray(raster.barycentric)[~mask] == 0).all() and (points[~mask] == 0).all()


def test_pixel_centres_are_at_one_half():
    # A square whose image is exactly the pixels 2..4 by 1..2: edges run between centres.
    K = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    cam = Cameras(K=K, R=np.eye(3), t=np.zeros(3))
    square = np.array([[2.0, 1, 1], [5, 1, 1], [5, 3, 1], [2, 3, 1]])
    raster = rasterise(square, np.array([[0, 1, 2], [0, 2, 3]]), cam, 6, 8)
    expected = np.zeros((6, 8), bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(raster.mask, expected)
    np.testing.assert_allclose(np.asarray(raster.depth)[expected], 1.0)


def test_ties_behind_the_camera_and_no_faces():
    cam = Cameras(K=np.diag([8.0, 8, 1]), R=np.eye(3), t=np.zeros(3))
    triangle = np.array([[-1.0, -1, 1], [3, -1, 1], [-1, 3, 1]])
    same = np.array([[0, 1, 2], [0, 1, 2], [2, 1, 0]])
    raster = rasterise(triangle, same, cam, 8, 8)
    assert (np.asarray(raster.face) == 0).all()
    behind = rasterise(triangle * np.array([1, 1, -1.0]), same, cam, 8, 8)
    assert not np.asarray(behind.mask).any() and np.isinf(np.asarray(behind.depth)).all()
    degenerate = rasterise(triangle, np.array([[0, 0, 1], [1, 1, 1], [0, 1, 2]]), cam, 8, 8)
    assert (np.asarray(degenerate.face) == 2).all()
    none = rasterise(triangle, np.zeros((0, 3), np.int32), cam, 8, 8)
    assert not np.asarray(none.mask).any()
    assert (np.asarray(interpolate(none, np.zeros((0, 3), np.int32), triangle)) == 0).all()


def test_chunks_and_vmap_do_not_matter(rng):
    vertices, faces = soup(rng)
    cams = [camera(turn=t, distance=4.0) for t in (0.4, -1.1)]
    alone = [rasterise(vertices, faces, c, SIZE, SIZE, chunk=1024) for c in cams]
    other = rasterise(vertices, faces, cams[0], SIZE, SIZE, chunk=700)
    np.testing.assert_array_equal(alone[0].face, other.face)
    batch = jax.tree.map(lambda *a: np.stack(a), *cams)
    together = jax.vmap(lambda c: rasterise(vertices, faces, c, SIZE, SIZE, chunk=1024))(batch)
    for i in range(2):
        np.testing.assert_array_equal(alone[i].face, together.face[i])


def test_gradients_are_finite_and_match_finite_differences():
    K = np.array([[60.0, 0, 16], [0, 60, 16], [0, 0, 1]])
    cam = Cameras(K=K, R=np.eye(3), t=np.array([0, 0, 3.0]))
    vertices = np.array([[-0.5, -0.5, 0.2], [0.6, -0.4, -0.3], [0.0, 0.6, 0.1]])
    faces = np.array([[0, 1, 2]])
    inner = np.zeros((32, 32), bool)
    inner[14:18, 14:18] = True

    def value(v):
        raster = rasterise(v, faces, cam, 32, 32)
        return jnp.where(inner, raster.depth, 0.0).sum() + interpolate(raster, faces, v**2).sum()

    gradient = jax.grad(value)(jnp.asarray(vertices, jnp.float32))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1

    def depths(v):
        return jnp.where(inner, rasterise(v, faces, cam, 32, 32).depth, 0.0).sum()

    gradient = np.asarray(jax.grad(depths)(jnp.asarray(vertices, jnp.float32)))
    step = 1e-3
    for i in range(3):
        shift = np.zeros_like(vertices)
        shift[i, 2] = step
        numeric = (float(depths(vertices + shift)) - float(depths(vertices - shift))) / (2 * step)
        np.testing.assert_allclose(gradient[i, 2], numeric, rtol=2e-2, atol=2e-2)


def test_supersampling_measures_coverage():
    # A half plane whose edge cuts column 2 of the picture at one quarter.
    cam = Cameras(K=np.diag([1.0, 1, 1]), R=np.eye(3), t=np.zeros(3))
    half = np.array([[-9.0, -9, 1], [2.25, -9, 1], [2.25, 20, 1], [-9, 20, 1]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    raster = rasterise(half, faces, scale_camera(cam, 4), 16, 16)
    colour = np.broadcast_to(np.array([0.2, 0.4, 0.6], np.float32), (16, 16, 3))
    image = np.asarray(downsample(colour, raster.mask, 4))
    np.testing.assert_allclose(image[0, :, 3], [1, 1, 0.25, 0])
    np.testing.assert_allclose(image[0, 2, :3], [0.2, 0.4, 0.6], atol=1e-6)
    np.testing.assert_allclose(image[0, 3, :3], 1.0)
    assert dataclasses.is_dataclass(raster) and raster.face.dtype == jnp.int32
