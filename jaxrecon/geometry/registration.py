"""Rigid and similarity alignment: Procrustes (closed form, differentiable) and ICP (host)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrecon.geometry.distances import SurfaceTree
from jaxrecon.types import Similarity

_PRECISION = jax.lax.Precision.HIGHEST


@jax.custom_jvp
def nearest_rotation(matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """The rotation R (det +1) that maximises trace(R^T M): the orthogonal Procrustes problem
    without reflections.

    The derivative is that of the polar decomposition M = R P, P symmetric:
    dR = R [w]_x with (tr(P) I - P) w = vee(R^T dM - dM^T R). It exists where that of the singular
    value decomposition does not (equal singular values); where R is not unique it is taken as 0.

    Source: Kabsch 1976; Umeyama 1991, eq. 40-43.
    """
    u, _, vt = jnp.linalg.svd(matrix)
    sign = jnp.where(jnp.linalg.det(u) * jnp.linalg.det(vt) < 0, -1.0, 1.0).astype(matrix.dtype)
    d = jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign])
    return jnp.matmul(u * d[None, :], vt, precision=_PRECISION)


@nearest_rotation.defjvp
def _nearest_rotation_jvp(primals, tangents):
    (matrix,), (tangent,) = primals, tangents
    rotation = nearest_rotation(matrix)
    stretch = jnp.matmul(rotation.T, matrix, precision=_PRECISION)
    stretch = 0.5 * (stretch + stretch.T)
    skew = jnp.matmul(rotation.T, tangent, precision=_PRECISION)
    skew = skew - skew.T
    vee = jnp.stack([skew[2, 1], skew[0, 2], skew[1, 0]])
    size = jnp.sum(jnp.abs(matrix))
    size = jnp.where(size > 0, size, 1.0)
    system = (jnp.trace(stretch) * jnp.eye(3, dtype=matrix.dtype) - stretch) / size
    # Cramer's rule. The eigenvalues are s_i + s_j: the determinant is 0 where R is not unique.
    cofactors = jnp.stack([jnp.cross(system[i - 2], system[i - 1]) for i in range(3)])
    determinant = jnp.dot(system[0], cofactors[0], precision=_PRECISION)
    unique = jnp.abs(determinant) > 10 * jnp.finfo(matrix.dtype).eps
    w = jnp.matmul(cofactors, vee, precision=_PRECISION) / size
    w = jnp.where(unique, w / jnp.where(unique, determinant, 1.0), 0.0)
    zero = jnp.zeros_like(w[0])
    cross = jnp.stack([zero, -w[2], w[1], w[2], zero, -w[0], -w[1], w[0], zero]).reshape(3, 3)
    return rotation, jnp.matmul(rotation, cross, precision=_PRECISION)


def procrustes(
    a: Float[Array | np.ndarray, "n 3"],
    b: Float[Array | np.ndarray, "n 3"],
    weights: Float[Array | np.ndarray, " n"] | None = None,
    scale: bool = True,
) -> Similarity:
    """The similarity S_b_a that minimises sum_i w_i |s R a_i + t - b_i|^2, without reflections.

    Takes one example (vmap it for a batch). Gradients are finite everywhere; where the rotation is
    not unique (coincident or collinear points) its own is 0.

    Args:
        a, b: corresponding points.
        weights: non-negative; 0 leaves a pair out. All 1 when None.
        scale: whether the scale is fitted; else 1.

    Source: Umeyama 1991.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    dtype = jnp.result_type(a, b)
    a, b = a.astype(dtype), b.astype(dtype)
    w = jnp.ones(a.shape[0], dtype) if weights is None else jnp.asarray(weights).astype(dtype)
    w = (w / jnp.maximum(jnp.sum(w), jnp.finfo(dtype).tiny))[:, None]
    mean_a, mean_b = jnp.sum(w * a, axis=0), jnp.sum(w * b, axis=0)
    centred_a, centred_b = a - mean_a[None], b - mean_b[None]
    covariance = jnp.matmul((w * centred_b).T, centred_a, precision=_PRECISION)
    rotation = nearest_rotation(covariance)
    if scale:
        variance = jnp.sum(w * centred_a**2)
        positive = variance > 0
        factor = jnp.sum(rotation * covariance) / jnp.where(positive, variance, 1.0)
        factor = jnp.where(positive, factor, 1.0)
    else:
        factor = jnp.ones((), dtype)
    return Similarity(
        factor, rotation, mean_b - factor * jnp.matmul(rotation, mean_a, precision=_PRECISION)
    )


