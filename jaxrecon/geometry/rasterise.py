"""A z-buffer rasteriser for triangle meshes and OpenCV pinhole cameras, in JAX.

Fragments, not faces, are the unit of work: the pixels of all faces' screen boxes form one long
list, which a loop walks in chunks of fixed size; every slot finds its face by binary search in the
running sum of box sizes. So one compilation serves any mix of small and large triangles, nothing is
dropped for lack of a budget, and `vmap` works.

Visibility is discrete; the barycentric coordinates, the depth and what is interpolated are
differentiable with respect to the vertices and the camera (the silhouette's own motion is not: see
a soft silhouette for that).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxrecon.types import Cameras


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Raster:
    """What every pixel sees."""

    face: Any
    """(h, w) int32 index of the nearest face, -1 where there is none"""
    barycentric: Any
    """(h, w, 3) perspective-correct coordinates of the point on that face, 0 where there is none"""
    depth: Any
    """(h, w) camera z in world units, inf where there is none"""

    @property
    def mask(self):
        """(h, w) bool: some face covers the pixel's centre."""
        return self.face >= 0


def _project(vertices, camera: Cameras):
    """Pixels (v, 2) and camera depth (v,)."""
    # Matrix products are kept exact: on accelerators the default precision would move silhouettes.
    x = jnp.einsum("ij,nj->ni", camera.R, vertices, precision="highest") + camera.t[None]
    p = jnp.einsum("ij,nj->ni", camera.K, x, precision="highest")
    z = x[:, 2]
    safe = jnp.where(jnp.abs(z) < 1e-12, 1e-12, z)
    return p[:, :2] / safe[:, None], z


def _screen_edges(corners, pixels):
    """Twice the signed areas (*n, 3) opposite each corner of triangles (*n, 3, 2) seen from
    pixels (*n, 2).
    """
    d = corners - pixels[..., None, :]  # relative first: float32 keeps sub-pixel digits
    a, b, c = d[..., 0, :], d[..., 1, :], d[..., 2, :]

    def cross(p, q):
        return p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]

    return jnp.stack([cross(b, c), cross(c, a), cross(a, b)], axis=-1)


def _barycentric(corners, depths, pixels):
    """Perspective-correct coordinates (*n, 3), depth (*n,) and whether the pixel lies inside
    (*n,).
    """
    edges = _screen_edges(corners, pixels)
    area = edges.sum(-1, keepdims=True)
    inside = (jnp.min(edges * jnp.sign(area), axis=-1) >= 0) & (area[..., 0] != 0)
    screen = edges / jnp.where(area == 0, 1.0, area)
    # 1/z is linear on the screen.
    inverse = screen / depths
    total = inverse.sum(-1, keepdims=True)
    total = jnp.where(total == 0, 1.0, total)
    return inverse / total, 1 / total[..., 0], inside


