"""Extraction against dense marching cubes, closed forms and its own promises."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.geometry import extraction
from jaxrecon.geometry.extraction import extract
from jaxrecon.geometry.mesh import face_components, is_closed, signed_volume
from jaxrecon.types import field

TRACES = []


def sphere(radius, x):
    TRACES.append(x.shape)
    return jnp.sqrt(jnp.sum(x * x, axis=-1) + 1e-12) - radius


def bumpy(amplitude, x):
    """|gradient| up to 1.7 (amplitude 0.075), so that a bound of 1 loses surface."""
    wave = jnp.sin(9 * x[..., 0]) * jnp.sin(9 * x[..., 1]) * jnp.sin(9 * x[..., 2])
    return jnp.sqrt(jnp.sum(x * x, axis=-1) + 1e-12) - 0.55 + amplitude * wave


def ellipsoid_occupancy(radii, x):
    scaled = x / radii.reshape((1,) * (x.ndim - 1) + (3,))
    return 0.5 - 1 / (1 + jnp.exp(40 * (jnp.sqrt(jnp.sum(scaled**2, axis=-1)) - 1)))


def plane(offset, x):
    return x[..., 2] - offset


def constant(value, x):
    return jnp.zeros(x.shape[:-1]) + value


def dense(f, resolution):
    """Vertices and number of faces of marching cubes on the whole grid, without `extract`."""
    import mcubes

    axis = np.linspace(-1, 1, resolution + 1)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    values = np.asarray(f(jnp.asarray(grid.reshape(-1, 3), jnp.float32)))
    assert (values != 0).all()
    vertices, faces = mcubes.marching_cubes(values.reshape(grid.shape[:-1]), 0.0)
    return -1 + vertices * 2 / resolution, len(faces)


def assert_same_surface(mesh, vertices, n_faces):
    """Same vertices in any order: one per sign-changing grid edge, so the same cells too."""
    assert mesh.vertices.shape == vertices.shape and len(mesh.faces) == n_faces
    from scipy.spatial import cKDTree

    distance, index = cKDTree(vertices).query(mesh.vertices)
    assert distance.max() < 1e-5 and len(np.unique(index)) == len(vertices)


def test_sphere_at_256_is_exact_and_sparse():
    mesh, stats = extract(field(sphere, jnp.float32(0.6)), 256)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radius - 0.6).max() < 0.1 * stats.voxel[0]
    assert stats.evaluations <= 0.08 * 256**3 and stats.fraction <= 0.08
    assert stats.grid == (256, 256, 256) and stats.reactivated == 0 and stats.open_faces == 0
    assert is_closed(mesh.faces)
    np.testing.assert_allclose(
        signed_volume(mesh.vertices, mesh.faces), 4 / 3 * np.pi * 0.6**3, rtol=1e-3
    )


def test_one_compilation_for_any_parameters_and_resolution():
    def count():
        return (
            extraction._values._cache_size(),
            extraction._gradient_norms._cache_size(),
            len(TRACES),
        )

    extract(field(sphere, jnp.float32(0.4)), 64)
    before = count()
    for radius, resolution in ((0.3, 64), (0.7, 128), (0.62, 64)):
        mesh, _ = extract(field(sphere, jnp.float32(radius)), resolution)
        assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - radius).max() < 0.1 * 2 / resolution
    assert count() == before


def test_sphere_at_512():
    mesh, stats = extract(field(sphere, jnp.float32(0.25)), 512)
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - 0.25).max() < 0.1 * stats.voxel[0]
    assert stats.grid == (512, 512, 512) and stats.fraction < 0.01 and is_closed(mesh.faces)


@pytest.mark.parametrize("resolution", [64, 128])
def test_no_surface_is_lost_where_the_gradient_is_steep(resolution):
    f = field(bumpy, jnp.float32(0.075))
    mesh, stats = extract(f, resolution)
    assert_same_surface(mesh, *dense(f, resolution))
    assert 1.5 < stats.lipschitz < 2.5
    assert is_closed(mesh.faces) and signed_volume(mesh.vertices, mesh.faces) > 0


@pytest.mark.parametrize("margin", [0.5, 0.1])
def test_closing_step_mends_a_bound_that_is_too_small(margin):
    f = field(bumpy, jnp.float32(0.075))
    mesh, stats = extract(f, 64, margin=margin, leaf=2)
    assert stats.reactivated > 0 and stats.lipschitz == margin
    assert_same_surface(mesh, *dense(f, 64))


def test_faces_are_outward_everywhere():
    mesh, _ = extract(field(sphere, jnp.float32(0.6)), 64)
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    assert (np.sum(normal * (a + b + c), axis=1) > 0).all()


def test_exact_zeros_on_grid_points_leave_a_closed_mesh():
    # At 64^3 the octahedron |x| + |y| + |z| = 0.5 passes through grid points exactly.
    mesh, _ = extract(field(octahedron, jnp.float32(0.5)), 64)
    assert is_closed(mesh.faces)
    np.testing.assert_allclose(np.abs(mesh.vertices).sum(1), 0.5, atol=1e-6)


def octahedron(size, x):
    return jnp.sum(jnp.abs(x), axis=-1) - size


def test_occupancy_matches_dense():
    f = field(ellipsoid_occupancy, jnp.array([0.71, 0.31, 0.52]), kind="occupancy")
    mesh, stats = extract(f, 64, coarse=8)
    assert_same_surface(mesh, *dense(f, 64))
    assert is_closed(mesh.faces) and stats.fraction < 0.35 and stats.lipschitz == 1.0
    volume = signed_volume(mesh.vertices, mesh.faces)
    np.testing.assert_allclose(volume, 4 / 3 * np.pi * 0.71 * 0.31 * 0.52, rtol=0.03)


def test_box_with_unequal_sides_in_its_own_coordinates():
    f = field(shifted_sphere, jnp.float32(40.0), box=((-50.0, 50.0, -50.0), (50.0, 150.0, 100.0)))
    mesh, stats = extract(f, 100, leaf=5, coarse=7)
    assert stats.grid == (70, 70, 100) and max(stats.voxel) <= 1.5
    centre = np.array([0.0, 100.0, 20.0])
    assert np.abs(np.linalg.norm(mesh.vertices - centre, axis=1) - 40).max() < 0.1 * stats.voxel[2]
    assert is_closed(mesh.faces)


def shifted_sphere(radius, x):
    centre = jnp.array([0.0, 100.0, 20.0]).reshape((1,) * (x.ndim - 1) + (3,))
    return jnp.sqrt(jnp.sum((x - centre) ** 2, axis=-1) + 1e-12) - radius


def test_surface_that_leaves_the_box_is_open_and_says_so():
    mesh, stats = extract(field(plane, jnp.float32(0.01)), 64)
    assert stats.open_faces > 0 and not is_closed(mesh.faces)
    np.testing.assert_allclose(mesh.vertices[:, 2], 0.01, atol=1e-6)
    assert len(np.unique(face_components(mesh.faces, len(mesh.vertices)))) == 1


@pytest.mark.parametrize(
    ("f", "options", "message"),
    [
        (field(constant, jnp.float32(3.0)), {}, "3 to 3, all positive"),
        (field(constant, jnp.float32(-3.0)), {}, "-3 to -3, all negative"),
        (field(constant, jnp.float32(0.25), kind="occupancy"), {}, "0.25 to 0.25, all positive"),
        (field(constant, jnp.float32(0.01)), {}, "all positive"),
        (field(constant, jnp.float32(jnp.nan)), {}, "not finite"),
        (field(sphere, jnp.float32(0.5), pointwise=False), {}, "pointwise"),
        (field(sphere, jnp.float32(0.5)), {"resolution": 66}, "multiple of leaf"),
        (field(sphere, jnp.float32(0.5)), {"margin": 0.0}, "bound of"),
        (field(sphere, jnp.float32(0.5)), {"margin": "wide"}, "bound of"),
        (field(sphere, jnp.float32(0.5)), {"max_vertices": 100}, "more than 100 vertices"),
        (field(sphere, jnp.float32(0.5)), {"max_points": 100}, "looks like noise"),
        (field(sphere, jnp.float32(0.5), box=((0.0,) * 3, (0.0,) * 3)), {}, "box"),
    ],
)
def test_bad_input_is_refused_with_a_reason(f, options, message):
    with pytest.raises(InputError, match=message):
        extract(f, **({"resolution": 64} | options))


def test_the_sample_key_changes_only_the_measured_bound(key):
    f = field(bumpy, jnp.float32(0.05))
    (a, stats_a), (b, stats_b) = extract(f, 64, key=key), extract(f, 64)
    np.testing.assert_array_equal(np.sort(a.vertices, axis=0), np.sort(b.vertices, axis=0))
    assert stats_a.lipschitz != stats_b.lipschitz or stats_a == stats_b
