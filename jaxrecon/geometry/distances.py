"""Distances between points and surfaces: libigl on the host, brute force in JAX for small sets.

Everything is in the unit of the coordinates.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrecon.geometry.mesh import sample_surface, triangle_normals
from jaxrecon.types import Mesh


class SurfaceTree:
    """Closest points on one surface, many times: an axis-aligned bounding box tree built once.

    Args:
        vertices: (v, 3) positions.
        faces: (f, 3) indices; degenerate faces count as segments or points.
    """

    def __init__(self, vertices, faces):
        import igl

        self._vertices = np.ascontiguousarray(vertices, np.float64)
        self._faces = np.ascontiguousarray(faces, np.int64)
        self._tree = igl.AABB()
        self._tree.init(self._vertices, self._faces)

    def closest(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"], Int[np.ndarray, " n"]]:
        """(distance, closest point of the surface, its face) of each point."""
        if not len(points):
            return np.empty(0), np.empty((0, 3)), np.empty(0, np.int64)
        points = np.ascontiguousarray(points, np.float64)
        squared, face, closest = self._tree.squared_distance(self._vertices, self._faces, points)
        return (
            np.sqrt(np.maximum(np.ravel(squared), 0)),
            np.reshape(closest, (-1, 3)),
            np.ravel(face).astype(np.int64),
        )


def point_to_surface(
    points: Float[np.ndarray, "n 3"], mesh: Mesh
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"], Int[np.ndarray, " n"]]:
    """Unsigned distance from each point to the mesh: (distance, closest point, its face)."""
    return SurfaceTree(mesh.vertices, mesh.faces).closest(points)


def chamfer(
    a: Mesh, b: Mesh, *, n: int = 20_000, rng: np.random.Generator | int = 0
) -> tuple[float, float]:
    """Mean distance of area-uniform samples of each mesh to the other's surface: (a to b, b to a).

    Their mean is the usual Chamfer distance; the one from the prediction is "point to surface".
    """
    rng = np.random.default_rng(rng)
    samples_a = sample_surface(a.vertices, a.faces, rng, n).points
    samples_b = sample_surface(b.vertices, b.faces, rng, n).points
    to_b = point_to_surface(samples_a, b)[0]
    to_a = point_to_surface(samples_b, a)[0]
    return float(to_b.mean()), float(to_a.mean())


def normal_consistency(
    a: Mesh, b: Mesh, *, n: int = 20_000, rng: np.random.Generator | int = 0
) -> tuple[float, float]:
    """Mean cosine of the normals of samples and of the faces nearest to them: (a to b, b to a)."""
    rng = np.random.default_rng(rng)
    out = []
    for source, target in ((a, b), (b, a)):
        samples = sample_surface(source.vertices, source.faces, rng, n)
        face = point_to_surface(samples.points, target)[2]
        normals = triangle_normals(np.asarray(target.vertices, np.float64), target.faces)[face]
        out.append(float(np.sum(samples.normals * normals, axis=1).mean()))
    return out[0], out[1]


def winding_number(points: Float[np.ndarray, "n 3"], mesh: Mesh) -> Float[np.ndarray, " n"]:
    """Generalised winding number: about 1 inside and 0 outside, robust to holes and open rims.

    Source: Barill et al. 2018 (fast winding numbers).
    """
    import igl

    if not len(points):
        return np.empty(0)
    return np.ravel(
        igl.fast_winding_number(
            np.ascontiguousarray(mesh.vertices, np.float64),
            np.ascontiguousarray(mesh.faces, np.int64),
            np.ascontiguousarray(points, np.float64),
        )
    )


def signed_distance(points: Float[np.ndarray, "n 3"], mesh: Mesh) -> Float[np.ndarray, " n"]:
    """Distance to the mesh, negative where the winding number is above one half (inside)."""
    distance = point_to_surface(points, mesh)[0]
    return np.where(winding_number(points, mesh) > 0.5, -distance, distance)


def nearest_points(
    queries: Float[Array | np.ndarray, "n 3"],
    points: Float[Array | np.ndarray, "m 3"],
    *,
    chunk: int = 1024,
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Nearest of `points` for each query by brute force in JAX: (distance, index).

    The n x m table is never held: queries go in chunks. The distance is differentiable in both
    sets; where a query is on its point the gradient is 0.
    """
    queries, points = jnp.asarray(queries), jnp.asarray(points)
    n = queries.shape[0]
    chunk = max(1, min(chunk, n))
    padded = jnp.concatenate([queries, jnp.zeros(((-n) % chunk, 3), queries.dtype)])
    fixed = jax.lax.stop_gradient(points)

    def search(q):
        # Differences, not |q|^2 - 2 q.p + |p|^2: the expansion loses half the digits of small
        # distances.
        return jnp.argmin(jnp.sum((q[:, None, :] - fixed[None, :, :]) ** 2, axis=-1), axis=1)

    index = jax.lax.map(search, jax.lax.stop_gradient(padded).reshape(-1, chunk, 3)).reshape(-1)[:n]
    squared = jnp.sum((queries - points[index]) ** 2, axis=-1)
    safe = jnp.where(squared > 0, squared, 1.0)
    return jnp.where(squared > 0, jnp.sqrt(safe), 0.0), index
