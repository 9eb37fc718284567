"""Points of a true head, which of them can be seen, and how far a reconstruction is from them.

A linear head model is open at the neck and nested at eyes and mouth: eyeballs go on behind the
skin, lids and lips fold in. No closed head has these parts, and no scanner sees them. A point is
`seen` when at least one of many directions of its normal's hemisphere leaves the head freely; the
rims of neck, mouth and eyes are closed for that, or the inside would be seen through them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.morphable_heads.head import boundary_loops
from jaxrecon.geometry.distances import SurfaceTree
from jaxrecon.geometry.mesh import sample_surface
from jaxrecon.types import Mesh

FACE_MM = 95.0
"""The face: within this of the nose tip."""
_DIRECTIONS = 32
_OFFSET_MM = 0.3


@dataclasses.dataclass(frozen=True)
class TruePoints:
    """Points of a true surface, area-uniform, within the canonical box."""

    points: np.ndarray
    """(n, 3) canonical"""
    normals: np.ndarray
    """(n, 3) outward unit normals"""
    seen: np.ndarray
    """(n,) whether the outside sees the point"""
    face: np.ndarray
    """(n,) whether it lies within 95 mm of the nose tip"""

    def take(self, chosen: np.ndarray) -> TruePoints:
        """Some of the points, by index or mask."""
        return TruePoints(*(getattr(self, f.name)[chosen] for f in dataclasses.fields(self)))


def true_points(
    mesh: Mesh, nose: np.ndarray, rng: np.random.Generator, count: int, unit_mm: float
) -> TruePoints:
    """`count` area-uniform points of a mesh that lie in the canonical box.

    Args:
        mesh: the outer skin, canonical.
        nose: (3,) tip of the nose.
        rng: draws points and directions.
        count: points.
        unit_mm: millimetres per canonical unit.
    """
    centres = np.abs(mesh.vertices[mesh.faces]).max((1, 2))
    faces = mesh.faces[centres < 1.0]
    drawn = sample_surface(mesh.vertices, faces, rng, count)
    seen = visible(mesh, drawn.points, drawn.normals, rng, _OFFSET_MM / unit_mm)
    near = np.linalg.norm(drawn.points - nose[None], axis=1) * unit_mm < FACE_MM
    return TruePoints(drawn.points, drawn.normals, seen, near)


def scan_points(truth: TruePoints, rng: np.random.Generator, count: int, face_density: float):
    """`count` of the seen points, drawn without replacement, the face `face_density` times denser.

    Returns:
        (points, normals) (count, 3) float32: what a scanner would give.
    """
    chosen = np.flatnonzero(truth.seen)
    weight = np.where(truth.face[chosen], face_density, 1.0)
    picked = rng.choice(chosen, count, replace=False, p=weight / weight.sum())
    return truth.points[picked].astype(np.float32), truth.normals[picked].astype(np.float32)


def close_rims(mesh: Mesh) -> Mesh:
    """The mesh with a fan about its middle over every open rim."""
    vertices, faces = [mesh.vertices], [mesh.faces]
    for i, loop in enumerate(boundary_loops(mesh.faces)):
        vertices.append(mesh.vertices[loop].mean(0, keepdims=True))
        middle = np.full_like(loop, len(mesh.vertices) + i)
        faces.append(np.stack([np.roll(loop, -1), loop, middle], axis=1))
    return Mesh(np.concatenate(vertices), np.concatenate(faces))


def visible(
    mesh: Mesh, points: np.ndarray, normals: np.ndarray, rng: np.random.Generator, offset: float
) -> np.ndarray:
    """(n,) whether a ray from the point leaves the mesh, of cosine-distributed directions about
    its normal; rays start `offset` above the surface.
    """
    import trimesh

    closed = close_rims(mesh)
    rays = trimesh.Trimesh(closed.vertices, closed.faces, process=False).ray
    seen = np.zeros(len(points), bool)
    for _ in range(_DIRECTIONS):
        left = np.flatnonzero(~seen)
        if not len(left):
            break
        sphere = rng.standard_normal((len(left), 3))
        direction = normals[left] + 0.999 * sphere / np.linalg.norm(sphere, axis=1, keepdims=True)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        seen[left] = ~rays.intersects_any(points[left] + offset * normals[left], direction)
    return seen


def to_mesh(truth: TruePoints, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """(distance (n,), cosine (n,) of the true normal and that of the mesh at its closest point)."""
    distance, closest, face = SurfaceTree(mesh.vertices, mesh.faces).closest(truth.points)
    normals = smooth_normals(mesh, closest, face)
    return distance, np.sum(truth.normals * normals, axis=1)


def smooth_normals(mesh: Mesh, points: np.ndarray, face: np.ndarray) -> np.ndarray:
    """Area-weighted vertex normals, interpolated to points of the faces.

    Faces of marching cubes may be slivers, whose own normals mean little.
    """
    corners = np.asarray(mesh.vertices, np.float64)[mesh.faces]
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros((len(mesh.vertices), 3))
    for i in range(3):
        np.add.at(total, mesh.faces[:, i], area)
    total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)
    # Barycentric coordinates from the areas that the point cuts off.
    own, whole = corners[face] - points[:, None], np.linalg.norm(area[face], axis=1)
    cut = [np.linalg.norm(np.cross(own[:, (i + 1) % 3], own[:, (i + 2) % 3]), axis=1)
           for i in range(3)]  # fmt: skip
    weights = np.stack(cut, axis=1) / np.maximum(whole, 1e-30)[:, None]
    normals = np.einsum("nk,nkd->nd", weights, total[mesh.faces[face]])
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)


def statistics(error: np.ndarray, cosine: np.ndarray | None = None) -> dict:
    """Mean, median and 95th percentile of distances, and the mean cosine."""
    out = {
        "mean_mm": float(error.mean()),
        "median_mm": float(np.median(error)),
        "p95_mm": float(np.quantile(error, 0.95)),
    }
    return out if cosine is None else out | {"normal_cosine": float(cosine.mean())}
