"""Glasses: rims, bridge and temples as thin tubes, and lenses, fitted to a person's landmarks.

One mesh of fixed topology, apart from the person's: it is drawn over the picture, as lenses let
through what lies behind them.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.detector_faces.figure import grid_faces

RIM, SIDE = 36, 6
"""Places around a lens, and around a tube."""
BRIDGE, TEMPLE = 8, 10
"""Places along the bridge and along a temple."""
VERTICES = 2 * RIM * SIDE + BRIDGE * SIDE + 2 * TEMPLE * SIDE + 2 * (RIM + 1)
"""Vertices of a pair of glasses."""


def glasses_faces() -> tuple[Int[np.ndarray, "f 3"], Int[np.ndarray, " f"]]:
    """Faces, and which of them are lenses (1)."""
    faces, lens, start = [], [], 0
    for rows, closed in (
        (RIM, True),
        (RIM, True),
        (BRIDGE, False),
        (TEMPLE, False),
        (TEMPLE, False),
    ):
        tube = grid_faces(SIDE, rows + 1 if closed else rows, True)
        if closed:
            tube = tube % (rows * SIDE)
        faces.append(tube + start)
        lens.append(np.zeros(len(tube), int))
        start += rows * SIDE
    for _ in range(2):
        i = np.arange(RIM)
        fan = np.stack([i, (i + 1) % RIM, np.full(RIM, RIM)], 1)
        faces.append(fan + start)
        lens.append(np.ones(RIM, int))
        start += RIM + 1
    return np.concatenate(faces), np.concatenate(lens)


def sample_frame(rng: np.random.Generator) -> dict[str, np.ndarray | float]:
    """A frame's shape (mm), colours and how dark its lenses are."""
    kind = rng.choice(3, p=[0.35, 0.45, 0.2])
    half_width = rng.uniform(22, 30)
    tall = (rng.uniform(0.8, 1.0), rng.uniform(0.5, 0.85), rng.uniform(0.7, 0.95))[kind]
    palette = np.array(
        [[0.05, 0.05, 0.05], [0.2, 0.11, 0.06], [0.7, 0.6, 0.35], [0.65, 0.66, 0.68], [0.8] * 3]
    )
    colour = palette[rng.choice(5, p=[0.45, 0.2, 0.13, 0.15, 0.07])]
    if rng.uniform() < 0.2:
        colour = rng.uniform(0, 0.9, 3)
    dark = rng.choice(3, p=[0.66, 0.14, 0.2])
    opacity = (rng.uniform(0.0, 0.08), rng.uniform(0.15, 0.45), rng.uniform(0.75, 0.98))[dark]
    tint = np.clip(rng.uniform(0.02, 0.3) + rng.normal(0, 0.08, 3), 0, 1)
    if dark == 0:
        tint = np.array([0.95, 0.97, 1.0])
    if dark == 2 and rng.uniform() < 0.7:
        half_width *= 1.12
        tall = min(1.0, tall * 1.15)
    thick = 0.45 * (6.0 ** rng.uniform())
    return {
        "half_width": half_width,
        "half_height": half_width * tall,
        "power": (2.0, rng.uniform(3, 6), rng.uniform(2, 3))[kind],
        "droop": (0.0, 0.0, rng.uniform(0.1, 0.3))[kind],
        "thick": thick if thick > 0.6 else 0.6,
        "colour": colour,
        "tint": tint,
        "opacity": opacity,
        "slide": rng.uniform(-6, 3),
        "wrap": np.radians(rng.uniform(2, 12)),
        "tilt": np.radians(rng.uniform(0, 12)),
        "stand": rng.uniform(10, 15),
        "glare": rng.uniform(0, 0.6) ** 2,
    }


def _tube(path: np.ndarray, radius: float, closed: bool) -> np.ndarray:
    if closed:
        along = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    else:
        along = np.gradient(path, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    side = np.cross(along, [0.05, 0.1, 1.0])
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-6)
    other = np.cross(along, side)
    ring = np.linspace(0, 2 * np.pi, SIDE, endpoint=False)[None, :, None]
    tube = path[:, None] + radius * (np.cos(ring) * side[:, None] + np.sin(ring) * other[:, None])
    return tube.reshape(-1, 3)


def glasses_mesh(
    frame: dict | None, landmarks: Float[np.ndarray, "68 3"], ears: Float[np.ndarray, "2 3"]
) -> Float[np.ndarray, "v 3"]:
    """Vertices of a pair of glasses, mm; None: all at the origin, where they show nothing.

    Args:
        frame: of `sample_frame`.
        landmarks: of the person.
        ears: (right, left) where the temples rest.
    """
    if frame is None:
        return np.zeros((VERTICES, 3))
    eyes = np.stack([landmarks[36:42].mean(0), landmarks[42:48].mean(0)])
    across = eyes[1] - eyes[0]
    span = np.linalg.norm(across)
    x = across / span
    z = np.cross(x, [0.0, 1.0, 0.0])
    z /= np.linalg.norm(z)
    y = np.cross(z, x)
    size = np.clip(span / 63.0, 0.85, 1.2)
    a, b = frame["half_width"] * size, frame["half_height"] * size
    front = max(float(np.max((landmarks[[27, 28]] - eyes.mean(0)) @ z)) + 1.0, frame["stand"] + 3.0)
    middle = eyes.mean(0) + front * z + (frame["slide"] - 2.0) * y
    turn = np.linspace(0, 2 * np.pi, RIM, endpoint=False)
    c, s = np.cos(turn), np.sin(turn)
    power = 2.0 / frame["power"]
    u, v = np.sign(c) * np.abs(c) ** power * a, np.sign(s) * np.abs(s) ** power * b
    rims, lenses = [], []
    for sign in (-1.0, 1.0):
        # u > 0 is outward.
        lower = np.where(v < 0, v * (1 + frame["droop"] * u / a), v)
        out = max(span / 2, a + 6.0) + u
        depth = -np.tan(frame["wrap"]) * np.abs(out) - np.tan(frame["tilt"]) * -lower
        # Lids and cheeks keep their distance to the lens.
        rim = middle + sign * out[:, None] * x + lower[:, None] * y + depth[:, None] * z
        rims.append(rim)
        lenses.append(np.concatenate([rim, rim.mean(0, keepdims=True) + 1.5 * z]))
    inner = [rim[RIM // 2 - 3] for rim in rims]
    t = np.linspace(0, 1, BRIDGE)[:, None]
    bridge = inner[0] + t * (inner[1] - inner[0]) + 4 * t * (1 - t) * (3.0 * y + 2.5 * z)
    temples = []
    for rim, ear in zip(rims, ears, strict=True):
        start = rim[3]
        t = np.linspace(0, 1, TEMPLE)[:, None]
        bulge = np.array([np.sign(ear[0]), 0, 0]) * 5.0
        temples.append(start + t * (ear - start) + 4 * t * (1 - t) * bulge)
    thick = frame["thick"]
    tubes = [_tube(r, thick, True) for r in rims] + [_tube(bridge, thick, False)]
    tubes += [_tube(p, max(0.8 * thick, 0.6), False) for p in temples]
    return np.concatenate([*tubes, *lenses])
