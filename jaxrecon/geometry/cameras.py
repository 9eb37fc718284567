"""Pinhole cameras in OpenCV axes (x right, y down, z forward): project, cast rays, triangulate.

x_camera = R x_world + t, pixel = (K x_camera) / z, pixel centres at integer + 0.5 (see
`types.Cameras`). K is upper triangular with last row (0, 0, 1); skew is honoured. A batch of
cameras of shape *batch takes points or pixels of shape (*batch, *n, 3 | 2); `project_shared` is for
points that every camera sees.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrecon.errors import InputError
from jaxrecon.geometry.transforms import HIGHEST, rotate, safe_normalise
from jaxrecon.types import Cameras, Similarity


def _flatten(batch: tuple[int, ...], x, last: int):
    """(*batch, *n, last) -> (*batch, -1, last), or a message that says which axes were meant."""
    if x.shape[: len(batch)] != batch or x.shape[-1] != last or x.ndim < len(batch) + 1:
        raise InputError(
            f"an array of shape {x.shape} for cameras of batch shape {batch}",
            f"shape (*batch, *n, {last}) with batch = {batch}",
            "broadcast shared points first, use project_shared, or vmap over the cameras",
        )
    return x.reshape(batch + (-1, last))


def camera_centres(cameras: Cameras) -> Float[Array, "*batch 3"]:
    """Centres in world coordinates, -Rᵀ t."""
    return -jnp.matmul(jnp.swapaxes(cameras.R, -1, -2), cameras.t[..., None], precision=HIGHEST)[
        ..., 0
    ]


def world_to_camera(
    cameras: Cameras, x_world: Float[Array | np.ndarray, "*n 3"]
) -> Float[Array, "*n 3"]:
    """R x + t: (*batch, *n, 3) -> the same shape, z forward."""
    x_world = jnp.asarray(x_world)
    flat = _flatten(cameras.t.shape[:-1], x_world, 3)
    return (rotate(jnp.asarray(cameras.R), flat) + cameras.t[..., None, :]).reshape(x_world.shape)


def project(
    cameras: Cameras, x_world: Float[Array | np.ndarray, "*n 3"]
) -> tuple[Float[Array, "*n 2"], Float[Array, "*n"]]:
    """Pixels and depths (z in the camera frame, world units) of points.

    Points in the camera's plane (|z| < 1e-9) have finite, meaningless pixels: test depth > 0 before
    use.

    Args:
        cameras: *batch cameras.
        x_world: (*batch, *n, 3).
    """
    x = world_to_camera(cameras, x_world)
    flat = _flatten(cameras.t.shape[:-1], x, 3)
    z = flat[..., 2]
    safe = jnp.where(jnp.abs(z) < 1e-9, 1e-9, z)
    a, b = flat[..., 0] / safe, flat[..., 1] / safe
    K = cameras.K[..., None, :, :]
    u = K[..., 0, 0] * a + K[..., 0, 1] * b + K[..., 0, 2]
    v = K[..., 1, 1] * b + K[..., 1, 2]
    shape = x.shape[:-1]
    return jnp.stack([u, v], axis=-1).reshape(shape + (2,)), z.reshape(shape)


def project_shared(
    cameras: Cameras, x_world: Float[Array | np.ndarray, "*n 3"]
) -> tuple[Float[Array, "*c 2"], Float[Array, "*c"]]:
    """`project` of the same points (*n, 3) by every camera: pixels (*batch, *n, 2), depths (*batch,
    *n)."""
    x_world = jnp.asarray(x_world)
    return project(cameras, jnp.broadcast_to(x_world, cameras.t.shape[:-1] + x_world.shape))


def pixel_grid(height: int, width: int, dtype=jnp.float32) -> Float[Array, "height width 2"]:
    """Pixel centres (u, v) = (column + 0.5, row + 0.5)."""
    u = jnp.broadcast_to((jnp.arange(width, dtype=dtype) + 0.5)[None, :], (height, width))
    v = jnp.broadcast_to((jnp.arange(height, dtype=dtype) + 0.5)[:, None], (height, width))
    return jnp.stack([u, v], axis=-1)


def pixel_rays(
    cameras: Cameras, pixels: Float[Array | np.ndarray, "*n 2"]
) -> tuple[Float[Array, "*n 3"], Float[Array, "*n 3"]]:
    """Origins and unit directions, in world coordinates, of the rays through pixels.

    Args:
        cameras: *batch cameras.
        pixels: (*batch, *n, 2), (u, v).
    """
    pixels = jnp.asarray(pixels)
    flat = _flatten(cameras.t.shape[:-1], pixels, 2)
    K = cameras.K[..., None, :, :]
    b = (flat[..., 1] - K[..., 1, 2]) / K[..., 1, 1]
    a = (flat[..., 0] - K[..., 0, 2] - K[..., 0, 1] * b) / K[..., 0, 0]
    d_camera = safe_normalise(jnp.stack([a, b, jnp.ones_like(a)], axis=-1))
    directions = rotate(jnp.swapaxes(cameras.R, -1, -2), d_camera)
    origins = jnp.broadcast_to(camera_centres(cameras)[..., None, :], directions.shape)
    shape = pixels.shape[:-1] + (3,)
    return origins.reshape(shape), directions.reshape(shape)


def transform_cameras(cameras: Cameras, S_new_world: Similarity) -> Cameras:
    """The same images seen in another frame and scale: project(new, S x) = project(old, x).

    R' = R R_Sᵀ, t' = s t - R' t_S, K unchanged; depths and ray lengths are multiplied by s.

    Args:
        cameras: *batch cameras in the world frame.
        S_new_world: one similarity, or *batch of them.
    """
    batch = cameras.t.shape[:-1]
    R_S = jnp.broadcast_to(S_new_world.R, batch + (3, 3))
    t_S = jnp.broadcast_to(S_new_world.t, batch + (3,))
    scale = jnp.broadcast_to(S_new_world.scale, batch)
    R = jnp.matmul(cameras.R, jnp.swapaxes(R_S, -1, -2), precision=HIGHEST)
    t = scale[..., None] * cameras.t - jnp.matmul(R, t_S[..., None], precision=HIGHEST)[..., 0]
    return Cameras(K=cameras.K, R=R, t=t)


def look_at(eye, target, K, up=(0.0, 1.0, 0.0)) -> Cameras:
    """Cameras at `eye` whose optical axis meets `target`, image y opposite to `up`.

    Args:
        eye: (*batch, 3) centres, world.
        target: (3,) or (*batch, 3).
        K: (3, 3) or (*batch, 3, 3).
        up: (3,), the world's up; must not be parallel to the viewing direction.
    """
    eye = jnp.asarray(eye)
    eye = eye.astype(jnp.promote_types(eye.dtype, jnp.float32))
    target = jnp.broadcast_to(jnp.asarray(target, eye.dtype), eye.shape)
    z = safe_normalise(target - eye)
    x = safe_normalise(jnp.cross(z, jnp.broadcast_to(jnp.asarray(up, eye.dtype), eye.shape)))
    R = jnp.stack([x, jnp.cross(z, x), z], axis=-2)
    t = -jnp.matmul(R, eye[..., None], precision=HIGHEST)[..., 0]
    K = jnp.broadcast_to(jnp.asarray(K, eye.dtype), eye.shape[:-1] + (3, 3))
    return Cameras(K=K, R=R, t=t)


def intrinsics(focal: float, height: int, width: int, dtype=jnp.float32) -> Float[Array, "3 3"]:
    """K with square pixels, no skew and the principal point in the middle; focal length in
    pixels."""
    return jnp.asarray(
        [[focal, 0.0, width / 2.0], [0.0, focal, height / 2.0], [0.0, 0.0, 1.0]], dtype
    )


def triangulate(
    cameras: Cameras,
    pixels: Float[Array | np.ndarray, "v p 2"],
    weights: Float[Array | np.ndarray, "v p"],
    reweightings: int = 3,
    smallest_angle: float = 0.02,
) -> tuple[Float[Array, "p 3"], Bool[Array, "p"]]:
    """Points seen in two or more views, by weighted least squares of their distances to the rays.

    Each reweighting divides the distances by the depths of the last solution (and multiplies by the
    focal length), so that pixel errors are what is minimised (iterated linear method, Hartley and
    Sturm 1997). Ill-posed points (fewer than two weighted views, nearly parallel rays) come back
    finite with flag False.

    Args:
        cameras: v cameras.
        pixels: (v, p, 2); values with weight 0 are not used, but must be finite.
        weights: (v, p) >= 0, 0 for unseen.
        reweightings: 0 minimises plain distances.
        smallest_angle: radians between rays under which a point is flagged.

    Returns:
        points (p, 3) in world coordinates; valid (p,).
    """
    pixels, weights = jnp.asarray(pixels), jnp.asarray(weights)
    origins, directions = pixel_rays(cameras, pixels)
    identity = jnp.broadcast_to(jnp.eye(3, dtype=pixels.dtype), directions.shape[:-1] + (3, 3))
    across = identity - directions[..., :, None] * directions[..., None, :]
    # centred, since float32 has seven digits; ill-posed points lean to this centre
    centre = jnp.mean(origins, axis=0, keepdims=True)
    origins = origins - centre
    offset = jnp.sum(across * origins[..., None, :], axis=-1)

    def moments(w):
        w = w / jnp.maximum(jnp.sum(w, axis=0, keepdims=True), 1e-12)
        return jnp.sum(w[..., None, None] * across, axis=0), jnp.sum(w[..., None] * offset, axis=0)

    # two rays at angle a have least eigenvalue (1 - cos a) / 2 = sin²(a/2) of the mean of I - d dᵀ
    least = jnp.linalg.eigvalsh(jax.lax.stop_gradient(moments(weights)[0]))[..., 0]
    valid = jnp.sum(weights > 0, axis=0) >= 2
    valid = valid & (least > jnp.sin(0.5 * smallest_angle) ** 2)
    ridge = jnp.where(valid, 0.0, 1e-3)[..., None, None] * identity[0]

    def solve(w):
        A, b = moments(w)
        return jnp.linalg.solve(A + ridge, b[..., None])[..., 0]

    points = solve(weights)
    focal = jnp.broadcast_to(cameras.K[:, 0, 0, None], weights.shape)
    for _ in range(reweightings):
        ahead = jnp.sum((points[None] - origins) * directions, axis=-1)
        ahead = jax.lax.stop_gradient(jnp.maximum(ahead, 1e-6))
        points = solve(weights * (focal / ahead) ** 2)
    return points + centre[0], valid
