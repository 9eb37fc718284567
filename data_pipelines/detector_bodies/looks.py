"""What people wear and of which colours, as flat arrays: painted garments, materials, patterns."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from data_pipelines.detector_bodies.surface import (
    ARM,
    ARM_WEIGHT,
    COVER,
    HEAD_WEIGHT,
    HEIGHT,
    X,
    Y,
    Z,
)

LAYERS = ("shoes", "bottom", "top", "jacket", "hat")
"""Garments painted on the body, from below to above."""
MATERIALS = ("skin", *LAYERS, "accent", "hair")
SKIN, SHOES, BOTTOM, TOP, JACKET, HAT, ACCENT, HAIR = range(len(MATERIALS))
PATTERNS = ("plain", "across", "along", "checks", "blotches", "two_tone", "logo", "dots")
PATTERN_RATES = (0.50, 0.09, 0.06, 0.08, 0.09, 0.07, 0.07, 0.04)
WAVES = 6
OFF = -9.0


@dataclasses.dataclass(frozen=True)
class Region:
    """Where a painted garment lies and how it stands off; heights and sleeves as in `FIELDS`."""

    low: float = 9.0
    high: float = OFF
    sleeve: float = OFF
    collar: float = 1.0
    """0 at the shoulders' height, 1 at the neck's"""
    neck: float = 0.09
    """radius of the opening for the head, metres"""
    v_neck: float = 0.0
    """how much lower the opening is in front, metres"""
    opening: float = 0.0
    """half the width of an open front, metres"""
    head: float = 0.0
    """1: a hood or a hat, by its kind: hoods have a height too"""
    thickness: float = 0.004
    """metres"""
    loose: float = 0.0
    """more thickness towards hems, metres"""


REGION = tuple(f.name for f in dataclasses.fields(Region))


def rows(regions: list[Region]) -> Float[np.ndarray, "l p"]:
    """Regions as an array, one row a layer."""
    return np.array([dataclasses.astuple(r) for r in regions], np.float32)


def distances(
    regions: Float[Array | np.ndarray, "l p"],
    fields: Float[Array | np.ndarray, "*n 8"],
    around: Float[Array | np.ndarray, "2 3"],
) -> Float[Array, "*n l"]:
    """How far inside the hem of each painted garment a point is, about metres; negative outside.

    Args:
        regions: rows of `rows`, in the order of `LAYERS`.
        fields: see `surface.FIELDS`.
        around: middle and half size of the scalp.
    """
    f = jnp.moveaxis(fields, -1, 0)
    on_arm = f[ARM_WEIGHT] > 0.5
    inside = (fields[..., X : Z + 1] - around[0].reshape((1,) * (fields.ndim - 1) + (3,))) / around[
        1
    ].reshape((1,) * (fields.ndim - 1) + (3,))
    # the shoulders' height is where the fields' height is 1
    found = []
    for i in range(len(LAYERS)):
        r = dict(zip(REGION, regions[i], strict=True))
        scale = jnp.where(f[HEIGHT] > 0, 0.45, 0.8)
        trunk = jnp.minimum(f[HEIGHT] - r["low"], r["high"] - f[HEIGHT]) * scale
        sleeve = (r["sleeve"] - f[ARM]) * 0.26
        d = jnp.where(on_arm, sleeve, trunk)
        # the opening for the head: a cylinder from the collar up, lower in front
        front = jnp.clip(f[Z] / 0.06, 0.0, 1.0)
        edge = (
            1.0
            + 0.215 * r["collar"]
            - front * jnp.maximum(r["v_neck"] - 0.8 * jnp.abs(f[X]), 0.0) / 0.45
        )
        opening = jnp.maximum((edge - f[HEIGHT]) * 0.45, jnp.abs(f[X]) - r["neck"])
        d = jnp.minimum(d, opening)
        d = jnp.minimum(d, (0.5 - f[HEAD_WEIGHT]) * 0.1)
        parted = jnp.abs(f[X]) - r["opening"] * (1.4 - 0.4 * f[HEIGHT])
        is_open = (r["opening"] > 0) & (f[Z] > 0.0) & ~on_arm
        d = jnp.where(is_open, jnp.minimum(d, parted), d)
        hooded = (r["head"] > 0) & (r["high"] > 0)
        hood = jnp.minimum(0.25 - inside[..., 2] + 0.25 * inside[..., 1], 1.0) * 0.1
        above = f[HEIGHT] > 1.15
        d = jnp.where(hooded & above & ~on_arm, hood, d)
        hat = (f[COVER] - 0.35) * 0.1
        d = jnp.where((r["head"] > 0) & ~hooded, hat, d)
        found.append(d)
    return jnp.stack(found, axis=-1)


def standing_off(
    regions: Float[Array, "l p"], inside: Float[Array, "v l"], fields: Float[Array, "v 8"]
) -> Float[Array, "v"]:
    """Distance of the outermost garment from the skin at every vertex, metres."""
    column = {name: regions[None, :, i] for i, name in enumerate(REGION)}
    slope = jnp.clip(inside / 0.012 + 0.5, 0.0, 1.0)
    near_hem = jnp.clip(1.0 - inside / 0.35, 0.0, 1.0)
    limb = jnp.clip(jnp.maximum(fields[:, ARM], -fields[:, HEIGHT]), 0.0, 1.0)[:, None]
    stand = slope * (column["thickness"] + column["loose"] * near_hem * (0.4 + 0.6 * limb))
    return jnp.max(stand, axis=1)


def painted(inside: Float[Array, "*n l"]) -> Array:
    """The material of a point of the body: that of the last layer that it lies in, else skin."""
    material = jnp.zeros(inside.shape[:-1], jnp.int32)
    for i in range(len(LAYERS)):
        material = jnp.where(inside[..., i] > 0, i + 1, material)
    return material


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Looks:
    """Colours and patterns of the m materials."""

    first: Any
    """(m, 3) display-encoded RGB"""
    second: Any
    """(m, 3)"""
    pattern: Any
    """(m,) place in `PATTERNS`"""
    period: Any
    """(m,) metres"""
    share: Any
    """(m,) of the period that has the second colour"""
    place: Any
    """(m, 2) shift of the pattern; of a two-tone the height, of a logo its middle; metres"""
    waves: Any
    """(w, 4) wave vectors (radians a metre) and phases of wrinkles and blotches"""
    wrinkle: Any
    """() tilt of the normals of cloth"""


def sample_looks(rng: np.random.Generator, hair: Float[np.ndarray, "3"]) -> Looks:
    """Random colours and patterns; `hair` is the colour of hair."""
    m = len(MATERIALS)
    first, second = (np.stack([cloth_colour(rng) for _ in range(m)]) for _ in range(2))
    dark = rng.uniform(size=m) < 0.4
    # contrast is common: the second colour is often a lighter or darker first
    tint = np.clip(first * np.exp(rng.normal(0, 0.6, (m, 1))), 0.02, 0.97)
    second = np.where(dark[:, None], tint, second)
    if rng.uniform() < 0.45:
        first[BOTTOM] = trouser_colour(rng)
    first[HAIR] = second[HAIR] = hair
    pattern = rng.choice(len(PATTERNS), m, p=PATTERN_RATES)
    pattern[HAIR] = pattern[SKIN] = 0
    if rng.uniform() < 0.8:
        pattern[BOTTOM] = 0
    if rng.uniform() < 0.1:  # a suit of one cloth
        first[TOP], second[TOP], pattern[TOP] = first[BOTTOM], second[BOTTOM], pattern[BOTTOM]
    length = np.exp(rng.uniform(np.log(0.05), np.log(0.22), WAVES))
    direction = rng.normal(size=(WAVES, 3))
    direction *= (2 * np.pi / length / np.linalg.norm(direction, axis=1))[:, None]
    place = np.stack([rng.uniform(-0.1, 0.1, m), rng.uniform(0.15, 0.45, m)], axis=1)
    values = Looks(
        first=first,
        second=second,
        pattern=pattern,
        period=np.exp(rng.uniform(np.log(0.025), np.log(0.16), m)),
        share=rng.uniform(0.15, 0.6, m),
        place=place,
        waves=np.concatenate([direction, rng.uniform(0, 2 * np.pi, (WAVES, 1))], 1),
        wrinkle=np.array(rng.uniform(0.0, 0.35)),
    )
    return jax.tree.map(lambda a: np.asarray(a, np.float32), values)


def cloth_colour(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """Display-encoded RGB of cloth: black, white, greys, muted and strong colours."""
    kind = rng.uniform()
    if kind < 0.17:
        return np.clip(rng.uniform(0.03, 0.16) + rng.normal(0, 0.01, 3), 0.02, 1)
    if kind < 0.33:
        return np.clip(rng.uniform(0.75, 0.96) + rng.normal(0, 0.02, 3), 0, 0.97)
    if kind < 0.48:
        return np.clip(rng.uniform(0.16, 0.75) + rng.normal(0, 0.025, 3), 0.02, 0.97)
    import colorsys

    hue = rng.uniform()
    strength = rng.uniform(0.5, 1.0) if kind > 0.78 else rng.uniform(0.1, 0.55)
    return np.array(colorsys.hsv_to_rgb(hue, strength, rng.uniform(0.15, 0.95)))


def trouser_colour(rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """Blue denim, khaki, navy, black or grey."""
    table = np.array(
        [(0.25, 0.33, 0.48), (0.45, 0.55, 0.68), (0.62, 0.54, 0.41), (0.12, 0.14, 0.24)]
        + [(0.07, 0.07, 0.08), (0.35, 0.35, 0.37)]
    )
    colour = table[rng.integers(len(table))]
    return np.clip(colour * np.exp(rng.normal(0, 0.2)) + rng.normal(0, 0.02, 3), 0.02, 0.97)


def cloth(
    looks: Looks, material: Array, fields: Float[Array, "*n 8"]
) -> tuple[Float[Array, "*n 3"], Float[Array, "*n 3"]]:
    """Albedo of the materials at points, and how wrinkles tilt their normals."""
    x, y, z = (fields[..., i] for i in (X, Y, Z))
    on_arm = fields[..., ARM_WEIGHT] > 0.5
    down = jnp.where(on_arm, -0.26 * fields[..., ARM], y)
    turn = jnp.where(on_arm, z, x)

    def of(values):
        return jnp.asarray(values)[material]

    period, share, place = of(looks.period), of(looks.share), of(looks.place)
    u, v = (turn + place[..., 0]) / period, (down + place[..., 1]) / period
    across, along = (v % 1.0) < share, (u % 1.0) < share
    position = fields[..., X : Z + 1]
    phases = [
        jnp.sum(position * w[:3].reshape((1,) * (fields.ndim - 1) + (3,)), -1) + w[3]
        for w in looks.waves
    ]
    blotch = sum(jnp.sin(1.7 * p) for p in phases) > 2.0 - 4.0 * share
    tone = y < place[..., 1] - 0.1
    du, dv = x - 0.6 * place[..., 0], y - place[..., 1]
    size = 0.4 * period + 0.02
    logo = (jnp.abs(du) < size * (0.6 + share)) & (jnp.abs(dv) < size * (1.2 - share))
    logo = logo & (z > 0) & ~on_arm
    dots = (u % 1.0 - 0.5) ** 2 + (v % 1.0 - 0.5) ** 2 < 0.25 * share
    plain = jnp.zeros(across.shape, bool)
    choices = jnp.stack([plain, across, along, across ^ along, blotch, tone, logo, dots], -1)
    index = of(looks.pattern).astype(jnp.int32)
    second = jnp.take_along_axis(choices, index[..., None], axis=-1)
    colour = jnp.where(second, of(looks.second), of(looks.first))
    tilt = jnp.zeros(colour.shape, colour.dtype)
    for p, w in zip(phases, looks.waves, strict=True):
        unit = w[:3] / jnp.linalg.norm(w[:3])
        tilt = tilt + jnp.cos(p)[..., None] * unit.reshape((1,) * (fields.ndim - 1) + (3,))
    return colour, looks.wrinkle * tilt / 2.0
