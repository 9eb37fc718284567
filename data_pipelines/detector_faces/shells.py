"""Hair that hangs: long hair or a bob, a fringe, a bun; also the peak of a cap and headscarves.

All are grids laid round the head over whatever lies there, from the cylinder coordinates of the
person's own vertices.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from data_pipelines.detector_faces.figure import BUN, CURTAIN, FRONT

AXIS = 0.0
"""z of the vertical axis of the cylinder coordinates, mm."""


class Surround:
    """The outermost surface of a head seen from its axis: radius by azimuth and height."""

    def __init__(self, vertices: np.ndarray):
        from scipy.spatial import KDTree

        x, y, z = vertices.T
        azimuth, radius = np.arctan2(x, z - AXIS), np.hypot(x, z - AXIS)
        outer = radius > 35
        azimuth, radius, y = azimuth[outer], radius[outer], y[outer]
        flat = np.stack([85 * azimuth, y], 1)
        wrapped = [flat + [85 * 2 * np.pi * k, 0] for k in (-1, 0, 1)]
        self.tree, self.radius = KDTree(np.concatenate(wrapped)), np.tile(radius, 3)

    def at(self, azimuth: np.ndarray, height: np.ndarray, neighbours: int = 8) -> np.ndarray:
        """Largest radius near places of equal shape, mm."""
        turn = (azimuth + np.pi) % (2 * np.pi) - np.pi
        places = np.stack([85 * turn.ravel(), height.ravel()], 1)
        found = self.tree.query(places, k=neighbours)[1]
        return self.radius[found].max(1).reshape(azimuth.shape)


def smoothed(values: np.ndarray, rounds: int, axis: int) -> np.ndarray:
    """Values after rounds of a (1, 2, 1) / 4 filter along an axis; the ends count twice."""
    for _ in range(rounds):
        padded = np.concatenate([values.take([0], axis), values, values.take([-1], axis)], axis)
        n = values.shape[axis]
        left = padded.take(np.arange(n), axis)
        right = padded.take(np.arange(2, n + 2), axis)
        values = 0.25 * left + 0.5 * values + 0.25 * right
    return values


def _points(azimuth, radius, height):
    return np.stack([radius * np.sin(azimuth), height, AXIS + radius * np.cos(azimuth)], -1)


def pushed_out(
    points: Float[np.ndarray, "n 3"],
    surface: Float[np.ndarray, "m 3"],
    normals: Float[np.ndarray, "m 3"],
    gap: float,
) -> Float[np.ndarray, "n 3"]:
    """Points moved out of a surface (points with unit normals), to at least `gap` mm off it."""
    from scipy.spatial import KDTree

    tree = KDTree(surface)
    for _ in range(3):
        nearest = tree.query(points)[1]
        off = ((points - surface[nearest]) * normals[nearest]).sum(1)
        # What is deep inside is hidden anyway; moved, it would tear.
        move = np.where((off < gap) & (off > -60), gap - off, 0.0)
        points = points + move[:, None] * normals[nearest]
    return points


def curtain(
    rng: np.random.Generator,
    around: Surround,
    half_angle: float,
    length: float,
    flare: float,
    thickness: float,
) -> Float[np.ndarray, "r c 3"]:
    """Hair hanging behind and beside the head, an outer sheet and an inner one.

    Args:
        rng: of its irregularities.
        around: the head with its hair.
        half_angle: from the back of the head to the front edge on either side, radians.
        length: height of the ends, mm (negative: below the eyes' level).
        flare: how much wider it is at the ends, mm; negative curls in.
        thickness: mm.

    Returns:
        (rows, 2 columns, 3): the outer sheet's columns, then the inner's in reverse.
    """
    columns, rows = CURTAIN
    u = np.linspace(-1, 1, columns)
    azimuth = np.pi + u * half_angle
    phase = rng.uniform(0, 2 * np.pi, 4)
    lumps = np.sin(7 * u + phase[0]) + 0.7 * np.sin(17 * u + phase[1])
    jagged = lumps + 0.8 * np.sin(41 * u + phase[2])
    top = 62.0 + 46.0 * np.abs(u) ** 5
    end = length + 0.04 * abs(length) * jagged + rng.uniform(-20, 30) * u**2
    t = (np.arange(rows) / (rows - 1))[:, None]
    height = top + t * (end - top)[None]
    azimuth_grid = np.broadcast_to(azimuth, height.shape)
    wall = around.at(azimuth_grid, np.maximum(height, -85.0))
    radius = np.empty_like(height)
    gap = 4.0 + 2.0 * rng.uniform()
    radius[0] = wall[0] - 4.0
    for i in range(1, rows):
        fall = 0.12 * (height[i - 1] - height[i])
        radius[i] = np.maximum(wall[i] + gap, radius[i - 1] - fall)
    radius = smoothed(smoothed(radius, 3, 1), 1, 0)
    wave = rng.uniform(0, 5) * np.sin(rng.uniform(3, 14) * t * (height[0] - end) / 60 + 5 * u)
    radius = radius + t * (2.5 * lumps + wave) + flare * t**2
    sway = rng.normal(0, 0.05) * t**2
    outer = _points(azimuth_grid + sway, radius, height)
    inner = _points(azimuth_grid + sway, radius - thickness * np.sqrt(t) - 1.0, height)
    return np.concatenate([outer, inner[:, ::-1]], 1)


def fringe(
    rng: np.random.Generator, around: Surround, half_angle: float, end: float, sweep: float
) -> Float[np.ndarray, "r c 3"]:
    """Hair over the forehead.

    Args:
        rng: of its irregularities.
        around: the head with its hair.
        half_angle: of the covered part of the forehead, radians.
        end: height of the ends, mm.
        sweep: slope of the ends from one side to the other, mm.

    Returns:
        (rows, columns, 3) mm.
    """
    columns, rows = FRONT
    u = np.linspace(-1, 1, columns)
    azimuth = u * half_angle
    phase = rng.uniform(0, 2 * np.pi, 4)
    # Ends of strands, a few mm deep; the outermost columns fall back to the hair line.
    jagged = np.sin(13 * u + phase[0]) + np.sin(31 * u + phase[1]) + np.sin(67 * u + phase[2])
    bottom = end + rng.uniform(0.5, 3.5) * jagged + sweep * u + rng.uniform(-18, 4) * u**2
    top = 118.0 - 20.0 * u**2
    bottom = np.minimum(bottom, top - 6)
    t = (np.arange(rows) / (rows - 1))[:, None]
    height = top + t * (bottom - top)[None]
    grid = np.broadcast_to(azimuth + rng.normal(0, 0.1) * t, height.shape)
    radius = around.at(grid, height, 6)
    for i in range(1, rows):
        radius[i] = np.maximum(radius[i], radius[i - 1] - 0.25 * (height[i - 1] - height[i]))
    radius = smoothed(smoothed(radius, 3, 1), 1, 0)
    strands = np.sin(23 * u + phase[3]) + np.sin(51 * u + phase[1])
    offset = -2.0 + 13.0 * np.sqrt(t) - 2.0 * t**3 + 1.0 * strands * t
    return _points(grid, radius + offset, height)


def peak(
    rng: np.random.Generator, around: Surround, height: float, length: float
) -> Float[np.ndarray, "r c 3"]:
    """The peak of a cap, a curved sheet in front of the forehead at a height, mm."""
    columns, rows = FRONT
    u = np.linspace(-1, 1, columns)
    azimuth = np.broadcast_to(0.85 * u, (rows, columns))
    t = (np.arange(rows) / (rows - 1))[:, None]
    base = around.at(azimuth[0], np.full(columns, height), 6)
    base = smoothed(base[None], 4, 1)
    out = t * length * np.sqrt(np.clip(1 - u**2, 0, 1))
    drop = rng.uniform(0.05, 0.35) * out + rng.uniform(8, 22) * u**2
    return _points(azimuth, base - 3.0 + out, height - drop)


def bun(centre: Float[np.ndarray, "3"], radius: float) -> Float[np.ndarray, "r c 3"]:
    """A ball of hair, (rows, columns, 3) mm."""
    columns, rows = BUN
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    tilt = np.linspace(0, np.pi, rows)[:, None]
    ring = np.sin(tilt)
    ball = np.stack([ring * np.sin(turn), np.cos(tilt) + 0 * turn, ring * np.cos(turn)], -1)
    return centre + radius * ball