@functools.partial(jax.jit, static_argnames=("height", "width", "chunk"))
def rasterise(
    vertices: Float[Array | np.ndarray, "v 3"],
    faces: Int[Array | np.ndarray, "f 3"],
    camera: Cameras,
    height: int,
    width: int,
    near: float | int | Array = 1e-6,
    chunk: int = 65536,
) -> Raster:
    """The nearest face at every pixel centre (j + 0.5, i + 0.5); faces are seen from both sides.

    Args:
        vertices: (v, 3) world coordinates.
        faces: (f, 3) vertex indices; the order decides ties of depth (the smaller index wins).
        camera: one camera (K (3, 3), R (3, 3), t (3,)) of the same world.
        height: rows, pixels (static).
        width: columns, pixels (static).
        near: faces with a corner whose depth is not above `near` are left out (no clipping), world
            units.
        chunk: fragments per step of the loop (static): memory against overhead. The sum of the
            pixels of all faces' screen boxes must be below 2**31.

    Returns:
        a `Raster` of height x width.
    """
    vertices = jnp.asarray(vertices, jnp.float32)
    faces = jnp.asarray(faces, jnp.int32)
    camera = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), camera)
    if faces.shape[0] == 0:
        return Raster(
            face=jnp.full((height, width), -1, jnp.int32),
            barycentric=jnp.zeros((height, width, 3)),
            depth=jnp.full((height, width), jnp.inf),
        )
    pixels, depth = _project(vertices, camera)
    corners, depths = pixels[faces], depth[faces]
    face = _visible_faces(
        jax.lax.stop_gradient(corners), jax.lax.stop_gradient(depths), height, width, near, chunk
    )

    hit = face >= 0
    seen = jnp.maximum(face, 0)
    v, u = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    grid = jnp.stack([u, v], axis=-1).astype(jnp.float32)
    # Pixels without a face take a harmless triangle, so that no gradient is a NaN times zero.
    harmless = grid[..., None, :] + jnp.asarray([[[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]])
    safe_corners = jnp.where(hit[..., None, None], corners[seen], harmless)
    safe_depths = jnp.where(hit[..., None], depths[seen], 1.0)
    barycentric, z, _ = _barycentric(safe_corners, safe_depths, grid)
    return Raster(
        face=face,
        barycentric=jnp.where(hit[..., None], barycentric, 0.0),
        depth=jnp.where(hit, z, jnp.inf),
    )


def _visible_faces(corners, depths, height, width, near, chunk):
    """(h, w) index of the nearest face of screen triangles (f, 3, 2) with corner depths (f, 3);
    -1 for none.
    """
    count = corners.shape[0]
    size = jnp.asarray([width, height], jnp.float32)[None]
    # Clipped as floats: far outside the picture an integer would overflow.
    low = jnp.clip(jnp.ceil(corners.min(1) - 0.5), 0, size).astype(jnp.int32)
    high = jnp.clip(jnp.floor(corners.max(1) - 0.5), -1, size - 1).astype(jnp.int32)
    extent = jnp.maximum(high - low + 1, 0)
    visible = (depths.min(1) > near) & jnp.isfinite(corners).all((1, 2))
    boxes = jnp.where(visible, extent[:, 0] * extent[:, 1], 0)
    ends = jnp.cumsum(boxes)
    total = ends[-1]

    def body(state):
        start, z_buffer, id_buffer = state
        slot = start + jnp.arange(chunk, dtype=jnp.int32)
        face = jnp.searchsorted(ends, slot, side="right").astype(jnp.int32)
        valid = face < count
        face = jnp.minimum(face, count - 1)
        offset = slot - (ends[face] - boxes[face])
        columns = jnp.maximum(extent[face, 0], 1)
        column = low[face, 0] + offset % columns
        row = low[face, 1] + offset // columns
        centre = jnp.stack([column, row], axis=-1).astype(jnp.float32) + 0.5
        _, z, inside = _barycentric(corners[face], depths[face], centre)
        # Rounding must not put a fragment in front of its own face.
        z = jnp.clip(z, depths[face].min(-1), depths[face].max(-1))
        # Materialised: the comparison below must see the very number that was scattered.
        z = jax.lax.optimization_barrier(jnp.where(valid & inside, z, jnp.inf))
        target = jnp.where(z < jnp.inf, row * width + column, height * width)
        z_new = z_buffer.at[target].min(z, mode="drop")
        keep = jnp.where(z_new < z_buffer, count, id_buffer)
        won = z == z_new.at[target].get(mode="fill", fill_value=-1.0)
        ids = keep.at[jnp.where(won, target, height * width)].min(face, mode="drop")
        return start + chunk, z_new, ids

    start = (
        jnp.int32(0),
        jnp.full((height * width,), jnp.inf, jnp.float32),
        jnp.full((height * width,), count, jnp.int32),
    )
    _, _, ids = jax.lax.while_loop(lambda s: s[0] < total, body, start)
    return jnp.where(ids == count, -1, ids).reshape(height, width)


@jax.jit
def interpolate(
    raster: Raster,
    faces: Int[Array | np.ndarray, "f 3"],
    attributes: Float[Array | np.ndarray, "v c"],
) -> Float[Array, "h w c"]:
    """Vertex attributes at what every pixel sees; 0 where it sees nothing.

    Args:
        raster: from `rasterise` with the same faces.
        faces: (f, 3) vertex indices.
        attributes: (v, c) values at the vertices.

    Returns:
        (h, w, c) values.
    """
    attributes = jnp.asarray(attributes)
    if faces.shape[0] == 0:
        return jnp.zeros((*raster.face.shape, attributes.shape[-1]), attributes.dtype)
    corners = attributes[jnp.asarray(faces)[jnp.maximum(raster.face, 0)]]
    return (raster.barycentric[..., None].astype(corners.dtype) * corners).sum(-2)


def scale_camera(camera: Cameras, factor: float | int) -> Cameras:
    """The camera of the same view with `factor` times as many pixels along each side.

    Pixel coordinates are continuous (centres at + 0.5), hence the first two rows of K scale,
    nothing else.
    """
    scale = jnp.asarray([factor, factor, 1.0], jnp.float32)[:, None]
    return dataclasses.replace(camera, K=jnp.asarray(camera.K, jnp.float32) * scale)


@functools.partial(jax.jit, static_argnames="factor")
def downsample(
    colour: Float[Array | np.ndarray, "H W 3"], mask: Array | np.ndarray, factor: int
) -> Float[Array, "h w 4"]:
    """Anti-aliasing: a supersampled picture becomes RGBA, each pixel the mean of factor x factor
    samples.

    Args:
        colour: (h * factor, w * factor, 3) RGB.
        mask: (h * factor, w * factor) bool, which samples belong to the subject.
        factor: samples along each side of a pixel.

    Returns:
        (h, w, 4): RGB is the mean over the covered samples (not premultiplied; white where there
        are none), and alpha the covered share.
    """
    weight = jnp.asarray(mask).astype(jnp.float32)[..., None]
    height, width = weight.shape[0] // factor, weight.shape[1] // factor

    def blocks(image):
        return image.reshape(height, factor, width, factor, -1).sum((1, 3))

    covered = blocks(weight)
    total = blocks(jnp.asarray(colour, jnp.float32) * weight)
    mean = jnp.where(covered > 0, total / jnp.maximum(covered, 1.0), 1.0)
    return jnp.concatenate([mean, covered / factor**2], axis=-1)
