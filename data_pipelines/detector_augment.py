"""Rendered people as photographs: random crops, backgrounds, occluders, and what cameras and files
do to pictures.

`photograph` is a pure function of one stored example and a key, and is vmapped inside the train
step, so that no picture is seen twice. Labels, points and visibility follow the pixels.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from data_pipelines.detector_pixels import clutter, degrade, occluder


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How pictures are taken."""

    size: int = 160
    """of the crop, pixels"""
    zoom: tuple[float, float] = (0.72, 1.65)
    """size of the render's side over the crop's, in most pictures"""
    far: tuple[float, float] = (0.25, 0.72)
    """the same where the subject is small and anywhere in the picture"""
    near: tuple[float, float] = (1.65, 3.5)
    """the same where it is too large; a quarter as often as far"""
    share_far: float = 0.2
    """of pictures where the subject is out of scale"""
    share_empty: float = 0.08
    """of pictures without a subject"""
    shift: float = 0.1
    """standard deviation of the subject's place, of the crop's side"""
    turn: float = 14.0
    """standard deviation of the rotation in the plane, degrees"""
    share_turned: float = 0.1
    """of pictures turned by up to `most_turned` instead"""
    most_turned: float = 70.0
    """degrees"""
    share_occluded: float = 0.3
    """of pictures in which something covers a part of the subject"""
    share_framed: float = 0.25
    """of crops that reach beyond the border of the photograph"""
    degraded: bool = True
    """exposure, blur, noise and JPEG"""
    lengthen: bool = True
    """Below a frame that cuts the subject its last row goes on (a longer coat); otherwise the
    photograph ends there too, since a longer person would have other bounds.
    """


def mips(image: Float[Array, "s s c"]) -> tuple[Float[Array, "n c"], tuple[int, ...]]:
    """The picture, its half and its quarter, one after another as rows of pixels, with their
    sides.
    """
    levels = [image]
    for _ in range(2):
        s = levels[-1].shape[0] // 2
        levels.append(levels[-1][: 2 * s, : 2 * s].reshape(s, 2, s, 2, -1).mean((1, 3)))
    rows = jnp.concatenate([level.reshape(-1, image.shape[-1]) for level in levels])
    return rows, tuple(level.shape[0] for level in levels)


def sample_mips(
    rows: Float[Array, "n c"],
    sides: tuple[int, ...],
    places: Float[Array, "*p 2"],
    scale: Float[Array, ""],
) -> Float[Array, "*p c"]:
    """Bilinear values at `places` (x, y) pixels of the largest level, read from the level whose
    pixels are about as large as those of the result.

    Args:
        rows, sides: of `mips`.
        places: beyond the picture, the nearest pixel of its border counts.
        scale: pixels of the picture per pixel of the result.
    """
    level = jnp.clip(jnp.round(jnp.log2(jnp.maximum(scale, 1e-3)) - 0.2), 0, len(sides) - 1)
    level = level.astype(jnp.int32)
    side = jnp.asarray(sides)[level]
    start = jnp.asarray(np.cumsum([0, *(s * s for s in sides[:-1])]))[level]
    p = places * side / sides[0] - 0.5
    low = jnp.clip(jnp.floor(p), 0, side - 2).astype(jnp.int32)
    part = jnp.clip(p - low, 0.0, 1.0)

    def corner(dx, dy):
        wx = part[..., 0] if dx else 1.0 - part[..., 0]
        wy = part[..., 1] if dy else 1.0 - part[..., 1]
        index = start + (low[..., 1] + dy) * side + low[..., 0] + dx
        return (wx * wy)[..., None] * rows[index]

    return corner(0, 0) + corner(1, 0) + corner(0, 1) + corner(1, 1)


