"""Shoulders and torso below the neck of a head model, and the cut of what is worn on them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from data_pipelines.detector_faces.figure import COLLAR, RINGS

PIVOT = np.array([0.0, -135.0, -20.0])
"""The body turns about this point below the head."""
NECKLINE = 7
"""Parameters of the neckline: height at the sides, slope to front and back, width and depth of the
V (mm), depth and width of the scoop, lowest height of the whole line."""


def sample_build(rng: np.random.Generator) -> Float[np.ndarray, "6"]:
    """Half-width of the shoulders, half-depth of the chest, height of the shoulders, of the chest,
    of the back (mm), exponent of the outline.
    """
    width = rng.uniform(170, 240)
    return np.array(
        [
            width,
            0.32 * width + rng.uniform(30, 55),
            -rng.uniform(195, 240),
            -rng.uniform(255, 300),
            -rng.uniform(225, 265),
            rng.uniform(2.2, 3.0),
        ]
    )


def sample_neckline(rng: np.random.Generator) -> Float[np.ndarray, "7"]:
    """A crew neck, V neck, collar, scoop, off-shoulder or turtle neck; see `NECKLINE`."""
    side, slope, v_width, v_depth, scoop, wide = rng.uniform(-128, -112), 25.0, 40.0, 0.0, 0.0, 60.0
    kind = rng.choice(6, p=[0.34, 0.2, 0.16, 0.16, 0.07, 0.07])
    if kind == 1:
        v_width, v_depth = rng.uniform(45, 90), rng.uniform(50, 160)
    elif kind == 2:
        side, v_width, v_depth = rng.uniform(-105, -92), rng.uniform(30, 60), rng.uniform(30, 110)
    elif kind == 3:
        side, scoop, wide = side - rng.uniform(0, 15), rng.uniform(30, 110), rng.uniform(60, 110)
    elif kind == 4:
        side, scoop, wide = rng.uniform(-185, -145), rng.uniform(20, 60), rng.uniform(80, 140)
    elif kind == 5:
        side, slope = rng.uniform(-102, -92), 10.0
    return np.array([side, slope, v_width, v_depth, scoop, wide, -420.0])


def bust_rest(
    rim: Float[np.ndarray, "n 3"], build: Float[np.ndarray, "6"]
) -> Float[np.ndarray, "r n 3"]:
    """Rings below a neck's rim, (RINGS, n, 3) mm, facing the way the head does.

    Args:
        rim: (n, 3) closed loop.
        build: of `sample_build`.
    """
    width, depth, side, front, back, power = build
    middle = (rim[:, 2].max() + rim[:, 2].min()) / 2
    half = np.abs(rim[:, 0]).max(), np.ptp(rim[:, 2]) / 2
    turn = np.arctan2(rim[:, 0] / half[0], (rim[:, 2] - middle) / half[1])
    s, c = np.sin(turn), np.cos(turn)
    across = np.sign(s) * np.abs(s) ** (2 / power), np.sign(c) * np.abs(c) ** (2 / power)
    height = side + (front - side) * np.clip(c, 0, 1) ** 2 + (back - side) * np.clip(-c, 0, 1) ** 2
    edge = np.stack([width * across[0], height, -25.0 + depth * across[1]], 1)
    low = np.stack([0.98 * width * across[0], 0 * s - 560.0, -25.0 + 1.08 * depth * across[1]], 1)
    knee = np.stack(
        [
            rim[:, 0] + 0.78 * (edge[:, 0] - rim[:, 0]),
            rim[:, 1] + 0.30 * (edge[:, 1] - rim[:, 1]),
            rim[:, 2] + 0.78 * (edge[:, 2] - rim[:, 2]),
        ],
        1,
    )
    upper = RINGS - 6
    t = (np.arange(1, upper + 1) / upper)[:, None, None]
    top = (1 - t) ** 2 * rim + 2 * t * (1 - t) * knee + t**2 * edge
    t = (np.arange(1, 7) / 6)[:, None, None]
    return np.concatenate([top, edge + t * (low - edge)])


def neckline_depth(xp, rest, line):
    """How far points (*n, 3) of the rest frame lie below the neckline, mm (positive: clothed).

    `xp` is NumPy or jax.numpy, `line` of `sample_neckline`.
    """
    x, y, z = rest[..., 0], rest[..., 1], rest[..., 2]
    c = xp.clip((z + 15.0) / 70.0, -1.0, 1.0)
    front = xp.clip(0.5 + 1.5 * c, 0.0, 1.0)
    top = line[0] - line[1] * c
    top = top - front * line[3] * xp.clip(1.0 - xp.abs(x) / line[2], 0.0, 1.0)
    top = top - front * line[4] * xp.sqrt(xp.clip(1.0 - (x / line[5]) ** 2, 0.0, 1.0))
    return xp.maximum(top, line[6]) - y


def collar_ring(
    vertices: Float[np.ndarray, "v 3"],
    normals: Float[np.ndarray, "v 3"],
    rest: Float[np.ndarray, "v 3"],
    line: Float[np.ndarray, "7"],
    radius: float,
    tall: float,
    behind: float,
) -> Float[np.ndarray, "m 3"]:
    """A tube along the neckline: a collar, a hood's roll or a scarf.

    Args:
        vertices, normals, rest: of head and bust, mm; unused parts may not be among them.
        line: of `sample_neckline`.
        radius: of the tube, mm; 0 collapses it.
        tall: height of the tube over its thickness.
        behind: extra radius behind the neck, mm.
    """
    count = (COLLAR[0] + 1) * COLLAR[1]
    near = np.flatnonzero(
        (np.abs(neckline_depth(np, rest, line)) < 14) & (rest[:, 1] < -80) & (rest[:, 1] > -430)
    )
    if radius <= 0 or len(near) < 40:
        return np.zeros((count, 3))
    centre = vertices[near].mean(0)
    turn = np.arctan2(rest[near, 0], rest[near, 2] + 15.0)
    at = np.linspace(-np.pi, np.pi, COLLAR[0] + 1)
    gap = np.abs((at[:, None] - turn[None] + np.pi) % (2 * np.pi) - np.pi)
    weight = np.exp(-((gap / 0.16) ** 2)) + 1e-9
    weight /= weight.sum(1, keepdims=True)
    path, out = weight @ vertices[near], weight @ normals[near]
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    along = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    along[[0, -1]] = path[1] - path[-2]
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    up = np.cross(along, out)
    up *= np.sign(up @ np.array([0.0, 1.0, 0.0]))[:, None]
    size = radius + behind * np.clip((centre[2] - path[:, 2]) / 60.0, 0, 1)[:, None, None]
    ring = np.linspace(0, 2 * np.pi, COLLAR[1], endpoint=False)[None, :, None]
    tube = path[:, None] + size * (np.cos(ring) * out[:, None] + tall * np.sin(ring) * up[:, None])
    return tube.reshape(-1, 3)
