"""Rotations and similarities: small pure functions with finite gradients at the identity and at
half turns.

Rotations act on column vectors, x_b = R_b_a x_a. All functions take any leading batch axes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.types import Similarity

# tf32 or bf16 products would move rays by pixels: geometry always multiplies in full precision.
HIGHEST = jax.lax.Precision.HIGHEST


def safe_norm(x: Float[Array, "*n d"], smallest: float = 1e-12) -> Float[Array, "*n"]:
    """Euclidean norm over the last axis whose gradient at zero is zero, not NaN."""
    squared = jnp.sum(x * x, axis=-1)
    positive = squared > smallest * smallest
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def safe_normalise(x: Float[Array, "*n d"], smallest: float = 1e-12) -> Float[Array, "*n d"]:
    """x / |x| over the last axis; a vector shorter than `smallest` maps to zero, with zero
    gradient."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    positive = squared > smallest * smallest
    return jnp.where(positive, x * jax.lax.rsqrt(jnp.where(positive, squared, 1.0)), 0.0)


def skew(w: Float[Array, "*n 3"]) -> Float[Array, "*n 3 3"]:
    """The cross-product matrix: skew(w) x = w × x."""
    x, y, z = w[..., 0], w[..., 1], w[..., 2]
    zero = jnp.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return jnp.stack(rows, axis=-1).reshape(w.shape[:-1] + (3, 3))


def rotation_from_axis_angle(w: Float[Array, "*n 3"]) -> Float[Array, "*n 3 3"]:
    """Rodrigues' formula R = I + a skew(w) + b skew(w)², a = sin|w|/|w|, b = (1 - cos|w|)/|w|².

    Near |w| = 0 the coefficients are Taylor series in |w|², so that derivatives of all orders
    that are in use stay finite and right.

    Args:
        w: rotation vectors, radians.
    """
    squared = jnp.sum(w * w, axis=-1)
    small = squared < 1e-3  # here the series below are exact to 1e-17 relative
    safe = jnp.where(small, 1.0, squared)
    angle = jnp.sqrt(safe)
    series = jnp.where(small, squared, 0.0)
    a_series = 1.0 - series / 6.0 * (
        1.0 - series / 20.0 * (1.0 - series / 42.0 * (1.0 - series / 72.0))
    )
    b_series = 0.5 * (
        1.0 - series / 12.0 * (1.0 - series / 30.0 * (1.0 - series / 56.0 * (1.0 - series / 90.0)))
    )
    a = jnp.where(small, a_series, jnp.sin(angle) / angle)
    # 2 sin² of the half angle: 1 - cos loses half the digits of float32
    b = jnp.where(small, b_series, 2.0 * jnp.sin(0.5 * angle) ** 2 / safe)
    k = skew(w)
    k2 = jnp.matmul(k, k, precision=HIGHEST)
    identity = jnp.broadcast_to(jnp.eye(3, dtype=w.dtype), k.shape)
    return identity + a[..., None, None] * k + b[..., None, None] * k2


def quaternion_from_rotation(R: Float[Array, "*n 3 3"]) -> Float[Array, "*n 4"]:
    """Unit quaternions (w, x, y, z) with w >= 0, from the best conditioned of four formulas
    (Shepperd 1978)."""
    m00, m11, m22 = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    x, y, z = (
        R[..., 2, 1] - R[..., 1, 2],
        R[..., 0, 2] - R[..., 2, 0],
        R[..., 1, 0] - R[..., 0, 1],
    )
    xy, xz, yz = (
        R[..., 1, 0] + R[..., 0, 1],
        R[..., 0, 2] + R[..., 2, 0],
        R[..., 2, 1] + R[..., 1, 2],
    )
    # four times the squared components; each is also the pivot of one row of candidates
    squares = [1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22]
    rows = [
        [squares[0], x, y, z],
        [x, squares[1], xy, xz],
        [y, xy, squares[2], yz],
        [z, xz, yz, squares[3]],
    ]
    table = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    best = jnp.argmax(jnp.stack(squares, axis=-1), axis=-1)
    # The chosen row is 4 q_best q: normalising it also projects slightly non-orthogonal input.
    row = jnp.take_along_axis(table, best[..., None, None], axis=-2)[..., 0, :]
    q = safe_normalise(row)
    return jnp.where(q[..., :1] < 0, -q, q)


