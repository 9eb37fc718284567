"""Mesh functions against closed forms on a cube and a sphere-like mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.geometry import mesh as M
from jaxrecon.types import Mesh

CUBE_VERTICES = np.array([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
_QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
CUBE_FACES = np.array([t for a, b, c, d in _QUADS for t in ((a, b, c), (a, c, d))])


def two_cubes():
    vertices = np.concatenate([CUBE_VERTICES, 3 * CUBE_VERTICES + 5, [[9.0, 9.0, 9.0]]])
    colours = np.linspace(0, 1, 3 * len(vertices), dtype=np.float32).reshape(-1, 3)
    return Mesh(vertices, np.concatenate([CUBE_FACES, CUBE_FACES + 8]), colours, colours[:, :2])


def test_cube_areas_normals_volume():
    np.testing.assert_allclose(M.face_areas(CUBE_VERTICES, CUBE_FACES), 0.5, rtol=1e-6)
    np.testing.assert_allclose(M.triangle_areas(CUBE_VERTICES, CUBE_FACES), 0.5)
    normals = np.asarray(M.face_normals(CUBE_VERTICES, CUBE_FACES))
    centres = CUBE_VERTICES[CUBE_FACES].mean(1) - 0.5
    assert (np.sum(normals * centres, axis=1) > 0.4).all()
    np.testing.assert_allclose(normals, M.triangle_normals(CUBE_VERTICES, CUBE_FACES), atol=1e-6)
    np.testing.assert_allclose(M.signed_volume(CUBE_VERTICES, CUBE_FACES), 1.0)
    np.testing.assert_allclose(M.signed_volume(CUBE_VERTICES, CUBE_FACES[:, ::-1]), -1.0)


def test_vertex_normals_are_area_weighted_and_zero_when_unreferenced():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 3.0], [7, 7, 7]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])  # areas 0.5 (normal z) and 1.5 (normal x)
    normals = np.asarray(M.vertex_normals(vertices, faces))
    np.testing.assert_allclose(normals[0], np.array([3, 0, 1]) / np.sqrt(10), atol=1e-6)
    np.testing.assert_allclose(normals[1], [0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(normals[4], 0)


def test_batched_normals_equal_a_loop():
    batch = jnp.asarray(np.stack([CUBE_VERTICES, 2 * CUBE_VERTICES + 1]))
    for f in (M.vertex_normals, M.face_normals, M.face_areas):
        one = jax.jit(f)
        loop = np.stack([np.asarray(one(v, CUBE_FACES)) for v in batch])
        np.testing.assert_allclose(one(batch, CUBE_FACES), loop, atol=1e-6)


def test_gradients_are_finite_at_degenerate_faces():
    vertices = jnp.zeros((4, 3)).at[0, 0].set(1.0)
    faces = np.array([[0, 1, 2], [1, 2, 3]])
    for f in (M.face_areas, M.face_normals, M.vertex_normals):
        assert np.isfinite(np.asarray(f(vertices, faces))).all()
        gradient = jax.jit(jax.grad(lambda v, f=f: jnp.sum(f(v, faces))))(vertices)
        assert np.isfinite(np.asarray(gradient)).all()


def test_samples_are_uniform_by_area_and_on_their_faces(rng):
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [5, 3, 0], [5, 0, 3]])
    faces = np.array([[0, 1, 2], [3, 4, 5]])  # areas 0.5 and 4.5
    s = M.sample_surface(vertices, faces, rng, 20_000)
    assert abs((s.faces == 1).mean() - 0.9) < 0.01
    np.testing.assert_allclose(s.barycentric.sum(1), 1)
    assert (s.barycentric >= 0).all()
    rebuilt = np.einsum("nk,nkd->nd", s.barycentric, vertices[faces[s.faces]])
    np.testing.assert_allclose(s.points, rebuilt)
    np.testing.assert_allclose(s.points[s.faces == 0].mean(0), [1 / 3, 1 / 3, 0], atol=0.02)
    np.testing.assert_allclose(s.normals[s.faces == 1], [[1.0, 0, 0]] * int((s.faces == 1).sum()))
    again = M.sample_surface(vertices, faces, 7, 5).points
    np.testing.assert_array_equal(again, M.sample_surface(vertices, faces, 7, 5).points)


def test_sampling_a_surface_without_area_is_refused():
    with pytest.raises(ValueError, match="no area"):
        M.sample_surface(np.zeros((3, 3)), np.array([[0, 1, 2]]), 0, 4)


def test_components_and_unreferenced_vertices():
    both = two_cubes()
    label = M.face_components(both.faces, len(both.vertices))
    assert len(np.unique(label)) == 2 and len(np.unique(label[:12])) == 1
    large = M.largest_component(both)
    np.testing.assert_allclose(large.vertices, both.vertices[8:16])
    np.testing.assert_array_equal(large.faces, CUBE_FACES)
    np.testing.assert_allclose(large.colours, both.colours[8:16])
    np.testing.assert_allclose(large.uv, both.uv[8:16])
    assert len(M.drop_unreferenced(both).vertices) == 16
    some = M.keep_faces(both, np.arange(24) < 2)
    np.testing.assert_allclose(some.vertices[some.faces], both.vertices[both.faces[:2]])


def test_boundary_and_closedness():
    assert M.is_closed(CUBE_FACES) and not len(M.boundary_edges(CUBE_FACES))
    rim = M.boundary_edges(CUBE_FACES[2:])
    # The quad (0, 1, 3, 2) is missing: its neighbours run the other way round it.
    assert sorted(map(tuple, rim.tolist())) == [(0, 2), (1, 0), (2, 3), (3, 1)]
    assert not M.is_closed(CUBE_FACES[1:])
    flipped = CUBE_FACES.copy()
    flipped[0] = flipped[0, ::-1]
    assert not M.is_closed(flipped)  # two faces run through an edge in the same direction
    assert not M.is_closed(np.concatenate([CUBE_FACES, CUBE_FACES[:1]]))
    assert not M.is_closed(np.zeros((0, 3), np.int64))