def photograph(
    config: AugmentConfig,
    example: dict,
    key: Array,
    mirror: tuple[int, ...],
    photos: Float[Array | np.ndarray, "m p p 3"] | None = None,
) -> dict:
    """One training picture of a rendered person.

    Args:
        config: how.
        example: image (s, s, 4) uint8 straight RGBA; labels (s, s) uint8 or absent (then the
            label is whether alpha is above one half); points (n, 2) pixels; visible (n,); centre
            (2,) pixels and extent () pixels: what finds the subject.
        key: typed key.
        mirror: `types.LANDMARKS_MIRRORED` or `BODY_25_MIRRORED`.
        photos: backgrounds of the user's own, in [0, 1], or None.

    Returns:
        image (p, p, 3) in [0, 1]; labels (p, p) int32; points (n, 2) pixels; visible (n,) bool;
        inside (n,) bool; centre (2,), extent () pixels; present () bool: there is a subject.
    """
    size = config.size
    side = example["image"].shape[0]
    ks = jax.random.split(key, 9)
    u = jax.random.uniform(ks[0], (8,))
    far = u[0] < config.share_far
    present = u[1] >= config.share_empty
    cut = (example["image"][-1, :, 3] > 127).any()  # the render's frame ends the subject below

    def between(low, high, t):
        return low * (high / low) ** t

    off = jnp.where(u[7] < 0.2, between(*config.near, u[2]), between(*config.far, u[2]))
    zoom = jnp.where(far, off, between(*config.zoom, u[2]))
    scale = side / (size * zoom)  # pixels of the render per pixel of the crop
    turned = u[3] < config.share_turned
    angle = config.turn * jnp.clip(jax.random.normal(ks[1]), -3, 3)
    angle = jnp.where(turned, config.most_turned * (2 * u[4] - 1), jnp.where(far, 0.5, 1.0) * angle)
    flip = jnp.where(u[5] < 0.5, -1.0, 1.0)
    angle = jnp.radians(angle)
    c, s = jnp.cos(angle), jnp.sin(angle)
    # x_crop - place = M (x_render - centre)
    M = jnp.asarray([[c, -s], [s, c]]) * jnp.stack([flip, jnp.ones(())])[None] / scale
    near_place = 0.5 + config.shift * jnp.clip(jax.random.normal(ks[2], (2,)), -2.5, 2.5)
    far_place = jax.random.uniform(ks[3], (2,), minval=0.05, maxval=0.95)
    place = size * jnp.where(far, far_place, near_place)

    ij = jnp.arange(size) + 0.5
    grid = jnp.stack(jnp.meshgrid(ij, ij, indexing="xy"), axis=-1)
    inverse = jnp.linalg.inv(M)
    centre = example["centre"]

    def to_render(points):
        d = points - place[None, None]
        turned = jnp.stack([(inverse[i][None, None] * d).sum(-1) for i in (0, 1)], -1)
        return turned + centre[None, None]

    def to_crop(points):
        d = points - centre[None]
        return jnp.stack([(M[i][None] * d).sum(-1) for i in (0, 1)], -1) + place[None]

    source = to_render(grid)
    rgba = example["image"].astype(jnp.float32) / 255.0
    rgba = jnp.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], -1)
    rows, sides = mips(rgba)
    picture = sample_mips(rows, sides, source, scale)
    below = (source[..., 1] > side) & cut
    outside = (source[..., 0] < 0) | (source[..., 0] > side) | (source[..., 1] < 0)
    outside |= (source[..., 1] > side) & ~(cut & config.lengthen)
    shown = jnp.where(outside | ~present, 0.0, 1.0)
    picture = picture * shown[..., None]
    alpha = picture[..., 3]

    if "labels" in example:
        nearest = jnp.clip(jnp.floor(source), 0, side - 1).astype(jnp.int32)
        labels = example["labels"][nearest[..., 1], nearest[..., 0]].astype(jnp.int32)
        labels = jnp.where(shown > 0, labels, 0)
    else:
        labels = (alpha > 0.5).astype(jnp.int32)

    behind = clutter(ks[4], size)
    if photos is not None:
        behind = _own_background(ks[5], behind, jnp.asarray(photos), size)
    image = picture[..., :3] + (1 - picture[..., 3:]) * behind

    thing, cover = occluder(ks[6], size, place, example["extent"] / scale)
    cover = cover * (u[6] < config.share_occluded)
    image = image + cover[..., None] * (thing - image)
    labels = jnp.where(cover > 0.5, 0, labels)

    points = to_crop(example["points"])
    inside = ((points > 0) & (points < size)).all(-1)
    pixel = jnp.clip(jnp.floor(points), 0, size - 1).astype(jnp.int32)
    visible = example["visible"] & inside & (cover[pixel[:, 1], pixel[:, 0]] < 0.5)
    order = jnp.asarray(mirror)
    points, inside, visible = (
        jnp.where(flip < 0, a[order], a.astype(a.dtype)) for a in (points, inside, visible)
    )

    if config.degraded:
        image = degrade(ks[7], image)
    ends = below & (not config.lengthen) & present
    image, border = _framed(ks[8], image, config.share_framed, place, ends)
    labels = jnp.where(border, 0, labels)
    edge = border[pixel[:, 1], pixel[:, 0]]
    edge = jnp.where(flip < 0, edge[order], edge)
    return {
        "image": image,
        "labels": labels,
        "points": points,
        "visible": visible & ~edge & present,
        "inside": inside & ~edge & present,
        "centre": place,
        "extent": example["extent"] / scale,
        "present": present,
    }


