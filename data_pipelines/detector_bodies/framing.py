"""Where the camera and the lamps stand, and what the picture is framed on."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.detector_bodies.surface import ARM, ARM_WEIGHT, HEIGHT
from data_pipelines.head_cameras import orbit_camera
from jaxrecon.types import Cameras

FILL = 0.8
"""Of the picture's side, that the longer side of the framed box has."""
CLOSE = 0.35
"""Share of the pictures that are framed on the upper body."""


def sample_camera(
    rng: np.random.Generator,
    points: Float[np.ndarray, "n 3"],
    seen: Bool[np.ndarray, " n"],
    fields: Float[np.ndarray, "n 8"],
    size: int,
) -> Cameras:
    """A camera about a person, with the person's box or the upper body's in the middle.

    Args:
        rng: source of randomness.
        points: vertices in space.
        seen: (n,) bool, those of some face.
        fields: where on the body they are.
        size: pixels.
    """
    close = rng.uniform() < CLOSE
    azimuth = rng.uniform(-60, 60) if rng.uniform() < 0.55 else rng.uniform(60, 300)
    elevation = np.clip(rng.normal(5, 8), -10, 30)
    distance = (1.2 if close else 1.8) * ((5 / 1.2) if close else (8 / 1.8)) ** rng.uniform()
    roll = np.clip(rng.normal(0, 4), -12, 12)
    framed = seen
    if close:
        # from mid-thigh, waist or chest up; of arms, what is above that at rest
        cut = rng.choice([-0.45, 0.0, 0.3, 0.6]) + rng.uniform(-0.1, 0.1)
        above = (fields[:, HEIGHT] > cut) & (fields[:, ARM_WEIGHT] < 0.5)
        upper = (fields[:, ARM_WEIGHT] >= 0.5) & (fields[:, ARM] < 0.8)
        framed = seen & (above | upper)
        framed = framed if framed.any() else seen
    box = points[framed]
    target = (box.min(0) + box.max(0)) / 2
    # keep the camera out of outstretched arms
    reach = np.linalg.norm(points[seen] - target, axis=1).max()
    distance = max(distance, reach + 0.5)
    camera = orbit_camera(
        np.radians(azimuth),
        np.radians(elevation),
        np.radians(roll),
        distance,
        1.0,
        np.zeros(2),
        target,
    )
    x = box @ np.asarray(camera.R).T + camera.t
    p = x[:, :2] / x[:, 2:]
    low, high = p.min(0), p.max(0)
    focal = FILL * size / max((high - low).max(), 1e-6)
    middle = size * (0.5 + rng.uniform(-0.05, 0.05, 2)) - focal * (low + high) / 2
    K = np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1.0]])
    return jax.tree.map(lambda a: np.asarray(a, np.float32), Cameras(K=K, R=camera.R, t=camera.t))


def lamp_turn(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """Rotation about the vertical from a frame with the camera in front (+z) to that of the lamps:
    they stand near the camera, at a side, or behind the person.
    """
    kind = rng.uniform()
    angle = rng.normal(0, 30)
    if kind > 0.6:
        angle = rng.choice([-1, 1]) * rng.uniform(50, 110)
    if kind > 0.87:
        angle = rng.uniform(120, 240)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
