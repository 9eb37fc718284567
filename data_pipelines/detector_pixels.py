"""Procedural clutter, occluders, and what lenses, sensors and files do to a picture.

Pure functions of a key, for one picture; colours are display-encoded RGB in [0, 1].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SHAPES = 7
"""Things in a cluttered background."""
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
"""Quantisation of luminance (JPEG, Annex K, table K.1); colour takes its mean with 99."""


def _grid(size: int) -> tuple[Array, Array]:
    """(x, y) of pixel centres, -0.5 to 0.5."""
    centre = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size - 0.5
    return centre[None, :], centre[:, None]


def _colour(key: Array) -> Float[Array, "3"]:
    """Any colour; a third are like skin or hair, which must not be told by colour alone."""
    k_any, k_skin, k_which, k_light = jax.random.split(key, 4)
    free = jax.random.uniform(k_any, (3,))
    t = jax.random.uniform(k_skin, (2,))
    skin = jnp.asarray([0.95, 0.75, 0.63]) + t[0] * jnp.asarray([-0.65, -0.57, -0.53])
    skin = skin * (0.7 + 0.5 * t[1])
    u = jax.random.uniform(k_which)
    dull = free.mean() + 0.3 * (free - free.mean())
    return jnp.clip(jnp.where(u < 0.33, skin, jnp.where(u < 0.85, dull, free)), 0.0, 1.0)


def _shape(key: Array, size: int, place: Array, extent: Array) -> Float[Array, "s s"]:
    """Coverage in [0, 1] of an ellipse, rectangle or stripe about `place` (-0.5 to 0.5)."""
    k_turn, k_kind, k_size, k_edge = jax.random.split(key, 4)
    x, y = _grid(size)
    turn = jax.random.uniform(k_turn, (), maxval=jnp.pi)
    dx, dy = x - place[0], y - place[1]
    a, b = extent * (0.3 + 0.7 * jax.random.uniform(k_size, (2,)))
    across = (dx * jnp.cos(turn) + dy * jnp.sin(turn)) / a
    along = (dy * jnp.cos(turn) - dx * jnp.sin(turn)) / b
    kind = jax.random.uniform(k_kind)
    round_ = jnp.sqrt(across**2 + along**2)
    square = jnp.maximum(jnp.abs(across), jnp.abs(along))
    bar = jnp.abs(across) * 1.5
    far = jnp.where(kind < 0.45, round_, jnp.where(kind < 0.8, square, bar))
    soft = jnp.where(jax.random.uniform(k_edge) < 0.8, 1.0, 6.0)
    return jnp.clip((1.0 - far) * jnp.minimum(a, b) * size / soft + 0.5, 0.0, 1.0)


def _wave(x: Array) -> Array:
    """Triangle wave of period 1 between -1 and 1."""
    return 4.0 * jnp.abs(x - jnp.floor(x) - 0.5) - 1.0


def _texture(key: Array, size: int) -> Float[Array, "s s 3"]:
    """Plain, striped or checked, with a slope of brightness."""
    k_one, k_two, k_wave, k_kind, k_slope = jax.random.split(key, 5)
    x, y = _grid(size)
    one, two = _colour(k_one), _colour(k_two)
    turn, count = jax.random.uniform(k_wave, (2,))
    count = 4.0 * 12.0**count
    p = _wave(count * (x * jnp.cos(6.2832 * turn) + y * jnp.sin(6.2832 * turn)))
    q = _wave(count * (y * jnp.cos(6.2832 * turn) - x * jnp.sin(6.2832 * turn)))
    kind = jax.random.uniform(k_kind)
    stripes = jnp.clip(4 * p + 0.5, 0.0, 1.0)
    checks = jnp.clip(6 * p * q + 0.5, 0.0, 1.0)
    mix = jnp.where(kind < 0.6, 0.0, jnp.where(kind < 0.8, stripes, checks))
    slope = jax.random.normal(k_slope, (2,)) * 0.4
    light = 1.0 + slope[0] * x + slope[1] * y
    colour = one[None, None] + mix[..., None] * (two - one)[None, None]
    return jnp.clip(colour * light[..., None], 0.0, 1.0)


def _interpolation(size: int, count: int) -> np.ndarray:
    """(size, count) weights of linear interpolation between `count` values at the cells' middles,
    smoothed (3 t^2 - 2 t^3), so that no creases show.
    """
    p = np.clip((np.arange(size) + 0.5) / size * count - 0.5, 0, count - 1)
    low = np.minimum(np.floor(p).astype(int), count - 2)
    t = p - low
    t = t * t * (3 - 2 * t)
    weights = np.zeros((size, count), np.float32)
    weights[np.arange(size), low] = 1 - t
    weights[np.arange(size), low + 1] = t
    return weights


def _wall(key: Array, size: int) -> Float[Array, "s s 3"]:
    """A colour with value noise in five octaves: from a lit wall to foliage."""
    k_colour, k_rough, k_values = jax.random.split(key, 3)
    planes = jnp.broadcast_to(_colour(k_colour)[:, None, None], (3, size, size))
    rough = jax.random.uniform(k_rough, (6,))
    for octave in range(5):
        count = 2 * 2**octave
        values = jax.random.normal(jax.random.fold_in(k_values, octave), (3, count, count))
        values = 0.3 * values + 0.9 * values.mean(0, keepdims=True)
        # Many walls are smooth.
        weight = 0.25 * rough[octave] * (1.0 if octave < 2 else jnp.maximum(rough[5] - 0.4, 0.0))
        W = jnp.asarray(_interpolation(size, count))
        planes = planes + weight * _sandwich(W, values, W.T)
    return jnp.moveaxis(jnp.clip(planes, 0.0, 1.0), 0, -1)


def clutter(key: Array, size: int) -> Float[Array, "s s 3"]:
    """A background: a wall with up to `SHAPES` textured things in front of it; one in eight is one
    flat colour, often black or white, as in studios and cut-outs.
    """
    k_wall, k_count, k_things, k_flat = jax.random.split(key, 4)
    count = SHAPES * jax.random.uniform(k_count) ** 1.5
    flat = jax.random.uniform(k_flat)
    count = jnp.where(flat < 0.125, 0.0, count)

    def add(image, item):
        i, k = item
        k_place, k_extent, k_shape, k_paint, k_opacity = jax.random.split(k, 5)
        place = jax.random.uniform(k_place, (2,), minval=-0.55, maxval=0.55)
        extent = 0.04 * 12.0 ** jax.random.uniform(k_extent)
        cover = _shape(k_shape, size, place, extent) * (i < count)
        cover = cover * jnp.where(jax.random.uniform(k_opacity) < 0.85, 1.0, 0.5)
        return image + cover[..., None] * (_texture(k_paint, size) - image), None

    things = (jnp.arange(SHAPES), jax.random.split(k_things, SHAPES))
    wall = _wall(k_wall, size)
    plain = jnp.where(flat < 0.04, 0.0, jnp.where(flat < 0.08, 1.0, _colour(k_wall)))
    wall = jnp.where(flat < 0.125, plain[None, None], wall)
    image, _ = jax.lax.scan(add, wall, things)
    return image


def occluder(
    key: Array, size: int, place: Float[Array, "2"], extent: Float[Array, ""]
) -> tuple[Float[Array, "s s 3"], Float[Array, "s s"]]:
    """Something before the subject: its colours and its coverage, soft at the edges.

    Args:
        key: typed key.
        size: of the picture, pixels.
        place: the subject's centre, pixels.
        extent: the subject's size, pixels; the thing is 0.15 to 2 times as large.
    """
    k_place, k_extent, k_shape, k_paint = jax.random.split(key, 4)
    reach = extent / size
    centre = place / size - 0.5 + reach * jax.random.normal(k_place, (2,))
    half = reach * (0.25 + 0.75 * jax.random.uniform(k_extent))
    return _texture(k_paint, size), _shape(k_shape, size, centre, jnp.maximum(half, 0.03))


def _sandwich(
    left: Float[Array, "n s"], planes: Float[Array, "3 s s"], right: Float[Array, "s n"]
) -> Float[Array, "3 n n"]:
    """left plane right, for each colour: large products, which are fast everywhere."""
    c, s, n = *planes.shape[:2], left.shape[0]
    half = jnp.matmul(planes.reshape(c * s, s), right).reshape(c, s, n)
    return jnp.stack([left @ plane for plane in half])


def _gaussian(size: int, sigma: Array) -> Float[Array, "s s"]:
    """Matrix that blurs along one axis; the border's pixels stand for those beyond."""
    index = jnp.arange(size, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * ((index[:, None] - index[None]) / jnp.maximum(sigma, 0.05)) ** 2)
    return weights / weights.sum(1, keepdims=True)