def axis_angle_from_rotation(R: Float[Array, "*n 3 3"]) -> Float[Array, "*n 3"]:
    """The rotation vector of least angle, radians in [0, π]; at exactly π the axis' sign is
    arbitrary.

    Gradients are finite everywhere, the identity and half turns included (through quaternions).
    """
    q = quaternion_from_rotation(R)
    w, v = q[..., 0], q[..., 1:]
    squared = jnp.sum(v * v, axis=-1)
    small = squared < 1e-6
    sine = jnp.sqrt(jnp.where(small, 1.0, squared))
    series_w = jnp.where(small, w, 1.0)
    ratio = jnp.where(small, squared, 0.0) / (series_w * series_w)
    series = 2.0 / series_w * (1.0 - ratio / 3.0 * (1.0 - ratio * 0.6))
    factor = jnp.where(small, series, 2.0 * jnp.arctan2(sine, jnp.where(small, 1.0, w)) / sine)
    return factor[..., None] * v


def rotation_from_6d(six: Float[Array, "*n 6"]) -> Float[Array, "*n 3 3"]:
    """Gram-Schmidt of two columns, [a | b] (Zhou et al. 2019, "On the continuity of rotation
    representations").

    Args:
        six: the first column's three numbers, then the second's.
    """
    a, b = six[..., :3], six[..., 3:]
    x = safe_normalise(a)
    y = safe_normalise(b - jnp.sum(x * b, axis=-1, keepdims=True) * x)
    return jnp.stack([x, y, jnp.cross(x, y)], axis=-1)


def six_d_from_rotation(R: Float[Array, "*n 3 3"]) -> Float[Array, "*n 6"]:
    """The first two columns: `rotation_from_6d` gives R back."""
    return jnp.concatenate([R[..., :, 0], R[..., :, 1]], axis=-1)


def rotation_from_rot6d(six: Float[Array | np.ndarray, "*n 6"]) -> Float[Array, "*n 3 3"]:
    """Gram-Schmidt of two columns that are read interleaved, (3, 2) row by row: the layout in which
    SPIN, ExPose and their kin write poses (`rotation_from_6d` reads one column, then the other).
    """
    columns = jnp.asarray(six).reshape(six.shape[:-1] + (3, 2))
    return rotation_from_6d(jnp.concatenate([columns[..., 0], columns[..., 1]], axis=-1))


def rot6d_from_rotation(R: Float[Array | np.ndarray, "*n 3 3"]) -> Float[Array, "*n 6"]:
    """The first two columns, interleaved: `rotation_from_rot6d` gives R back."""
    return jnp.asarray(R)[..., :, :2].reshape(R.shape[:-2] + (6,))


def rotate(R: Float[Array, "*b 3 3"], x: Float[Array, "*c 3"]) -> Float[Array, "*c 3"]:
    """R x for every point: R (*batch, 3, 3), x (*batch, *n, 3) -> (*batch, *n, 3)."""
    batch = R.shape[:-2]
    flat = x.reshape(batch + (-1, 3))
    return jnp.matmul(flat, jnp.swapaxes(R, -1, -2), precision=HIGHEST).reshape(x.shape)


def apply_similarity(S: Similarity, x: Float[Array | np.ndarray, "*c 3"]) -> Float[Array, "*c 3"]:
    """scale R x + t: S with batch axes *batch, x (*batch, *n, 3) -> the same shape."""
    R, scale, t = jnp.asarray(S.R), jnp.asarray(S.scale), jnp.asarray(S.t)
    y = rotate(R, jnp.asarray(x)).reshape(R.shape[:-2] + (-1, 3))
    return (scale[..., None, None] * y + t[..., None, :]).reshape(x.shape)


def invert_similarity(S: Similarity) -> Similarity:
    """`S_a_b` from `S_b_a`."""
    R = jnp.swapaxes(S.R, -1, -2)
    scale = 1.0 / S.scale
    t = -scale[..., None] * jnp.matmul(R, S.t[..., None], precision=HIGHEST)[..., 0]
    return Similarity(scale=scale, R=R, t=t)


def compose_similarity(a: Similarity, b: Similarity) -> Similarity:
    """a after b: `S_c_a = compose_similarity(S_c_b, S_b_a)`; the same batch axes on both."""
    return Similarity(
        scale=a.scale * b.scale,
        R=jnp.matmul(a.R, b.R, precision=HIGHEST),
        t=a.scale[..., None] * jnp.matmul(a.R, b.t[..., None], precision=HIGHEST)[..., 0] + a.t,
    )


def identity_similarity(dtype=jnp.float32) -> Similarity:
    """The similarity that changes nothing (no batch axes)."""
    return Similarity(
        scale=jnp.ones((), dtype), R=jnp.eye(3, dtype=dtype), t=jnp.zeros((3,), dtype)
    )
