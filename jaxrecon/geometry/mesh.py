"""Triangle meshes: normals, areas, sampling, parts and closedness.

`face_normals`, `vertex_normals` and `face_areas` are JAX functions of arrays (differentiable,
finite at degenerate faces); the others work on the host on `Mesh`es.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrecon.types import Mesh


def _area_vectors(vertices, faces):
    a, b, c = (vertices[..., faces[:, i], :] for i in range(3))
    return 0.5 * jnp.cross(b - a, c - a)


def _unit(x):
    """The unit vector along x; at 0 its value is 0 and its gradient finite."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    safe = jnp.where(squared > 0, squared, 1.0)
    return jnp.where(squared > 0, x / jnp.sqrt(safe), 0.0)


def face_normals(
    vertices: Float[Array | np.ndarray, "*batch v 3"], faces: Int[Array | np.ndarray, "f 3"]
) -> Float[Array, "*batch f 3"]:
    """Unit normals by the right-hand rule (outward for counter-clockwise faces); degenerate: 0."""
    return _unit(_area_vectors(jnp.asarray(vertices), jnp.asarray(faces)))


def face_areas(
    vertices: Float[Array | np.ndarray, "*batch v 3"], faces: Int[Array | np.ndarray, "f 3"]
) -> Float[Array, "*batch f"]:
    """Areas of the faces, vertex units squared; the gradient is finite (0) at degenerate faces."""
    squared = jnp.sum(_area_vectors(jnp.asarray(vertices), jnp.asarray(faces)) ** 2, axis=-1)
    safe = jnp.where(squared > 0, squared, 1.0)
    return jnp.where(squared > 0, jnp.sqrt(safe), 0.0)


def vertex_normals(
    vertices: Float[Array | np.ndarray, "*batch v 3"], faces: Int[Array | np.ndarray, "f 3"]
) -> Float[Array, "*batch v 3"]:
    """Unit vertex normals, area-weighted over the adjacent faces; 0 for unreferenced vertices."""
    vertices, faces = jnp.asarray(vertices), jnp.asarray(faces)
    areas = _area_vectors(vertices, faces)
    total = jnp.zeros_like(vertices)
    for corner in range(3):
        total = total.at[..., faces[:, corner], :].add(areas)
    return _unit(total)


def triangle_areas(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> Float[np.ndarray, " f"]:
    """Areas of the faces on the host in the vertices' precision."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=-1)


def triangle_normals(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> Float[np.ndarray, "f 3"]:
    """Unit face normals on the host in the vertices' precision; 0 for degenerate faces."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    n = np.cross(b - a, c - a)
    length = np.linalg.norm(n, axis=-1, keepdims=True)
    return np.where(length > 0, n / np.where(length > 0, length, 1.0), 0.0)


@dataclasses.dataclass(frozen=True)
class SurfaceSamples:
    """Points of a surface."""

    points: np.ndarray
    """(n, 3) float64, mesh units"""
    normals: np.ndarray
    """(n, 3) unit normals of the faces"""
    faces: np.ndarray
    """(n,) face indices"""
    barycentric: np.ndarray
    """(n, 3) weights of the face's vertices"""


def sample_surface(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    rng: np.random.Generator | int,
    n: int,
) -> SurfaceSamples:
    """`n` points, uniform by area and independent.

    Args:
        vertices, faces: the surface; at least one face with an area.
        rng: a NumPy generator, or a seed.
        n: number of points.

    Raises:
        ValueError: the surface has no area.
    """
    rng = np.random.default_rng(rng)
    vertices = np.asarray(vertices, np.float64)
    areas = triangle_areas(vertices, faces)
    if not areas.sum() > 0:
        raise ValueError("the surface has no area to sample")
    chosen = rng.choice(len(faces), n, p=areas / areas.sum())
    u = rng.random((n, 2))
    u = np.where(u.sum(1, keepdims=True) > 1, 1 - u, u)  # folds the square onto the triangle
    weights = np.concatenate([1 - u.sum(1, keepdims=True), u], axis=1)
    points = np.einsum("nk,nkd->nd", weights, vertices[faces[chosen]])
    return SurfaceSamples(points, triangle_normals(vertices, faces)[chosen], chosen, weights)


def drop_unreferenced(mesh: Mesh) -> Mesh:
    """The mesh without vertices that no face uses; colours and UV follow."""
    used, faces = np.unique(mesh.faces, return_inverse=True)

    def pick(a):
        return None if a is None else np.asarray(a)[used]

    return Mesh(
        mesh.vertices[used],
        faces.reshape(-1, 3).astype(np.int64),
        pick(mesh.colours),
        pick(mesh.uv),
    )


def keep_faces(mesh: Mesh, keep: Bool[np.ndarray, " f"]) -> Mesh:
    """The mesh of the faces where `keep`, without the vertices that only the others used."""
    return drop_unreferenced(dataclasses.replace(mesh, faces=mesh.faces[keep]))


def face_components(faces: Int[np.ndarray, "f 3"], n_vertices: int) -> Int[np.ndarray, " f"]:
    """The number of each face's part; faces that share a vertex are in one part."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    i, j = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = coo_matrix((np.ones(len(i), bool), (i, j)), shape=(n_vertices, n_vertices))
    return connected_components(graph, directed=False)[1][faces[:, 0]]


def largest_component(mesh: Mesh) -> Mesh:
    """The connected part with the most surface area."""
    label = face_components(mesh.faces, len(mesh.vertices))
    area = np.bincount(
        label, weights=triangle_areas(np.asarray(mesh.vertices, np.float64), mesh.faces)
    )
    return keep_faces(mesh, label == np.argmax(area))


def boundary_edges(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "e 2"]:
    """Directed edges (in their face's direction) whose reverse no face has: the rim of the
    surface.
    """
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    size = int(faces.max()) + 1 if len(faces) else 1
    forward, backward = edges[:, 0] * size + edges[:, 1], edges[:, 1] * size + edges[:, 0]
    return edges[~np.isin(forward, backward)]


def is_closed(faces: Int[np.ndarray, "f 3"]) -> bool:
    """Whether every edge is shared by exactly two faces that run through it in opposite
    directions.
    """
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    if not len(edges) or (edges[:, 0] == edges[:, 1]).any():
        return False
    keys = edges[:, 0] * (int(faces.max()) + 1) + edges[:, 1]
    return len(np.unique(keys)) == len(keys) and not len(boundary_edges(faces))


def signed_volume(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> float:
    """Enclosed volume of a closed surface, positive when its faces are counter-clockwise seen
    from outside.
    """
    a, b, c = (np.asarray(vertices, np.float64)[faces[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)
