"""The scaled orthographic view of a few known points: the linear solve with which a face is found
in a picture (DeMenthon & Davis 1995, the first step of POS).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def scaled_orthography(
    p_image: Float[np.ndarray, "n 2"], x_object: Float[np.ndarray, "n 3"]
) -> tuple[float, Float[np.ndarray, "2"]]:
    """(s, t) of p = s R_2 x + t, from the best affine map of the points to the image.

    Each row of that map is free: s is the mean of their lengths, and they need not be orthogonal.

    Args:
        p_image: at least four points in the image, y up where y of the object is up.
        x_object: the same points of the object, not in one plane.

    Returns:
        (image units per object unit, image of the object's origin), float64.

    Raises:
        ValueError: too few points, or points in one plane, which leave the map open.
    """
    x = np.concatenate([x_object, np.ones((len(x_object), 1))], axis=1, dtype=np.float64)
    rows, _, rank, _ = np.linalg.lstsq(x, np.asarray(p_image, np.float64), rcond=None)
    if rank < 4:
        raise ValueError("a scaled orthographic view of fewer than four points or a flat object")
    scale = 0.5 * float(np.linalg.norm(rows[:3], axis=0).sum())
    return scale, rows[3]