def _own_background(key, behind, photos, size):
    """Half of the time, a random part of a random photograph in place of the clutter."""
    k_which, k_place, k_use, k_zoom = jax.random.split(key, 4)
    photo = photos[jax.random.randint(k_which, (), 0, photos.shape[0])]
    side = photo.shape[0]
    extent = side * jax.random.uniform(k_zoom, (), minval=0.4, maxval=1.0)
    corner = jax.random.uniform(k_place, (2,)) * (side - extent)
    index = [
        (corner[i] + (jnp.arange(size) + 0.5) / size * extent).astype(jnp.int32) for i in (0, 1)
    ]
    part = photo[index[1][:, None], index[0][None]]
    return jnp.where(jax.random.uniform(k_use) < 0.5, part, behind)


def _framed(key, image, share, place, ends) -> tuple[Float[Array, "p p 3"], Bool[Array, "p p"]]:
    """Pixels beyond a border of the photograph, or where it `ends`, are grey, as in the crops of
    `jaxrecon.detect`.
    """
    size = image.shape[0]
    k_use, k_sides, k_depth = jax.random.split(key, 3)
    # The border leaves the subject's centre in the picture.
    room = jnp.stack([place[0], place[1], size - place[0], size - place[1]])
    depth = jax.random.uniform(k_depth, (4,), maxval=0.6) * jnp.maximum(room, 0.0)
    used = jax.random.uniform(k_sides, (4,)) < 0.4
    depth = depth * used * (jax.random.uniform(k_use) < share)
    ij = jnp.arange(size) + 0.5
    x, y = ij[None, :], ij[:, None]
    border = (x < depth[0]) | (y < depth[1]) | (x > size - depth[2]) | (y > size - depth[3])
    border |= ends
    return jnp.where(border[..., None], 0.5, image), border


def face_example(
    image: Int[Array, "s s 4"],
    labels: Int[Array, "s s"],
    landmarks: Float[Array, "68 2"],
    visible: Bool[Array, "68"],
    eyes: float = 0.22,
) -> dict:
    """A rendered face as `photograph` takes it; `eyes` is the distance between the outer corners of
    the eyes of a frontal view, of the side of the render (fixed by `detector_faces`).
    """
    middle = 0.5 * (landmarks[36:48].mean(0) + landmarks[48:60].mean(0))
    return {
        "image": image,
        "labels": labels,
        "points": landmarks,
        "visible": visible,
        "centre": middle,
        "extent": jnp.asarray(eyes * image.shape[0]),
    }


def body_example(
    image: Int[Array, "s s 4"], keypoints: Float[Array, "25 2"], visible: Bool[Array, "25"]
) -> dict:
    """A rendered person as `photograph` takes it: centre and longer side of the alpha's bounds."""
    covered = image[..., 3] > 127
    side = image.shape[0]
    index = jnp.arange(side)

    def bounds(any_):
        low = jnp.min(jnp.where(any_, index, side))
        high = jnp.max(jnp.where(any_, index + 1, 0))
        return low.astype(jnp.float32), jnp.maximum(high, low + 1).astype(jnp.float32)

    left, right = bounds(covered.any(0))
    top, bottom = bounds(covered.any(1))
    return {
        "image": image,
        "points": keypoints,
        "visible": visible,
        "centre": jnp.stack([left + right, top + bottom]) / 2,
        "extent": jnp.maximum(right - left, bottom - top),
    }