def _dct(size: int) -> np.ndarray:
    """(size, size) block diagonal: orthonormal cosine transforms of eight pixels each."""
    k, n = np.arange(8)[:, None], np.arange(8)[None]
    matrix = np.cos(np.pi * (2 * n + 1) * k / 16) * np.sqrt(2 / 8)
    matrix[0] /= np.sqrt(2)
    return np.kron(np.eye(size // 8), matrix).astype(np.float32)


def _luminance(planes: Float[Array, "3 s s"]) -> Float[Array, "s s"]:
    return 0.299 * planes[0] + 0.587 * planes[1] + 0.114 * planes[2]


def jpeg(planes: Float[Array, "3 s s"], quality: Float[Array, ""]) -> Float[Array, "3 s s"]:
    """What JPEG of a quality (1 to 100) leaves of a picture whose sides are multiples of 8; colour
    is not subsampled.
    """
    size = planes.shape[1]
    q = jnp.clip(quality, 1.0, 100.0)
    factor = jnp.where(q < 50, 50.0 / q, 2.0 - q / 50.0)
    tables = np.stack([_LUMINANCE, (_LUMINANCE + 99) / 2, (_LUMINANCE + 99) / 2])
    steps = jnp.clip(jnp.floor(factor * tables + 0.5), 1.0, 255.0) / 255.0
    steps = jnp.tile(steps, (1, size // 8, size // 8))
    planes = planes - 128 / 255
    Y = _luminance(planes)
    ycc = jnp.stack([Y, 0.564 * (planes[2] - Y), 0.713 * (planes[0] - Y)])
    D = jnp.asarray(_dct(size))
    waves = _sandwich(D, ycc, D.T)
    Y, Cb, Cr = _sandwich(D.T, jnp.round(waves / steps) * steps, D)
    red, blue = Y + Cr / 0.713, Y + Cb / 0.564
    green = (Y - 0.299 * red - 0.114 * blue) / 0.587
    return jnp.stack([red, green, blue]) + 128 / 255


def degrade(key: Array, image: Float[Array, "s s 3"]) -> Float[Array, "s s 3"]:
    """Exposure, contrast, tint, saturation, blur, noise and JPEG, each of random strength."""
    k = jax.random.split(key, 8)
    u = jax.random.uniform(k[0], (8,))
    gain = jnp.exp(0.18 * jax.random.normal(k[1])) * jnp.exp(0.06 * jax.random.normal(k[2], (3,)))
    gamma = 0.4 * jax.random.normal(k[3])
    planes = jnp.moveaxis(jnp.clip(image, 0.0, 1.0), -1, 0)
    # A curve through black and white, darker or lighter between.
    curve = jnp.clip(gamma, -0.9, 0.9)
    planes = planes * (1.0 + curve * (1.0 - planes)) * gain[:, None, None]
    grey = planes.mean(0, keepdims=True)
    saturation = jnp.where(u[0] < 0.06, 0.0, 0.55 + 0.75 * u[1])
    planes = grey + saturation * (planes - grey)
    contrast = 0.75 + 0.5 * u[2]
    planes = 0.5 + contrast * (planes - 0.5) + 0.08 * jax.random.normal(k[4])
    sigma = 1.8 * jnp.maximum(u[3] - 0.4, 0.0) / 0.6
    G = _gaussian(planes.shape[1], sigma)
    planes = _sandwich(G, planes, G.T)
    # Uniform noise of that standard deviation: cheaper than normal, and as good here.
    noise = 0.06 * jnp.maximum(u[4] - 0.5, 0.0) / 0.5
    planes = planes + noise * jax.random.uniform(k[5], planes.shape, minval=-1.73, maxval=1.73)
    planes = jnp.clip(planes, 0.0, 1.0)
    squeezed = jpeg(planes, 20.0 + 80.0 * u[5])
    return jnp.moveaxis(jnp.clip(jnp.where(u[6] < 0.6, squeezed, planes), 0.0, 1.0), 0, -1)
