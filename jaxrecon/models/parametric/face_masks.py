"""Semantic masks of a head model that has none, drawn from its 68 landmarks on the mean head.

Rough where masks drawn by hand are exact (ears above all); they make any model in the loader's
layout usable. Frame and unit of head models: x to the subject's left, y up, z out, millimetres.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

MASKS = ("lips", "brows", "scalp", "ears", "beard", "blush", "under_eye", "iris", "pupil")
"""Names of the regions: `mask_NAME` in a head model's file."""


def inside_polygon(
    points: Float[np.ndarray, "n 2"], corners: Float[np.ndarray, "c 2"]
) -> np.ndarray:
    """Whether points (n,) lie in a simple polygon (even-odd rule)."""
    inside = np.zeros(len(points), bool)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (a[1] > points[:, 1]) != (b[1] > points[:, 1])
        if a[1] != b[1]:
            x = a[0] + (points[:, 1] - a[1]) * (b[0] - a[0]) / (b[1] - a[1])
            inside ^= crosses & (points[:, 0] < x)
    return inside


def distance_to_line(
    points: Float[np.ndarray, "n 3"], line: Float[np.ndarray, "c 3"]
) -> np.ndarray:
    """Distances (n,) of points to an open polyline."""
    best = np.full(len(points), np.inf)
    for a, b in zip(line[:-1], line[1:], strict=True):
        d = b - a
        s = np.clip((points - a) @ d / max(float(d @ d), 1e-12), 0, 1)
        best = np.minimum(best, np.linalg.norm(points - a - s[:, None] * d, axis=1))
    return best


def masks_from_landmarks(
    mean: Float[np.ndarray, "v 3"], marks: Float[np.ndarray, "68 3"]
) -> dict[str, np.ndarray]:
    """Masks in {0, 1} over the vertices.

    Args:
        mean: vertices of the mean head, mm.
        marks: its landmarks, Multi-PIE order.

    Returns:
        float32 (v,) arrays: the masks that `procedural_albedo.surface_from_arrays` takes, and
        `eye`, the openings of the eyes.
    """
    x, y, z = mean.T
    front = mean[:, :2]
    brow, chin, nose = marks[17:27, 1].mean(), marks[8, 1], marks[33]
    eyes = [marks[36:42], marks[42:48]]
    height = brow - chin
    side, temple = np.abs(marks[[0, 16], 0]).mean(), marks[[0, 16], 2].mean()

    lip_depth = marks[48:60, 2].min() - 0.1 * height
    lips = inside_polygon(front, marks[48:60, :2]) & (z > lip_depth)
    brows = np.minimum(
        distance_to_line(mean, marks[17:22]), distance_to_line(mean, marks[22:27])
    ) < (0.035 * height)
    eye = np.any([inside_polygon(front, e[:, :2]) & (z > e[:, 2].min() - 10) for e in eyes], axis=0)
    # The hair line: high at the forehead, down to the temples, behind the ears down to the nape.
    forward = np.clip((z - temple) / max(float(marks[27, 2] - temple), 1.0), 0, 1)
    hair_line = brow + 0.42 * height * forward
    scalp = (y > hair_line) | ((z < temple - 0.12 * height) & (y > nose[1] - 0.1 * height))
    about_ear = (z < temple) & (z > temple - 0.45 * height)
    about_ear &= (y < brow - 0.1 * height) & (y > nose[1] - 0.06 * height)
    ears = about_ear & (np.abs(x) > 1.02 * side)
    jaw = np.interp(z, *_jaw_line(marks))
    beard = (y < nose[1]) & (y > jaw - 0.1 * height) & (z > temple + 0.1 * height) & ~lips

    def disc(centre, radius):
        return np.linalg.norm(mean - centre, axis=1) < radius * height

    centres = [e.mean(0) for e in eyes]
    cheeks = [
        0.5 * (c + marks[i]) + [0, -0.08 * height, 0] for c, i in zip(centres, (4, 12), strict=True)
    ]
    below = [c - np.array([0, 0.09 * height, 0]) for c in centres]
    masks = {
        "lips": lips,
        "brows": brows,
        "scalp": scalp & ~about_ear,
        "ears": ears,
        "beard": beard,
        "blush": disc(cheeks[0], 0.14) | disc(cheeks[1], 0.14),
        "under_eye": (disc(below[0], 0.1) | disc(below[1], 0.1)) & ~eye,
        "iris": disc(centres[0], 0.05) | disc(centres[1], 0.05),
        "pupil": disc(centres[0], 0.022) | disc(centres[1], 0.022),
    }
    assert set(masks) == set(MASKS)
    return {name: mask.astype(np.float32) for name, mask in (masks | {"eye": eye}).items()}


def _jaw_line(marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(z, y) from the jaw's angle to the chin, z ascending, mean of left and right."""
    line = 0.5 * (marks[3:9] + marks[13:7:-1])[:, 1:]
    y, z = line[np.argsort(line[:, 1], kind="stable")].T
    return z, y


def below_jaw(mean: Float[np.ndarray, "v 3"], marks: Float[np.ndarray, "68 3"]) -> np.ndarray:
    """How far below the jaw line points are, seen from the side: positive is neck.

    Args:
        mean: (v, 3) points, mm.
        marks: the 68 landmarks of the same head, of which the jaw's from its angle to the chin (3
            to 13) are used, the mean of left and right; behind the angle the line stays level.

    Returns:
        (v,) mm.
    """
    return np.interp(mean[:, 2], *_jaw_line(marks)) - mean[:, 1]