@dataclasses.dataclass(frozen=True)
class IcpResult:
    """An alignment found by ICP; arrays are float64."""

    similarity: Similarity
    """S_points_mesh: moves the mesh to the points."""
    mean_distance: np.ndarray
    """(iterations,) mean distance of the kept points before each update"""


def icp(
    points: Float[np.ndarray, "n 3"],
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    *,
    iterations: int = 25,
    keep: float = 0.9,
    scale: bool = False,
    initial: Similarity | None = None,
) -> IcpResult:
    """Moves a mesh to points: nearest surface points, the best `keep` of them, Procrustes; again.

    Args:
        points: fixed points, e.g. samples of the ground truth.
        vertices, faces: the mesh that moves.
        iterations: updates; stops early when an update no longer changes the pose (1e-9 of the
            points' extent).
        keep: fraction of the points with the smallest distances that takes part, in (0, 1].
        scale: whether the scale is fitted too.
        initial: S_points_mesh to start from; identity when None.

    Returns:
        IcpResult in float64.

    Raises:
        ValueError: keep or iterations out of range, or no points or faces.

    Source: Besl & McKay 1992, trimmed (Chetverikov et al. 2002).
    """
    if not 0 < keep <= 1 or iterations < 1 or not len(points) or not len(faces):
        raise ValueError(
            f"icp of {len(points)} points, {len(faces)} faces, keep {keep}, {iterations} iterations"
        )
    points = np.asarray(points, np.float64)
    s, R, t = (1.0, np.eye(3), np.zeros(3)) if initial is None else _as_numpy(initial)
    tree = SurfaceTree(vertices, faces)
    extent = np.linalg.norm(np.ptp(points, axis=0)) + 1e-300
    history = []
    for _ in range(iterations):
        # The search runs in the mesh's own frame: its tree is built once, and distances only
        # scale by s.
        distance, closest, _ = tree.closest((points - t) @ R / s)
        near = distance <= np.quantile(distance, keep)
        history.append(s * distance[near].mean())
        before = closest * s @ R.T + t
        s, R, t = procrustes_host(closest[near], points[near], scale=scale, fixed_scale=s)
        if np.abs(closest * s @ R.T + t - before).max() < 1e-9 * extent:
            break
    return IcpResult(Similarity(np.float64(s), R, t), np.asarray(history))


def _as_numpy(similarity):
    return tuple(np.asarray(x, np.float64) for x in (similarity.scale, similarity.R, similarity.t))


def procrustes_host(
    a: Float[np.ndarray, "n 3"],
    b: Float[np.ndarray, "n 3"],
    scale: bool = True,
    fixed_scale: float | np.ndarray = 1.0,
) -> tuple:
    """`procrustes` in NumPy float64, whatever jax's precision: (scale, R, t) of S_b_a.

    `fixed_scale` is used where `scale` is False.
    """
    mean_a, mean_b = a.mean(0), b.mean(0)
    covariance = (b - mean_b).T @ (a - mean_a)
    u, singular, vt = np.linalg.svd(covariance)
    d = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    R = (u * d) @ vt
    variance = ((a - mean_a) ** 2).sum()
    s = (singular * d).sum() / variance if scale and variance > 0 else float(fixed_scale)
    return s, R, mean_b - s * R @ mean_a
